"""Opens the connections to a replica of a service, with TLS as configured, and reports when our
certificates change.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc

from mesh.connections import Connections
from mesh.discovery import Endpoint
from mesh.logs import get_logger
from mesh.settings import MeshSettings
from mesh.transport import (
    CLIENT_OPTIONS,
    certificate_name,
    may_speak_plaintext,
    reloaded_client_credentials,
)

LOOK_SECONDS = 2.0  # between two checks of our certificates

log = get_logger()


class Connector:
    """Makes the channels to a service. Raises ValueError or OSError for unusable certificates."""

    def __init__(self, service: str, settings: MeshSettings) -> None:
        self._service = service
        self._settings = settings
        self._credentials = reloaded_client_credentials(settings)

    def connect(self, endpoint: Endpoint) -> Connections | None:
        """The connections to a replica; None where tokens would be sent unencrypted."""
        options = [
            *CLIENT_OPTIONS,
            ("grpc.primary_user_agent", f"paymesh-{self._settings.service}"),
        ]
        if self._credentials is not None:
            options.append(("grpc.ssl_target_name_override", certificate_name(self._service)))
            credentials = self._credentials
            return Connections(
                lambda: grpc.aio.secure_channel(str(endpoint), credentials.get(), options=options)
            )
        if not may_speak_plaintext(self._settings, endpoint.host):
            log.error("plaintext_refused", target=self._service, endpoint=str(endpoint))
            return None
        return Connections(lambda: grpc.aio.insecure_channel(str(endpoint), options=options))

    async def follow_certificates(self, changed: Callable[[], None]) -> None:
        """Calls `changed` whenever our certificates were replaced, because a channel keeps those
        that it was made with. Returns at once without TLS.
        """
        if self._credentials is None:
            return
        version = self._credentials.version
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self._credentials.get()
            if self._credentials.version != version:
                version = self._credentials.version
                changed()

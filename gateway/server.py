"""The gateway's port: uvicorn with our limits, on a socket of its own, stopped by its owner.
uvicorn's own signal handlers and log settings stay out of it."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
from typing import Any, Final

import uvicorn

from gateway.acceptor import Acceptor
from gateway.app import Gateway
from gateway.connection_limits import ConnectionLimits
from gateway.protocol import with_limits
from gateway.settings import GatewaySettings
from mesh.certificate_files import CertificatePaths, https_context
from mesh.http_server import HttpServer
from mesh.logs import get_logger

_BACKLOG: Final = 4096
# connections above connections_max that are told so; others are closed without a word
_REFUSED_MAX: Final = 1000

log = get_logger()


class GatewayServer:
    """Serves a gateway. `start`, `stop`."""

    def __init__(self, gateway: Gateway, settings: GatewaySettings) -> None:
        self._gateway = gateway
        self._settings = settings
        limits = ConnectionLimits(
            head_bytes_max=settings.head_bytes_max,
            head_seconds=settings.request_head_seconds,
            body_seconds=settings.request_body_seconds,
            stalled_seconds=settings.stalled_answer_seconds,
            connections_max=settings.connections_max,
            overloaded=gateway.overloaded,
            error_renderer=gateway.error_renderer,
        )
        # What strangers send must not fill the log: uvicorn warns about each broken request.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        self._server = HttpServer(
            uvicorn.Config(
                gateway,
                http=with_limits(limits),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=bool(settings.trusted_proxies),
                forwarded_allow_ips=settings.trusted_proxies,
                timeout_keep_alive=math.ceil(settings.keep_alive_seconds),
                timeout_graceful_shutdown=math.ceil(settings.grace_seconds),
                ssl_certfile=settings.https_cert_file,
                ssl_keyfile=settings.https_key_file,
            )
        )
        self._task: asyncio.Task[None] | None = None
        self._acceptor: Acceptor | None = None
        self.port = 0

    @property
    def keep_alive_seconds(self) -> int:
        """How long an idle connection is kept."""
        return self._server.config.timeout_keep_alive

    async def start(self) -> None:
        """Opens the port and serves.

        Raises:
            OSError: the port is taken, or a certificate cannot be read.
        """
        config, state = self._server.config, self._server.server_state
        config.load()
        listener = _listen(self._settings.host, self._settings.port)
        self.port = listener.getsockname()[1]
        self._server.lifespan = config.lifespan_class(config)
        self._server.servers = []  # it has no listener of its own

        protocol: Any = config.http_protocol_class

        def connection() -> asyncio.Protocol:
            made: asyncio.Protocol = protocol(config=config, server_state=state, app_state={})
            return made

        certificate, key = self._settings.https_cert_file, self._settings.https_key_file
        tls = None
        if config.ssl is not None and certificate is not None and key is not None:
            tls = https_context(config.ssl, CertificatePaths(cert=certificate, key=key))
        self._acceptor = Acceptor(
            listener,
            connection,
            tls=tls,
            handshake_seconds=self._settings.request_head_seconds,
            has_room=lambda: len(state.connections) < self._settings.connections_max + _REFUSED_MAX,
        )
        self._task = asyncio.create_task(self._server.main_loop())
        log.info("serving", host=self._settings.host, port=self.port)

    async def stop(self) -> None:
        """Says that it is not ready, waits until load balancers know, ends streams, lets running
        requests end, closes. Idempotent."""
        if self._task is None or self._acceptor is None or self._gateway.health.stopping:
            return
        self._gateway.health.stopping = True
        await asyncio.sleep(self._settings.drain_seconds)
        self._gateway.streams.end()
        self._server.stop()
        await self._acceptor.close()
        await self._task
        await self._server.shutdown()
        log.info("stopped", port=self.port)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    listener.settimeout(0)
    return listener

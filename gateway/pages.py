"""The few paths that belong to the gateway itself: is the process alive, can it reach everybody, what does the contract say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from gateway.answers import JSON, Answer, envelope
from gateway.doors import Upstream
from gateway.intake import Receive, Request
from mesh.errors import Unavailable
from mesh.wire_errors import COMMON

_RETRY_SECONDS: Final = 1.0


class Page:
    """A path that answers from this process alone."""

    package = COMMON

    def __init__(self, route: str, answer: Callable[[Request], Answer]) -> None:
        self.route = route
        self._answer = answer

    async def serve(self, request: Request, receive: Receive, values: tuple[bytes, ...]) -> Answer:  # noqa: ARG002  the shape of every target
        """The answer."""
        return self._answer(request)


class Health:
    """What load balancers and supervisors ask."""

    def __init__(self, upstreams: Mapping[str, Upstream]) -> None:
        self._upstreams = upstreams
        self.stopping = False

    def alive(self, request: Request) -> Answer:
        """200 as long as this process answers at all."""
        return Answer(200, envelope({"status": "UP"}, request.trace.trace_id))

    def ready(self, request: Request) -> Answer:
        """200 when every service behind us has a live replica.

        Raises:
            Unavailable: one has none, or this process is stopping; its metadata names them.
        """
        away = [service for service, upstream in sorted(self._upstreams.items()) if not upstream.is_ready]
        if self.stopping:
            raise Unavailable("The gateway is stopping.", retry_after_seconds=_RETRY_SECONDS)
        if away:
            raise Unavailable(f"No live replica of {', '.join(away)}.", retry_after_seconds=_RETRY_SECONDS, services=",".join(away))
        return Answer(200, envelope({"status": "READY", "services": sorted(self._upstreams)}, request.trace.trace_id))


def document_page(document: Mapping[str, object]) -> Page:
    """/openapi.json, encoded once."""
    body = msgspec.json.encode(document)
    return Page("/openapi.json", lambda _request: Answer(200, body, content_type=JSON))

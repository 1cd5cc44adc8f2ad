"""Routes that this process answers alone: is it alive, and which services can it reach."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import parse_qsl

from gateway.handlers import Upstream
from gateway.request import Receive, Request
from gateway.responses import Response, envelope
from mesh.errors import InvalidArgument, Unavailable
from mesh.wire_errors import COMMON

_RETRY_SECONDS: Final = 1.0
_SERVICES_MAX: Final = 20  # that one question may name


class BuiltinRoute:
    """A route that this process answers alone."""

    package = COMMON

    def __init__(self, route: str, answer: Callable[[Request], Response]) -> None:
        self.route = route
        self._answer = answer

    async def serve(
        self,
        request: Request,
        receive: Receive,  # noqa: ARG002  the shape of every handler
        values: tuple[bytes, ...],  # noqa: ARG002
    ) -> Response:
        """The answer."""
        return self._answer(request)


class Health:
    """Liveness and readiness, for load balancers and supervisors."""

    def __init__(self, upstreams: Mapping[str, Upstream]) -> None:
        self._upstreams = upstreams
        self.stopping = False

    def alive(self, request: Request) -> Response:
        """200 as long as this process answers at all."""
        return Response(200, envelope({"status": "UP"}, request.trace.trace_id))

    def ready(self, request: Request) -> Response:
        """200 while at least one service can be reached, with the state of each. `?service=NAME`,
        once or several times, asks for these services: 200 when each has a live replica.

        Raises:
            Unavailable: no service has a live replica, or one that was asked for has none, or this
                process is stopping; its metadata has the state of each. InvalidArgument: the query
                asks for something else.
        """
        states = {
            service: "READY" if upstream.is_ready else "AWAY"
            for service, upstream in sorted(self._upstreams.items())
        }
        asked = self._asked(request.query)
        if self.stopping:
            raise _not_ready("The gateway is stopping.", dict.fromkeys(states, "STOPPING"))
        away = [service for service in asked or states if states[service] == "AWAY"]
        if away and (asked or len(away) == len(states)):
            raise _not_ready(f"No live replica of {', '.join(away)}.", states)
        status = "READY" if "AWAY" not in states.values() else "DEGRADED"
        return Response(
            200, envelope({"status": status, "services": states}, request.trace.trace_id)
        )

    def _asked(self, query: bytes) -> list[str]:
        try:
            pairs = parse_qsl(
                query.decode("ascii"), keep_blank_values=True, max_num_fields=_SERVICES_MAX
            )
        except ValueError:
            pairs = [("", "")]
        if any(name != "service" or value not in self._upstreams for name, value in pairs):
            raise InvalidArgument.of("service", f"is one of {', '.join(sorted(self._upstreams))}")
        return [value for _, value in pairs]


def _not_ready(message: str, states: Mapping[str, str]) -> Unavailable:
    refusal = Unavailable(message, retry_after_seconds=_RETRY_SECONDS)
    refusal.metadata = dict(states)
    return refusal

"""What the gateway tells about its requests: Prometheus series by route template, and one line per request. Neither has a path, a query string, a
header or a body in it, because any of these may hold what must stay secret."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Final, TextIO

import msgspec
from prometheus_client import Counter, Gauge, Histogram

from gateway.intake import Request
from mesh.clock import Clock

_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_REQUESTS: Final = Counter("paymesh_gateway_requests_total", "Requests that ended, by route and status.", ["route", "verb", "status"])
_SECONDS: Final = Histogram("paymesh_gateway_request_seconds", "Time from the headers to the answer.", ["route", "verb"], buckets=_BUCKETS)
IN_FLIGHT: Final = Gauge("paymesh_gateway_in_flight", "Requests that run now.")
_VERBS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class _Series:
    """The series of one route and verb, with children bound once."""

    __slots__ = ("_labels", "_observe", "_statuses")

    def __init__(self, route: str, verb: str) -> None:
        self._labels = (route, verb)
        self._observe: Callable[[float], None] = _SECONDS.labels(route, verb).observe
        self._statuses: dict[int, Callable[[], None]] = {}

    def ended(self, status: int, seconds: float) -> None:
        count = self._statuses.get(status)
        if count is None:
            count = self._statuses[status] = _REQUESTS.labels(*self._labels, str(status)).inc
        count()
        self._observe(seconds)


class _Line(msgspec.Struct, frozen=True):
    event: str
    level: str
    service: str
    timestamp: datetime
    verb: str
    route: str
    status: int
    ms: float
    role: str
    subject: str
    client: str
    request_id: str
    trace_id: str
    refusal: str


class Telemetry:
    """Counts and writes."""

    def __init__(self, *, clock: Clock, service: str = "gateway", log_level: str = "INFO", stream: TextIO | None = None) -> None:
        self._clock = clock
        self._service = service
        self._silent = logging.getLevelNamesMapping()[log_level] > logging.INFO
        self._stream = stream or sys.stderr
        self._encode = msgspec.json.Encoder().encode
        self._series: dict[tuple[str, str], _Series] = {}

    def ended(self, request: Request, *, route: str, status: int, refusal: str, seconds: float) -> None:
        """A request was answered, or its client went away (status 499). `route` is the template; "" for paths that we do not know."""
        verb = request.method if request.method in _VERBS else "OTHER"  # the client chooses the verb; series have an end
        series = self._series.get((route, verb))
        if series is None:
            series = self._series[route, verb] = _Series(route, verb)
        series.ended(status, seconds)
        if not self._silent:
            caller = request.caller
            line = _Line("request", "info", self._service, self._clock.now(), verb, route, status, round(seconds * 1000, 3), caller.role.value,
                         caller.subject, request.client, request.request_id, request.trace.trace_id, refusal)
            self._stream.write(self._encode(line).decode() + "\n")

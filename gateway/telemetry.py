"""What the gateway tells about its requests: Prometheus series by route template, and one line per
request. Neither has a path, a query string, a header or a body in it, because any of these may hold
what must stay secret."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from bisect import bisect_left
from collections.abc import Iterator
from datetime import datetime
from itertools import accumulate
from typing import Final, TextIO

import msgspec
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from gateway.intake import Request
from mesh.clock import Clock

_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_BOUNDS: Final = (*(str(bound) for bound in _BUCKETS), "+Inf")
_FLUSH_SECONDS: Final = 0.1
_FLUSH_LINES: Final = 100
_VERBS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# asked every few seconds by somebody whose log says what was answered
_PROBES: Final = frozenset({"/healthz", "/readyz"})


class _Series:
    """One route and verb. Plain numbers: one loop touches them, so the locks of prometheus_client
    (a tenth of our own time) are not needed.
    """

    __slots__ = ("buckets", "seconds", "statuses")

    def __init__(self) -> None:
        self.statuses: dict[int, int] = {}
        self.buckets = [0] * len(_BOUNDS)
        self.seconds = 0.0

    def ended(self, status: int, seconds: float) -> None:
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self.buckets[bisect_left(_BUCKETS, seconds)] += 1
        self.seconds += seconds


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


class Telemetry(Collector):
    """Counts and writes. Register it with the registry that the metrics port shows."""

    def __init__(
        self,
        *,
        clock: Clock,
        service: str = "gateway",
        log_level: str = "INFO",
        stream: TextIO | None = None,
    ) -> None:
        self._clock = clock
        self._service = service
        level = logging.getLevelNamesMapping()[log_level]
        self._silent = level > logging.INFO
        self._tells_probes = level <= logging.DEBUG
        self._stream = stream or sys.stderr
        self._encode = msgspec.json.Encoder().encode
        self._series: dict[tuple[str, str], _Series] = {}
        self._lines: list[bytes] = []
        self.running = 0
        self.streams = 0

    def ended(
        self, request: Request, *, route: str, status: int, refusal: str, seconds: float
    ) -> None:
        """A running request was answered, or its client went away (status 499). `route` is the
        template; "" for paths that we do not know.
        """
        self.running -= 1
        # the client chooses the verb; series have an end
        verb = request.method if request.method in _VERBS else "OTHER"
        series = self._series.get((route, verb))
        if series is None:
            series = self._series[route, verb] = _Series()
        series.ended(status, seconds)
        probe = route in _PROBES
        if not self._silent and (self._tells_probes or not probe):
            caller = request.caller
            level = "debug" if probe else "info"
            self._keep(
                _Line(
                    "request",
                    level,
                    self._service,
                    self._clock.now(),
                    verb,
                    route,
                    status,
                    round(seconds * 1000, 3),
                    caller.role.value,
                    caller.subject,
                    request.client,
                    request.request_id,
                    request.trace.trace_id,
                    refusal,
                )
            )

    def _keep(self, line: _Line) -> None:
        """Lines are written some at a time: a system call for each costs more than everything else
        here, because it gives up the interpreter.
        """
        if not self._lines:
            asyncio.get_running_loop().call_later(_FLUSH_SECONDS, self.flush)
        self._lines.append(self._encode(line))
        if len(self._lines) >= _FLUSH_LINES:
            self.flush()

    def flush(self) -> None:
        """Writes the lines that wait. A reader of the log that went away costs the lines, never a
        request or memory.
        """
        if self._lines:
            lines = b"\n".join([*self._lines, b""]).decode()
            self._lines.clear()
            with contextlib.suppress(OSError, ValueError):  # ValueError: the stream is closed
                self._stream.write(lines)
                self._stream.flush()

    def collect(self) -> Iterator[Metric]:
        """The series, for a scrape."""
        yield GaugeMetricFamily(
            "paymesh_gateway_in_flight", "Requests that run now.", value=self.running
        )
        yield GaugeMetricFamily(
            "paymesh_gateway_open_streams",
            "Requests among them whose answer is a stream.",
            value=self.streams,
        )
        requests = CounterMetricFamily(
            "paymesh_gateway_requests",
            "Requests that ended, by route and status.",
            labels=["route", "verb", "status"],
        )
        seconds = HistogramMetricFamily(
            "paymesh_gateway_request_seconds",
            "Time from the headers to the answer.",
            labels=["route", "verb"],
        )
        for (route, verb), series in self._series.items():
            for status, count in series.statuses.items():
                requests.add_metric([route, verb, str(status)], count)
            seconds.add_metric(
                [route, verb],
                list(zip(_BOUNDS, accumulate(series.buckets), strict=True)),
                series.seconds,
            )
        yield requests
        yield seconds

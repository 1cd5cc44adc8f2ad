"""Metrics and the access log of the gateway: series by route template, and one line per request.
Neither holds a path, a query string, a header or a body, because any of these may hold a secret.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import datetime
from typing import Final, TextIO

import msgspec
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from gateway.request import Request
from mesh.clock import Clock
from mesh.logs import LineBuffer
from mesh.metrics import CallMetrics

_LINES_MAX: Final = 100  # that wait to be written
_VERBS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# asked every few seconds by a load balancer, which logs the answers itself
_PROBES: Final = frozenset({"/healthz", "/readyz"})


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
    """Counts requests and logs them. Register it with the registry of the metrics port."""

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
        self._logs_probes = level <= logging.DEBUG
        encode = msgspec.json.Encoder().encode
        self._lines: LineBuffer[_Line] = LineBuffer(
            lambda lines: map(encode, lines), lines_max=_LINES_MAX, stream=stream
        )
        self._series: dict[tuple[str, str], CallMetrics] = {}
        self.running = 0
        self.streams = 0

    def ended(
        self, request: Request, *, route: str, status: int, refusal: str, seconds: float
    ) -> None:
        """A running request was answered, or its client went away (status 499). `route` is the
        template; "" for unknown paths.
        """
        self.running -= 1
        # the client chooses the verb; series have an end
        verb = request.method if request.method in _VERBS else "OTHER"
        series = self._series.get((route, verb))
        if series is None:
            series = self._series[route, verb] = CallMetrics()
        series.ended(status, seconds)
        probe = route in _PROBES
        if not self._silent and (self._logs_probes or not probe):
            caller = request.caller
            level = "debug" if probe else "info"
            self._lines.add(
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

    def flush(self) -> None:
        """Writes the lines that wait."""
        self._lines.flush()

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
            for status, count in series.codes.items():
                requests.add_metric([route, verb, str(status)], count)
            series.add_seconds(seconds, [route, verb])
        yield requests
        yield seconds

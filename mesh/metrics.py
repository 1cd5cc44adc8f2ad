"""Serves the metrics of a process: the series of inbound and outbound calls, and the port on which
a scraper reads the registry.

A call updates plain numbers of its method; metric families are made per scrape. Metric objects of
prometheus_client would cost each call ten function calls and as many locks. The port is served on
the event loop of the process: no number changes during a scrape, and when the loop hangs the scrape
fails.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import IntEnum
from itertools import accumulate
from typing import Final

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from mesh.wire_errors import STATUS_CODES

REQUEST_SECONDS_MAX = 5.0  # a slower scraper is disconnected
REQUEST_BYTES_MAX = 16384

_BOUNDS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
CLIENT_REPLICAS: Final = Gauge("paymesh_client_replicas", "Replicas that take calls.", ["target"])
CLIENT_EJECTIONS: Final = Counter(
    "paymesh_client_ejections_total",
    "Replicas that were left out for a while after failures.",
    ["target"],
)


class CallMetrics:
    """The numbers of one method. The calling code increments `begun` and `retried`."""

    __slots__ = ("begun", "buckets", "codes", "done", "retried", "seconds")

    def __init__(self) -> None:
        self.begun = 0
        self.done = 0
        self.retried = 0
        self.seconds = 0.0
        self.buckets = [0] * (len(_BOUNDS_SECONDS) + 1)
        self.codes: dict[int, int] = {}

    def ended(self, code: int, seconds: float) -> None:
        """Counts a call that ended with a gRPC code, or a request with an HTTP status."""
        self.done += 1
        self.seconds += seconds
        self.buckets[bisect_left(_BOUNDS_SECONDS, seconds)] += 1
        self.codes[code] = self.codes.get(code, 0) + 1

    def add_seconds(self, family: HistogramMetricFamily, labels: Sequence[str]) -> None:
        """Adds the durations to a family."""
        bounds = [*map(str, _BOUNDS_SECONDS), "+Inf"]
        buckets = list(zip(bounds, accumulate(self.buckets), strict=True))
        family.add_metric(labels, buckets, self.seconds)


class CallSeries(Collector):
    """The numbers of every method on one side, as a collector. Children are made once per method
    and shared by all users of the same name.
    """

    def __init__(self, side: str, peer: str) -> None:
        """`side` is "server" or "client", `peer` the name of the first label; the second is
        "method".
        """
        self._side = side
        self._labels = [peer, "method"]
        self._methods: dict[tuple[str, str], CallMetrics] = {}

    def of(self, peer: str, method: str) -> CallMetrics:
        """The numbers of one method."""
        return self._methods.setdefault((peer, method), CallMetrics())

    def describe(self) -> Iterable[Metric]:
        """The families without samples."""
        return self._families()

    def collect(self) -> Iterator[Metric]:
        """The families as they are now."""
        handled, seconds, running, retries = self._families()
        for labels, numbers in self._methods.items():
            for code, count in numbers.codes.items():
                handled.add_metric([*labels, STATUS_CODES[code].name], count)
            numbers.add_seconds(seconds, labels)
            running.add_metric(labels, numbers.begun - numbers.done)
            retries.add_metric(labels, numbers.retried)
        yield from (
            (handled, seconds, running, retries)
            if self._side == "client"
            else (handled, seconds, running)
        )

    def _families(
        self,
    ) -> tuple[CounterMetricFamily, HistogramMetricFamily, GaugeMetricFamily, CounterMetricFamily]:
        name = f"paymesh_{self._side}"
        return (
            CounterMetricFamily(
                f"{name}_handled", "Calls that ended, by gRPC code.", labels=[*self._labels, "code"]
            ),
            HistogramMetricFamily(
                f"{name}_handling_seconds",
                "Time until the end of a call, attempts included.",
                labels=self._labels,
            ),
            GaugeMetricFamily(f"{name}_in_flight", "Calls that run now.", labels=self._labels),
            CounterMetricFamily(
                f"{name}_retries", "Second and third attempts.", labels=self._labels
            ),
        )


SERVED: Final = CallSeries("server", "service")
CALLED: Final = CallSeries("client", "target")
REGISTRY.register(SERVED)
REGISTRY.register(CALLED)


class EnumCounter(Collector):
    """A counter by one label with known values. `counts` are plain numbers, which the counting code
    increments.
    """

    def __init__(
        self, name: str, documentation: str, label: str, values: Iterable[IntEnum]
    ) -> None:
        self.counts = dict.fromkeys(values, 0)
        self._family = (name, documentation)
        self._label = label

    def describe(self) -> Iterable[Metric]:
        """The family without samples."""
        return [CounterMetricFamily(*self._family, labels=[self._label])]

    def collect(self) -> Iterator[Metric]:
        """The family as it is now."""
        family = CounterMetricFamily(*self._family, labels=[self._label])
        for value, count in self.counts.items():
            family.add_metric([value.name], count)
        yield family


class MetricsPort:
    """`GET /metrics` on a port of its own, and `GET /readyz` for probes that speak no gRPC: 200
    while the process serves, else 503.
    """

    def __init__(
        self,
        registry: CollectorRegistry = REGISTRY,
        *,
        is_serving: Callable[[], bool] = lambda: True,
    ) -> None:
        self._registry = registry
        self._is_serving = is_serving
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Opens the port; 0 takes any free one, see `port`."""
        self._server = await asyncio.start_server(self._serve, host, port, limit=REQUEST_BYTES_MAX)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Closes the port."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_SECONDS_MAX):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._answer(head.split(b" ", 2)))
                await writer.drain()
        except (
            TimeoutError,
            asyncio.IncompleteReadError,
            asyncio.LimitOverrunError,
            ConnectionError,
        ):
            pass  # a malformed request gets no response
        finally:
            writer.close()

    def _answer(self, request: list[bytes]) -> bytes:
        path = request[1].split(b"?")[0] if request[0] == b"GET" and len(request) >= 3 else b""
        if path == b"/readyz":
            status, body = (
                (b"200 OK", b"serving\n")
                if self._is_serving()
                else (b"503 Service Unavailable", b"not serving\n")
            )
            return (
                b"HTTP/1.1 %s\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: "
                b"%d\r\n\r\n%s" % (status, len(body), body)
            )
        if path != b"/metrics":
            return b"HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        body = generate_latest(self._registry)
        return (
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: %s\r\nContent-Length: "
            b"%d\r\n\r\n%s" % (CONTENT_TYPE_LATEST.encode(), len(body), body)
        )

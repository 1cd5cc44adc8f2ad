"""Metrics of a process: counters of calls in and out in the registry of prometheus_client, and the port on which a scraper reads all of them.

Children are bound once per method and code, not per call. The port is served on the loop of the process: a loop that hangs is a scrape that fails.
"""

from __future__ import annotations

import asyncio
from typing import Final

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from mesh.wire_errors import STATUS_CODES

REQUEST_SECONDS_MAX = 5.0  # a scraper that is slower than this is cut off
REQUEST_BYTES_MAX = 16384

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SERVER_HANDLED = Counter("paymesh_server_handled_total", "Calls that ended, by gRPC code.", ["service", "method", "code"])
_SERVER_SECONDS = Histogram("paymesh_server_handling_seconds", "Time in the server.", ["service", "method"], buckets=_BUCKETS)
_SERVER_RUNNING = Gauge("paymesh_server_in_flight", "Calls that run now.", ["service", "method"])
_CLIENT_HANDLED = Counter("paymesh_client_handled_total", "Calls that ended, by gRPC code.", ["target", "method", "code"])
_CLIENT_SECONDS = Histogram("paymesh_client_handling_seconds", "Time until the answer, attempts included.", ["target", "method"], buckets=_BUCKETS)
_CLIENT_RETRIES = Counter("paymesh_client_retries_total", "Second and third attempts.", ["target", "method"])
CLIENT_REPLICAS: Final = Gauge("paymesh_client_replicas", "Replicas that take calls.", ["target"])
CLIENT_EJECTIONS: Final = Counter("paymesh_client_ejections_total", "Replicas that were left out for a while after failures.", ["target"])


class ServerMethodMetrics:
    """The series of one served method."""

    __slots__ = ("_codes", "_labels", "running", "seconds")

    def __init__(self, service: str, method: str) -> None:
        self._labels = (service, method)
        self._codes: dict[int, Counter] = {}
        self.running = _SERVER_RUNNING.labels(service, method)
        self.seconds = _SERVER_SECONDS.labels(service, method)

    def ended(self, code: int, seconds: float) -> None:
        """A call ended with a gRPC code."""
        counter = self._codes.get(code)
        if counter is None:
            counter = self._codes[code] = _SERVER_HANDLED.labels(*self._labels, STATUS_CODES[code].name)
        counter.inc()
        self.seconds.observe(seconds)


class ClientMethodMetrics:
    """The series of one called method."""

    __slots__ = ("_codes", "_labels", "retries", "seconds")

    def __init__(self, target: str, method: str) -> None:
        self._labels = (target, method)
        self._codes: dict[int, Counter] = {}
        self.retries = _CLIENT_RETRIES.labels(target, method)
        self.seconds = _CLIENT_SECONDS.labels(target, method)

    def ended(self, code: int, seconds: float) -> None:
        """A call ended with a gRPC code."""
        counter = self._codes.get(code)
        if counter is None:
            counter = self._codes[code] = _CLIENT_HANDLED.labels(*self._labels, STATUS_CODES[code].name)
        counter.inc()
        self.seconds.observe(seconds)


class MetricsPort:
    """`GET /metrics` on a port of its own."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._registry = registry
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
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            pass  # a scraper that misbehaves gets nothing
        finally:
            writer.close()

    def _answer(self, request: list[bytes]) -> bytes:
        if request[0] != b"GET" or len(request) < 3 or request[1].split(b"?")[0] != b"/metrics":
            return b"HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        body = generate_latest(self._registry)
        return b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s" % (
            CONTENT_TYPE_LATEST.encode(), len(body), body)

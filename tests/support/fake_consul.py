"""A Consul agent that misbehaves on demand: the handful of endpoints that paymesh uses, with
blocking queries, ACL token and real gRPC health checks, on one loopback port. What it does when
nothing is wrong is held to the real agent by tests/contract/consul/test_consul.py."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mesh.discovery import Endpoint

NO_LEADER = (500, "No cluster leader")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What somebody asked."""

    method: str
    path: str
    query: dict[str, str]
    token: str | None
    body: bytes

    @property
    def is_query(self) -> bool:
        return self.path.startswith("/v1/health/service/")

    @property
    def is_registration(self) -> bool:
        return self.path == "/v1/agent/service/register"

    @property
    def is_withdrawal(self) -> bool:
        return self.path.startswith("/v1/agent/service/deregister/")


@dataclass(slots=True)
class _Service:
    definition: dict[str, Any]
    checks: list[asyncio.Task[None]] = field(default_factory=list)
    passing: list[bool] = field(default_factory=list)

    def stop(self) -> None:
        for check in self.checks:
            check.cancel()


class FakeConsul:
    """The agent. Faults are attributes; set them by `change`, which also wakes the queries that
    wait.

    Attributes:
        token: what a request must show; "" for no access control.
        failure: (status, text) that everything is answered with.
        hangs: whether requests are taken and not answered until this ends.
        holds_registrations: whether registrations alone are.
        hides: whether every list of replicas is empty.
        garbage: body that every list of replicas is answered with.
        leaderless: whether only stale reads are answered.
        last_contact_ms: age that stale reads confess.
        rushes: whether a blocking query is answered at once.
        index: counter of changes.
        requests: everything that was asked, in order.
    """

    def __init__(self, *, token: str = "") -> None:
        self.token = token
        self.failure: tuple[int, str] | None = None
        self.hangs = False
        self.holds_registrations = False
        self.hides = False
        self.garbage: str | None = None
        self.leaderless = False
        self.last_contact_ms = 0
        self.rushes = False
        self.index = 10
        self.requests: list[Request] = []
        self._services: dict[str, _Service] = {}
        # outlives a registration: nobody promises that replacing checks ends it
        self._maintenance: set[str] = set()
        self._disturbances = 0
        self._happened = asyncio.Condition()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._port = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    async def start(self) -> Self:
        """Listens, if it does not yet; after `stop`, on the same port again."""
        if self._server is None:
            self._server = await asyncio.start_server(self._connected, "127.0.0.1", self._port)
            self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        """Refuses connections and cuts those that are there. What was registered stays."""
        if self._server is not None:
            self._server.close()
            for connection in self._connections:
                connection.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)
            self._server = None

    async def destroy(self) -> None:
        """Stops and ends every health check."""
        await self.stop()
        await self.forget()

    async def change(self, **faults: Any) -> None:
        """Sets attributes and wakes the queries that wait."""
        for name, value in faults.items():
            assert hasattr(self, name), name
            setattr(self, name, value)
        self._disturbances += 1
        await self._notify()

    async def replace(self, service: str, *addresses: str) -> None:
        """Makes these the replicas of a service, passing, without health checks."""
        for service_id in [
            known for known, entry in self._services.items() if entry.definition["Name"] == service
        ]:
            self._services.pop(service_id).stop()
        for endpoint in map(Endpoint.parse, addresses):
            self._services[f"{service}-{endpoint}"] = _Service(
                {
                    "ID": f"{service}-{endpoint}",
                    "Name": service,
                    "Address": endpoint.host,
                    "Port": endpoint.port,
                }
            )
        self.index += 1
        await self._notify()

    async def forget(self) -> None:
        """Knows no service any more, as after the loss of the agent's data."""
        services, self._services = self._services, {}
        for service in services.values():
            service.stop()
        await asyncio.gather(
            *(check for service in services.values() for check in service.checks),
            return_exceptions=True,
        )
        self.index += 1
        await self._notify()

    def matching(self, condition: Callable[[Request], bool]) -> list[Request]:
        """The requests so far that fulfil a condition."""
        return [request for request in self.requests if condition(request)]

    async def received(
        self, condition: Callable[[Request], bool], *, count: int = 1, timeout_seconds: float = 10
    ) -> list[Request]:
        """Waits until `count` requests fulfil a condition."""
        async with asyncio.timeout(timeout_seconds), self._happened:
            await self._happened.wait_for(lambda: len(self.matching(condition)) >= count)
        return self.matching(condition)

    async def _notify(self) -> None:
        async with self._happened:
            self._happened.notify_all()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    request = await _read(reader)
                    self.requests.append(request)
                    await self._notify()
                    status, headers, body = await self._answer(request)
                    _write(writer, status, headers, body)
                    await writer.drain()
        # by `stop`; asyncio would report it as an error of the server
        except asyncio.CancelledError:
            pass
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _answer(self, request: Request) -> tuple[int, dict[str, str], str]:
        async with self._happened:
            await self._happened.wait_for(
                lambda: not (self.hangs or (self.holds_registrations and request.is_registration))
            )
        if self.failure is not None:
            return self.failure[0], {}, self.failure[1]
        if self.token and request.token != self.token:
            return 403, {}, "Permission denied"
        *_, kind, name = request.path.split("/")
        match (request.method, kind):
            case "GET", "service" if request.is_query:
                return await self._passing(name, request.query)
            case "GET", "service":
                service = self._services.get(name)
                return (
                    (404, {}, "unknown service ID")
                    if service is None
                    else (200, {}, json.dumps(service.definition))
                )
            case "PUT", "service" if name == "register":
                await self._register(
                    json.loads(request.body), replace="replace-existing-checks" in request.query
                )
                return 200, {}, ""
            case "PUT", "deregister":
                if (gone := self._services.pop(name, None)) is not None:
                    gone.stop()
                    self.index += 1
                    await self._notify()
                return 200, {}, ""
            case "PUT", "maintenance":
                if name not in self._services:
                    return 404, {}, "No service registered"
                (
                    self._maintenance.add
                    if request.query["enable"] == "true"
                    else self._maintenance.discard
                )(name)
                self.index += 1
                await self._notify()
                return 200, {}, ""
            case _:
                return 405, {}, f"the fake does not know {request.method} {request.path}"

    async def _passing(self, name: str, query: dict[str, str]) -> tuple[int, dict[str, str], str]:
        assert query["passing"] == "1"
        known = int(query.get("index", "0"))
        before = self._disturbances
        if known and not self.rushes:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_seconds(query["wait"])), self._happened:
                    await self._happened.wait_for(
                        lambda: self.index > known or self._disturbances > before
                    )
        async with self._happened:
            await self._happened.wait_for(lambda: not self.hangs)
        if self.failure is not None:
            return self.failure[0], {}, self.failure[1]
        is_stale = "stale" in query
        if self.leaderless and not is_stale:
            return NO_LEADER[0], {}, NO_LEADER[1]
        found = (
            []
            if self.hides
            else [
                entry
                for service_id, entry in self._services.items()
                if entry.definition["Name"] == name
                and all(entry.passing)
                and service_id not in self._maintenance
            ]
        )
        body = (
            self.garbage
            if self.garbage is not None
            else json.dumps(
                [
                    {
                        "Node": {"Node": "fake", "Address": "127.0.0.1"},
                        "Service": {
                            "ID": entry.definition["ID"],
                            "Service": name,
                            "Address": entry.definition["Address"],
                            "Port": entry.definition["Port"],
                            "Meta": entry.definition.get("Meta", {}),
                        },
                        "Checks": [],
                    }
                    for entry in found
                ]
            )
        )
        return (
            200,
            {
                "X-Consul-Index": str(self.index),
                "X-Consul-KnownLeader": str(not self.leaderless).lower(),
                "X-Consul-LastContact": str(self.last_contact_ms if is_stale else 0),
            },
            body,
        )

    async def _register(self, definition: dict[str, Any], *, replace: bool) -> None:
        previous = self._services.get(definition["ID"])
        service = _Service(definition)
        if previous is not None:
            previous.stop()
            # as the real one: checks of the registration before stay beside the new ones
            if not replace:
                service.passing += previous.passing
        self._services[definition["ID"]] = service
        for check in definition["Checks"]:
            service.passing.append(False)  # critical until the first check passes
            service.checks.append(
                asyncio.create_task(self._check(service, check, number=len(service.passing) - 1))
            )
        self.index += 1
        await self._notify()

    async def _check(self, service: _Service, check: dict[str, Any], *, number: int) -> None:
        target, _, grpc_service = check["GRPC"].partition("/")
        assert not check["GRPCUseTLS"], "the fake checks in plaintext"
        failures = 0
        async with grpc.aio.insecure_channel(
            target, options=[("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            while True:
                try:
                    answer = await stub.Check(
                        health_pb2.HealthCheckRequest(service=grpc_service),
                        timeout=_seconds(check["Timeout"]),
                    )
                    passes = answer.status == health_pb2.HealthCheckResponse.SERVING
                except grpc.aio.AioRpcError:
                    passes = False
                failures = 0 if passes else failures + 1
                now = passes or (
                    service.passing[number] and failures < check.get("FailuresBeforeCritical", 0)
                )
                if now != service.passing[number]:
                    service.passing[number] = now
                    self.index += 1
                    await self._notify()
                await asyncio.sleep(_seconds(check["Interval"]))


@contextlib.asynccontextmanager
async def fake_consul(*, token: str = "") -> AsyncIterator[FakeConsul]:
    """Runs a fake agent."""
    fake = FakeConsul(token=token)
    try:
        yield await fake.start()
    finally:
        await fake.destroy()


async def _read(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    method, target, _ = head[0].split(" ")
    headers = {
        name.lower(): value
        for name, _, value in (line.partition(": ") for line in head[1:] if line)
    }
    url = urlsplit(target)
    return Request(
        method=method,
        path=unquote(url.path),
        query=dict(parse_qsl(url.query, keep_blank_values=True)),
        token=headers.get("x-consul-token"),
        body=await reader.readexactly(int(headers.get("content-length", "0"))),
    )


def _write(writer: asyncio.StreamWriter, status: int, headers: dict[str, str], body: str) -> None:
    lines = [
        f"HTTP/1.1 {status} Fake",
        *(f"{name}: {value}" for name, value in headers.items()),
        f"Content-Length: {len(body.encode())}",
    ]
    writer.write("\r\n".join([*lines, "", body]).encode())


def _seconds(duration: str) -> float:
    number = duration.rstrip("ms")
    return float(number) * _UNITS[duration.removeprefix(number)]

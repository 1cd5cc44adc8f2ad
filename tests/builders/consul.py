"""What tests about Consul have on stage: servers with a health service, registrars, discoveries and
an operator, on one agent, real or not.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from mesh.discovery import Endpoint, Watch
from mesh.discovery.consul import ConsulDiscovery
from mesh.discovery.consul_registrar import ConsulRegistrar
from mesh.discovery.consul_transport import AsyncConsul
from tests.support.fake_consul import FakeConsul

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
GRPC_SERVICE = "paymesh.test.v1.TestService"
TOKEN = "3f0c1c8e-8a53-4f0e-9d8e-0c4be4c07a11"
META = {"version": "1.2.3", "metrics_port": "9100"}


class CountingHealth(health.aio.HealthServicer):
    """A health service that tells how often it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self._count = 0
        self._asked = asyncio.Condition()

    async def Check(self, request, context):
        async with self._asked:
            self._count += 1
            self._asked.notify_all()
        return await super().Check(request, context)

    async def asked(self, *, times: int) -> None:
        """Waits until it was asked that many times more."""
        goal = self._count + times
        async with asyncio.timeout(15), self._asked:
            await self._asked.wait_for(lambda: self._count >= goal)


@dataclass(frozen=True, slots=True)
class Replica:
    """A gRPC server with a health service."""

    endpoint: Endpoint
    health: CountingHealth


@dataclass(frozen=True, slots=True)
class Registry:
    """A Consul agent, real or not."""

    address: str
    check_interval_seconds: float
    token: str = ""


class Stage:
    """Starts what a test is about; the end of the test closes it, the last one first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.end = contextlib.AsyncExitStack()

    async def replica(self, credentials: grpc.ServerCredentials | None = None) -> Replica:
        """A server whose health service knows GRPC_SERVICE."""
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        servicer = CountingHealth()
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        await servicer.set(GRPC_SERVICE, SERVING)
        port = (
            server.add_insecure_port("127.0.0.1:0")
            if credentials is None
            else server.add_secure_port("127.0.0.1:0", credentials)
        )
        await server.start()
        self.end.push_async_callback(server.stop, None)
        return Replica(Endpoint("127.0.0.1", port), servicer)

    def registrar(self, registry: Registry | FakeConsul, **arguments) -> ConsulRegistrar:
        """What announces one server; a health check that fails once is enough."""
        made = ConsulRegistrar(
            address=registry.address,
            token=registry.token,
            **{
                "check_interval_seconds": getattr(registry, "check_interval_seconds", 5),
                "check_failures": 1,
                **arguments,
            },
        )
        self.end.push_async_callback(made.deregister)
        return made

    def discovery(self, registry: Registry | FakeConsul, **arguments) -> ConsulDiscovery:
        """What finds servers, with the fastest rhythm."""
        rhythm = {
            "wait_seconds": 5,
            "grace_seconds": 2,
            "backoff_seconds": 0.01,
            "backoff_max_seconds": 0.05,
            "pace_seconds": 0.01,
        }
        made = ConsulDiscovery(
            address=registry.address,
            token=registry.token,
            **{**rhythm, "snapshot_folder": self.folder / "discovery", **arguments},
        )
        self.end.push_async_callback(made.close)
        return made

    def operator(self, registry: Registry | FakeConsul) -> AsyncConsul:
        """Somebody else who talks to the agent."""
        made = AsyncConsul(registry.address, token=registry.token)
        self.end.push_async_callback(made.close)
        return made


async def announce(
    registrar: ConsulRegistrar,
    service: str,
    replica: Replica,
    *grpc_services: str,
    tls: bool = False,
) -> None:
    await registrar.register(
        service=service,
        endpoint=replica.endpoint,
        grpc_services=grpc_services or (GRPC_SERVICE,),
        meta=META,
        tls=tls,
    )


async def until(watch: Watch, *endpoints: Endpoint) -> None:
    """Waits until a watch gives exactly these."""
    found = watch.current()
    async with asyncio.timeout(15):
        while found != frozenset(endpoints):
            found = await watch.changed()

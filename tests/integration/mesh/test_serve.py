"""The main loop of a process: the order in which it starts and ends, and what a broken part does to
it.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
from collections.abc import Mapping

import pytest

from mesh import logs
from mesh.discovery import Endpoint
from mesh.discovery.static import StaticRegistrar
from mesh.errors import Unavailable
from mesh.server import serve
from mesh.worker import Worker
from tests.support.echo import SERVICE, EchoRequest, Stub, World, eventually, plain_channel


class Registry:
    """Consul's place: remembers what it was told."""

    def __init__(self, story: list[str], *, away: bool = False) -> None:
        self.story = story
        self.away = away
        self.registered: dict[str, object] = {}

    async def register(
        self,
        *,
        service: str,
        endpoint: Endpoint,
        grpc_services: tuple[str, ...],
        meta: Mapping[str, str],
        tls: bool,
    ) -> None:
        if self.away:
            raise Unavailable("no registry")
        self.registered = {
            "service": service,
            "endpoint": endpoint,
            "grpc_services": grpc_services,
            "meta": dict(meta),
            "tls": tls,
        }
        self.story.append("registered")

    async def deregister(self) -> None:
        self.story.append("deregistered")


async def test_a_process_starts_registers_works_and_ends_backwards_on_sigterm(world: World) -> None:
    story: list[str] = []
    registry, server = Registry(story), world.server()

    async def work() -> int:
        story.append("worked")
        return 0

    async def close() -> None:
        story.append("closed")

    worker = Worker("echo", work, idle_seconds=60)
    settings = world.settings(advertise_host="10.1.2.3")
    process = asyncio.create_task(
        serve(settings, server, registry, workers=[worker], version="1.2", closers=[close])
    )
    await eventually(lambda: {"registered", "worked"} <= set(story))
    assert registry.registered == {
        "service": "echo_rpc",
        "endpoint": Endpoint("10.1.2.3", server.port),
        "grpc_services": (SERVICE,),
        "meta": {"version": "1.2", "metrics_port": str(server.metrics_port)},
        "tls": False,
    }
    async with plain_channel(server.port) as channel:
        assert (await Stub(channel).Browse(EchoRequest(text="up"))).text == "up"
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(process, 10)
    assert story[-2:] == ["deregistered", "closed"]
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", server.port)


async def test_what_lives_when_a_process_serves_is_in_no_garbage_collection(world: World) -> None:
    server = world.server()
    gc.unfreeze()
    process = asyncio.create_task(serve(world.settings(), server, StaticRegistrar()))
    try:
        await eventually(lambda: gc.get_freeze_count() > 0)
        assert not any(each is server for each in gc.get_objects())
    finally:
        gc.unfreeze()
        gc.freeze()  # as tests/conftest.py left it
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(process, 10)


async def test_a_registry_that_is_away_does_not_keep_a_server_from_serving(world: World) -> None:
    server = world.server()
    process = asyncio.create_task(serve(world.settings(), server, Registry([], away=True)))
    await eventually(lambda: server.port != 0)
    async with plain_channel(server.port) as channel:
        assert (await Stub(channel).Browse(EchoRequest(text="up"))).text == "up"
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.wait_for(process, 10)


async def test_a_worker_that_breaks_ends_the_process_with_its_error(world: World) -> None:
    class Broken:
        async def run(self) -> None:
            raise RuntimeError("worker is broken")

        def stop(self) -> None:
            pass

    closed = asyncio.Event()

    async def close() -> None:
        closed.set()

    with pytest.raises(RuntimeError, match="worker is broken"):
        await asyncio.wait_for(
            serve(
                world.settings(),
                world.server(),
                StaticRegistrar(),
                workers=[Broken()],
                closers=[close],
            ),
            10,
        )
    assert closed.is_set()


async def test_a_start_that_fails_closes_what_was_opened(world: World) -> None:
    closed = asyncio.Event()

    async def close() -> None:
        closed.set()

    async with world.running() as other:
        with pytest.raises(OSError, match="cannot listen"):
            await serve(
                world.settings(), world.server(port=other.port), StaticRegistrar(), closers=[close]
            )
    assert closed.is_set()


async def test_an_end_that_hangs_says_what_it_waits_for_and_ends(
    world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    class Stuck:
        async def run(self) -> None:
            await asyncio.Event().wait()

        def stop(self) -> None:
            pass

    async def connection_that_never_closes() -> None:
        await asyncio.Event().wait()

    closed = asyncio.Event()

    async def close() -> None:
        closed.set()

    logs.configure("echo_rpc")
    process = asyncio.create_task(
        serve(
            world.settings(grace_seconds=0.2),
            world.server(),
            StaticRegistrar(),
            workers=[Stuck()],
            closers=[connection_that_never_closes, close],
        )
    )
    await eventually(lambda: "serving" in capfd.readouterr().err)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(process, 20)
    assert closed.is_set(), "what comes after it is closed all the same"
    lines = [
        json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")
    ]
    assert next(line["what"] for line in lines if line["event"] == "stop_waits") == "workers"
    gave_up = [line["what"] for line in lines if line["event"] == "stop_gave_up"]
    assert gave_up[0] == "workers"
    assert "connection_that_never_closes" in gave_up[1]

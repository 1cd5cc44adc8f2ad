"""What strangers may do to the port of a server: everything that a peer can make grow has an end,
and others are served meanwhile.

The server and the stranger are processes of their own; the server runs on uvloop.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import monotonic
from typing import Any

import grpc
import pytest

from mesh import transport
from mesh.call import Call
from mesh.errors import RemoteError, Unavailable
from mesh.load import Load
from mesh.trace import Trace
from mesh.wire_errors import from_rpc_error
from tests.support.echo import EchoRequest, Stub, World, path, plain_channel
from tests.support.echo_flood import CALLS, CONNECTIONS, KINDS, NEVER_TAKEN, frame, header_block
from tools.processes import ROOT

ANSWER_SECONDS = 0.1  # within which another client is served
MEMORY_BYTES = 50 * 2**20  # that a stranger may cost
# that all kinds of strangers one after the other may cost: an allocator keeps some of each
MEMORY_OF_ALL_BYTES = 80 * 2**20
PROBES = 40


class Peer:
    """A process that prints lines."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def line(self) -> str:
        assert self._process.stdout is not None
        return (await asyncio.wait_for(self._process.stdout.readline(), 60)).decode().strip()


@asynccontextmanager
async def peer(module: str, *arguments: str) -> AsyncIterator[Peer]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *arguments, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield Peer(process)
    finally:
        process.kill()
        await process.wait()


async def probe(stub: Any, metadata: Any = ()) -> float:
    """How long another client waits for its answer, in seconds."""
    started = monotonic()
    assert (await stub.Browse(EchoRequest(text="me"), timeout=5, metadata=metadata)).text == "me"
    return monotonic() - started


async def refused(call: Any) -> RemoteError:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await asyncio.wait_for(call, 10)
    error = from_rpc_error(failed.value)
    assert isinstance(error, RemoteError)
    return error


@dataclass
class Flooded:
    """A server for all floods, one after the other."""

    port: int
    process_id: int
    fresh_bytes: int = 0  # its memory when it had served some calls

    def memory_bytes(self) -> int:
        status = Path(f"/proc/{self.process_id}/status").read_text(encoding="ascii")
        return next(
            int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS")
        )


@pytest.fixture(scope="module")
def flooded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flooded]:
    command = [
        sys.executable,
        "-m",
        "tests.support.echo_server",
        str(tmp_path_factory.mktemp("echo")),
    ]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield Flooded(int(process.stdout.readline()), process.pid)
        process.kill()


@pytest.mark.drawn(5)
@pytest.mark.parametrize("kind", [*KINDS, *NEVER_TAKEN])
async def test_a_stranger_neither_closes_a_port_nor_fills_its_memory(
    flooded: Flooded, kind: str
) -> None:
    async with plain_channel(flooded.port) as channel:
        stub = Stub(channel)
        for _ in range(100):
            await probe(stub)
        before = flooded.memory_bytes()
        flooded.fresh_bytes = flooded.fresh_bytes or before
        async with peer("tests.support.echo_flood", str(flooded.port), kind) as stranger:
            await stranger.line()
            times = [await probe(stub) for _ in range(PROBES)]
            # somebody who comes when everything is taken
            async with plain_channel(flooded.port) as late:
                times.append(await probe(Stub(late)))
            await stranger.line()
            times += [await probe(stub) for _ in range(PROBES)]
            now = flooded.memory_bytes()
    assert median(times) < ANSWER_SECONDS, sorted(times)[-5:]
    assert now - before < MEMORY_BYTES
    assert now - flooded.fresh_bytes < MEMORY_OF_ALL_BYTES


async def test_connections_beyond_the_bound_are_closed_and_those_before_them_are_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [
        (name, 20 if value == transport.CONNECTIONS_MAX else value)
        for name, value in transport.SERVER_OPTIONS
    ]
    monkeypatch.setattr(transport, "SERVER_OPTIONS", options)
    async with World(tmp_path).running() as server, plain_channel(server.port) as channel:
        await probe(Stub(channel))
        opened = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(40)]
        # a server speaks first
        heard = [await asyncio.wait_for(reader.read(1), 10) for reader, _ in opened]
        assert heard.count(b"") == 21
        assert await probe(Stub(channel)) < 5
        for _, writer in opened:
            writer.close()
        async with asyncio.timeout(10), plain_channel(server.port) as late:
            await Stub(late).Browse(EchoRequest(), wait_for_ready=True)


async def test_a_stranger_is_refused_by_the_headers_alone(tmp_path: Path) -> None:
    async with World(tmp_path).running() as server, plain_channel(server.port) as channel:
        for method in ("Own", "Write", "Command"):
            call = channel.stream_unary(path(method))()
            assert await asyncio.wait_for(call.code(), 10) is grpc.StatusCode.UNAUTHENTICATED
        assert server.load.arriving == 0


async def test_a_message_that_does_not_come_is_waited_for_only_so_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path)
    server = world.server()
    monkeypatch.setattr(server.load, "_message_seconds_max", 0.05)
    await server.start()
    try:
        async with plain_channel(server.port) as channel:
            for method, stream in (("Browse", False), ("Once", False), ("Follow", True)):
                make: Any = channel.stream_stream if stream else channel.stream_unary
                assert (
                    await asyncio.wait_for(make(path(method))().code(), 10)
                    is grpc.StatusCode.DEADLINE_EXCEEDED
                )
            health = channel.stream_unary("/grpc.health.v1.Health/Check")()
            assert await asyncio.wait_for(health.code(), 10) is grpc.StatusCode.UNAVAILABLE
        assert (server.load.arriving, server.load.running) == (0, 0)
    finally:
        await server.stop(0)


async def test_a_call_that_ends_without_its_message_is_the_callers_fault(tmp_path: Path) -> None:
    async with World(tmp_path).running() as server, plain_channel(server.port) as channel:
        call = channel.stream_unary(path("Browse"))()
        await call.done_writing()
        assert await asyncio.wait_for(call.code(), 10) is grpc.StatusCode.INVALID_ARGUMENT


class Silent:
    """A call as grpc.aio hands it over whose message does not come."""

    async def read(self) -> bytes:
        await asyncio.Event().wait()
        return b""


async def test_who_waits_longest_for_its_message_gives_way_to_others_of_its_kind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mesh.load.ARRIVING_PER_CALLER_MAX", 2)
    monkeypatch.setattr("mesh.load.ARRIVING_MAX", 8)
    load = Load()
    callers = (
        "mall/alice",
        "",
        "",
        "",
        "",
        "mall/bob",
        "mall/alice",
        "mall/alice",
        "order_rpc",
        "order_rpc",
        "order_rpc",
        "mall/carol",
    )
    calls = [Call(trace=Trace.start(), deadline=0) for _ in callers]
    tasks = []
    for call, caller in zip(calls, callers, strict=True):
        tasks.append(asyncio.create_task(load.message(Silent(), call, caller=caller)))
        await asyncio.sleep(0)
    gone = [number for number, call in enumerate(calls) if isinstance(call.cut, Unavailable)]
    assert (
        gone
        == [
            0,
            1,
            2,
            3,
        ]
    )  # alice's first by her third, two strangers by theirs, and the oldest of all when there was no room
    await asyncio.wait([tasks[number] for number in gone])
    assert (load.arriving, load.is_overloaded) == (8, True)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert load.arriving == 0


async def test_a_caller_has_only_so_many_calls_waiting_and_those_that_do_not_wait_are_others(
    tmp_path: Path,
) -> None:
    async with peer("tests.support.echo_server", str(tmp_path)) as server:
        port = int(await server.line())
        async with plain_channel(port) as channel:
            stub, world = Stub(channel), World(tmp_path)
            alice, bob, acme = (
                world.bearer("alice"),
                world.bearer("bob"),
                world.bearer("alice", merchant_id="acme"),
            )
            # the connection is open: what is called first arrives first
            await stub.Browse(EchoRequest())
            waiting = [
                asyncio.ensure_future(stub.Poll(EchoRequest(wait_ms=60_000), metadata=[token]))
                for token in (alice, alice, bob, bob, acme, acme)
            ]
            waiting += [
                asyncio.ensure_future(stub.Poll(EchoRequest(text="guest", wait_ms=60_000)))
                for _ in range(2)
            ]
            for further in ({"metadata": [alice]}, {"metadata": [bob]}, {"metadata": [acme]}):
                error = await refused(stub.Poll(EchoRequest(wait_ms=60_000), **further))
                assert (error.reason, error.grpc_code, error.retry_after_seconds) == (
                    "RATE_LIMITED",
                    8,
                    1.0,
                )
            assert (
                await refused(stub.Poll(EchoRequest(text="guest", wait_ms=60_000)))
            ).reason == "RATE_LIMITED"
            assert (await stub.Poll(EchoRequest(text="now"), metadata=[alice])).text == "now"
            for call in waiting:
                call.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_caller_has_only_so_many_streams_that_wait(tmp_path: Path) -> None:
    async with (
        peer("tests.support.echo_server", str(tmp_path)) as server,
        plain_channel(int(await server.line())) as channel,
    ):
        stub = Stub(channel)
        streams = [stub.Listen(EchoRequest(text="guest", wait_ms=1, times=1)) for _ in range(2)]
        for stream in streams:
            await stream.initial_metadata()
        error = await refused(
            anext(aiter(stub.Listen(EchoRequest(text="guest", wait_ms=1, times=1))))
        )
        assert (error.reason, error.retry_after_seconds) == ("RATE_LIMITED", 1.0)
        streams[0].cancel()
        async with asyncio.timeout(10):
            while True:  # the server hears of it when it hears of it
                again = stub.Listen(EchoRequest(text="guest", wait_ms=1, times=1))
                await again.initial_metadata()
                if not again.done():
                    break
        other = stub.Listen(EchoRequest(text="other", wait_ms=1, times=1))
        await other.initial_metadata()
        assert not other.done()


async def test_a_process_has_only_so_many_calls_waiting_and_running(tmp_path: Path) -> None:
    load = Load(running_max=2, waiting_max=2)
    calls = [Call(trace=Trace.start(), deadline=0) for _ in range(3)]
    for call in calls[:2]:
        load.begin(call)
    assert not load.is_overloaded
    with pytest.raises(Unavailable) as failed:
        load.begin(calls[2])
    assert (failed.value.retry_after_seconds, load.is_overloaded) == (1.0, True)
    load.end(calls[2])
    load.end(calls[0])
    load.end(calls[0])
    assert load.running == 1
    with load.waits("a", 9), load.waits("b", 9):
        with pytest.raises(Unavailable), load.waits("c", 9):
            pass
        assert load.waiting == 2
    assert load.waiting == 0


async def test_the_limit_of_a_method_holds_at_the_server_per_caller_and_not_for_siblings(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    async with world.running() as server, plain_channel(server.port) as channel:
        stub = Stub(channel)
        for token in (
            world.bearer("alice"),
            world.bearer("bob"),
            world.bearer("alice", merchant_id="acme"),
        ):
            for _ in range(3):
                await stub.Rare(EchoRequest(), metadata=[token])
            error = await refused(stub.Rare(EchoRequest(), metadata=[token]))
            assert (error.reason, error.grpc_code) == ("RATE_LIMITED", 8)
            assert 0 < (error.retry_after_seconds or 0) <= 1
        for _ in range(10):
            await stub.Rare(EchoRequest(), metadata=[world.service("order_rpc")])
            # from the network of our gateways, which limit strangers themselves
            await stub.Rare(EchoRequest())
        assert (
            await refused(stub.Rare(EchoRequest(), metadata=[world.bearer("bob")]))
        ).reason == "RATE_LIMITED"


async def test_a_stranger_who_comes_past_the_gateway_is_limited_by_his_address(
    tmp_path: Path,
) -> None:
    async with World(tmp_path).running(relay_networks=["10.0.0.0/8"]) as server:
        for attempt in range(4):
            async with plain_channel(server.port) as channel:  # another port each time
                call = Stub(channel).Rare(EchoRequest())
                if attempt < 3:
                    await call
                else:
                    assert (await refused(call)).reason == "RATE_LIMITED"


async def test_a_client_that_hangs_up_early_leaves_no_traceback(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    async with World(tmp_path).running() as server:
        for _ in range(30):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"\x00\x04\x00\x00\x00\x00")
            )  # no window for answers
            for stream in range(1, 41, 2):
                writer.write(
                    frame(1, 4, stream, header_block(path("Browse")))
                    + frame(0, 1, stream, b"\x00\x00\x00\x00\x00")
                )
            await writer.drain()
            await reader.read(100)
            writer.transport.abort()
        async with plain_channel(server.port) as channel:
            await probe(Stub(channel))
    assert "Traceback" not in capfd.readouterr().err + caplog.text


def test_a_flood_is_more_than_a_server_takes() -> None:
    assert CONNECTIONS * CALLS > 4200

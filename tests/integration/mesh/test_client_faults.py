"""Connections to replicas that break or fall silent: what may be repeated goes to another replica,
and nothing waits past its deadline. On uvloop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any

import pytest

from mesh import replicas
from mesh.client import MeshChannel
from mesh.discovery.static import StaticDiscovery
from mesh.errors import DeadlineExceeded, MeshError, UpstreamUnavailable
from tests.support.echo import Echo, EchoRequest, Stub, World, eventually
from tests.support.fault_proxy import FaultProxy, fault_proxy

ON_UVLOOP = pytest.mark.asyncio(loop_factories=["uvloop"])


@pytest.fixture(autouse=True)
def notice_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicas, "STALL_SECONDS", 0.1)
    monkeypatch.setattr(replicas, "PROBE_SECONDS", 0.5)


@dataclass
class Pair:
    channel: MeshChannel
    stub: Any
    proxies: list[FaultProxy]
    echoes: list[Echo]

    def replica(self, number: int) -> Any:
        [found] = [
            each
            for endpoint, each in self.channel._replicas._all.items()
            if endpoint.port == self.proxies[number].port
        ]
        return found


@asynccontextmanager
async def two_replicas(world: World, do: Any = None, *, count: int = 2) -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        echoes = [Echo(do) for _ in range(count)]
        servers = [await stack.enter_async_context(world.running(echo)) for echo in echoes]
        proxies = [await stack.enter_async_context(fault_proxy(server.port)) for server in servers]
        channel = await stack.enter_async_context(
            MeshChannel(
                "echo_rpc",
                settings=world.settings(service="order_rpc"),
                discovery=StaticDiscovery(
                    {"echo_rpc": [f"127.0.0.1:{proxy.port}" for proxy in proxies]}
                ),
                caller_tokens=world.caller_tokens("order_rpc"),
            )
        )
        await eventually(lambda: len(channel._replicas._ready) == count)
        yield Pair(channel, Stub(channel), proxies, echoes)


def reset(proxy: FaultProxy) -> None:
    proxy.breaks_by_reset = True
    proxy.refuse()


def close(proxy: FaultProxy) -> None:
    proxy.refuse()


FAULTS: dict[str, Callable[[FaultProxy], None]] = {
    "RST": reset,
    "FIN": close,
    "black hole": FaultProxy.freeze,
    "half-open": FaultProxy.strand,
}


@ON_UVLOOP
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_no_call_that_may_be_repeated_fails_when_a_replica_is_lost(
    world: World, fault: Callable[[FaultProxy], None]
) -> None:
    async with two_replicas(world) as pair:
        for _ in range(20):
            await pair.stub.Browse(EchoRequest())
        assert all(echo.calls for echo in pair.echoes)
        fault(pair.proxies[0])
        texts = [chr(ord("a") + number) for number in range(20)]
        answers = await asyncio.gather(
            *(pair.stub.Browse(EchoRequest(text=text)) for text in texts)
        )
        assert [answer.text for answer in answers] == texts
        assert pair.channel.is_ready


@ON_UVLOOP
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_calls_that_are_under_way_go_to_the_other_replica(
    world: World, fault: Callable[[FaultProxy], None]
) -> None:
    entered, release = asyncio.Event(), asyncio.Event()
    held: list[bool] = []

    async def hold_the_first(_request: Any, _context: Any) -> None:
        if not held:
            held.append(True)
            entered.set()
            await release.wait()

    async with two_replicas(world, hold_the_first) as pair:
        call = asyncio.create_task(pair.stub.Browse(EchoRequest(text="x")))
        await asyncio.wait_for(entered.wait(), 10)
        [number] = [number for number, echo in enumerate(pair.echoes) if echo.calls]
        fault(pair.proxies[number])
        assert (await asyncio.wait_for(call, 10)).text == "x"
        assert [len(echo.calls) for echo in pair.echoes] == [1, 1]
        release.set()


@ON_UVLOOP
@pytest.mark.parametrize("fault", ["black hole", "half-open"])
async def test_a_call_that_may_not_be_repeated_ends_at_its_deadline_and_is_made_once(
    world: World, fault: str
) -> None:
    async with two_replicas(world) as pair:
        for proxy in pair.proxies:
            FAULTS[fault](proxy)
        began = monotonic()
        with pytest.raises((DeadlineExceeded, UpstreamUnavailable)):
            await pair.stub.Once(EchoRequest(), timeout=1)
        assert monotonic() - began < 5
        assert sum(len(echo.calls) for echo in pair.echoes) <= 1


@ON_UVLOOP
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_a_stream_begins_at_the_other_replica(
    world: World, fault: Callable[[FaultProxy], None]
) -> None:
    async with two_replicas(world) as pair:
        fault(pair.proxies[0])
        for _ in range(4):
            async with aclosing(
                pair.stub.Count(EchoRequest(times=2), metadata=[world.bearer()])
            ) as answers:
                assert [answer.text async for answer in answers] == ["0", "1"]


@ON_UVLOOP
async def test_a_replica_that_is_stopped_is_not_ready_for_readyz_and_comes_back(
    world: World,
) -> None:
    async with two_replicas(world, count=1) as pair:
        pair.proxies[0].freeze()
        call = asyncio.create_task(pair.stub.Browse(EchoRequest(text="late"), timeout=20))
        await eventually(lambda: not pair.channel.is_ready)
        pair.proxies[0].thaw()
        # the only replica is not given up: slow is better than refused
        assert (await call).text == "late"
        await eventually(lambda: pair.channel.is_ready)


@ON_UVLOOP
async def test_a_replica_that_is_only_slow_keeps_its_calls(world: World) -> None:
    release = asyncio.Event()

    async def wait(_request: Any, _context: Any) -> None:
        await release.wait()

    async with two_replicas(world, wait) as pair:
        call = asyncio.create_task(pair.stub.Browse(EchoRequest()))
        await eventually(lambda: sum(len(echo.calls) for echo in pair.echoes) == 1)
        [number] = [number for number, echo in enumerate(pair.echoes) if echo.calls]
        probes = []
        answers = pair.channel._replicas._answers

        async def counted(replica: Any) -> bool:
            alive = await answers(replica)
            probes.append(alive)
            return alive

        pair.channel._replicas._answers = counted  # type: ignore[method-assign]
        await eventually(lambda: len(probes) >= 3)
        assert all(probes)
        assert not pair.replica(number).hung
        release.set()
        await call
        assert sum(len(echo.calls) for echo in pair.echoes) == 1


@ON_UVLOOP
async def test_a_mesh_that_is_idle_asks_nobody_whether_he_lives(world: World) -> None:
    async with two_replicas(world) as pair:
        await pair.stub.Browse(EchoRequest())
        await eventually(lambda: pair.channel._replicas._next_look is None)


# A stream of a method that takes a key


@ON_UVLOOP
async def test_a_keyed_stream_without_a_key_is_not_repeated(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a unary call: the key is what makes the repetition harmless."""
    async with two_replicas(world) as pair:
        method = pair.channel._method("/paymesh.testing.v1.EchoService/Run")
        method.keyed = True
        assert not method.repeatable
        failures = []

        async def fail(*_args: Any, **_options: Any) -> Any:
            failures.append(1)
            raise UpstreamUnavailable
            yield b""

        monkeypatch.setattr(pair.channel._attempts, "_stream_once", fail)
        with pytest.raises(MeshError):
            [answer async for answer in pair.stub.Run(EchoRequest())]
        assert len(failures) == 1
        with pytest.raises(MeshError):
            [
                answer
                async for answer in pair.stub.Run(
                    EchoRequest(), metadata=[("idempotency-key", "k1")]
                )
            ]
        assert len(failures) == 1 + 3

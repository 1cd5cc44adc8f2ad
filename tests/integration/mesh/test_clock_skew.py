"""Processes whose clocks are minutes apart: callers hear "not now", another replica serves, and
nobody hears of an internal error.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import pytest
from structlog.testing import capture_logs

from mesh.auth import CallerTokens, UserTokens
from mesh.client import MeshChannel
from mesh.clock import SystemClock
from mesh.discovery.static import StaticDiscovery
from mesh.errors import RemoteError
from mesh.server import MeshServer
from tests.support.echo import SECRET, Echo, EchoRequest, Stub, World, add_echo, eventually, path
from tests.support.fakes import FakeClock

SLOW_SECONDS = -600


def slow() -> FakeClock:
    clock = FakeClock(SystemClock().now())
    clock.advance(SLOW_SECONDS)
    return clock


def server_with(
    world: World, clock: Any, servicer: Echo, *, service: str = "echo_rpc"
) -> MeshServer:
    """A replica with a clock of its own."""
    callers = CallerTokens(
        service,
        clock=clock,
        ids=world.ids,
        private_key=world.keys[service],
        public_keys={name: world.keys[name].public_key() for name in ("order_rpc", "payment_rpc")},
    )
    server = MeshServer(
        world.settings(service=service),
        clock=clock,
        ids=world.ids,
        user_tokens=UserTokens.from_secret(SECRET, clock=clock),
        caller_tokens=callers,
    )
    server.add(add_echo, servicer)
    return server


def channel_to(world: World, *servers: MeshServer, caller: str = "order_rpc") -> MeshChannel:
    discovery = StaticDiscovery({"echo_rpc": [f"127.0.0.1:{server.port}" for server in servers]})
    return MeshChannel(
        "echo_rpc",
        settings=world.settings(service=caller),
        discovery=discovery,
        caller_tokens=world.caller_tokens(caller),
    )


# one that may be repeated and one that may not
@pytest.mark.parametrize("method", ["Command", "Once"])
async def test_a_replica_whose_clock_is_wrong_costs_no_call(world: World, method: str) -> None:
    right, wrong = Echo(), Echo()
    async with AsyncExitStack() as stack:
        servers = []
        for clock, servicer in ((world.clock, right), (slow(), wrong)):
            server = server_with(world, clock, servicer)
            await server.start()
            stack.push_async_callback(server.stop, 0)
            servers.append(server)
        channel = await stack.enter_async_context(channel_to(world, *servers))
        await eventually(lambda: len(channel._replicas._ready) == 2)
        with capture_logs() as logs:
            for _ in range(40):
                await getattr(Stub(channel), method)(EchoRequest())
    assert (len(right.calls), wrong.calls) == (40, [])
    skews = [line for line in logs if line["event"] == "clock_skew"]
    assert [(line["peer"], 595 <= line["seconds"] <= 605) for line in skews] == [
        ("order_rpc", True)
    ]


async def test_a_stream_goes_to_another_replica_too(world: World) -> None:
    right, wrong = Echo(), Echo()
    async with AsyncExitStack() as stack:
        servers = []
        for clock, servicer in ((world.clock, right), (slow(), wrong)):
            server = server_with(world, clock, servicer)
            await server.start()
            stack.push_async_callback(server.stop, 0)
            servers.append(server)
        channel = await stack.enter_async_context(channel_to(world, *servers))
        await eventually(lambda: len(channel._replicas._ready) == 2)
        for _ in range(10):
            assert [answer.text async for answer in Stub(channel).Follow(EchoRequest(times=2))] == [
                "0",
                "1",
            ]
    assert wrong.calls == []


async def test_a_refusal_for_clocks_is_unavailable_all_the_way_and_never_an_internal_error(
    world: World,
) -> None:
    """order_rpc, whose clock is right, serves a buyer and asks a sibling whose clock is wrong."""
    async with AsyncExitStack() as stack:
        inner = server_with(world, slow(), Echo())
        await inner.start()
        stack.push_async_callback(inner.stop, 0)
        inner_channel = await stack.enter_async_context(channel_to(world, inner))

        async def ask(_request: Any, _context: Any) -> None:
            await Stub(inner_channel).Command(EchoRequest())

        outer_servicer = Echo(ask)
        outer = server_with(world, world.clock, outer_servicer)
        await outer.start()
        stack.push_async_callback(outer.stop, 0)
        channel = await stack.enter_async_context(channel_to(world, outer, caller="payment_rpc"))
        with pytest.raises(RemoteError) as refused:
            await channel.call(path("Once"), EchoRequest().SerializeToString())
    assert (refused.value.grpc_code, refused.value.reason) == (14, "UNAVAILABLE")
    # the outer one did look at the call, so it is not repeated
    assert not refused.value.is_unserved
    assert outer_servicer.calls == ["Once"]

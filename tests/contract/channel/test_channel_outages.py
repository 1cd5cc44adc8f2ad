"""Connections to a channel behind a line that breaks in every way, on the loop of production and on
asyncio's: what died while it was idle costs no
charge, and whatever happens is a fact: not sent, unknown, or the channel's answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

from mesh.outbound.connections import Answer, _Connection
from payment_rpc.channels.sandbox.channel import SandboxChannel
from payment_rpc.domain.facts import ChannelStatus
from tests.support.echo import eventually
from tests.support.fault_proxy import FaultProxy, Loss, fault_proxy
from tests.support.sandbox_server import adapter_to, charge, raw_server, swallow, transaction

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop", "asyncio"])

CROWD = 8


@pytest.fixture(params=["RST", "FIN"])
async def stage(request: pytest.FixtureRequest) -> AsyncIterator[tuple[SandboxChannel, FaultProxy]]:
    """A channel that captures, and the line to it."""
    together = asyncio.Barrier(CROWD)

    async def capture(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for number in range(1000):
            await swallow(reader)
            if number == 0 and together.n_waiting < CROWD and not is_warm.is_set():
                await together.wait()  # so that each call opens a connection
                is_warm.set()
            body = transaction()
            writer.write(f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
            await writer.drain()

    is_warm = asyncio.Event()
    async with raw_server(capture) as url, fault_proxy(urlsplit(url).port or 0) as proxy:
        proxy.breaks_by_reset = request.param == "RST"
        channel = adapter_to(f"http://127.0.0.1:{proxy.port}")
        assert await statuses(channel) == [ChannelStatus.CAPTURED] * CROWD
        yield channel, proxy
        await channel.aclose()
        proxy.thaw()


async def statuses(
    channel: SandboxChannel, count: int = CROWD, *, timeout_seconds: float = 5
) -> list[ChannelStatus]:
    facts = await asyncio.gather(
        *(charge(channel, timeout_seconds=timeout_seconds) for _ in range(count))
    )
    return [fact.status for fact in facts]


def idle(channel: SandboxChannel) -> list[_Connection]:
    return channel._api._connections._idle


async def test_connections_that_broke_while_they_were_idle_cost_no_charge(
    stage: tuple[SandboxChannel, FaultProxy],
) -> None:
    channel, proxy = stage
    for _ in range(3):
        proxy.cut()
        await eventually(lambda: not any(connection.is_open for connection in idle(channel)))
        assert await statuses(channel) == [ChannelStatus.CAPTURED] * CROWD


async def test_connections_that_a_middlebox_forgot_cost_one_charge_its_certainty_and_no_more(
    stage: tuple[SandboxChannel, FaultProxy],
) -> None:
    channel, proxy = stage
    proxy.strand()
    assert await statuses(channel, 1, timeout_seconds=0.5) == [ChannelStatus.UNKNOWN]
    for _ in range(2 * CROWD):
        assert await statuses(channel, 1) == [ChannelStatus.CAPTURED]


async def test_an_answer_that_breaks_off_is_unknown_and_a_connection_that_is_never_made_is_not_sent(
    stage: tuple[SandboxChannel, FaultProxy],
) -> None:
    channel, proxy = stage
    for loss in (Loss.ANSWER, Loss.REQUEST):
        proxy.lose(b"POST", loss)
        assert await statuses(channel, 1) == [ChannelStatus.UNKNOWN]
        assert await statuses(channel, 1) == [ChannelStatus.CAPTURED]
    proxy.refuse()
    await eventually(lambda: not any(connection.is_open for connection in idle(channel)))
    assert set(await statuses(channel)) <= {ChannelStatus.NOT_SENT, ChannelStatus.UNKNOWN}
    proxy.refuse(refuses=False)
    assert await statuses(channel) == [ChannelStatus.CAPTURED] * CROWD


async def test_a_connection_that_closes_before_it_is_written_to_was_not_sent_anything(
    stage: tuple[SandboxChannel, FaultProxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    channel, _ = stage
    exchange = _Connection.exchange

    async def close_first(
        connection: _Connection, request: bytes, *, answer_bytes_max: int
    ) -> Answer:
        assert connection._transport is not None
        connection._transport.close()
        return await exchange(connection, request, answer_bytes_max=answer_bytes_max)

    with monkeypatch.context() as patched:
        patched.setattr(_Connection, "exchange", close_first)
        assert set(await statuses(channel, 3)) == {ChannelStatus.NOT_SENT}
    assert await statuses(channel, 3) == [ChannelStatus.CAPTURED] * 3

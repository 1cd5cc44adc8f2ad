"""The adapter's own HTTP: connections are shared, closed at the first doubt, and no answer is ever
taken for another request's.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from pathlib import Path
from time import time

import pytest
import uvloop

from mesh.clock import SystemClock
from mesh.outbound import connections
from mesh.outbound.connections import Connections, NotSent
from payment_rpc.channels.provider_clocks import PROVIDER_CLOCKS, ProviderClocks
from payment_rpc.channels.sandbox.channel import SandboxChannel
from payment_rpc.domain.facts import ChannelStatus
from paymesh_cli.certificates import CertificateAuthority
from tests.support.sandbox_server import (
    API_KEY,
    CALLBACK_SECRET,
    adapter_to,
    charge,
    http_answer,
    raw_server,
    running_sandbox,
    swallow,
    transaction,
)
from tools.processes import free_port

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
KEPT_OPEN = (
    f"HTTP/1.1 200 OK\r\ncontent-length: {len(transaction())}\r\n\r\n".encode() + transaction()
)


class Counted:
    """A server that counts its connections and answers each request with the next of `answers`, at
    last with a capture.
    """

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.connections = 0
        self.requests = 0
        self.closed = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                await swallow(reader)
                self.requests += 1
                writer.write(self.answers.pop(0) if self.answers else KEPT_OPEN)
                await writer.drain()
        finally:
            self.closed.set()


async def test_calls_one_after_another_share_one_connection() -> None:
    server = Counted()
    async with raw_server(server.serve) as url:
        channel = adapter_to(url)
        for _ in range(10):
            assert (await charge(channel)).status is ChannelStatus.CAPTURED
        assert server.connections == 1
        assert {
            fact.status for fact in await asyncio.gather(*(charge(channel) for _ in range(10)))
        } == {ChannelStatus.CAPTURED}
        assert 1 < server.connections <= 10
        await channel.aclose()


async def test_a_call_that_finds_no_free_connection_was_not_sent() -> None:
    arrived, released = asyncio.Event(), asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await swallow(reader)
        arrived.set()
        await released.wait()
        writer.write(http_answer(transaction()))
        await writer.drain()

    async with raw_server(hang) as url:
        channel = SandboxChannel(
            base_url=url, api_key=API_KEY, callback_secret=CALLBACK_SECRET, connections_max=1
        )
        first = asyncio.create_task(charge(channel))
        await arrived.wait()
        assert (await charge(channel, timeout_seconds=1)).status is ChannelStatus.NOT_SENT
        released.set()
        assert (await first).status is ChannelStatus.CAPTURED
        assert (await charge(channel)).status is ChannelStatus.CAPTURED  # the place is free again
        await channel.aclose()


@pytest.mark.parametrize(
    "first",
    [
        KEPT_OPEN + http_answer(transaction(amount="0.01")),  # two answers to one request
        http_answer(transaction()),  # `connection: close`
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nnot what we asked for",
    ],
)
async def test_a_connection_that_said_too_much_is_not_used_again(first: bytes) -> None:
    server = Counted(first)
    async with raw_server(server.serve) as url:
        channel = adapter_to(url)
        await charge(channel)
        fact = await charge(channel)
        assert (fact.status, fact.amount and fact.amount.minor) == (ChannelStatus.CAPTURED, 9999)
        assert server.connections == 2
        await channel.aclose()


async def test_what_comes_unasked_is_no_answer_to_the_next_request() -> None:
    answered, hung_up = asyncio.Event(), asyncio.Event()

    async def chatter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await swallow(reader)
        writer.write(KEPT_OPEN)
        await writer.drain()
        await answered.wait()
        if not hung_up.is_set():
            writer.write(http_answer(transaction(amount="0.01")))
            await writer.drain()
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            hung_up.set()

    async with raw_server(chatter) as url:
        channel = adapter_to(url)
        await charge(channel)
        answered.set()
        await asyncio.wait_for(hung_up.wait(), 5)
        fact = await charge(channel)
        assert (fact.status, fact.amount and fact.amount.minor) == (ChannelStatus.CAPTURED, 9999)
        await channel.aclose()


async def test_a_late_answer_is_not_taken_for_the_next_request() -> None:
    release = asyncio.Event()
    calls = 0

    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal calls
        calls += 1
        await swallow(reader)
        if calls == 1:
            await release.wait()
            writer.write(http_answer(transaction(amount="0.01")))
        else:
            writer.write(KEPT_OPEN)
        await writer.drain()

    async with raw_server(late) as url:
        channel = adapter_to(url)
        assert (await charge(channel, timeout_seconds=0.3)).status is ChannelStatus.UNKNOWN
        release.set()
        fact = await charge(channel)
        assert (calls, fact.amount and fact.amount.minor) == (2, 9999)
        await channel.aclose()


async def test_a_call_that_ran_out_of_time_hangs_up() -> None:
    hung_up = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await swallow(reader)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        hung_up.set()

    async with raw_server(hang) as url:
        channel = adapter_to(url)
        assert (await charge(channel, timeout_seconds=0.3)).status is ChannelStatus.UNKNOWN
        await asyncio.wait_for(hung_up.wait(), 5)
        await channel.aclose()


async def test_a_connection_that_the_channel_closed_is_opened_again() -> None:
    class ClosesAfterOne(Counted):
        async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            await swallow(reader)
            writer.write(KEPT_OPEN)  # says that it stays open, and goes
            await writer.drain()

    server = ClosesAfterOne()
    async with raw_server(server.serve) as url:
        pool = Connections(url, headers={}, heard=PROVIDER_CLOCKS.heard)
        for number in (1, 2, 3):
            await pool.request("GET", "/", body=None, connect_seconds=2)
            while pool._idle[-1].is_open:  # noqa: ASYNC110  # until the news of the end is here; nobody has an event for it
                await asyncio.sleep(0)
            assert server.connections == number
        await pool.aclose()


async def test_a_connection_that_was_idle_for_long_is_not_trusted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "_KEEPALIVE_SECONDS", -1)
    server = Counted()
    async with raw_server(server.serve) as url:
        channel = adapter_to(url)
        await charge(channel)
        await charge(channel)
        assert server.connections == 2
        await channel.aclose()


async def test_tls_is_spoken_to_a_channel_whose_certificate_we_trust_and_to_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = CertificateAuthority(tmp_path, clock=SystemClock())
    authority.ensure()
    files = authority.issue("sandbox")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.cert, files.key)
    counted = Counted()
    server = await asyncio.start_server(counted.serve, "127.0.0.1", 0, ssl=context)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    stranger = adapter_to(url)
    assert (await charge(stranger)).status is ChannelStatus.NOT_SENT
    assert counted.requests == 0
    await stranger.aclose()

    monkeypatch.setattr(connections, "_tls", lambda: ssl.create_default_context(cafile=files.ca))
    channel = adapter_to(url)
    assert (await charge(channel)).status is ChannelStatus.CAPTURED
    assert (await charge(channel)).status is ChannelStatus.CAPTURED
    assert counted.connections == 1
    await channel.aclose()
    await asyncio.wait_for(counted.closed.wait(), 5)
    server.close()


def test_it_works_on_the_loop_of_production_too(tmp_path: Path) -> None:
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await swallow(reader)
        writer.transport.abort()

    async def purchase() -> list[ChannelStatus]:
        async with (
            running_sandbox(tmp_path) as running,
            raw_server(reset) as broken,
            raw_server(Counted(*[b"garbage"] * 3).serve) as garbage,
        ):
            facts = []
            for url in (
                running.base_url,
                running.base_url,
                broken,
                garbage,
                f"http://127.0.0.1:{free_port()}",
            ):
                channel = adapter_to(url)
                facts += await asyncio.gather(*(charge(channel) for _ in range(3)))
                await channel.aclose()
            return [fact.status for fact in facts]

    captured, unknown, not_sent = (
        ChannelStatus.CAPTURED,
        ChannelStatus.UNKNOWN,
        ChannelStatus.NOT_SENT,
    )
    assert uvloop.run(purchase()) == [*[captured] * 6, *[unknown] * 6, *[not_sent] * 3]


@pytest.mark.parametrize(
    "base_url",
    [
        "",
        "127.0.0.1:8090",
        "ftp://x",
        "http://",
        "http://user:secret@host",
        "http://host/?a=1",
        "http://host:port",
    ],
)
def test_only_a_base_url_is_one(base_url: str) -> None:
    with pytest.raises(ValueError, match=r"base URL|Port|port"):
        Connections(base_url, headers={}, heard=PROVIDER_CLOCKS.heard)


@pytest.mark.parametrize("value", ["key\r\nx-evil: 1", "key\n", "schlüssel", "key\0"])
def test_a_header_is_one_line(value: str) -> None:
    with pytest.raises(ValueError, match="one line") as refusal:
        SandboxChannel(base_url="http://host", api_key=value, callback_secret=CALLBACK_SECRET)
    assert value not in str(refusal.value)


async def test_a_base_url_may_have_a_path() -> None:
    lines: list[bytes] = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines.append((await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0])
        writer.write(http_answer(transaction()))
        await writer.drain()

    async with raw_server(note) as url:
        channel = adapter_to(f"{url}/sandbox/")
        assert (await channel.query("ATT1", timeout_seconds=5)).status is ChannelStatus.CAPTURED
        await channel.aclose()
    assert lines == [b"GET /sandbox/v1/transactions/ATT1 HTTP/1.1"]


async def test_waiting_for_a_place_ends_in_time_even_when_nobody_leaves() -> None:
    pool = Connections(
        "http://127.0.0.1:1", headers={}, heard=PROVIDER_CLOCKS.heard, connections_max=0
    )
    with pytest.raises(NotSent, match="too many"):
        await pool.request("GET", "/", body=None, connect_seconds=0.05)


async def test_the_date_of_an_answer_tells_how_far_its_clock_is_from_ours() -> None:
    clocks = ProviderClocks(SystemClock())
    dated = KEPT_OPEN.replace(
        b"200 OK\r\n", f"200 OK\r\nDate: {formatdate(time() + 300, usegmt=True)}\r\n".encode()
    )
    async with raw_server(Counted(dated).serve) as url:
        pool = Connections(url, headers={}, heard=clocks.heard)
        await pool.request("GET", "/", body=None, connect_seconds=2)
        await pool.aclose()
    assert clocks.offsets()["127.0.0.1"] == pytest.approx(300, abs=5)

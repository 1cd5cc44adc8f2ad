"""The adapter against servers that misbehave: what is not proven is UNKNOWN, and nothing is
raised.
"""

from __future__ import annotations

import asyncio
import socket
from datetime import timedelta

import pytest

from mesh.money import Money
from payment_rpc.channels.requests import Checkout
from payment_rpc.channels.sandbox.channel import SandboxChannel
from payment_rpc.domain.errors import ChannelUnavailable
from payment_rpc.domain.facts import ChannelStatus
from tests.support.fakes import FakeClock
from tests.support.sandbox_server import (
    PATIENCE,
    PRICE,
    VECTOR,
    RunningSandbox,
    adapter_to,
    card,
    charge,
    http_answer,
    nothing_to_remember,
    raw_server,
    swallow,
    transaction,
)
from tools.processes import free_port


async def assert_facts(
    base_url: str, clock: FakeClock, *, opening: ChannelStatus, timeout_seconds: float = PATIENCE
) -> None:
    """What each call makes of a server: charge and checkout `opening`, query and close UNKNOWN,
    sign a refusal; nothing else raised.
    """
    channel = adapter_to(base_url)
    try:
        expires_at = clock.now() + timedelta(minutes=30)
        facts = [
            await channel.charge(
                attempt_id="ATT1",
                amount=PRICE,
                instrument=card(),
                expires_at=expires_at,
                remember=nothing_to_remember,
                timeout_seconds=timeout_seconds,
            ),
            await channel.checkout(
                attempt_id="ATT1",
                amount=PRICE,
                order=Checkout(subject="x", return_url=""),
                expires_at=expires_at,
                remember=nothing_to_remember,
                timeout_seconds=timeout_seconds,
            ),
            await channel.query("ATT1", timeout_seconds=timeout_seconds),
            await channel.close("ATT1", timeout_seconds=timeout_seconds),
        ]
        with pytest.raises(ChannelUnavailable):
            await channel.sign(
                attempt_id="ATT1",
                callback_status="SUCCESS",
                timeout_seconds=timeout_seconds,
                **VECTOR,
            )
    finally:
        await channel.aclose()
    assert [fact.status for fact in facts] == [
        opening,
        opening,
        ChannelStatus.UNKNOWN,
        ChannelStatus.UNKNOWN,
    ]
    assert all(
        fact.attempt_id == "ATT1" and fact.amount is None and fact.trade_no == "" for fact in facts
    )
    assert [fact.reason for fact in facts[:2]] == [
        "CHANNEL_UNAVAILABLE" if opening is ChannelStatus.NOT_SENT else ""
    ] * 2


async def test_a_refused_connection_proves_that_nothing_was_sent(clock: FakeClock) -> None:
    await assert_facts(f"http://127.0.0.1:{free_port()}", clock, opening=ChannelStatus.NOT_SENT)


async def test_a_name_that_does_not_resolve_proves_that_nothing_was_sent(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    await assert_facts("http://channel.invalid:8090", clock, opening=ChannelStatus.NOT_SENT)


async def test_a_failed_tls_handshake_proves_that_nothing_was_sent(clock: FakeClock) -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"this is not TLS")
        await writer.drain()

    async with raw_server(plain) as url:
        await assert_facts(url.replace("http:", "https:"), clock, opening=ChannelStatus.NOT_SENT)


async def test_a_host_that_takes_no_connection_proves_that_nothing_was_sent(
    clock: FakeClock,
) -> None:
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for client in (first, second):  # the queue is full: whoever knocks now is not heard
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        await assert_facts(
            f"http://127.0.0.1:{full.getsockname()[1]}",
            clock,
            opening=ChannelStatus.NOT_SENT,
            timeout_seconds=0.6,
        )


async def test_no_time_left_means_nothing_was_sent(
    running: RunningSandbox, clock: FakeClock
) -> None:
    await assert_facts(running.base_url, clock, opening=ChannelStatus.NOT_SENT, timeout_seconds=0)
    assert (await running.listed())["transactions"] == []


async def test_a_connection_reset_after_the_request_leaves_doubt(clock: FakeClock) -> None:
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await swallow(reader)
        writer.transport.abort()

    async with raw_server(reset) as url:
        await assert_facts(url, clock, opening=ChannelStatus.UNKNOWN)


async def test_a_server_that_never_answers_leaves_doubt_in_time(clock: FakeClock) -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await swallow(reader)
        await asyncio.Event().wait()

    async with raw_server(hang) as url:
        await assert_facts(url, clock, opening=ChannelStatus.UNKNOWN, timeout_seconds=0.3)


async def test_a_server_that_drips_leaves_doubt_in_time(clock: FakeClock) -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await swallow(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
        for _ in range(1000):  # each byte is in time, all of them are not
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with raw_server(drip) as url:
        await assert_facts(url, clock, opening=ChannelStatus.UNKNOWN, timeout_seconds=0.3)


GARBAGE = {
    "an empty answer": http_answer(b""),
    "HTML": http_answer(b"<html>welcome</html>"),
    "half a JSON object": http_answer(transaction()[:40]),
    "a JSON list": http_answer(b"[]"),
    "deep nesting": http_answer(b"[" * 60_000),
    "not UTF-8": http_answer(b'{"attempt_id":"\xff\xfe"}'),
    "not HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "a broken off answer": b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{",
    "an endless answer": http_answer(b" " * 70_000 + transaction()),
    "a compressed answer": http_answer(transaction(), headers="content-encoding: gzip\r\n")[:-200],
    "status 500": http_answer(transaction(), status="500 Internal Server Error"),
    "status 502": http_answer(b"<h1>Bad Gateway</h1>", status="502 Bad Gateway"),
    "status 201": http_answer(transaction(), status="201 Created"),
    "status 204": b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n",
    "status 101": b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n"
    + transaction(),
    "status 100 and the end": b"HTTP/1.1 100 Continue\r\n\r\n",
    "an answer of unknown length": b"HTTP/1.1 200 OK\r\n\r\n" + transaction(),
    "status 302": http_answer(b"", status="302 Found", headers="location: http://127.0.0.1:1/\r\n"),
    "a 401 of somebody else": http_answer(b"<h1>proxy login</h1>", status="401 Unauthorized"),
    "a 400 of somebody else": http_answer(b'{"detail":"no"}', status="400 Bad Request"),
    "a 404 of somebody else": http_answer(b"404 page not found", status="404 Not Found"),
    "a conflict": http_answer(
        b'{"error":{"code":"conflict_x","message":""}}', status="409 Conflict"
    ),
    "another attempt": http_answer(transaction(attempt_id="ATT2")),
    "no attempt": http_answer(transaction(attempt_id=None)),
    "an unknown status": http_answer(transaction(status="PAID")),
    "a lower-case status": http_answer(transaction(status="captured")),
    "our own word for doubt": http_answer(transaction(status="NOT_FOUND")),
    "a number as amount": http_answer(transaction(amount=99.99)),
    "an amount with exponent": http_answer(transaction(amount="1e3")),
    "a negative amount": http_answer(transaction(amount="-99.99")),
    "no amount": http_answer(transaction(amount=None, currency=None)),
    "an amount without currency": http_answer(transaction(currency=None)),
    "an unknown currency": http_answer(transaction(currency="XXX")),
    "too many digits": http_answer(transaction(amount="99.999")),
    "no trade number": http_answer(transaction(trade_no="")),
    "a trade number that does not fit": http_answer(transaction(trade_no="x" * 65)),
    "a cashier address that is not one": http_answer(
        transaction(status="PENDING", cashier_url="javascript:alert(1)")
    ),
}


@pytest.mark.parametrize("answer", GARBAGE.values(), ids=GARBAGE.keys())
async def test_an_answer_that_cannot_be_believed_leaves_doubt(
    clock: FakeClock, answer: bytes
) -> None:
    async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await swallow(reader)
        writer.write(answer)
        await writer.drain()

    async with raw_server(garbage) as url:
        await assert_facts(url, clock, opening=ChannelStatus.UNKNOWN)


async def test_another_amount_is_a_fact_and_not_hidden(clock: FakeClock) -> None:
    async def wrong(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await swallow(reader)
        writer.write(http_answer(transaction(amount="0.01", currency="USD", surprise=1)))
        await writer.drain()

    async with raw_server(wrong) as url:
        channel = adapter_to(url)
        fact = await charge(channel)
        await channel.aclose()
    assert (fact.status, fact.amount) == (ChannelStatus.CAPTURED, Money(1, "USD"))


async def test_a_cancelled_charge_is_cancelled_and_keeps_the_doubt(
    running: RunningSandbox, channel: SandboxChannel
) -> None:
    task = asyncio.create_task(charge(channel))
    await asyncio.sleep(0)  # it has begun
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    settled = await channel.close("ATT1", timeout_seconds=PATIENCE)
    assert settled.status in {ChannelStatus.CLOSED, ChannelStatus.CAPTURED}


async def test_the_environment_does_not_choose_a_proxy(
    running: RunningSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    channel = running.channel()
    assert (await charge(channel)).status is ChannelStatus.CAPTURED
    await channel.aclose()

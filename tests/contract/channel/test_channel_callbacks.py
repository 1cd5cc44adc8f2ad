"""Callbacks of the channel: signed and delivered until they are taken, and believed by the adapter
only when they are genuine.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from mesh.errors import InvalidArgument
from payment_rpc.channels.sandbox.channel import SandboxChannel
from payment_rpc.domain.errors import SignatureInvalid
from payment_rpc.domain.facts import ChannelFact, ChannelStatus
from sandbox.signatures import sign_callback
from tests.support.fakes import FakeClock
from tests.support.sandbox_server import (
    API_KEY,
    CALLBACK_SECRET,
    PATIENCE,
    PRICE,
    VECTOR,
    Receiver,
    ShiftedIds,
    cashier_url,
    charge,
    checkout,
    http_answer,
    raw_server,
    received,
    running_sandbox,
)
from tools.processes import free_port


def verified(
    channel: SandboxChannel, request: tuple[dict[str, str], bytes], clock: FakeClock
) -> ChannelFact:
    headers, body = request
    return of_payment(
        channel,
        body=body,
        timestamp=headers["x-channel-timestamp"],
        signature=headers["x-channel-signature"],
        now=clock.now(),
    )


def of_payment(channel: SandboxChannel, **callback: Any) -> ChannelFact:
    fact = received(channel, **callback)
    assert isinstance(fact, ChannelFact)
    return fact


@pytest.mark.parametrize("number", ["4242424242424242", "4000000000009995", "4000000000000119"])
async def test_a_callback_tells_the_same_fact_as_the_answer(
    tmp_path: Path, clock: FakeClock, receiver: Receiver, number: str
) -> None:
    async with running_sandbox(tmp_path, clock=clock, callback_url=receiver.url) as running:
        channel = running.channel()
        answered = await charge(channel, number=number)
        assert await running.sandbox.run_once() == 1
        assert await running.sandbox.run_once() == 0  # taken: never again
        assert [verified(channel, request, clock) for request in receiver.requests] == [answered]
        await channel.aclose()


@pytest.mark.parametrize(
    ("button", "status"), [("pay", ChannelStatus.CAPTURED), ("fail", ChannelStatus.DECLINED)]
)
async def test_a_checkout_calls_back_once_when_the_person_has_decided(
    tmp_path: Path, clock: FakeClock, receiver: Receiver, button: str, status: ChannelStatus
) -> None:
    async with (
        running_sandbox(tmp_path, clock=clock, callback_url=receiver.url) as running,
        httpx.AsyncClient(trust_env=False) as person,
    ):
        channel = running.channel()
        url = cashier_url(await checkout(channel, clock))
        assert await running.sandbox.run_once() == 0
        for _ in range(3):
            await person.post(f"{url}/{button}")
        assert await running.sandbox.run_once() == 1
        assert [verified(channel, request, clock).status for request in receiver.requests] == [
            status
        ]
        await channel.aclose()


async def test_an_expired_checkout_is_closed_and_told_without_anybody_asking(
    tmp_path: Path, clock: FakeClock, receiver: Receiver
) -> None:
    async with running_sandbox(tmp_path, clock=clock, callback_url=receiver.url) as running:
        channel = running.channel()
        await checkout(channel, clock, lives_seconds=60)
        clock.advance(60)
        assert await running.sandbox.run_once() == 2  # closed, and told
        assert [verified(channel, request, clock).status for request in receiver.requests] == [
            ChannelStatus.CLOSED
        ]
        await channel.aclose()


async def test_closing_calls_nobody_back(
    tmp_path: Path, clock: FakeClock, receiver: Receiver
) -> None:
    async with running_sandbox(tmp_path, clock=clock, callback_url=receiver.url) as running:
        channel = running.channel()
        await checkout(channel, clock)
        await channel.close("ATT1", timeout_seconds=PATIENCE)
        await channel.close("ATT2", timeout_seconds=PATIENCE)
        assert await running.sandbox.run_once() == 0
        await channel.aclose()


async def test_a_signed_outcome_leaves_the_hint_the_first_word(
    tmp_path: Path, clock: FakeClock, receiver: Receiver
) -> None:
    async with running_sandbox(
        tmp_path, clock=clock, callback_url=receiver.url, signed_callback_delay_seconds=60
    ) as running:
        channel = running.channel()
        await checkout(channel, clock)
        await channel.sign(
            attempt_id="ATT1", callback_status="SUCCESS", timeout_seconds=PATIENCE, **VECTOR
        )
        assert await running.sandbox.run_once() == 0
        clock.advance(60)
        assert await running.sandbox.run_once() == 1
        await channel.aclose()


@pytest.mark.parametrize(
    "refusal",
    [
        http_answer(b"SUCCESS"),
        http_answer(b"success\n"),
        http_answer(b""),
        http_answer(b'{"code":"00000"}'),
        http_answer(b"success", status="202 Accepted"),
        http_answer(b"success", status="500 Internal Server Error"),
        http_answer(b"success", status="302 Found", headers="location: /elsewhere\r\n"),
        b"garbage\r\n\r\n",
        b"",
    ],
)
async def test_only_success_ends_a_callback(
    tmp_path: Path, clock: FakeClock, receiver: Receiver, refusal: bytes
) -> None:
    receiver.answers = [refusal]
    async with running_sandbox(
        tmp_path, clock=clock, callback_url=receiver.url, callback_retry_seconds=(1,)
    ) as running:
        channel = running.channel()
        await charge(channel)
        assert await running.sandbox.run_once() == 1
        assert len(receiver.requests) == 1  # a redirect is not followed
        clock.advance(1)
        assert await running.sandbox.run_once() == 1
        assert await running.sandbox.run_once() == 0
        await channel.aclose()


async def test_callbacks_are_repeated_on_schedule_with_the_same_bytes_and_fresh_signatures(
    tmp_path: Path, clock: FakeClock, receiver: Receiver
) -> None:
    receiver.answers = [http_answer(b"busy", status="503 Service Unavailable")] * 9
    async with running_sandbox(
        tmp_path, clock=clock, callback_url=receiver.url, callback_retry_seconds=(1, 5, 600)
    ) as running:
        channel = running.channel()
        answered = await charge(channel)
        assert await running.sandbox.run_once() == 1
        for pause in (1, 5, 600):
            clock.advance(pause - 0.001)
            assert await running.sandbox.run_once() == 0
            clock.advance(0.001)
            assert await running.sandbox.run_once() == 1
            # 10 minutes later: fresh again
            assert verified(channel, receiver.requests[-1], clock) == answered
        clock.advance(10**6)
        assert await running.sandbox.run_once() == 0  # given up
        assert len(receiver.requests) == 4
        assert len(set(receiver.bodies())) == 1
        await channel.aclose()


async def test_a_delivery_that_hangs_ends_in_time_and_holds_up_no_other(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandbox.deliveries.SEND_TIMEOUT_SECONDS", 0.2)
    hanging = asyncio.Event()
    came: list[bytes] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(await reader.readuntil(b"\r\n\r\n"))
        if len(came) == 1:
            await hanging.wait()
        writer.write(http_answer(b"success"))
        await writer.drain()

    async with (
        raw_server(take) as url,
        running_sandbox(
            tmp_path, clock=clock, callback_url=url, callback_retry_seconds=(1,)
        ) as running,
    ):
        channel = running.channel()
        await charge(channel, "ATT1")
        await charge(channel, "ATT2")
        assert await running.sandbox.run_once() == 2
        clock.advance(1)
        assert await running.sandbox.run_once() == 1  # only the one that hung
        await channel.aclose()


async def test_a_callback_wakes_the_worker_at_once(
    tmp_path: Path, clock: FakeClock, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandbox.service.IDLE_SECONDS", 1000)
    taken = asyncio.Event()
    take = receiver.take

    async def take_and_tell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take(reader, writer)
        taken.set()

    async with (
        raw_server(take_and_tell) as url,
        running_sandbox(tmp_path, clock=clock, callback_url=url) as running,
    ):
        background = asyncio.create_task(running.sandbox.run())
        channel = running.channel()
        await charge(channel)
        await asyncio.wait_for(taken.wait(), PATIENCE)
        background.cancel()
        await asyncio.gather(background, return_exceptions=True)
        await channel.aclose()


async def test_a_restart_keeps_the_truth_and_the_callbacks_that_are_owed(
    tmp_path: Path, clock: FakeClock, receiver: Receiver
) -> None:
    receiver.answers = [http_answer(b"no", status="500 Internal Server Error")]
    async with running_sandbox(tmp_path, clock=clock, callback_url=receiver.url) as running:
        channel = running.channel()
        paid = await charge(channel, "ATT1")
        await running.sandbox.run_once()
        declined = await charge(channel, "ATT2", "4000000000000002")
        opened = await checkout(channel, clock, "ATT3")
        await channel.close("ATT4", timeout_seconds=PATIENCE)
        await channel.aclose()
    clock.advance(1)
    async with running_sandbox(
        tmp_path, clock=clock, callback_url=receiver.url, ids=ShiftedIds(1000)
    ) as running:
        channel = running.channel()
        assert [
            await charge(channel, "ATT1"),
            await charge(channel, "ATT2", "4000000000000002"),
        ] == [paid, declined]
        again = await checkout(channel, clock, "ATT3")
        assert cashier_url(again).rpartition("/")[2] == cashier_url(opened).rpartition("/")[2]
        assert (await charge(channel, "ATT4")).status is ChannelStatus.CLOSED
        assert await running.sandbox.run_once() == 2
        assert {
            fact.attempt_id
            for fact in (verified(channel, request, clock) for request in receiver.requests[1:])
        } == {"ATT1", "ATT2"}
        await channel.aclose()


async def test_callbacks_go_to_the_configured_address_and_through_no_proxy(
    tmp_path: Path, clock: FakeClock, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    async with running_sandbox(tmp_path, clock=clock, callback_url=receiver.url) as running:
        channel = running.channel()
        await charge(channel)
        await running.sandbox.run_once()
        assert len(receiver.requests) == 1
        await channel.aclose()


async def test_without_a_receiver_no_callbacks_pile_up(
    tmp_path: Path, clock: FakeClock, receiver: Receiver
) -> None:
    async with running_sandbox(tmp_path, clock=clock) as running:
        channel = running.channel()
        await charge(channel)
        await channel.aclose()
    async with running_sandbox(tmp_path, clock=clock, callback_url=receiver.url) as running:
        assert await running.sandbox.run_once() == 0


def callback(
    clock: FakeClock, *, secret: str = CALLBACK_SECRET, body: bytes | None = None, **changes: Any
) -> dict[str, Any]:
    values = {
        "event_id": "EVT1",
        "attempt_id": "ATT1",
        "trade_no": "SBX1",
        "status": "CAPTURED",
        "amount": "99.99",
        "currency": "CNY",
        "decline_code": "",
        "message": "captured",
        "occurred_at": "2026-11-20T12:00:00.000Z",
        **changes,
    }
    raw = json.dumps(values).encode() if body is None else body
    timestamp = str(int(clock.now().timestamp() * 1000))
    return {
        "body": raw,
        "timestamp": timestamp,
        "signature": sign_callback(secret, timestamp=timestamp, body=raw),
        "now": clock.now(),
    }


def test_a_genuine_callback_is_read(adapter: SandboxChannel, clock: FakeClock) -> None:
    fact = of_payment(adapter, **callback(clock))
    assert (fact.attempt_id, fact.status, fact.amount, fact.trade_no, fact.occurred_at) == (
        "ATT1",
        ChannelStatus.CAPTURED,
        PRICE,
        "SBX1",
        clock.now(),
    )


@pytest.mark.parametrize(
    "change",
    [
        {"body": b'{"attempt_id":"ATT1"}'},
        {"signature": ""},
        {"signature": "0" * 64},
        {"signature": "Ü"},
        {"signature": "\ud800"},
        {"timestamp": "1795176000001"},
        {"timestamp": ""},
        {"timestamp": "Ü"},
        {"timestamp": "\ud800"},
    ],
)
def test_a_callback_that_was_altered_is_refused(
    adapter: SandboxChannel, clock: FakeClock, change: dict[str, Any]
) -> None:
    with pytest.raises(SignatureInvalid):
        received(adapter, **{**callback(clock), **change})


def test_one_changed_byte_breaks_a_callback(adapter: SandboxChannel, clock: FakeClock) -> None:
    genuine = callback(clock)
    for body in (
        genuine["body"] + b" ",
        genuine["body"].replace(b"99.99", b"99.98"),
        json.dumps(json.loads(genuine["body"]), indent=1).encode(),
    ):
        with pytest.raises(SignatureInvalid):
            received(adapter, **{**genuine, "body": body})


def test_another_secret_signs_nothing_for_us(adapter: SandboxChannel, clock: FakeClock) -> None:
    with pytest.raises(SignatureInvalid):
        received(adapter, **callback(clock, secret=API_KEY))


@pytest.mark.parametrize(
    ("seconds", "is_fresh"),
    [(300, True), (-300, True), (300.001, False), (-300.001, False), (10**8, False)],
)
def test_a_callback_is_good_for_five_minutes(
    adapter: SandboxChannel, clock: FakeClock, seconds: float, is_fresh: bool
) -> None:
    genuine = callback(clock)
    clock.advance(seconds)
    genuine["now"] = clock.now()
    if is_fresh:
        received(adapter, **genuine)
    else:
        with pytest.raises(SignatureInvalid):
            received(adapter, **genuine)


@pytest.mark.parametrize(
    "timestamp", ["0", "1" * 400, "-795176000000", "1795176000000 ", "١٧٩٥١٧٦٠٠٠٠٠٠"]
)
def test_a_signed_timestamp_that_is_no_timestamp_is_refused(
    adapter: SandboxChannel, clock: FakeClock, timestamp: str
) -> None:
    genuine = callback(clock)
    signature = sign_callback(CALLBACK_SECRET, timestamp=timestamp, body=genuine["body"])
    with pytest.raises(SignatureInvalid):
        received(adapter, **{**genuine, "timestamp": timestamp, "signature": signature})


@pytest.mark.parametrize(
    "change",
    [
        {"amount": "1e3"},
        {"amount": 99.99},
        {"amount": None},
        {"currency": "XXX"},
        {"currency": None},
        {"status": "PAID"},
        {"status": None},
        {"trade_no": ""},
        {"trade_no": "x" * 65},
        {"occurred_at": "yesterday"},
    ],
)
def test_a_genuine_callback_that_makes_no_sense_is_unknown(
    adapter: SandboxChannel, clock: FakeClock, change: dict[str, Any]
) -> None:
    fact = of_payment(adapter, **callback(clock, **change))
    assert (fact.attempt_id, fact.status, fact.amount) == ("ATT1", ChannelStatus.UNKNOWN, None)


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"[]", b"\xff", b"[" * 100_000, b'{"attempt_id":"a/b"}', b'{"attempt_id":1}'],
)
def test_a_genuine_callback_about_nothing_is_refused_by_name(
    adapter: SandboxChannel, clock: FakeClock, body: bytes
) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        received(adapter, **callback(clock, body=body))
    assert list(refusal.value.fields) == ["body"]

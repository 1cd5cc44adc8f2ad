"""Refunds over the wire: idempotent by our id, never above the capture, and every way a call can
end is a fact.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mesh.errors import InvalidArgument
from mesh.money import Money
from payment_rpc.channels.sandbox.channel import SandboxChannel
from payment_rpc.domain.errors import SignatureInvalid
from payment_rpc.domain.refund_facts import RefundChannelStatus, RefundFact
from sandbox.signatures import sign_callback
from tests.support.fakes import EPOCH, FakeClock
from tests.support.sandbox_server import (
    CALLBACK_SECRET,
    PATIENCE,
    Receiver,
    RunningSandbox,
    adapter_to,
    charge,
    http_answer,
    query_refund,
    raw_server,
    received,
    refund,
    running_sandbox,
    swallow,
)
from tools.processes import free_port

PENDING, SUCCESS, FAILED, REVERSED = (
    RefundChannelStatus.PENDING,
    RefundChannelStatus.SUCCESS,
    RefundChannelStatus.FAILED,
    RefundChannelStatus.REVERSED,
)
ZERO = Money(0, "CNY")
UNKNOWN = RefundChannelStatus.UNKNOWN


@pytest.fixture
async def running(
    tmp_path: Path, clock: FakeClock, receiver: Receiver
) -> AsyncIterator[RunningSandbox]:
    async with running_sandbox(tmp_path, clock=clock, callback_url=receiver.url) as server:
        yield server


async def query(channel: SandboxChannel, refund_id: str = "RF1") -> RefundFact:
    return await query_refund(channel, refund_id, timeout_seconds=PATIENCE)


async def test_a_refund_gives_back_what_was_captured_and_its_fee(
    channel: SandboxChannel, clock: FakeClock
) -> None:
    await charge(channel)
    clock.advance(7)
    fact = await refund(channel)
    assert fact == RefundFact(
        refund_id="RF1",
        status=SUCCESS,
        channel_refund_no=fact.channel_refund_no,
        message="refunded",
        occurred_at=clock.now(),
        fee_returned=Money(60, "CNY"),
    )
    assert fact.channel_refund_no.startswith("SBR")
    assert await query(channel) == fact


async def test_the_same_refund_again_is_the_same_refund(
    channel: SandboxChannel, clock: FakeClock, receiver: Receiver, running: RunningSandbox
) -> None:
    await charge(channel)
    first = await refund(channel)
    clock.advance(60)
    facts = await asyncio.gather(*(refund(channel) for _ in range(20)))
    assert set(facts) == {first}
    await running.sandbox.run_once()
    assert [json.loads(body)["kind"] for body in receiver.bodies()] == ["payment", "refund"]


@pytest.mark.parametrize(
    "changes",
    [{"amount": Money(9998, "CNY")}, {"amount": Money(9999, "USD")}, {"attempt_id": "ATT2"}],
)
async def test_a_refund_id_is_not_used_for_another_refund(
    channel: SandboxChannel, changes: dict[str, Any]
) -> None:
    await charge(channel)
    await charge(channel, "ATT2")
    first = await refund(channel)
    assert (await refund(channel, **changes)).status is RefundChannelStatus.UNKNOWN
    assert await query(channel) == first


async def test_refunds_never_exceed_the_capture(channel: SandboxChannel) -> None:
    await charge(channel, amount=Money(10000, "CNY"))
    facts = await asyncio.gather(
        *(refund(channel, f"RF{number}", amount=Money(6000, "CNY")) for number in range(8))
    )
    assert sorted(fact.status for fact in facts) == [FAILED] * 7 + [SUCCESS]
    assert {fact.reason for fact in facts if fact.status is FAILED} == {"REFUND_EXCEEDS_REFUNDABLE"}
    assert (await refund(channel, "RF8", amount=Money(4000, "CNY"))).status is SUCCESS
    assert (await refund(channel, "RF9", amount=Money(1, "CNY"))).status is FAILED


async def test_the_fee_comes_back_pro_rata_and_adds_up(channel: SandboxChannel) -> None:
    await charge(channel, amount=Money(10000, "CNY"))
    returned = [
        (await refund(channel, f"RF{number}", amount=Money(minor, "CNY"))).fee_returned
        for number, minor in enumerate((3333, 3333, 3334))
    ]
    assert returned == [Money(19, "CNY"), Money(20, "CNY"), Money(21, "CNY")]


@pytest.mark.parametrize("number", ["4000000000000002", "4000000000000119", ""])
async def test_what_was_not_captured_is_not_refunded(channel: SandboxChannel, number: str) -> None:
    if number:
        await charge(channel, number=number)
    fact = await refund(channel)
    assert (fact.status, fact.reason, fact.fee_returned) == (FAILED, "REFUND_NOT_ALLOWED", None)
    await charge(channel, "ATT2")
    assert (await refund(channel)) == fact  # its id is answered the same for ever


async def test_another_currency_is_not_refunded(channel: SandboxChannel) -> None:
    await charge(channel)
    fact = await refund(channel, amount=Money(100, "USD"))
    assert (fact.status, fact.reason) == (FAILED, "CURRENCY_MISMATCH")


async def test_a_refund_that_the_channel_never_saw_is_not_found(channel: SandboxChannel) -> None:
    assert await query(channel) == RefundFact(refund_id="RF1", status=RefundChannelStatus.NOT_FOUND)


# Callbacks


def verified(
    channel: SandboxChannel, request: tuple[dict[str, str], bytes], clock: FakeClock
) -> Any:
    headers, body = request
    return received(
        channel,
        body=body,
        timestamp=headers["x-channel-timestamp"],
        signature=headers["x-channel-signature"],
        now=clock.now(),
    )


async def test_a_refund_callback_tells_the_same_fact_as_the_answer(
    channel: SandboxChannel, running: RunningSandbox, receiver: Receiver, clock: FakeClock
) -> None:
    paid = await charge(channel)
    done = await refund(channel)
    assert await running.sandbox.run_once() == 2
    assert [verified(channel, request, clock) for request in receiver.requests] == [paid, done]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shop:
    """A shop with its channel and its callback address."""

    channel: SandboxChannel
    running: RunningSandbox
    receiver: Receiver
    clock: FakeClock

    async def told(self) -> list[Any]:
        """What the callbacks that are due now say."""
        self.receiver.requests.clear()
        await self.running.sandbox.run_once()
        return [verified(self.channel, request, self.clock) for request in self.receiver.requests]


@pytest.fixture
def shop(
    channel: SandboxChannel, running: RunningSandbox, receiver: Receiver, clock: FakeClock
) -> Shop:
    return Shop(channel=channel, running=running, receiver=receiver, clock=clock)


@pytest.mark.parametrize(
    ("card", "amount", "told"),
    [
        ("4242424242424242", 7741, [SUCCESS]),
        ("4242424242424242", 7742, [SUCCESS, REVERSED]),
        ("4242424242424242", 7744, [FAILED]),
        ("4000000000007726", 9999, [SUCCESS]),
        ("4000000000005126", 9999, [SUCCESS, REVERSED]),
    ],
)
async def test_a_refund_that_is_accepted_is_decided_later_and_told(
    shop: Shop, card: str, amount: int, told: list[RefundChannelStatus]
) -> None:
    price = Money(amount, "CNY")
    await charge(shop.channel, number=card, amount=price)
    await shop.told()
    accepted = await refund(shop.channel, amount=price)
    assert (accepted.status, accepted.fee_returned) == (PENDING, None)
    facts = []
    for _ in range(3):
        shop.clock.advance(3600)
        facts += await shop.told()
    assert [fact.status for fact in facts] == told
    assert await query(shop.channel) == facts[-1]
    assert (
        facts[-1].reason
        == {SUCCESS: "", REVERSED: "REFUND_REVERSED", FAILED: "REFUND_FAILED"}[told[-1]]
    )


async def test_money_that_is_on_its_way_back_is_not_given_twice_and_money_that_bounced_is(
    channel: SandboxChannel, running: RunningSandbox, clock: FakeClock
) -> None:
    price = Money(7742, "CNY")
    await charge(channel, amount=price)
    assert (await refund(channel, "RF1", amount=price)).status is PENDING
    assert (
        await refund(channel, "RF2", amount=Money(1, "CNY"))
    ).reason == "REFUND_EXCEEDS_REFUNDABLE"
    for _ in range(3):
        clock.advance(3600)
        await running.sandbox.run_once()
    assert await query(channel, "RF1") == RefundFact(
        refund_id="RF1",
        status=REVERSED,
        channel_refund_no=(await query(channel)).channel_refund_no,
        reason="REFUND_REVERSED",
        message="the refund came back: the account is closed",
        occurred_at=clock.now() - (clock.now() - EPOCH) / 3,
        fee_returned=Money(46, "CNY"),
    )
    once_more = await refund(channel, "RF3", amount=Money(7000, "CNY"))
    # the fee came back with the one that bounced
    assert (once_more.status, once_more.fee_returned) == (SUCCESS, ZERO)


def signed(body: bytes) -> dict[str, Any]:
    timestamp = str(int(EPOCH.timestamp() * 1000))
    return {
        "body": body,
        "timestamp": timestamp,
        "signature": sign_callback(CALLBACK_SECRET, timestamp=timestamp, body=body),
    }


def refund_body(**changes: Any) -> bytes:
    return json.dumps(
        {
            "event_id": "EVT1",
            "kind": "refund",
            "refund_id": "RF1",
            "attempt_id": "ATT1",
            "refund_no": "SBR1",
            "status": "SUCCESS",
            "amount": "99.99",
            "currency": "CNY",
            "fee_returned": "0.60",
            "occurred_at": "2026-11-20T12:00:00Z",
            **changes,
        }
    ).encode()


@pytest.mark.parametrize(
    "change",
    [
        {"status": "DONE"},
        {"amount": "many"},
        {"currency": "XXX"},
        {"refund_no": ""},
        {"refund_no": "x" * 65},
    ],
)
async def test_a_genuine_refund_callback_that_makes_no_sense_is_only_doubt(
    change: dict[str, Any],
) -> None:
    fact = received(adapter_to("http://127.0.0.1:1"), **signed(refund_body(**change)), now=EPOCH)
    assert isinstance(fact, RefundFact)
    assert fact.status is RefundChannelStatus.UNKNOWN


@pytest.mark.parametrize(
    "change", [{"kind": "dispute"}, {"refund_id": ""}, {"refund_id": "a b"}, {"kind": 7}]
)
async def test_a_callback_about_nothing_that_we_know_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        received(adapter_to("http://127.0.0.1:1"), **signed(refund_body(**change)), now=EPOCH)


async def test_an_altered_refund_callback_is_refused() -> None:
    genuine = signed(refund_body())
    with pytest.raises(SignatureInvalid):
        received(
            adapter_to("http://127.0.0.1:1"),
            **{**genuine, "body": refund_body(amount="99.98")},
            now=EPOCH,
        )


# Doubt


async def facts_of(
    base_url: str, *, timeout_seconds: float = PATIENCE
) -> list[RefundChannelStatus]:
    channel = adapter_to(base_url)
    try:
        return [
            (await refund(channel, timeout_seconds=timeout_seconds)).status,
            (await query_refund(channel, "RF1", timeout_seconds=timeout_seconds)).status,
        ]
    finally:
        await channel.aclose()


async def test_what_never_left_is_not_sent_and_a_question_that_never_left_says_nothing() -> None:
    assert await facts_of(f"http://127.0.0.1:{free_port()}") == [
        RefundChannelStatus.NOT_SENT,
        RefundChannelStatus.UNKNOWN,
    ]
    assert await facts_of("http://127.0.0.1:1", timeout_seconds=0) == [
        RefundChannelStatus.NOT_SENT,
        RefundChannelStatus.UNKNOWN,
    ]


@pytest.mark.parametrize(
    ("answer", "to_a_question"),
    [
        (http_answer(b"<html>"), UNKNOWN),
        (http_answer(b"{}"), UNKNOWN),
        (http_answer(refund_body(refund_id="RF2")), UNKNOWN),
        # a question knows the id only
        (http_answer(refund_body(attempt_id="ATT2")), SUCCESS),
        (http_answer(refund_body(amount="99.98")), SUCCESS),
        (http_answer(b"oops", status="500 Internal Server Error"), UNKNOWN),
        (
            http_answer(b'{"error":{"code":"conflict","message":""}}', status="409 Conflict"),
            UNKNOWN,
        ),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{", UNKNOWN),
    ],
)
async def test_no_answer_that_we_do_not_understand_is_believed(
    answer: bytes, to_a_question: RefundChannelStatus
) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await swallow(reader)
        writer.write(answer)
        await writer.drain()

    async with raw_server(speak) as url:
        assert await facts_of(url) == [UNKNOWN, to_a_question]


async def test_a_wrong_key_means_that_nothing_was_looked_at(running: RunningSandbox) -> None:
    channel = running.channel(api_key="k" * 32)
    assert (await refund(channel)).status is RefundChannelStatus.NOT_SENT
    assert (await query(channel)).status is RefundChannelStatus.UNKNOWN
    await channel.aclose()

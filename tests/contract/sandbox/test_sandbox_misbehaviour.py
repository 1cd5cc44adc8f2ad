"""The sandbox misbehaves when it is asked to and never otherwise; what is done is done before it is
answered, what comes later survives a restart.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from mesh.money import Money
from payment_rpc.channels.sandbox.channel import SandboxChannel
from payment_rpc.domain.facts import ChannelFact, ChannelStatus
from payment_rpc.domain.refund_facts import RefundChannelStatus
from sandbox.misbehaviour import PAYMENTS, REFUNDS
from tests.support.fakes import FakeClock
from tests.support.sandbox_server import (
    API_KEY,
    PATIENCE,
    Receiver,
    RunningSandbox,
    ShiftedIds,
    cashier_url,
    charge,
    checkout,
    http_answer,
    query_refund,
    raw_server,
    refund,
    running_sandbox,
    swallow,
)

IMPATIENCE = 0.5
CAPTURED, UNKNOWN = ChannelStatus.CAPTURED, ChannelStatus.UNKNOWN


@pytest.fixture
async def running(
    tmp_path: Path, clock: FakeClock, receiver: Receiver
) -> AsyncIterator[RunningSandbox]:
    async with running_sandbox(tmp_path, clock=clock, callback_url=receiver.url) as server:
        yield server


def price(digits: int) -> Money:
    return Money(10_000 + digits, "CNY")


async def query(channel: SandboxChannel, attempt_id: str = "ATT1") -> ChannelFact:
    return await channel.query(attempt_id, timeout_seconds=PATIENCE)


@pytest.mark.parametrize("digits", [7701, 7702, 7713, 7715])
async def test_whatever_becomes_of_the_answer_the_money_has_moved(
    channel: SandboxChannel, digits: int
) -> None:
    assert (
        await charge(channel, amount=price(digits), timeout_seconds=IMPATIENCE)
    ).status is UNKNOWN
    known = await query(channel)
    assert (known.status, known.amount) == (CAPTURED, price(digits))
    # asked again it answers well, and does nothing more
    assert await charge(channel, amount=price(digits)) == known


@pytest.mark.parametrize("digits", [7745, 7746, 7747, 7748])
async def test_whatever_becomes_of_the_answer_the_refund_has_left(
    channel: SandboxChannel, digits: int
) -> None:
    await charge(channel)
    await charge(channel, "ATT2", amount=price(digits))
    assert (
        await refund(channel, attempt_id="ATT2", amount=price(digits), timeout_seconds=IMPATIENCE)
    ).status is RefundChannelStatus.UNKNOWN
    known = await query_refund(channel, "RF1", timeout_seconds=PATIENCE)
    assert known.status is RefundChannelStatus.SUCCESS
    assert await refund(channel, attempt_id="ATT2", amount=price(digits)) == known


async def test_an_error_before_anything_was_done_leaves_nothing_behind(
    channel: SandboxChannel, running: RunningSandbox
) -> None:
    assert (await charge(channel, amount=price(7716))).status is UNKNOWN
    assert (await query(channel)).status is ChannelStatus.NOT_FOUND
    assert (await running.listed())["transactions"] == []


@pytest.mark.parametrize(("amount", "times"), [(7701, 0), (7702, 1), (7703, 2), (7704, 3)])
async def test_a_callback_comes_as_often_as_the_amount_says_with_the_same_bytes(
    channel: SandboxChannel, running: RunningSandbox, receiver: Receiver, amount: int, times: int
) -> None:
    await charge(channel, amount=price(amount), timeout_seconds=IMPATIENCE)
    assert await running.sandbox.run_once() == times
    assert await running.sandbox.run_once() == 0
    assert len(receiver.requests) == times
    assert len(set(receiver.bodies())) == min(times, 1)


async def test_a_callback_can_come_before_the_answer_and_the_worker_does_not_send_it_too(
    tmp_path: Path, clock: FakeClock
) -> None:
    arrived, taken = asyncio.Event(), asyncio.Event()
    requests = 0

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        await swallow(reader)
        requests += 1
        arrived.set()
        await taken.wait()
        writer.write(http_answer(b"success"))
        await writer.drain()

    async with (
        raw_server(hold) as url,
        running_sandbox(tmp_path, clock=clock, callback_url=url) as running,
    ):
        channel = running.channel()
        paying = asyncio.create_task(charge(channel, amount=price(7705)))
        async with asyncio.timeout(PATIENCE):
            await arrived.wait()
        worker = asyncio.create_task(running.sandbox.run_once())
        for _ in range(5):
            await running.listed()  # the file has answered the worker before it answers this
        assert not paying.done()
        taken.set()
        assert (await paying).status is CAPTURED
        assert (await worker, requests) == (0, 1)
        await channel.aclose()


async def test_a_receiver_that_is_away_does_not_keep_the_answer_back(
    tmp_path: Path, clock: FakeClock
) -> None:
    async with running_sandbox(
        tmp_path, clock=clock, callback_url="http://127.0.0.1:1/callbacks"
    ) as running:
        channel = running.channel()
        assert (await charge(channel, amount=price(7705))).status is CAPTURED
        await channel.aclose()


@pytest.mark.parametrize(
    ("digits", "amount"),
    [(7707, Money(17607, "CNY")), (7708, Money(17808, "CNY")), (7709, Money(17709, "USD"))],
)
async def test_what_is_taken_is_not_what_was_asked_for_and_the_channel_says_so(
    channel: SandboxChannel, receiver: Receiver, running: RunningSandbox, digits: int, amount: Money
) -> None:
    taken = await charge(channel, amount=price(digits))
    assert (taken.status, taken.amount) == (CAPTURED, amount)
    assert await charge(channel, amount=price(digits)) == taken
    await running.sandbox.run_once()
    assert (
        json.loads(receiver.bodies()[0])["amount"],
        json.loads(receiver.bodies()[0])["currency"],
    ) == (amount.format(), amount.currency)
    back = await refund(channel, amount=amount)  # all of it can go back, and nothing above it
    assert back.status is RefundChannelStatus.SUCCESS
    assert (
        await refund(channel, "RF2", amount=Money(1, amount.currency))
    ).status is RefundChannelStatus.FAILED


@pytest.mark.parametrize("is_checkout", [False, True])
async def test_a_closed_payment_is_paid_all_the_same(
    channel: SandboxChannel, running: RunningSandbox, clock: FakeClock, is_checkout: bool
) -> None:
    opened = await (
        checkout(channel, clock, amount=price(7706))
        if is_checkout
        else charge(channel, amount=price(7706))
    )
    assert opened.status is ChannelStatus.PENDING
    assert (await channel.close("ATT1", timeout_seconds=PATIENCE)).status is ChannelStatus.CLOSED
    clock.advance(59)
    await running.sandbox.run_once()
    assert (await query(channel)).status is ChannelStatus.CLOSED
    clock.advance(1)
    assert await running.sandbox.run_once() == 2  # it happens, and is told
    assert (await query(channel)).status is CAPTURED
    assert (await channel.close("ATT1", timeout_seconds=PATIENCE)).status is CAPTURED


async def test_what_cannot_be_closed_says_so_every_time_and_outlives_its_deadline(
    channel: SandboxChannel, running: RunningSandbox, clock: FakeClock
) -> None:
    opened = await checkout(channel, clock, amount=price(7710))
    for _ in range(2):
        assert (
            await channel.close("ATT1", timeout_seconds=PATIENCE)
        ).status is ChannelStatus.NOT_CLOSABLE
    clock.advance(86_400)
    await running.sandbox.run_once()
    assert (await query(channel)).status is ChannelStatus.PENDING
    async with httpx.AsyncClient(trust_env=False) as person:
        await person.post(f"{cashier_url(opened)}/pay")
    assert (await channel.close("ATT1", timeout_seconds=PATIENCE)).status is CAPTURED


async def test_a_buyer_is_charged_twice_and_the_second_trade_names_the_first(
    channel: SandboxChannel, running: RunningSandbox, clock: FakeClock, receiver: Receiver
) -> None:
    first = await charge(channel, amount=price(7712))
    clock.advance(60)
    await running.sandbox.run_once()
    second = await query(channel, "ATT1-2")
    assert (second.status, second.amount, second.duplicate_of, first.duplicate_of) == (
        CAPTURED,
        first.amount,
        "ATT1",
        "",
    )
    assert second.trade_no != first.trade_no
    assert await query(channel) == first
    assert [json.loads(body)["duplicate_of"] for body in receiver.bodies()] == ["", "ATT1"]
    clock.advance(3600)
    assert await running.sandbox.run_once() == 0  # twice, not thrice
    for attempt_id in ("ATT1", "ATT1-2"):
        assert (
            await refund(channel, f"RF{attempt_id}", attempt_id, amount=price(7712))
        ).status is RefundChannelStatus.SUCCESS


@pytest.mark.parametrize(
    ("digits", "first", "then"),
    [
        (7717, ChannelStatus.PENDING, CAPTURED),
        (7718, ChannelStatus.PENDING, ChannelStatus.DECLINED),
        (7719, ChannelStatus.DECLINED, CAPTURED),
    ],
)
async def test_what_comes_later_survives_a_restart_and_is_told(
    tmp_path: Path,
    clock: FakeClock,
    receiver: Receiver,
    *,
    digits: int,
    first: ChannelStatus,
    then: ChannelStatus,
) -> None:
    async with running_sandbox(tmp_path, clock=clock, callback_url=receiver.url) as running:
        channel = running.channel()
        assert (await charge(channel, amount=price(digits))).status is first
        await running.sandbox.run_once()
        await channel.aclose()
    receiver.requests.clear()
    clock.advance(60)
    async with running_sandbox(
        tmp_path,
        clock=clock,
        ids=ShiftedIds(1000),
        callback_url=receiver.url,
        allow_misbehaviour=False,
    ) as running:
        channel = running.channel()
        assert (await query(channel)).status is first
        await running.sandbox.run_once()
        assert (await query(channel)).status is then
        assert [json.loads(body)["status"] for body in receiver.bodies()] == [then]
        await channel.aclose()


async def test_a_pending_charge_that_is_closed_in_time_is_not_paid(
    channel: SandboxChannel, running: RunningSandbox, clock: FakeClock
) -> None:
    await charge(channel, amount=price(7717))
    await channel.close("ATT1", timeout_seconds=PATIENCE)
    clock.advance(3600)
    await running.sandbox.run_once()
    assert (await query(channel)).status is ChannelStatus.CLOSED


async def test_a_card_that_is_declined_is_declined_whatever_the_amount(
    channel: SandboxChannel, running: RunningSandbox, clock: FakeClock
) -> None:
    for digits in (7706, 7711, 7712, 7717, 7719):
        await charge(channel, f"ATT{digits}", "4000000000009995", amount=price(digits))
    clock.advance(3600)
    await running.sandbox.run_once()
    assert {row["status"] for row in (await running.listed())["transactions"]} == {"DECLINED"}


async def test_a_switch_makes_it_behave(
    tmp_path: Path, clock: FakeClock, receiver: Receiver
) -> None:
    async with running_sandbox(
        tmp_path, clock=clock, callback_url=receiver.url, allow_misbehaviour=False
    ) as running:
        channel = running.channel()
        for digits in (*PAYMENTS, *REFUNDS):
            paid = await charge(channel, f"ATT{digits}", amount=price(digits))
            back = await refund(channel, f"RF{digits}", f"ATT{digits}", amount=price(digits))
            assert (paid.status, paid.amount, back.status) == (
                CAPTURED,
                price(digits),
                RefundChannelStatus.SUCCESS,
            )
        clock.advance(86_400)
        while await running.sandbox.run_once():
            pass
        assert len(receiver.requests) == 2 * (len(PAYMENTS) + len(REFUNDS))
        await channel.aclose()


@pytest.mark.parametrize(
    ("basis_points", "minor", "fee"),
    [
        (60, 10_000, "0.60"),
        (60, 83, "0.00"),
        (60, 84, "0.01"),
        (0, 10_000, "0.00"),
        (125, 9_999, "1.25"),
    ],
)
async def test_the_fee_is_rounded_half_up_and_never_below_nothing(
    tmp_path: Path, basis_points: int, minor: int, fee: str
) -> None:
    async with running_sandbox(tmp_path, fee_basis_points=basis_points) as running:
        channel = running.channel()
        paid = await charge(channel, amount=Money(minor, "CNY"))
        assert paid.fee == Money.parse(fee, "CNY", allow_zero=True)
        await channel.aclose()


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"refund_id": "a b"},
        {"amount": "0"},
        {"amount": "1.001"},
        {"currency": "XXX"},
        {"reason": "x" * 257},
        {"more": 1},
    ],
)
async def test_a_malformed_refund_is_refused_and_not_recorded(
    running: RunningSandbox, body: dict[str, Any]
) -> None:
    good = {"refund_id": "RF1", "attempt_id": "ATT1", "amount": "1.00", "currency": "CNY"}
    async with httpx.AsyncClient(
        trust_env=False, base_url=running.base_url, headers={"authorization": f"Bearer {API_KEY}"}
    ) as client:
        answer = await client.post("/v1/refunds", json={**good, **body} if body else {})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
        assert (await client.get("/v1/refunds/RF1")).status_code == 404
        assert (
            await client.post("/v1/refunds", json=good, headers={"authorization": "Bearer wrong"})
        ).status_code == 401

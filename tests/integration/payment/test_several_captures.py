"""Held money that a shop takes in several parts (docs/protocols.md 1, Held money)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from mesh.errors import IdempotencyKeyReused, InvalidArgument, MeshError
from mesh.money import Money, RequestedAmount
from order_rpc.domain.order import OrderState
from payment_rpc.domain.errors import (
    CardDeclined,
    PaymentInProgress,
    PaymentStateInvalid,
    RefundNotAllowed,
)
from payment_rpc.domain.facts import ChannelFact, ChannelStatus
from payment_rpc.domain.payment import Disposition, Payment, PaymentState
from payment_rpc.store import attempts, own_records
from payment_rpc.tables import ATTEMPT, LEDGER_TRANSACTION, REFUND
from payment_rpc.usecases.captures import CapturePayment
from payment_rpc.usecases.refund_start import CreateRefund
from tests.builders.holding_channel import SHOP, HoldingChannel, held_payment, holding
from tests.builders.payment import LEASE_SECONDS, PaymentWorld

S = PaymentState


def cny(units: int) -> Money:
    return Money(units * 100, "CNY")


async def capture(
    world: PaymentWorld, payment: Payment, amount: str = "", *, keep: bool = True, key: str = ""
) -> Payment:
    return await world.app.captures.capture_payment(
        CapturePayment(
            payment_id=payment.payment_id,
            amount=RequestedAmount(amount, ""),
            keep_rest=keep,
            key=key,
        ),
        SHOP,
    )


async def void(world: PaymentWorld, payment: Payment) -> Payment:
    return await world.app.captures.void_payment(payment.payment_id, SHOP)


async def outcome(call: Any) -> str:
    """The state that a call answers, or the name of its refusal."""
    try:
        return str((await call).state)
    except MeshError as refused:
        return type(refused).__name__


def taken(channel: HoldingChannel) -> int:
    """What the channel took in all, in minor units."""
    return sum(amount.minor for amount in channel.done.values())


async def expect(world: PaymentWorld, payment: Payment, state: PaymentState, units: int) -> Payment:
    """A payment has a state and money, the channel took as much, and the books hold."""
    found = await world.payment(payment.payment_id)
    assert (found.state, found.captured) == (state, cny(units))
    assert await world.ledger_problems() == []
    return found


async def test_a_hold_is_taken_in_parts_and_its_order_hears_of_it_once_at_the_end(
    world: PaymentWorld,
) -> None:
    channel, order = holding(world), await world.order()
    held = await held_payment(world, channel, order)
    first = await capture(world, held, "30.00")
    assert (first.state, first.captured) == (S.AUTHORIZED, cny(30))
    assert await world.credit_balance("merchant_payable") == 3000
    await expect(world, held, S.AUTHORIZED, 30)
    second = await capture(world, held, "20.00")
    assert (second.state, second.captured) == (S.AUTHORIZED, cny(50))
    await world.finish()
    assert await world.order_state(order) is OrderState.PENDING_PAYMENT
    with pytest.raises(InvalidArgument, match="amount"):
        await capture(world, held, "50.01")
    last = await capture(world, held, "40.00", keep=False)
    assert (last.state, last.captured) == (S.SUCCESS, cny(90))
    await world.finish()
    assert await world.order_state(order) is OrderState.PAID
    paid = await expect(world, held, S.SUCCESS, 90)
    assert paid.disposition is Disposition.APPLIED
    assert [amount for _, amount in channel.captures] == [cny(30), cny(20), cny(40)]
    keys = [row["business_key"] for row in await world.rows(LEDGER_TRANSACTION)]
    assert len({key for key in keys if ":captured" in key}) == 3
    assert await world.attention() == []


async def test_a_statement_is_compared_with_the_fees_of_all_captures_of_a_hold(
    world: PaymentWorld,
) -> None:
    channel = holding(world)
    held = await held_payment(world, channel)
    [attempt_id] = channel.facts
    for fee, amount, keep in ((3, "30.00", True), (5, "20.00", True), (9, "40.00", False)):
        channel.facts[attempt_id] = replace(channel.facts[attempt_id], fee=cny(fee))
        await capture(world, held, amount, keep=keep)
    found = await world.db.read(own_records.captures_named, [attempt_id], channel=held.channel)
    assert (found[attempt_id].amount, found[attempt_id].fee) == (cny(90), cny(9))
    assert (await expect(world, held, S.SUCCESS, 90)).fee == cny(9)


async def test_the_last_part_ends_the_hold_whatever_is_said_of_a_rest(world: PaymentWorld) -> None:
    channel = holding(world)
    held = await held_payment(world, channel)
    await capture(world, held, "30.00")
    paid = await capture(world, held, "70.00")
    assert (paid.state, paid.captured) == (S.SUCCESS, cny(100))


async def test_a_channel_that_takes_a_hold_once_keeps_no_rest(world: PaymentWorld) -> None:
    channel = holding(world)
    channel._capabilities = replace(channel.capabilities, multiple_captures=False)
    held = await held_payment(world, channel)
    with pytest.raises(InvalidArgument) as refused:
        await capture(world, held, "30.00", key="K1")
    assert set(refused.value.fields) == {"keep_rest"}
    assert channel.captures == []
    assert (await capture(world, held, "", key="K1")).state is S.SUCCESS


async def test_the_rest_is_let_go_and_the_parts_stay(world: PaymentWorld) -> None:
    channel, order = holding(world), await world.order()
    held = await held_payment(world, channel, order)
    await capture(world, held, "30.00")
    with pytest.raises(PaymentStateInvalid):
        await world.app.cancellation.cancel_payment(held.payment_id, SHOP)
    await expect(world, held, S.AUTHORIZED, 30)
    assert (await void(world, held)).state is S.SUCCESS
    assert (await void(world, held)).captured == cny(30)
    with pytest.raises(PaymentStateInvalid, match="captured already"):
        await capture(world, held, "10.00")
    await world.finish()
    await expect(world, held, S.SUCCESS, 30)
    assert await world.order_state(order) is OrderState.PAID


async def test_the_rest_is_let_go_at_the_end_of_the_hold(world: PaymentWorld) -> None:
    channel = holding(world)
    held = await held_payment(world, channel)
    await capture(world, held, "30.00")
    world.clock.advance((held.expires_at - world.clock.now()).total_seconds())
    await world.finish()
    await expect(world, held, S.SUCCESS, 30)


async def test_a_hold_that_the_channel_ended_ends_with_what_was_taken(world: PaymentWorld) -> None:
    channel = holding(world)
    held = await held_payment(world, channel)
    await capture(world, held, "30.00")
    channel.let_go(next(iter(channel.facts)))
    paid = await capture(world, held, "20.00", key="K2")
    assert (paid.state, paid.captured) == (S.SUCCESS, cny(30))
    await expect(world, held, S.SUCCESS, 30)


async def test_nothing_goes_back_while_a_rest_is_held(world: PaymentWorld) -> None:
    held = await held_payment(world, holding(world))
    await capture(world, held, "30.00")
    with pytest.raises(RefundNotAllowed):
        await world.app.refunds.create_refund(
            CreateRefund(
                payment_id=held.payment_id,
                amount=RequestedAmount("10.00"),
                reason="",
                request_id="",
                key="",
            ),
            SHOP,
        )
    assert await world.rows(REFUND) == []


# --- keys, refusals, lost answers -----------------------------------------------------------------


async def test_each_key_has_the_answer_of_its_own_capture(world: PaymentWorld) -> None:
    channel = holding(world)
    held = await held_payment(world, channel)
    channel.says = [ChannelStatus.DECLINED]
    with pytest.raises(CardDeclined):
        await capture(world, held, "30.00", key="K0")
    first = await capture(world, held, "30.00", key="K1")
    second = await capture(world, held, "20.00", key="K2")
    assert await capture(world, held, "30.00", key="K1") == first
    assert await capture(world, held, "20.00", key="K2") == second
    with pytest.raises(IdempotencyKeyReused):
        await capture(world, held, "30.00", key="K1", keep=False)
    assert taken(channel) == 5000
    # what took nothing is not answered with the capture of another key
    third = await capture(world, held, "30.00", key="K0")
    assert (third.captured, taken(channel)) == (cny(80), 8000)


async def test_a_part_whose_answer_was_lost_is_asked_for_and_counted_once(
    world: PaymentWorld,
) -> None:
    channel = holding(world)
    held = await held_payment(world, channel)
    await capture(world, held, "30.00")
    channel.lose_answers = True
    assert (await capture(world, held, "20.00", key="K2")).captured == cny(30)
    channel.lose_answers = False
    with pytest.raises(PaymentInProgress):
        await capture(world, held, "10.00")
    with pytest.raises(PaymentStateInvalid, match="being captured"):
        await void(world, held)
    await world.finish()
    await expect(world, held, S.AUTHORIZED, 50)
    assert (await capture(world, held, "20.00", key="K2")).captured == cny(50)
    assert (len(channel.captures), taken(channel)) == (2, 5000)


async def test_a_part_that_did_not_arrive_is_sent_again_under_its_key_and_keeps_the_rest(
    world: PaymentWorld,
) -> None:
    channel = holding(world)
    held = await held_payment(world, channel)
    await capture(world, held, "30.00")
    channel.unreachable = True
    await capture(world, held, "20.00")
    channel.unreachable = False
    await world.finish()
    await expect(world, held, S.AUTHORIZED, 50)
    assert channel.captures[1] == channel.captures[2]


async def test_a_capture_is_not_sent_again_once_the_channel_took_more(world: PaymentWorld) -> None:
    channel = holding(world)
    held = await held_payment(world, channel)
    await capture(world, held, "30.00")
    channel.unreachable = True
    await capture(world, held, "20.00")
    channel.unreachable = False
    [attempt] = await world.rows(ATTEMPT)
    channel.take(attempt["attempt_id"], "somebody else", cny(10), is_final=False)
    with capture_logs() as logged:
        for _ in range(3):
            await world.finish()
    assert [amount for _, amount in channel.captures] == [cny(30), cny(20)]
    await expect(world, held, S.AUTHORIZED, 30)
    assert {kind for kind, _ in await world.attention()} == {"CAPTURE_CONTRADICTED"}
    assert [line["kind"] for line in logged if "alert" in line] == ["CAPTURE_CONTRADICTED"]


async def test_a_refusal_of_a_call_that_outlived_its_lease_proves_nothing(
    world: PaymentWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = holding(world)
    held = await held_payment(world, channel)
    first_call, calls = channel.capture, []

    async def slow(attempt_id: str, **call: Any) -> Any:
        calls.append(call["capture_id"])
        if len(calls) > 1:
            return await first_call(attempt_id, **call)
        world.clock.advance(LEASE_SECONDS + 1)
        await world.app.polling.run_once()  # sends it again, and the answer is lost
        return ChannelFact(attempt_id=attempt_id, status=ChannelStatus.DECLINED)

    monkeypatch.setattr(channel, "capture", slow)
    channel.says = [ChannelStatus.UNKNOWN]
    assert (await capture(world, held, "30.00")).captured == cny(0)
    with pytest.raises(PaymentInProgress):
        await capture(world, held, "20.00")
    await world.finish()
    await expect(world, held, S.AUTHORIZED, 30)
    assert set(calls) == {calls[0]}


async def test_a_capture_is_repeated_by_who_saw_it(world: PaymentWorld) -> None:
    channel = holding(world)
    held = await held_payment(world, channel)
    channel.unreachable = True
    await capture(world, held, "30.00")
    [seen] = await world.db.read(attempts.attempts_of, held.payment_id)
    channel.unreachable = False
    await world.finish()
    channel.unreachable = True
    await capture(world, held, "20.00")
    world.clock.advance(LEASE_SECONDS + 1)
    steps = world.app.polling._steps
    assert await steps.repeat_capture(seen, channel.capabilities) is None
    [present] = await world.db.read(attempts.attempts_of, held.payment_id)
    assert await steps.repeat_capture(present, channel.capabilities) is not None


async def test_old_news_of_a_hold_take_nothing_back_and_count_nothing_again(
    world: PaymentWorld,
) -> None:
    channel = holding(world)
    held = await held_payment(world, channel)
    attempt_id = next(iter(channel.facts))
    news = [channel.facts[attempt_id]]
    for _ in range(3):
        await capture(world, held, "20.00")
        news.append(channel.facts[attempt_id])
    for fact in [*news, *reversed(news)]:
        await world.app.channel_results.apply(fact)
    await expect(world, held, S.AUTHORIZED, 60)
    await void(world, held)
    for fact in news:
        await world.app.channel_results.apply(fact)
    await expect(world, held, S.SUCCESS, 60)
    assert await world.attention() == []


# --- races ----------------------------------------------------------------------------------------


async def test_of_two_captures_of_the_rest_at_once_one_is_begun(
    world: PaymentWorld, rounds: Callable[[int, int], int]
) -> None:
    channel = holding(world)
    for _ in range(rounds(3, 1000)):
        held, before = await held_payment(world, channel), taken(channel)
        await capture(world, held, "30.00")
        said = await asyncio.gather(
            outcome(capture(world, held)), outcome(capture(world, held, keep=False))
        )
        assert max(said) == "SUCCESS", said
        assert min(said) in ("PaymentInProgress", "PaymentStateInvalid"), said
        assert taken(channel) == before + 10000
        await world.payment(held.payment_id)
    assert await world.ledger_problems() == []


async def test_a_capture_of_the_rest_and_a_void_at_once_end_with_what_was_taken(
    world: PaymentWorld, rounds: Callable[[int, int], int]
) -> None:
    channel = holding(world)
    for number in range(rounds(3, 1000)):
        held, before = await held_payment(world, channel), taken(channel)
        await capture(world, held, "30.00")
        calls = [outcome(capture(world, held)), outcome(void(world, held))]
        if number % 2:
            calls.reverse()
        said = await asyncio.gather(*calls)
        after = await world.payment(held.payment_id)
        assert after.state is S.SUCCESS, said
        assert after.captured.minor == taken(channel) - before
        assert sorted(said) == ["PaymentStateInvalid", "SUCCESS"], said
    assert await world.ledger_problems() == []


async def test_a_capture_of_the_rest_and_the_end_of_the_hold_at_once_lose_nothing(
    world: PaymentWorld, rounds: Callable[[int, int], int]
) -> None:
    channel = holding(world)
    for number in range(rounds(3, 1000)):
        held, before = await held_payment(world, channel), taken(channel)
        await capture(world, held, "30.00")
        world.clock.advance((held.expires_at - world.clock.now()).total_seconds() - 1)
        said, _ = await asyncio.gather(
            outcome(capture(world, held)), _end_of_hold(world, turns=10 * (number % 3))
        )
        await world.finish()
        after = await world.payment(held.payment_id)
        assert after.state is S.SUCCESS, said
        assert after.captured.minor == taken(channel) - before
    assert await world.ledger_problems() == []


async def _end_of_hold(world: PaymentWorld, *, turns: int) -> None:
    """The deadline of a hold passes, so many turns of the loop from now."""
    for _ in range(turns):
        await asyncio.sleep(0)
    world.clock.advance(1)
    await world.app.expiry.run_once()

"""Captures and voids of held money: one of them wins, a lost answer is asked for, and a capture
that has not arrived is sent again under its key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from mesh.call import Caller, Role
from mesh.errors import IdempotencyKeyReused, InvalidArgument, MeshError, MoneyError
from mesh.money import Money, RequestedAmount
from order_rpc.domain.order import OrderState
from payment_rpc.domain.errors import (
    CardDeclined,
    ChannelFailed,
    ChannelUnavailable,
    CurrencyMismatch,
    PaymentClosed,
    PaymentInProgress,
    PaymentNotFound,
    PaymentStateInvalid,
)
from payment_rpc.domain.facts import ChannelStatus
from payment_rpc.domain.payment import Disposition, Payment, PaymentState
from payment_rpc.store import attempts
from payment_rpc.tables import ATTEMPT, SCAN_ACTION
from payment_rpc.usecases.cancel import CloseResult
from payment_rpc.usecases.captures import CapturePayment
from tests.builders.holding_channel import HOLD, SHOP, begin_held, held_payment, holding
from tests.builders.order import buyer
from tests.builders.payment import LEASE_SECONDS, PRICE, PaymentWorld

HALF = Money(5000, "CNY")


async def capture(
    world: PaymentWorld,
    payment: Payment,
    amount: str = "",
    *,
    currency: str = "",
    key: str = "",
    caller: Caller = SHOP,
) -> Payment:
    return await world.app.captures.capture_payment(
        CapturePayment(
            payment_id=payment.payment_id, amount=RequestedAmount(amount, currency), key=key
        ),
        caller,
    )


async def void(world: PaymentWorld, payment: Payment, caller: Caller = SHOP) -> Payment:
    return await world.app.captures.void_payment(payment.payment_id, caller)


async def outcome(call: Any) -> str:
    """The state that a call answers, or the name of its refusal."""
    try:
        return str((await call).state)
    except MeshError as refused:
        return type(refused).__name__


async def intended(world: PaymentWorld) -> list[tuple[str, int | None, int]]:
    return [
        (row["capture_id"], row["capture_minor"], row["capture_sends"])
        for row in await world.rows(ATTEMPT)
    ]


# --- capturing ------------------------------------------------------------------------------------


async def test_held_money_is_captured_booked_and_pays_its_order(world: PaymentWorld) -> None:
    channel, order = holding(world), await world.order()
    held = await held_payment(world, channel, order)
    assert (held.state, await world.credit_balance("merchant_payable")) == (
        PaymentState.AUTHORIZED,
        0,
    )
    paid = await capture(world, held)
    assert (paid.state, paid.captured, paid.amount) == (PaymentState.SUCCESS, PRICE, PRICE)
    assert channel.captures == [(channel.captures[0][0], PRICE)]
    await world.finish()
    assert await world.order_state(order) is OrderState.PAID
    assert await world.ledger_problems() == []


async def test_a_part_is_captured_and_the_rest_is_let_go(world: PaymentWorld) -> None:
    channel, order = holding(world), await world.order()
    paid = await capture(world, await held_payment(world, channel, order), "50.00")
    assert (paid.state, paid.captured, paid.amount) == (PaymentState.SUCCESS, HALF, PRICE)
    assert [amount for _, amount in channel.captures] == [HALF]
    await world.finish()
    assert await world.order_state(order) is OrderState.PAID
    assert (await world.payment(paid.payment_id)).disposition is Disposition.APPLIED
    assert await world.attention() == []
    assert await world.ledger_problems() == []


@pytest.mark.parametrize(
    ("amount", "currency", "refusal"),
    [
        ("100.01", "", InvalidArgument),
        ("0", "", InvalidArgument),
        ("0.001", "", InvalidArgument),
        ("50.00", "USD", CurrencyMismatch),
    ],
)
async def test_what_cannot_be_captured_is_refused_before_anything_is_sent(
    world: PaymentWorld, amount: str, currency: str, refusal: type[MeshError]
) -> None:
    channel = holding(world)
    held = await held_payment(world, channel)
    with pytest.raises(refusal):
        await capture(world, held, amount, currency=currency)
    assert (channel.captures, await intended(world)) == ([], [("", None, 0)])


async def test_another_shop_and_a_payment_that_is_not_there_find_nothing(
    world: PaymentWorld,
) -> None:
    held = await held_payment(world, holding(world))
    other = Caller(role=Role.MERCHANT, subject="other", merchant_id="other")
    for call in (capture(world, held, caller=other), void(world, held, other)):
        with pytest.raises(PaymentNotFound):
            await call


async def test_money_that_is_not_held_is_neither_captured_nor_let_go(world: PaymentWorld) -> None:
    channel = holding(world)
    payment, _ = await begin_held(world, await world.order())
    for call in (capture(world, payment), void(world, payment)):
        with pytest.raises(PaymentStateInvalid, match="PAYING holds no money"):
            await call
    assert channel.captures == []


async def test_money_is_captured_once(world: PaymentWorld) -> None:
    channel = holding(world)
    held = await held_payment(world, channel)
    await capture(world, held, "50.00")
    for call in (capture(world, held, "50.00"), void(world, held)):
        with pytest.raises(PaymentStateInvalid, match="captured already"):
            await call
    assert len(channel.captures) == 1


async def test_money_that_was_let_go_is_not_captured(world: PaymentWorld) -> None:
    channel, order = holding(world), await world.order()
    held = await held_payment(world, channel, order)
    gone = await void(world, held)
    assert (gone.state, gone.captured) == (PaymentState.CLOSED, Money(0, "CNY"))
    assert (await void(world, held)).state is PaymentState.CLOSED
    with pytest.raises(PaymentStateInvalid, match="was let go"):
        await capture(world, held)
    assert channel.captures == []
    assert await world.order_state(order) is OrderState.PENDING_PAYMENT


async def test_a_hold_that_is_over_is_not_captured_even_before_the_scan_comes(
    world: PaymentWorld,
) -> None:
    channel = holding(world)
    held = await held_payment(world, channel)
    world.clock.advance(HOLD.total_seconds())
    with pytest.raises(PaymentStateInvalid, match="hold is over"):
        await capture(world, held)
    assert channel.captures == []


# --- keys, refusals, lost answers -----------------------------------------------------------------


async def test_the_same_key_gets_the_first_answer_and_captures_once(world: PaymentWorld) -> None:
    channel = holding(world)
    held = await held_payment(world, channel)
    first = await capture(world, held, "50.00", key="K1")
    assert await capture(world, held, "50.0", key="K1") == first
    with pytest.raises(IdempotencyKeyReused):
        await capture(world, held, "60.00", key="K1")
    assert len(channel.captures) == 1


@pytest.mark.parametrize(
    ("status", "refusal"),
    [
        (ChannelStatus.DECLINED, CardDeclined),
        (ChannelStatus.FAILED, ChannelFailed),
        (ChannelStatus.NOT_SENT, ChannelUnavailable),
        (ChannelStatus.AUTHORIZED, ChannelFailed),  # how Stripe and PayPal answer a refusal
    ],
)
async def test_a_capture_that_took_nothing_leaves_the_money_held(
    world: PaymentWorld, status: ChannelStatus, refusal: type[MoneyError]
) -> None:
    channel = holding(world)
    held = await held_payment(world, channel)
    channel.says = [status]
    with pytest.raises(refusal) as refused:
        await capture(world, held, key="K1")
    assert refused.value.safe_to_retry
    assert (await world.payment(held.payment_id)).state is PaymentState.AUTHORIZED
    assert await intended(world) == [("", None, 0)]
    assert (await capture(world, held, key="K1")).state is PaymentState.SUCCESS


async def test_money_whose_capture_the_channel_refused_can_be_let_go(world: PaymentWorld) -> None:
    channel = holding(world)
    held = await held_payment(world, channel)
    channel.says = [ChannelStatus.AUTHORIZED]
    with pytest.raises(ChannelFailed):
        await capture(world, held, "50.00")
    assert (await void(world, held)).state is PaymentState.CLOSED
    assert len(channel.captures) == 1


async def test_a_capture_at_a_channel_that_cannot_be_opened_is_not_begun(
    world: PaymentWorld,
) -> None:
    channel = holding(world)
    held = await held_payment(world, channel)
    opened, paid = world.app, await held_payment(world, channel)
    answer = await capture(world, paid, key="K1")
    world.app = world.make_app(channels={"other": channel})
    with pytest.raises(ChannelUnavailable):
        await capture(world, held)
    assert ("", None, 0) in await intended(world)
    assert await capture(world, paid, key="K1") == answer
    world.app = opened
    assert (await void(world, held)).state is PaymentState.CLOSED


async def test_a_capture_whose_answer_was_lost_is_asked_for_and_not_sent_again(
    world: PaymentWorld,
) -> None:
    channel = holding(world)
    held = await held_payment(world, channel)
    channel.lose_answers = True
    assert (await capture(world, held, key="K1")).state is PaymentState.AUTHORIZED
    with pytest.raises(PaymentInProgress):
        await capture(world, held, key="K2")
    assert (await capture(world, held, key="K1")).state is PaymentState.AUTHORIZED
    with pytest.raises(PaymentStateInvalid, match="being captured"):
        await void(world, held)
    channel.lose_answers = False
    await world.finish()
    assert (await capture(world, held, key="K1")).state is PaymentState.SUCCESS
    assert len(channel.captures) == 1
    assert await world.ledger_problems() == []


async def test_a_capture_that_did_not_arrive_is_sent_again_under_its_key(
    world: PaymentWorld,
) -> None:
    channel = holding(world)
    held = await held_payment(world, channel)
    channel.unreachable = True
    await capture(world, held, "50.00")
    channel.unreachable = False
    await world.finish()
    assert (await world.payment(held.payment_id)).captured == HALF
    assert channel.captures == [channel.captures[0]] * 2
    assert "ADVANCE" in {row["action"] for row in await world.rows(SCAN_ACTION)}


async def test_nobody_else_captures_while_the_lease_of_the_first_call_runs(
    world: PaymentWorld,
) -> None:
    channel = holding(world)
    held = await held_payment(world, channel)
    channel.unreachable = True
    await capture(world, held)
    channel.unreachable = False
    [row] = await world.rows(ATTEMPT)
    await world.app.polling.query(await _attempt(world, row["attempt_id"]))
    assert len(channel.captures) == 1


async def test_a_refusal_of_a_capture_that_was_sent_before_proves_nothing(
    world: PaymentWorld,
) -> None:
    channel = holding(world)
    held = await held_payment(world, channel)
    channel.says = [ChannelStatus.UNKNOWN, ChannelStatus.FAILED]
    await capture(world, held)
    world.clock.advance(LEASE_SECONDS + 1)
    await world.app.polling.run_once()
    assert (await world.payment(held.payment_id)).state is PaymentState.AUTHORIZED
    assert [sends for _, _, sends in await intended(world)] == [2]
    await world.finish()
    assert (await world.payment(held.payment_id)).state is PaymentState.SUCCESS


async def test_a_capture_that_is_refused_each_time_is_sent_less_and_less(
    world: PaymentWorld,
) -> None:
    channel = holding(world)
    held = await held_payment(world, channel)
    for _ in range(20):  # it was asked about while it was held
        world.clock.advance(3600)
        await world.app.polling.run_once()
    channel.says = [ChannelStatus.UNKNOWN, *[ChannelStatus.AUTHORIZED] * 1000]
    await capture(world, held)
    sent = []
    for _ in range(12):
        world.clock.advance(LEASE_SECONDS + 1)
        await world.app.polling.run_once()
        sent.append(len(channel.captures))
    assert sent[:2] == [2, 3]
    for _ in range(3 * 24):
        world.clock.advance(3600)
        await world.app.polling.run_once()
    assert sent[-1] < len(channel.captures) < 20
    channel.says = []
    world.clock.advance(86_400)
    await world.app.polling.run_once()
    assert (await world.payment(held.payment_id)).state is PaymentState.SUCCESS


async def test_a_hold_that_ended_before_the_capture_arrived_ends_the_payment(
    world: PaymentWorld,
) -> None:
    channel = holding(world)
    held = await held_payment(world, channel)
    channel.let_go(next(iter(channel.facts)))
    with pytest.raises(PaymentClosed):
        await capture(world, held)
    assert (await world.payment(held.payment_id)).state is PaymentState.CLOSED


# --- who else lets go -----------------------------------------------------------------------------


async def test_a_buyer_cannot_take_held_money_back(world: PaymentWorld) -> None:
    channel, order = holding(world), await world.order()
    held = await held_payment(world, channel, order)
    with pytest.raises(PaymentStateInvalid):
        await world.app.cancellation.cancel_payment(held.payment_id, buyer(order.user_id))
    closed = await world.app.cancellation.close_payment(
        merchant_id="mall", order_id=order.order_id, by_buyer=True
    )
    assert closed.result is CloseResult.HELD
    assert (await world.payment(held.payment_id)).state is PaymentState.AUTHORIZED
    cancelled = await world.app.cancellation.cancel_payment(held.payment_id, SHOP)
    assert cancelled.state is PaymentState.CLOSED


async def test_an_order_past_its_deadline_stays_until_its_held_money_is_decided(
    world: PaymentWorld,
) -> None:
    channel, order = holding(world), await world.order()
    held = await held_payment(world, channel, order)
    world.clock.advance(3600)
    close = await world.app.cancellation.close_payment(merchant_id="mall", order_id=order.order_id)
    assert close.result is CloseResult.HELD
    assert (await world.payment(held.payment_id)).state is PaymentState.AUTHORIZED
    await capture(world, held)
    await world.finish()
    assert await world.order_state(order) is OrderState.PAID


async def test_the_scan_lets_money_go_before_the_channel_does(world: PaymentWorld) -> None:
    channel = holding(world)
    held = await held_payment(world, channel)
    world.clock.advance((held.expires_at - world.clock.now()).total_seconds())
    await world.app.expiry.run_once()
    assert (await world.payment(held.payment_id)).state is PaymentState.CLOSING
    await world.app.polling.run_once()
    assert (await world.payment(held.payment_id)).state is PaymentState.CLOSED
    assert [fact.status for fact in channel.facts.values()] == [ChannelStatus.CLOSED]


async def test_the_end_of_a_hold_waits_for_a_capture_that_is_under_way(
    world: PaymentWorld,
) -> None:
    channel = holding(world)
    held = await held_payment(world, channel)
    channel.unreachable = True
    await capture(world, held)
    world.clock.advance((held.expires_at - world.clock.now()).total_seconds())
    assert await world.app.expiry.run_once() == 1
    assert await world.app.expiry.run_once() == 0  # it waits
    assert (await world.payment(held.payment_id)).state is PaymentState.AUTHORIZED
    channel.unreachable = False
    await world.finish()
    assert (await world.payment(held.payment_id)).state is PaymentState.SUCCESS


async def test_a_void_whose_answer_was_lost_is_finished_by_the_scan(world: PaymentWorld) -> None:
    channel = holding(world)
    held = await held_payment(world, channel)
    channel.unreachable = True
    assert (await void(world, held)).state is PaymentState.CLOSING
    channel.unreachable = False
    await world.finish()
    assert (await world.payment(held.payment_id)).state is PaymentState.CLOSED


# --- races ----------------------------------------------------------------------------------------


async def test_of_a_capture_and_a_void_at_once_one_wins(
    world: PaymentWorld, rounds: Callable[[int, int], int]
) -> None:
    channel = holding(world)
    for number in range(rounds(5, 1000)):
        held = await held_payment(world, channel)
        calls = [outcome(capture(world, held)), outcome(void(world, held))]
        if number % 2:
            calls.reverse()
        said = await asyncio.gather(*calls)
        after = await world.payment(held.payment_id)
        if after.state is PaymentState.SUCCESS:
            assert sorted(said) == ["PaymentStateInvalid", "SUCCESS"], said
        else:
            assert after.state is PaymentState.CLOSED
            assert sorted(said) == ["CLOSED", "PaymentStateInvalid"], said
    assert await world.ledger_problems() == []


async def test_of_two_captures_at_once_one_wins(
    world: PaymentWorld, rounds: Callable[[int, int], int]
) -> None:
    channel = holding(world)
    for _ in range(rounds(5, 1000)):
        held = await held_payment(world, channel)
        before = len(channel.captures)
        said = await asyncio.gather(
            outcome(capture(world, held, "50.00")), outcome(capture(world, held))
        )
        assert sorted(said) in (
            ["PaymentInProgress", "SUCCESS"],
            ["PaymentStateInvalid", "SUCCESS"],
        )
        assert len(channel.captures) == before + 1
    assert await world.ledger_problems() == []


async def _attempt(world: PaymentWorld, attempt_id: str) -> Any:
    return await world.db.read(attempts.get_attempt, attempt_id)

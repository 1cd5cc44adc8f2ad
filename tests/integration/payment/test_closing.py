"""Closing orders and payments: one answer per order, by precedence; money that comes late is never
dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mesh.errors import MoneyError, RequestCanceled
from order_rpc.domain.order import OrderState
from payment_rpc.app import PaymentApp
from payment_rpc.channels.capabilities import Close
from payment_rpc.domain.errors import (
    OrderNotPayable,
    PaymentNotFound,
    PaymentStateInvalid,
)
from payment_rpc.domain.facts import ChannelFact, ChannelStatus
from payment_rpc.domain.payment import Disposition, Payment, PaymentState
from payment_rpc.store import attempts
from payment_rpc.tables import ATTEMPT, PAYMENT
from payment_rpc.usecases.cancel import CloseResult, OrderClosed
from tests.builders.order import PAYMENT_WINDOW, buyer
from tests.builders.payment import (
    CONFIG,
    DECLINED,
    LEASE_SECONDS,
    PRICE,
    PaymentWorld,
    closes_by,
)


async def close(world: PaymentWorld, order_id: str) -> OrderClosed:
    return await world.app.cancellation.close_payment(merchant_id="mall", order_id=order_id)


async def test_an_order_that_nobody_tried_to_pay_is_closed_for_good(world: PaymentWorld) -> None:
    order = await world.order()
    assert (await close(world, order.order_id)).result is CloseResult.CLOSED
    with pytest.raises(OrderNotPayable):
        await world.charge(order)
    assert await world.at_sandbox() == []


async def test_a_paid_order_answers_by_what(world: PaymentWorld) -> None:
    payment = await world.charge(order := await world.order())
    closed = await close(world, order.order_id)
    assert closed.result is CloseResult.ALREADY_PAID
    assert closed.payment is not None
    assert closed.payment.payment_id == payment.payment_id


async def test_a_waiting_cashier_payment_is_closed_at_the_channel_too(world: PaymentWorld) -> None:
    payment = await world.cashier(order := await world.order())
    assert (await close(world, order.order_id)).result is CloseResult.CLOSED
    assert (await world.payment(payment.payment_id)).state is PaymentState.CLOSED
    assert [transaction["status"] for transaction in await world.at_sandbox()] == ["CLOSED"]
    assert (await close(world, order.order_id)).result is CloseResult.CLOSED


async def test_a_failed_payment_does_not_keep_an_order_open(world: PaymentWorld) -> None:
    order = await world.order()
    with pytest.raises(MoneyError):
        await world.charge(order, number=DECLINED)
    assert (await close(world, order.order_id)).result is CloseResult.CLOSED


async def test_a_channel_that_does_not_answer_keeps_the_order_closing(world: PaymentWorld) -> None:
    world.channel.lose_answers = True
    payment = await world.charge(order := await world.order())
    assert payment.state is PaymentState.PAYING
    world.channel.unreachable = True
    assert (await close(world, order.order_id)).result is CloseResult.CLOSING
    world.channel.unreachable = world.channel.lose_answers = False
    closed = await close(world, order.order_id)
    assert closed.result is CloseResult.ALREADY_PAID
    assert (await world.payment(payment.payment_id)).state is PaymentState.SUCCESS


async def test_closing_races_with_charges_and_nobody_is_charged_behind_it(
    world: PaymentWorld, rounds: Callable[[int, int], int]
) -> None:
    for _ in range(rounds(8, 200)):
        order = await world.order()
        charge, closed = await asyncio.gather(
            world.charge(order), close(world, order.order_id), return_exceptions=True
        )
        await world.finish()
        final = await close(world, order.order_id)
        captured = [
            row
            for row in await world.rows(PAYMENT)
            if row["order_id"] == order.order_id and row["captured_minor"]
        ]
        if isinstance(charge, OrderNotPayable):
            assert (final.result, captured) == (CloseResult.CLOSED, [])
        else:
            assert final.result is (CloseResult.ALREADY_PAID if captured else CloseResult.CLOSED)
        if isinstance(closed, OrderClosed) and closed.result is CloseResult.CLOSED:
            assert captured == []


async def test_a_buyer_cancels_his_payment_and_may_pay_again(world: PaymentWorld) -> None:
    payment = await world.cashier(order := await world.order())
    closed = await world.app.cancellation.cancel_payment(payment.payment_id, buyer())
    assert closed.state is PaymentState.CLOSED
    assert (await world.charge(order)).state is PaymentState.SUCCESS


async def test_a_paid_payment_cannot_be_cancelled_and_somebody_elses_is_not_there(
    world: PaymentWorld,
) -> None:
    payment = await world.charge(await world.order())
    with pytest.raises(PaymentStateInvalid):
        await world.app.cancellation.cancel_payment(payment.payment_id, buyer())
    with pytest.raises(PaymentNotFound):
        await world.app.cancellation.cancel_payment(payment.payment_id, buyer("u2"))


async def take_back(world: PaymentWorld, key: str) -> Payment | None:
    return await world.app.cancellation.cancel_by_idempotency_key(
        method="Charge", key=key, merchant_id="mall", caller=buyer()
    )


async def test_a_call_that_is_taken_back_before_it_came_is_refused_when_it_comes(
    world: PaymentWorld,
) -> None:
    order = await world.order()
    assert await take_back(world, "k") is None
    with pytest.raises(RequestCanceled):
        await world.charge(order, key="k")
    assert await world.at_sandbox() == []
    assert (await world.charge(order, key="other")).state is PaymentState.SUCCESS


async def test_a_call_that_began_is_answered_as_it_is(world: PaymentWorld) -> None:
    payment = await world.charge(await world.order(), key="k")
    taken_back = await take_back(world, "k")
    assert taken_back is not None
    assert (taken_back.payment_id, taken_back.state) == (payment.payment_id, PaymentState.SUCCESS)


async def test_money_that_comes_after_the_order_was_cancelled_goes_back(
    world: PaymentWorld,
) -> None:
    world.channel.lose_answers = True
    payment = await world.charge(order := await world.order())
    await world.order_side.force_state(order, OrderState.CANCELLED)
    world.channel.lose_answers = False
    await world.finish()
    refused = await world.payment(payment.payment_id)
    assert (refused.state, refused.disposition, refused.refund_reserved) == (
        PaymentState.LATE_SUCCESS,
        Disposition.REFUSED_CANCELLED,
        PRICE,
    )
    await world.app.refunds.run_once()
    gone = await world.payment(payment.payment_id)
    assert (gone.state, gone.refunded, gone.refund_reserved.minor) == (
        PaymentState.LATE_REFUNDED,
        PRICE,
        0,
    )


async def ask_when_due(world: PaymentWorld, app: PaymentApp, payment: Payment) -> list[float]:
    """Lets the worker ask whenever the payment's attempt is due, until nothing is; the seconds
    since the payment began at which it asked.
    """
    asked = []
    while due := [
        row["next_query_at"]
        for row in await world.rows(ATTEMPT)
        if row["next_query_at"] is not None
    ]:
        world.clock.advance((due[0] - world.clock.now()).total_seconds())
        assert await app.polling.run_once() == 1
        asked.append((world.clock.now() - payment.created_at).total_seconds())
    return asked


@pytest.mark.parametrize("grace_seconds", [300, 60])
async def test_what_a_channel_cannot_close_is_asked_for_and_closed_when_deadline_and_grace_are_over(
    world: PaymentWorld, monkeypatch: pytest.MonkeyPatch, grace_seconds: int
) -> None:
    """Left to the schedule alone the last question before the deadline would put the next one off
    by an hour.
    """

    async def query(attempt_id: str, **call: Any) -> ChannelFact:
        return ChannelFact(attempt_id=attempt_id, status=ChannelStatus.PENDING)

    closes_by(world.channel, Close.NEVER)
    monkeypatch.setattr(world.channel, "query", query)
    app = world.make_app(config=replace(CONFIG, close_grace_seconds=grace_seconds))
    payment = await world.cashier(order := await world.order())
    assert (
        await app.cancellation.close_payment(merchant_id="mall", order_id=order.order_id)
    ).result is CloseResult.CLOSING
    asked = await ask_when_due(world, app, payment)
    assert asked[-1] == PAYMENT_WINDOW.total_seconds() + grace_seconds
    assert asked[:6] == [0, 5, 20, 65, 185, 485]
    assert (await world.payment(payment.payment_id)).state is PaymentState.CLOSED
    assert (await close(world, order.order_id)).result is CloseResult.CLOSED


@pytest.mark.parametrize(
    ("asked_seconds", "then"),
    [(LEASE_SECONDS - 1, PaymentState.PAYING), (LEASE_SECONDS, PaymentState.FAILED)],
)
async def test_what_a_channel_does_not_know_is_lost_only_when_the_lease_was_over_before_it_was_asked(
    world: PaymentWorld, monkeypatch: pytest.MonkeyPatch, asked_seconds: float, then: PaymentState
) -> None:
    """A channel without tombstones is asked about a charge that is on its way, and takes its time
    to answer.
    """
    closes_by(world.channel, Close.KNOWN)
    monkeypatch.setattr(world.channel, "close", world.channel.query)
    asked = []

    async def answers_slowly() -> None:
        world.clock.advance(2)

    async def is_asked_for_on_its_way() -> None:
        [row] = await world.rows(ATTEMPT)
        world.clock.advance(asked_seconds)
        world.channel.after_query = answers_slowly
        asked.append(
            await world.app.polling.close(
                await world.db.read(attempts.get_attempt, row["attempt_id"])
            )
        )

    world.channel.before_charge = is_asked_for_on_its_way
    paid = await world.charge(await world.order())
    assert [
        (applied.attempt.lease_until < world.clock.now(), applied.payment.state)
        for applied in asked
    ] == [(True, then)]
    assert paid.state is (
        PaymentState.SUCCESS if then is PaymentState.PAYING else PaymentState.LATE_SUCCESS
    )


async def test_the_background_leaves_young_attempts_alone_unless_they_are_being_closed(
    world: PaymentWorld,
) -> None:
    app = world.make_app(config=replace(CONFIG, scan_threshold_seconds=300))
    young, closing = (
        await world.cashier(await world.order()),
        await world.cashier(order := await world.order()),
    )
    world.channel.unreachable = True
    await app.cancellation.close_payment(merchant_id="mall", order_id=order.order_id)
    world.channel.unreachable = False
    for seconds, asked in ((5, 1), (LEASE_SECONDS, 0), (274, 0)):
        world.clock.advance(seconds)
        assert await app.polling.run_once() == asked
    assert (await world.payment(closing.payment_id)).state is PaymentState.CLOSED
    assert world.channel.queries == 0
    world.clock.advance(1)  # five minutes old
    await world.press(young)
    assert await app.polling.run_once() == 1
    assert (await world.payment(young.payment_id)).state is PaymentState.SUCCESS

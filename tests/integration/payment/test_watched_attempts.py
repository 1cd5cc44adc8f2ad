"""Attempts that are asked about after their result, where money may come for ever."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from payment_rpc.channels.capabilities import Close
from payment_rpc.domain.attempt import Attempt
from payment_rpc.domain.payment import Disposition, Payment, PaymentState
from payment_rpc.tables import ATTEMPT
from tests.builders.payment import PaymentWorld
from tests.builders.scripted_channel import WATCH, ScriptedChannel
from tests.builders.scripted_payments import attempt_of, begun, cancel, money_is_right, sells_by

S = PaymentState
GRACE = timedelta(minutes=5)


async def closed(
    world: PaymentWorld, kind: Close = Close.NEVER
) -> tuple[ScriptedChannel, Payment, Attempt]:
    """A payment that was closed here, while its buyer can still pay it."""
    channel = sells_by(world, kind)
    _, payment, attempt = await begun(world)
    await cancel(world, payment)
    world.clock.set((await world.payment(payment.payment_id)).expires_at + GRACE)
    assert await cancel(world, payment) is S.CLOSED
    return channel, payment, attempt


async def due_at(world: PaymentWorld) -> datetime | None:
    [row] = await world.rows(ATTEMPT)
    due: datetime | None = row["next_query_at"]
    return due


async def test_late_money_that_nobody_tells_of_is_found_and_goes_back(world: PaymentWorld) -> None:
    channel, payment, attempt = await closed(world)
    assert channel.pay(attempt.attempt_id)
    world.orders.answer = Disposition.REFUSED_CANCELLED
    world.clock.advance(15 * 60)
    await world.app.polling.run_once()
    assert (await world.payment(payment.payment_id)).state is S.LATE_SUCCESS
    await world.finish()
    await world.app.refunds.run_once()
    assert (await world.payment(payment.payment_id)).state is S.LATE_REFUNDED
    await money_is_right(world, channel)


@pytest.mark.parametrize("kind", [kind for kind in Close if kind is not Close.NEVER])
async def test_a_channel_that_ends_an_attempt_is_asked_no_more(
    world: PaymentWorld, kind: Close
) -> None:
    await closed(world, kind)
    assert await due_at(world) is None


async def test_questions_become_rare_and_end_with_the_first_answer_after_the_watch(
    world: PaymentWorld,
) -> None:
    channel, payment, attempt = await closed(world)
    ends = (await world.payment(payment.payment_id)).expires_at + WATCH
    pauses = []
    while (due := await due_at(world)) is not None and due < ends:
        pauses.append(due - world.clock.now())
        world.clock.set(due)
        await world.app.polling.run_once()
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (timedelta(minutes=15), timedelta(days=1))
    assert len(pauses) <= 16
    assert due == ends
    world.clock.set(ends)
    channel.is_silent = True  # no answer: nobody knows whether money came
    await world.app.polling.run_once()
    assert await due_at(world) == ends + timedelta(days=1)
    world.clock.advance(24 * 3600)
    channel.is_silent = False
    await world.app.polling.run_once()
    assert await due_at(world) is None
    # whatever is told later is heard
    assert channel.pay(attempt.attempt_id)
    await world.app.channel_results.apply(channel.fact(attempt.attempt_id))
    assert (await world.payment(payment.payment_id)).state is S.LATE_SUCCESS
    assert await due_at(world) is None


async def test_money_that_comes_twice_is_found_after_the_first(world: PaymentWorld) -> None:
    channel = sells_by(world, Close.NEVER)
    _, payment, attempt = await begun(world)
    channel.pay(attempt.attempt_id)
    await world.app.polling.query(await attempt_of(world, payment.payment_id))
    channel.pay_more(attempt.attempt_id, 500)
    world.clock.advance(15 * 60)
    await world.app.polling.run_once()
    await world.app.refunds.run_once()
    assert [amount.minor for amount in channel.refunded.values()] == [500]
    assert (await world.payment(payment.payment_id)).state is S.SUCCESS
    assert await world.ledger_problems() == []

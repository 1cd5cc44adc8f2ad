"""The five ways in which channels close attempts, with a channel in memory: whatever races, is lost
or dies, money is taken once at most, and what comes late goes to the order or back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from mesh import failpoints
from mesh.failpoints import FailpointRaised
from order_rpc.domain.order import OrderState
from payment_rpc.channels.capabilities import Close
from payment_rpc.domain.attempt import Attempt
from payment_rpc.domain.errors import ChannelFailed, PaymentStateInvalid
from payment_rpc.domain.facts import ChannelFact, ChannelStatus
from payment_rpc.domain.payment import Disposition, Payment, PaymentState
from payment_rpc.store import attempts
from payment_rpc.tables import ATTEMPT
from payment_rpc.usecases.cancel import CloseResult
from payment_rpc.usecases.channel_steps import ChannelSteps
from tests.builders.payment import LEASE_SECONDS, PaymentWorld
from tests.builders.scripted_channel import ScriptedChannel
from tests.builders.scripted_payments import (
    attempt_of,
    begun,
    cancel,
    money_is_right,
    sells_by,
    settle,
)

S = PaymentState
GRACE = timedelta(minutes=5)
every_kind = pytest.mark.parametrize("kind", list(Close))
named_kinds = pytest.mark.parametrize("kind", [Close.KNOWN, Close.PROMISE, Close.NEVER])


# pay beside close


@every_kind
async def test_a_buyer_who_pays_while_his_order_is_closed_has_paid_or_gets_it_back(
    world: PaymentWorld, rounds: Callable[[int, int], int], kind: Close
) -> None:
    channel = sells_by(world, kind)
    for number in range(rounds(4, 1000)):
        _, payment, attempt = await begun(world)
        if kind is Close.PROMISE:
            world.clock.advance(LEASE_SECONDS)

        async def pays(attempt: Attempt = attempt) -> None:
            channel.pay(attempt.attempt_id)
            await world.app.polling.query(attempt)

        both = (pays(), cancel(world, payment))
        await asyncio.gather(*(both if number % 2 else reversed(both)))
    await settle(world, channel)
    await money_is_right(world, channel)


@every_kind
async def test_an_order_that_nobody_pays_is_closed_in_the_end(
    world: PaymentWorld, kind: Close
) -> None:
    channel = sells_by(world, kind)
    order, payment, _ = await begun(world)
    await settle(world, channel)
    assert (await world.payment(payment.payment_id)).state is S.CLOSED
    closed = await world.app.cancellation.close_payment(merchant_id="mall", order_id=order.order_id)
    assert closed.result is CloseResult.CLOSED
    await money_is_right(world, channel)


@pytest.mark.parametrize("kind", [Close.DEADLINE, Close.NEVER])
async def test_what_cannot_be_closed_is_payable_until_deadline_and_grace_and_late_money_goes_back(
    world: PaymentWorld, kind: Close
) -> None:
    channel = sells_by(world, kind)
    if kind is Close.NEVER:
        channel.capabilities = replace(channel.capabilities, ask_by_own_id=True)
    order, payment, attempt = await begun(world)
    deadline = (await world.payment(payment.payment_id)).expires_at
    assert await cancel(world, payment) is S.CLOSING
    world.clock.set(deadline + GRACE - timedelta(milliseconds=1))
    assert await cancel(world, payment) is S.CLOSING
    world.clock.set(deadline + GRACE)
    assert await cancel(world, payment) is S.CLOSED
    assert channel.pay(attempt.attempt_id)
    world.orders.answer = Disposition.REFUSED_CANCELLED
    await settle(world, channel)
    late = await world.payment(payment.payment_id)
    assert (late.state, late.refunded) == (S.LATE_REFUNDED, order.amount)
    await money_is_right(world, channel)


async def test_a_page_that_the_channel_does_not_know_yet_is_opened_and_paid_while_closing(
    world: PaymentWorld,
) -> None:
    channel = sells_by(world, Close.DEADLINE)
    order, payment, attempt = await begun(world)
    assert await cancel(world, payment) is S.CLOSING
    assert channel.pay(attempt.attempt_id)
    await world.app.polling.run_once()
    await world.finish()
    assert (await world.payment(payment.payment_id)).state is S.SUCCESS
    assert await world.order_state(order) is OrderState.PAID


async def test_a_page_that_was_opened_can_be_closed(world: PaymentWorld) -> None:
    channel = sells_by(world, Close.DEADLINE)
    _, payment, attempt = await begun(world)
    channel.known[attempt.attempt_id] = _opened(channel, attempt)
    assert await cancel(world, payment) is S.CLOSED
    assert not channel.pay(attempt.attempt_id)


def _opened(channel: ScriptedChannel, attempt: Attempt) -> Any:
    channel.pay(attempt.attempt_id)
    known = channel.known[attempt.attempt_id]
    return replace(known, status=ChannelStatus.PENDING, captures=0)


async def test_past_the_deadline_an_attempt_that_is_being_sent_is_not_closed_here(
    world: PaymentWorld,
) -> None:
    """A lease may be longer than the grace."""
    channel = sells_by(world, Close.DEADLINE)
    _, payment, attempt = await begun(world)
    after = (await world.payment(payment.payment_id)).expires_at + GRACE
    await lease(world, attempt, until=after + timedelta(seconds=1))
    await cancel(world, payment)
    world.clock.set(after)
    assert await cancel(world, payment) is S.CLOSING
    world.clock.advance(1)
    assert await cancel(world, payment) is S.CLOSED
    assert channel.count("checkout") == 1


async def lease(world: PaymentWorld, attempt: Attempt, *, until: Any) -> None:
    await world.execute(
        ATTEMPT.update()
        .where(ATTEMPT.c.attempt_id == attempt.attempt_id)
        .values(lease_until=until, version=ATTEMPT.c.version + 1)
    )


# remember


@named_kinds
async def test_what_is_closed_while_it_is_being_sent_is_not_handed_out(
    world: PaymentWorld, kind: Close
) -> None:
    channel = sells_by(world, kind)
    channel.confirms = True
    order = await world.order()

    async def closes() -> None:
        await world.app.cancellation.close_payment(merchant_id="mall", order_id=order.order_id)

    channel.before_remember = closes
    payment = await world.cashier(order, channel="scripted")
    assert len(channel.aborted) == 1
    assert [known.captures for known in channel.known.values()] == [0]
    # what the channel made is known, so that it can be closed there
    attempt = await attempt_of(world, payment.payment_id)
    assert attempt.channel_ref == f"R-{attempt.attempt_id}"
    await settle(world, channel)
    assert (await world.payment(payment.payment_id)).state is S.CLOSED
    await money_is_right(world, channel)


@named_kinds
async def test_what_outlived_its_lease_is_not_handed_out(world: PaymentWorld, kind: Close) -> None:
    channel = sells_by(world, kind)
    channel.confirms = True

    async def frozen() -> None:
        world.clock.advance(LEASE_SECONDS)

    channel.before_remember = frozen
    await world.cashier(await world.order(), channel="scripted")
    assert [known.captures for known in channel.known.values()] == [0]
    assert len(channel.aborted) == 1


@pytest.mark.parametrize("kind", [Close.KNOWN, Close.PROMISE])
async def test_what_was_given_up_is_not_remembered(world: PaymentWorld, kind: Close) -> None:
    """The worker saw the lease end, the sender's clock is behind."""
    channel = sells_by(world, kind)
    channel.confirms = True

    async def given_up() -> None:
        world.clock.advance(LEASE_SECONDS)
        assert await world.app.polling.run_once() == 1
        world.clock.set(world.clock.now() - timedelta(seconds=LEASE_SECONDS))

    channel.before_remember = given_up
    order = await world.order()
    with pytest.raises(ChannelFailed):  # it ended as lost
        await world.cashier(order, channel="scripted")
    assert len(channel.aborted) == 1
    assert [known.captures for known in channel.known.values()] == [0]
    await settle(world, channel)
    await money_is_right(world, channel)


async def test_an_attempt_has_one_id_at_its_channel(world: PaymentWorld) -> None:
    sells_by(world, Close.KNOWN)
    _, _, attempt = await begun(world)
    steps = steps_of(world)
    await steps.remember(attempt, attempt.channel_ref)  # as often as one likes
    with pytest.raises(PaymentStateInvalid):
        await steps.remember(attempt, "R-OTHER")
    await world.app.channel_results.apply(
        ChannelFact(attempt_id=attempt.attempt_id, status=ChannelStatus.DECLINED, ref="R-OTHER")
    )
    present = await world.db.read(attempts.get_attempt, attempt.attempt_id)
    assert present.channel_ref == attempt.channel_ref


def steps_of(world: PaymentWorld) -> ChannelSteps:
    return ChannelSteps(db=world.db, clock=world.clock, lease=timedelta(seconds=LEASE_SECONDS))


# NOT_FOUND


@pytest.mark.parametrize("kind", [Close.KNOWN, Close.PROMISE])
async def test_what_never_arrived_is_lost_after_its_lease_and_the_order_is_free(
    world: PaymentWorld, kind: Close
) -> None:
    channel = sells_by(world, kind)
    order = await world.order()
    failpoints.arm("payment.cashier.after_tx1=raise", environment="test")
    with pytest.raises(FailpointRaised):
        await world.cashier(order, channel="scripted", key="k1")
    failpoints.arm("", environment="test")
    world.clock.advance(LEASE_SECONDS - 1)
    await world.app.polling.run_once()
    [row] = await world.rows(ATTEMPT)
    payment = await world.payment(row["payment_id"])
    assert payment.state is S.PAYING
    world.clock.advance(60)
    await world.app.polling.run_once()
    payment = await world.payment(payment.payment_id)
    assert payment.failure is not None
    assert (payment.state, payment.failure.reason) == (S.FAILED, "LOST_BEFORE_CHANNEL")
    again = await world.cashier(order, channel="scripted", key="k2")
    assert again.state is S.PAYING
    assert channel.count("checkout") == 1


@pytest.mark.parametrize("kind", [Close.KNOWN, Close.PROMISE])
async def test_what_was_remembered_is_never_taken_for_lost(
    world: PaymentWorld, kind: Close
) -> None:
    channel = sells_by(world, kind)
    order = await world.order()
    failpoints.arm("payment.channel.after_remember=raise", environment="test")
    await world.cashier(order, channel="scripted", key="k1")
    failpoints.arm("", environment="test")
    [row] = await world.rows(ATTEMPT)
    kept = channel.known.pop(row["attempt_id"])  # a reader of the channel's that lags
    world.clock.advance(LEASE_SECONDS + 60)
    await world.app.polling.run_once()
    assert (await world.payment(row["payment_id"])).state is S.PAYING
    # nor is it sent again
    await world.cashier(order, channel="scripted", key="k1")
    assert channel.count("checkout") == 1
    channel.known[row["attempt_id"]] = kept
    await settle(world, channel)
    await money_is_right(world, channel)


async def test_an_attempt_that_was_named_during_the_question_is_not_lost(
    world: PaymentWorld,
) -> None:
    """The channel was asked without the id that it goes by there."""
    channel = sells_by(world, Close.KNOWN)
    order = await world.order()
    failpoints.arm("payment.cashier.after_tx1=raise", environment="test")
    with pytest.raises(FailpointRaised):
        await world.cashier(order, channel="scripted", key="k1")
    failpoints.arm("", environment="test")
    [row] = await world.rows(ATTEMPT)
    attempt = await world.db.read(attempts.get_attempt, row["attempt_id"])
    world.clock.advance(LEASE_SECONDS)

    async def news() -> None:
        await world.app.channel_results.apply(
            ChannelFact(attempt_id=attempt.attempt_id, status=ChannelStatus.UNKNOWN, ref="R-NEW")
        )

    channel.during_query = news
    await world.app.polling.query(attempt)
    assert (await world.payment(attempt.payment_id)).state is S.PAYING


@pytest.mark.parametrize("kind", [Close.KNOWN, Close.PROMISE])
async def test_what_its_channel_forgot_is_closed_after_deadline_and_grace(
    world: PaymentWorld, kind: Close
) -> None:
    """It was known there, so it may have been paid; nobody waits for it for ever."""
    channel = sells_by(world, kind)
    _, payment, attempt = await begun(world)
    if kind is Close.PROMISE:
        channel.pay(attempt.attempt_id)
        world.clock.advance(LEASE_SECONDS)
        assert await steps_of(world).begin_step(attempt, channel.capabilities) is not None
    del channel.known[attempt.attempt_id], channel.pages[attempt.attempt_id]
    after = (await world.payment(payment.payment_id)).expires_at + GRACE
    assert await cancel(world, payment) is S.CLOSING
    world.clock.set(after - timedelta(milliseconds=1))
    assert await cancel(world, payment) is S.CLOSING
    world.clock.set(after)
    assert await cancel(world, payment) is S.CLOSED


# the step that is ours


async def approved(world: PaymentWorld, channel: ScriptedChannel) -> tuple[Payment, Attempt]:
    """The buyer approved, and nobody is at the attempt."""
    _, payment, attempt = await begun(world)
    channel.pay(attempt.attempt_id)
    world.clock.advance(LEASE_SECONDS)
    return payment, await world.db.read(attempts.get_attempt, attempt.attempt_id)


async def test_an_approved_payment_is_captured_by_the_worker_once(world: PaymentWorld) -> None:
    channel = sells_by(world, Close.PROMISE)
    payment, _ = await approved(world, channel)
    await world.app.polling.run_once()
    assert (await world.payment(payment.payment_id)).state is S.SUCCESS
    assert channel.count("advance") == 1
    await world.finish()
    await money_is_right(world, channel)


async def test_the_step_of_an_attempt_that_was_answered_waits_for_no_lease(
    world: PaymentWorld,
) -> None:
    channel = sells_by(world, Close.PROMISE)
    _, payment, attempt = await begun(world)
    assert attempt.lease_until > world.clock.now()
    channel.pay(attempt.attempt_id)
    await world.app.polling.query(attempt)
    assert (await world.payment(payment.payment_id)).state is S.SUCCESS


async def test_an_attempt_that_was_answered_is_promised_away_at_once(world: PaymentWorld) -> None:
    sells_by(world, Close.PROMISE)
    _, payment, attempt = await begun(world)
    assert attempt.lease_until > world.clock.now()
    assert await cancel(world, payment) is S.CLOSED


async def test_two_workers_take_the_step_once(
    world: PaymentWorld, rounds: Callable[[int, int], int]
) -> None:
    channel = sells_by(world, Close.PROMISE)
    for number in range(rounds(3, 200)):
        _, attempt = await approved(world, channel)
        channel.lose_step = True
        await asyncio.gather(
            world.app.polling.query(attempt),
            world.make_app(channels={"scripted": channel}).polling.query(attempt),
        )
        channel.lose_step = False
        assert channel.count("advance") == number + 1
    await settle(world, channel)
    await money_is_right(world, channel)


async def test_no_first_step_is_taken_once_the_payment_is_being_closed(
    world: PaymentWorld,
) -> None:
    channel = sells_by(world, Close.PROMISE)
    payment, attempt = await approved(world, channel)

    async def closes() -> None:
        assert await cancel(world, payment) is S.CLOSED

    channel.during_query = closes
    await world.app.polling.query(attempt)
    assert channel.count("advance") == 0
    await settle(world, channel)
    await money_is_right(world, channel)


async def test_a_first_step_is_refused_as_soon_as_closing_is_committed(
    world: PaymentWorld,
) -> None:
    channel = sells_by(world, Close.PROMISE)
    payment, attempt = await approved(world, channel)
    failpoints.arm("payment.close.after_closing=raise", environment="test")
    with pytest.raises(FailpointRaised):
        await cancel(world, payment)
    failpoints.arm("", environment="test")
    assert (await world.payment(payment.payment_id)).state is S.CLOSING
    assert await steps_of(world).begin_step(attempt, channel.capabilities) is None


async def test_closing_waits_for_a_step_that_is_under_way(world: PaymentWorld) -> None:
    channel = sells_by(world, Close.PROMISE)
    payment, attempt = await approved(world, channel)
    states = []

    async def closes() -> None:
        states.append(await cancel(world, payment))

    channel.during_step = closes
    await world.app.polling.query(attempt)
    assert states == [S.CLOSING]
    assert (await world.payment(payment.payment_id)).state is S.SUCCESS
    await settle(world, channel)
    await money_is_right(world, channel)


async def test_a_step_that_begins_while_it_is_promised_away_is_not_closed(
    world: PaymentWorld,
) -> None:
    """What we concluded about an attempt holds for that attempt only."""
    channel = sells_by(world, Close.PROMISE)
    payment, attempt = await approved(world, channel)
    begun_step = await steps_of(world).begin_step(attempt, channel.capabilities)
    assert begun_step is not None
    await world.app.channel_results.apply(
        ChannelFact(
            attempt_id=attempt.attempt_id,
            status=ChannelStatus.CLOSED,
            amount=attempt.amount,
        ),
        judged=attempt,
    )
    assert (await world.payment(payment.payment_id)).state is S.PAYING


@pytest.mark.parametrize("is_closing", [False, True])
@pytest.mark.parametrize("point", ["payment.channel.after_intention", "payment.channel.after_step"])
async def test_a_process_that_dies_at_its_step_leaves_one_capture(
    world: PaymentWorld, point: str, is_closing: bool
) -> None:
    channel = sells_by(world, Close.PROMISE)
    payment, attempt = await approved(world, channel)
    failpoints.arm(f"{point}=raise", environment="test")
    with pytest.raises(FailpointRaised):
        await world.app.polling.query(attempt)
    failpoints.arm("", environment="test")
    if is_closing:
        assert await cancel(world, payment) is S.CLOSING
    await settle(world, channel)
    assert channel.known[attempt.attempt_id].captures == 1
    assert (await world.payment(payment.payment_id)).state is S.SUCCESS
    await money_is_right(world, channel)


async def test_a_lost_answer_of_a_step_is_learned_under_the_same_attempt(
    world: PaymentWorld,
) -> None:
    channel = sells_by(world, Close.PROMISE)
    payment, attempt = await approved(world, channel)
    channel.lose_step = True
    await world.app.polling.query(attempt)
    assert await cancel(world, payment) is S.CLOSING  # the lease runs
    world.clock.advance(LEASE_SECONDS)
    assert await cancel(world, payment) is S.SUCCESS
    await settle(world, channel)
    await money_is_right(world, channel)


async def test_a_repeated_step_of_a_closing_payment_is_taken_by_one_at_a_time(
    world: PaymentWorld,
) -> None:
    channel = sells_by(world, Close.PROMISE)
    payment, attempt = await approved(world, channel)
    failpoints.arm("payment.channel.after_intention=raise", environment="test")
    with pytest.raises(FailpointRaised):
        await world.app.polling.query(attempt)
    failpoints.arm("", environment="test")
    await cancel(world, payment)
    world.clock.advance(LEASE_SECONDS)
    states = []

    async def another() -> None:
        states.append(await cancel(world, payment))

    channel.during_step = another
    assert await cancel(world, payment) is S.SUCCESS
    assert (states, channel.count("advance")) == ([S.CLOSING], 1)


@pytest.mark.parametrize("kind", [Close.KNOWN, Close.PROMISE, Close.NEVER])
@pytest.mark.parametrize("is_closing", [False, True])
async def test_a_process_that_dies_after_remember_leaves_nothing_that_is_not_finished(
    world: PaymentWorld, kind: Close, is_closing: bool
) -> None:
    channel = sells_by(world, kind)
    channel.confirms = True
    failpoints.arm("payment.channel.after_remember=raise", environment="test")
    payment = await world.cashier(await world.order(), channel="scripted", key="k1")
    failpoints.arm("", environment="test")
    attempt = await attempt_of(world, payment.payment_id)
    assert attempt.channel_ref
    if is_closing:
        await cancel(world, payment)
    await settle(world, channel)
    assert channel.known[attempt.attempt_id].captures == 0
    assert (await world.payment(payment.payment_id)).state is S.CLOSED
    await money_is_right(world, channel)

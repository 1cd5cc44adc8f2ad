"""What buyers pay beyond what they owed: booked once, and given back by itself."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from mesh import failpoints
from mesh.failpoints import FailpointRaised
from mesh.money import Money
from payment_rpc.channels.capabilities import Close
from payment_rpc.domain.attempt import Attempt
from payment_rpc.domain.payment import Disposition, Payment, PaymentState
from payment_rpc.domain.refund import SURPLUS_REFUNDS_MAX
from payment_rpc.domain.refund_facts import RefundChannelStatus, RefundFact
from payment_rpc.tables import ATTEMPT, PAYMENT, REFUND
from tests.builders.audit import audited, nobody_listens
from tests.builders.order import ADMIN
from tests.builders.payment import PRICE, PaymentWorld
from tests.builders.scripted_channel import ScriptedChannel
from tests.builders.scripted_payments import begun, cancel, sells_by, settle, tell

S = PaymentState


async def paid(world: PaymentWorld, channel: ScriptedChannel) -> tuple[Payment, Attempt]:
    _, payment, attempt = await begun(world)
    channel.pay(attempt.attempt_id)
    await tell(world, channel)
    return payment, attempt


async def given_back(world: PaymentWorld) -> list[tuple[str, int, str]]:
    """(cause, amount, state) of what goes back by itself."""
    rows = [row for row in await world.rows(REFUND) if row["stands_alone"]]
    return [
        (row["automatic_of"].rpartition(":")[2], row["amount_minor"], row["state"]) for row in rows
    ]


async def books_are_right(world: PaymentWorld) -> None:
    await nobody_listens(world)
    assert await audited(world, strict=True) == []
    assert await world.ledger_problems() == []


@pytest.mark.one_database
async def test_what_was_paid_too_much_goes_back_by_itself_and_the_order_stays_paid(
    world: PaymentWorld,
) -> None:
    channel = sells_by(world, Close.NEVER)
    order, payment, attempt = await begun(world)
    channel.pay(attempt.attempt_id)
    channel.pay_more(attempt.attempt_id, 500)
    await settle(world, channel)
    present = await world.payment(payment.payment_id)
    assert (present.state, present.captured, present.refunded.minor) == (S.SUCCESS, order.amount, 0)
    assert await given_back(world) == [("500", 500, "SUCCESS")]
    assert [amount.minor for amount in channel.refunded.values()] == [500]
    assert await world.attention() == []
    assert await world.credit_balance("unapplied_receipts:scripted") == 0
    await books_are_right(world)


@pytest.mark.one_database
async def test_a_surplus_that_grows_goes_back_once_however_often_and_disordered_it_is_told(
    world: PaymentWorld,
) -> None:
    channel = sells_by(world, Close.NEVER)
    _, attempt = await paid(world, channel)
    told = []
    for _ in range(3):
        channel.pay_more(attempt.attempt_id, 100)
        told.append(channel.fact(attempt.attempt_id))
    first, second, last = told
    for fact in (first, first, last, second, last, first):
        await world.app.channel_results.apply(fact)
    await asyncio.gather(*(world.app.channel_results.apply(fact) for fact in told))
    await settle(world, channel)
    assert await given_back(world) == [("100", 100, "SUCCESS"), ("300", 200, "SUCCESS")]
    await books_are_right(world)


@pytest.mark.one_database
async def test_another_part_of_what_came_may_count_as_the_capture(world: PaymentWorld) -> None:
    """An attempt with two pages that were both paid: the channel names one of them."""
    channel = sells_by(world, Close.NEVER)
    _, attempt = await paid(world, channel)
    channel.pay_more(attempt.attempt_id, PRICE.minor)
    fact = replace(channel.fact(attempt.attempt_id), trade_no="T-OTHER")
    await world.app.channel_results.apply(fact)
    await world.app.channel_results.apply(fact)
    await settle(world, channel)
    assert await given_back(world) == [(str(PRICE.minor), PRICE.minor, "SUCCESS")]
    assert await world.attention() == []
    await books_are_right(world)


@pytest.mark.one_database
async def test_late_money_and_its_surplus_both_go_back(world: PaymentWorld) -> None:
    channel = sells_by(world, Close.KNOWN)
    _, payment, attempt = await begun(world)
    assert await cancel(world, payment) is S.CLOSED
    world.orders.answer = Disposition.REFUSED_CANCELLED
    channel.take(attempt.attempt_id)
    channel.pay_more(attempt.attempt_id, 500)
    await settle(world, channel)
    late = await world.payment(payment.payment_id)
    assert (late.state, late.refunded) == (S.LATE_REFUNDED, late.captured)
    assert sorted(amount.minor for amount in channel.refunded.values()) == [500, PRICE.minor]
    assert await world.attention() == []
    assert await world.ledger_problems() == []


async def test_a_surplus_is_booked_with_its_refund_or_not_at_all(world: PaymentWorld) -> None:
    channel = sells_by(world, Close.NEVER)
    _, attempt = await paid(world, channel)
    channel.pay_more(attempt.attempt_id, 500)
    failpoints.arm("payment.fact.before_commit=raise", environment="test")
    with pytest.raises(FailpointRaised):
        await tell(world, channel)
    failpoints.arm("", environment="test")
    [row] = await world.rows(ATTEMPT)
    assert (row["surplus_minor"], await given_back(world)) == (0, [])
    await settle(world, channel)
    assert await given_back(world) == [("500", 500, "SUCCESS")]
    await books_are_right(world)


@pytest.mark.one_database
async def test_of_very_many_surpluses_the_last_wait_for_a_person(world: PaymentWorld) -> None:
    channel = sells_by(world, Close.NEVER)
    _, attempt = await paid(world, channel)
    for _ in range(SURPLUS_REFUNDS_MAX + 2):
        channel.pay_more(attempt.attempt_id, 1)
        await tell(world, channel)
    await settle(world, channel)
    assert len(await given_back(world)) == SURPLUS_REFUNDS_MAX
    assert await world.attention() == [("SURPLUS_PAID", attempt.attempt_id)]
    assert await world.credit_balance("unapplied_receipts:scripted") == 2
    await books_are_right(world)


@pytest.mark.one_database
async def test_a_surplus_in_another_currency_needs_a_person(world: PaymentWorld) -> None:
    channel = sells_by(world, Close.NEVER)
    _, attempt = await paid(world, channel)
    fact = replace(channel.fact(attempt.attempt_id), surplus=Money(500, "USD"))
    with capture_logs() as logged:
        for _ in range(3):  # the channel says so at each question
            await world.app.channel_results.apply(fact)
    assert await world.attention() == [("SURPLUS_PAID", attempt.attempt_id)]
    assert [line["subject"] for line in logged if "alert" in line] == [attempt.attempt_id]
    assert await given_back(world) == []
    await settle(world, channel)
    await books_are_right(world)


@pytest.mark.one_database
async def test_a_surplus_that_cannot_go_back_needs_a_person_and_is_not_lost_when_it_left_after_all(
    world: PaymentWorld,
) -> None:
    channel = sells_by(world, Close.NEVER)
    payment, attempt = await paid(world, channel)
    channel.pay_more(attempt.attempt_id, 500)
    await tell(world, channel)
    [row] = [row for row in await world.rows(REFUND) if row["stands_alone"]]
    channel.refuses_refunds = True
    await world.app.refunds.run_once()
    assert await world.attention() == [("REFUND_FAILED", row["refund_id"])]
    assert await world.credit_balance("unapplied_receipts:scripted") == 500
    await world.app.refund_results.apply(
        RefundFact(refund_id=row["refund_id"], status=RefundChannelStatus.SUCCESS)
    )
    assert await world.credit_balance("unapplied_receipts:scripted") == 0
    assert await world.credit_balance("loss") == 0
    assert (await world.payment(payment.payment_id)).refunded.minor == 0
    await settle(world, channel)
    await books_are_right(world)


@pytest.mark.one_database
async def test_a_conflict_is_decided_beside_its_surplus(world: PaymentWorld) -> None:
    channel = sells_by(world, Close.NEVER)
    _, payment, attempt = await begun(world)
    channel.pay(attempt.attempt_id)
    channel.pay_more(attempt.attempt_id, 500)
    await tell(world, channel)
    await world.execute(
        PAYMENT.update().values(state="CONFLICTED", live_slot=None, captured_minor=0, fee_minor=0)
    )
    resolved = await world.app.conflicts.resolve_conflict(
        payment.payment_id, state=S.LATE_SUCCESS, reason="the right amount", caller=ADMIN
    )
    assert resolved.state is S.LATE_SUCCESS
    assert await given_back(world) == [("500", 500, "CREATED")]

"""Refunds that exist before the order has said whether it takes the money: whatever it says then,
each cent is booked once, what is left goes to whom it belongs, and a refund that fails afterwards
calls a person exactly when nobody else looks after it.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mesh.money import RequestedAmount
from order_rpc.domain.order import Order, OrderState
from payment_rpc.domain.errors import RefundFailed
from payment_rpc.domain.payment import Disposition, Payment, PaymentState
from payment_rpc.domain.refund import Refund, RefundState
from payment_rpc.domain.refund_facts import RefundChannelStatus
from payment_rpc.store import payments, refunds
from payment_rpc.tables import LEDGER_POSTING, LEDGER_TRANSACTION
from payment_rpc.usecases.channel_results import Applied
from payment_rpc.usecases.refund_start import CreateRefund
from tests.builders.order import merchant
from tests.builders.payment import PaymentWorld
from tests.builders.payment_steps import RefundLine, capture, declined, relay

S, D, R = PaymentState, Disposition, RefundState
FAILED = RefundChannelStatus.FAILED
ACCOUNTS = (
    "merchant_payable:mall",
    "unapplied_receipts:sandbox",
    "refund_payable:sandbox",
    "channel_receivable:sandbox",
)


@pytest.fixture
def line(world: PaymentWorld, monkeypatch: pytest.MonkeyPatch) -> RefundLine:
    return RefundLine(world.channel, monkeypatch)


async def late_money(world: PaymentWorld, order: Order) -> Payment:
    """100.00 that came after the payment had failed; the order has not heard of it."""
    return (await capture(world, await declined(world, order))).payment


async def untold_money(world: PaymentWorld, order: Order) -> Payment:
    """100.00 that came in time; the order has not heard of it."""

    async def order_rpc_dies() -> None:
        world.orders.away, world.channel.before_charge = True, None

    world.channel.before_charge = order_rpc_dies
    payment = await world.charge(order)
    world.orders.away = False
    return payment


async def asks_back(world: PaymentWorld, payment: Payment, amount: str = "") -> Refund:
    """The shop refunds an amount, or everything."""
    return await world.app.refunds.create_refund(
        CreateRefund(
            payment_id=payment.payment_id,
            amount=RequestedAmount(amount),
            reason="asked for",
            request_id="",
            key="",
        ),
        merchant(),
    )


async def asks_back_without_an_answer(
    world: PaymentWorld,
    line: RefundLine,
    payment: Payment,
    amount: str = "",
    *,
    end: RefundChannelStatus = RefundChannelStatus.SUCCESS,
) -> Refund:
    """The shop refunds it, and the channel's answer is lost: `end` is what it says when it is asked
    again.
    """
    line.lose_answers, line.next_status = True, end
    refund = await asks_back(world, payment, amount)
    line.lose_answers, line.next_status = False, RefundChannelStatus.SUCCESS
    assert refund.state is R.UNKNOWN
    return refund


async def is_refused(world: PaymentWorld, order: Order) -> None:
    """The order is cancelled and hears of the money."""
    await world.order_side.force_state(order, OrderState.CANCELLED)
    await relay(world)


async def channel_answers(world: PaymentWorld) -> None:
    """What is to be sent is sent, and what has no answer is asked for; the order hears of it."""
    for _ in range(2):
        world.clock.advance(30)
        await world.app.refunds.run_once()
    await relay(world)


async def books(world: PaymentWorld) -> tuple[int, ...]:
    """What belongs to the merchant, to nobody yet, what is on its way back, and what the channel
    owes us; the books are right.
    """
    assert await world.ledger_problems() == []
    assert (await world.app.ledger_verification.verify_ledger()).violations == ()
    rows = await world.rows(LEDGER_POSTING)
    merchant_, nobody, leaving, channel = (
        sum(
            row["amount_minor"] if row["side"] == "C" else -row["amount_minor"]
            for row in rows
            if row["account"] == name
        )
        for name in ACCOUNTS
    )
    return merchant_, nobody, leaving, -channel


async def refunds_of(
    world: PaymentWorld, payment: Payment
) -> list[tuple[int, RefundState, bool, bool]]:
    """(amount, state, automatic, needs a person) of the refunds of a payment, oldest first."""
    return [
        (refund.amount.minor, refund.state, refund.automatic, refund.needs_attention)
        for refund in await world.db.read(refunds.refunds_of, payment.payment_id)
    ]


async def state_of(
    world: PaymentWorld, payment: Payment
) -> tuple[PaymentState, Disposition | None, bool]:
    now = await world.payment(payment.payment_id)
    return now.state, now.disposition, now.holds_slot


async def kinds(world: PaymentWorld) -> list[str]:
    return [row["kind"] for row in await world.rows(LEDGER_TRANSACTION)]


# --- the order takes it ---------------------------------------------------------------------------


async def test_of_late_money_the_order_takes_what_did_not_go_back(
    world: PaymentWorld, line: RefundLine
) -> None:
    payment = await late_money(world, order := await world.order())
    await asks_back(world, payment, "30.00")
    assert await books(world) == (0, 7000, 0, 7000)
    await relay(world)
    assert await state_of(world, payment) == (S.SUCCESS, D.APPLIED, True)
    assert await refunds_of(world, payment) == [(3000, R.SUCCESS, False, False)]
    assert await books(world) == (7000, 0, 0, 7000)
    assert await world.order_state(order) is OrderState.PAID


async def test_a_refund_of_money_that_the_order_took_meanwhile_fails_back_to_the_merchant(
    world: PaymentWorld, line: RefundLine
) -> None:
    payment = await late_money(world, await world.order())
    await asks_back_without_an_answer(world, line, payment, "30.00", end=FAILED)
    await relay(world)
    assert await books(world) == (7000, 0, 3000, 10000)
    await channel_answers(world)
    assert await refunds_of(world, payment) == [(3000, R.FAILED, False, False)]
    assert await books(world) == (10000, 0, 0, 10000)
    assert await world.attention() == []  # the shop asked for it and sees that it failed


async def test_an_order_that_takes_money_of_which_all_is_leaving_takes_nothing_and_is_refunded(
    world: PaymentWorld, line: RefundLine
) -> None:
    payment = await late_money(world, order := await world.order())
    await asks_back_without_an_answer(world, line, payment)
    await relay(world)
    assert await state_of(world, payment) == (S.SUCCESS, D.APPLIED, True)
    assert "LATE_TAKEN" not in await kinds(world)
    assert await books(world) == (0, 0, 10000, 10000)
    await channel_answers(world)
    assert await refunds_of(world, payment) == [(10000, R.SUCCESS, False, False)]
    assert await books(world) == (0, 0, 0, 0)
    assert await world.order_state(order) is OrderState.REFUNDED


async def test_money_that_came_in_time_and_went_back_in_part_stays_the_merchants(
    world: PaymentWorld, line: RefundLine
) -> None:
    payment = await untold_money(world, order := await world.order())
    await asks_back(world, payment, "30.00")
    await relay(world)
    assert await state_of(world, payment) == (S.SUCCESS, D.APPLIED, True)
    assert await books(world) == (7000, 0, 0, 7000)
    assert await world.order_state(order) is OrderState.PAID


# --- the order refuses it -------------------------------------------------------------------------


@pytest.mark.parametrize("money", [late_money, untold_money])
async def test_what_is_left_of_refused_money_goes_back_by_itself(
    world: PaymentWorld, line: RefundLine, money: Callable[..., object]
) -> None:
    payment = await money(world, order := await world.order())  # type: ignore[misc]
    await asks_back(world, payment, "30.00")
    await is_refused(world, order)
    assert await state_of(world, payment) == (S.LATE_SUCCESS, D.REFUSED_CANCELLED, False)
    assert await refunds_of(world, payment) == [
        (3000, R.SUCCESS, True, False),
        (7000, R.CREATED, True, False),
    ]
    assert await books(world) == (0, 0, 7000, 7000)
    await channel_answers(world)
    assert await state_of(world, payment) == (S.LATE_REFUNDED, D.REFUSED_CANCELLED, False)
    assert await books(world) == (0, 0, 0, 0)
    assert await world.attention() == []


@pytest.mark.parametrize("money", [late_money, untold_money])
async def test_a_refund_of_refused_money_that_fails_afterwards_calls_a_person(
    world: PaymentWorld, line: RefundLine, money: Callable[..., object]
) -> None:
    payment = await money(world, order := await world.order())  # type: ignore[misc]
    asked = await asks_back_without_an_answer(world, line, payment, "30.00", end=FAILED)
    await is_refused(world, order)
    assert await refunds_of(world, payment) == [
        (3000, R.UNKNOWN, True, False),
        (7000, R.CREATED, True, False),
    ]
    assert await books(world) == (0, 0, 10000, 10000)
    await channel_answers(world)
    assert await refunds_of(world, payment) == [
        (3000, R.FAILED, True, True),
        (7000, R.SUCCESS, True, False),
    ]
    assert await state_of(world, payment) == (S.LATE_SUCCESS, D.REFUSED_CANCELLED, False)
    assert await world.attention() == [("REFUND_FAILED", asked.refund_id)]
    assert await books(world) == (0, 3000, 0, 3000)


@pytest.mark.parametrize("money", [late_money, untold_money])
async def test_refused_money_of_which_all_is_leaving_needs_no_refund_of_ours(
    world: PaymentWorld, line: RefundLine, money: Callable[..., object]
) -> None:
    payment = await money(world, order := await world.order())  # type: ignore[misc]
    await asks_back_without_an_answer(world, line, payment)
    await is_refused(world, order)
    assert await state_of(world, payment) == (S.LATE_SUCCESS, D.REFUSED_CANCELLED, False)
    assert await refunds_of(world, payment) == [(10000, R.UNKNOWN, True, False)]
    assert await books(world) == (0, 0, 10000, 10000)
    await channel_answers(world)
    assert await state_of(world, payment) == (S.LATE_REFUNDED, D.REFUSED_CANCELLED, False)
    assert await books(world) == (0, 0, 0, 0)


async def test_a_success_that_went_back_whole_before_it_was_refused_is_over_at_once(
    world: PaymentWorld, line: RefundLine
) -> None:
    payment = await untold_money(world, order := await world.order())
    await asks_back(world, payment)
    await is_refused(world, order)
    assert await state_of(world, payment) == (S.LATE_REFUNDED, D.REFUSED_CANCELLED, False)
    assert await refunds_of(world, payment) == [(10000, R.SUCCESS, True, False)]
    assert "REFUSED" not in await kinds(world)
    assert await books(world) == (0, 0, 0, 0)


@pytest.mark.parametrize("state", [OrderState.PENDING_PAYMENT, OrderState.CANCELLED])
async def test_late_money_that_went_back_whole_waits_for_no_answer(
    world: PaymentWorld, line: RefundLine, state: OrderState
) -> None:
    payment = await late_money(world, order := await world.order())
    await asks_back(world, payment)
    assert await state_of(world, payment) == (S.LATE_REFUNDED, None, False)
    await world.order_side.force_state(order, state)
    before = await kinds(world)
    await relay(world)
    assert await state_of(world, payment) == (S.LATE_REFUNDED, None, False)
    assert await kinds(world) == before
    assert await refunds_of(world, payment) == [(10000, R.SUCCESS, False, False)]
    assert await books(world) == (0, 0, 0, 0)


async def test_whoever_refunds_refused_money_again_after_our_refund_failed_is_watched_too(
    world: PaymentWorld, line: RefundLine
) -> None:
    payment = await late_money(world, order := await world.order())
    line.next_status = FAILED
    await is_refused(world, order)
    await channel_answers(world)
    assert await refunds_of(world, payment) == [(10000, R.FAILED, True, True)]
    with pytest.raises(RefundFailed) as refused:
        await asks_back(world, payment, "40.00")
    assert await refunds_of(world, payment) == [
        (10000, R.FAILED, True, True),
        (4000, R.FAILED, True, True),
    ]
    assert ("REFUND_FAILED", refused.value.metadata["refund_id"]) in await world.attention()
    assert await books(world) == (0, 10000, 0, 10000)


# --- the order hands the slot to another payment --------------------------------------------------


async def handed_over(
    world: PaymentWorld, refund: Callable[[Payment], object]
) -> tuple[Payment, Payment]:
    """(the payment that lost its place, the late one that the order took): the first one had a
    refund before.
    """
    order = await world.order()
    late_id = await declined(world, order)
    early = await untold_money(world, order)
    await refund(early)  # type: ignore[misc]
    applied: Applied = await capture(world, late_id)
    assert applied.to_order is not None
    assert await world.app.order_relay.deliver(applied.to_order)
    assert await state_of(world, applied.payment) == (S.SUCCESS, D.APPLIED, True)
    return early, applied.payment


async def test_what_is_left_of_a_success_that_gives_way_is_nobodys_and_goes_back(
    world: PaymentWorld, line: RefundLine
) -> None:
    early, _late = await handed_over(world, lambda payment: asks_back(world, payment, "30.00"))
    assert await state_of(world, early) == (S.LATE_SUCCESS, None, False)
    assert await books(world) == (10000, 7000, 0, 17000)
    await relay(world)
    heard = [
        update["state"]
        for update in world.orders.updates
        if update["payment_id"] == early.payment_id
    ]
    assert "LATE_SUCCESS" in heard  # the order is asked as what it is now
    assert await state_of(world, early) == (S.LATE_SUCCESS, D.REFUSED_PAID_BY_OTHER, False)
    assert await refunds_of(world, early) == [
        (3000, R.SUCCESS, True, False),
        (7000, R.CREATED, True, False),
    ]
    await channel_answers(world)
    assert await state_of(world, early) == (S.LATE_REFUNDED, D.REFUSED_PAID_BY_OTHER, False)
    assert await books(world) == (10000, 0, 0, 10000)


async def test_a_success_that_went_back_whole_before_it_gives_way_is_over_at_once(
    world: PaymentWorld, line: RefundLine
) -> None:
    early, _late = await handed_over(world, lambda payment: asks_back(world, payment))
    assert await state_of(world, early) == (S.LATE_REFUNDED, None, False)
    assert await books(world) == (10000, 0, 0, 10000)
    await relay(world)
    assert await refunds_of(world, early) == [(10000, R.SUCCESS, False, False)]


async def test_a_refund_on_its_way_while_its_payment_gives_way_fails_back_to_nobody_and_calls_a_person(
    world: PaymentWorld, line: RefundLine
) -> None:
    early, _late = await handed_over(
        world,
        lambda payment: asks_back_without_an_answer(world, line, payment, "30.00", end=FAILED),
    )
    assert await books(world) == (10000, 7000, 3000, 20000)
    await relay(world)
    await channel_answers(world)
    assert await refunds_of(world, early) == [
        (3000, R.FAILED, True, True),
        (7000, R.SUCCESS, True, False),
    ]
    assert [kind for kind, _ in await world.attention()] == ["REFUND_FAILED"]
    assert await books(world) == (10000, 3000, 0, 13000)


async def test_a_holder_that_gives_way_with_everything_leaving_is_closed_by_its_refund(
    world: PaymentWorld, line: RefundLine
) -> None:
    early, late = await handed_over(
        world, lambda payment: asks_back_without_an_answer(world, line, payment)
    )
    assert await state_of(world, early) == (S.LATE_SUCCESS, None, False)
    assert await books(world) == (10000, 0, 10000, 20000)
    await relay(world)
    await channel_answers(world)
    assert (await state_of(world, early))[0] is S.LATE_REFUNDED
    assert await books(world) == (10000, 0, 0, 10000)
    holder = await world.db.read(payments.read_payment, late.payment_id)
    assert (holder.state, holder.holds_slot) == (S.SUCCESS, True)

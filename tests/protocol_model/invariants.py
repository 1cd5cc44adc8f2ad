"""What must hold, in one place: in every state (`broken_now`) and in every state at rest
(`broken_at_rest`). What may never be done at all the transactions note themselves, with
`World.wrong`; `broken_now` tells it."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

from order_rpc.domain.order import OrderState as O
from payment_rpc.domain.payment import Disposition
from payment_rpc.domain.payment import PaymentState as S
from payment_rpc.domain.refund import RefundState as R
from tests.protocol_model.world import WITHOUT_MONEY, AtChannel, Stock, World


class Broken(StrEnum):
    """The invariants, as what is said when one does not hold."""

    # may never be done; the transactions note it
    CHARGED_CANCELLED = "a cancelled order was charged"
    CHARGED_AGAIN = "an order was charged again although its money is here"
    TWO_LIVE = "an order has two live payments"
    SENT_AFTER_END = "an attempt was sent again after its payment ended"
    OTHER_ANSWER = "the same key got another final answer"
    CLOSED_THOUGH_PAID = "an order was told that nobody paid although its money is here"
    TOOK_REFUSED = "an order took money that it had refused"
    REVIVED_BY_LEAVING = "an order was revived by money that was on its way back"
    SHIPPED_WHILE_LEAVING = "an order was shipped while its money was on its way back"
    TOOK_UNASKED = "the channel took of a hold what no capture of ours was to take"
    LET_GO_WHILE_CAPTURED = "held money was let go while it was being captured"
    # in every state
    TAKEN_TWICE = "the channel took the money of one attempt twice"
    OVER_REFUNDED = "refunds of a payment exceed what it captured"
    OVER_REFUNDED_AT_CHANNEL = "the channel gave back more than it captured"
    TWO_SLOTS = "two payments hold the slot of one order"
    STOCK = "units appeared or vanished"
    # at rest
    NO_REST = "it never comes to rest"
    LOST_SUCCESS = "the channel captured what is not booked, or the other way round"
    REFUND_BOOKS = "a refund at the channel differs from the books"
    REFUND_STUCK = "a refund has no result"
    PAYMENT_STUCK = "a payment has no final state and nobody looks at it"
    MESSAGE_STUCK = "a message was never answered"
    ORDER_STUCK = "an order has no final state"
    VIEW = "the order's view of refunds is stale"
    SLOT = "the slot is held by a payment that has ended without money"
    SUCCESS_NOT_PAID = "a payment is SUCCESS and its order is not paid by it"
    PAID_NOT_SUCCESS = "an order is paid and its payment is not SUCCESS"
    PAID_TWICE = "a paid order keeps the money of another payment, or none"
    PAID_TWICE_BY_ONE = "a payment keeps more than its order costs"
    PAID_AND_CANCELLED = "a cancelled order keeps money"
    REFUNDED_WITH_MONEY = "a refunded order keeps money"
    PAID_WITHOUT_STOCK = "a paid order has no unit"
    CANCELLED_WITH_STOCK = "a cancelled order holds a unit"


def broken_now(world: World) -> list[str]:
    """What does not hold now; empty when all is well."""
    shop, wrongs = world.shop, list(world.shop.wrongs)
    slots = 0
    for payment in world.payments:
        slots += payment.slot
        if (
            payment.captured < payment.reserved + payment.refunded
            or payment.reserved < 0
            or payment.refunded < 0
        ):
            wrongs.append(Broken.OVER_REFUNDED)
    if any(attempt.taken > 1 for attempt in world.attempts):
        wrongs.append(Broken.TAKEN_TWICE)
    if slots > 1:
        wrongs.append(Broken.TWO_SLOTS)
    held = sum(stock is not Stock.RELEASED for stock in world.order.stock)
    if shop.available < 0 or shop.available + shop.taken + held != 2:
        wrongs.append(Broken.STOCK)
    # a channel that pays after it refused may pay too much: that is booked to loss
    if world.refunds and not world.scenario.flips:
        wrongs.extend(
            Broken.OVER_REFUNDED_AT_CHANNEL
            for p in range(len(world.payments))
            if _given_back(world, p) > _captured_at_channel(world, p)
        )
    return wrongs


def broken_at_rest(world: World) -> list[str]:
    """What does not hold in a state without a move that repairs."""
    found = list(dict.fromkeys([*_payments(world), *_order(world)]))
    if any(not done for _, done in world.outbox):
        found.append(Broken.MESSAGE_STUCK)
    return found


def second_captures(world: World) -> int:
    """How often the channel took money again for a payment. Repaired by refunds, and still nobody
    wants it.
    """
    captures = (
        [world.attempts[a].at_channel for a in world.attempts_of(p)].count(AtChannel.CAPTURED)
        for p in range(len(world.payments))
    )
    return sum(max(0, count - 1) for count in captures)


def false_failures(world: World) -> int:
    """How many clients got the final answer that nothing was paid although the channel took their
    money.
    """
    return sum(
        payment.receipt == "FAILED" and _captured_at_channel(world, p) > 0
        for p, payment in enumerate(world.payments)
    )


def needless_refusals(world: World) -> int:
    """How many payments a cancelled order refused. Where no channel captures late, it should have
    waited for each of them.
    """
    return [payment.disposition for payment in world.payments].count(Disposition.REFUSED_CANCELLED)


def _captured_at_channel(world: World, p: int) -> int:
    amount = world.scenario.amount
    units = sum(
        attempt.units_at_channel
        or amount * (attempt.at_channel in (AtChannel.CAPTURED, AtChannel.WRONG))
        for attempt in (world.attempts[a] for a in world.attempts_of(p))
    )
    return units + amount * (p == world.scenario.balance)


def _given_back(world: World, p: int) -> int:
    return sum(
        refund.times_out * refund.amount for refund in world.refunds.values() if refund.payment == p
    )


def _payments(world: World) -> Iterator[str]:
    ended = (None, S.SUCCESS, S.LATE_REFUNDED, S.CONFLICTED, *WITHOUT_MONEY)
    for attempt in world.attempts:
        if attempt.captured != (attempt.at_channel in (AtChannel.CAPTURED, AtChannel.WRONG)):
            yield Broken.LOST_SUCCESS
        if attempt.units != attempt.units_at_channel:
            yield Broken.LOST_SUCCESS
    for refund in world.refunds.values():
        if refund.state not in (R.SUCCESS, R.FAILED, R.REVERSED):
            yield Broken.REFUND_STUCK
        if refund.times_out != (refund.state is R.SUCCESS):
            yield Broken.REFUND_BOOKS
    for p, payment in enumerate(world.payments):
        if payment.state not in ended and not (
            payment.state is S.LATE_SUCCESS and payment.attention
        ):
            yield Broken.PAYMENT_STUCK
        if payment.slot and payment.state is not S.SUCCESS:
            yield Broken.SLOT
        if payment.state is S.SUCCESS and world.order.paid_by != p:
            yield Broken.SUCCESS_NOT_PAID
        if payment.version and world.order.heard_refunded[p] != payment.refunded:
            yield Broken.VIEW


def _kept(world: World, p: int) -> int:
    """The buyer's money that a payment keeps, by the channel's record."""
    return _captured_at_channel(world, p) * (world.payments[p].state is not None) - _given_back(
        world, p
    )


def _order(world: World) -> Iterator[str]:
    order, payments = world.order, world.payments
    # a person looks at it
    parked = [
        p
        for p, payment in enumerate(payments)
        if payment.attention or payment.state is S.CONFLICTED
    ]
    keeping = [p for p in range(len(payments)) if p not in parked and _kept(world, p)]
    match order.state:
        case O.PAID | O.SHIPPED | O.COMPLETED:
            paid_by = payments[order.paid_by]
            if paid_by.state is not S.SUCCESS and (
                not paid_by.attention or paid_by.state is S.CONFLICTED
            ):
                yield Broken.PAID_NOT_SUCCESS
            if order.paid_by not in keeping + parked or any(p != order.paid_by for p in keeping):
                yield Broken.PAID_TWICE
            if any(_kept(world, p) > world.scenario.amount for p in keeping):
                yield Broken.PAID_TWICE_BY_ONE
            if order.stock[-1] is not Stock.COMMITTED:
                yield Broken.PAID_WITHOUT_STOCK
        case O.CANCELLED:
            if keeping:
                yield Broken.PAID_AND_CANCELLED
            if order.stock[-1] is not Stock.RELEASED:
                yield Broken.CANCELLED_WITH_STOCK
        case O.REFUNDED:
            if keeping:
                yield Broken.REFUNDED_WITH_MONEY
        case _:
            yield Broken.ORDER_STUCK

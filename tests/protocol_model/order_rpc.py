"""The transactions of order_rpc: what a snapshot of a payment does to the order, cancelling,
shipping, stock.
"""

from __future__ import annotations

from typing import TypeVar

from order_rpc.domain.order import OrderState as O
from payment_rpc.domain.payment import Disposition
from payment_rpc.domain.payment import PaymentState as S
from payment_rpc.domain.refund import RefundState
from payment_rpc.usecases.cancel import CloseResult
from tests.protocol_model.invariants import Broken
from tests.protocol_model.world import MONEY, PAID, REFUSALS, Snapshot, Stock, World

T = TypeVar("T")


def _put(row: tuple[T, ...], place: int, value: T) -> tuple[T, ...]:
    return (*row[:place], value, *row[place + 1 :])


def deliver(world: World, message: Snapshot) -> None:
    """The relay sends a message; the answer is under way back to it."""
    if not world.rules.redeliver:
        world.outbox = [(sent, done) for sent, done in world.outbox if sent[:2] != message[:2]]
    disposition = take(world, message)
    world.call("disposition", message[0], message[1], disposition or "NOTED")


def take(world: World, news: Snapshot) -> Disposition | None:
    """UpdateOrderStatus and ALREADY_PAID: one transaction; None is NOTED."""
    p, version, state, captured, refunded, _ = news
    order, rules = world.order, world.rules
    known = order.dispositions[p]
    if rules.version and (
        version < order.seen[p] or (version == order.seen[p] and rules.disposition_once)
    ):
        return known
    order.seen = _put(order.seen, p, version)
    order.heard_refunded = _put(order.heard_refunded, p, refunded)
    if state is S.AUTHORIZED:
        if order.state is O.PENDING_PAYMENT:
            order.held = max(order.held, p)
    elif order.held == p:
        order.held = -1
    if known is None or not rules.disposition_once:
        if state in MONEY:
            known = _decide(world, news)
        elif not rules.money_decides:
            known = Disposition.ALREADY
        order.dispositions = _put(order.dispositions, p, known)
    is_ours = order.paid_by == p or not rules.refund_of_paid_only
    if is_ours and order.state in PAID and refunded >= captured > 0:
        world.order_to(O.REFUNDED)
    return known


def _decide(world: World, news: Snapshot) -> Disposition:
    p, _, _, captured, refunded, reserved = news
    order, rules = world.order, world.rules
    match order.state:
        case O.PENDING_PAYMENT | O.CANCELLING:
            world.order_to(O.PAID)
            order.paid_by = p
            order.held = -1
            order.stock = (*order.stock[:-1], Stock.COMMITTED)
            return Disposition.APPLIED
        case O.CANCELLED:
            if not world.scenario.revives or (
                rules.revive_whole and captured - refunded - reserved < world.scenario.amount
            ):
                return Disposition.REFUSED_CANCELLED
            if rules.revive_one_tx and world.shop.available < 1:
                return Disposition.REFUSED_CANCELLED
            if world.payments[p].disposition in REFUSALS:
                world.wrong(Broken.TOOK_REFUSED)
            if captured - refunded - reserved < world.scenario.amount:
                world.wrong(Broken.REVIVED_BY_LEAVING)
            world.order_to(O.PAID)
            order.paid_by = p
            if rules.revive_one_tx:
                reserve_again(world)
            else:
                world.call("reserve again")
            return Disposition.REVIVED
        case _:
            return (
                Disposition.ALREADY
                if order.paid_by == p or not rules.paid_payment_id
                else Disposition.REFUSED_PAID_BY_OTHER
            )


def reserve_again(world: World) -> None:
    """The next generation of the order's reservation, sold at once."""
    if world.shop.available:
        world.shop.available -= 1
        world.order.stock = (*world.order.stock, Stock.COMMITTED)


def close_answered(world: World, result: CloseResult, *paid: object) -> None:
    """What ClosePayment answered."""
    order, rules = world.order, world.rules
    may_cancel = (O.CANCELLING,) if rules.cancelling_first else (O.CANCELLING, O.PENDING_PAYMENT)
    if order.state not in may_cancel and rules.order_state:
        return
    if result is CloseResult.ALREADY_PAID and rules.already_paid:
        take(world, paid)  # type: ignore[arg-type]  # a call under way carries its snapshot flat
    elif result is CloseResult.HELD:
        _come_back(world, paid)  # type: ignore[arg-type]  # likewise
    elif result is not CloseResult.CLOSING:
        world.order_to(O.CANCELLED)
        order.held = -1
        if rules.release:
            world.shop.available += 1
            order.stock = (*order.stock[:-1], Stock.RELEASED)


def _come_back(world: World, news: Snapshot) -> None:
    """HELD: the order waits for its shop, unless it has heard what came after that."""
    p, version = news[:2]
    if version < world.order.seen[p]:
        return
    world.order.seen = _put(world.order.seen, p, max(version, world.order.seen[p]))
    world.order.held = p
    world.order_to(O.PENDING_PAYMENT)


def shop_cancels(world: World) -> None:
    """The shop cancels, and lets held money go."""
    world.order.lets_go = True
    world.order_to(O.CANCELLING)


def refund_is_open(world: World) -> bool:
    """True while money of the payment that paid is on its way back. (The model ships nothing of
    which a part goes back; the product looks at all.)
    """
    return any(
        refund.payment == world.order.paid_by
        and not refund.stands_alone
        and refund.state not in (RefundState.FAILED, RefundState.REVERSED)
        for refund in world.refunds.values()
    )


def ship(world: World) -> None:
    """Handed to a carrier."""
    world.order_to(O.SHIPPED)
    if refund_is_open(world):
        world.wrong(Broken.SHIPPED_WHILE_LEAVING)

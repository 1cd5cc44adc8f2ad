"""Proof that money is right: what services say about themselves, in a form in which they can be
compared, and what must hold across them.

Each service with a database has a package `<service>.proof` with the functions that `Proof`
describes; nothing here imports one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from mesh.db import Database

FOUND_MAX = 100  # per check: a person looks at the first, not at the thousandth
SETTLING = timedelta(minutes=10)  # as long as a message may be on its way without anybody wondering
UNDELIVERED = timedelta(days=1)  # as long as a neighbour may be away
OVERDUE = timedelta(minutes=10)  # as late as a worker may be
OrderKey = tuple[str, str]  # merchant_id, order_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One thing that does not hold: the name of the check, what it is about, one sentence."""

    check: str
    subject: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """How much may be unfinished. `strict` is for a system at rest: nothing may. `events_wait` is
    for a service without Redis: nobody publishes its events, they stay in the outbox until there is
    one. `sales_close_after` is how long after its end a flash sale is closed by itself."""

    now: datetime
    strict: bool
    events_wait: bool = False
    sales_close_after: timedelta = timedelta(0)

    def before(self, limit: timedelta) -> datetime:
        """What was due before this moment is late."""
        return self.now if self.strict else self.now - limit


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundFacts:
    """A refund as one of the two services has it, in the words of order_rpc: REQUESTED, APPROVED,
    REJECTED, SUCCEEDED, FAILED, BOUNCED. `request_id` is "" when nobody asked order_rpc for it,
    `refund_id` as long as payment_rpc has not said it."""

    request_id: str
    refund_id: str
    payment_id: str
    state: str
    amount_minor: int
    currency: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderFacts:
    """An order as order_rpc has it; amounts in minor units. `is_paid` once money (or nothing to
    pay) made it PAID, whatever came then. `heard` is the state of each payment by (payment_id,
    version) as order_rpc heard of it."""

    merchant_id: str
    order_id: str
    user_id: str
    state: str
    is_paid: bool
    amount_minor: int
    currency: str
    paid_payment_id: str
    captured_minor: int
    refunded_minor: int
    heard: Mapping[tuple[str, int], str] = field(default_factory=dict)
    refunds: tuple[RefundFacts, ...] = ()

    @property
    def key(self) -> OrderKey:
        """Names it."""
        return self.merchant_id, self.order_id


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentFacts:
    """A payment of an order as payment_rpc has it. `is_settling` while news of it are on their way
    to order_rpc and not late. `refunds` are those that the order is told of."""

    payment_id: str
    merchant_id: str
    order_id: str
    user_id: str
    state: str
    version: int
    amount_minor: int
    currency: str
    captured_minor: int
    refunded_minor: int
    is_settling: bool
    refunds: tuple[RefundFacts, ...] = ()

    @property
    def key(self) -> OrderKey:
        """Names its order."""
        return self.merchant_id, self.order_id


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityFacts:
    """An activity as seckill_rpc has it. `is_settling` while its units may be on their way from or
    to the shelf.
    """

    activity_id: str
    merchant_id: str
    sku_id: str
    state: str
    offered: int
    total: int
    is_settling: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitFacts:
    """An order of an activity as seckill_rpc has it. `is_written`: order_rpc answered;
    `is_settling`: it is still being told.
    """

    order_id: str
    merchant_id: str
    activity_id: str
    user_id: str
    state: str
    price_minor: int
    currency: str
    is_written: bool
    is_settling: bool

    @property
    def key(self) -> OrderKey:
        """Names it."""
        return self.merchant_id, self.order_id


@dataclass(frozen=True, slots=True, kw_only=True)
class SaleOrderFacts:
    """An order of an activity as order_rpc has it. `is_settling` while the flash sale is still
    being told that its unit comes back.
    """

    merchant_id: str
    order_id: str
    activity_id: str
    user_id: str
    state: str
    quantity: int
    price_minor: int
    currency: str
    is_settling: bool

    @property
    def key(self) -> OrderKey:
        """Names it."""
        return self.merchant_id, self.order_id


class Proof(Protocol):
    """What every `<service>.proof` offers."""

    def violations(self, db: Database, allowance: Allowance) -> AsyncIterator[Violation]:
        """What does not hold within the service."""
        ...


def compare(
    orders: Mapping[OrderKey, OrderFacts],
    payments: Iterable[PaymentFacts],
    gates: Mapping[OrderKey, str],
) -> Iterator[tuple[OrderKey, Violation]]:
    """Orders against all payments and gates of these orders: PAID exactly when its payment is a
    SUCCESS, of the same amounts, buyer and refunds; paid by nobody any more once it is
    CANCELLED."""
    of_order: dict[OrderKey, list[PaymentFacts]] = {key: [] for key in orders}
    for payment in payments:
        of_order.setdefault(payment.key, []).append(payment)
    for key, order in orders.items():
        for violation in _compare_gate(order, gates.get(key)):
            yield key, violation
    for key, own in of_order.items():
        if any(payment.is_settling for payment in own):
            continue
        found = orders.get(key)
        if found is None:
            for payment in own:
                yield (
                    key,
                    Violation(
                        check="payment_has_order",
                        subject=payment.payment_id,
                        detail=f"there is no order {key[1]}",
                    ),
                )
        else:
            for violation in (*_compare_one(found, own), *_compare_refunds(found, own)):
                yield key, violation


def _compare_gate(order: OrderFacts, gate: str | None) -> Iterator[Violation]:
    """What keeps new payments of an order from being made, once it is decided that nobody may pay
    it any more.
    """
    if order.state == "CANCELLED" and gate != "CLOSED":
        yield Violation(
            check="gate_closed",
            subject=order.order_id,
            detail=f"it is CANCELLED, and its gate at payment_rpc is {gate or 'not there'}",
        )
    if order.state == "PENDING_PAYMENT" and gate == "CLOSED":
        yield Violation(
            check="gate_open",
            subject=order.order_id,
            detail="it waits for money, and its gate at payment_rpc is CLOSED",
        )


def _compare_refunds(order: OrderFacts, payments: Sequence[PaymentFacts]) -> Iterator[Violation]:
    """Each refund on both sides, of one state and amount."""
    theirs = {refund.refund_id: refund for payment in payments for refund in payment.refunds}
    named = {refund.request_id: refund for refund in theirs.values() if refund.request_id}
    known = set()
    for ours in order.refunds:
        subject = ours.refund_id or ours.request_id
        other = theirs.get(ours.refund_id) or named.get(ours.request_id)
        if other is None:
            if ours.refund_id:
                yield Violation(
                    check="refund_at_payment",
                    subject=subject,
                    detail=f"order {order.order_id} has it as {ours.state}, payment_rpc not at all",
                )
            continue
        known.add(other.refund_id)
        for what, is_, should in (
            ("state", ours.state, other.state),
            ("amount", (ours.amount_minor, ours.currency), (other.amount_minor, other.currency)),
            ("payment", ours.payment_id, other.payment_id),
        ):
            if is_ != should:
                yield Violation(
                    check=f"same_refund_{what}",
                    subject=subject,
                    detail=f"{what} is {is_} at order {order.order_id} and {should} at payment_rpc",
                )
    for refund_id in theirs.keys() - known:
        yield Violation(
            check="refund_at_order",
            subject=refund_id,
            detail=f"payment_rpc has it as {theirs[refund_id].state}, order {order.order_id} not "
            f"at all",
        )


def _compare_one(order: OrderFacts, payments: Sequence[PaymentFacts]) -> Iterator[Violation]:
    paying = next(
        (payment for payment in payments if payment.payment_id == order.paid_payment_id), None
    )
    for payment in payments:
        if payment.user_id != order.user_id:
            yield Violation(
                check="same_buyer",
                subject=payment.payment_id,
                detail=f"it is {payment.user_id}'s, and order {order.order_id} is "
                f"{order.user_id}'s",
            )
        heard = order.heard.get((payment.payment_id, payment.version), payment.state)
        if heard != payment.state:
            yield Violation(
                check="same_payment_state",
                subject=payment.payment_id,
                detail=f"it is {payment.state}, and order {order.order_id} heard in the same "
                f"version that it is {heard}",
            )
        if payment.state == "SUCCESS" and payment is not paying:
            yield Violation(
                check="paid_once",
                subject=payment.payment_id,
                detail=f"it is a SUCCESS, and order {order.order_id} is {order.state}, paid by "
                f"{order.paid_payment_id or 'nobody'}",
            )
    if not order.is_paid or (order.amount_minor == 0 and not order.paid_payment_id):
        return
    if paying is None:
        yield Violation(
            check="order_paid_by_success",
            subject=order.order_id,
            detail=f"it is {order.state}, and there is no payment "
            f"{order.paid_payment_id or '(none)'} of it",
        )
        return
    if paying.state != "SUCCESS":
        yield Violation(
            check="order_paid_by_success",
            subject=order.order_id,
            detail=f"it is {order.state}, and its payment {paying.payment_id} is {paying.state}",
        )
    for name, ours, theirs in (
        ("amount", order.amount_minor, paying.amount_minor),
        ("captured", order.captured_minor, paying.captured_minor),
        ("refunded", order.refunded_minor, paying.refunded_minor),
        ("currency", order.currency, paying.currency),
    ):
        if ours != theirs:
            yield Violation(
                check=f"same_{name}",
                subject=order.order_id,
                detail=f"{name} is {ours} at the order and {theirs} at {paying.payment_id}",
            )
    if order.state == "REFUNDED" and paying.refunded_minor != paying.captured_minor:
        yield Violation(
            check="order_refunded",
            subject=order.order_id,
            detail=f"it is REFUNDED, and {paying.payment_id} still has money of it",
        )


def compare_sale(
    units: Mapping[OrderKey, UnitFacts],
    orders: Mapping[OrderKey, SaleOrderFacts],
    keys: Iterable[OrderKey],
) -> Iterator[tuple[OrderKey, Violation]]:
    """Orders of flash sales on both sides: each was decided before it was written, of the same
    buyer and price; a unit that came back has a cancelled order, and no cancelled order keeps
    one."""
    for key in keys:
        unit, order = units.get(key), orders.get(key)
        for check_name, detail in _compare_unit(unit, order):
            yield key, Violation(check=check_name, subject=key[1], detail=detail)


def _compare_unit(
    unit: UnitFacts | None, order: SaleOrderFacts | None
) -> Iterator[tuple[str, str]]:
    if order is None:
        if unit is not None and unit.state == "LIVE" and not unit.is_settling:
            yield "unit_has_order", "order_rpc does not have it"
        return
    if unit is None or unit.state == "REFUSED":
        yield (
            "order_has_unit",
            (
                f"order_rpc has it as {order.state}, and the flash sale "
                f"{'never decided it' if unit is None else 'refused it'}"
            ),
        )
        return
    ours = (unit.activity_id, unit.user_id, unit.price_minor, unit.currency, 1)
    theirs = (order.activity_id, order.user_id, order.price_minor, order.currency, order.quantity)
    if ours != theirs:
        yield "same_sale", f"it is {ours} in the flash sale and {theirs} in order_rpc"
    if unit.state == "RETURNED" and order.state != "CANCELLED":
        yield "unit_returned", f"its unit came back, and the order is {order.state}"
    if unit.state == "LIVE" and order.state == "CANCELLED" and not order.is_settling:
        yield (
            "unit_returned",
            "the order is CANCELLED, and the flash sale does not have its unit back",
        )

"""Proof that money is right: what services say about themselves, in a form in which they can be compared, and what must hold across them.

Each service with a database has a package `<service>.proof` with the functions that `Proof` describes; nothing here imports one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db import Database
from mesh.events import destination
from mesh.log_chain import Log, broken_chains
from mesh.outbox import OUTBOX

FOUND_MAX = 100  # per check: a person looks at the first, not at the thousandth
SETTLING = timedelta(minutes=10)       # as long as a message may be on its way without anybody wondering
UNDELIVERED = timedelta(days=1)        # as long as a neighbour may be away
OVERDUE = timedelta(minutes=10)        # as late as a worker may be
OrderKey = tuple[str, str]             # merchant_id, order_id
_IS_EVENT = OUTBOX.c.destination.startswith(destination(""))


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One thing that does not hold: the name of the check, what it is about, one sentence."""

    check: str
    subject: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """How much may be unfinished. `strict` is for a system at rest: nothing may. `events_wait` is for a service without Redis: nobody publishes its
    events, they stay in the outbox until there is one."""

    now: datetime
    strict: bool
    events_wait: bool = False

    def before(self, limit: timedelta) -> datetime:
        """What was due before this moment is late."""
        return self.now if self.strict else self.now - limit


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderFacts:
    """An order as order_rpc has it; amounts in minor units. `is_paid` once money (or nothing to pay) made it PAID, whatever came then."""

    merchant_id: str
    order_id: str
    state: str
    is_paid: bool
    amount_minor: int
    currency: str
    paid_payment_id: str
    captured_minor: int
    refunded_minor: int

    @property
    def key(self) -> OrderKey:
        """Names it."""
        return self.merchant_id, self.order_id


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentFacts:
    """A payment of an order as payment_rpc has it. `is_settling` while news of it are on their way to order_rpc and not late."""

    payment_id: str
    merchant_id: str
    order_id: str
    state: str
    amount_minor: int
    currency: str
    captured_minor: int
    refunded_minor: int
    is_settling: bool

    @property
    def key(self) -> OrderKey:
        """Names its order."""
        return self.merchant_id, self.order_id


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityFacts:
    """An activity as seckill_rpc has it. `is_settling` while its units may be on their way from or to the shelf."""

    activity_id: str
    merchant_id: str
    sku_id: str
    state: str
    offered: int
    total: int
    is_settling: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitFacts:
    """An order of an activity as seckill_rpc has it. `is_written`: order_rpc answered; `is_settling`: it is still being told."""

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
    """An order of an activity as order_rpc has it. `is_settling` while the flash sale is still being told that its unit comes back."""

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


def compare(orders: Mapping[OrderKey, OrderFacts], payments: Iterable[PaymentFacts]) -> Iterator[tuple[OrderKey, Violation]]:
    """Orders against all payments of these orders: PAID exactly when its payment is a SUCCESS, of the same amounts."""
    of_order: dict[OrderKey, list[PaymentFacts]] = {key: [] for key in orders}
    for payment in payments:
        of_order.setdefault(payment.key, []).append(payment)
    for key, own in of_order.items():
        if any(payment.is_settling for payment in own):
            continue
        order = orders.get(key)
        if order is None:
            for payment in own:
                yield key, Violation(check="payment_has_order", subject=payment.payment_id, detail=f"there is no order {key[1]}")
        else:
            for violation in _compare_one(order, own):
                yield key, violation


def _compare_one(order: OrderFacts, payments: Sequence[PaymentFacts]) -> Iterator[Violation]:
    paying = next((payment for payment in payments if payment.payment_id == order.paid_payment_id), None)
    for payment in payments:
        if payment.state == "SUCCESS" and payment is not paying:
            yield Violation(check="paid_once", subject=payment.payment_id,
                            detail=f"it is a SUCCESS, and order {order.order_id} is {order.state}, paid by {order.paid_payment_id or 'nobody'}")
    if not order.is_paid or (order.amount_minor == 0 and not order.paid_payment_id):
        return
    if paying is None:
        yield Violation(check="order_paid_by_success", subject=order.order_id,
                        detail=f"it is {order.state}, and there is no payment {order.paid_payment_id or '(none)'} of it")
        return
    if paying.state != "SUCCESS":
        yield Violation(check="order_paid_by_success", subject=order.order_id,
                        detail=f"it is {order.state}, and its payment {paying.payment_id} is {paying.state}")
    for name, ours, theirs in (("amount", order.amount_minor, paying.amount_minor), ("captured", order.captured_minor, paying.captured_minor),
                               ("refunded", order.refunded_minor, paying.refunded_minor), ("currency", order.currency, paying.currency)):
        if ours != theirs:
            yield Violation(check=f"same_{name}", subject=order.order_id, detail=f"{name} is {ours} at the order and {theirs} at {paying.payment_id}")
    if order.state == "REFUNDED" and paying.refunded_minor != paying.captured_minor:
        yield Violation(check="order_refunded", subject=order.order_id, detail=f"it is REFUNDED, and {paying.payment_id} still has money of it")


def compare_sale(units: Mapping[OrderKey, UnitFacts], orders: Mapping[OrderKey, SaleOrderFacts], keys: Iterable[OrderKey],
                 ) -> Iterator[tuple[OrderKey, Violation]]:
    """Orders of flash sales on both sides: each was decided before it was written, of the same buyer and price; a unit that came back has a
    cancelled order, and no cancelled order keeps one."""
    for key in keys:
        unit, order = units.get(key), orders.get(key)
        for check_name, detail in _compare_unit(unit, order):
            yield key, Violation(check=check_name, subject=key[1], detail=detail)


def _compare_unit(unit: UnitFacts | None, order: SaleOrderFacts | None) -> Iterator[tuple[str, str]]:
    if order is None:
        if unit is not None and unit.state == "LIVE" and not unit.is_settling:
            yield "unit_has_order", "order_rpc does not have it"
        return
    if unit is None or unit.state == "REFUSED":
        yield "order_has_unit", f"order_rpc has it as {order.state}, and the flash sale {'never decided it' if unit is None else 'refused it'}"
        return
    ours = (unit.activity_id, unit.user_id, unit.price_minor, unit.currency, 1)
    theirs = (order.activity_id, order.user_id, order.price_minor, order.currency, order.quantity)
    if ours != theirs:
        yield "same_sale", f"it is {ours} in the flash sale and {theirs} in order_rpc"
    if unit.state == "RETURNED" and order.state != "CANCELLED":
        yield "unit_returned", f"its unit came back, and the order is {order.state}"
    if unit.state == "LIVE" and order.state == "CANCELLED" and not order.is_settling:
        yield "unit_returned", "the order is CANCELLED, and the flash sale does not have its unit back"


async def check(db: Database, name: str, query: Select[Any], detail: str) -> list[Violation]:
    """Runs a query of which every row is a violation: its first column is the subject, `detail` is filled with all columns."""
    async def run(tx: AsyncConnection) -> list[Violation]:
        rows = (await tx.execute(query.limit(FOUND_MAX))).mappings()
        return [Violation(check=name, subject=str(next(iter(row.values()))), detail=detail.format_map(row)) for row in rows]
    return await db.read(run)


async def check_outbox(db: Database, allowance: Allowance) -> AsyncIterator[Violation]:
    """Every message was delivered, or is due and not late, or has nobody who delivers it."""
    row = OUTBOX.c
    shown = select(row.event_id, row.tag, row.destination, row.aggregate_id, row.last_error, row.attempts).order_by(row.id)
    for violation in await check(db, "outbox_dead", shown.where(row.state == "DEAD"),
                                 "{tag} about {aggregate_id} was refused by {destination}: {last_error}"):
        yield violation
    late = (row.due_at < allowance.before(OVERDUE)) | (row.created_at < allowance.before(UNDELIVERED))
    waiting = shown.where(row.state == "NEW")
    if allowance.events_wait:
        waiting = waiting.where(~_IS_EVENT)
    for violation in await check(db, "outbox_late", waiting if allowance.strict else waiting.where(late),
                                 "{tag} about {aggregate_id} has not reached {destination} after {attempts} attempts: {last_error}"):
        yield violation


async def check_logs(db: Database, *logs: Log) -> AsyncIterator[Violation]:
    """Every chained log says what was written, all of it and nothing else."""
    for log in logs:
        async for broken in broken_chains(db, log):
            yield Violation(check="log_chained", subject=broken.entity, detail=f"its {broken.log}: {broken.detail}")


async def waiting_events(db: Database) -> int:
    """How many events were not published."""
    async def count(tx: AsyncConnection) -> int:
        return int((await tx.execute(select(func.count()).where(OUTBOX.c.state == "NEW", _IS_EVENT))).scalar() or 0)
    return await db.read(count)

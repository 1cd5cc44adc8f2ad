"""What must hold within order_rpc: stock is what orders hold of it, histories lead to where orders are, and nothing is left undone (PROTOCOLS 6).

Each check is one statement, so it sees one moment.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, case, func, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db import Database
from mesh.proof import OVERDUE, Allowance, OrderFacts, OrderKey, Violation, check, check_logs, check_outbox
from order_rpc.domain.order import OrderState, StockSource
from order_rpc.domain.payment import Disposition
from order_rpc.tables import (
    ALLOCATION,
    AUDIT_LOG,
    COMMITTED,
    MOVEMENT_LOG,
    ORDER_AUDIT,
    ORDER_ITEM,
    ORDERS,
    PAYMENT_DISPOSITION,
    RELEASED,
    RESERVATION,
    RESERVED,
    STOCK,
    STOCK_RETURN,
)

CANCELLING = timedelta(hours=1)  # a channel may be away; the question is repeated every few minutes
_UNPAID = (OrderState.PENDING_PAYMENT, OrderState.CANCELLING, OrderState.CANCELLED)
_O, _I, _R, _S, _H, _D = ORDERS.c, ORDER_ITEM.c, RESERVATION.c, STOCK.c, ORDER_AUDIT.c, PAYMENT_DISPOSITION.c


async def violations(db: Database, allowance: Allowance) -> AsyncIterator[Violation]:
    """Everything that does not hold."""
    async for violation in check_outbox(db, allowance):
        yield violation
    async for violation in check_logs(db, AUDIT_LOG, MOVEMENT_LOG):
        yield violation
    for name, query, detail in [*_unfinished(allowance), *_orders(), *_reservations(), *_stock()]:
        for violation in await check(db, name, query, detail):
            yield violation


def _unfinished(allowance: Allowance) -> list[tuple[str, Select[Any], str]]:
    return [
        ("order_late", select(_O.order_id, _O.state).where(_O.state == OrderState.PENDING_PAYMENT, _O.expires_at < allowance.before(OVERDUE)),
         "it is still {state} after its deadline"),
        ("order_late", select(_O.order_id, _O.state).where(_O.state == OrderState.CANCELLING, _O.updated_at < allowance.before(CANCELLING)),
         "it is still {state}"),
    ]


def _orders() -> list[tuple[str, Select[Any], str]]:
    """An order against its lines, its history and the payments that it took."""
    lines = select(func.coalesce(func.sum(_I.amount_minor), 0)).where(_same_order(_I)).scalar_subquery()
    step = ORDER_AUDIT.alias()
    newest = select(func.max(step.c.id)).where(_same_order(step.c)).scalar_subquery()
    before = func.lag(_H.to_state).over(partition_by=(_H.merchant_id, _H.order_id), order_by=_H.id)
    steps = select(_H.order_id, _H.from_state, _H.to_state, before.label("was")).subquery()
    took = _D.disposition.in_((Disposition.APPLIED, Disposition.REVIVED, Disposition.ALREADY))
    return [
        ("order_total", select(_O.order_id, _O.amount_minor, lines.label("lines")).where(
            _O.amount_minor != lines + _O.shipping_minor - _O.discount_minor),
         "its amount is {amount_minor}, its lines add up to {lines}, in minor units"),
        ("history_leads_here", select(_O.order_id, _O.state, _H.to_state).select_from(
            ORDERS.join(ORDER_AUDIT, and_(_same_order(_H), _H.id == newest))).where(_O.state != _H.to_state),
         "it is {state}, and its history ends with {to_state}"),
        ("history_unbroken", select(steps.c.order_id, steps.c.was, steps.c.from_state).where(
            steps.c.was.is_not(None), steps.c.was != steps.c.from_state), "its history jumps from {was} to {from_state}"),
        ("order_took_payment", select(_O.order_id, _O.paid_payment_id).where(
            _O.paid_payment_id != "", ~select(_D.payment_id).where(_same_order(_D), _D.payment_id == _O.paid_payment_id, took).exists()),
         "it is paid by {paid_payment_id}, and it never took that payment"),
        ("taken_once", select(_D.payment_id, _O.order_id, _O.paid_payment_id).select_from(
            ORDERS.join(PAYMENT_DISPOSITION, _same_order(_D))).where(took, _D.payment_id != _O.paid_payment_id),
         "order {order_id} took it, and is paid by {paid_payment_id}"),
        ("refunded_within_captured", select(_O.order_id, _O.refunded_minor, _O.captured_minor).where(_O.refunded_minor > _O.captured_minor),
         "{refunded_minor} of {captured_minor} went back, in minor units"),
    ]


def _reservations() -> list[tuple[str, Select[Any], str]]:
    """What orders hold: each line of the shelf once, in the state that its order is in."""
    other = RESERVATION.alias()
    newest = select(func.max(other.c.generation)).where(
        other.c.merchant_id == _I.merchant_id, other.c.order_id == _I.order_id, other.c.sku_id == _I.sku_id).scalar_subquery()
    should = case((_O.state.in_((OrderState.PENDING_PAYMENT, OrderState.CANCELLING)), RESERVED), (_O.state == OrderState.CANCELLED, RELEASED),
                  else_=COMMITTED)
    held = ORDER_ITEM.join(ORDERS, _same_order(_I)).outerjoin(RESERVATION, and_(_same_line(_R), _R.generation == newest))
    later = RESERVATION.alias()
    outdated = select(later.c.generation).where(later.c.merchant_id == _R.merchant_id, later.c.order_id == _R.order_id,
                                                later.c.sku_id == _R.sku_id, later.c.generation > _R.generation).exists()
    return [
        ("line_reserved", select(_I.order_id, _I.sku_id, _O.state, _R.state.label("held"), _R.quantity.label("units"), _I.quantity)
         .select_from(held).where(_I.stock_source == StockSource.CATALOG, or_(_R.state.is_(None), _R.state != should, _R.quantity != _I.quantity)),
         "it is {state}, {quantity} of {sku_id} should be held, {units} are {held}"),
        ("reservation_of_line", select(_R.order_id, _R.sku_id).where(
            ~select(_I.sku_id).where(_same_line(_R), _I.stock_source == StockSource.CATALOG).exists()), "it holds {sku_id}, and no line says so"),
        ("old_reservation_released", select(_R.order_id, _R.sku_id, _R.generation, _R.state).where(_R.state != RELEASED, outdated),
         "generation {generation} of {sku_id} is {state} beside a newer one"),
    ]


def _stock() -> list[tuple[str, Select[Any], str]]:
    """The counters of each SKU against the rows that they count."""
    held = _sums(RESERVATION, reserved=case((_R.state == RESERVED, _R.quantity), else_=0),
                 committed=case((_R.state == COMMITTED, _R.quantity), else_=0))
    line = _I.stock_source == StockSource.CATALOG
    back = (select(STOCK_RETURN.c.merchant_id, STOCK_RETURN.c.sku_id, func.sum(case((line, STOCK_RETURN.c.quantity), else_=0)).label("shelf"),
                   func.sum(case((line, 0), else_=STOCK_RETURN.c.quantity)).label("sale"))
            .select_from(STOCK_RETURN.join(ORDER_ITEM, _same_line(STOCK_RETURN.c)))
            .group_by(STOCK_RETURN.c.merchant_id, STOCK_RETURN.c.sku_id).subquery())
    given = _sums(ALLOCATION, units=ALLOCATION.c.allocated - ALLOCATION.c.returned)
    of = STOCK
    for part in (held, back, given):
        of = of.outerjoin(part, and_(part.c.merchant_id == _S.merchant_id, part.c.sku_id == _S.sku_id))  # type: ignore[assignment]  # a join of it
    reserved, sold = _number(held.c.reserved), _number(held.c.committed) - _number(back.c.shelf)
    allocated = _number(given.c.units) - _number(back.c.sale)
    counted = select(_S.sku_id, _S.reserved, _S.sold, _S.allocated, reserved.label("r"), sold.label("s"), allocated.label("a")).select_from(of)
    return [
        ("stock_reserved", counted.where(_S.reserved != reserved), "{reserved} units are reserved, orders reserve {r}"),
        ("stock_sold", counted.where(_S.sold != sold), "{sold} units are sold, orders bought and kept {s}"),
        ("stock_allocated", counted.where(_S.allocated != allocated), "{allocated} units are allocated, flash sales have {a}"),
    ]


async def orders_page(db: Database, *, after: OrderKey, limit: int) -> list[OrderFacts]:
    """Orders by tenant and id, those after `after`."""
    return await db.read(_read_facts, tuple_(_O.merchant_id, _O.order_id) > after, limit)


async def orders_of(db: Database, keys: Sequence[OrderKey]) -> list[OrderFacts]:
    """Some orders."""
    return await db.read(_read_facts, tuple_(_O.merchant_id, _O.order_id).in_(keys), None)


async def _read_facts(tx: AsyncConnection, condition: ColumnElement[bool], limit: int | None) -> list[OrderFacts]:
    query = select(ORDERS).where(condition).order_by(_O.merchant_id, _O.order_id).limit(limit)
    return [OrderFacts(merchant_id=row.merchant_id, order_id=row.order_id, state=row.state, is_paid=row.state not in _UNPAID,
                       amount_minor=row.amount_minor, currency=row.currency, paid_payment_id=row.paid_payment_id,
                       captured_minor=row.captured_minor, refunded_minor=row.refunded_minor) for row in await tx.execute(query)]


def _same_order(columns: Any) -> ColumnElement[bool]:
    return and_(columns.merchant_id == _O.merchant_id, columns.order_id == _O.order_id)


def _same_line(columns: Any) -> ColumnElement[bool]:
    return and_(columns.merchant_id == _I.merchant_id, columns.order_id == _I.order_id, columns.sku_id == _I.sku_id)


def _sums(table: Any, **sums: Any) -> Any:
    named = [func.sum(value).label(name) for name, value in sums.items()]
    return select(table.c.merchant_id, table.c.sku_id, *named).group_by(table.c.merchant_id, table.c.sku_id).subquery()


def _number(column: Any) -> ColumnElement[int]:
    return func.coalesce(column, 0)

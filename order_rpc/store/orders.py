"""Orders with their lines, and the audit of every step. An order is loaded whole or not at all, and only by those who may see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, and_, bindparam, insert, or_, select, true, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.call import Caller
from mesh.db import expect_one
from mesh.money import Money
from order_rpc.domain.errors import OrderNotFound
from order_rpc.domain.order import Order, OrderLine, OrderState
from order_rpc.tables import ORDER_AUDIT, ORDER_ITEM, ORDERS

_HEAD = (
    ORDERS.c.merchant_id, ORDERS.c.order_id, ORDERS.c.user_id, ORDERS.c.state, ORDERS.c.amount_minor, ORDERS.c.currency, ORDERS.c.paid_payment_id,
    ORDERS.c.version, ORDERS.c.created_at, ORDERS.c.expires_at, ORDERS.c.paid_at, ORDERS.c.updated_at,
)
_LINE = (ORDER_ITEM.c.sku_id, ORDER_ITEM.c.name, ORDER_ITEM.c.unit_price_minor, ORDER_ITEM.c.quantity)
_AnyRow = Row[*tuple[Any, ...]]
_WHOLE = select(*_HEAD, *_LINE).join(
    ORDER_ITEM, (ORDER_ITEM.c.merchant_id == ORDERS.c.merchant_id) & (ORDER_ITEM.c.order_id == ORDERS.c.order_id))
_BY_ID = _WHOLE.where(ORDERS.c.merchant_id == bindparam("merchant"), ORDERS.c.order_id == bindparam("order")).order_by(ORDER_ITEM.c.sku_id)
_BY_ID_LOCKED = _BY_ID.with_for_update()
_INSERT_ORDER = insert(ORDERS)
_INSERT_ITEM = insert(ORDER_ITEM)
_INSERT_AUDIT = insert(ORDER_AUDIT)
_SAVE = update(ORDERS).where(
    ORDERS.c.merchant_id == bindparam("merchant"), ORDERS.c.order_id == bindparam("order"), ORDERS.c.version == bindparam("read_version"),
).values({name: bindparam(f"new_{name}") for name in ("state", "paid_payment_id", "version", "paid_at", "updated_at")})

# By whether a page shows one buyer and whether it shows one state.
_INDEXES = {(False, False): "ix_orders_merchant", (False, True): "ix_orders_state", (True, False): "ix_orders_user",
            (True, True): "ix_orders_user_state"}


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderPage:
    """Which orders a page shows: those of a merchant, newest first, after a position."""

    merchant_id: str
    user_id: str              # "" shows those of every buyer
    state: OrderState | None  # None shows every state
    after: tuple[datetime, str] | None  # created_at and order_id of the last one seen
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRow:
    """One step of an order, or a reason why a person must look at it."""

    from_state: str     # "" for the creation
    to_state: OrderState
    event: str          # what happened
    event_id: str       # message or call that caused it
    operator: str       # who did it, e.g. "user:u1" or "payment_rpc"
    trace_id: str
    remark: str = ""
    needs_attention: bool = False


async def insert_order(tx: AsyncConnection, order: Order) -> None:
    """Writes a new order with its lines."""
    await tx.execute(_INSERT_ORDER, {
        "merchant_id": order.merchant_id, "order_id": order.order_id, "user_id": order.user_id, "state": order.state,
        "amount_minor": order.amount.minor, "currency": order.amount.currency, "paid_payment_id": order.paid_payment_id, "version": order.version,
        "created_at": order.created_at, "expires_at": order.expires_at, "paid_at": order.paid_at, "updated_at": order.updated_at,
    })
    await tx.execute(_INSERT_ITEM, [{
        "merchant_id": order.merchant_id, "order_id": order.order_id, "sku_id": line.sku_id, "name": line.name,
        "unit_price_minor": line.unit_price.minor, "quantity": line.quantity, "amount_minor": line.amount.minor,
    } for line in order.lines])


async def load_order(tx: AsyncConnection, *, merchant_id: str, order_id: str, visible_to: Caller, for_update: bool = False) -> Order:
    """One order; `for_update` locks it until the end of the transaction.

    Raises:
        OrderNotFound: there is none, or it is not the caller's.
    """
    scope = visible_to.scope()
    rows = (await tx.execute(_BY_ID_LOCKED if for_update else _BY_ID, {"merchant": merchant_id, "order": order_id})).all()
    if not rows or scope.merchant_id not in {None, rows[0].merchant_id} or scope.user_id not in {None, rows[0].user_id}:
        raise OrderNotFound
    return _order(rows[0], rows)


async def save_order(tx: AsyncConnection, order: Order, *, read_version: int) -> None:
    """Writes what a step changed.

    Raises:
        StaleRow: the order is not at `read_version` any more.
    """
    expect_one(await tx.execute(_SAVE, {
        "merchant": order.merchant_id, "order": order.order_id, "read_version": read_version, "new_state": order.state,
        "new_paid_payment_id": order.paid_payment_id, "new_version": order.version, "new_paid_at": order.paid_at,
        "new_updated_at": order.updated_at}))


def page_statement(page: OrderPage, *, visible_to: Caller) -> Select[Any]:
    """The query of one page; a test reads the EXPLAIN of each combination of filters."""
    filters = [ORDERS.c.merchant_id == page.merchant_id, _visible(visible_to)]
    if page.user_id:
        filters.append(ORDERS.c.user_id == page.user_id)
    if page.state is not None:
        filters.append(ORDERS.c.state == page.state)
    if page.after is not None:
        created_at, order_id = page.after
        # In this form MySQL starts reading at the position; of (a < x OR (a = x AND b < y)) alone it makes two ranges and a sort.
        filters += [ORDERS.c.created_at <= created_at, or_(ORDERS.c.created_at < created_at, ORDERS.c.order_id < order_id)]
    statement = select(*_HEAD).where(*filters).order_by(ORDERS.c.created_at.desc(), ORDERS.c.order_id.desc()).limit(page.limit)
    # Left alone, the optimizer reads an index of fewer columns from its newest row on: at 200 000 orders a page in the middle took 50 times longer.
    is_of_a_buyer = bool(page.user_id) or visible_to.scope().user_id is not None
    hint = f"FORCE INDEX ({_INDEXES[is_of_a_buyer, page.state is not None]})"
    return statement.with_hint(ORDERS, hint, "mysql").with_hint(ORDERS, hint, "mariadb")


async def list_orders(tx: AsyncConnection, page: OrderPage, *, visible_to: Caller) -> list[Order]:
    """Orders of one page, newest first."""
    heads = (await tx.execute(page_statement(page, visible_to=visible_to))).all()
    if not heads:
        return []
    # Lines never change, so that reading them in a second statement is safe.
    wanted = select(ORDER_ITEM.c.order_id, *_LINE).where(
        ORDER_ITEM.c.merchant_id == page.merchant_id, ORDER_ITEM.c.order_id.in_([head.order_id for head in heads]))
    lines: dict[str, list[_AnyRow]] = {}
    for row in await tx.execute(wanted.order_by(ORDER_ITEM.c.order_id, ORDER_ITEM.c.sku_id)):
        lines.setdefault(row.order_id, []).append(row)
    return [_order(head, lines[head.order_id]) for head in heads]


async def append_audit(tx: AsyncConnection, order: Order, *rows: AuditRow, at: datetime) -> None:
    """Adds to the history of an order, in the transaction of the step."""
    await tx.execute(_INSERT_AUDIT, [{
        "merchant_id": order.merchant_id, "order_id": order.order_id, "from_state": row.from_state, "to_state": row.to_state, "event": row.event,
        "event_id": row.event_id, "operator": row.operator, "remark": row.remark, "trace_id": row.trace_id,
        "needs_attention": row.needs_attention, "created_at": at,
    } for row in rows])


def _visible(caller: Caller) -> ColumnElement[bool]:
    scope = caller.scope()
    return and_(
        true(),
        *(() if scope.merchant_id is None else (ORDERS.c.merchant_id == scope.merchant_id,)),
        *(() if scope.user_id is None else (ORDERS.c.user_id == scope.user_id,)))


def _order(head: _AnyRow, lines: Sequence[_AnyRow]) -> Order:
    return Order(
        merchant_id=head.merchant_id, order_id=head.order_id, user_id=head.user_id, state=OrderState(head.state),
        amount=Money(head.amount_minor, head.currency), paid_payment_id=head.paid_payment_id, version=head.version, created_at=head.created_at,
        expires_at=head.expires_at, paid_at=head.paid_at, updated_at=head.updated_at,
        lines=tuple(OrderLine(sku_id=line.sku_id, name=line.name, unit_price=Money(line.unit_price_minor, head.currency), quantity=line.quantity)
                    for line in lines))

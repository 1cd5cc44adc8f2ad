"""Orders with their lines. An order is loaded whole, and only for a caller who may see it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Row,
    Select,
    and_,
    bindparam,
    insert,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.bad_rows import Quarantine, readable_page
from mesh.call import Caller
from mesh.db import expect_one
from mesh.money import Money, stored_currency
from order_rpc.domain.errors import OrderNotFound
from order_rpc.domain.order import Address, Order, OrderState
from order_rpc.domain.order_line import OrderLine, StockSource
from order_rpc.domain.refund import RefundStatus
from order_rpc.tables import ORDER_ITEM, ORDERS

_HEAD = tuple(ORDERS.c)
_LINE = (
    ORDER_ITEM.c.sku_id,
    ORDER_ITEM.c.name,
    ORDER_ITEM.c.unit_price_minor,
    ORDER_ITEM.c.quantity,
    ORDER_ITEM.c.stock_source,
    ORDER_ITEM.c.activity_id,
)
_AnyRow = Row[*tuple[Any, ...]]
_Whole = tuple[_AnyRow, Sequence[_AnyRow]]  # an order and its lines
_WHOLE = select(*_HEAD, *_LINE).join(
    ORDER_ITEM,
    (ORDER_ITEM.c.merchant_id == ORDERS.c.merchant_id)
    & (ORDER_ITEM.c.order_id == ORDERS.c.order_id),
)
_BY_ID = _WHOLE.where(
    ORDERS.c.merchant_id == bindparam("merchant"), ORDERS.c.order_id == bindparam("order")
).order_by(ORDER_ITEM.c.sku_id)
_BY_ID_LOCKED = _BY_ID.with_for_update()
_INSERT_ORDER = insert(ORDERS)
_INSERT_ITEM = insert(ORDER_ITEM)
# What a step may change.
_MUTABLE = (
    "state",
    "paid_payment_id",
    "captured_minor",
    "refunded_minor",
    "refund_status",
    "address",
    "carrier",
    "tracking_number",
    "cancel_reason",
    "version",
    "paid_at",
    "shipped_at",
    "completed_at",
    "cancelled_at",
    "updated_at",
)
_SAVE = (
    update(ORDERS)
    .where(
        ORDERS.c.merchant_id == bindparam("merchant"),
        ORDERS.c.order_id == bindparam("order"),
        ORDERS.c.version == bindparam("read_version"),
    )
    .values({name: bindparam(f"new_{name}") for name in _MUTABLE})
)

# By whether a page shows one buyer and whether it shows one state.
_INDEXES = {
    (False, False): "ix_orders_merchant",
    (False, True): "ix_orders_state",
    (True, False): "ix_orders_user",
    (True, True): "ix_orders_user_state",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderPage:
    """Which orders a page shows: those of a merchant, newest first, after a position."""

    merchant_id: str
    user_id: str  # "" shows those of every buyer
    state: OrderState | None  # None shows every state
    created_from: datetime | None = None  # None: from the first one on
    created_before: datetime | None = None  # None: up to the last one
    after: tuple[datetime, str] | None  # created_at and order_id of the last one seen
    limit: int


async def insert_orders(tx: AsyncConnection, *orders: Order) -> None:
    """Writes new orders with their lines."""
    await tx.execute(
        _INSERT_ORDER,
        [
            {
                **_mutable(order),
                "merchant_id": order.merchant_id,
                "order_id": order.order_id,
                "user_id": order.user_id,
                "client_request_id": order.client_request_id or None,
                "amount_minor": order.amount.minor,
                "shipping_minor": order.shipping.minor,
                "discount_minor": order.discount.minor,
                "currency": order.amount.currency,
                "created_at": order.created_at,
                "expires_at": order.expires_at,
            }
            for order in orders
        ],
    )
    await tx.execute(
        _INSERT_ITEM,
        [
            {
                "merchant_id": order.merchant_id,
                "order_id": order.order_id,
                "sku_id": line.sku_id,
                "name": line.name,
                "unit_price_minor": line.unit_price.minor,
                "quantity": line.quantity,
                "amount_minor": line.amount.minor,
                "stock_source": line.stock_source,
                "activity_id": line.activity_id,
            }
            for order in orders
            for line in order.lines
        ],
    )


async def load_order(
    tx: AsyncConnection,
    *,
    merchant_id: str,
    order_id: str,
    visible_to: Caller,
    for_update: bool = False,
) -> Order:
    """One order; `for_update` locks it until the end of the transaction.

    Raises:
        OrderNotFound: there is none, or it is not the caller's.
    """
    scope = visible_to.scope()
    rows = (
        await tx.execute(
            _BY_ID_LOCKED if for_update else _BY_ID, {"merchant": merchant_id, "order": order_id}
        )
    ).all()
    if (
        not rows
        or scope.merchant_id not in {None, rows[0].merchant_id}
        or scope.user_id not in {None, rows[0].user_id}
    ):
        raise OrderNotFound
    return _order(rows[0], rows)


async def find_by_request(
    tx: AsyncConnection, *, merchant_id: str, user_id: str, client_request_id: str
) -> Order | None:
    """The order that a buyer gave this id, or None."""
    wanted = _WHOLE.where(
        ORDERS.c.merchant_id == merchant_id,
        ORDERS.c.user_id == user_id,
        ORDERS.c.client_request_id == client_request_id,
    )
    rows = (await tx.execute(wanted.order_by(ORDER_ITEM.c.sku_id))).all()
    return _order(rows[0], rows) if rows else None


async def existing(
    tx: AsyncConnection, *, merchant_id: str, order_ids: Sequence[str]
) -> dict[str, str]:
    """Which of these orders exist, with their buyers."""
    rows = await tx.execute(
        select(ORDERS.c.order_id, ORDERS.c.user_id).where(
            ORDERS.c.merchant_id == merchant_id, ORDERS.c.order_id.in_(order_ids)
        )
    )
    return {row.order_id: row.user_id for row in rows}


def expired_statement(now: datetime, limit: int) -> Select[Any]:
    """The query that claims orders whose time to pay is over; a test reads its EXPLAIN. Locked rows
    are skipped.
    """
    hint = "FORCE INDEX (ix_orders_expiry)"
    return (
        select(ORDERS.c.merchant_id, ORDERS.c.order_id)
        .where(ORDERS.c.state == OrderState.PENDING_PAYMENT, ORDERS.c.expires_at <= now)
        .order_by(ORDERS.c.expires_at, ORDERS.c.merchant_id, ORDERS.c.order_id)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .with_hint(ORDERS, hint, "mysql")
        .with_hint(ORDERS, hint, "mariadb")
    )


def next_expiry_statement() -> Select[Any]:
    """The query that finds when the time to pay of the next order is over; a test reads its
    EXPLAIN.
    """
    hint = "FORCE INDEX (ix_orders_expiry)"
    return (
        select(ORDERS.c.expires_at)
        .where(ORDERS.c.state == OrderState.PENDING_PAYMENT)
        .order_by(ORDERS.c.expires_at, ORDERS.c.merchant_id, ORDERS.c.order_id)
        .limit(1)
        .with_hint(ORDERS, hint, "mysql")
        .with_hint(ORDERS, hint, "mariadb")
    )


async def next_expiry(tx: AsyncConnection, quarantine: Quarantine) -> datetime | None:
    """When the time to pay of the next order is over; None when none waits for money."""
    expires_at: datetime | None = (
        await tx.execute(quarantine.narrow(next_expiry_statement()))
    ).scalar_one_or_none()
    return expires_at


async def save_order(tx: AsyncConnection, order: Order, *, read_version: int) -> None:
    """Writes what a step changed.

    Raises:
        StaleRow: the order is not at `read_version` any more.
    """
    expect_one(
        await tx.execute(
            _SAVE,
            {
                "merchant": order.merchant_id,
                "order": order.order_id,
                "read_version": read_version,
                **{f"new_{name}": value for name, value in _mutable(order).items()},
            },
        )
    )


def page_statement(page: OrderPage, *, visible_to: Caller) -> Select[Any]:
    """The query of one page; a test reads the EXPLAIN of each combination of filters."""
    filters = [ORDERS.c.merchant_id == page.merchant_id, _visible(visible_to)]
    if page.user_id:
        filters.append(ORDERS.c.user_id == page.user_id)
    if page.state is not None:
        filters.append(ORDERS.c.state == page.state)
    if page.created_from is not None:
        filters.append(ORDERS.c.created_at >= page.created_from)
    if page.created_before is not None:
        filters.append(ORDERS.c.created_at < page.created_before)
    if page.after is not None:
        created_at, order_id = page.after
        # In this form MySQL starts reading at the position; of (a < x OR (a = x AND b < y)) alone
        # it makes two ranges and a sort.
        filters += [
            ORDERS.c.created_at <= created_at,
            or_(ORDERS.c.created_at < created_at, ORDERS.c.order_id < order_id),
        ]
    statement = (
        select(*_HEAD)
        .where(*filters)
        .order_by(ORDERS.c.created_at.desc(), ORDERS.c.order_id.desc())
        .limit(page.limit)
    )
    # Left alone, the optimizer reads an index of fewer columns from its newest row on: at 200 000
    # orders a page in the middle took 50 times longer.
    is_of_a_buyer = bool(page.user_id) or visible_to.scope().user_id is not None
    hint = f"FORCE INDEX ({_INDEXES[is_of_a_buyer, page.state is not None]})"
    return statement.with_hint(ORDERS, hint, "mysql").with_hint(ORDERS, hint, "mariadb")


async def list_orders(tx: AsyncConnection, page: OrderPage, *, visible_to: Caller) -> list[Order]:
    """Orders of one page, newest first, without those that cannot be read."""

    async def fetch(last: _Whole | None, limit: int) -> list[_Whole]:
        after = page.after if last is None else (last[0].created_at, last[0].order_id)
        return await _fetch(tx, replace(page, after=after, limit=limit), visible_to=visible_to)

    return await readable_page(
        fetch,
        lambda whole: _order(*whole),
        of="orders",
        key=lambda whole: whole[0].order_id,
        limit=page.limit,
    )


async def _fetch(tx: AsyncConnection, page: OrderPage, *, visible_to: Caller) -> list[_Whole]:
    heads = (await tx.execute(page_statement(page, visible_to=visible_to))).all()
    if not heads:
        return []
    # Lines never change, so that reading them in a second statement is safe.
    wanted = select(ORDER_ITEM.c.order_id, *_LINE).where(
        ORDER_ITEM.c.merchant_id == page.merchant_id,
        ORDER_ITEM.c.order_id.in_([head.order_id for head in heads]),
    )
    lines: dict[str, list[_AnyRow]] = {}
    for row in await tx.execute(wanted.order_by(ORDER_ITEM.c.order_id, ORDER_ITEM.c.sku_id)):
        lines.setdefault(row.order_id, []).append(row)
    return [(head, lines.get(head.order_id, [])) for head in heads]


def _visible(caller: Caller) -> ColumnElement[bool]:
    scope = caller.scope()
    return and_(
        true(),
        *(() if scope.merchant_id is None else (ORDERS.c.merchant_id == scope.merchant_id,)),
        *(() if scope.user_id is None else (ORDERS.c.user_id == scope.user_id,)),
    )


def _mutable(order: Order) -> dict[str, Any]:
    return {
        "state": order.state,
        "paid_payment_id": order.paid_payment_id,
        "captured_minor": order.captured.minor,
        "refunded_minor": order.refunded.minor,
        "refund_status": order.refund_status,
        "address": None if order.address is None else json.dumps(asdict(order.address)),
        "carrier": order.carrier,
        "tracking_number": order.tracking_number,
        "cancel_reason": order.cancel_reason,
        "version": order.version,
        "paid_at": order.paid_at,
        "shipped_at": order.shipped_at,
        "completed_at": order.completed_at,
        "cancelled_at": order.cancelled_at,
        "updated_at": order.updated_at,
    }


def _order(head: _AnyRow, lines: Sequence[_AnyRow]) -> Order:
    currency = stored_currency(head.currency)

    def money(minor: int) -> Money:
        return Money(minor, currency)

    if not lines:
        raise ValueError("an order has no lines")
    return Order(
        merchant_id=head.merchant_id,
        order_id=head.order_id,
        user_id=head.user_id,
        client_request_id=head.client_request_id or "",
        state=OrderState(head.state),
        amount=money(head.amount_minor),
        shipping=money(head.shipping_minor),
        discount=money(head.discount_minor),
        address=None if head.address is None else Address(**json.loads(head.address)),
        paid_payment_id=head.paid_payment_id,
        captured=money(head.captured_minor),
        refunded=money(head.refunded_minor),
        refund_status=RefundStatus(head.refund_status),
        carrier=head.carrier,
        tracking_number=head.tracking_number,
        cancel_reason=head.cancel_reason,
        version=head.version,
        created_at=head.created_at,
        expires_at=head.expires_at,
        paid_at=head.paid_at,
        shipped_at=head.shipped_at,
        completed_at=head.completed_at,
        cancelled_at=head.cancelled_at,
        updated_at=head.updated_at,
        lines=tuple(
            OrderLine(
                sku_id=line.sku_id,
                name=line.name,
                unit_price=money(line.unit_price_minor),
                quantity=line.quantity,
                stock_source=StockSource(line.stock_source),
                activity_id=line.activity_id,
            )
            for line in lines
        ),
    )

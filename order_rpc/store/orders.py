"""Orders with their lines. An order is loaded whole, and only for a caller who may see it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, bindparam, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.bad_rows import Quarantine
from mesh.call import Caller
from mesh.customers import is_order_id
from mesh.db import expect_one
from mesh.money import Money, stored_currency
from order_rpc.domain.address import Address
from order_rpc.domain.errors import OrderNotFound
from order_rpc.domain.external_order import ExternalDetails, OrderKind
from order_rpc.domain.hold import HeldMoney, Hold
from order_rpc.domain.order import Order, OrderState
from order_rpc.domain.order_line import OrderLine, StockSource
from order_rpc.domain.refund import RefundStatus
from order_rpc.store import external_orders
from order_rpc.tables import ORDER_ITEM, ORDERS

HEAD = tuple(ORDERS.c)
LINE = (
    ORDER_ITEM.c.sku_id,
    ORDER_ITEM.c.name,
    ORDER_ITEM.c.unit_price_minor,
    ORDER_ITEM.c.quantity,
    ORDER_ITEM.c.stock_source,
    ORDER_ITEM.c.activity_id,
)
AnyRow = Row[*tuple[Any, ...]]
_WHOLE = select(*HEAD, *LINE).join(
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
    "expires_at",
    "held_payment_id",
    "held_minor",
    "held_until",
    "pay_until",
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
                "kind": order.kind,
            }
            for order in orders
        ],
    )
    await external_orders.insert_details(tx, orders)
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
    """One order by our id or its merchant's number; `for_update` locks it until the end of the
    transaction.

    Raises:
        OrderNotFound: there is none, or it is not the caller's.
    """
    scope = visible_to.scope()
    if not is_order_id(order_id):
        order_id = (
            await external_orders.order_id_of(tx, merchant_id=merchant_id, order_no=order_id)
            or order_id
        )
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
    [details] = await external_orders.details_of(tx, rows[:1])
    return order_of(rows[0], rows, details)


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
    return order_of(rows[0], rows, None) if rows else None  # a merchant's own has no such id


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


def _mutable(order: Order) -> dict[str, Any]:
    held = order.held
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
        "expires_at": order.expires_at,
        "held_payment_id": "" if held is None else held.payment_id,
        "held_minor": 0 if held is None else held.money.amount.minor,
        "held_until": None if held is None else held.money.until,
        "pay_until": None if held is None else held.pay_until,
        "version": order.version,
        "paid_at": order.paid_at,
        "shipped_at": order.shipped_at,
        "completed_at": order.completed_at,
        "cancelled_at": order.cancelled_at,
        "updated_at": order.updated_at,
    }


def order_of(head: AnyRow, lines: Sequence[AnyRow], details: ExternalDetails | None) -> Order:
    """The order of a row. Raises any exception when a row has an impossible value."""
    currency = stored_currency(head.currency)

    def money(minor: int) -> Money:
        return Money(minor, currency)

    if not lines:
        raise ValueError("an order has no lines")
    if (details is None) is (OrderKind(head.kind) is OrderKind.EXTERNAL):
        raise ValueError("an external order has details, and no other")
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
        external=details,
        held=None
        if not head.held_payment_id
        else Hold(
            payment_id=head.held_payment_id,
            money=HeldMoney(amount=money(head.held_minor), until=head.held_until),
            pay_until=head.pay_until,
        ),
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

"""Units held by orders: stock rows and the reservations that account for them. A reservation is
RESERVED until it becomes COMMITTED or RELEASED, once; that state is the version on which its
updates are conditional.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, bindparam, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db import StaleRow, expect_one
from order_rpc.domain.order import Order, OrderState
from order_rpc.domain.order_line import OrderLine, StockSource
from order_rpc.domain.product import out_of_stock
from order_rpc.domain.refund import RefundLine
from order_rpc.tables import COMMITTED, RELEASED, RESERVATION, RESERVED, STOCK

FIRST_GENERATION = 1  # a revived order reserves its units again under the next one

# Statements of every purchase are built once: building one costs more than sending it.
_INSERT_RESERVATION = insert(RESERVATION)
_RESERVED_HERE = update(RESERVATION).where(
    RESERVATION.c.merchant_id == bindparam("merchant"),
    RESERVATION.c.order_id == bindparam("order"),
    RESERVATION.c.state == RESERVED,
)
_COMMIT_RESERVATIONS = _RESERVED_HERE.values(state=COMMITTED, updated_at=bindparam("at"))
_RELEASE_RESERVATIONS = _RESERVED_HERE.values(state=RELEASED, updated_at=bindparam("at"))
_RELEASE_COMMITTED = (
    update(RESERVATION)
    .where(
        RESERVATION.c.merchant_id == bindparam("merchant"),
        RESERVATION.c.order_id == bindparam("order"),
        RESERVATION.c.state == COMMITTED,
    )
    .values(state=RELEASED, updated_at=bindparam("at"))
)
_THIS_STOCK = (STOCK.c.merchant_id == bindparam("merchant")) & (STOCK.c.sku_id == bindparam("sku"))
_UNITS = bindparam("units", type_=BigInteger)
_RESERVE = (
    update(STOCK)
    .where(_THIS_STOCK, STOCK.c.available >= _UNITS)
    .values(available=STOCK.c.available - _UNITS, reserved=STOCK.c.reserved + _UNITS)
)
_SELL_AT_ONCE = (
    update(STOCK)
    .where(_THIS_STOCK, STOCK.c.available >= _UNITS)
    .values(available=STOCK.c.available - _UNITS, sold=STOCK.c.sold + _UNITS)
)
_SELL_RESERVED = (
    update(STOCK)
    .where(_THIS_STOCK, STOCK.c.reserved >= _UNITS)
    .values(reserved=STOCK.c.reserved - _UNITS, sold=STOCK.c.sold + _UNITS)
)
_FREE_RESERVED = (
    update(STOCK)
    .where(_THIS_STOCK, STOCK.c.reserved >= _UNITS)
    .values(reserved=STOCK.c.reserved - _UNITS, available=STOCK.c.available + _UNITS)
)
_RETURN_SOLD = (
    update(STOCK)
    .where(_THIS_STOCK, STOCK.c.sold >= _UNITS)
    .values(sold=STOCK.c.sold - _UNITS, available=STOCK.c.available + _UNITS)
)
_RETURN_ALLOCATED = (
    update(STOCK)
    .where(_THIS_STOCK, STOCK.c.allocated >= _UNITS)
    .values(allocated=STOCK.c.allocated - _UNITS, available=STOCK.c.available + _UNITS)
)
_AVAILABLE = select(STOCK.c.available).where(_THIS_STOCK)


async def reserve(tx: AsyncConnection, *orders: Order) -> None:
    """Reserves the units of new orders, or sells them at once for one that is paid already.
    Several orders are of one product and share one UPDATE.

    Raises:
        OutOfStock: fewer units are left of a SKU.
    """
    await tx.execute(
        _INSERT_RESERVATION,
        [row for order in orders for row in _reservations(order, generation=FIRST_GENERATION)],
    )
    is_paid = orders[0].state is OrderState.PAID
    # SKUs ascend: two orders of the same products never wait for each other
    for position, line in enumerate(orders[0].lines):
        units = sum(order.lines[position].quantity for order in orders)
        this = {"merchant": orders[0].merchant_id, "sku": line.sku_id, "units": units}
        taken = await tx.execute(_SELL_AT_ONCE if is_paid else _RESERVE, this)
        if taken.rowcount != 1:
            await _refuse(tx, line.sku_id, this)


async def has_units(tx: AsyncConnection, order: Order) -> bool:
    """Locks the stock of a cancelled order and says whether all of its units could be reserved
    again.
    """
    for line in order.catalog_lines:
        available = (
            await tx.execute(
                _AVAILABLE.with_for_update(), {"merchant": order.merchant_id, "sku": line.sku_id}
            )
        ).scalar_one()
        if available < line.quantity:
            return False
    return True


async def reserve_again(tx: AsyncConnection, order: Order) -> None:
    """Sells the units of an order that was just revived, as its next generation.

    Raises:
        StaleRow: they are no longer there.
    """
    last = await tx.execute(
        select(func.max(RESERVATION.c.generation)).where(
            RESERVATION.c.merchant_id == order.merchant_id, RESERVATION.c.order_id == order.order_id
        )
    )
    await tx.execute(_INSERT_RESERVATION, _reservations(order, generation=last.scalar_one() + 1))
    for line in order.catalog_lines:
        expect_one(await tx.execute(_SELL_AT_ONCE, _parameters(order, line)))


async def commit(tx: AsyncConnection, order: Order, *, at: datetime) -> None:
    """Turns the reserved units of an order that was just paid into sold ones.

    Raises:
        StaleRow: not every unit was reserved.
    """
    committed = await tx.execute(
        _COMMIT_RESERVATIONS, {"merchant": order.merchant_id, "order": order.order_id, "at": at}
    )
    if committed.rowcount != len(order.catalog_lines):
        raise StaleRow
    for line in order.catalog_lines:
        expect_one(await tx.execute(_SELL_RESERVED, _parameters(order, line)))


async def release(tx: AsyncConnection, order: Order, *, at: datetime) -> None:
    """Puts the reserved units of an order that was just cancelled back into the stock.

    Raises:
        StaleRow: not every unit was reserved.
    """
    released = await tx.execute(
        _RELEASE_RESERVATIONS, {"merchant": order.merchant_id, "order": order.order_id, "at": at}
    )
    if released.rowcount != len(order.catalog_lines):
        raise StaleRow
    for line in order.catalog_lines:
        expect_one(await tx.execute(_FREE_RESERVED, _parameters(order, line)))


async def release_sold(tx: AsyncConnection, order: Order, *, at: datetime) -> None:
    """Puts the sold units of an order that was just cancelled back into the stock.

    Raises:
        StaleRow: not every unit was sold to it.
    """
    released = await tx.execute(
        _RELEASE_COMMITTED, {"merchant": order.merchant_id, "order": order.order_id, "at": at}
    )
    if released.rowcount != len(order.catalog_lines):
        raise StaleRow
    for line in order.catalog_lines:
        expect_one(await tx.execute(_RETURN_SOLD, _parameters(order, line)))


async def return_units(
    tx: AsyncConnection, order: Order, lines: Sequence[RefundLine]
) -> dict[str, int]:
    """Puts units that a refund brings back into the stock; returns how many are available then,
    by SKU.
    """
    sources = {line.sku_id: line.stock_source for line in order.lines}
    available: dict[str, int] = {}
    for line in lines:
        from_where = (
            _RETURN_SOLD if sources[line.sku_id] is StockSource.CATALOG else _RETURN_ALLOCATED
        )
        this = {"merchant": order.merchant_id, "sku": line.sku_id, "units": line.quantity}
        expect_one(await tx.execute(from_where, this))
        available[line.sku_id] = (await tx.execute(_AVAILABLE, this)).scalar_one()
    return available


async def _refuse(tx: AsyncConnection, sku_id: str, this: dict[str, Any]) -> None:
    available = (await tx.execute(_AVAILABLE, this)).scalar_one()
    # units came back between the two statements: try again from the start
    if available >= this["units"]:
        raise StaleRow
    raise out_of_stock(sku_id, available)


def _reservations(order: Order, *, generation: int) -> list[dict[str, Any]]:
    return [
        {
            "merchant_id": order.merchant_id,
            "order_id": order.order_id,
            "sku_id": line.sku_id,
            "generation": generation,
            "quantity": line.quantity,
            "state": COMMITTED if order.state is OrderState.PAID else RESERVED,
            "created_at": order.updated_at,
            "updated_at": order.updated_at,
        }
        for line in order.catalog_lines
    ]


def _parameters(order: Order, line: OrderLine) -> dict[str, str | int]:
    return {"merchant": order.merchant_id, "sku": line.sku_id, "units": line.quantity}

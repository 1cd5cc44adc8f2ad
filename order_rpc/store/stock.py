"""Units held by orders: stock rows and the reservations that account for them. A reservation is RESERVED until it becomes COMMITTED or RELEASED,
once; that state is the version on which its updates are conditional.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, bindparam, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db import StaleRow, expect_one
from order_rpc.domain.order import Order, OrderLine, OrderState
from order_rpc.domain.product import out_of_stock
from order_rpc.tables import COMMITTED, RESERVATION, RESERVED, STOCK

FIRST_GENERATION = 1  # a revived order takes its units again under the next one

# Statements of the way of every purchase are built once: building one costs more than sending it.
_INSERT_RESERVATION = insert(RESERVATION)
_COMMIT_RESERVATIONS = update(RESERVATION).where(
    RESERVATION.c.merchant_id == bindparam("merchant"), RESERVATION.c.order_id == bindparam("order"), RESERVATION.c.state == RESERVED,
).values(state=COMMITTED, updated_at=bindparam("at"))
_THIS_STOCK = (STOCK.c.merchant_id == bindparam("merchant")) & (STOCK.c.sku_id == bindparam("sku"))
_UNITS = bindparam("units", type_=BigInteger)
_RESERVE = update(STOCK).where(_THIS_STOCK, STOCK.c.available >= _UNITS).values(
    available=STOCK.c.available - _UNITS, reserved=STOCK.c.reserved + _UNITS)
_SELL_AT_ONCE = update(STOCK).where(_THIS_STOCK, STOCK.c.available >= _UNITS).values(
    available=STOCK.c.available - _UNITS, sold=STOCK.c.sold + _UNITS)
_SELL_RESERVED = update(STOCK).where(_THIS_STOCK, STOCK.c.reserved >= _UNITS).values(
    reserved=STOCK.c.reserved - _UNITS, sold=STOCK.c.sold + _UNITS)
_AVAILABLE = select(STOCK.c.available).where(_THIS_STOCK)


async def hold(tx: AsyncConnection, order: Order) -> None:
    """Takes the units of a new order: reserved, or sold at once when it is paid already.

    Raises:
        OutOfStock: fewer units are left of a SKU.
    """
    is_paid = order.state is OrderState.PAID
    await tx.execute(_INSERT_RESERVATION, [{
        "merchant_id": order.merchant_id, "order_id": order.order_id, "sku_id": line.sku_id, "generation": FIRST_GENERATION,
        "quantity": line.quantity, "state": COMMITTED if is_paid else RESERVED, "created_at": order.created_at, "updated_at": order.created_at,
    } for line in order.lines])
    for line in order.lines:  # SKUs ascend: two orders of the same products never wait for each other
        this = _parameters(order, line)
        taken = await tx.execute(_SELL_AT_ONCE if is_paid else _RESERVE, this)
        if taken.rowcount != 1:
            await _refuse(tx, line, this)


async def commit(tx: AsyncConnection, order: Order, *, at: datetime) -> None:
    """Turns the reserved units of an order that was just paid into sold ones.

    Raises:
        StaleRow: not every unit was reserved.
    """
    committed = await tx.execute(_COMMIT_RESERVATIONS, {"merchant": order.merchant_id, "order": order.order_id, "at": at})
    if committed.rowcount != len(order.lines):
        raise StaleRow
    for line in order.lines:
        expect_one(await tx.execute(_SELL_RESERVED, _parameters(order, line)))


async def _refuse(tx: AsyncConnection, line: OrderLine, this: dict[str, str | int]) -> None:
    available = (await tx.execute(_AVAILABLE, this)).scalar_one()
    if available >= line.quantity:  # units came back between the two statements: try again from the start
        raise StaleRow
    raise out_of_stock(line.sku_id, available)


def _parameters(order: Order, line: OrderLine) -> dict[str, str | int]:
    return {"merchant": order.merchant_id, "sku": line.sku_id, "units": line.quantity}

"""Units held by orders: stock rows and the reservations that account for them. A reservation is RESERVED until it becomes COMMITTED or RELEASED,
once; that state is the version on which its updates are conditional.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db import StaleRow, expect_one
from order_rpc.domain.order import Order, OrderLine, OrderState
from order_rpc.domain.product import out_of_stock
from order_rpc.tables import COMMITTED, RESERVATION, RESERVED, STOCK

FIRST_GENERATION = 1  # a revived order takes its units again under the next one


async def hold(tx: AsyncConnection, order: Order) -> None:
    """Takes the units of a new order: reserved, or sold at once when it is paid already.

    Raises:
        OutOfStock: fewer units are left of a SKU.
    """
    is_paid = order.state is OrderState.PAID
    await tx.execute(insert(RESERVATION), [{
        "merchant_id": order.merchant_id, "order_id": order.order_id, "sku_id": line.sku_id, "generation": FIRST_GENERATION,
        "quantity": line.quantity, "state": COMMITTED if is_paid else RESERVED, "created_at": order.created_at, "updated_at": order.created_at,
    } for line in order.lines])
    for line in order.lines:  # SKUs ascend: two orders of the same products never wait for each other
        await _take(tx, order.merchant_id, line, is_paid=is_paid)


async def commit(tx: AsyncConnection, order: Order, *, at: datetime) -> None:
    """Turns the reserved units of an order that was just paid into sold ones.

    Raises:
        StaleRow: not every unit was reserved.
    """
    ours = (RESERVATION.c.merchant_id == order.merchant_id) & (RESERVATION.c.order_id == order.order_id) & (RESERVATION.c.state == RESERVED)
    committed = await tx.execute(update(RESERVATION).where(ours).values(state=COMMITTED, updated_at=at))
    if committed.rowcount != len(order.lines):
        raise StaleRow
    for line in order.lines:
        expect_one(await tx.execute(
            update(STOCK).where(STOCK.c.merchant_id == order.merchant_id, STOCK.c.sku_id == line.sku_id, STOCK.c.reserved >= line.quantity)
            .values(reserved=STOCK.c.reserved - line.quantity, sold=STOCK.c.sold + line.quantity)))


async def _take(tx: AsyncConnection, merchant_id: str, line: OrderLine, *, is_paid: bool) -> None:
    this = (STOCK.c.merchant_id == merchant_id) & (STOCK.c.sku_id == line.sku_id)
    into = STOCK.c.sold if is_paid else STOCK.c.reserved
    taken = await tx.execute(update(STOCK).where(this, STOCK.c.available >= line.quantity)
                             .values({STOCK.c.available: STOCK.c.available - line.quantity, into: into + line.quantity}))
    if taken.rowcount == 1:
        return
    available = (await tx.execute(select(STOCK.c.available).where(this))).scalar_one()
    if available >= line.quantity:  # units came back between the two statements: try again from the start
        raise StaleRow
    raise out_of_stock(line.sku_id, available)

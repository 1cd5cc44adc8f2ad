"""What order_rpc has of flash sales: units that left the shelf, and orders that were written for seckill_rpc."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db import Database
from mesh.db.keys import after_key, one_of_keys
from mesh.outbox import OUTBOX
from mesh.proof import OrderKey, SaleOrderFacts
from order_rpc.domain.order import StockSource
from order_rpc.tables import ALLOCATION, ORDER_ITEM, ORDERS
from order_rpc.usecases.to_payment_rpc import SECKILL_RPC

_I, _O = ORDER_ITEM.c, ORDERS.c


async def allocations_of(db: Database, keys: Sequence[OrderKey]) -> dict[OrderKey, int]:
    """Units that activities (merchant, activity) have, by what they took and gave back."""

    async def read(tx: AsyncConnection) -> dict[OrderKey, int]:
        rows = await tx.execute(
            select(
                ALLOCATION.c.merchant_id, ALLOCATION.c.activity_id, ALLOCATION.c.allocated, ALLOCATION.c.returned
            ).where(one_of_keys((ALLOCATION.c.merchant_id, ALLOCATION.c.activity_id), keys))
        )
        return {(row.merchant_id, row.activity_id): row.allocated - row.returned for row in rows}

    return await db.read(read)


async def sale_orders_page(db: Database, *, after: OrderKey, limit: int) -> list[SaleOrderFacts]:
    """Orders of activities by tenant and id, those after `after`."""
    return await db.read(_read, after_key((_I.merchant_id, _I.order_id), after), limit)


async def sale_orders_of(db: Database, keys: Sequence[OrderKey]) -> list[SaleOrderFacts]:
    """Some orders of activities."""
    return await db.read(_read, one_of_keys((_I.merchant_id, _I.order_id), keys), None)


async def _read(tx: AsyncConnection, condition: ColumnElement[bool], limit: int | None) -> list[SaleOrderFacts]:
    joined = ORDER_ITEM.join(ORDERS, (_O.merchant_id == _I.merchant_id) & (_O.order_id == _I.order_id))
    due = (
        select(OUTBOX.c.id)
        .where(OUTBOX.c.destination == SECKILL_RPC, OUTBOX.c.aggregate_id == _I.order_id, OUTBOX.c.state != "DONE")
        .exists()
    )
    query = (
        select(
            _I.merchant_id,
            _I.order_id,
            _I.activity_id,
            _I.quantity,
            _I.unit_price_minor,
            _O.user_id,
            _O.state,
            _O.currency,
            due.label("due"),
        )
        .select_from(joined)
        .where(_I.stock_source == StockSource.ACTIVITY, condition)
        .order_by(_I.merchant_id, _I.order_id)
        .limit(limit)
    )
    return [
        SaleOrderFacts(
            merchant_id=row.merchant_id,
            order_id=row.order_id,
            activity_id=row.activity_id,
            user_id=row.user_id,
            state=row.state,
            quantity=row.quantity,
            price_minor=row.unit_price_minor,
            currency=row.currency,
            is_settling=bool(row.due),
        )
        for row in await tx.execute(query)
    ]

"""What order_rpc has of flash sales: units taken from the catalog stock, and orders that were
written for seckill_rpc.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.audit import TenantKey
from mesh.db import Database
from mesh.db.keys import one_of_keys
from mesh.db.packed import packed_rows
from mesh.db.ranges import end_of_range, range_of
from mesh.outbox import OUTBOX
from order_rpc.domain.order_line import StockSource
from order_rpc.tables import ALLOCATION, ORDER_ITEM, ORDERS
from order_rpc.usecases.outbox_to_payment import SECKILL_RPC

_I, _O = ORDER_ITEM.c, ORDERS.c
_KEY = (_I.merchant_id, _I.order_id)
_OF_LINE = (  # in the order of the fields of SaleOrderFacts
    *_KEY,
    _I.activity_id,
    _O.user_id,
    _O.state,
    _I.quantity,
    _I.unit_price_minor,
    _O.currency,
)


@dataclass(frozen=True, slots=True)
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
    is_settling: bool = field(kw_only=True)

    @property
    def key(self) -> TenantKey:
        """Names it."""
        return self.merchant_id, self.order_id


async def allocations_of(db: Database, keys: Sequence[TenantKey]) -> dict[TenantKey, int]:
    """Units that activities (merchant, activity) have, by what they took and gave back."""

    async def read(tx: AsyncConnection) -> dict[TenantKey, int]:
        rows = await tx.execute(
            select(
                ALLOCATION.c.merchant_id,
                ALLOCATION.c.activity_id,
                ALLOCATION.c.allocated,
                ALLOCATION.c.returned,
            ).where(one_of_keys((ALLOCATION.c.merchant_id, ALLOCATION.c.activity_id), keys))
        )
        return {(row.merchant_id, row.activity_id): row.allocated - row.returned for row in rows}

    return await db.read(read)


async def sale_orders_page(
    db: Database, *, after: TenantKey | None, limit: int
) -> tuple[list[SaleOrderFacts], TenantKey | None]:
    """The orders of activities among so many orders by tenant and id, those after `after`; and the
    last one, or None where the orders end.
    """

    async def read(tx: AsyncConnection) -> tuple[list[SaleOrderFacts], TenantKey | None]:
        upto = await end_of_range(tx, _KEY, limit, after)
        return await _read(tx, range_of(_KEY, after, upto)), None if upto is None else (
            upto[0],
            upto[1],
        )

    return await db.read(read)


async def sale_orders_of(db: Database, keys: Sequence[TenantKey]) -> list[SaleOrderFacts]:
    """Some orders of activities."""
    return await db.read(_read, one_of_keys(_KEY, keys))


async def _read(tx: AsyncConnection, condition: ColumnElement[bool]) -> list[SaleOrderFacts]:
    joined = ORDER_ITEM.join(
        ORDERS, (_O.merchant_id == _I.merchant_id) & (_O.order_id == _I.order_id)
    )
    due = (
        select(OUTBOX.c.id)
        .where(
            OUTBOX.c.destination == SECKILL_RPC,
            OUTBOX.c.aggregate_id == _I.order_id,
            OUTBOX.c.state != "DONE",
        )
        .exists()
    )
    rows = await packed_rows(
        tx, joined, (*_OF_LINE, due), _I.stock_source == StockSource.ACTIVITY, condition
    )
    return [SaleOrderFacts(*line, is_settling=bool(is_due)) for *line, is_due in sorted(rows)]

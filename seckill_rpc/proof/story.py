"""What seckill_rpc knows about an order, in words for a support person: the click that became it, and what it had to tell."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db import Database
from mesh.money import Money
from mesh.proof import OrderKey
from mesh.story import Line, Next, Story, Who
from seckill_rpc.domain.order import UnitState
from seckill_rpc.tables import ACTIVITY, SECKILL_ORDER

_STANDING = {
    UnitState.LIVE: "holds a unit",
    UnitState.RETURNED: "gave its unit back",
    UnitState.REFUSED: "never got a unit, or order_rpc refused it",
}


async def find_order(db: Database, name: str) -> list[OrderKey]:
    """The order with an id, if it is one of a flash sale."""
    async def find(tx: AsyncConnection) -> list[OrderKey]:
        rows = await tx.execute(select(ACTIVITY.c.merchant_id, SECKILL_ORDER.c.order_id).join(
            ACTIVITY, ACTIVITY.c.activity_id == SECKILL_ORDER.c.activity_id).where(SECKILL_ORDER.c.order_id == name))
        return [(row.merchant_id, row.order_id) for row in rows]
    return await db.read(find)


async def story(db: Database, key: OrderKey) -> Story | None:
    """Everything about an order; None when it is not one of a flash sale."""
    return await db.read(_story, key)


async def _story(tx: AsyncConnection, key: OrderKey) -> Story | None:
    row: Any = (await tx.execute(select(SECKILL_ORDER, ACTIVITY.c.sku_id, ACTIVITY.c.price_minor, ACTIVITY.c.currency)
                                 .join(ACTIVITY, ACTIVITY.c.activity_id == SECKILL_ORDER.c.activity_id)
                                 .where(ACTIVITY.c.merchant_id == key[0], SECKILL_ORDER.c.order_id == key[1]))).first()
    if row is None:
        return None
    price = Money(row.price_minor, row.currency)
    lines = [Line(at=row.created_at, who=Who.ORDER, text=f"Buyer {row.user_id} clicked ({row.request_id}) for {row.sku_id} in flash sale "
                                                        f"{row.activity_id} at {price}; the database decided.")]
    nexts = []
    if row.state == UnitState.LIVE and not row.order_ready:
        nexts.append(Next(at=row.created_at, text="The order service writes the order; until then it answers ORDER_CREATING."))
    if row.state != UnitState.LIVE:
        lines.append(Line(at=row.updated_at, who=Who.DECISION, text=f"The flash sale says that the order {_STANDING[UnitState(row.state)]}."))
    return Story(headlines=(f"In flash sale {row.activity_id} the order {_STANDING[UnitState(row.state)]}.",), lines=tuple(lines),
                 nexts=tuple(nexts))

"""What seckill_rpc knows about an order, in words for a support person: the click that became it,
and what it had to tell.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.audit import TenantKey
from mesh.audit.explain import Actor, Explanation, PendingStep, TimelineEntry, messages_about
from mesh.db import Database
from mesh.money import Money
from mesh.outbox import OUTBOX
from seckill_rpc.domain.order import UnitState
from seckill_rpc.tables import ACTIVITY, SECKILL_ORDER

_TIME = "%Y-%m-%d %H:%M:%S"
MESSAGES_MAX = 100  # of a flash sale; one with many orders has one per batch
_STANDING = {
    UnitState.LIVE: "holds a unit",
    UnitState.RETURNED: "gave its unit back",
    UnitState.REFUSED: "never got a unit, or order_rpc refused it",
}


async def find_orders(db: Database, name: str) -> list[TenantKey]:
    """The order with an id, if it is one of a flash sale."""

    async def find(tx: AsyncConnection) -> list[TenantKey]:
        rows = await tx.execute(
            select(ACTIVITY.c.merchant_id, SECKILL_ORDER.c.order_id)
            .join(ACTIVITY, ACTIVITY.c.activity_id == SECKILL_ORDER.c.activity_id)
            .where(SECKILL_ORDER.c.order_id == name)
        )
        return [(row.merchant_id, row.order_id) for row in rows]

    return await db.read(find)


async def explain_others(db: Database, name: str) -> dict[TenantKey, Explanation]:
    """What happened to a flash sale, by tenant and id; also to the one that a message, or the call
    with a trace id, was about.
    """
    return await db.read(_activities, name)


async def _activities(tx: AsyncConnection, name: str) -> dict[TenantKey, Explanation]:
    told = (
        select(OUTBOX.c.aggregate_id)
        .where(or_(OUTBOX.c.event_id == name, OUTBOX.c.trace_id == name))
        .limit(1)
        .scalar_subquery()
    )
    for condition in (ACTIVITY.c.activity_id == name, ACTIVITY.c.activity_id == told):
        row: Any = (await tx.execute(select(ACTIVITY).where(condition))).first()
        if row is not None:
            return {(row.merchant_id, row.activity_id): await _of_activity(tx, row)}
    return {}


async def _of_activity(tx: AsyncConnection, row: Any) -> Explanation:
    clicks = await tx.execute(
        select(SECKILL_ORDER.c.state, func.count().label("times"))
        .where(SECKILL_ORDER.c.activity_id == row.activity_id)
        .group_by(SECKILL_ORDER.c.state)
    )
    counted = {click.state: click.times for click in clicks}
    orders = (
        ", ".join(f"{counted[state]} {state}" for state in UnitState if state in counted) or "none"
    )
    told, to_tell = await messages_about(
        tx, [row.activity_id], receivers={"order_rpc": "The order service"}, newest=MESSAGES_MAX
    )
    problem = f" Its problem: {row.problem}." if row.problem else ""
    price = Money(row.price_minor, row.currency)
    headline = (
        f"Flash sale {row.activity_id} of {row.sku_id} at {row.merchant_id} for {price} is "
        f"{row.state}: {row.sold} of {row.total} units are "
        f"sold, {row.offered} were planned, {row.limit_per_user} per buyer.{problem}"
    )
    made = f"The flash sale was made, to run from {row.starts_at:{_TIME}} to {row.ends_at:{_TIME}}."
    changed = f"It changed last: version {row.version}, epoch {row.epoch}. Its clicks: {orders}."
    return Explanation(
        headlines=(headline,),
        timeline=(
            TimelineEntry(at=row.created_at, actor=Actor.PERSON, text=made),
            TimelineEntry(at=row.updated_at, actor=Actor.DECISION, text=changed),
            *told,
        ),
        pending=tuple(to_tell),
    )


async def explain_order(db: Database, key: TenantKey) -> Explanation | None:
    """Everything about an order; None when it is not one of a flash sale."""
    return await db.read(_explain, key)


async def _explain(tx: AsyncConnection, key: TenantKey) -> Explanation | None:
    row: Any = (
        await tx.execute(
            select(SECKILL_ORDER, ACTIVITY.c.sku_id, ACTIVITY.c.price_minor, ACTIVITY.c.currency)
            .join(ACTIVITY, ACTIVITY.c.activity_id == SECKILL_ORDER.c.activity_id)
            .where(ACTIVITY.c.merchant_id == key[0], SECKILL_ORDER.c.order_id == key[1])
        )
    ).first()
    if row is None:
        return None
    price = Money(row.price_minor, row.currency)
    timeline = [
        TimelineEntry(
            at=row.created_at,
            actor=Actor.ORDER,
            text=f"Buyer {row.user_id} clicked ({row.request_id}) for {row.sku_id} in flash sale "
            f"{row.activity_id} at {price}; the database decided.",
        )
    ]
    pending = []
    if row.state == UnitState.LIVE and not row.order_ready:
        pending.append(
            PendingStep(
                at=row.created_at,
                text="The order service writes the order; until then it answers ORDER_CREATING.",
            )
        )
    if row.state != UnitState.LIVE:
        timeline.append(
            TimelineEntry(
                at=row.updated_at,
                actor=Actor.DECISION,
                text=f"The flash sale says that the order {_STANDING[UnitState(row.state)]}.",
            )
        )
    return Explanation(
        headlines=(
            f"In flash sale {row.activity_id} the order {_STANDING[UnitState(row.state)]}.",
        ),
        timeline=tuple(timeline),
        pending=tuple(pending),
    )

"""Activities and their orders as `paymesh audit` compares them with order_rpc."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.audit import TenantKey
from mesh.db import Database
from mesh.outbox import OUTBOX
from seckill_rpc.domain.activity import ActivityState
from seckill_rpc.tables import ACTIVITY, SECKILL_ORDER
from seckill_rpc.usecases.outbox_to_order import CREATE_SECKILL_ORDERS, ORDER_RPC, RETURN_ALLOCATION

_A, _U = ACTIVITY.c, SECKILL_ORDER.c


@dataclass(frozen=True, slots=True)
class ActivityFacts:
    """An activity as seckill_rpc has it. `is_settling` while its units may be on their way from or
    to order_rpc.
    """

    activity_id: str
    merchant_id: str
    sku_id: str
    state: str
    offered: int
    total: int
    is_settling: bool = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class UnitFacts:
    """An order of an activity as seckill_rpc has it. `is_written`: order_rpc answered;
    `is_settling`: it is still being told.
    """

    order_id: str
    merchant_id: str
    activity_id: str
    user_id: str
    state: str
    price_minor: int
    currency: str
    is_written: bool
    is_settling: bool = field(kw_only=True)

    @property
    def key(self) -> TenantKey:
        """Names it."""
        return self.merchant_id, self.order_id


async def activities_page(db: Database, *, after: str, limit: int) -> list[ActivityFacts]:
    """Activities by id, those after `after`."""

    async def read(tx: AsyncConnection) -> list[ActivityFacts]:
        due = (
            select(OUTBOX.c.id)
            .where(
                OUTBOX.c.destination == ORDER_RPC,
                OUTBOX.c.tag == RETURN_ALLOCATION,
                OUTBOX.c.state != "DONE",
                OUTBOX.c.aggregate_id == _A.activity_id,
            )
            .exists()
        )
        rows = await tx.execute(
            select(  # in the order of the fields of ActivityFacts
                _A.activity_id,
                _A.merchant_id,
                _A.sku_id,
                _A.state,
                _A.offered,
                _A.total,
                due.label("due"),
            )
            .where(_A.activity_id > after)
            .order_by(_A.activity_id)
            .limit(limit)
        )
        return [
            ActivityFacts(
                *row[:-1], is_settling=bool(row.due) or row.state == ActivityState.PUBLISHING
            )
            for row in rows
        ]

    return await db.read(read)


async def units_page(db: Database, *, after: str, limit: int) -> list[UnitFacts]:
    """Orders of activities by id, those after `after`."""
    return await db.read(_read_units, _U.order_id > after, limit)


async def units_of(db: Database, keys: Sequence[TenantKey]) -> list[UnitFacts]:
    """Some orders of activities."""
    return await db.read(_read_units, _U.order_id.in_([order_id for _, order_id in keys]), None)


async def _read_units(
    tx: AsyncConnection, condition: ColumnElement[bool], limit: int | None
) -> list[UnitFacts]:
    due = (
        select(OUTBOX.c.id)
        .where(
            OUTBOX.c.destination == ORDER_RPC,
            OUTBOX.c.tag == CREATE_SECKILL_ORDERS,
            OUTBOX.c.state != "DONE",
            OUTBOX.c.aggregate_id == _U.activity_id,
            OUTBOX.c.created_at <= _U.updated_at,
        )
        .exists()
    )
    query = (
        select(  # in the order of the fields of UnitFacts
            _U.order_id,
            _A.merchant_id,
            _U.activity_id,
            _U.user_id,
            _U.state,
            _A.price_minor,
            _A.currency,
            _U.order_ready,
            due.label("due"),
        )
        .select_from(SECKILL_ORDER.join(ACTIVITY, _A.activity_id == _U.activity_id))
        .where(condition)
        .order_by(_U.order_id)
        .limit(limit)
    )
    return [
        UnitFacts(*row[:-1], is_settling=bool(row.due) and not row.order_ready)
        for row in await tx.execute(query)
    ]

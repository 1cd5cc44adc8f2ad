"""What must hold within seckill_rpc: nothing is sold twice, nobody holds more than he may, and
nothing is left undone (docs/protocols.md 6).

Each check is one statement per range of a table, or reads all of it as it was at one moment.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

from sqlalchemy import ColumnElement, and_, case, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db import Database
from mesh.db.packed import packed_rows
from mesh.db.ranges import key_ranges_at_one_moment
from mesh.outbox import OUTBOX
from mesh.proof import (
    FOUND_MAX,
    OVERDUE,
    SETTLING,
    ActivityFacts,
    Allowance,
    OrderKey,
    UnitFacts,
    Violation,
)
from mesh.proof_queries import RANGE, Check, check_outbox, check_rows, run_checks, sums_of
from seckill_rpc.domain.activity import ActivityState
from seckill_rpc.domain.order import UnitState
from seckill_rpc.tables import ACTIVITY, DEAD_ENTRY, SECKILL_ORDER, metadata
from seckill_rpc.usecases.to_order_rpc import CREATE_SECKILL_ORDERS, ORDER_RPC, RETURN_ALLOCATION

CLOSING = timedelta(hours=1)  # a line may be long, and order_rpc away
_A, _U, _D = ACTIVITY.c, SECKILL_ORDER.c, DEAD_ENTRY.c
_SELLING = (ActivityState.OPEN, ActivityState.PAUSED)


async def violations(db: Database, allowance: Allowance) -> AsyncIterator[Violation]:
    """Everything that does not hold."""
    for part in (
        check_rows(db, metadata, words={}, documents=(_D.fields,)),
        check_outbox(db, allowance),
        run_checks(db, (*_units(), *_unfinished(allowance))),
        _check_counts(db),
    ):
        async for violation in part:
            yield violation


async def _check_counts(db: Database) -> AsyncIterator[Violation]:
    """An activity against its orders."""
    found: Counter[str] = Counter()
    for violation in await db.read_at_one_moment(_wrong_counts):
        found[violation.check] += 1
        if found[violation.check] <= FOUND_MAX:
            yield violation


async def _wrong_counts(tx: AsyncConnection) -> list[Violation]:
    live = await sums_of(
        tx, SECKILL_ORDER, (_U.activity_id,), case((_U.state == UnitState.LIVE, 1), else_=0)
    )
    columns = (_A.activity_id, _A.sold, _A.total, _A.offered)
    found = []
    async for within in key_ranges_at_one_moment(tx, columns[:1], size=RANGE):
        for activity_id, sold, total, offered in await packed_rows(tx, ACTIVITY, columns, within):
            orders = live[activity_id,][0]
            if sold != orders:
                detail = f"{sold} units are sold, {orders} orders are live"
                found.append(Violation(check="units_sold", subject=activity_id, detail=detail))
            if sold > total or total > offered or orders > total:
                detail = f"{sold} of {total} units are sold, {offered} were planned"
                found.append(Violation(check="never_oversold", subject=activity_id, detail=detail))
    return found


def _units() -> list[Check]:
    """Orders against their activity."""
    units, slot = func.count().label("units"), func.max(_U.slot).label("slot")
    return [
        Check(
            name="buyer_within_limit",
            query=select(_U.user_id, _U.activity_id, units, slot, _A.limit_per_user)
            .select_from(SECKILL_ORDER.join(ACTIVITY, _A.activity_id == _U.activity_id))
            .where(_U.slot.is_not(None))
            .group_by(_U.activity_id, _U.user_id, _A.limit_per_user)
            .having(or_(units > _A.limit_per_user, slot > _A.limit_per_user)),
            by=(_U.activity_id, _U.user_id),
            detail="holds {units} units of {activity_id}, up to place {slot}; {limit_per_user} "
            "are allowed",
        ),
        Check(
            name="order_of_activity",
            query=select(_U.order_id, _U.activity_id).where(
                ~select(_A.activity_id).where(_A.activity_id == _U.activity_id).exists()
            ),
            by=(_U.order_id,),
            detail="there is no activity {activity_id}",
        ),
        Check(
            name="units_of_closed",
            query=select(_A.activity_id, _A.sold, _A.total).where(
                _A.state == ActivityState.CLOSED, _A.sold != _A.total
            ),
            by=(_A.activity_id,),
            detail="it is CLOSED, {sold} units are sold and it keeps {total}",
        ),
    ]


def _unfinished(allowance: Allowance) -> list[Check]:
    ended = allowance.now - OVERDUE - allowance.sales_close_after
    return [
        Check(
            name="activity_late",
            query=select(_A.activity_id, _A.state, _A.problem).where(
                or_(
                    and_(
                        _A.state == ActivityState.PUBLISHING,
                        _A.updated_at < allowance.before(OVERDUE),
                    ),
                    and_(
                        _A.state == ActivityState.CLOSING, _A.updated_at < allowance.before(CLOSING)
                    ),
                )
            ),
            detail="it is still {state}: {problem}",
        ),
        Check(
            name="activity_late",
            query=select(_A.activity_id, _A.state).where(
                _A.state.in_(_SELLING), _A.ends_at < ended
            ),
            detail="it is still {state} after its end",
        ),
        Check(
            name="order_written",
            query=select(_U.order_id, _U.activity_id).where(
                _U.state == UnitState.LIVE,
                _U.order_ready.is_(False),
                _U.created_at < allowance.before(SETTLING),
            ),
            by=(_U.order_id,),
            detail="order_rpc has not answered that it is written",
        ),
        Check(
            name="dead_entry",
            query=select(_D.order_id, _D.entry_id, _D.activity_id, _D.reason).order_by(_D.id),
            detail="entry {entry_id} of {activity_id} was given up: {reason}; a person looks at it",
        ),
    ]


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
            select(
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
                activity_id=row.activity_id,
                merchant_id=row.merchant_id,
                sku_id=row.sku_id,
                state=row.state,
                offered=row.offered,
                total=row.total,
                is_settling=bool(row.due) or row.state == ActivityState.PUBLISHING,
            )
            for row in rows
        ]

    return await db.read(read)


async def units_page(db: Database, *, after: str, limit: int) -> list[UnitFacts]:
    """Orders of activities by id, those after `after`."""
    return await db.read(_read_units, _U.order_id > after, limit)


async def units_of(db: Database, keys: Sequence[OrderKey]) -> list[UnitFacts]:
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
        select(
            _A.merchant_id,
            _A.price_minor,
            _A.currency,
            _U.order_id,
            _U.activity_id,
            _U.user_id,
            _U.state,
            _U.order_ready,
            due.label("due"),
        )
        .select_from(SECKILL_ORDER.join(ACTIVITY, _A.activity_id == _U.activity_id))
        .where(condition)
        .order_by(_U.order_id)
        .limit(limit)
    )
    return [
        UnitFacts(
            order_id=row.order_id,
            merchant_id=row.merchant_id,
            activity_id=row.activity_id,
            user_id=row.user_id,
            state=row.state,
            price_minor=row.price_minor,
            currency=row.currency,
            is_written=row.order_ready,
            is_settling=bool(row.due) and not row.order_ready,
        )
        for row in await tx.execute(query)
    ]

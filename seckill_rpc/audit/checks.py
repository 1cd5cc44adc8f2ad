"""What must hold within seckill_rpc: nothing is sold twice, no buyer holds too many, and
nothing is left undone (docs/protocols.md 6).

Each check is one statement per range of a table, or reads all of it as it was at one moment.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta

from sqlalchemy import and_, case, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.audit import FOUND_MAX, OVERDUE, SETTLING, AuditTolerance, Violation
from mesh.audit.queries import RANGE, Check, check_outbox, check_rows, run_checks, sums_of
from mesh.db import Database
from mesh.db.packed import packed_rows
from mesh.db.ranges import key_ranges_at_one_moment
from seckill_rpc.domain.activity import ActivityState
from seckill_rpc.domain.order import UnitState
from seckill_rpc.tables import ACTIVITY, DEAD_ENTRY, SECKILL_ORDER, metadata

CLOSING = timedelta(hours=1)  # a line may be long, and order_rpc away
_A, _U, _D = ACTIVITY.c, SECKILL_ORDER.c, DEAD_ENTRY.c
_SELLING = (ActivityState.OPEN, ActivityState.PAUSED)


async def violations(
    db: Database, tolerance: AuditTolerance, *, close_after: timedelta = timedelta(0)
) -> AsyncIterator[Violation]:
    """Everything that does not hold. `close_after` is how long after its end a flash sale is closed
    by itself.
    """
    for part in (
        check_rows(db, metadata, words={}, documents=(_D.fields,)),
        check_outbox(db, tolerance),
        run_checks(db, (*_units(), *_unfinished(tolerance, close_after))),
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


def _unfinished(tolerance: AuditTolerance, close_after: timedelta) -> list[Check]:
    ended = tolerance.now - OVERDUE - close_after
    return [
        Check(
            name="activity_late",
            query=select(_A.activity_id, _A.state, _A.problem).where(
                or_(
                    and_(
                        _A.state == ActivityState.PUBLISHING,
                        _A.updated_at < tolerance.before(OVERDUE),
                    ),
                    and_(
                        _A.state == ActivityState.CLOSING, _A.updated_at < tolerance.before(CLOSING)
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
                _U.created_at < tolerance.before(SETTLING),
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

"""SQL of the orders of activities, one unit each. `batches` writes many at once. And how many units
that were taken back in the database are not yet back in Redis.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Row, Select, bindparam, func, or_, select, true, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.outbox import OUTBOX
from seckill_rpc.domain.order import UnitOrder, UnitState
from seckill_rpc.tables import SECKILL_ORDER

_ROW = SECKILL_ORDER.c
_BY_ID = select(SECKILL_ORDER).where(_ROW.order_id == bindparam("order"))
# Live ones first, by their slots: the unique key of slots has them together, and the rows of the
# others do not matter.
_OF_USER = select(SECKILL_ORDER).where(
    _ROW.activity_id == bindparam("activity"), _ROW.user_id == bindparam("user")
)
_LIVE_OF_USER = _OF_USER.where(_ROW.slot.is_not(None)).order_by(_ROW.slot.desc()).limit(1)
_ANY_OF_USER = _OF_USER.limit(1)
_OF_REQUEST = _OF_USER.where(_ROW.live_request == bindparam("request"))
_BY_IDS = select(SECKILL_ORDER).where(_ROW.order_id.in_(bindparam("orders", expanding=True)))
_LIVE_OF_USERS = (
    select(SECKILL_ORDER)
    .where(
        _ROW.activity_id == bindparam("activity"),
        _ROW.user_id.in_(bindparam("users", expanding=True)),
        _ROW.slot.is_not(None),
    )
    .order_by(_ROW.user_id, _ROW.slot)
    .with_for_update()
)
_LEAVE_LIVE = (
    update(SECKILL_ORDER)
    .where(_ROW.order_id == bindparam("order"), _ROW.state == UnitState.LIVE)
    .values(state=bindparam("new_state"), slot=None, live_request=None, updated_at=bindparam("at"))
)
_READY = (
    update(SECKILL_ORDER)
    .where(_ROW.order_id.in_(bindparam("orders", expanding=True)))
    .values(order_ready=True, updated_at=bindparam("at"))
)

CHUNK = 5000  # holders per statement
GIVE_BACKS = "redis"  # destination of the outbox: units for Redis


class RowUnreadable(Exception):
    """A row has a value that our code never writes."""


class Holder(NamedTuple):
    """A live order as a rebuild needs it; there are a hundred thousand."""

    user_id: str
    slot: int
    request_id: str
    order_id: str


async def find_order(tx: AsyncConnection, order_id: str) -> UnitOrder | None:
    """One order, or None."""
    row = (await tx.execute(_BY_ID, {"order": order_id})).one_or_none()
    return None if row is None else _order(row)


async def find_orders(tx: AsyncConnection, order_ids: Sequence[str]) -> dict[str, UnitOrder]:
    """Those of these orders that exist, by their ids."""
    return (
        {
            row.order_id: _order(row)
            for row in await tx.execute(_BY_IDS, {"orders": list(order_ids)})
        }
        if order_ids
        else {}
    )


async def order_of_user(tx: AsyncConnection, *, activity_id: str, user_id: str) -> UnitOrder | None:
    """What became of a buyer's clicks: a live order if there is one, else one that is not live;
    None if no click was decided.
    """
    values = {"activity": activity_id, "user": user_id}
    row = (await tx.execute(_LIVE_OF_USER, values)).one_or_none() or (
        await tx.execute(_ANY_OF_USER, values)
    ).one_or_none()
    return None if row is None else _order(row)


async def order_of_request(
    tx: AsyncConnection, *, activity_id: str, user_id: str, request_id: str
) -> UnitOrder | None:
    """The live order that a click became."""
    row = (
        await tx.execute(
            _OF_REQUEST, {"activity": activity_id, "user": user_id, "request": request_id}
        )
    ).one_or_none()
    return None if row is None else _order(row)


async def lock_live_orders(
    tx: AsyncConnection, *, activity_id: str, user_ids: Sequence[str]
) -> dict[str, list[UnitOrder]]:
    """The live orders of some buyers, by user and slot, locked until the end of the transaction."""
    found: dict[str, list[UnitOrder]] = {}
    for row in await tx.execute(
        _LIVE_OF_USERS, {"activity": activity_id, "users": sorted(user_ids)}
    ):
        found.setdefault(row.user_id, []).append(_order(row))
    return found


def holders_statement(
    *, activity_id: str, after: tuple[str, int] | None, limit: int
) -> Select[Any]:
    """The query of one chunk of live orders, in the order of the index; a test reads its
    EXPLAIN.
    """
    position: ColumnElement[bool] = true()
    if after is not None:
        user_id, slot = after
        position = (_ROW.user_id >= user_id) & or_(_ROW.user_id > user_id, _ROW.slot > slot)
    hint = "FORCE INDEX (uq_seckill_order_slot)"
    return (
        select(_ROW.user_id, _ROW.slot, _ROW.request_id, _ROW.order_id)
        .where(_ROW.activity_id == activity_id, _ROW.slot.is_not(None), position)
        .order_by(_ROW.user_id, _ROW.slot)
        .limit(limit)
        .with_hint(SECKILL_ORDER, hint, "mysql")
        .with_hint(SECKILL_ORDER, hint, "mariadb")
    )


async def list_holders(
    tx: AsyncConnection, *, activity_id: str, after: tuple[str, int] | None, limit: int
) -> list[Holder]:
    """A chunk of the live orders of an activity by user and slot, after a position (user and slot
    of the last one seen).
    """
    return [
        Holder(*row)
        for row in await tx.execute(
            holders_statement(activity_id=activity_id, after=after, limit=limit)
        )
    ]


async def all_holders(tx: AsyncConnection, *, activity_id: str) -> list[Holder]:
    """Every live order of an activity by user and slot, read in chunks. They are of one moment only
    in a transaction with a snapshot.
    """
    found: list[Holder] = []
    while chunk := await list_holders(
        tx,
        activity_id=activity_id,
        after=(found[-1].user_id, found[-1].slot) if found else None,
        limit=CHUNK,
    ):
        found += chunk
    return found


async def leave_live(tx: AsyncConnection, *, order_id: str, to: UnitState, at: datetime) -> bool:
    """LIVE -> RETURNED or REFUSED, once; frees its slot and its request. False if it is not LIVE
    (any more).
    """
    left = await tx.execute(_LEAVE_LIVE, {"order": order_id, "new_state": to, "at": at})
    return left.rowcount == 1


async def mark_ready(tx: AsyncConnection, order_ids: Sequence[str], *, at: datetime) -> None:
    """Marks orders as written by order_rpc."""
    if order_ids:
        await tx.execute(_READY, {"orders": list(order_ids), "at": at})


async def count_give_backs(tx: AsyncConnection, *, activity_id: str) -> int:
    """How many units of an activity still have to be given back to Redis."""
    hint = "FORCE INDEX (ix_outbox_claim)"  # few are waiting, many were done
    waiting = (
        select(func.count())
        .select_from(OUTBOX)
        .where(
            OUTBOX.c.destination == GIVE_BACKS,
            OUTBOX.c.state == "NEW",
            OUTBOX.c.aggregate_id == activity_id,
        )
    )
    counted = await tx.execute(
        waiting.with_hint(OUTBOX, hint, "mysql").with_hint(OUTBOX, hint, "mariadb")
    )
    return int(counted.scalar_one())


def _order(row: Row[*tuple[Any, ...]]) -> UnitOrder:
    try:
        return UnitOrder(
            order_id=row.order_id,
            activity_id=row.activity_id,
            user_id=row.user_id,
            request_id=row.request_id,
            slot=row.slot,
            state=UnitState(row.state),
            batch_id=row.batch_id,
            epoch=row.epoch,
            order_ready=row.order_ready,
            created_at=row.created_at,
            updated_at=row.updated_at,
        )
    except ValueError as error:
        raise RowUnreadable(f"order {row.order_id}: {error}") from error

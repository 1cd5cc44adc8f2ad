"""SQL of activities. A step of the life cycle is conditional on the version it was read in. What is
sold and given back is counted by UPDATEs of their own, which leave the version alone and lock
the row. The lock of an activity is the last that a transaction takes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import sqlalchemy
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Row,
    Select,
    and_,
    bindparam,
    case,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.bad_rows import readable_page, readable_rows
from mesh.call import Caller
from mesh.db import expect_one
from mesh.money import Money, stored_currency
from seckill_rpc.domain.activity import RUNNING, Activity, ActivityState, AdmissionMode
from seckill_rpc.domain.errors import ActivityNotFound
from seckill_rpc.tables import ACTIVITY

_ROW = ACTIVITY.c
_THIS = _ROW.activity_id == bindparam("activity")
_UNITS = bindparam("units", type_=BigInteger)
_BY_ID = select(ACTIVITY).where(_THIS)
_BY_ID_LOCKED = _BY_ID.with_for_update()
_INSERT = sqlalchemy.insert(ACTIVITY)
# What a step may change: never `sold`, which buyers change at the same time.
_MUTABLE = (
    "state",
    "rev",
    "epoch",
    "total",
    "drawn",
    "problem",
    "open_slot",
    "version",
    "updated_at",
)
_SAVE = (
    update(ACTIVITY)
    .where(_THIS, _ROW.version == bindparam("read_version"))
    .values({name: bindparam(f"new_{name}") for name in _MUTABLE})
)
_SAVE_CLOSED = _SAVE.where(_ROW.sold == bindparam("sold_units", type_=BigInteger))
_SELL = (
    update(ACTIVITY)
    .where(
        _THIS,
        _ROW.epoch == bindparam("of_epoch", type_=BigInteger),
        _ROW.sold + _UNITS <= _ROW.total,
    )
    .values(sold=_ROW.sold + _UNITS)
)
# MySQL takes the new value of a column that was set before: `state` and `total` do not depend on
# `sold`.
_TAKE_BACK = (
    update(ACTIVITY)
    .where(_THIS)
    .ordered_values(
        (_ROW.total, _ROW.total - case((_ROW.state == ActivityState.CLOSED, _UNITS), else_=0)),
        (_ROW.sold, _ROW.sold - _UNITS),
    )
)
_OF_PRODUCT = select(ACTIVITY).where(
    _ROW.merchant_id == bindparam("merchant"), _ROW.sku_id == bindparam("sku")
)
_OPEN_OF = _OF_PRODUCT.where(_ROW.open_slot == 1)
_NEWEST_OF = (
    _OF_PRODUCT.where(_ROW.state == ActivityState.CLOSED, _ROW.epoch > 0)
    .order_by(_ROW.created_at.desc(), _ROW.activity_id.desc())
    .limit(1)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityPage:
    """Which activities a page shows: those of a merchant, newest first, after a position."""

    merchant_id: str
    state: ActivityState | None  # None shows every state
    after: tuple[datetime, str] | None  # created_at and activity_id of the last one seen
    limit: int


async def insert(tx: AsyncConnection, activity: Activity) -> None:
    """Writes a new activity."""
    await tx.execute(
        _INSERT,
        {
            **_mutable(activity),
            "activity_id": activity.activity_id,
            "merchant_id": activity.merchant_id,
            "sku_id": activity.sku_id,
            "price_minor": activity.price.minor,
            "currency": activity.price.currency,
            "mode": activity.mode,
            "limit_per_user": activity.limit_per_user,
            "starts_at": activity.starts_at,
            "ends_at": activity.ends_at,
            "offered": activity.offered,
            "sold": activity.sold,
            "created_at": activity.created_at,
        },
    )


async def get(
    tx: AsyncConnection,
    *,
    activity_id: str,
    merchant_id: str = "",
    visible_to: Caller | None = None,
) -> Activity:
    """One activity; of this merchant, where one is named. `visible_to` None: for ourselves.

    Raises:
        ActivityNotFound: there is none, or it is not the caller's.
    """
    return _seen(
        (await tx.execute(_BY_ID, {"activity": activity_id})).one_or_none(), merchant_id, visible_to
    )


async def lock(
    tx: AsyncConnection,
    *,
    activity_id: str,
    merchant_id: str = "",
    visible_to: Caller | None = None,
) -> Activity:
    """One activity like `get`, locked until the end of the transaction; `sold` cannot change
    either.

    Raises:
        ActivityNotFound: there is none, or it is not the caller's.
    """
    return _seen(
        (await tx.execute(_BY_ID_LOCKED, {"activity": activity_id})).one_or_none(),
        merchant_id,
        visible_to,
    )


async def open_of(tx: AsyncConnection, *, merchant_id: str, sku_id: str) -> Activity | None:
    """The one activity of a product from PUBLISHING to CLOSING, or None."""
    row = (await tx.execute(_OPEN_OF, {"merchant": merchant_id, "sku": sku_id})).one_or_none()
    return None if row is None else _activity(row)


async def newest_of(tx: AsyncConnection, *, merchant_id: str, sku_id: str) -> Activity | None:
    """The activity of a product that buyers mean: the open one, else the newest that ever was open;
    None if there was none. Drafts, and those closed as drafts, do not count.
    """
    found = await open_of(tx, merchant_id=merchant_id, sku_id=sku_id)
    if found is not None:
        return found
    row = (await tx.execute(_NEWEST_OF, {"merchant": merchant_id, "sku": sku_id})).one_or_none()
    return None if row is None else _activity(row)


async def save(tx: AsyncConnection, activity: Activity, *, read_version: int) -> None:
    """Writes what a step changed. Only `sold` is left as it is.

    Raises:
        StaleRow: the activity is not at `read_version` any more, or it becomes CLOSED and units
            were sold or came back since it was read.
    """
    is_closed = activity.state is ActivityState.CLOSED
    expect_one(
        await tx.execute(
            _SAVE_CLOSED if is_closed else _SAVE,
            {
                "activity": activity.activity_id,
                "read_version": read_version,
                **({"sold_units": activity.sold} if is_closed else {}),
                **{f"new_{name}": value for name, value in _mutable(activity).items()},
            },
        )
    )


async def sell(tx: AsyncConnection, *, activity_id: str, epoch: int, units: int) -> bool:
    """Sells units of an epoch. False, and nothing is sold, when the epoch is over or fewer units
    are left. Locks the row.
    """
    sold = await tx.execute(_SELL, {"activity": activity_id, "of_epoch": epoch, "units": units})
    return sold.rowcount == 1


async def take_back(tx: AsyncConnection, *, activity_id: str, units: int) -> Activity:
    """Takes sold units back and returns the row after that, locked: its epoch and state are final
    for this transaction. Units that come back to a CLOSED activity are no longer its own, so
    `total` falls with them.
    """
    expect_one(await tx.execute(_TAKE_BACK, {"activity": activity_id, "units": units}))
    return _activity((await tx.execute(_BY_ID, {"activity": activity_id})).one())


async def in_states(tx: AsyncConnection, *states: ActivityState) -> list[Activity]:
    """Every activity in these states, oldest first. Rows that cannot be read are left out, so that
    they stop no other sale.
    """
    return _readable(await tx.execute(_in_states(states)))


@functools.cache
def _in_states(states: tuple[ActivityState, ...]) -> Select[Any]:
    return (
        select(ACTIVITY).where(_ROW.state.in_(states)).order_by(_ROW.created_at, _ROW.activity_id)
    )


async def running(tx: AsyncConnection) -> list[Activity]:
    """Every activity that Redis has to know of: OPEN, PAUSED, CLOSING."""
    return await in_states(tx, *sorted(RUNNING))


async def closed_since(tx: AsyncConnection, since: datetime) -> list[Activity]:
    """Activities that were open once and were CLOSED, or changed afterwards, since a moment."""
    rows = await tx.execute(
        select(ACTIVITY).where(
            _ROW.state == ActivityState.CLOSED, _ROW.epoch > 0, _ROW.updated_at >= since
        )
    )
    return _readable(rows)


def page_statement(page: ActivityPage, *, visible_to: Caller) -> Select[Any]:
    """The query of one page; a test reads its EXPLAIN."""
    filters = [_ROW.merchant_id == page.merchant_id, _visible(visible_to)]
    if page.state is not None:
        filters.append(_ROW.state == page.state)
    if page.after is not None:
        created_at, activity_id = page.after
        # In this form MySQL starts reading at the position; of (a < x OR (a = x AND b < y)) alone
        # it makes two ranges and a sort.
        filters += [
            _ROW.created_at <= created_at,
            or_(_ROW.created_at < created_at, _ROW.activity_id < activity_id),
        ]
    hint = (
        f"FORCE INDEX "
        f"({'ix_activity_merchant' if page.state is None else 'ix_activity_merchant_state'})"
    )
    return (
        select(ACTIVITY)
        .where(*filters)
        .order_by(_ROW.created_at.desc(), _ROW.activity_id.desc())
        .limit(page.limit)
        .with_hint(ACTIVITY, hint, "mysql")
        .with_hint(ACTIVITY, hint, "mariadb")
    )


async def list_page(
    tx: AsyncConnection, page: ActivityPage, *, visible_to: Caller
) -> Sequence[Activity]:
    """Activities of one page, newest first."""

    async def fetch(last: Any, limit: int) -> Sequence[Any]:
        after = page.after if last is None else (last.created_at, last.activity_id)
        rows: Sequence[Any] = (
            await tx.execute(
                page_statement(replace(page, after=after, limit=limit), visible_to=visible_to)
            )
        ).all()
        return rows

    return await readable_page(
        fetch, _activity, of="activity", key=lambda row: row.activity_id, limit=page.limit
    )


def _readable(rows: Iterable[Any]) -> list[Activity]:
    return readable_rows(rows, _activity, of="activity", key=lambda row: row.activity_id)


def _visible(caller: Caller) -> ColumnElement[bool]:
    scope = caller.scope()
    return and_(
        true(), *(() if scope.merchant_id is None else (_ROW.merchant_id == scope.merchant_id,))
    )


def _seen(
    row: Row[*tuple[Any, ...]] | None, merchant_id: str, visible_to: Caller | None
) -> Activity:
    if row is None or merchant_id not in {"", row.merchant_id}:
        raise ActivityNotFound
    if visible_to is not None and visible_to.scope().merchant_id not in {None, row.merchant_id}:
        raise ActivityNotFound
    return _activity(row)


def _mutable(activity: Activity) -> dict[str, Any]:
    has_no_slot = activity.state in {ActivityState.DRAFT, ActivityState.CLOSED}
    return {
        "state": activity.state,
        "rev": activity.rev,
        "epoch": activity.epoch,
        "total": activity.total,
        "drawn": activity.drawn,
        "problem": activity.problem,
        "open_slot": None if has_no_slot else 1,
        "version": activity.version,
        "updated_at": activity.updated_at,
    }


def _activity(row: Row[*tuple[Any, ...]]) -> Activity:
    return Activity(
        activity_id=row.activity_id,
        merchant_id=row.merchant_id,
        sku_id=row.sku_id,
        price=Money(row.price_minor, stored_currency(row.currency)),
        mode=AdmissionMode(row.mode),
        limit_per_user=row.limit_per_user,
        starts_at=row.starts_at,
        ends_at=row.ends_at,
        state=ActivityState(row.state),
        rev=row.rev,
        epoch=row.epoch,
        offered=row.offered,
        total=row.total,
        sold=row.sold,
        drawn=row.drawn,
        problem=row.problem,
        version=row.version,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )

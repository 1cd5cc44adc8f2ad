"""Reads a table in key ranges, so that the time of a statement is bounded by the size of a range
and not of the table.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, and_, select, true
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db.keys import after_key, up_to_key
from mesh.db.transactions import Database

Key = tuple[Any, ...]


def key_ranges(
    db: Database, by: Sequence[ColumnElement[Any]], *, size: int
) -> AsyncIterator[ColumnElement[bool]]:
    """Conditions that divide a table into ranges of `size` rows in the order of an index. Rows with
    equal keys are in one range, whatever its size. The last range has no upper bound, so it
    includes rows that are inserted meanwhile.
    """
    return _ranges(by, lambda after: db.read(end_of_range, by, size, after))


def key_ranges_at_one_moment(
    tx: AsyncConnection, by: Sequence[ColumnElement[Any]], *, size: int
) -> AsyncIterator[ColumnElement[bool]]:
    """The same within `Database.read_at_one_moment`."""
    return _ranges(by, lambda after: end_of_range(tx, by, size, after))


async def _ranges(
    by: Sequence[ColumnElement[Any]], end_after: Callable[[Key | None], Awaitable[Key | None]]
) -> AsyncIterator[ColumnElement[bool]]:
    after: Key | None = None
    while True:
        upto = await end_after(after)
        yield range_of(by, after, upto)
        if upto is None:
            return
        after = upto


async def end_of_range(
    tx: AsyncConnection, by: Sequence[ColumnElement[Any]], size: int, after: Key | None
) -> Key | None:
    """The key of the last row of the range of `size` rows after a key; None when there are fewer
    rows.
    """
    query = select(*by).where(range_of(by, after, None)).order_by(*by).limit(1).offset(size - 1)
    row = (await tx.execute(query)).first()
    return None if row is None else tuple(row)


def range_of(
    by: Sequence[ColumnElement[Any]], after: Key | None, upto: Key | None
) -> ColumnElement[bool]:
    """Rows after one key and up to another; None is no bound. The common prefix of both keys
    becomes one equality condition: that reads a range of an index in joins too.
    """
    same = 0
    if after is not None and upto is not None:
        while same < len(by) - 1 and after[same] == upto[same]:
            same += 1
    rest = by[same:]
    return and_(
        true(),
        *(column == value for column, value in zip(by[:same], after or (), strict=False)),
        *([after_key(rest, after[same:])] if after is not None else []),
        *([up_to_key(rest, upto[same:])] if upto is not None else []),
    )

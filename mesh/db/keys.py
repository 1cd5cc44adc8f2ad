"""Builds conditions on multi-column keys for which MySQL and MariaDB read a range of an index. For
`(a, b) > (x, y)` they read the whole index.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, and_, false, or_


def after_key(columns: Sequence[Any], values: Sequence[Any]) -> ColumnElement[bool]:
    """Rows whose key is greater than this one, in the order of the columns."""
    return or_(
        *(
            and_(
                *(columns[equal] == values[equal] for equal in range(position)),
                columns[position] > values[position],
            )
            for position in range(len(columns))
        )
    )


def up_to_key(columns: Sequence[Any], values: Sequence[Any]) -> ColumnElement[bool]:
    """Rows whose key is at most this one, in the order of the columns."""
    last = len(columns) - 1
    return or_(
        *(
            and_(
                *(columns[equal] == values[equal] for equal in range(position)),
                columns[position] <= values[position]
                if position == last
                else columns[position] < values[position],
            )
            for position in range(len(columns))
        )
    )


def among_keys(columns: Sequence[Any], keys: Iterable[Sequence[Any]]) -> ColumnElement[bool]:
    """Rows in the range of these keys, for a page of adjacent keys. The range may hold other rows,
    which the caller must drop. Two bounds replace a thousand values, which take longer to compile
    into a statement than to look up.
    """
    by_start: dict[tuple[Any, ...], list[Any]] = defaultdict(list)
    for key in keys:
        by_start[tuple(key[:-1])].append(key[-1])
    return or_(
        false(),
        *(
            and_(
                *(column == value for column, value in zip(columns, start, strict=False)),
                columns[-1].between(min(ends), max(ends)),
            )
            for start, ends in by_start.items()
        ),
    )


def one_of_keys(columns: Sequence[Any], keys: Iterable[Sequence[Any]]) -> ColumnElement[bool]:
    """Rows with one of these keys. Keys that differ only in the last column share a condition."""
    by_start: dict[tuple[Any, ...], list[Any]] = defaultdict(list)
    for key in keys:
        by_start[tuple(key[:-1])].append(key[-1])
    return or_(
        false(),
        *(
            and_(
                *(column == value for column, value in zip(columns, start, strict=False)),
                columns[-1].in_(ends),
            )
            for start, ends in by_start.items()
        ),
    )

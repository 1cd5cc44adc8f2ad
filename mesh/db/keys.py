"""Conditions on keys of several columns, in a form in which MySQL and MariaDB read a range of an
index; for `(a, b) > (x, y)` they read all of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, and_, false, or_


def after_key(columns: Sequence[Any], values: Sequence[Any]) -> ColumnElement[bool]:
    """Rows whose key comes after one, in the order of the columns."""
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
    """Rows whose key comes before one, in the order of the columns, and that one itself."""
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
    """Rows with one of some keys, and perhaps others between them, which the caller leaves out: for
    a page of keys that are neighbours. Two values say what a thousand would; a statement with a
    thousand values takes longer to be put together than to be answered."""
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
    """Rows with one of some keys. Keys that differ in the last column only share a condition."""
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

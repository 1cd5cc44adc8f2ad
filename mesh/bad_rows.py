"""Rows of which one may be bad: it cannot be read (changed by hand, damaged, written by a version
that is gone), or its step raises. It stops no
other: it is told to people, and left out for a while, so that those behind it are reached.

What is left out is known to this process alone. A mark in the row would have to be written, and a
row that breaks a rule of its table refuses that.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

import structlog
from prometheus_client import Counter
from sqlalchemy import Column, Select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.batch_size import BatchSize
from mesh.clock import Monotonic, Seconds
from mesh.db import Database
from mesh.db.keys import one_of_keys
from mesh.errors import Conflict, OutcomeUnknown, Unavailable
from mesh.failpoints import FailpointRaised

PAUSE_FIRST_SECONDS = 30.0  # a disk that is full makes every row look bad, and not for long
PAUSE_MAX_SECONDS = 600.0  # a row that was mended is taken within ten minutes
QUARANTINE_MAX = 5000  # per worker; beyond it those that wait longest are tried again
LOST_ALONE_MAX = 3  # rounds that one row may take by itself without an end
TOLD_MAX = 1000  # rows of lists whose last alert is remembered

# Not the row's fault: the whole round is tried again. A failpoint stands for a process that dies.
_TRANSIENT = (Unavailable, OutcomeUnknown, Conflict, FailpointRaised)

Key = tuple[Any, ...]
Made = TypeVar("Made")
Found = TypeVar("Found")

log = structlog.get_logger()
_BAD = Counter(
    "paymesh_bad_rows_total",
    "Rows that could not be read, or whose step raised; each needs a person.",
    ["where"],
)


class Quarantine:
    """The rows that a worker does not take for now."""

    def __init__(
        self, worker: str, *columns: Column[Any], monotonic: Monotonic = time.monotonic
    ) -> None:
        """`columns`: the key of the rows."""
        self._worker = worker
        self.columns = columns
        self._monotonic = monotonic
        # when it is over, and how long it was; the one that was added last stands last
        self._until: dict[Key, tuple[Seconds, Seconds]] = {}
        self._bad = _BAD.labels(worker)

    def key_of(self, row: Any) -> Key:
        """The key of a row."""
        return tuple(getattr(row, column.name) for column in self.columns)

    def narrow(self, statement: Select[Any]) -> Select[Any]:
        """A query of the worker's rows, without those that are left out."""
        now = self._monotonic()
        # taken since, or gone
        for key in [
            key for key, (until, _) in self._until.items() if until + PAUSE_MAX_SECONDS < now
        ]:
            del self._until[key]
        keys = [key for key, (until, _) in self._until.items() if until > now]
        return statement.where(~one_of_keys(self.columns, keys)) if keys else statement

    def __contains__(self, key: Key) -> bool:
        """Whether a row is left out now."""
        return key in self._until and self._until[key][0] > self._monotonic()

    def add(self, key: Key, error: BaseException) -> None:
        """Leaves a row out, longer each time, because of an error; people are told unless time
        alone may heal it.
        """
        _, pause = self._until.pop(key, (0.0, PAUSE_FIRST_SECONDS / 2))
        pause = min(pause * 2, PAUSE_MAX_SECONDS)
        self._until[key] = (self._monotonic() + pause, pause)
        if len(self._until) > QUARANTINE_MAX:
            del self._until[next(iter(self._until))]
        self._bad.inc()
        log.error(
            "row_left_out",
            alert=not isinstance(error, _TRANSIENT),
            worker=self._worker,
            row="/".join(map(str, key)),
            seconds=round(pause),
            exc_info=error,
        )


Due = Callable[[int], Select[Any]]
Take = Callable[[AsyncConnection, Sequence[Any]], Awaitable[Sequence[Made]]]


class RowBatches(Generic[Made]):
    """Takes the rows that are due: a batch in one transaction; when that raises, the same rows one
    by one.
    """

    def __init__(
        self, *, db: Database, quarantine: Quarantine, most: int, due: Due, take: Take[Made]
    ) -> None:
        """
        Args:
            most: rows of one transaction.
            due: the query of at most so many rows that are due, in their order.
            take: the step of rows that were found, in the same transaction.
        """
        self._db = db
        self._quarantine = quarantine
        self._size = BatchSize(most)
        self._due = due
        self._take = take
        # of each round in a row that found one row and came to no end
        self._lost_alone: list[Key] = []

    async def run(self) -> list[Made]:
        """One round; what `take` returned for the rows that could be taken.

        Raises:
            Unavailable, OutcomeUnknown, Conflict: nothing is known to be done. What the database
                says of the query, when that is to blame.
        """
        found: list[Key] = []
        try:
            done = await self._size.run(lambda rows: self._db.run(self._batch, rows, found))
        except _TRANSIENT as error:
            self._blame(found, error)
            raise
        except Exception:
            if not found:  # perhaps one of them holds what not even its column can
                found = await self._db.run(self._keys, self._size.rows)
            if not found:
                raise
        else:
            self._lost_alone.clear()
            return done
        return await self._one_by_one(tuple(found))

    def _blame(self, found: Sequence[Key], error: Exception) -> None:
        """The database answered what is due, and one row alone takes longer than it may, again and
        again: it gives its place to others.
        """
        if len(found) == 1:
            self._lost_alone = [*self._lost_alone, found[0]][-LOST_ALONE_MAX:]
            if self._lost_alone == [found[0]] * LOST_ALONE_MAX:
                self._quarantine.add(found[0], error)

    async def _one_by_one(self, keys: Sequence[Key]) -> list[Made]:
        done: list[Made] = []
        for key in keys:
            try:
                done += await self._db.run(self._one, key)
            except _TRANSIENT:
                if not done:
                    raise
                break  # what was taken is not forgotten; the next round goes on
            except Exception as error:  # noqa: BLE001  logged with the row's key
                self._quarantine.add(key, error)
        return done

    async def _batch(self, tx: AsyncConnection, limit: int, found: list[Key]) -> list[Made]:
        found.clear()
        rows = (await tx.execute(self._quarantine.narrow(self._due(limit)))).all()
        found += map(self._quarantine.key_of, rows)
        return list(await self._take(tx, rows)) if rows else []

    async def _keys(self, tx: AsyncConnection, limit: int) -> list[Key]:
        query = self._quarantine.narrow(self._due(limit)).with_only_columns(
            *self._quarantine.columns
        )
        return [self._quarantine.key_of(row) for row in await tx.execute(query)]

    async def _one(self, tx: AsyncConnection, key: Key) -> list[Made]:
        rows = (
            await tx.execute(self._due(1).where(one_of_keys(self._quarantine.columns, [key])))
        ).all()
        return list(await self._take(tx, rows)) if rows else []


_told: dict[tuple[str, str], Seconds] = {}


def readable_rows(
    rows: Iterable[Found], make: Callable[[Found], Made], *, of: str, key: Callable[[Found], object]
) -> list[Made]:
    """What can be made of rows, in their order. One of which nothing can be made is left out;
    people are told, every ten minutes.

    Args:
        of: what the rows are, e.g. the name of their table.
        key: names a row.
    """
    made = []
    for row in rows:
        try:
            made.append(make(row))
        except Exception as error:  # noqa: BLE001  logged with the row's key
            _tell(of, str(key(row)), error)
    return made


async def readable_page(
    fetch: Callable[[Found | None, int], Awaitable[Sequence[Found]]],
    make: Callable[[Found], Made],
    *,
    of: str,
    key: Callable[[Found], object],
    limit: int,
) -> list[Made]:
    """As many readable rows as a list asks for: a row less would look like its end.

    Args:
        fetch: rows after one (None: the first ones), at most so many.
        of, key: as for `readable_rows`.
    """
    made: list[Made] = []
    last: Found | None = None
    while (wanted := limit - len(made)) > 0:
        rows = await fetch(last, wanted)
        made += readable_rows(rows, make, of=of, key=key)
        if len(rows) < wanted:
            break
        last = rows[-1]
    return made


def _tell(of: str, key: str, error: Exception) -> None:
    now = time.monotonic()
    if _told.get((of, key), -PAUSE_MAX_SECONDS) > now - PAUSE_MAX_SECONDS:
        return
    _told.pop((of, key), None)
    _told[of, key] = now
    if len(_told) > TOLD_MAX:
        del _told[next(iter(_told))]
    _BAD.labels(of).inc()
    log.error("row_unreadable", alert=True, table=of, row=key, exc_info=error)

"""Quarantines bad rows, so that they do not block the rows after them. A row is bad when it cannot
be read (changed by hand, damaged, written by a version that is gone) or its step raises. It raises
an alert and is skipped for a while.

The quarantine is kept in the memory of this process. A mark in the row would need an UPDATE, which
fails for a row that violates a constraint of its table.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

from prometheus_client import Counter
from sqlalchemy import Column, Select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.batch_size import BatchSize
from mesh.clock import Monotonic, Seconds
from mesh.db import Database
from mesh.db.keys import one_of_keys
from mesh.errors import Conflict, OutcomeUnknown, Unavailable
from mesh.failpoints import FailpointRaised
from mesh.logs import get_logger

PAUSE_FIRST_SECONDS = 30.0  # short: a full disk makes every row look bad for a moment
PAUSE_MAX_SECONDS = 600.0  # a repaired row is processed within ten minutes
QUARANTINE_MAX = 5000  # rows per worker; beyond it the oldest entries are tried again
LOST_ALONE_MAX = 3  # consecutive rounds in which one row alone may fail without a result
TOLD_MAX = 1000  # unreadable rows of lists whose last alert is remembered

# Not caused by the row: the whole round is tried again. A failpoint simulates a process that dies.
_TRANSIENT = (Unavailable, OutcomeUnknown, Conflict, FailpointRaised)

Key = tuple[Any, ...]
Made = TypeVar("Made")
Found = TypeVar("Found")

log = get_logger()
_BAD = Counter(
    "paymesh_bad_rows_total",
    "Rows that could not be read, or whose step raised; each needs a person.",
    ["where"],
)


class Quarantine:
    """The rows that a worker skips for now."""

    def __init__(
        self, worker: str, *columns: Column[Any], monotonic: Monotonic = time.monotonic
    ) -> None:
        """`columns`: the key of the rows."""
        self._worker = worker
        self.columns = columns
        self._monotonic = monotonic
        # end and length of the pause; the entry that was added last is last
        self._until: dict[Key, tuple[Seconds, Seconds]] = {}
        self._bad = _BAD.labels(worker)

    def key_of(self, row: Any) -> Key:
        """The key of a row."""
        return tuple(getattr(row, column.name) for column in self.columns)

    def narrow(self, statement: Select[Any]) -> Select[Any]:
        """Excludes the quarantined rows from a query of the worker's rows."""
        now = self._monotonic()
        # these were processed since, or deleted
        for key in [
            key for key, (until, _) in self._until.items() if until + PAUSE_MAX_SECONDS < now
        ]:
            del self._until[key]
        keys = [key for key, (until, _) in self._until.items() if until > now]
        return statement.where(~one_of_keys(self.columns, keys)) if keys else statement

    def __contains__(self, key: Key) -> bool:
        """Whether a row is quarantined now."""
        return key in self._until and self._until[key][0] > self._monotonic()

    def add(self, key: Key, error: BaseException) -> None:
        """Quarantines a row because of an error, longer each time. Raises an alert unless the error
        is transient.
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
    """Processes the rows that are due, a batch in one transaction. When that raises, it processes
    the same rows one by one.
    """

    def __init__(
        self, *, db: Database, quarantine: Quarantine, most: int, due: Due, take: Take[Made]
    ) -> None:
        """
        Args:
            most: maximum number of rows in one transaction.
            due: returns the ordered query of at most so many rows that are due.
            take: processes the rows that were found, in the same transaction.
        """
        self._db = db
        self._quarantine = quarantine
        self._size = BatchSize(most)
        self._due = due
        self._take = take
        # the row of each consecutive round that found one row and gave no result
        self._lost_alone: list[Key] = []

    async def run(self) -> list[Made]:
        """Runs one round and returns what `take` returned for the rows that it could process.

        Raises:
            Unavailable, OutcomeUnknown, Conflict: nothing is known to be done.
            Exception: the database's error, when the query itself fails.
        """
        found: list[Key] = []
        try:
            done = await self._size.run(lambda rows: self._db.run(self._batch, rows, found))
        except _TRANSIENT as error:
            self._blame(found, error)
            raise
        except Exception:
            if not found:  # perhaps a value of one row cannot be decoded
                found = await self._db.run(self._keys, self._size.rows)
            if not found:
                raise
        else:
            self._lost_alone.clear()
            return done
        return await self._one_by_one(tuple(found))

    def _blame(self, found: Sequence[Key], error: Exception) -> None:
        """Quarantines a row that alone failed to give a result in LOST_ALONE_MAX consecutive
        rounds, although the query of due rows worked.
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
                break  # returns what was done; the next round continues
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
    """Converts rows, in their order. A row for which `make` raises is left out, with an alert for
    it every ten minutes at most.

    Args:
        of: what the rows are, e.g. the name of their table.
        key: returns the key of a row for the log.
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
    """Reads on until `limit` readable rows are found: a shorter page would look like the last one.

    Args:
        fetch: returns at most so many rows after a given one (None: the first ones).
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

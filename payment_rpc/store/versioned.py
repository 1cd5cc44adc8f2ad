"""Rows with a version, which whoever writes one must have read; and those among them about which a
channel is queried until it gives a result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Generic, Protocol, Self, TypeVar

from sqlalchemy import Column, ColumnElement, Row, Select, Table, bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.bad_rows import Quarantine
from mesh.db import expect_one
from payment_rpc.domain.attempt import LEASE_MAX


def row_of(value: object, table: Table, **others: object) -> dict[str, Any]:
    """A value as a row: `others`, and in every other column the field of the same name."""
    return {
        name: others[name] if name in others else getattr(value, name) for name in _names_of(table)
    }


@cache  # each charge writes several rows, and walking a table's columns costs more than the rest
def _names_of(table: Table) -> tuple[str, ...]:
    return tuple(column.name for column in table.c)


class VersionedRows:
    """Writes rows of a table that were read before."""

    def __init__(self, table: Table, key: Column[str], *, fixed: frozenset[str]) -> None:
        """`fixed`: the names of the columns that never change. They are not written again."""
        self._key = key.name
        self._changing = [column.name for column in table.c if column.name not in fixed]
        self._update = (
            update(table)
            .where(key == bindparam("key"), table.c.version == bindparam("read_version"))
            .values({name: bindparam(f"new_{name}") for name in self._changing})
        )

    async def save(
        self, tx: AsyncConnection, values: Mapping[str, Any], *, read_version: int
    ) -> None:
        """Writes the values of a row that was read at `read_version`.

        Raises:
            StaleRow: it has changed since.
        """
        new = {f"new_{name}": values[name] for name in self._changing}
        key = {"key": values[self._key], "read_version": read_version}
        expect_one(await tx.execute(self._update, {**key, **new}))


class PolledValue(Protocol):
    """An attempt or a refund."""

    @property
    def version(self) -> int: ...
    @property
    def lease_until(self) -> datetime: ...
    @property
    def updated_at(self) -> datetime: ...

    def correct_clock(self, *, error: timedelta, at: datetime) -> Self:
        """The same, had the clock of its writer been right."""


Polled = TypeVar("Polled", bound=PolledValue)


class PolledRows(VersionedRows, Generic[Polled]):
    """Rows with `next_query_at`, which is NULL when nothing is to be queried any more."""

    def __init__(
        self,
        table: Table,
        key: Column[str],
        *,
        fixed: frozenset[str],
        value_of: Callable[[Row[Any]], Polled],
        values: Callable[[Polled], Mapping[str, Any]],
    ) -> None:
        super().__init__(table, key, fixed=fixed)
        self.key = key
        self._table = table
        self._value_of = value_of
        self._values = values

    def due_statement(self, now: datetime, limit: int) -> Select[Any]:
        """The query that claims due rows; those that another worker holds are passed over. A test
        reads its EXPLAIN.
        """
        due_at = self._table.c.next_query_at
        return (
            select(*self._table.c)
            .where(due_at <= now)
            .order_by(due_at, self.key)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )

    def next_due_statement(self) -> Select[Any]:
        """The query for the next time at which a row is due; a test reads its EXPLAIN."""
        due_at = self._table.c.next_query_at
        return select(due_at).where(due_at.is_not(None)).order_by(due_at, self.key).limit(1)

    async def next_due(self, tx: AsyncConnection, quarantine: Quarantine) -> datetime | None:
        """The next time at which a row is due; None when none is open."""
        query = quarantine.narrow(self.next_due_statement())
        due_at: datetime | None = (await tx.execute(query)).scalar_one_or_none()
        return due_at

    def future_statement(self, now: datetime, tolerance: timedelta, limit: int) -> Select[Any]:
        """The query of open rows that a process wrote whose clock was ahead by more than
        `tolerance`, without a lock: mostly there are none.
        """
        is_open = self._table.c.next_query_at.is_not(None)
        return select(self.key).where(is_open, self._is_future(now, tolerance)).limit(limit)

    async def correct_clock(
        self, tx: AsyncConnection, keys: Sequence[str], *, now: datetime, tolerance: timedelta
    ) -> list[str]:
        """Corrects rows that `future_statement` found by the error of the clock that wrote them;
        returns the ids of those that still need it.
        """
        query = (
            select(*self._table.c)
            .where(self.key.in_(keys), self._is_future(now, tolerance))
            .with_for_update(skip_locked=True)
        )
        found = (await tx.execute(query)).all()
        for before in map(self._value_of, found):
            error = max(before.updated_at - now, before.lease_until - now - LEASE_MAX)
            after = before.correct_clock(error=error, at=now)
            await self.save(tx, self._values(after), read_version=before.version)
        return [getattr(row, self.key.name) for row in found]

    def _is_future(self, now: datetime, tolerance: timedelta) -> ColumnElement[bool]:
        columns = self._table.c
        return (columns.updated_at > now + tolerance) | (
            columns.lease_until > now + LEASE_MAX + tolerance
        )

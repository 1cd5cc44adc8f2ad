"""Checks one database by queries whose every row is a violation. Large tables are read in key
ranges, so that the time of a statement is bounded by a range; each statement sees one snapshot.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ColumnElement,
    FromClause,
    MetaData,
    Select,
    Table,
    and_,
    case,
    func,
    literal_column,
    or_,
    select,
    true,
    type_coerce,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.audit import FOUND_MAX, OVERDUE, UNDELIVERED, AuditTolerance, Violation
from mesh.audit.broken_chains import broken_chains
from mesh.db import Database, UtcMillis
from mesh.db.ranges import key_ranges, key_ranges_at_one_moment
from mesh.events import destination
from mesh.log_chain import Log
from mesh.money import CURRENCIES
from mesh.outbox import OUTBOX
from mesh.progress import looked_at

RANGE = 10_000  # keys per statement
_FIRST_MOMENT = -62_135_596_800_000  # of the year 1, in milliseconds since 1970
_LAST_MOMENT = 253_402_300_799_999  # of the year 9999: what a datetime can hold
_IS_EVENT = OUTBOX.c.destination.startswith(destination(""))


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A query whose every row is a violation. The first column is the subject, and `detail` is
    formatted with all columns. `by` is a key of the table, for ranges; without it the query is a
    single statement.
    """

    name: str
    query: Select[Any]
    detail: str
    by: tuple[ColumnElement[Any], ...] = ()


async def run_checks(db: Database, checks: Iterable[Check]) -> AsyncIterator[Violation]:
    """Violations found by the checks, at most FOUND_MAX each. Checks of the same table share one
    pass.
    """

    def table_of(check: Check) -> str:
        return ".".join(map(str, check.by))

    for _, group in groupby(sorted(checks, key=table_of), key=table_of):
        together = list(group)
        left = [FOUND_MAX] * len(together)
        async for within in _ranges(db, together[0].by):
            for number, check in enumerate(together):
                if left[number] > 0:
                    found = await db.read(_run, check, within, left[number])
                    left[number] -= len(found)
                    for violation in found:
                        yield violation


async def _run(
    tx: AsyncConnection, check: Check, within: ColumnElement[bool], limit: int
) -> list[Violation]:
    rows = (await tx.execute(check.query.where(within).limit(limit))).mappings()
    return [
        Violation(
            check=check.name,
            subject=str(next(iter(row.values()))),
            detail=check.detail.format_map(row),
        )
        for row in rows
    ]


async def _ranges(
    db: Database, by: Sequence[ColumnElement[Any]]
) -> AsyncIterator[ColumnElement[bool]]:
    """Conditions that divide a table into ranges of its key; one range for everything when a check
    has no key.
    """
    if not by:
        yield true()
        return
    async for within in key_ranges(db, by, size=RANGE):
        yield within
        looked_at(str(by[0]).partition(".")[0], RANGE)


async def sums_of(
    tx: AsyncConnection,
    table: Table,
    group: Sequence[ColumnElement[Any]],
    *values: ColumnElement[Any],
    within: FromClause | None = None,
) -> defaultdict[tuple[Any, ...], list[int]]:
    """Sums over all rows of a table (`within` a join with others) by groups, range by range;
    missing groups are 0. Within `Database.read_at_one_moment` all sums are of one snapshot.
    """
    sums: defaultdict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0] * len(values))
    query = (
        select(*group, *(func.sum(value) for value in values))
        .select_from(table if within is None else within)
        .group_by(*group)
    )
    async for rows in key_ranges_at_one_moment(tx, tuple(table.primary_key.columns), size=RANGE):
        for row in await tx.execute(query.where(rows)):
            of_group = sums[tuple(row[: len(group)])]
            for number, more in enumerate(row[len(group) :]):
                of_group[number] += int(more)
        looked_at(table.name, RANGE)
    return sums


async def check_outbox(db: Database, tolerance: AuditTolerance) -> AsyncIterator[Violation]:
    """Checks that every message was delivered, is not late, or has no relay."""
    row = OUTBOX.c
    shown = select(
        row.event_id, row.tag, row.destination, row.aggregate_id, row.last_error, row.attempts
    )
    late = (row.due_at < tolerance.before(OVERDUE)) | (
        row.created_at < tolerance.before(UNDELIVERED)
    )
    waiting = shown.where(row.state == "NEW")
    if tolerance.events_wait:
        waiting = waiting.where(~_IS_EVENT)
    async for violation in run_checks(
        db,
        (
            Check(
                name="outbox_dead",
                query=shown.where(row.state == "DEAD"),
                by=(row.id,),
                detail="{tag} about {aggregate_id} was refused by {destination}: {last_error}",
            ),
            Check(
                name="outbox_late",
                query=waiting if tolerance.strict else waiting.where(late),
                by=(row.id,),
                detail="{tag} about {aggregate_id} has not reached {destination} after {attempts} "
                "attempts: {last_error}",
            ),
            Check(
                name="outbox_readable",
                query=select(row.event_id, row.tag, row.aggregate_id).where(
                    func.json_valid(row.payload) == 0
                ),
                detail="{tag} about {aggregate_id} says nothing that can be read",
                by=(row.id,),
            ),
        ),
    ):
        yield violation


async def check_logs(db: Database, *logs: Log) -> AsyncIterator[Violation]:
    """Checks that every chained log is complete and unchanged."""
    for log in logs:
        async for broken in broken_chains(db, log):
            yield Violation(
                check="log_chained",
                subject=broken.entity,
                detail=f"its {broken.log}: {broken.detail}",
            )


async def check_rows(
    db: Database,
    metadata: MetaData,
    *,
    words: Mapping[Column[Any], Iterable[str]],
    documents: Collection[Column[Any]],
) -> AsyncIterator[Violation]:
    """Checks that every row can be read: it satisfies the CHECKs of its table, which may have been
    bypassed, and has known currencies and words, JSON that parses, and valid times. Lists and
    workers skip a bad row, so it is reported here.

    Args:
        words: columns with a closed set of words that no CHECK enforces.
        documents: columns that hold JSON.
    """
    for table in metadata.tables.values():
        wrong = dict(_wrong(table, words, documents))
        if wrong:
            async for violation in run_checks(db, [_unreadable(table, wrong)]):
                yield violation


def _wrong(
    table: Table, words: Mapping[Column[Any], Iterable[str]], documents: Collection[Column[Any]]
) -> Iterator[tuple[str, ColumnElement[bool]]]:
    """The possible faults of a row, each with its condition."""
    for constraint in table.constraints:
        if isinstance(constraint, CheckConstraint):
            yield (
                f"breaks the rule {constraint.name}",
                literal_column(f"(NOT ({constraint.sqltext}))", Boolean()),
            )
    for column in table.c:
        if isinstance(column.type, UtcMillis):
            moment: ColumnElement[int] = type_coerce(column, BigInteger)
            yield (
                f"has a time of no calendar in {column.name}",
                or_(moment < _FIRST_MOMENT, moment > _LAST_MOMENT),
            )
        if column.name == "currency" or column.name.endswith("_currency"):
            yield f"has an unknown {column.name}", column.not_in(CURRENCIES)
        if column.name == "version":
            yield "has a negative version", column < 0
        if column in words:
            yield f"has an unknown {column.name}", column.not_in(list(words[column]))
        if column in documents:
            yield (
                f"has no JSON in {column.name}",
                and_(column.is_not(None), func.json_valid(column) == 0),
            )


def _unreadable(table: Table, wrong: Mapping[str, ColumnElement[bool]]) -> Check:
    key = tuple(table.primary_key.columns)
    plain = [column for column in reversed(key) if not isinstance(column.type, UtcMillis)]
    return Check(
        name="row_readable",
        query=select(
            *plain, case(*((condition, what) for what, condition in wrong.items())).label("what")
        ).where(or_(*wrong.values())),
        detail=f"a row of {table.name} {{what}}",
        by=tuple(
            type_coerce(column, BigInteger) if isinstance(column.type, UtcMillis) else column
            for column in key
        ),
    )


async def waiting_events(db: Database) -> int:
    """The number of unpublished events."""
    total = 0
    async for within in key_ranges(db, (OUTBOX.c.id,), size=RANGE):
        total += await db.read(_count_waiting, within)
    return total


async def _count_waiting(tx: AsyncConnection, within: ColumnElement[bool]) -> int:
    return (
        await tx.execute(select(func.count()).where(OUTBOX.c.state == "NEW", _IS_EVENT, within))
    ).scalar_one()

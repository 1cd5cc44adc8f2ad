"""Rows of statement imports."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.bad_rows import Quarantine
from mesh.db import expect_one
from payment_rpc.domain.errors import ReconciliationNotFound
from payment_rpc.tables import STATEMENT_DIFFERENCE, STATEMENT_IMPORT

_I, _D = STATEMENT_IMPORT.c, STATEMENT_DIFFERENCE.c
_SHOWN = tuple(column for column in _I if column is not _I.content)
_UNFINISHED = ("FETCHING", "RUNNING")
_SLICE = 3 * 2**18  # bytes; of a multiple of three, so that slices are joined without padding
_COUNT = (
    select(func.count())
    .select_from(STATEMENT_DIFFERENCE)
    .where(_D.import_id == _I.import_id)
    .scalar_subquery()
    .label("difference_count")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementImport:
    """One import of one statement.

    Attributes:
        content_hash: "" while it is being fetched.
        state: FETCHING, RUNNING, DONE or FAILED.
        processed, matched: lines that were compared, and those of them that agree with our books.
        is_complete: the day was complete when it was asked for; otherwise nothing is filed.
    """

    import_id: str
    channel: str
    date: str
    content_hash: str
    state: str
    lines: int
    processed: int
    matched: int
    is_complete: bool
    differences: int
    line_errors: tuple[str, ...]
    error: str
    created_at: datetime
    finished_at: datetime | None


async def add_import(
    tx: AsyncConnection, *, import_id: str, channel: str, day: str, is_complete: bool, at: datetime
) -> StatementImport:
    """A new import, or the one of this statement that is under way. Two at once do no harm: each
    finding is filed once, and each fee booked once.
    """
    row = (
        await tx.execute(
            select(*_SHOWN, _COUNT)
            .where(
                _I.channel == channel,
                _I.statement_date == day,
                _I.is_complete == is_complete,
                _I.state.in_(_UNFINISHED),
            )
            .order_by(_I.import_id)
            .limit(1)
        )
    ).first()
    if row is not None:
        return _import(row)
    await tx.execute(
        insert(STATEMENT_IMPORT).values(
            import_id=import_id,
            channel=channel,
            statement_date=day,
            content_hash="",
            content="",
            state="FETCHING",
            line_count=0,
            processed=0,
            matched=0,
            is_complete=is_complete,
            line_errors="[]",
            error="",
            created_at=at,
            finished_at=None,
        )
    )
    return await get_import(tx, import_id)


async def begin(
    tx: AsyncConnection,
    fetching: StatementImport,
    *,
    content: str,
    content_hash: str,
    lines: int,
    line_errors: Sequence[str],
) -> bool:
    """Stores a statement, as `packed` made it; False when another process was faster."""
    stored = await tx.execute(
        update(STATEMENT_IMPORT)
        .where(_I.import_id == fetching.import_id, _I.state == "FETCHING")
        .values(
            state="RUNNING",
            content=content,
            content_hash=content_hash,
            line_count=lines,
            line_errors=json.dumps(line_errors, ensure_ascii=False),
        )
    )
    return stored.rowcount == 1


async def fail(tx: AsyncConnection, failing: StatementImport, *, error: str, at: datetime) -> None:
    """The import is FAILED, unless another process was luckier."""
    await tx.execute(
        update(STATEMENT_IMPORT)
        .where(
            _I.import_id == failing.import_id,
            _I.state == failing.state,
            _I.state.in_(_UNFINISHED),
            _I.processed == failing.processed,
        )
        .values(state="FAILED", error=error[:500], finished_at=at)
    )


async def get_import(tx: AsyncConnection, import_id: str) -> StatementImport:
    """One import, or ReconciliationNotFound."""
    row = (await tx.execute(select(*_SHOWN, _COUNT).where(_I.import_id == import_id))).first()
    if row is None:
        raise ReconciliationNotFound
    return _import(row)


async def next_unfinished(tx: AsyncConnection, quarantine: Quarantine) -> str | None:
    """The oldest import that is not complete."""
    query = select(_I.import_id).where(_I.state.in_(_UNFINISHED)).order_by(_I.import_id).limit(1)
    import_id: str | None = (await tx.execute(quarantine.narrow(query))).scalar()
    return import_id


async def content_of(tx: AsyncConnection, import_id: str) -> str:
    """The statement as it is stored."""
    return str((await tx.execute(select(_I.content).where(_I.import_id == import_id))).scalar_one())


def packed(content: bytes) -> str:
    """A statement as it is stored: deflated, base64. Takes longer the larger the file is, so call
    it outside of transactions.
    """
    deflated = memoryview(zlib.compress(content))
    # in slices, because encoding holds the interpreter's lock
    return "".join(
        base64.b64encode(deflated[at : at + _SLICE]).decode()
        for at in range(0, len(deflated), _SLICE)
    )


def unpacked(kept: str) -> bytes:
    """The statement as it was fetched."""
    of_slice = _SLICE // 3 * 4
    return zlib.decompress(
        b"".join(base64.b64decode(kept[at : at + of_slice]) for at in range(0, len(kept), of_slice))
    )


async def advance(
    tx: AsyncConnection, running: StatementImport, *, lines: int, matched: int
) -> None:
    """Stores the progress of an import: how many lines were compared now, and how many agreed.

    Raises:
        StaleRow: another process moved it.
    """
    expect_one(
        await tx.execute(
            update(STATEMENT_IMPORT)
            .where(
                _I.import_id == running.import_id,
                _I.state == "RUNNING",
                _I.processed == running.processed,
            )
            .values(processed=running.processed + lines, matched=running.matched + matched)
        )
    )


async def finish(tx: AsyncConnection, running: StatementImport, *, at: datetime) -> None:
    """The import is DONE. What a day had so far is not kept: its whole statement will be."""
    await tx.execute(
        update(STATEMENT_IMPORT)
        .where(_I.import_id == running.import_id, _I.state == "RUNNING")
        .values(
            state="DONE",
            finished_at=at,
            content=_I.content if running.is_complete else "",
        )
    )


def _import(row: Any) -> StatementImport:
    return StatementImport(
        import_id=row.import_id,
        channel=row.channel,
        date=row.statement_date,
        content_hash=row.content_hash,
        state=row.state,
        lines=row.line_count,
        processed=row.processed,
        matched=row.matched,
        is_complete=row.is_complete,
        differences=row.difference_count,
        line_errors=tuple(json.loads(row.line_errors)),
        error=row.error,
        created_at=row.created_at,
        finished_at=row.finished_at,
    )

"""Rows of statement imports."""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.bad_rows import Quarantine
from mesh.db import expect_one, insert_if_absent
from payment_rpc.domain.errors import ReconciliationNotFound
from payment_rpc.tables import STATEMENT_DIFFERENCE, STATEMENT_IMPORT

_I, _D = STATEMENT_IMPORT.c, STATEMENT_DIFFERENCE.c
_SHOWN = tuple(column for column in _I if column is not _I.content)
_COUNT = (
    select(func.count())
    .select_from(STATEMENT_DIFFERENCE)
    .where(_D.import_id == _I.import_id)
    .scalar_subquery()
    .label("difference_count")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementImport:
    """One import of one statement. `state` is RUNNING, DONE or FAILED; `processed` counts lines."""

    import_id: str
    channel: str
    date: str
    content_hash: str
    state: str
    lines: int
    processed: int
    differences: int
    line_errors: tuple[str, ...]
    error: str
    created_at: datetime
    finished_at: datetime | None


async def add_import(tx: AsyncConnection, new: StatementImport, content: str) -> StatementImport:
    """Stores a statement, as `packed` made it. When the same bytes are stored already, returns
    their import as it is.
    """
    await insert_if_absent(
        tx,
        STATEMENT_IMPORT,
        {
            "import_id": new.import_id,
            "channel": new.channel,
            "statement_date": new.date,
            "content_hash": new.content_hash,
            "content": content,
            "state": new.state,
            "line_count": new.lines,
            "processed": 0,
            "line_errors": json.dumps(new.line_errors, ensure_ascii=False),
            "error": new.error[:500],
            "created_at": new.created_at,
            "finished_at": new.finished_at,
        },
    )
    row = (
        await tx.execute(
            select(*_SHOWN, _COUNT).where(
                _I.channel == new.channel,
                _I.statement_date == new.date,
                _I.content_hash == new.content_hash,
            )
        )
    ).one()
    return _import(row)


async def get_import(tx: AsyncConnection, import_id: str) -> StatementImport:
    """One import, or ReconciliationNotFound."""
    row = (await tx.execute(select(*_SHOWN, _COUNT).where(_I.import_id == import_id))).first()
    if row is None:
        raise ReconciliationNotFound
    return _import(row)


async def next_running(tx: AsyncConnection, quarantine: Quarantine) -> str | None:
    """The oldest import that is not complete."""
    query = select(_I.import_id).where(_I.state == "RUNNING").order_by(_I.import_id).limit(1)
    import_id: str | None = (await tx.execute(quarantine.narrow(query))).scalar()
    return import_id


async def content_of(tx: AsyncConnection, import_id: str) -> str:
    """The statement as it is stored."""
    return str((await tx.execute(select(_I.content).where(_I.import_id == import_id))).scalar_one())


def packed(content: bytes) -> str:
    """A statement as it is stored: deflated, base64. Takes longer the larger the file is, so call
    it outside of transactions.
    """
    return base64.b64encode(zlib.compress(content)).decode()


def unpacked(kept: str) -> bytes:
    """The statement as it was fetched."""
    return zlib.decompress(base64.b64decode(kept))


async def advance(tx: AsyncConnection, running: StatementImport, *, processed: int) -> None:
    """Stores the progress of an import.

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
            .values(processed=processed)
        )
    )


async def finish(tx: AsyncConnection, import_id: str, *, at: datetime) -> None:
    """The import is DONE."""
    await tx.execute(
        update(STATEMENT_IMPORT)
        .where(_I.import_id == import_id, _I.state == "RUNNING")
        .values(state="DONE", finished_at=at)
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
        differences=row.difference_count,
        line_errors=tuple(json.loads(row.line_errors)),
        error=row.error,
        created_at=row.created_at,
        finished_at=row.finished_at,
    )

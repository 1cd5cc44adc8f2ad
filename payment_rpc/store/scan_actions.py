"""Rows of the log of the scan. Written in the transaction of the change that they describe; deleted
by age.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh import log_chain
from mesh.times import MILLISECOND
from payment_rpc.domain.scan import ScanAction, ScanEntry, ScanSubject
from payment_rpc.tables import SCAN_ACTION, SCAN_LOG

PURGE_BATCH = 1000
_S = SCAN_ACTION.c
_INSERT = insert(SCAN_ACTION)


async def add(tx: AsyncConnection, entries: Sequence[ScanEntry]) -> None:
    """Writes what was done; nothing for nothing."""
    if entries:
        await tx.execute(
            _INSERT, await log_chain.chained(tx, SCAN_LOG, [_values(entry) for entry in entries])
        )


async def of_payments(tx: AsyncConnection, payment_ids: Sequence[str]) -> list[ScanEntry]:
    """What was done about some payments and their refunds, in order."""
    return [
        _entry(row)
        for row in await tx.execute(
            select(SCAN_ACTION).where(_S.payment_id.in_(payment_ids)).order_by(_S.id)
        )
    ]


async def purge(tx: AsyncConnection, *, before: datetime) -> int:
    """Deletes up to PURGE_BATCH rows of before a moment; returns how many."""
    old = (
        (
            await tx.execute(
                select(_S.id).where(_S.acted_at < before).order_by(_S.acted_at).limit(PURGE_BATCH)
            )
        )
        .scalars()
        .all()
    )
    if old:
        await log_chain.purge(tx, SCAN_LOG, old)
    return len(old)


def _values(entry: ScanEntry) -> dict[str, Any]:
    return {
        "payment_id": entry.subject.payment_id,
        "attempt_id": entry.subject.attempt_id,
        "refund_id": entry.subject.refund_id,
        "action": entry.action,
        "state_before": entry.state_before,
        "state_after": entry.state_after,
        "result": entry.result[:16],
        "reason": entry.reason[:64],
        "duration_ms": max(0, entry.duration // MILLISECOND),
        "acted_at": entry.at,
    }


def _entry(row: Row[Any]) -> ScanEntry:
    return ScanEntry(
        action=ScanAction(row.action),
        subject=ScanSubject(
            payment_id=row.payment_id, attempt_id=row.attempt_id, refund_id=row.refund_id
        ),
        state_before=row.state_before,
        state_after=row.state_after,
        result=row.result,
        reason=row.reason,
        duration=row.duration_ms * MILLISECOND,
        at=row.acted_at,
    )

"""Deletes rows whose time is over, some at a time, so that no transaction holds many locks. Rows of
the outbox and the inbox are kept for a while after delivery, for replays and investigations.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Column, delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh import inbox, outbox
from mesh.clock import Clock
from mesh.db import Database
from mesh.worker import Worker

PURGE_SECONDS = 600.0  # rows are kept for days, so purging need not be frequent
ENDED_BATCH: Final = 500  # rows that one transaction deletes


async def delete_ended(
    tx: AsyncConnection, key: Column[Any], ended_at: Column[Any], *, before: datetime
) -> int:
    """Deletes up to ENDED_BATCH rows whose moment is before another one, the oldest first; returns
    how many were found. A row that was given a later moment meanwhile stays.

    Args:
        key: what names a row of the table.
        ended_at: the moment, the first column of an index.
    """
    oldest = select(key).where(ended_at < before).order_by(ended_at).limit(ENDED_BATCH)
    over = (await tx.execute(oldest)).scalars().all()
    if over:
        await tx.execute(delete(key.table).where(key.in_(over), ended_at < before))
    return len(over)


def purge_worker(
    *, db: Database, clock: Clock, retention: timedelta, has_inbox: bool = True
) -> Worker:
    """Deletes delivered messages that are older than `retention`. Inbox rows are kept for twice as
    long, so that a receiver still recognises a message that is sent again from an outbox. A service
    that no other one sends messages to has no inbox."""

    async def purge() -> int:
        now = clock.now()
        done = await db.run(outbox.purge, before=now - retention)
        return done + (await db.run(inbox.purge, before=now - 2 * retention) if has_inbox else 0)

    return Worker("purge_delivered", purge, idle_seconds=PURGE_SECONDS)

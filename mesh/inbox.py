"""Deduplicates events for a consumer: one row per (consumer, event), written in the transaction of
the effect.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Column, Index, Table, delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db import Identifier, UtcMillis, metadata_with_names

PURGE_BATCH = 500

INBOX = Table(
    "inbox",
    metadata_with_names(),
    Column("consumer", Identifier(64), primary_key=True),
    Column("event_id", Identifier(64), primary_key=True),
    Column("handled_at", UtcMillis, nullable=False),
    Index("ix_inbox_handled_at", "handled_at"),
)


async def first_time(tx: AsyncConnection, *, consumer: str, event_id: str, now: datetime) -> bool:
    """True exactly once per (consumer, event_id). Two concurrent calls collide on the key
    `pk_inbox`; the loser's transaction runs again and gets False.
    """
    seen = await tx.execute(
        select(INBOX.c.event_id).where(INBOX.c.consumer == consumer, INBOX.c.event_id == event_id)
    )
    if seen.first() is not None:
        return False
    await tx.execute(insert(INBOX).values(consumer=consumer, event_id=event_id, handled_at=now))
    return True


async def purge(tx: AsyncConnection, *, before: datetime) -> int:
    """Deletes the rows of up to PURGE_BATCH events handled before a moment; returns how many."""
    over = (
        await tx.execute(
            select(INBOX.c.consumer, INBOX.c.event_id)
            .where(INBOX.c.handled_at < before)
            .order_by(INBOX.c.handled_at)
            .limit(PURGE_BATCH)
        )
    ).all()
    for row in over:
        await tx.execute(
            delete(INBOX).where(INBOX.c.consumer == row.consumer, INBOX.c.event_id == row.event_id)
        )
    return len(over)

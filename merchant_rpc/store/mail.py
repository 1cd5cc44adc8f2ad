"""What is kept of a mail that was handed over."""

from __future__ import annotations

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.outbox import OUTBOX


async def forget_content(tx: AsyncConnection, *, event_id: str) -> None:
    """Empties a mail: its link is as good as a password for a day."""
    await tx.execute(update(OUTBOX).where(OUTBOX.c.event_id == event_id).values(payload="{}"))

"""Units that were taken back in the database and are not yet back in Redis."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.outbox import OUTBOX

DESTINATION = "redis"


async def count_waiting(tx: AsyncConnection, *, activity_id: str) -> int:
    """How many units of an activity still have to be given back to Redis."""
    hint = "FORCE INDEX (ix_outbox_claim)"  # few are waiting, many were done
    waiting = (
        select(func.count())
        .select_from(OUTBOX)
        .where(
            OUTBOX.c.destination == DESTINATION,
            OUTBOX.c.state == "NEW",
            OUTBOX.c.aggregate_id == activity_id,
        )
    )
    counted = await tx.execute(
        waiting.with_hint(OUTBOX, hint, "mysql").with_hint(OUTBOX, hint, "mariadb")
    )
    return int(counted.scalar_one())

"""Queue entries that cannot be processed: kept for people, with all that is known of them."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from seckill_rpc.tables import DEAD_ENTRY

_REASON_LENGTH_MAX = 200


async def insert_dead(
    tx: AsyncConnection,
    *,
    activity_id: str,
    entry_id: str,
    order_id: str,
    fields: dict[str, str],
    reason: str,
    deliveries: int,
    at: datetime,
) -> None:
    """Keeps an entry, once."""
    known = await tx.execute(
        select(DEAD_ENTRY.c.id).where(
            DEAD_ENTRY.c.activity_id == activity_id, DEAD_ENTRY.c.entry_id == entry_id
        )
    )
    if known.first() is not None:
        return
    values: dict[str, Any] = {
        "activity_id": activity_id,
        "entry_id": entry_id,
        "order_id": order_id.encode("ascii", "backslashreplace").decode()[:64],
        "fields": json.dumps(fields)[:60_000],
        "reason": reason.encode("ascii", "backslashreplace").decode()[:_REASON_LENGTH_MAX],
        "deliveries": deliveries,
        "created_at": at,
    }
    await tx.execute(DEAD_ENTRY.insert(), values)

"""What ends with a merchant or a membership: sessions and keys. Rows stay."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncConnection

from merchant_rpc.tables import API_KEY, SESSION


async def end_sessions(
    tx: AsyncConnection,
    *,
    merchant_ids: Collection[str],
    now: datetime,
    member_id: str | None = None,
) -> int:
    """Ends the living sessions for some merchants, of everybody or of one member; returns how
    many.
    """
    s = SESSION.c
    whose = [] if member_id is None else [s.member_id == member_id]
    done = await tx.execute(
        update(SESSION)
        .where(s.merchant_id.in_(merchant_ids), s.revoked_at.is_(None), *whose)
        .values(revoked_at=now)
    )
    return int(done.rowcount)


async def end_keys(
    tx: AsyncConnection, *, merchant_ids: Collection[str], now: datetime, revoked_by: str
) -> int:
    """Revokes the living keys of some merchants; returns how many."""
    k = API_KEY.c
    done = await tx.execute(
        update(API_KEY)
        .where(k.merchant_id.in_(merchant_ids), k.revoked_at.is_(None))
        .values(revoked_at=now, revoked_by=revoked_by)
    )
    return int(done.rowcount)

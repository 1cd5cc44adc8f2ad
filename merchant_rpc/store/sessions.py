"""Sessions."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from merchant_rpc.domain.session import LISTED_MAX, Session
from merchant_rpc.tables import SESSION
from mesh.db import expect_one
from mesh.purge import delete_ended

ADDRESSES_READ_MAX = 200
_S = SESSION.c


async def insert_session(tx: AsyncConnection, session: Session) -> None:
    """Writes a new session."""
    await tx.execute(insert(SESSION).values(**asdict(session)))


async def lock_session(tx: AsyncConnection, session_id: str) -> Session | None:
    """A session, locked until the end of the transaction, or None."""
    row = (
        await tx.execute(select(SESSION).where(_S.session_id == session_id).with_for_update())
    ).one_or_none()
    return None if row is None else _session(row)


async def save_session(tx: AsyncConnection, session: Session) -> None:
    """Writes what a use of a locked session changed."""
    expect_one(
        await tx.execute(
            update(SESSION)
            .where(_S.session_id == session.session_id)
            .values(
                merchant_id=session.merchant_id,
                client_address=session.client_address,
                rotation=session.rotation,
                rotated_at=session.rotated_at,
                last_used_at=session.last_used_at,
                idle_expires_at=session.idle_expires_at,
            )
        )
    )


async def list_sessions(
    tx: AsyncConnection, *, member_id: str, now: datetime
) -> tuple[Session, ...]:
    """The living sessions of a person, newest first."""
    rows = await tx.execute(
        select(SESSION)
        .where(_S.member_id == member_id, _S.revoked_at.is_(None), _S.idle_expires_at > now)
        .order_by(_S.created_at.desc(), _S.session_id.desc())
        .limit(LISTED_MAX)
    )
    return tuple(_session(row) for row in rows)


async def addresses_of(tx: AsyncConnection, *, member_id: str, since: datetime) -> list[str]:
    """From where a person was logged in lately."""
    rows = await tx.execute(
        select(_S.client_address)
        .where(_S.member_id == member_id, _S.created_at > since)
        .order_by(_S.created_at.desc())
        .limit(ADDRESSES_READ_MAX)
    )
    return [str(address) for address in rows.scalars()]


async def revoke(tx: AsyncConnection, *, session_id: str, member_id: str, now: datetime) -> bool:
    """Ends a living session of a person; False when there is none."""
    done = await tx.execute(
        update(SESSION)
        .where(
            _S.session_id == session_id,
            _S.member_id == member_id,
            _S.revoked_at.is_(None),
            _S.idle_expires_at > now,
        )
        .values(revoked_at=now)
    )
    return done.rowcount == 1


async def revoke_all(tx: AsyncConnection, *, member_id: str, now: datetime) -> int:
    """Ends every session of a person; returns how many."""
    done = await tx.execute(
        update(SESSION)
        .where(_S.member_id == member_id, _S.revoked_at.is_(None))
        .values(revoked_at=now)
    )
    return int(done.rowcount)


async def purge(tx: AsyncConnection, *, before: datetime) -> int:
    """Deletes some sessions that ended before a moment; returns how many."""
    return await delete_ended(tx, _S.session_id, _S.expires_at, before=before)


def _session(row: Any) -> Session:
    return Session(
        session_id=row.session_id,
        member_id=row.member_id,
        merchant_id=row.merchant_id,
        refresh_seed=row.refresh_seed,
        rotation=row.rotation,
        rotated_at=row.rotated_at,
        client_address=row.client_address,
        created_at=row.created_at,
        last_used_at=row.last_used_at,
        idle_expires_at=row.idle_expires_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )

"""Wrong attempts to log in, by account and by address. In the database, so that all replicas see
the same ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from merchant_rpc.domain.login_delay import Attempts, no_attempts
from merchant_rpc.tables import LOGIN_FAILURE
from mesh.db import expect_one, insert_if_absent
from mesh.purge import delete_ended

_F = LOGIN_FAILURE.c


async def lock(tx: AsyncConnection, subjects: Iterable[str], *, now: datetime) -> list[Attempts]:
    """The attempts of some subjects, locked until the end of the transaction. In one order, so that
    two transactions never wait for each other.
    """
    found = []
    for subject in sorted(subjects):
        await insert_if_absent(tx, LOGIN_FAILURE, asdict(no_attempts(subject, now)))
        row = (
            await tx.execute(select(LOGIN_FAILURE).where(_F.subject == subject).with_for_update())
        ).one()
        found.append(
            Attempts(
                subject=subject,
                failures=row.failures,
                blocked_until=row.blocked_until,
                updated_at=row.updated_at,
            )
        )
    return found


async def save(tx: AsyncConnection, attempts: Attempts) -> None:
    """Writes the attempts of a locked subject."""
    expect_one(
        await tx.execute(
            update(LOGIN_FAILURE)
            .where(_F.subject == attempts.subject)
            .values(
                failures=attempts.failures,
                blocked_until=attempts.blocked_until,
                updated_at=attempts.updated_at,
            )
        )
    )


async def forget(tx: AsyncConnection, subjects: Iterable[str]) -> None:
    """Deletes the attempts of some subjects."""
    for subject in sorted(subjects):
        await tx.execute(delete(LOGIN_FAILURE).where(_F.subject == subject))


async def purge(tx: AsyncConnection, *, before: datetime) -> int:
    """Deletes some subjects whose last attempt was before a moment; returns how many."""
    return await delete_ended(tx, _F.subject, _F.updated_at, before=before)

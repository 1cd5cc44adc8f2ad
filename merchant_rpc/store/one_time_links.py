"""Links that work once, by the digest of their token."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from merchant_rpc.domain.one_time_link import LinkKind
from merchant_rpc.tables import ONE_TIME_LINK
from mesh.db import expect_one
from mesh.purge import delete_ended

_L = ONE_TIME_LINK.c


async def insert_link(
    tx: AsyncConnection,
    *,
    token_digest: str,
    kind: LinkKind,
    subject: str,
    payload: str,
    created_at: datetime,
    expires_at: datetime,
) -> None:
    """Writes a link that nobody has used."""
    await tx.execute(
        insert(ONE_TIME_LINK).values(
            token_digest=token_digest,
            kind=kind,
            subject=subject,
            payload=payload,
            created_at=created_at,
            expires_at=expires_at,
            used_at=None,
        )
    )


async def find_payload(
    tx: AsyncConnection, *, token_digest: str, kind: LinkKind, now: datetime
) -> str | None:
    """The payload of a link that still works, or None."""
    row = (
        await tx.execute(
            select(_L.payload).where(
                _L.token_digest == token_digest,
                _L.kind == kind,
                _L.used_at.is_(None),
                _L.expires_at > now,
            )
        )
    ).one_or_none()
    return None if row is None else str(row.payload)


async def use(tx: AsyncConnection, *, token_digest: str, now: datetime) -> bool:
    """Uses up a link that `find_payload` found in this transaction; False when somebody else has
    used it meanwhile.
    """
    done = await tx.execute(
        update(ONE_TIME_LINK)
        .where(_L.token_digest == token_digest, _L.used_at.is_(None))
        .values(used_at=now)
    )
    return done.rowcount == 1


async def reopen(tx: AsyncConnection, *, token_digest: str, payload: str) -> None:
    """Lets a link that was used in this transaction, or before it, work again with another
    payload.
    """
    expect_one(
        await tx.execute(
            update(ONE_TIME_LINK)
            .where(_L.token_digest == token_digest, _L.used_at.is_not(None))
            .values(used_at=None, payload=payload)
        )
    )


async def delete_of(tx: AsyncConnection, *, kind: LinkKind, subject: str) -> None:
    """Deletes the links of a kind for one subject."""
    await tx.execute(delete(ONE_TIME_LINK).where(_L.kind == kind, _L.subject == subject))


async def delete_below(tx: AsyncConnection, *, kind: LinkKind, prefix: str) -> None:
    """Deletes the links of a kind whose subject is the prefix, a slash and anything."""
    await tx.execute(
        delete(ONE_TIME_LINK).where(
            _L.kind == kind, _L.subject > f"{prefix}/", _L.subject < f"{prefix}0"
        )
    )


async def count_below(
    tx: AsyncConnection, *, kind: LinkKind, prefix: str, besides: str, now: datetime
) -> int:
    """How many links of a kind still work whose subject is the prefix, a slash and anything, not
    counting one subject.
    """
    found = await tx.execute(
        select(func.count()).where(
            _L.kind == kind,
            _L.subject > f"{prefix}/",
            _L.subject < f"{prefix}0",  # "0" is the character after the slash
            _L.subject != besides,
            _L.used_at.is_(None),
            _L.expires_at > now,
        )
    )
    return int(found.scalar_one())


async def purge(tx: AsyncConnection, *, before: datetime) -> int:
    """Deletes some links that ended before a moment; returns how many."""
    return await delete_ended(tx, _L.token_digest, _L.expires_at, before=before)

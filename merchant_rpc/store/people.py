"""People as those who log in: what they prove themselves by, and whom they act for."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, delete, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from merchant_rpc.domain.member import MemberRole, MemberState
from merchant_rpc.domain.merchant import MerchantState
from merchant_rpc.domain.session import ActsFor, Person
from merchant_rpc.tables import MEMBER, MEMBERSHIP, MERCHANT, RECOVERY_CODE
from mesh.db import expect_one

_M = MEMBER.c
_R = RECOVERY_CODE.c


async def find_by_email(tx: AsyncConnection, email_digest: str) -> Person | None:
    """The person with an address, or None."""
    return await _find(tx, _M.email_digest == email_digest)


async def find_by_oidc_sub(tx: AsyncConnection, oidc_sub: str) -> Person | None:
    """The person that the identity provider knows by a name, or None."""
    return await _find(tx, _M.oidc_sub == oidc_sub)


async def find_person(tx: AsyncConnection, member_id: str) -> Person | None:
    """A person, or None."""
    return await _find(tx, _M.member_id == member_id)


async def lock_person(tx: AsyncConnection, member_id: str) -> Person | None:
    """A person, locked until the end of the transaction, or None."""
    return await _find(tx, _M.member_id == member_id, locked=True)


async def memberships_of(tx: AsyncConnection, member_id: str) -> tuple[ActsFor, ...]:
    """The merchants that a person works for, in the order in which he joined."""
    rows = await tx.execute(
        select(
            MEMBERSHIP.c.merchant_id, MEMBERSHIP.c.role, MERCHANT.c.state, MEMBERSHIP.c.created_at
        )
        .join(MERCHANT, MERCHANT.c.merchant_id == MEMBERSHIP.c.merchant_id)
        .where(MEMBERSHIP.c.member_id == member_id)
        .order_by(MEMBERSHIP.c.created_at, MEMBERSHIP.c.merchant_id)
    )
    return tuple(
        ActsFor(
            merchant_id=row.merchant_id,
            role=MemberRole(row.role),
            state=MerchantState(row.state),
        )
        for row in rows
    )


async def set_password(
    tx: AsyncConnection, member_id: str, password_hash: str, *, at: datetime
) -> None:
    """Writes a new hash of a password."""
    await _change(tx, member_id, password_hash=password_hash, updated_at=at)


async def bind_oidc_sub(
    tx: AsyncConnection, member_id: str, oidc_sub: str, *, at: datetime
) -> bool:
    """Writes the name by which the identity provider knows a person; False when there is one."""
    done = await tx.execute(
        update(MEMBER)
        .where(_M.member_id == member_id, _M.oidc_sub.is_(None))
        .values(oidc_sub=oidc_sub, updated_at=at)
    )
    return done.rowcount == 1


async def begin_totp(tx: AsyncConnection, member_id: str, secret: str, *, at: datetime) -> None:
    """Writes a secret that is not confirmed yet, encrypted."""
    await _change(tx, member_id, totp_pending_enc=secret, updated_at=at)


async def set_totp(
    tx: AsyncConnection, member_id: str, secret: str | None, *, step: int | None, at: datetime
) -> None:
    """Writes the secret that counts from now on, encrypted, with the step that was used; None ends
    the second factor.
    """
    await _change(
        tx,
        member_id,
        totp_secret_enc=secret,
        totp_pending_enc=None,
        totp_last_step=step,
        updated_at=at,
    )


async def use_step(tx: AsyncConnection, member_id: str, step: int) -> bool:
    """Uses a step up; False when it, or a later one, was used meanwhile."""
    done = await tx.execute(
        update(MEMBER)
        .where(
            _M.member_id == member_id, or_(_M.totp_last_step.is_(None), _M.totp_last_step < step)
        )
        .values(totp_last_step=step)
    )
    return done.rowcount == 1


async def replace_recovery_codes(
    tx: AsyncConnection, member_id: str, digests: Iterable[str], *, at: datetime
) -> None:
    """Puts new recovery codes in the place of all earlier ones."""
    await tx.execute(delete(RECOVERY_CODE).where(_R.member_id == member_id))
    for digest in digests:
        await tx.execute(
            insert(RECOVERY_CODE).values(
                member_id=member_id, code_digest=digest, created_at=at, used_at=None
            )
        )


async def use_recovery_code(
    tx: AsyncConnection, member_id: str, digest: str, *, at: datetime
) -> bool:
    """Uses a recovery code up; False when there is no such one (any more)."""
    done = await tx.execute(
        update(RECOVERY_CODE)
        .where(_R.member_id == member_id, _R.code_digest == digest, _R.used_at.is_(None))
        .values(used_at=at)
    )
    return done.rowcount == 1


async def list_operators(tx: AsyncConnection) -> list[tuple[str, str, MemberState, datetime]]:
    """Id, address and state of every operator, and since when; oldest first."""
    rows = await tx.execute(
        select(_M.member_id, _M.email, _M.state, _M.created_at)
        .where(_M.is_operator)
        .order_by(_M.created_at, _M.member_id)
    )
    return [(row.member_id, row.email, MemberState(row.state), row.created_at) for row in rows]


async def make_operator(tx: AsyncConnection, member_id: str, *, at: datetime) -> None:
    """Lets a person act as an operator."""
    await _change(tx, member_id, is_operator=True, updated_at=at)


async def _change(tx: AsyncConnection, member_id: str, **values: object) -> None:
    expect_one(await tx.execute(update(MEMBER).where(_M.member_id == member_id).values(**values)))


async def _find(
    tx: AsyncConnection, condition: ColumnElement[bool], *, locked: bool = False
) -> Person | None:
    statement = select(MEMBER).where(condition)
    row: Any = (
        await tx.execute(statement.with_for_update() if locked else statement)
    ).one_or_none()
    if row is None:
        return None
    return Person(
        member_id=row.member_id,
        email=row.email,
        state=MemberState(row.state),
        is_operator=bool(row.is_operator),
        password_hash=row.password_hash,
        totp_secret=row.totp_secret_enc,
        totp_pending=row.totp_pending_enc,
        totp_last_step=row.totp_last_step,
    )

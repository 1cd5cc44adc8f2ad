"""People and their memberships. A membership changes only in a transaction that has locked its
merchant.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from merchant_rpc.domain.member import (
    MEMBERS_MAX,
    Account,
    MemberRole,
    Membership,
    MemberState,
    email_digest,
)
from merchant_rpc.tables import MEMBER, MEMBERSHIP
from mesh.bad_rows import readable_rows
from mesh.db import expect_one

_P, _S = MEMBER.c, MEMBERSHIP.c
_MEMBERSHIPS = select(
    MEMBER,
    _S.merchant_id,
    _S.role,
    _S.invited_by,
    _S.created_at.label("joined_at"),
).join(MEMBERSHIP, _S.member_id == _P.member_id)


async def find_account(tx: AsyncConnection, *, email: str) -> Account | None:
    """The person with an address, or None."""
    found = await tx.execute(select(MEMBER).where(_P.email_digest == email_digest(email)))
    row = found.one_or_none()
    return None if row is None else _account(row)


async def insert_account(
    tx: AsyncConnection,
    *,
    member_id: str,
    email: str,
    name: str,
    password_hash: str,
    now: datetime,
    is_operator: bool = False,
) -> Account:
    """Writes a new person. One with this address violates `uq_member_email_digest`."""
    await tx.execute(
        insert(MEMBER).values(
            member_id=member_id,
            email_digest=email_digest(email),
            email=email,
            name=name,
            state=MemberState.ACTIVE,
            oidc_sub=None,
            password_hash=password_hash,
            totp_secret_enc=None,
            totp_pending_enc=None,
            totp_last_step=None,
            is_operator=is_operator,
            created_at=now,
            updated_at=now,
        )
    )
    return Account(
        member_id=member_id,
        email=email,
        name=name,
        state=MemberState.ACTIVE,
        has_password=True,
        has_totp=False,
        is_operator=is_operator,
        created_at=now,
    )


async def find_membership(
    tx: AsyncConnection, *, merchant_id: str, member_id: str
) -> Membership | None:
    """A person at a merchant, or None."""
    found = await tx.execute(
        _MEMBERSHIPS.where(_S.merchant_id == merchant_id, _S.member_id == member_id)
    )
    row = found.one_or_none()
    return None if row is None else _membership(row)


async def list_memberships(tx: AsyncConnection, *, merchant_id: str) -> list[Membership]:
    """Everybody who works for a merchant, oldest first."""
    rows = await tx.execute(
        _MEMBERSHIPS.where(_S.merchant_id == merchant_id)
        .order_by(_S.created_at, _S.member_id)
        .limit(MEMBERS_MAX)
    )
    return readable_rows(
        rows.all(),
        _membership,
        of="membership",
        key=lambda row: f"{row.merchant_id}/{row.member_id}",
    )


async def count_memberships(tx: AsyncConnection, *, merchant_id: str) -> int:
    """How many people work for a merchant."""
    found = await tx.execute(select(func.count()).where(_S.merchant_id == merchant_id))
    return int(found.scalar_one())


async def has_other_owner(tx: AsyncConnection, *, merchant_id: str, member_id: str) -> bool:
    """Whether somebody else is owner of a merchant and may log in."""
    found = await tx.execute(
        select(_S.member_id)
        .join(MEMBER, _P.member_id == _S.member_id)
        .where(
            _S.merchant_id == merchant_id,
            _S.member_id != member_id,
            _S.role == MemberRole.OWNER,
            _P.state == MemberState.ACTIVE,
        )
        .limit(1)
    )
    return found.first() is not None


async def insert_membership(
    tx: AsyncConnection,
    account: Account,
    *,
    merchant_id: str,
    role: MemberRole,
    invited_by: str,
    now: datetime,
) -> Membership:
    """Lets a person work for a merchant. One who does violates `pk_membership`."""
    await tx.execute(
        insert(MEMBERSHIP).values(
            merchant_id=merchant_id,
            member_id=account.member_id,
            role=role,
            invited_by=invited_by,
            created_at=now,
            updated_at=now,
        )
    )
    return Membership(
        account=account,
        merchant_id=merchant_id,
        role=role,
        invited_by=invited_by,
        created_at=now,
    )


async def set_role(
    tx: AsyncConnection, *, merchant_id: str, member_id: str, role: MemberRole, now: datetime
) -> None:
    """Gives a member another role.

    Raises:
        StaleRow: there is no such membership any more.
    """
    expect_one(
        await tx.execute(
            update(MEMBERSHIP)
            .where(_S.merchant_id == merchant_id, _S.member_id == member_id)
            .values(role=role, updated_at=now)
        )
    )


async def delete_membership(tx: AsyncConnection, *, merchant_id: str, member_id: str) -> None:
    """Ends a membership.

    Raises:
        StaleRow: there is no such membership any more.
    """
    expect_one(
        await tx.execute(
            delete(MEMBERSHIP).where(_S.merchant_id == merchant_id, _S.member_id == member_id)
        )
    )


def _account(row: Any) -> Account:
    return Account(
        member_id=row.member_id,
        email=row.email,
        name=row.name,
        state=MemberState(row.state),
        has_password=row.password_hash is not None,
        has_totp=row.totp_secret_enc is not None,
        is_operator=row.is_operator,
        created_at=row.created_at,
    )


def _membership(row: Any) -> Membership:
    return Membership(
        account=_account(row),
        merchant_id=row.merchant_id,
        role=MemberRole(row.role),
        invited_by=row.invited_by,
        created_at=row.joined_at,
    )

"""Merchants and their test siblings. `lock_merchant` comes first in a transaction that changes
anything of a merchant: its people, settings, links and log.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from merchant_rpc.domain.errors import MerchantNotFound
from merchant_rpc.domain.merchant import Merchant, MerchantState
from merchant_rpc.tables import MERCHANT
from mesh.bad_rows import readable_page
from mesh.call import Caller
from mesh.db import expect_one

_M = MERCHANT.c
EXPIRY_BATCH = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class MerchantPage:
    """Which merchants to list."""

    state: MerchantState | None  # None: all
    before: tuple[datetime, str] | None  # key of the last one of the page before
    limit: int


async def find_merchant(
    tx: AsyncConnection, *, merchant_id: str, lock: bool = False
) -> Merchant | None:
    """A merchant, or None; with `lock` it is locked until the transaction ends."""
    statement = select(MERCHANT).where(_M.merchant_id == merchant_id)
    row = (await tx.execute(statement.with_for_update() if lock else statement)).one_or_none()
    return None if row is None else _merchant(row)


async def get_merchant(tx: AsyncConnection, *, merchant_id: str, visible_to: Caller) -> Merchant:
    """A merchant that the caller may see.

    Raises:
        MerchantNotFound: there is none, or it is not the caller's.
    """
    scope = visible_to.scope()
    merchant = await find_merchant(tx, merchant_id=merchant_id)
    if merchant is None or scope.merchant_id not in {None, merchant_id}:
        raise MerchantNotFound(merchant_id=merchant_id)
    return merchant


async def lock_merchant(tx: AsyncConnection, *, merchant_id: str) -> Merchant:
    """A merchant, locked until the transaction ends.

    Raises:
        MerchantNotFound: there is none.
    """
    merchant = await find_merchant(tx, merchant_id=merchant_id, lock=True)
    if merchant is None:
        raise MerchantNotFound(merchant_id=merchant_id)
    return merchant


async def insert_merchant(tx: AsyncConnection, merchant: Merchant) -> None:
    """Writes a new merchant. One with this id violates `pk_merchant`."""
    await tx.execute(insert(MERCHANT).values(merchant_id=merchant.merchant_id, **_values(merchant)))


async def update_merchant(tx: AsyncConnection, merchant: Merchant) -> None:
    """Writes the next version of a merchant.

    Raises:
        StaleRow: it is not the next one any more.
    """
    expect_one(
        await tx.execute(
            update(MERCHANT)
            .where(_M.merchant_id == merchant.merchant_id, _M.version == merchant.version - 1)
            .values(**_values(merchant))
        )
    )


async def mark_changed(tx: AsyncConnection, *, merchant_id: str, now: datetime) -> None:
    """Lets everybody who remembers something of a merchant ask again: another thing of it changed
    than the merchant itself. It is locked.
    """
    await tx.execute(update(MERCHANT).where(_M.merchant_id == merchant_id).values(updated_at=now))


async def list_merchants(tx: AsyncConnection, page: MerchantPage) -> list[Merchant]:
    """Merchants without their test siblings, newest first."""

    async def fetch(last: Any, wanted: int) -> Sequence[Any]:
        before = page.before if last is None else (last.created_at, last.merchant_id)
        statement = select(MERCHANT).where(_M.is_test.is_(False))
        if page.state is not None:
            statement = statement.where(_M.state == page.state)
        if before is not None:
            at, merchant_id = before
            statement = statement.where(
                _M.created_at <= at, or_(_M.created_at < at, _M.merchant_id < merchant_id)
            )
        return (
            await tx.execute(
                statement.order_by(_M.created_at.desc(), _M.merchant_id.desc()).limit(wanted)
            )
        ).all()

    return await readable_page(
        fetch, _merchant, of="merchant", key=lambda row: row.merchant_id, limit=page.limit
    )


async def delete_unconfirmed(tx: AsyncConnection, *, before: datetime) -> list[str]:
    """Deletes some sign-ups that nobody confirmed in time; returns their ids, which are free
    again.
    """
    found = await tx.execute(
        select(_M.merchant_id)
        .where(
            _M.is_test.is_(False),
            _M.state == MerchantState.PENDING_EMAIL,
            _M.created_at < before,
        )
        .order_by(_M.created_at)
        .limit(EXPIRY_BATCH)
        .with_for_update(skip_locked=True)
    )
    ids = [str(merchant_id) for merchant_id in found.scalars()]
    if ids:
        await tx.execute(
            delete(MERCHANT).where(_M.merchant_id.in_(ids), _M.state == MerchantState.PENDING_EMAIL)
        )
    return ids


def _values(merchant: Merchant) -> dict[str, Any]:
    return {
        "name": merchant.name,
        "state": merchant.state,
        "state_before": merchant.state_before,
        "is_test": merchant.is_test,
        "country": merchant.country,
        "time_zone": merchant.time_zone,
        "default_currency": merchant.default_currency,
        "contact_email": merchant.contact_email,
        "version": merchant.version,
        "settings_version": merchant.settings_version,
        "created_at": merchant.created_at,
        "updated_at": merchant.updated_at,
    }


def _merchant(row: Any) -> Merchant:
    return Merchant(
        merchant_id=row.merchant_id,
        name=row.name,
        state=MerchantState(row.state),
        state_before=None if row.state_before is None else MerchantState(row.state_before),
        is_test=row.is_test,
        country=row.country,
        time_zone=row.time_zone,
        default_currency=row.default_currency,
        contact_email=row.contact_email,
        version=row.version,
        settings_version=row.settings_version,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )

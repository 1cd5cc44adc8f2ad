"""Rows of channel accounts. Each version of one is a row of the log, written in its transaction."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.bad_rows import readable_page
from mesh.call import Caller
from mesh.log_chain import chained
from payment_rpc.account_keys import Sealed
from payment_rpc.domain.channel_account import (
    AccountMode,
    AccountState,
    AccountStep,
    ChannelAccount,
    DefaultFor,
)
from payment_rpc.domain.errors import ChannelAccountNotFound
from payment_rpc.store.versioned import VersionedRows
from payment_rpc.tables import ACCOUNT_LOG, CHANNEL_ACCOUNT, CHANNEL_ACCOUNT_CHANGE

_A = CHANNEL_ACCOUNT.c
_ROWS = VersionedRows(
    CHANNEL_ACCOUNT,
    _A.account_id,
    fixed=frozenset({"account_id", "provider", "merchant_id", "mode", "created_by", "created_at"}),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAccount:
    """An account and its encrypted credentials."""

    account: ChannelAccount
    sealed: Sealed


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountChange:
    """Who changed an account, how and why."""

    step: AccountStep
    actor: str
    reason: str
    trace_id: str


async def find(tx: AsyncConnection, account_id: str) -> StoredAccount | None:
    """An account, or None."""
    row = (await tx.execute(select(CHANNEL_ACCOUNT).where(_A.account_id == account_id))).first()
    return None if row is None else stored_account(row)


async def get(tx: AsyncConnection, account_id: str, *, visible_to: Caller) -> StoredAccount:
    """An account.

    Raises:
        ChannelAccountNotFound: there is none, or it is another merchant's.
    """
    found = await find(tx, account_id)
    if found is None or visible_to.scope().merchant_id not in {None, found.account.merchant_id}:
        raise ChannelAccountNotFound
    return found


async def find_default(
    tx: AsyncConnection, *, merchant_id: str, provider: str
) -> StoredAccount | None:
    """The default of a merchant for a provider; for "" that for what names no provider."""
    of_merchant = select(CHANNEL_ACCOUNT).where(_A.merchant_id == merchant_id)
    if provider:
        statement = of_merchant.where(_A.provider == provider, _A.provider_slot == 1)
    else:
        statement = of_merchant.where(_A.default_slot == 1)
    row = (await tx.execute(statement)).first()
    return None if row is None else stored_account(row)


async def lock_all(tx: AsyncConnection, *, merchant_id: str) -> list[StoredAccount]:
    """Locks all accounts of a merchant: defaults pass from one to another."""
    found = await tx.execute(
        select(CHANNEL_ACCOUNT)
        .where(_A.merchant_id == merchant_id)
        .order_by(_A.account_id)
        .with_for_update()
    )
    return [stored_account(row) for row in found]


async def list_accounts(
    tx: AsyncConnection, *, merchant_id: str, after: str, limit: int
) -> list[ChannelAccount]:
    """Accounts of a merchant by their ids, behind `after`."""

    async def fetch(last: Any, wanted: int) -> Sequence[Any]:
        begin = after if last is None else last.account_id
        return (
            await tx.execute(
                select(CHANNEL_ACCOUNT)
                .where(_A.merchant_id == merchant_id, _A.account_id > begin)
                .order_by(_A.account_id)
                .limit(wanted)
            )
        ).all()

    return await readable_page(
        fetch,
        lambda row: stored_account(row).account,
        of="channel_account",
        key=lambda row: row.account_id,
        limit=limit,
    )


async def ids_after(tx: AsyncConnection, after: str, *, limit: int) -> list[str]:
    """Ids of accounts of all merchants, in order, behind `after`."""
    found = await tx.execute(
        select(_A.account_id).where(_A.account_id > after).order_by(_A.account_id).limit(limit)
    )
    return list(found.scalars())


async def key_ids(tx: AsyncConnection) -> list[str]:
    """The keys under which credentials are encrypted."""
    return list((await tx.execute(select(_A.key_id).distinct().order_by(_A.key_id))).scalars())


async def lock(tx: AsyncConnection, account_id: str) -> StoredAccount | None:
    """Locks an account."""
    row = (
        await tx.execute(
            select(CHANNEL_ACCOUNT).where(_A.account_id == account_id).with_for_update()
        )
    ).first()
    return None if row is None else stored_account(row)


async def add(tx: AsyncConnection, stored: StoredAccount, change: AccountChange) -> None:
    """Writes a new account."""
    await tx.execute(insert(CHANNEL_ACCOUNT), _values(stored))
    await _log(tx, stored.account, change)


async def save(
    tx: AsyncConnection, stored: StoredAccount, change: AccountChange, *, read_version: int
) -> None:
    """Writes an account that was read at `read_version`.

    Raises:
        StaleRow: it has changed since.
    """
    await _ROWS.save(tx, _values(stored), read_version=read_version)
    await _log(tx, stored.account, change)


async def _log(tx: AsyncConnection, account: ChannelAccount, change: AccountChange) -> None:
    row = {
        "account_id": account.account_id,
        "merchant_id": account.merchant_id,
        "version": account.version,
        "step": change.step,
        "after_json": logged(account),
        "actor": change.actor[:80],
        "reason": change.reason[:500],
        "trace_id": change.trace_id,
        "changed_at": account.updated_at,
    }
    await tx.execute(insert(CHANNEL_ACCOUNT_CHANGE), await chained(tx, ACCOUNT_LOG, [row]))


def logged(account: ChannelAccount) -> str:
    """What the log says of a version of an account."""
    return json.dumps(account.said(), separators=(",", ":"), sort_keys=True)


def _values(stored: StoredAccount) -> dict[str, Any]:
    account = stored.account
    return {
        "account_id": account.account_id,
        "provider": account.provider,
        "merchant_id": account.merchant_id,
        "mode": account.mode,
        "label": account.label,
        "state": account.state,
        "provider_slot": None if account.default_for is DefaultFor.NONE else 1,
        "default_slot": 1 if account.default_for is DefaultFor.MERCHANT else None,
        "credentials": stored.sealed.text,
        "key_id": stored.sealed.key_id,
        "hint": json.dumps(dict(account.hint), separators=(",", ":"), sort_keys=True),
        "version": account.version,
        "created_by": account.created_by,
        "created_at": account.created_at,
        "updated_at": account.updated_at,
    }


def stored_account(row: Any) -> StoredAccount:
    """An account as its row has it.

    Raises:
        ValueError: the row is not one that this module wrote.
    """
    sealed = Sealed(key_id=row.key_id, text=row.credentials)
    if row.default_slot:
        default_for = DefaultFor.MERCHANT
    else:
        default_for = DefaultFor.PROVIDER if row.provider_slot else DefaultFor.NONE
    hint: dict[str, str] = json.loads(row.hint)
    return StoredAccount(
        account=ChannelAccount(
            account_id=row.account_id,
            provider=row.provider,
            merchant_id=row.merchant_id,
            mode=AccountMode(row.mode),
            label=row.label,
            state=AccountState(row.state),
            default_for=default_for,
            hint=hint,
            key_id=row.key_id,
            sealed_digest=sealed.digest,
            version=row.version,
            created_by=row.created_by,
            created_at=row.created_at,
            updated_at=row.updated_at,
        ),
        sealed=sealed,
    )

"""API keys. A digest finds a key; nothing here holds the key itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from sys import intern
from typing import Any, Final

import msgspec
from sqlalchemy import Row, and_, bindparam, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from merchant_rpc.domain.api_key import ApiKey, KeyRights
from merchant_rpc.domain.merchant import MerchantState
from merchant_rpc.tables import API_KEY, MERCHANT, MERCHANT_SETTING
from mesh.api_key_format import ApiKeyKind
from mesh.db import expect_one

_SCOPE_SETS: Final = 1000  # that are remembered

_K = API_KEY.c
_KEY = tuple(column for column in _K if column.name not in {"digest", "pepper_id"})
_RIGHTS = (
    _K.key_id,
    _K.merchant_id,
    _K.kind,
    _K.prefix,
    _K.scopes,
    _K.allowed_addresses,
    _K.expires_at,
    _K.revoked_at,
    _K.last_used_at,
)
_INSERT = insert(API_KEY)
_ONE_LOCKED = (
    select(*_KEY)
    .where(_K.merchant_id == bindparam("merchant"), _K.key_id == bindparam("key"))
    .with_for_update()
)
_FIND = (
    select(*_RIGHTS, _K.digest, MERCHANT.c.state, MERCHANT_SETTING.c.body)
    .join(MERCHANT, MERCHANT.c.merchant_id == _K.merchant_id)
    .join(
        MERCHANT_SETTING,
        and_(
            MERCHANT_SETTING.c.merchant_id == MERCHANT.c.merchant_id,
            MERCHANT_SETTING.c.version == MERCHANT.c.settings_version,
        ),
        isouter=True,
    )
    .where(_K.digest.in_(bindparam("digests", expanding=True)))
)
_COUNT_LIVING = select(func.count()).where(
    _K.merchant_id == bindparam("merchant"),
    _K.revoked_at.is_(None),
    or_(_K.expires_at.is_(None), _K.expires_at > bindparam("now")),
)
_END = (
    update(API_KEY)
    .where(_K.key_id == bindparam("key"), _K.revoked_at.is_(None))
    .values(
        expires_at=bindparam("new_expires_at"),
        revoked_at=bindparam("new_revoked_at"),
        revoked_by=bindparam("new_revoked_by"),
    )
)
# Only forward: two replicas write what each of them saw.
_USED = (
    update(API_KEY)
    .where(
        _K.key_id == bindparam("key"),
        or_(_K.last_used_at.is_(None), _K.last_used_at < bindparam("used_at")),
    )
    .values(last_used_at=bindparam("used_at"), last_used_address=bindparam("address"))
)
_REVOKED = select(_K.key_id).where(_K.revoked_at >= bindparam("since"))
_CHANGED = select(MERCHANT.c.merchant_id).where(MERCHANT.c.updated_at >= bindparam("since"))


@dataclass(slots=True, kw_only=True)
class FoundKey:
    """A key with what its token depends on besides.

    Attributes:
        used_at: when a use of it was last noted, by its row or since then by whoever holds this.
    """

    key: KeyRights
    merchant_state: MerchantState
    has_minor_amounts: bool
    used_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedKeys:
    """What changed of late: keys that were revoked, and merchants that changed in any way, or one
    of whose keys was given an end.
    """

    key_ids: frozenset[str]
    merchant_ids: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyUse:
    """When and from where a key was last used."""

    key_id: str
    address: str
    used_at: datetime


async def insert_key(tx: AsyncConnection, key: ApiKey, *, pepper_id: str, digest: str) -> None:
    """Writes a new key."""
    await tx.execute(
        _INSERT,
        {
            "key_id": key.key_id,
            "merchant_id": key.merchant_id,
            "kind": key.kind,
            "digest": digest,
            "pepper_id": pepper_id,
            "name": key.name,
            "prefix": key.head,
            "last_four": key.last_four,
            "scopes": " ".join(sorted(key.scopes)),
            "allowed_addresses": " ".join(key.allowed_addresses),
            "expires_at": key.expires_at,
            "created_by": key.created_by,
            "created_at": key.created_at,
        },
    )


async def load_locked(tx: AsyncConnection, *, merchant_id: str, key_id: str) -> ApiKey | None:
    """A key of a merchant, locked; None when it has no such key."""
    row = (await tx.execute(_ONE_LOCKED, {"merchant": merchant_id, "key": key_id})).one_or_none()
    return None if row is None else _key(row)


async def find(tx: AsyncConnection, digests: Sequence[str]) -> dict[str, FoundKey]:
    """The keys with these digests by their digests, with their merchants, in one query."""
    return {
        row.digest: FoundKey(
            key=KeyRights(**_rights(row)),
            merchant_state=MerchantState(row.state),
            has_minor_amounts=_has_minor_amounts(row.body),
            used_at=row.last_used_at,
        )
        for row in await tx.execute(_FIND, {"digests": digests})
    }


async def page(
    tx: AsyncConnection, *, merchant_id: str, after: tuple[datetime, str] | None, limit: int
) -> list[ApiKey]:
    """Keys of a merchant, newest first, behind created_at and key_id of the last one seen."""
    query = select(*_KEY).where(_K.merchant_id == merchant_id)
    if after is not None:
        moment, key_id = after
        query = query.where(
            or_(_K.created_at < moment, and_(_K.created_at == moment, _K.key_id < key_id))
        )
    query = query.order_by(_K.created_at.desc(), _K.key_id.desc()).limit(limit)
    return [_key(row) for row in await tx.execute(query)]


async def count_living(tx: AsyncConnection, merchant_id: str, *, now: datetime) -> int:
    """Keys of a merchant that live. Exact while its merchant is locked."""
    found = await tx.execute(_COUNT_LIVING, {"merchant": merchant_id, "now": now})
    return int(found.scalar_one())


async def end(tx: AsyncConnection, key: ApiKey) -> None:
    """Writes when a key ends, or that it was revoked."""
    values = {
        "key": key.key_id,
        "new_expires_at": key.expires_at,
        "new_revoked_at": key.revoked_at,
        "new_revoked_by": key.revoked_by,
    }
    expect_one(await tx.execute(_END, values))


async def write_uses(tx: AsyncConnection, uses: Sequence[KeyUse]) -> None:
    """Writes last uses; a later one that stands there already stays."""
    await tx.execute(
        _USED,
        [{"key": use.key_id, "used_at": use.used_at, "address": use.address} for use in uses],
    )


async def changed_since(tx: AsyncConnection, since: datetime) -> ChangedKeys:
    """What changed since then."""
    return ChangedKeys(
        key_ids=frozenset((await tx.execute(_REVOKED, {"since": since})).scalars()),
        merchant_ids=frozenset((await tx.execute(_CHANGED, {"since": since})).scalars()),
    )


class _Amounts(msgspec.Struct):
    """What a key's token depends on in the settings of its merchant."""

    integer_amounts: str = ""


def _has_minor_amounts(body: str | None) -> bool:
    """Whether the settings in force read integers as minor units; None: nothing was ever set."""
    return body is not None and msgspec.json.decode(body, type=_Amounts).integer_amounts == "MINOR"


@lru_cache(maxsize=_SCOPE_SETS)
def _scopes(text: str) -> frozenset[str]:
    """Shared by all keys with the same: every secret key has them all."""
    return frozenset(map(intern, text.split()))


def _rights(row: Row[*tuple[Any, ...]]) -> dict[str, Any]:
    return {
        "key_id": row.key_id,
        "merchant_id": row.merchant_id,
        "kind": ApiKeyKind(row.kind),
        "is_test": row.prefix[5:9] == "test",
        "scopes": _scopes(row.scopes),
        "allowed_addresses": tuple(row.allowed_addresses.split()),
        "expires_at": row.expires_at,
        "revoked_at": row.revoked_at,
        "last_used_at": row.last_used_at,
    }


def _key(row: Row[*tuple[Any, ...]]) -> ApiKey:
    return ApiKey(
        **_rights(row),
        name=row.name,
        head=row.prefix,
        last_four=row.last_four,
        created_by=row.created_by,
        created_at=row.created_at,
        last_used_address=row.last_used_address,
        revoked_by=row.revoked_by,
    )

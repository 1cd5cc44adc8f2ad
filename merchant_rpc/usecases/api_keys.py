"""CreateApiKey, ListApiKeys, RevokeApiKey and RotateApiKey. No method changes what a living key may
do; a key is shown once, in the answer that made it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from merchant_rpc.domain.api_key import (
    KEYS_MAX,
    ApiKey,
    allowed_addresses,
    end_of_key,
    scopes_of_key,
)
from merchant_rpc.domain.errors import (
    ApiKeyLimitReached,
    ApiKeyNotFound,
    MerchantNotLive,
    MerchantStateInvalid,
    ScopeNotHeld,
)
from merchant_rpc.domain.merchant import Merchant, MerchantState
from merchant_rpc.peppers import Peppers
from merchant_rpc.store import api_keys, merchants
from merchant_rpc.usecases.actions import Actions
from mesh.api_key_format import HEAD_CHARACTERS, LAST_CHARACTERS, ApiKeyKind, key_sha256, new_key
from mesh.call import Caller
from mesh.clock import Clock
from mesh.db import Database
from mesh.errors import InvalidArgument
from mesh.failpoints import failpoint
from mesh.ids import Ids
from mesh.paging import PageTokens
from mesh.scopes import SCOPES
from mesh.times import from_milliseconds, milliseconds

REASON_CHARACTERS_MIN: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateApiKey:
    """What a caller asks for; see api_key.proto."""

    merchant_id: str
    kind: ApiKeyKind
    name: str
    scopes: Sequence[str]
    allowed_addresses: Sequence[str]
    expires_at: datetime | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RotateApiKey:
    """Which key another one takes over from, and when."""

    merchant_id: str
    key_id: str
    overlap: timedelta
    reason: str


class ApiKeys:
    """The keys of merchants."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        ids: Ids,
        page_tokens: PageTokens,
        actions: Actions,
        peppers: Peppers,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._page_tokens = page_tokens
        self._actions = actions
        self._peppers = peppers
        self._random_bytes = random_bytes

    async def create(self, request: CreateApiKey, caller: Caller) -> tuple[ApiKey, str]:
        """A new key without the key, and the key.

        Raises:
            InvalidArgument: scopes, addresses, end or reason. ScopeNotHeld: it would be able to do
                what the caller may not. ApiKeyLimitReached. MerchantSuspended, MerchantNotLive,
                MerchantStateInvalid, MerchantNotFound: no key in its state.
        """
        now = self._clock.now()
        scopes = scopes_of_key(request.kind, request.scopes, catalogue=SCOPES)
        addresses = allowed_addresses(request.allowed_addresses)
        ends = end_of_key(request.expires_at, now=now)
        _check_held(scopes, caller)

        def key_of(merchant: Merchant) -> ApiKey:
            return ApiKey(
                key_id=self._ids.new("AK"),
                merchant_id=merchant.merchant_id,
                kind=request.kind,
                is_test=merchant.is_test,
                name=request.name,
                head="",
                last_four="",
                scopes=scopes,
                allowed_addresses=addresses,
                expires_at=ends,
                created_by=caller.subject,
                created_at=now,
            )

        made = await self._db.run(self._create, request, key_of, caller)
        failpoint("merchant.key_create.after_commit")
        return made

    async def list(
        self, *, merchant_id: str, page_size: int, page_token: str
    ) -> tuple[tuple[ApiKey, ...], str]:
        """One page of a merchant's keys, newest first, and the token of the next page.

        Raises:
            PageTokenInvalid: not made by us, or for another list.
        """

        async def read(after: tuple[str | int, ...] | None, limit: int) -> Sequence[ApiKey]:
            position = None if after is None else (from_milliseconds(int(after[0])), str(after[1]))
            return await self._db.read(
                api_keys.page, merchant_id=merchant_id, after=position, limit=limit
            )

        return await self._page_tokens.page(
            read,
            list_name="ListApiKeys",
            filter={"merchant_id": merchant_id},
            types=(int, str),
            size=page_size,
            token=page_token,
            key=lambda key: (milliseconds(key.created_at), key.key_id),
        )

    async def revoke(self, *, merchant_id: str, key_id: str, reason: str, caller: Caller) -> ApiKey:
        """Ends a key now. A key that was revoked stays as it is.

        Raises:
            ApiKeyNotFound: the merchant has no such key.
        """
        key = await self._db.run(self._revoke, merchant_id, key_id, reason, caller)
        failpoint("merchant.key_revoke.after_commit")
        return key

    async def rotate(self, request: RotateApiKey, caller: Caller) -> tuple[ApiKey, str]:
        """A key with the rights of another one, which ends after `overlap`, at once without.

        When the answer is lost, so is the new key. Whoever has another credential rotates the key
        that `list` shows; a key that rotates itself has none, so it has to live on for a while.

        Raises:
            ApiKeyNotFound: the merchant has no such key that lives. InvalidArgument: a key would
                end itself. Besides, as `create`.
        """
        made = await self._db.run(self._rotate, request, caller)
        failpoint("merchant.key_rotate.after_commit")
        return made

    async def _create(
        self,
        tx: AsyncConnection,
        request: CreateApiKey,
        key_of: Callable[[Merchant], ApiKey],
        caller: Caller,
    ) -> tuple[ApiKey, str]:
        merchant = await self._merchant_that_sells(tx, request.merchant_id)
        _check_reason(request.reason, merchant)
        key, text = await self._insert(tx, key_of(merchant))
        await self._record(tx, "CreateApiKey", key, request.reason, caller)
        failpoint("merchant.key_create.before_commit")
        return key, text

    async def _revoke(
        self, tx: AsyncConnection, merchant_id: str, key_id: str, reason: str, caller: Caller
    ) -> ApiKey:
        # before its log of actions, as every change of a merchant
        if await merchants.find_merchant(tx, merchant_id=merchant_id, lock=True) is None:
            raise ApiKeyNotFound
        key = await self._found(tx, merchant_id, key_id)
        if key.revoked_at is not None:
            return key
        key = replace(key, revoked_at=self._clock.now(), revoked_by=caller.subject)
        await api_keys.end(tx, key)
        await self._record(tx, "RevokeApiKey", key, reason, caller)
        failpoint("merchant.key_revoke.before_commit")
        return key

    async def _rotate(
        self, tx: AsyncConnection, request: RotateApiKey, caller: Caller
    ) -> tuple[ApiKey, str]:
        now = self._clock.now()
        merchant = await self._merchant_that_sells(tx, request.merchant_id)
        _check_reason(request.reason, merchant)
        old = await self._found(tx, request.merchant_id, request.key_id)
        if not old.lives_at(now):
            raise ApiKeyNotFound
        _check_held(old.scopes, caller)
        if not request.overlap and caller.subject == old.subject:
            raise InvalidArgument.of("overlap_minutes", "a key that rotates itself needs some")
        if request.overlap:
            ends = now + request.overlap
            ended = replace(
                old, expires_at=ends if old.expires_at is None else min(ends, old.expires_at)
            )
            # Its end came nearer, which no list of revocations says.
            await merchants.mark_changed(tx, merchant_id=old.merchant_id, now=now)
        else:
            ended = replace(old, revoked_at=now, revoked_by=caller.subject)
        await api_keys.end(tx, ended)
        fresh = replace(
            old,
            key_id=self._ids.new("AK"),
            created_by=caller.subject,
            created_at=now,
            last_used_at=None,
            last_used_address="",
        )
        key, text = await self._insert(tx, fresh)
        await self._record(tx, "RotateApiKey", key, request.reason, caller, instead_of=ended)
        failpoint("merchant.key_rotate.before_commit")
        return key, text

    async def _merchant_that_sells(self, tx: AsyncConnection, merchant_id: str) -> Merchant:
        merchant = await merchants.lock_merchant(tx, merchant_id=merchant_id)
        merchant.check_takes_new()
        if merchant.state is MerchantState.PENDING_EMAIL:
            raise MerchantStateInvalid(state=merchant.state)
        if merchant.state is not MerchantState.LIVE and not merchant.is_test:
            raise MerchantNotLive
        return merchant

    async def _insert(self, tx: AsyncConnection, key: ApiKey) -> tuple[ApiKey, str]:
        if await api_keys.count_living(tx, key.merchant_id, now=key.created_at) >= KEYS_MAX:
            raise ApiKeyLimitReached
        text = new_key(key.kind, is_test=key.is_test, random_bytes=self._random_bytes)
        pepper_id, digest = self._peppers.new_digest(key_sha256(text))
        key = replace(key, head=text[:HEAD_CHARACTERS], last_four=text[-LAST_CHARACTERS:])
        await api_keys.insert_key(tx, key, pepper_id=pepper_id, digest=digest)
        return key, text

    async def _found(self, tx: AsyncConnection, merchant_id: str, key_id: str) -> ApiKey:
        key = await api_keys.load_locked(tx, merchant_id=merchant_id, key_id=key_id)
        if key is None:
            raise ApiKeyNotFound
        return key

    async def _record(
        self,
        tx: AsyncConnection,
        method: str,
        key: ApiKey,
        reason: str,
        caller: Caller,
        *,
        instead_of: ApiKey | None = None,
    ) -> None:
        await self._actions.record(
            tx,
            caller=caller,
            merchant_id=key.merchant_id,
            method=method,
            target=key.key_id,
            before=None if instead_of is None else _facts(instead_of),
            after=_facts(key),
            reason=reason,
        )


def _facts(key: ApiKey) -> dict[str, object]:
    """What the log of actions keeps of a key."""
    return {
        "key_id": key.key_id,
        "kind": key.kind.value,
        "name": key.name,
        "head": key.head,
        "scopes": sorted(key.scopes),
        "allowed_addresses": list(key.allowed_addresses),
        "expires_at": "" if key.expires_at is None else key.expires_at.isoformat(),
        "revoked_at": "" if key.revoked_at is None else key.revoked_at.isoformat(),
    }


def _check_held(scopes: frozenset[str], caller: Caller) -> None:
    """Refuses what the caller may not do itself. Tokens without scopes are not limited."""
    if caller.scopes is not None and not scopes <= caller.scopes:
        missing = " ".join(sorted(scopes - caller.scopes))
        raise ScopeNotHeld(fields={"scopes": f"{missing} is not held"})


def _check_reason(reason: str, merchant: Merchant) -> None:
    if not merchant.is_test and len(reason.strip()) < REASON_CHARACTERS_MIN:
        raise InvalidArgument.of("reason", "is required")

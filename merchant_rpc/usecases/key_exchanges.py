"""ExchangeApiKey, ExchangeApiKeyDigest and ListRevocations: keys become tokens of 30 seconds, which
every server believes without asking.

A suspended merchant's keys are exchanged: money can still go back, and the services refuse what is
new. Those of a closed one are not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from time import monotonic
from typing import Final

from merchant_rpc.domain.api_key import (
    REVOCATIONS_LISTED,
    SUBJECT_PREFIX,
    TOKEN_LIFETIME,
    KeyRights,
)
from merchant_rpc.domain.errors import ApiKeyInvalid, LoginDelayed
from merchant_rpc.domain.merchant import MerchantState
from merchant_rpc.peppers import Peppers
from merchant_rpc.store import api_keys
from merchant_rpc.store.api_keys import FoundKey, KeyUse
from merchant_rpc.usecases.known_keys import KnownKeys
from mesh.api_key_format import PREFIX_CHARACTERS, ApiKeyKind, is_well_formed, key_sha256
from mesh.call import Role
from mesh.clock import Clock
from mesh.db import Database
from mesh.limits import network_of
from mesh.rate_limit import RateLimiter
from mesh.token_issuers import OwnTokenSigner

LAST_USE_PAUSE: Final = timedelta(minutes=1)
USES_BATCH: Final = 200  # that one transaction writes
USES_MAX: Final = 10_000  # that wait to be written; a further one is left out

_CLOSED: Final = frozenset({MerchantState.CLOSED, MerchantState.PENDING_EMAIL})


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyToken:
    """The token of a key."""

    token: str
    expires_at: datetime
    key: KeyRights


class KeyExchanges:
    """Keys to tokens, and what is no longer believed."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        peppers: Peppers,
        signer: OwnTokenSigner,
        attempts: RateLimiter,
        monotonic: Callable[[], float] = monotonic,
    ) -> None:
        """`attempts` limits whole keys that one client network shows; gateways limit their own
        clients. `monotonic` is a clock in seconds.
        """
        self._db = db
        self._clock = clock
        self._peppers = peppers
        self._signer = signer
        self._attempts = attempts
        self._uses: dict[str, KeyUse] = {}
        self._known = KnownKeys(db=db, clock=clock, monotonic=monotonic)

    async def exchange(self, key: str, *, client_address: str) -> KeyToken:
        """The token of a key.

        Raises:
            ApiKeyInvalid: malformed, unknown, revoked, expired, or not for this address.
            LoginDelayed: too many attempts from there.
        """
        missing_seconds = self._attempts.take(network_of(client_address))
        if missing_seconds:
            raise LoginDelayed(retry_after_seconds=missing_seconds)
        if not is_well_formed(key):
            raise ApiKeyInvalid
        return await self.exchange_digest(
            key_sha256(key), prefix=key[:PREFIX_CHARACTERS], client_address=client_address
        )

    async def exchange_digest(self, sha256: bytes, *, prefix: str, client_address: str) -> KeyToken:
        """The token of a key, by its SHA-256 and its beginning.

        Raises:
            ApiKeyInvalid: unknown, revoked, expired, of another kind or mode, or not for this
                address.
        """
        found, known_at = await self._known.find(self._peppers.digests(sha256))
        now = self._clock.now()
        if (
            found is None
            or found.merchant_state in _CLOSED
            or not found.key.lives_at(now)
            or found.key.prefix != prefix
            or not found.key.may_come_from(client_address)
        ):
            raise ApiKeyInvalid
        key = found.key
        # Whole seconds, as in the token. What was known of the key may be a second old, and so much
        # sooner its token ends: a revoked key is believed no longer for what we remember.
        ends = known_at.replace(microsecond=0) + TOKEN_LIFETIME
        if key.expires_at is not None:
            ends = max(
                min(ends, key.expires_at.replace(microsecond=0)),
                now.replace(microsecond=0) + timedelta(seconds=1),
            )
        token = self._signer.sign(
            key.subject,
            merchant_id=key.merchant_id,
            roles=() if key.kind is ApiKeyKind.PUBLISHABLE else (Role.MERCHANT,),
            scopes=key.scopes,
            lifetime_seconds=int(ends.timestamp()) - int(now.timestamp()),
            minor_amounts=found.has_minor_amounts,
        )
        self._note_use(found, client_address, now)
        return KeyToken(token=token, expires_at=ends, key=key)

    async def list_revocations(self) -> tuple[list[str], list[str]]:
        """Subjects of keys that were revoked in the last minutes, and merchants that changed."""
        since = self._clock.now() - REVOCATIONS_LISTED
        changed = await self._db.read(api_keys.changed_since, since)
        subjects = [SUBJECT_PREFIX + key_id for key_id in sorted(changed.key_ids)]
        return subjects, sorted(changed.merchant_ids)

    async def write_uses_once(self) -> int:
        """Writes when some keys were last used. Returns how many."""
        uses = list(islice(self._uses.values(), USES_BATCH))
        if uses:
            await self._db.run(api_keys.write_uses, uses)
        for use in uses:
            if self._uses.get(use.key_id) is use:  # else it was used again meanwhile
                del self._uses[use.key_id]
        return len(uses)

    def _note_use(self, found: FoundKey, address: str, now: datetime) -> None:
        if found.used_at is not None and now - found.used_at < LAST_USE_PAUSE:
            return
        key_id = found.key.key_id
        if key_id in self._uses or len(self._uses) < USES_MAX:
            self._uses[key_id] = KeyUse(key_id=key_id, address=address, used_at=now)
            found.used_at = now

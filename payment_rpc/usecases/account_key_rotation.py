"""Encrypts the credentials of all channel accounts under the first key, so that older keys can be
taken out of the file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.clock import Clock
from mesh.db import Database
from payment_rpc.account_keys import AccountKeys, CannotDecrypt
from payment_rpc.domain.channel_account import AccountStep
from payment_rpc.store import channel_accounts
from payment_rpc.store.channel_accounts import AccountChange, StoredAccount

PAGE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRotation:
    """What was done.

    Attributes:
        rotated: accounts that were encrypted anew.
        problems: of accounts that cannot be read, by id.
    """

    rotated: int
    problems: dict[str, str]


class AccountKeyRotation:
    """Rotates keys, one account in a transaction. Begun again it goes on with what is left."""

    def __init__(self, *, db: Database, clock: Clock, keys: AccountKeys) -> None:
        self._db = db
        self._clock = clock
        self._keys = keys

    async def run(self, *, actor: str, reason: str) -> KeyRotation:
        """Goes through all accounts."""
        change = AccountChange(step=AccountStep.ROTATE_KEY, actor=actor, reason=reason, trace_id="")
        rotated, problems = 0, {}
        after = ""
        while ids := await self._db.read(channel_accounts.ids_after, after, limit=PAGE):
            for account_id in ids:
                try:
                    rotated += await self._db.run(self._rotate, account_id, change)
                except CannotDecrypt as problem:
                    problems[account_id] = str(problem)
            after = ids[-1]
        return KeyRotation(rotated=rotated, problems=problems)

    async def _rotate(self, tx: AsyncConnection, account_id: str, change: AccountChange) -> bool:
        stored = await channel_accounts.lock(tx, account_id)
        if stored is None or stored.sealed.key_id == self._keys.first_id:
            return False
        before = stored.account
        owner = {"account_id": account_id, "provider": before.provider}
        sealed = self._keys.seal(self._keys.open(stored.sealed, **owner), **owner)
        account = replace(
            before,
            key_id=sealed.key_id,
            sealed_digest=sealed.digest,
            version=before.version + 1,
            updated_at=self._clock.now(),
        )
        await channel_accounts.save(
            tx,
            StoredAccount(account=account, sealed=sealed),
            change,
            read_version=before.version,
        )
        return True

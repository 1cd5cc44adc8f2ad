"""Links that work once: 32 random bytes in a mail, their digest in the database."""

from __future__ import annotations

import hashlib
import json
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from merchant_rpc.domain.errors import LinkInvalid
from merchant_rpc.domain.one_time_link import LIFETIME, LinkKind
from merchant_rpc.store import one_time_links as store
from mesh.clock import Clock
from mesh.db import Database

TOKEN_BYTES = 32
KEPT_AFTER_END = timedelta(days=7)  # who shows an old link is told so, and operators see it


class OneTimeLinks:
    """Makes links and takes them back, in the transaction of what they are for."""

    def __init__(self, *, clock: Clock, random_bytes: Callable[[int], bytes]) -> None:
        """Takes `random_bytes`, for what nobody may guess."""
        self._clock = clock
        self._random_bytes = random_bytes

    async def issue(
        self,
        tx: AsyncConnection,
        kind: LinkKind,
        subject: str,
        payload: Mapping[str, Any],
        *,
        lifetime: timedelta = LIFETIME,
    ) -> str:
        """The token of a new link, in the characters of URLs. Earlier links of the kind for the
        same subject end: only the last mail works.

        Args:
            subject: what it is for, at most 128 ASCII characters, e.g. a member id.
            payload: what `redeem` returns; JSON.
        """
        now = self._clock.now()
        token = urlsafe_b64encode(self._random_bytes(TOKEN_BYTES)).rstrip(b"=").decode()
        await store.delete_of(tx, kind=kind, subject=subject)
        await store.insert_link(
            tx,
            token_digest=digest(token),
            kind=kind,
            subject=subject,
            payload=_text(payload),
            created_at=now,
            expires_at=now + lifetime,
        )
        return token

    async def peek(self, tx: AsyncConnection, kind: LinkKind, token: str) -> dict[str, Any]:
        """The payload of a link that still works; it works afterwards too. For what must be known
        before the transaction that redeems it.

        Raises:
            LinkInvalid: it is unknown, of another kind, was used or has ended.
        """
        payload = await store.find_payload(
            tx, token_digest=digest(token), kind=kind, now=self._clock.now()
        )
        if payload is None:
            raise LinkInvalid
        return dict(json.loads(payload))

    async def redeem(self, tx: AsyncConnection, kind: LinkKind, token: str) -> dict[str, Any]:
        """The payload of a link, which has worked now for the first and last time.

        Raises:
            LinkInvalid: it is unknown, of another kind, was used or has ended.
        """
        payload = await self.peek(tx, kind, token)
        if not await store.use(tx, token_digest=digest(token), now=self._clock.now()):
            raise LinkInvalid  # somebody else was quicker
        return payload

    async def reopen(self, tx: AsyncConnection, token: str, payload: Mapping[str, Any]) -> None:
        """Lets a link that was redeemed work once more, with another payload. It ends when it
        would have.
        """
        await store.reopen(tx, token_digest=digest(token), payload=_text(payload))

    async def purge_once(self, db: Database) -> int:
        """Deletes some links that ended long ago; returns how many."""
        return await db.run(store.purge, before=self._clock.now() - KEPT_AFTER_END)


def _text(payload: Mapping[str, Any]) -> str:
    return json.dumps(payload, separators=(",", ":"), sort_keys=True)


def digest(token: str) -> str:
    """What is stored of a token: its SHA-256 in hex."""
    return hashlib.sha256(token.encode()).hexdigest()

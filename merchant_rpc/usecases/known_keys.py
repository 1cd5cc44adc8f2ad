"""Keys that were exchanged of late, so that an exchange of one of them asks the database nothing.

What is remembered is held against what changed: once a second at most, and before anything that is
remembered is used, the keys that were revoked and the merchants that changed are asked for, and
forgotten. So a key is known as it was within the last second. Without that answer no key is found:
a database that is away opens nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from time import monotonic
from typing import Final

from merchant_rpc.domain.api_key import REVOCATIONS_LISTED
from merchant_rpc.store import api_keys
from merchant_rpc.store.api_keys import FoundKey
from mesh.batching import Batching
from mesh.clock import Clock
from mesh.db import Database

CHECK_SECONDS: Final = 1.0
BATCH_MAX: Final = 100  # look-ups that share a query
KEYS_MAX: Final = 20_000  # some 1 KB each, 5 KB with the most addresses and scopes of its own
KEEP_SECONDS: Final = 600.0  # a row that was changed by hand, without a date, is read again by then


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    key: FoundKey
    until: float


class KnownKeys:
    """Finds keys by their digests."""

    def __init__(
        self, *, db: Database, clock: Clock, monotonic: Callable[[], float] = monotonic
    ) -> None:
        """Takes `monotonic`, a clock in seconds."""
        self._db = db
        self._clock = clock
        self._monotonic = monotonic
        self._known: dict[str, _Known] = {}  # the one that was read last stands last
        self._checked = float("-inf")  # when the last question for changes was sent
        self._checked_at = clock.now()
        # One at a time: no row is remembered that was read before the changes were asked for.
        self._reading: Batching[str, Sequence[str], tuple[FoundKey | None, datetime]] = Batching(
            self._read, batch_max=BATCH_MAX
        )

    async def find(self, digests: Sequence[str]) -> tuple[FoundKey | None, datetime]:
        """The key with one of these digests, or None, and since when nothing may have changed in
        it unseen: at most a second ago.

        Raises:
            Unavailable: the database does not answer.
        """
        moment = self._monotonic()
        if moment - self._checked < CHECK_SECONDS:
            key = self._remembered(digests, moment)
            if key is not None:
                return key, self._checked_at
        return await self._reading.do("", digests)

    async def _read(
        self, wanted: Sequence[Sequence[str]]
    ) -> Sequence[tuple[FoundKey | None, datetime]]:
        moment = self._monotonic()
        if moment - self._checked >= CHECK_SECONDS:
            await self._forget_what_changed(moment)
        keys = [self._remembered(digests, moment) for digests in wanted]
        unknown = [
            digest
            for digests, key in zip(wanted, keys, strict=True)
            if key is None
            for digest in digests
        ]
        if unknown:
            found = await self._db.read(api_keys.find, unknown)
            for digest, key in found.items():
                self._remember(digest, _Known(key=key, until=moment + KEEP_SECONDS))
            keys = [
                key or next((found[digest] for digest in digests if digest in found), None)
                for digests, key in zip(wanted, keys, strict=True)
            ]
        return [(key, self._checked_at) for key in keys]

    async def _forget_what_changed(self, moment: float) -> None:
        now = self._clock.now()
        changed = await self._db.read(api_keys.changed_since, now - REVOCATIONS_LISTED)
        # A merchant in the list may change again without a difference in the list: its keys are
        # read anew at each check.
        if changed.key_ids or changed.merchant_ids:
            gone = [
                digest
                for digest, known in self._known.items()
                if known.key.key.merchant_id in changed.merchant_ids
                or known.key.key.key_id in changed.key_ids
            ]
            for digest in gone:
                del self._known[digest]
        self._checked, self._checked_at = moment, now

    def _remembered(self, digests: Sequence[str], moment: float) -> FoundKey | None:
        for digest in digests:
            known = self._known.get(digest)
            if known is not None and moment < known.until:
                return known.key
        return None

    def _remember(self, digest: str, known: _Known) -> None:
        self._known.pop(digest, None)
        self._known[digest] = known
        if len(self._known) > KEYS_MAX:
            del self._known[next(iter(self._known))]

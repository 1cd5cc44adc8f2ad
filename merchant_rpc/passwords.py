"""Hashes passwords of people with argon2id. A hash costs memory and a processor on purpose, so few
run at once and few wait: whoever sends many passwords at once is asked to wait, and the rest of the
service goes on.
"""

from __future__ import annotations

import asyncio
import threading
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from merchant_rpc.domain.errors import LoginDelayed

T = TypeVar("T")
BUSY_SECONDS: Final = 1.0  # when it may be worth trying again


class Passwords:
    """Makes and checks hashes in threads of its own."""

    def __init__(
        self,
        *,
        memory_kib: int,
        rounds: int,
        lanes: int,
        at_once: int = 2,
        waiting_max: int = 30,
    ) -> None:
        """
        Args:
            memory_kib: memory of one hash (`m`); `rounds` is `t`, `lanes` is `p`.
            at_once: hashes that run at the same time.
            waiting_max: further ones that may wait for their turn.
        """
        self._hasher = PasswordHasher(time_cost=rounds, memory_cost=memory_kib, parallelism=lanes)
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="passwords")
        self._places = threading.BoundedSemaphore(at_once + waiting_max)
        # Of no account: checking it takes as long as checking a real one.
        self._nobody = self._hasher.hash("nobody has this password")

    async def hash(self, password: str) -> str:
        """The hash of a new password, with its parameters and a random salt.

        Raises:
            LoginDelayed: too many wait for a hash already.
        """
        return await self._in_thread(lambda: self._hasher.hash(_composed(password)))

    async def verify(self, password_hash: str | None, password: str) -> bool:
        """Whether a password fits; None is no account, takes as long and never fits.

        Raises:
            LoginDelayed: too many wait for a hash already.
        """
        known = password_hash or self._nobody
        fits = await self._in_thread(lambda: self._fits(known, _composed(password)))
        return fits and bool(password_hash)

    def is_outdated(self, password_hash: str) -> bool:
        """Whether a hash has other parameters than new ones get; its password, when it is next
        seen, should be hashed again.
        """
        return self._hasher.check_needs_rehash(password_hash)

    async def close(self) -> None:
        """Waits for what runs and forgets what waits."""
        await asyncio.to_thread(self._threads.shutdown, wait=True, cancel_futures=True)

    def _fits(self, password_hash: str, password: str) -> bool:
        try:
            return self._hasher.verify(password_hash, password)
        except (VerificationError, InvalidHashError):
            return False

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if not self._places.acquire(blocking=False):
            raise LoginDelayed(retry_after_seconds=BUSY_SECONDS)
        try:
            future = self._threads.submit(work)
        except RuntimeError:  # closed
            self._places.release()
            raise LoginDelayed(retry_after_seconds=BUSY_SECONDS) from None
        # When the work ends, not when its caller stops waiting: a cancelled call's hash still runs.
        future.add_done_callback(lambda _: self._places.release())
        return await asyncio.wrap_future(future)


def _composed(password: str) -> str:
    """One form of what keyboards type in several ways, so that "é" is one password everywhere."""
    return unicodedata.normalize("NFKC", password)

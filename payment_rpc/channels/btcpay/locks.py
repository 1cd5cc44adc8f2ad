"""One caller of this process at a time for one id; between processes the core's lease does that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary


class Locks:
    """A lock for each id in use."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def alone(self, own_id: str) -> AsyncIterator[None]:
        """Waits until no other caller has this id."""
        lock = self._locks.get(own_id)
        if lock is None:
            lock = self._locks[own_id] = asyncio.Lock()
        async with lock:
            yield

"""One rebuild per activity at a time, while it lives. The lease only saves work: the epoch guards
what is published. It also tells a rebuild that Redis was emptied meanwhile, because the lease is
gone then, like everything that was built.
"""

from __future__ import annotations

from seckill_rpc.redis.keys import Keys
from seckill_rpc.redis.scripts import Scripts

# a rebuild renews it with every chunk; after one that died, the next may begin so late
LEASE_MS = 3000


class Lease:
    """The leases of all activities on one Redis. Every method raises RedisError when Redis does not
    answer.
    """

    def __init__(self, scripts: Scripts) -> None:
        self._redis = scripts.redis

    async def take(self, keys: Keys, holder: str, *, force: bool = False) -> bool:
        """Takes the lease; False when another holder has it. `force` takes it over."""
        return bool(await self._redis.set(keys.rebuilder, holder, px=LEASE_MS, nx=not force))

    async def renew(self, keys: Keys, holder: str) -> bool:
        """Extends the lease; False when the holder has lost it."""
        if await self._redis.get(keys.rebuilder) != holder:
            return False
        return bool(await self._redis.pexpire(keys.rebuilder, LEASE_MS))

    async def is_taken(self, keys: Keys) -> bool:
        """Whether a rebuild is under way."""
        return bool(await self._redis.exists(keys.rebuilder))

    async def end(self, keys: Keys, holder: str) -> None:
        """Releases the lease."""
        if await self._redis.get(keys.rebuilder) == holder:
            await self._redis.delete(keys.rebuilder)

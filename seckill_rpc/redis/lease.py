"""Who rebuilds an activity: one at a time, as long as it lives. A lease saves work; what is
published is guarded by its epoch. It also tells a
rebuilder that Redis was emptied under its hands: the lease is gone then, like everything that it
has built."""

from __future__ import annotations

from seckill_rpc.redis.keys import Keys
from seckill_rpc.redis.scripts import Scripts

# a rebuild renews it with every chunk; one that died is followed by the next after this time
LEASE_MS = 3000


class Lease:
    """The leases of all activities on one Redis. Every method raises RedisError when Redis does not
    answer.
    """

    def __init__(self, scripts: Scripts) -> None:
        self._redis = scripts.redis

    async def take(self, keys: Keys, holder: str, *, force: bool = False) -> bool:
        """Begins; False when somebody else has it. `force` takes it away from him."""
        return bool(await self._redis.set(keys.rebuilder, holder, px=LEASE_MS, nx=not force))

    async def renew(self, keys: Keys, holder: str) -> bool:
        """Goes on; False when it is not the holder's any more."""
        if await self._redis.get(keys.rebuilder) != holder:
            return False
        return bool(await self._redis.pexpire(keys.rebuilder, LEASE_MS))

    async def is_taken(self, keys: Keys) -> bool:
        """Somebody rebuilds the activity now."""
        return bool(await self._redis.exists(keys.rebuilder))

    async def end(self, keys: Keys, holder: str) -> None:
        """Gives it back."""
        if await self._redis.get(keys.rebuilder) == holder:
            await self._redis.delete(keys.rebuilder)

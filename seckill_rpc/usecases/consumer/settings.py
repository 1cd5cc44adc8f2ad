"""How a consumer works."""

from __future__ import annotations

from dataclasses import dataclass

from seckill_rpc.redis.admit import QUEUED_SECONDS
from seckill_rpc.redis.connection import BLOCK_MS_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerSettings:
    """How a consumer works.

    Attributes:
        name: of this consumer in the group; unique, and the same for the life of the process.
        batch_size: entries per transaction, at most 500.
        block_ms: how long a round waits for the first entry while an activity is hot.
        quiet_block_ms: the same while none is; an entry ends the wait at once.
        take_over_seconds: pause between two scans for unfinished entries of other consumers.
        min_idle_ms: how long an entry must be pending before it is taken over. Too short only
            costs work.
        deliveries_max: after so many deliveries an entry that fails by its own data is given up.
        activities_max: queues that are served at the same time.
        queued_seconds: how long Redis keeps the view of a queued buyer.
    """

    name: str
    batch_size: int = 500
    block_ms: int = 100
    quiet_block_ms: int = BLOCK_MS_MAX
    take_over_seconds: float = 0.2
    min_idle_ms: int = 2000
    deliveries_max: int = 5
    activities_max: int = 8
    queued_seconds: int = QUEUED_SECONDS

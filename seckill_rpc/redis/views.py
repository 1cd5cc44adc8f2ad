"""What Redis knows of one buyer. A missing view says nothing; the database, or the ticket, decides
then.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from redis.asyncio import Redis

from seckill_rpc.domain.order import BuyerStatus
from seckill_rpc.redis.keys import Keys

_STATUSES = frozenset(BuyerStatus)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One click of a buyer. `view` is QUEUED (in the admission queue, or an entry of a draw) or
    HOLDER (a live order).
    """

    view: BuyerStatus
    order_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClickLookup:
    """What Redis says of one click, and what it means if Redis does not know the click.

    Attributes:
        record: None when the click is not known (any more).
        is_held: the activity is being rebuilt: the click may be found again.
        is_published: Redis has the activity.
        since_ms: when its last rebuild ended, in milliseconds since 1970; 0 if unknown.
    """

    record: Record | None
    is_held: bool = False
    is_published: bool = True
    since_ms: int = 0


class Views:
    """Reads views and records.

    Every method raises RedisError when Redis does not answer.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def view(self, keys: Keys, user_id: str) -> BuyerStatus | None:
        """The status of a buyer; None when Redis has none."""
        text: Any = await self._redis.get(keys.view(user_id))
        return BuyerStatus(text) if text in _STATUSES else None

    async def look_up(self, keys: Keys, user_id: str, request_id: str) -> ClickLookup:
        """What became of a click."""
        # in one transaction: a rebuild may end in between
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hget(keys.users, f"{user_id}#{request_id}")
            pipe.hget(keys.entries, user_id)
            pipe.hmget(keys.meta, "epoch", "hold", "since")
            unit, entry, (epoch, hold, since) = await pipe.execute()
        lookup = ClickLookup(
            record=None,
            is_held=bool(hold),
            is_published=bool(epoch),
            since_ms=int(since) if since and since.isdigit() else 0,
        )
        if unit:
            return replace(
                lookup,
                record=Record(
                    view=BuyerStatus.HOLDER if unit[0] == "1" else BuyerStatus.QUEUED,
                    order_id=unit[1:],
                ),
            )
        order_id, _, entered = (entry or "").partition(" ")
        return (
            replace(lookup, record=Record(view=BuyerStatus.QUEUED, order_id=order_id))
            if entered and entered == request_id
            else lookup
        )

    async def is_steady(self, keys: Keys) -> bool:
        """Whether Redis has the activity and it is not being rebuilt. Only then an unknown buyer is
        certainly not queued.
        """
        epoch, hold = await self._redis.hmget(keys.meta, "epoch", "hold")
        return bool(epoch) and not hold

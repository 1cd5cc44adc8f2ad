"""What Redis knows of one buyer. A view that is missing says nothing: the database, or the ticket,
does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from redis.asyncio import Redis

from seckill_rpc.domain.order import View
from seckill_rpc.redis.keys import Keys

_VIEWS = frozenset(View)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One click of a buyer. `view` is QUEUED (in the line, or an entry of a draw) or HOLDER (a live
    order).
    """

    view: View
    order_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClickLookup:
    """What Redis says of one click, and how much that is worth when it says nothing.

    Attributes:
        record: None when the click is not known (any more).
        is_held: the activity is being rebuilt: who is missing may come yet.
        is_published: the activity is there.
        since_ms: when its last rebuild ended, in milliseconds since 1970; 0 when nobody knows.
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

    async def view(self, keys: Keys, user_id: str) -> View | None:
        """What the buyer is told; None when nothing is known."""
        text: Any = await self._redis.get(keys.view(user_id))
        return View(text) if text in _VIEWS else None

    async def look_up(self, keys: Keys, user_id: str, request_id: str) -> ClickLookup:
        """What became of a click."""
        # at one moment: a rebuild may end in between
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hget(keys.users, f"{user_id}#{request_id}")
            pipe.hget(keys.entries, user_id)
            pipe.hmget(keys.meta, "epoch", "hold", "since")
            unit, entry, (epoch, hold, since) = await pipe.execute()
        place = ClickLookup(
            record=None,
            is_held=bool(hold),
            is_published=bool(epoch),
            since_ms=int(since) if since and since.isdigit() else 0,
        )
        if unit:
            return replace(
                place,
                record=Record(
                    view=View.HOLDER if unit[0] == "1" else View.QUEUED, order_id=unit[1:]
                ),
            )
        order_id, _, entered = (entry or "").partition(" ")
        return (
            replace(place, record=Record(view=View.QUEUED, order_id=order_id))
            if entered and entered == request_id
            else place
        )

    async def is_steady(self, keys: Keys) -> bool:
        """Whether the activity is there and nobody rebuilds it: then who is not known has no
        place.
        """
        epoch, hold = await self._redis.hmget(keys.meta, "epoch", "hold")
        return bool(epoch) and not hold

"""What Redis knows of one buyer. A view that is missing says nothing: the database, or the ticket, does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from seckill_rpc.domain.order import View
from seckill_rpc.stock.keys import Keys

_VIEWS = frozenset(View)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One click of a buyer. `view` is QUEUED (in the line, or an entry of a draw) or HOLDER (a live order)."""

    view: View
    order_id: str


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

    async def record(self, keys: Keys, user_id: str, request_id: str) -> Record | None:
        """What became of a click: None when it is not known (any more)."""
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.hget(keys.users, f"{user_id}#{request_id}")
            pipe.hget(keys.entries, user_id)
            unit, entry = await pipe.execute()
        if unit:
            return Record(view=View.HOLDER if unit[0] == "1" else View.QUEUED, order_id=unit[1:])
        order_id, _, entered = (entry or "").partition(" ")
        return Record(view=View.QUEUED, order_id=order_id) if entered and entered == request_id else None

"""What must reach Redis: units that came back and are to be sold again. Many come back at once,
when the time to pay is over for everybody who bought
in the same second: those that are sent side by side share one call of the script."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime

from redis.exceptions import RedisError

from mesh.call import current_trace_id
from mesh.db import Database
from mesh.errors import Unavailable
from mesh.failpoints import failpoint
from mesh.ids import Ids
from mesh.outbox import Message, Settlement
from seckill_rpc.domain.activity import Activity, ActivityState
from seckill_rpc.domain.order import UnitOrder
from seckill_rpc.redis.admission_queue import AdmissionQueue, GiveBack, ReturnedUnit
from seckill_rpc.redis.keys import Keys
from seckill_rpc.store import activities
from seckill_rpc.store.give_backs import DESTINATION as REDIS

GIVE_BACK = "GiveBack"


class NotPublished(Unavailable):
    """Redis has not published the epoch in which the unit came back."""


def give_back_message(order: UnitOrder, activity: Activity, *, ids: Ids, at: datetime) -> Message:
    """Sells the unit of an order again. `activity`: the row, read under its lock in the transaction
    that took the unit back.
    """
    return Message(
        event_id=ids.new("OP"),
        destination=REDIS,
        tag=GIVE_BACK,
        aggregate_id=activity.activity_id,
        trace_id=current_trace_id(),
        due_at=at,
        created_at=at,
        payload={
            "activity_id": activity.activity_id,
            "merchant_id": activity.merchant_id,
            "sku_id": activity.sku_id,
            "order_id": order.order_id,
            "user_id": order.user_id,
            "request_id": order.request_id,
            "epoch": activity.epoch,
        },
    )


@dataclass(slots=True, eq=False)
class _Shared:
    """Units that go with one call."""

    units: list[ReturnedUnit] = field(default_factory=list)
    call: asyncio.Task[list[int]] | None = None


class RedisDestination:
    """Delivers to Redis."""

    name = REDIS

    def __init__(self, *, db: Database, queue: AdmissionQueue) -> None:
        self._db = db
        self._queue = queue
        self._gathering: dict[str, _Shared] = {}

    async def send(self, message: Message) -> Settlement | None:
        """Gives one unit back.

        Raises:
            NotPublished: a rebuild will; then again. Unavailable: Redis did not answer.
        """
        payload = message.payload
        keys = Keys(
            activity_id=payload["activity_id"],
            merchant_id=payload["merchant_id"],
            sku_id=payload["sku_id"],
        )
        unit = ReturnedUnit(
            user_id=payload["user_id"],
            request_id=payload["request_id"],
            order_id=payload["order_id"],
            epoch=payload["epoch"],
        )
        if await self._give_back(keys, unit) == GiveBack.NOT_YET:
            activity = await self._db.read(activities.get, activity_id=keys.activity_id)
            # else the unit went back on the shelf when it was closed
            if activity.state is not ActivityState.CLOSED:
                raise NotPublished
        return None

    async def _give_back(self, keys: Keys, unit: ReturnedUnit) -> int:
        shared = self._gathering.get(keys.activity_id)
        if shared is None:
            shared = self._gathering[keys.activity_id] = _Shared()
            shared.call = asyncio.create_task(self._call(keys, shared))
        position = len(shared.units)
        shared.units.append(unit)
        assert shared.call is not None  # noqa: S101  set above
        # one that is cancelled does not take the others along
        return (await asyncio.shield(shared.call))[position]

    async def _call(self, keys: Keys, shared: _Shared) -> list[int]:
        # a task starts a turn of the loop later: everybody who sends in this turn has joined
        del self._gathering[keys.activity_id]
        try:
            answers = await self._queue.give_back(keys, shared.units)
        except (RedisError, OSError) as error:
            raise Unavailable("redis does not answer") from error
        failpoint("seckill.give_back.after_script")
        return answers

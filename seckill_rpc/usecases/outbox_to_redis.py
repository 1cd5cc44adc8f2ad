"""Messages to Redis: units that came back and are sold again. Many come back at once, when the time
to pay ends for everybody who bought in the same second; messages that are delivered side by side
share one call of the script.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from redis.exceptions import RedisError

from mesh.batching import Batching
from mesh.db import Database
from mesh.errors import MeshError, Unavailable
from mesh.failpoints import failpoint
from mesh.ids import Ids
from mesh.outbox import Message
from mesh.relay import Settlement
from seckill_rpc.domain.activity import Activity, ActivityState
from seckill_rpc.domain.order import UnitOrder
from seckill_rpc.redis.admission_queue import AdmissionQueue, GiveBack, ReturnedUnit
from seckill_rpc.redis.keys import Keys
from seckill_rpc.store import activities
from seckill_rpc.store.orders import GIVE_BACKS as REDIS
from seckill_rpc.usecases.outbox_to_order import command

GIVE_BACK = "GiveBack"
UNITS_MAX = 500  # per call of the script: some 5 ms of Redis


class NotPublished(Unavailable):
    """Redis has not published the epoch in which the unit came back."""


def give_back_message(order: UnitOrder, activity: Activity, *, ids: Ids, at: datetime) -> Message:
    """Sells the unit of an order again. `activity`: the row, locked in the transaction that took
    the unit back.
    """
    payload = {
        "activity_id": activity.activity_id,
        "merchant_id": activity.merchant_id,
        "sku_id": activity.sku_id,
        "order_id": order.order_id,
        "user_id": order.user_id,
        "request_id": order.request_id,
        "epoch": activity.epoch,
    }
    return command(REDIS, GIVE_BACK, activity.activity_id, payload, ids=ids, at=at)


class RedisDestination:
    """Delivers to Redis."""

    name = REDIS

    def __init__(self, *, db: Database, queue: AdmissionQueue) -> None:
        self._db = db
        self._queue = queue
        self._batches: Batching[Keys, tuple[Keys, ReturnedUnit], int] = Batching(
            self._give_back, batch_max=UNITS_MAX
        )

    async def send(self, message: Message) -> Settlement | None:
        """Gives one unit back.

        Raises:
            NotPublished: a rebuild will publish it; then again. Unavailable: Redis did not answer.
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
        if await self._batches.do(keys, (keys, unit)) == GiveBack.NOT_YET:
            activity = await self._db.read(activities.get, activity_id=keys.activity_id)
            # else the close has returned the unit to the catalog stock
            if activity.state is not ActivityState.CLOSED:
                raise NotPublished
        return None

    async def _give_back(
        self, batch: Sequence[tuple[Keys, ReturnedUnit]]
    ) -> Sequence[int | MeshError]:
        """Gives back units of one activity. A failure is an answer to each, so that the batch is
        not repeated one by one.
        """
        try:
            answers = await self._queue.give_back(batch[0][0], [unit for _, unit in batch])
        except (RedisError, OSError):
            return [Unavailable("redis does not answer") for _ in batch]
        failpoint("seckill.give_back.after_script")
        return answers

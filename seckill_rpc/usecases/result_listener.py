"""Receives the results that any process publishes: wakes waiting calls, caches final results, and
tracks the participants of each activity, so that a cached refusal is never given to one of them.
"""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db import Database
from seckill_rpc.domain.activity import Activity
from seckill_rpc.domain.order import BuyerStatus
from seckill_rpc.domain.result import Result, ResultCode
from seckill_rpc.redis.wakeups import Waiters, Wakeups
from seckill_rpc.store import orders
from seckill_rpc.usecases.admission.registry import ActivityRegistry
from seckill_rpc.usecases.admission.result_cache import ResultCache
from seckill_rpc.usecases.admission.seckill_action import Admission
from seckill_rpc.usecases.hot_set import HotSet

CHUNK = 5000


class ResultListener:
    """Handles messages, and catches up on those of before it listened."""

    def __init__(
        self,
        *,
        db: Database,
        registry: ActivityRegistry,
        admission: Admission,
        cache: ResultCache,
        waiters: Waiters,
        hot_set: HotSet,
    ) -> None:
        self._db = db
        self._registry = registry
        self._admission = admission
        self._cache = cache
        self._waiters = waiters
        self._hot_set = hot_set
        self._caught_up: set[str] = set()

    def on_message(self, activity_id: str, message: str) -> None:
        """Lines `<user> <view> <order>`, as a script published them; none when the first click
        entered an empty queue.
        """
        self._hot_set.touch(activity_id)
        if not message:
            return
        self._waiters.wake(activity_id, message)
        for line in message.split("\n"):
            user_id, _, rest = line.partition(" ")
            view, _, order_id = rest.partition(" ")
            if view == BuyerStatus.HOLDER:
                self._admission.add_participant(activity_id, user_id)
            self._cache.forget(activity_id, user_id)
            if view == BuyerStatus.HOLDER and order_id:
                activity = self._registry.find_running(activity_id)
                if activity is not None:
                    sku_id = activity.sku_id
                    bought = Result(
                        BuyerStatus.HOLDER, ResultCode.BOUGHT, activity_id, sku_id, order_id
                    )
                    self._cache.learn(activity_id, user_id, bought)

    def on_disconnect(self) -> None:
        """The subscription broke: messages are lost from now on."""
        for activity_id in self._caught_up:
            self._admission.mark_incomplete(activity_id)
        self._caught_up.clear()

    async def run_once(self, wakeups: Wakeups) -> int:
        """Catches up on activities whose participants are unknown here; returns how many."""
        if not wakeups.subscribed.is_set():
            return 0
        behind = [
            each for each in self._registry.running() if each.activity_id not in self._caught_up
        ]
        for activity in behind:
            await self._catch_up(activity)
        self._caught_up &= {each.activity_id for each in self._registry.running()}
        return len(behind)

    async def _catch_up(self, activity: Activity) -> None:
        """Buyers with an order from before the gate was opened here are in the database by now;
        later ones are heard of.
        """
        self._admission.open_gate(activity)
        after: tuple[str, int] | None = None
        while True:
            chunk = await self._db.read(_holders, activity.activity_id, after)
            for user_id, _ in chunk:
                self._admission.add_participant(activity.activity_id, user_id)
            if len(chunk) < CHUNK:
                break
            after = chunk[-1]
        self._caught_up.add(activity.activity_id)
        self._admission.mark_complete(activity.activity_id)


async def _holders(
    tx: AsyncConnection, activity_id: str, after: tuple[str, int] | None
) -> list[tuple[str, int]]:
    return [
        (holder.user_id, holder.slot)
        for holder in await orders.list_holders(
            tx, activity_id=activity_id, after=after, limit=CHUNK
        )
    ]

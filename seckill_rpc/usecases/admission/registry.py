"""The running activities, in the memory of this process: a click must not cost a query. A change is
seen when it is announced, at the latest with the next refresh; Redis, which is asked for every
admission, has the last word.
"""

from __future__ import annotations

from collections.abc import Callable

from mesh.clock import Monotonic, Seconds
from mesh.db import Database
from seckill_rpc.domain.activity import RUNNING, Activity
from seckill_rpc.domain.errors import ActivityNotFound
from seckill_rpc.store import activities

# how long a product without an activity is not looked up again: clients may name any product
UNKNOWN_SECONDS = 2.0
LOOKED_UP_MAX = 10_000


class ActivityRegistry:
    """Knows the activity of each product."""

    def __init__(self, *, db: Database, monotonic: Monotonic) -> None:
        self._db = db
        self._monotonic = monotonic
        self._running: dict[tuple[str, str], Activity] = {}
        self._by_id: dict[str, Activity] = {}
        self._looked_up: dict[tuple[str, str], tuple[Seconds, Activity | None]] = {}
        # one for each refresh that is under way
        self._learnt_meanwhile: list[dict[str, Activity]] = []
        self._listeners: list[Callable[[str], None]] = []

    def on_change(self, listener: Callable[[str], None]) -> None:
        """Has `listener` called with the id of every activity that begins to run, ends or changes,
        as soon as this process knows.
        """
        self._listeners.append(listener)

    def running(self) -> list[Activity]:
        """Those that are OPEN, PAUSED or CLOSING."""
        return list(self._running.values())

    def find(self, merchant_id: str, sku_id: str) -> Activity | None:
        """The running activity of a product, if this process knows of one."""
        return self._running.get((merchant_id, sku_id))

    def find_running(self, activity_id: str) -> Activity | None:
        """A running activity, if this process knows it."""
        return self._by_id.get(activity_id)

    async def refresh(self) -> int:
        """Reads the running activities; a worker's round. Changes that arrive during the read are
        kept. Returns 0: there is never more to do at once.
        """
        meanwhile: dict[str, Activity] = {}
        self._learnt_meanwhile.append(meanwhile)
        try:
            found = {each.activity_id: each for each in await self._db.read(activities.running)}
        finally:
            self._learnt_meanwhile.remove(meanwhile)
        for learnt in meanwhile.values():
            if (
                learnt.activity_id not in found
                or found[learnt.activity_id].version < learnt.version
            ):
                found[learnt.activity_id] = learnt
        self._replace([each for each in found.values() if each.state in RUNNING])
        return 0

    def learn(self, activity: Activity) -> None:
        """Takes over an activity that this process has changed."""
        for meanwhile in self._learnt_meanwhile:
            meanwhile[activity.activity_id] = activity
        known = self._by_id.get(activity.activity_id)
        if known is not None and known.version >= activity.version:
            return
        key = (activity.merchant_id, activity.sku_id)
        self._looked_up.pop(key, None)
        others = [
            each for each in self._running.values() if each.activity_id != activity.activity_id
        ]
        self._replace([*others, activity] if activity.state in RUNNING else others)

    async def current(self, merchant_id: str, sku_id: str) -> Activity:
        """The activity that a buyer of a product means: the running one, else the one that ended
        last.

        Raises:
            ActivityNotFound: the product never had one that was open. Unavailable: the database is
                away.
        """
        key = (merchant_id, sku_id)
        found = self._running.get(key)
        if found is not None:
            return found
        now = self._monotonic()
        until, newest = self._looked_up.get(key, (0.0, None))
        if until <= now:
            newest = await self._db.read(
                activities.newest_of, merchant_id=merchant_id, sku_id=sku_id
            )
            # opened by another process, whose notice was lost
            if newest is not None and newest.state in RUNNING:
                self.learn(newest)
                return newest
            self._looked_up.pop(key, None)
            self._looked_up[key] = (now + UNKNOWN_SECONDS, newest)
            if len(self._looked_up) > LOOKED_UP_MAX:
                del self._looked_up[next(iter(self._looked_up))]
        if newest is None:
            raise ActivityNotFound
        return newest

    async def get(self, activity_id: str) -> Activity:
        """An activity, running or not.

        Raises:
            ActivityNotFound: there is none. Unavailable: the database is away.
        """
        known = self._by_id.get(activity_id)
        return (
            known
            if known is not None
            else await self._db.read(activities.get, activity_id=activity_id)
        )

    def _replace(self, running: list[Activity]) -> None:
        before = self._by_id
        self._running = {(each.merchant_id, each.sku_id): each for each in running}
        self._by_id = {each.activity_id: each for each in running}
        changed = [
            each.activity_id
            for each in running
            if each.activity_id not in before or before[each.activity_id].version != each.version
        ]
        for activity_id in (*changed, *(before.keys() - self._by_id.keys())):
            for listener in self._listeners:
                listener(activity_id)

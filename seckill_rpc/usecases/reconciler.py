"""Compares Redis with the rows of running activities and repairs differences: hot activities ten
times a second, a few of the others in each slow round. Every process has a reconciler; a lease
and the epoch that was seen let only one of them act.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from prometheus_client import Counter, Gauge
from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.bad_rows import Quarantine
from mesh.clock import Clock, seconds_until
from mesh.db import Database
from mesh.errors import MeshError
from mesh.logs import get_logger
from mesh.worker import QUIET_SECONDS
from seckill_rpc.domain.activity import Activity, ActivityState
from seckill_rpc.domain.drift import Counted, DriftDetector, Published, Trigger
from seckill_rpc.redis.admission_queue import WRONG_TYPE, AdmissionQueue
from seckill_rpc.redis.keys import keys_of
from seckill_rpc.redis.lease import Lease
from seckill_rpc.redis.loader import ActivityLoader
from seckill_rpc.store import activities, orders
from seckill_rpc.tables import ACTIVITY
from seckill_rpc.usecases.activity_lifecycle.closer import Closer
from seckill_rpc.usecases.hot_set import HotSet
from seckill_rpc.usecases.rebuild import Rebuilder

CLOSED_LATELY = timedelta(days=1)  # a backup of Redis is rarely older
OTHERS = 5  # activities that are not hot, per round
# between two checks of one whose end has come by our clock; that of Redis decides
ENDING_SECONDS = 0.5
PATIENCE_SECONDS = 1.0  # wait for a rebuild: 100 000 orders take about as long

REPAIRS: Final = Counter(
    "paymesh_seckill_repairs_total", "What the reconciler repaired in Redis.", ["trigger"]
)
GAP: Final = Gauge(
    "paymesh_seckill_conservation_gap",
    "Units too many (positive) or missing in Redis.",
    ["activity_id"],
)

log = get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    activity: Activity
    counted: Counted


class Reconciler:
    """Watches all running activities."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        loader: ActivityLoader,
        lease: Lease,
        rebuilder: Rebuilder,
        closer: Closer,
        close_after_end: timedelta,
        hot_set: HotSet,
        queue: AdmissionQueue,
        has_lost_queue: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """`has_lost_queue`: what the consumers say about the queue of an activity."""
        self._db = db
        self._clock = clock
        self._loader = loader
        self._lease = lease
        self._rebuilder = rebuilder
        self._closer = closer
        self._close_after_end = close_after_end
        self._hot_set = hot_set
        self._queue = queue
        self._has_lost_queue = has_lost_queue
        self._last_idle = ""  # the last activity that was compared though it was not hot
        self._next_end: datetime | None = None
        self._detectors: dict[str, DriftDetector] = {}
        self._rebuilds: dict[str, asyncio.Task[bool]] = {}
        self._run_id = ""
        self._quarantine = Quarantine("keep", ACTIVITY.c.activity_id)

    async def run_once(self) -> int:
        """One comparison; returns how many repairs were made. At most one rebuild per activity is
        under way; a long one goes on while the others are watched.
        """
        for activity_id in [
            activity_id for activity_id, task in self._rebuilds.items() if task.done()
        ]:
            if problem := self._rebuilds.pop(activity_id).exception():
                log.warning(
                    "seckill_rebuild_failed", activity_id=activity_id, cause=str(problem)[:200]
                )
        running = {
            activity.activity_id: activity for activity in await self._db.read(activities.running)
        }
        for gone in self._detectors.keys() - running.keys():
            del self._detectors[gone]
            GAP.remove(gone)
        try:
            run_id = await self._loader.run_id()
            done = await self._drop_closed(run_id, running)
            chosen = [
                activity_id
                for activity_id in self._choose(running)
                if (activity_id,) not in self._quarantine
            ]
            rows = await self._db.read_at_one_moment(self._read, chosen) if chosen else {}
            now_ms = await self._loader.now_ms() if rows else 0
            published: dict[str, Published | None] = {}
            for activity_id, row in rows.items():
                try:
                    published[activity_id] = await self._published(row.activity)
                except Exception as problem:  # noqa: BLE001  logged with its id, or raised
                    self._leave_out(activity_id, problem)
        except RedisError as problem:
            log.info("seckill_reconciler_waits", cause=str(problem)[:200])
            return 0
        # Only if there seems to be a gap: most of the time there is none.
        is_suspect = any(
            each is not None and rows[activity_id].counted.gap(each)
            for activity_id, each in published.items()
        )
        later = await self._db.read_at_one_moment(self._read, chosen) if is_suspect else rows
        results = await asyncio.gather(
            *(
                self._reconcile(
                    row,
                    published[activity_id],
                    later.get(activity_id, row),
                    run_id=run_id,
                    now_ms=now_ms,
                )
                for activity_id, row in rows.items()
                if activity_id in published and activity_id not in self._rebuilds
            )
        )
        return done + sum(results)

    def pause_seconds(self, interval_seconds: float) -> float:
        """After a round: the interval while an activity is hot, else until the next end of an
        activity, at most QUIET_SECONDS.
        """
        if self._hot_set.has_any or self._rebuilds:
            return interval_seconds
        left = seconds_until(self._next_end, self._clock.now())
        return QUIET_SECONDS if left is None else min(QUIET_SECONDS, max(left, ENDING_SECONDS))

    def _leave_out(self, activity_id: str, problem: Exception) -> None:
        """Goes on without an activity whose keys are not of our types. A failure of Redis itself
        concerns all activities and is raised.
        """
        if isinstance(problem, RedisError) and not str(problem).startswith(WRONG_TYPE):
            raise problem
        self._quarantine.add((activity_id,), problem)

    def _choose(self, running: Mapping[str, Activity]) -> list[str]:
        """The activities of this round: the hot ones, those whose end has come, and the next of the
        others.
        """
        now = self._clock.now()
        ends = {
            each.activity_id: each.closes_at(self._close_after_end)
            for each in running.values()
            if each.state is not ActivityState.CLOSING
        }
        chosen = {activity_id for activity_id in running if self._hot_set.is_hot(activity_id)} | {
            each for each, end in ends.items() if end <= now
        }
        others = sorted(running.keys() - chosen)
        others = [
            *(each for each in others if each > self._last_idle),
            *(each for each in others if each <= self._last_idle),
        ][:OTHERS]
        self._last_idle = others[-1] if others else ""
        self._next_end = min(ends.values(), default=None)
        return [*chosen, *others]

    async def _reconcile(
        self, row: _Row, published: Published | None, later: _Row, *, run_id: str, now_ms: int
    ) -> int:
        activity = row.activity
        detector = self._detectors.setdefault(activity.activity_id, DriftDetector())
        at = self._clock.now()
        trigger = detector.check_state(activity, published, run_id=run_id, at=at)
        if trigger is None and published is not None and not published.is_being_rebuilt:
            trigger = detector.check_units(
                activity, published, before=row.counted, after=later.counted, at=at
            )
        if (
            published is None
            or published.is_held
            or published.out
            or not published.has_queue
            or detector.gap
            or trigger is not None
        ):
            self._hot_set.touch(activity.activity_id)
        GAP.labels(activity.activity_id).set(detector.gap)
        try:
            done = 0 if trigger is None else await self._repair(activity, trigger)
            return done + await self._close_ended(activity, now_ms)
        except (RedisError, MeshError) as problem:  # the next round tries again
            log.warning(
                "seckill_repair_failed",
                activity_id=activity.activity_id,
                trigger=trigger,
                cause=str(problem)[:200],
            )
            return 0
        # a defect of ours: the other activities are watched all the same
        except Exception:
            log.exception(
                "seckill_repair_failed", activity_id=activity.activity_id, trigger=trigger
            )
            return 0

    async def _repair(self, activity: Activity, trigger: Trigger) -> int:
        if trigger is Trigger.STATE:
            is_done = await self._loader.write_state(keys_of(activity), activity)
        else:
            log.warning(
                "seckill_rebuild",
                activity_id=activity.activity_id,
                trigger=trigger,
                gap=self._detectors[activity.activity_id].gap,
                alert=trigger in {Trigger.CONSERVATION, Trigger.QUEUE},
            )
            rebuild = asyncio.create_task(
                self._rebuilder.rebuild(activity.activity_id, seen_epoch=activity.epoch)
            )
            self._rebuilds[activity.activity_id] = rebuild
            await asyncio.wait([rebuild], timeout=PATIENCE_SECONDS)
            is_done = rebuild.done() and rebuild.result()
            self._detectors[activity.activity_id].reset()
        if is_done:
            REPAIRS.labels(trigger).inc()
        return int(is_done)

    async def _close_ended(self, activity: Activity, now_ms: int) -> int:
        """Closes an ended activity, by the clock that admits: no click was admitted since, and a
        draw has had its time.
        """
        is_over = now_ms >= activity.closes_at(self._close_after_end).timestamp() * 1000
        if not is_over or activity.state is ActivityState.CLOSING:
            return 0
        await self._closer.begin(activity.activity_id)
        return 1

    async def _drop_closed(self, run_id: str, running: Iterable[str]) -> int:
        """Another Redis, or a restart from an old copy, may have closed activities as open. All
        others become hot.
        """
        if run_id == self._run_id:
            return 0
        for activity_id in running:
            self._hot_set.touch(activity_id)
        dropped = 0
        since = self._clock.now() - CLOSED_LATELY
        for activity in await self._db.read(activities.closed_since, since):
            try:
                dropped += await self._loader.write_tombstone(keys_of(activity), activity)
            except Exception as problem:  # noqa: BLE001  logged with its id, or raised
                self._leave_out(activity.activity_id, problem)
        self._run_id = run_id
        return dropped

    async def _published(self, activity: Activity) -> Published | None:
        keys = keys_of(activity)
        # read first: what a rebuild leaves is seen after its end
        is_being_rebuilt = await self._lease.is_taken(keys)
        meta = await self._loader.meta(keys)
        if self._hot_set.pop_suspect(
            activity.activity_id
        ) and not await self._loader.has_whole_keys(keys):
            meta = None
        if meta is None and is_being_rebuilt:
            return Published(
                epoch=0, rev=0, run_id="", is_held=True, stock=0, out=0, is_being_rebuilt=True
            )
        return (
            None
            if meta is None
            else Published(
                epoch=meta.epoch,
                rev=meta.rev,
                run_id=meta.run_id,
                is_held=meta.is_held,
                stock=meta.stock,
                out=meta.out,
                is_being_rebuilt=is_being_rebuilt,
                has_queue=not self._has_lost_queue(activity.activity_id)
                or await self._queue.has_group(keys),
            )
        )

    @staticmethod
    async def _read(tx: AsyncConnection, chosen: Collection[str]) -> dict[str, _Row]:
        return {
            activity.activity_id: _Row(
                activity=activity,
                counted=Counted(
                    total=activity.total,
                    sold=activity.sold,
                    giving_back=await orders.count_give_backs(tx, activity_id=activity.activity_id),
                ),
            )
            for activity in await activities.running(tx)
            if activity.activity_id in chosen
        }

"""Rebuilds what Redis knows of an activity, from the rows, while it sells. Warm-up is the same with
nothing there before.

Steps: hold, fence, read, build, publish, carry, check again (docs/protocols.md 5). The fence only
raises the epoch. What is published is a snapshot read after the fence, so no return of a unit falls
between the numbers and the holders. A rebuild that dies leaves an unpublished epoch or a `hold`,
and the reconciler begins another one. A slow one finds a newer epoch and gives up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.clock import Clock
from mesh.db import Database
from mesh.failpoints import failpoint
from mesh.ids import Ids
from mesh.logs import get_logger
from seckill_rpc.domain.activity import RUNNING, Activity, ActivityState
from seckill_rpc.redis.keys import keys_of
from seckill_rpc.redis.lease import Lease
from seckill_rpc.redis.loader import ActivityLoader, LiveUnit
from seckill_rpc.store import activities, orders

CHUNK = 5000  # live orders per part
HEARTBEAT_SECONDS = 1.0  # a third of a lease
_T = TypeVar("_T")

log = get_logger()


class RebuildStep(StrEnum):
    """The current step. Names equal `paymesh.seckill.v1.RebuildStep`."""

    HOLD = "HOLD"
    FENCE = "FENCE"
    HOLDERS = "HOLDERS"
    CARRY = "CARRY"
    DONE = "DONE"
    SUPERSEDED = "SUPERSEDED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Progress of a rebuild: things done of `total` (0: unknown), in an epoch (0: none yet)."""

    step: RebuildStep
    done: int = 0
    total: int = 0
    epoch: int = 0


OnProgress = Callable[[Progress], None]


class _Superseded(Exception):
    """Another rebuild is newer, or there is nothing to rebuild."""


class Rebuilder:
    """RebuildActivity, the warm-up of a publication and the repairs of the reconciler."""

    def __init__(
        self, *, db: Database, clock: Clock, ids: Ids, loader: ActivityLoader, lease: Lease
    ) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._loader = loader
        self._lease = lease

    async def rebuild(
        self,
        activity_id: str,
        *,
        on_progress: OnProgress = lambda _: None,
        seen_epoch: int | None = None,
    ) -> bool:
        """Rebuilds an activity; True if this call published what is in Redis now.

        Args:
            on_progress: gets each step; the last one is DONE or SUPERSEDED.
            seen_epoch: the epoch of the row in which a difference was found; nothing is done if the
                row has another one by now, or another rebuild is under way. None rebuilds in any
                case.

        Raises:
            ActivityNotFound: there is none. RedisError, Unavailable: not finished; the reconciler
                begins another one.
        """
        activity = await self._db.read(activities.get, activity_id=activity_id)
        run = _Run(
            activity=activity,
            holder=self._ids.new("RB"),
            db=self._db,
            clock=self._clock,
            loader=self._loader,
            lease=self._lease,
            on_progress=on_progress,
        )
        is_ours = activity.state in RUNNING and seen_epoch in (None, activity.epoch)
        try:
            await run.go(
                is_ours=is_ours
                and await self._lease.take(run.keys, run.holder, force=seen_epoch is None)
            )
            await self._lease.end(run.keys, run.holder)
        except _Superseded:
            on_progress(Progress(step=RebuildStep.SUPERSEDED))
            return False
        log.info("seckill_rebuilt", activity_id=activity_id, epoch=run.epoch, holders=run.done)
        on_progress(Progress(step=RebuildStep.DONE, done=run.done, total=run.done, epoch=run.epoch))
        return True


class _Run:
    """One rebuild."""

    def __init__(
        self,
        *,
        activity: Activity,
        holder: str,
        db: Database,
        clock: Clock,
        loader: ActivityLoader,
        lease: Lease,
        on_progress: OnProgress,
    ) -> None:
        self.keys = keys_of(activity)
        self.holder = holder
        self.epoch = 0
        self.done = 0
        self._activity = activity
        self._db = db
        self._clock = clock
        self._loader = loader
        self._lease = lease
        self._on_progress = on_progress

    async def go(self, *, is_ours: bool) -> None:
        """All steps. Raises _Superseded if there is nothing to do, or another rebuild is newer."""
        if not is_ours:
            raise _Superseded
        loader, keys = self._loader, self.keys
        self._tell(RebuildStep.HOLD)
        said_to_hold = await self._while_alive(loader.viewed_holders(keys))
        # before anything is built: a restart of Redis meanwhile is noticed by its new id
        run_id = await loader.run_id()
        published_epoch = await loader.published_epoch(keys)
        await self._must_live()
        await loader.hold(keys)
        failpoint("seckill.rebuild.after_hold")
        if not await self._db.run(self._fence, published_epoch=published_epoch):
            raise _Superseded
        self._tell(RebuildStep.FENCE)
        failpoint("seckill.rebuild.after_fence")
        # A snapshot after the fence: nothing is sold in this epoch before it is published, and a
        # unit that comes back after the snapshot finds its record.
        row, units = await self._while_alive(self._db.read_at_one_moment(self._read))
        await self._build(units, said_to_hold)
        failpoint("seckill.rebuild.after_parts")
        if not await loader.publish(keys, row, run_id=run_id):
            raise _Superseded
        failpoint("seckill.rebuild.after_publish")
        # the lease is gone with the holders if Redis was emptied since: then `hold` stays, and the
        # reconciler sees it
        await self._must_live()
        await self._carry()
        failpoint("seckill.rebuild.after_carry")
        await self._check_again(row)

    async def _fence(self, tx: AsyncConnection, *, published_epoch: int) -> bool:
        before = await activities.lock(tx, activity_id=self._activity.activity_id)
        if before.state not in RUNNING:
            return False
        after = before.fence(published_epoch=published_epoch, at=self._clock.now())
        await activities.save(tx, after, read_version=before.version)
        self.epoch = after.epoch
        return True

    async def _read(self, tx: AsyncConnection) -> tuple[Activity, list[LiveUnit]]:
        """The row and its live orders by buyer, in one snapshot: some 300 bytes per order."""
        row = await activities.get(tx, activity_id=self._activity.activity_id)
        if row.epoch != self.epoch or row.state not in RUNNING:
            raise _Superseded
        holders = await orders.all_holders(tx, activity_id=row.activity_id)
        return row, [
            LiveUnit(user_id=each.user_id, request_id=each.request_id, order_id=each.order_id)
            for each in holders
        ]

    async def _build(self, units: list[LiveUnit], said_to_hold: set[str]) -> None:
        """Writes the holders of live orders, and corrects the views of buyers without one."""
        start = 0
        while start < len(units):
            end = min(start + CHUNK, len(units))
            # the counts of a buyer are absolute: all of a buyer's orders go into one part
            while end < len(units) and units[end].user_id == units[end - 1].user_id:
                end += 1
            if not await self._loader.load_holders(
                self.keys, epoch=self.epoch, units=units[start:end]
            ):
                raise _Superseded
            await self._must_live()
            self.done = start = end
            self._tell(RebuildStep.HOLDERS, done=end, total=len(units))
        said_to_hold.difference_update(unit.user_id for unit in units)
        if not await self._while_alive(
            self._loader.clear_stale_views(self.keys, epoch=self.epoch, users=said_to_hold)
        ):
            raise _Superseded
        await self._must_live()

    async def _carry(self) -> None:
        cursor, portions = "", 0
        while True:
            reply = await self._loader.carry(self.keys, epoch=self.epoch, cursor=cursor)
            if reply is None:
                raise _Superseded
            portions += 1
            self._tell(RebuildStep.CARRY, done=portions)
            if not reply:
                return
            cursor = reply
            await self._must_live()

    async def _check_again(self, published: Activity) -> None:
        """The row may have been paused or closed while Redis had no meta to show it."""
        now = await self._db.read(activities.get, activity_id=published.activity_id)
        if now.state is ActivityState.CLOSED:
            await self._loader.write_tombstone(self.keys, now)
        elif now.rev > published.rev:
            await self._loader.write_state(self.keys, now)

    async def _while_alive(self, work: Coroutine[Any, Any, _T]) -> _T:
        """The result of work that may outlast a lease; it is given up if the lease is lost."""
        task = asyncio.create_task(work)
        try:
            while not (await asyncio.wait((task,), timeout=HEARTBEAT_SECONDS))[0]:
                await self._must_live()
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait((task,))

    async def _must_live(self) -> None:
        """Extends the lease, or raises _Superseded."""
        if not await self._lease.renew(self.keys, self.holder):
            raise _Superseded

    def _tell(self, step: RebuildStep, *, done: int = 0, total: int = 0) -> None:
        self._on_progress(Progress(step=step, done=done, total=total, epoch=self.epoch))

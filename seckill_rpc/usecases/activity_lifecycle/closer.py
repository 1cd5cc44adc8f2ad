"""Closing an activity: admission ends, queued clicks are served, then one transaction makes it
CLOSED and returns the unsold units to the catalog stock. Every step may be repeated, and the
same code does so: in the call, and in a worker until it is done.
"""

from __future__ import annotations

from collections.abc import Collection

from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.clock import Clock
from mesh.db import Database
from mesh.errors import MeshError, Unavailable
from mesh.failpoints import failpoint
from mesh.ids import Ids
from mesh.logs import get_logger
from mesh.outbox import Message
from mesh.relay import Settlement
from seckill_rpc.domain.activity import Activity, ActivityState, ActivityVerb, AdmissionMode
from seckill_rpc.redis.admission_queue import AdmissionQueue
from seckill_rpc.redis.keys import keys_of
from seckill_rpc.redis.loader import ActivityLoader
from seckill_rpc.store import activities, orders
from seckill_rpc.usecases.activity_lifecycle.publisher import NO_REDIS
from seckill_rpc.usecases.activity_lifecycle.transitions import ActivityTransitions
from seckill_rpc.usecases.draw import Draws
from seckill_rpc.usecases.outbox_to_order import command, return_allocation_message
from seckill_rpc.usecases.rebuild import Rebuilder

DROPS = "redis_drop"  # destination of the outbox: tombstones for Redis
DROP = "Drop"

log = get_logger()


class _NotYet(MeshError):
    """Something of the activity is still under way."""


class Closer:
    """Moves activities from CLOSING to CLOSED."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        ids: Ids,
        transitions: ActivityTransitions,
        loader: ActivityLoader,
        queue: AdmissionQueue,
        rebuilder: Rebuilder,
        draws: Draws,
    ) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._transitions = transitions
        self._loader = loader
        self._queue = queue
        self._rebuilder = rebuilder
        self._draws = draws

    async def begin(self, activity_id: str) -> Activity:
        """Its end has come: stops admission. For workers."""
        activity = await self._transitions.step(
            activity_id,
            ActivityVerb.CLOSE,
            accepted_states={ActivityState.CLOSING, ActivityState.CLOSED},
        )
        return await self.advance(activity)

    async def advance(self, activity: Activity) -> Activity:
        """Goes on from CLOSING: CLOSED, or still CLOSING with the problem recorded."""
        failpoint("seckill.close.after_row")
        try:
            await self._drain(activity)
            failpoint("seckill.close.after_drained")
            closed = await self._transitions.step(
                activity.activity_id,
                ActivityVerb.FINISH,
                accepted_states={ActivityState.CLOSED},
                precondition=self._nothing_is_due,
                extra_messages=self._closing_messages,
            )
        except _NotYet as waits:
            return await self._transitions.record_problem(activity, waits.message)
        except RedisError:
            return await self._transitions.record_problem(activity, NO_REDIS)
        failpoint("seckill.close.after_closed")
        try:
            await self._loader.write_tombstone(keys_of(closed), closed)
        except RedisError as problem:  # the relay does it
            log.info("seckill_drop_waits", activity_id=closed.activity_id, cause=str(problem)[:200])
        failpoint("seckill.close.after_drop")
        return closed

    async def run_once(self) -> int:
        """Goes on with every activity that is CLOSING; returns how many were closed.

        Raises:
            Whatever kept one from being closed, when no other was. The worker pauses then.
        """
        done = 0
        failures: list[Exception] = []
        for activity in await self._db.read(activities.in_states, ActivityState.CLOSING):
            try:
                done += (await self.advance(activity)).state is ActivityState.CLOSED
            except Exception as failure:  # noqa: BLE001  raised below; the others are closed all the same
                failures.append(failure)
                log.warning(
                    "seckill_close_failed",
                    activity_id=activity.activity_id,
                    cause=str(failure)[:200],
                )
        if failures and not done:
            raise failures[0]
        return done

    async def _drain(self, activity: Activity) -> None:
        """Returns when nothing can arrive any more: Redis knows that it is closing, and its queue
        is empty.
        """
        keys = keys_of(activity)
        await self._loader.write_state(keys, activity)
        meta = await self._loader.meta(keys)
        # Redis has lost it, and perhaps queued clicks with it
        if meta is None or meta.epoch < activity.epoch:
            await self._rebuilder.rebuild(activity.activity_id, seen_epoch=activity.epoch)
            meta = await self._loader.meta(keys)
        if meta is None or meta.is_held or meta.rev < activity.rev:
            raise _NotYet("it is being rebuilt")
        if (
            activity.mode is AdmissionMode.DRAW
            and not activity.drawn
            and not (await self._draws.draw(activity)).drawn
        ):
            raise _NotYet("it has not been drawn yet")
        length, _ = await self._queue.waiting(keys)
        if length:
            raise _NotYet("buyers stand in its line")

    async def _nothing_is_due(self, tx: AsyncConnection, activity: Activity) -> None:
        """Under the lock of the row: units that came back before the lock are counted, later ones
        find it CLOSED.
        """
        if activity.state is ActivityState.CLOSING and await orders.count_give_backs(
            tx, activity_id=activity.activity_id
        ):
            raise _NotYet("units are on their way back")

    def _closing_messages(self, before: Activity, after: Activity) -> Collection[Message]:
        now = self._clock.now()
        payload = {"activity_id": after.activity_id}
        drop = command(DROPS, DROP, after.activity_id, payload, ids=self._ids, at=now)
        unsold = return_allocation_message(
            after, op_id=f"close:{after.activity_id}", quantity=before.left, ids=self._ids, at=now
        )
        return [unsold, drop]


class DropDestination:
    """Writes tombstones of closed activities to Redis, so that no old copy of it and no slow
    rebuild opens them again.
    """

    name = DROPS

    def __init__(self, *, db: Database, loader: ActivityLoader) -> None:
        self._db = db
        self._loader = loader

    async def send(self, message: Message) -> Settlement | None:
        """Writes one tombstone.

        Raises:
            Unavailable: Redis did not confirm it.
        """
        activity = await self._db.read(activities.get, activity_id=message.payload["activity_id"])
        try:
            await self._loader.write_tombstone(keys_of(activity), activity)
        except RedisError as error:
            raise Unavailable("redis did not confirm the tombstone") from error
        return None

"""Draws lots when an activity of mode DRAW has ended. Winners go through the admission queue. The
row remembers that the draw is done: a close waits for it, and no buyer is drawn twice.
"""

from __future__ import annotations

from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.clock import Clock, Seconds, seconds_until
from mesh.db import Database
from mesh.errors import MeshError
from mesh.logs import get_logger
from seckill_rpc.domain.activity import RUNNING, Activity, ActivityState, AdmissionMode
from seckill_rpc.redis.draw import draw
from seckill_rpc.redis.keys import keys_of
from seckill_rpc.redis.loader import ActivityLoader
from seckill_rpc.redis.scripts import Scripts
from seckill_rpc.store import activities

log = get_logger()


class Draws:
    """Holds the draws."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        scripts: Scripts,
        loader: ActivityLoader,
        queued_seconds: int,
    ) -> None:
        """`queued_seconds`: how long the view of a winner lives until it is decided."""
        self._db = db
        self._clock = clock
        self._scripts = scripts
        self._loader = loader
        self._queued_seconds = queued_seconds

    async def due_in(self) -> Seconds | None:
        """Seconds until the next draw, by our clock; None if none is due."""
        waiting = await self._waiting()
        if any(each.state is ActivityState.CLOSING for each in waiting):
            return 0.0
        return seconds_until(
            min((each.ends_at for each in waiting), default=None), self._clock.now()
        )

    async def run_once(self) -> int:
        """Draws every activity whose time has come; returns how many draws were finished."""
        waiting = await self._waiting()
        if not waiting:
            return 0
        try:
            now_ms = await self._loader.now_ms()
        except RedisError as problem:
            log.info("seckill_draw_waits", cause=str(problem)[:200])
            return 0
        done = 0
        for activity in waiting:
            if (
                activity.state is ActivityState.CLOSING
                or activity.ends_at.timestamp() * 1000 <= now_ms
            ):
                try:
                    done += (await self.draw(activity)).drawn
                except (RedisError, MeshError) as problem:
                    log.info(
                        "seckill_draw_waits",
                        activity_id=activity.activity_id,
                        cause=str(problem)[:200],
                    )
                # a defect of this activity or of ours: the others are drawn all the same
                except Exception:
                    log.exception(
                        "seckill_draw_broke", alert=True, activity_id=activity.activity_id
                    )
        return done

    async def draw(self, activity: Activity) -> Activity:
        """Draws until no entry is left. Returns the activity after that: `drawn`, unless it is too
        early (the script checks the clock of Redis, the state there and a rebuild).

        Raises:
            RedisError: Redis did not answer; what was drawn stays drawn.
        """
        keys = keys_of(activity)
        winners = losers = 0
        while True:
            drawn = await draw(self._scripts, keys, queued_seconds=self._queued_seconds)
            if drawn is None:
                return activity
            winners, losers = winners + drawn.winners, losers + drawn.losers
            if not drawn.left:
                break
        log.info("seckill_drawn", activity_id=activity.activity_id, winners=winners, losers=losers)
        return await self._db.run(self._remember, activity)

    async def _waiting(self) -> list[Activity]:
        return [
            each
            for each in await self._db.read(activities.running)
            if each.mode is AdmissionMode.DRAW and not each.drawn
        ]

    async def _remember(self, tx: AsyncConnection, activity: Activity) -> Activity:
        before = await activities.lock(tx, activity_id=activity.activity_id)
        if before.drawn or before.state not in RUNNING:
            return before
        after = before.draw_done(at=self._clock.now())
        await activities.save(tx, after, read_version=before.version)
        return after

"""Publication: moves the units of an activity out of the catalog stock and opens it. Every step may
be repeated, and the same code does so: in the call, and in a worker after a crash. A definite
refusal of order_rpc turns it into a draft again, with the reason.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Protocol

from redis.exceptions import RedisError

from mesh.clock import Clock
from mesh.db import Database
from mesh.errors import InvalidArgument, MeshError, RemoteError
from mesh.failpoints import failpoint
from mesh.logs import get_logger
from seckill_rpc.domain.activity import RUNNING, Activity, ActivityState, ActivityVerb
from seckill_rpc.redis.keys import keys_of
from seckill_rpc.redis.loader import ActivityLoader
from seckill_rpc.store import activities
from seckill_rpc.usecases.activity_lifecycle.transitions import ActivityTransitions
from seckill_rpc.usecases.rebuild import Rebuilder

# a worker takes over a publication after this time without progress, and retries as often
WORKER_DELAY = timedelta(seconds=5)
# a row so much younger than one that is due was written under a wrong clock
CLOCK_AHEAD_MAX = timedelta(seconds=35)
NO_REDIS = "REDIS_UNAVAILABLE"
# States of an activity that another process has opened meanwhile.
_OPENED = frozenset({*RUNNING, ActivityState.CLOSED})

log = get_logger()


class CatalogStock(Protocol):
    """order_rpc, as far as a publication uses it."""

    async def currency_of(self, activity: Activity) -> str:
        """The currency of its product, or RemoteError."""
        ...

    async def allocate(self, activity: Activity, *, op_id: str) -> int:
        """Moves all of its units out of the catalog stock, or RemoteError. The same op_id is the
        same step.
        """
        ...


class Publisher:
    """Moves activities from PUBLISHING to OPEN."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        transitions: ActivityTransitions,
        catalog: CatalogStock,
        loader: ActivityLoader,
        rebuilder: Rebuilder,
    ) -> None:
        self._db = db
        self._clock = clock
        self._transitions = transitions
        self._catalog = catalog
        self._loader = loader
        self._rebuilder = rebuilder

    async def advance(self, activity: Activity) -> Activity:
        """Goes on from PUBLISHING: OPEN, or still PUBLISHING with its problem recorded.

        Raises:
            RemoteError, InvalidArgument: refused for good; it is a draft again.
        """
        failpoint("seckill.publish.after_row")
        try:
            return await self._open(activity)
        except InvalidArgument as refusal:
            await self._back_to_draft(activity, refusal)
            raise
        except RemoteError as refusal:
            if not refusal.is_definite:
                return await self._transitions.record_problem(
                    activity, f"{refusal.reason}: {refusal.message}"
                )
            await self._back_to_draft(activity, refusal)
            raise
        except RedisError:
            return await self._transitions.record_problem(activity, NO_REDIS)

    async def run_once(self) -> int:
        """Goes on with publications that calls have left; returns how many were opened or refused.

        Raises:
            Whatever kept a publication from going on, when no other succeeded. The worker pauses
                then.
        """
        before = self._clock.now() - WORKER_DELAY
        publishing = await self._db.read(activities.in_states, ActivityState.PUBLISHING)
        # A row from the future was written by a process whose clock was ahead: do not wait for it.
        left = [
            each
            for each in publishing
            if each.updated_at <= before or each.updated_at > before + CLOCK_AHEAD_MAX
        ]
        done = 0
        failures: list[Exception] = []
        for activity in left:
            try:
                done += (await self.advance(activity)).state is not ActivityState.PUBLISHING
            except (RemoteError, InvalidArgument) as refusal:
                log.warning(
                    "seckill_publication_refused",
                    activity_id=activity.activity_id,
                    reason=refusal.reason,
                )
                done += 1
            except Exception as failure:  # noqa: BLE001  raised below; the others go on all the same
                failures.append(failure)
                log.warning(
                    "seckill_publication_failed",
                    activity_id=activity.activity_id,
                    cause=str(failure)[:200],
                )
        if failures and not done:
            raise failures[0]
        return done

    async def _open(self, activity: Activity) -> Activity:
        currency = await self._catalog.currency_of(activity)
        if currency != activity.price.currency:
            raise InvalidArgument.of("currency", f"{activity.sku_id} is sold in {currency}")
        await self._catalog.allocate(activity, op_id=f"alloc:{activity.activity_id}")
        failpoint("seckill.publish.after_allocate")
        await self._loader.clear_views(keys_of(activity))
        failpoint("seckill.publish.after_clear")
        opened = await self._transitions.step(
            activity.activity_id, ActivityVerb.OPEN, accepted_states=_OPENED
        )
        failpoint("seckill.publish.after_open")
        try:
            # otherwise another process has loaded it
            if await self._loader.meta(keys_of(activity)) is None:
                await self._rebuilder.rebuild(activity.activity_id, seen_epoch=opened.epoch)
        # it is open; the reconciler loads it as soon as Redis answers
        except (RedisError, MeshError) as problem:
            log.warning(
                "seckill_not_loaded", activity_id=activity.activity_id, cause=str(problem)[:200]
            )
        failpoint("seckill.publish.after_load")
        return opened

    async def _back_to_draft(self, activity: Activity, refusal: MeshError) -> None:
        await self._transitions.step(
            activity.activity_id,
            ActivityVerb.REFUSE,
            accepted_states=frozenset({ActivityState.DRAFT, *_OPENED}),
            problem=f"{refusal.reason}: {refusal.message}",
        )

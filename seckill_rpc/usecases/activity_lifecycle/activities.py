"""The RPCs of ActivityService. Each step changes the row first and then tells Redis. If Redis does
not answer, the reconciler tells it later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh import idempotency
from mesh.call import Caller, mark_replayed
from mesh.clock import Clock
from mesh.db import Database
from mesh.idempotency import IdempotencyKey
from mesh.ids import Ids
from mesh.logs import get_logger
from mesh.money import Money
from mesh.paging import Key, PageTokens
from seckill_rpc.domain.activity import (
    RUNNING,
    Activity,
    ActivityState,
    ActivityVerb,
    AdmissionMode,
)
from seckill_rpc.domain.errors import ActivityStateInvalid
from seckill_rpc.redis.admission_queue import AdmissionQueue
from seckill_rpc.redis.keys import keys_of
from seckill_rpc.redis.loader import ActivityLoader, Meta
from seckill_rpc.store import activities
from seckill_rpc.store.activities import ActivityPage
from seckill_rpc.usecases.activity_lifecycle.closer import Closer
from seckill_rpc.usecases.activity_lifecycle.publisher import Publisher
from seckill_rpc.usecases.activity_lifecycle.transitions import ActivityTransitions

log = get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateActivity:
    """A new activity. `merchant_id` was checked against the caller; `starts_at` None: when it is
    published.
    """

    merchant_id: str
    sku_id: str
    price: Money
    mode: AdmissionMode
    limit_per_user: int
    offered: int
    starts_at: datetime | None
    ends_at: datetime
    idempotency_key: str  # "" plans another one with every call
    fingerprint: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListActivities:
    """Which activities to show: those of a merchant, newest first."""

    merchant_id: str
    state: ActivityState | None  # None shows every state
    page_size: int  # 0 means the default
    page_token: str  # "" means the first page


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveNumbers:
    """What Redis knows of an activity now: units that may still be admitted, queued clicks, entries
    of a draw.
    """

    stock: int
    queued: int
    entries: int
    is_admitting: bool  # OPEN, within its window, and not being rebuilt


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityView:
    """An activity and its live numbers; None before it is OPEN, after it is CLOSED, and while Redis
    does not answer.
    """

    activity: Activity
    live: LiveNumbers | None


class Activities:
    """CreateActivity, PublishActivity, PauseActivity, ResumeActivity, CloseActivity, GetActivity,
    ListActivities.
    """

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        ids: Ids,
        page_tokens: PageTokens,
        transitions: ActivityTransitions,
        publisher: Publisher,
        closer: Closer,
        loader: ActivityLoader,
        queue: AdmissionQueue,
    ) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._page_tokens = page_tokens
        self._transitions = transitions
        self._publisher = publisher
        self._closer = closer
        self._loader = loader
        self._queue = queue

    async def create(self, command: CreateActivity, caller: Caller) -> ActivityView:
        """Plans an activity; a repeated idempotency key returns the existing one as it is now.

        Raises:
            InvalidArgument: its window or its limit is invalid. IdempotencyKeyReused.
        """
        activity, is_replay = await self._db.run(self._create, command, caller)
        if is_replay:
            mark_replayed()
        return await self._view(activity)

    async def publish(self, *, activity_id: str, merchant_id: str, caller: Caller) -> ActivityView:
        """Moves its units out of the catalog stock and opens it. It is still PUBLISHING if a system
        did not answer; a worker goes on then.

        Raises:
            ActivityNotFound, ActivityAlreadyOpen, ActivityStateInvalid. RemoteError,
                InvalidArgument: order_rpc refuses; it is a draft again.
        """
        activity = await self._transitions.step(
            activity_id,
            ActivityVerb.PUBLISH,
            merchant_id=merchant_id,
            visible_to=caller,
            accepted_states={ActivityState.PUBLISHING, ActivityState.OPEN},
            precondition=self._not_over,
        )
        if activity.state is ActivityState.PUBLISHING:
            activity = await self._publisher.advance(activity)
        return await self._view(activity)

    async def pause(self, *, activity_id: str, merchant_id: str, caller: Caller) -> ActivityView:
        """Stops admission until it is resumed.

        Raises:
            ActivityNotFound, ActivityStateInvalid.
        """
        activity = await self._transitions.step(
            activity_id,
            ActivityVerb.PAUSE,
            merchant_id=merchant_id,
            visible_to=caller,
            accepted_states={ActivityState.PAUSED},
        )
        return await self._after_change(activity)

    async def resume(self, *, activity_id: str, merchant_id: str, caller: Caller) -> ActivityView:
        """Admits buyers again.

        Raises:
            ActivityNotFound. ActivityStateInvalid: it is not paused, nor open.
        """
        activity = await self._transitions.step(
            activity_id,
            ActivityVerb.RESUME,
            merchant_id=merchant_id,
            visible_to=caller,
            accepted_states={ActivityState.OPEN},
        )
        return await self._after_change(activity)

    async def close(self, *, activity_id: str, merchant_id: str, caller: Caller) -> ActivityView:
        """Ends it; it is still CLOSING while queued clicks are served. A draft is closed at once.

        Raises:
            ActivityNotFound. ActivityStateInvalid: it is being published.
        """
        found = await self._db.read(
            activities.get, activity_id=activity_id, merchant_id=merchant_id, visible_to=caller
        )
        verb = ActivityVerb.ABANDON if found.state is ActivityState.DRAFT else ActivityVerb.CLOSE
        activity = await self._transitions.step(
            activity_id,
            verb,
            merchant_id=merchant_id,
            visible_to=caller,
            accepted_states={ActivityState.CLOSING, ActivityState.CLOSED},
        )
        if activity.state is ActivityState.CLOSING:
            activity = await self._closer.advance(activity)
        return await self._view(activity)

    async def get(self, *, activity_id: str, merchant_id: str, caller: Caller) -> ActivityView:
        """An activity with its live numbers.

        Raises:
            ActivityNotFound: there is none, or it is not the caller's.
        """
        return await self._view(
            await self._db.read(
                activities.get, activity_id=activity_id, merchant_id=merchant_id, visible_to=caller
            )
        )

    async def list_activities(
        self, query: ListActivities, caller: Caller
    ) -> tuple[tuple[ActivityView, ...], str]:
        """One page of activities with their live numbers, and the token of the next one, "" after
        the last.

        Raises:
            PageTokenInvalid: the token was not made by us, or for another list.
        """

        async def read(key: tuple[Key, ...] | None, limit: int) -> Sequence[Activity]:
            page = ActivityPage(
                merchant_id=query.merchant_id,
                state=query.state,
                after=None
                if key is None
                else (datetime.fromtimestamp(int(key[0]) / 1000, UTC), str(key[1])),
                limit=limit,
            )
            return await self._db.read(activities.list_page, page, visible_to=caller)

        shown, token = await self._page_tokens.page(
            read,
            list_name="ListActivities",
            filter={"merchant_id": query.merchant_id, "state": query.state or ""},
            types=(int, str),
            size=query.page_size,
            token=query.page_token,
            key=lambda row: (round(row.created_at.timestamp() * 1000), row.activity_id),
        )
        return tuple(await asyncio.gather(*(self._view(each) for each in shown))), token

    async def _create(
        self, tx: AsyncConnection, command: CreateActivity, caller: Caller
    ) -> tuple[Activity, bool]:
        now = self._clock.now()
        key = IdempotencyKey(
            merchant_id=command.merchant_id,
            caller=caller.key,
            method="CreateActivity",
            key=command.idempotency_key,
        )
        record = (
            await idempotency.find(tx, key, fingerprint=command.fingerprint) if key.key else None
        )
        if record is not None:
            return await activities.get(tx, activity_id=record.resource_id), True
        activity = Activity.plan(
            activity_id=self._ids.new("ACT"),
            merchant_id=command.merchant_id,
            sku_id=command.sku_id,
            price=command.price,
            mode=command.mode,
            limit_per_user=command.limit_per_user,
            offered=command.offered,
            starts_at=command.starts_at or now,
            ends_at=command.ends_at,
            at=now,
        )
        await activities.insert(tx, activity)
        if key.key:
            await idempotency.claim(
                tx,
                key,
                fingerprint=command.fingerprint,
                resource_id=activity.activity_id,
                now=now,
                retention=idempotency.OTHER_RETENTION,
                answer="",
            )
        return activity, False

    async def _not_over(self, tx: AsyncConnection, activity: Activity) -> None:  # noqa: ARG002  # the signature of a requirement
        if activity.state is ActivityState.DRAFT and activity.ends_at <= self._clock.now():
            raise ActivityStateInvalid(
                "its end is over", state=activity.state, verb=ActivityVerb.PUBLISH
            )

    async def _after_change(self, activity: Activity) -> ActivityView:
        """Tells Redis at once; if it does not answer, the reconciler does later."""
        try:
            await self._loader.write_state(keys_of(activity), activity)
        except RedisError as problem:
            log.warning(
                "seckill_state_not_told",
                activity_id=activity.activity_id,
                state=activity.state,
                cause=str(problem)[:200],
            )
        return await self._view(activity)

    async def _view(self, activity: Activity) -> ActivityView:
        return ActivityView(
            activity=activity,
            live=await self._live(activity) if activity.state in RUNNING else None,
        )

    async def _live(self, activity: Activity) -> LiveNumbers | None:
        keys = keys_of(activity)
        try:
            meta = await self._loader.meta(keys)
            if meta is None:
                return None
            queued, _ = await self._queue.waiting(keys)
            entries = await self._loader.entries(keys) if activity.mode is AdmissionMode.DRAW else 0
        except RedisError:
            return None
        return LiveNumbers(
            stock=meta.stock,
            queued=queued,
            entries=entries,
            is_admitting=self._is_admitting(activity, meta),
        )

    def _is_admitting(self, activity: Activity, meta: Meta) -> bool:
        is_within = activity.starts_at <= self._clock.now() < activity.ends_at
        return (
            is_within
            and activity.state is ActivityState.OPEN
            and meta.state == ActivityState.OPEN
            and not meta.is_held
        )

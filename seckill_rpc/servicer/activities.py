"""ActivityService: messages to use cases and back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from paymesh.seckill.v1 import activity_pb2, activity_pb2_grpc
from redis.exceptions import RedisError

from mesh.call import current_caller, current_idempotency_key
from mesh.errors import InvalidArgument
from mesh.money import DEFAULT_CURRENCY, required_amount
from seckill_rpc.domain.errors import SeckillNotReady
from seckill_rpc.servicer.messages import (
    MODES_OF_MESSAGES,
    STATES_OF_MESSAGES,
    activity_fingerprint,
    activity_message,
    moment,
    progress_message,
)
from seckill_rpc.usecases.activity_lifecycle.activities import (
    Activities,
    CreateActivity,
    ListActivities,
)
from seckill_rpc.usecases.rebuild import Progress, Rebuilder


class ActivityServicer(activity_pb2_grpc.ActivityServiceServicer):
    """What shops do with flash sales."""

    def __init__(self, *, activities: Activities, rebuilder: Rebuilder) -> None:
        self._activities = activities
        self._rebuilder = rebuilder
        self._rebuilds: set[asyncio.Task[bool]] = set()

    async def CreateActivity(
        self, request: activity_pb2.CreateActivityRequest, context: Any
    ) -> activity_pb2.CreateActivityResponse:
        """Plans an activity."""
        price = required_amount(
            request.price,
            request.price_minor if request.HasField("price_minor") else None,
            request.currency or DEFAULT_CURRENCY,
            field="price",
            allow_zero=True,
        )
        ends_at = moment(request, "ends_at")
        if ends_at is None:
            raise InvalidArgument.of("ends_at", "is required")
        shown = await self._activities.create(
            CreateActivity(
                merchant_id=request.merchant_id,
                sku_id=request.sku_id,
                price=price,
                mode=MODES_OF_MESSAGES[request.mode],
                limit_per_user=request.limit_per_user or 1,
                offered=request.total,
                starts_at=moment(request, "starts_at"),
                ends_at=ends_at,
                idempotency_key=current_idempotency_key(),
                fingerprint=activity_fingerprint(request, price),
            ),
            current_caller(),
        )
        return activity_pb2.CreateActivityResponse(activity=activity_message(shown))

    async def PublishActivity(
        self, request: activity_pb2.PublishActivityRequest, context: Any
    ) -> activity_pb2.PublishActivityResponse:
        """Moves its units out of the catalog stock and opens it."""
        shown = await self._activities.publish(
            activity_id=request.activity_id,
            merchant_id=request.merchant_id,
            caller=current_caller(),
        )
        return activity_pb2.PublishActivityResponse(activity=activity_message(shown))

    async def PauseActivity(
        self, request: activity_pb2.PauseActivityRequest, context: Any
    ) -> activity_pb2.PauseActivityResponse:
        """Stops admission for now."""
        shown = await self._activities.pause(
            activity_id=request.activity_id,
            merchant_id=request.merchant_id,
            caller=current_caller(),
        )
        return activity_pb2.PauseActivityResponse(activity=activity_message(shown))

    async def ResumeActivity(
        self, request: activity_pb2.ResumeActivityRequest, context: Any
    ) -> activity_pb2.ResumeActivityResponse:
        """Admits buyers again."""
        shown = await self._activities.resume(
            activity_id=request.activity_id,
            merchant_id=request.merchant_id,
            caller=current_caller(),
        )
        return activity_pb2.ResumeActivityResponse(activity=activity_message(shown))

    async def CloseActivity(
        self, request: activity_pb2.CloseActivityRequest, context: Any
    ) -> activity_pb2.CloseActivityResponse:
        """Ends it."""
        shown = await self._activities.close(
            activity_id=request.activity_id,
            merchant_id=request.merchant_id,
            caller=current_caller(),
        )
        return activity_pb2.CloseActivityResponse(activity=activity_message(shown))

    async def GetActivity(
        self, request: activity_pb2.GetActivityRequest, context: Any
    ) -> activity_pb2.GetActivityResponse:
        """Shows it with its live numbers."""
        shown = await self._activities.get(
            activity_id=request.activity_id,
            merchant_id=request.merchant_id,
            caller=current_caller(),
        )
        return activity_pb2.GetActivityResponse(activity=activity_message(shown))

    async def ListActivities(
        self, request: activity_pb2.ListActivitiesRequest, context: Any
    ) -> activity_pb2.ListActivitiesResponse:
        """Lists activities, newest first."""
        found, next_page_token = await self._activities.list_activities(
            ListActivities(
                merchant_id=request.merchant_id,
                state=STATES_OF_MESSAGES.get(request.state),
                page_size=request.page_size,
                page_token=request.page_token,
            ),
            current_caller(),
        )
        return activity_pb2.ListActivitiesResponse(
            activities=[activity_message(shown) for shown in found], next_page_token=next_page_token
        )

    async def RebuildActivity(
        self, request: activity_pb2.RebuildActivityRequest, context: Any
    ) -> AsyncIterator[activity_pb2.RebuildActivityResponse]:
        """Rebuilds its data in Redis. The rebuild goes on when the caller hangs up: it may hold the
        sale.
        """
        steps: asyncio.Queue[Progress | None] = asyncio.Queue()
        rebuild = asyncio.create_task(
            self._rebuilder.rebuild(request.activity_id, on_progress=steps.put_nowait)
        )
        self._rebuilds.add(rebuild)
        rebuild.add_done_callback(self._rebuilds.discard)
        rebuild.add_done_callback(lambda _: steps.put_nowait(None))
        while (progress := await steps.get()) is not None:
            yield progress_message(progress)
        try:
            await rebuild
        except RedisError as problem:
            raise SeckillNotReady("redis did not answer; the reconciler finishes it") from problem

"""The buyers' side of one seckill_rpc for tests: what a process keeps in memory, over the rows and
the Redis of a SeckillWorld. Several of them are several processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from mesh.clock import Seconds
from mesh.errors import MeshError
from mesh.merchant_status import MerchantStatus
from mesh.rate_limit import RateLimiter
from seckill_rpc.domain.result import Result
from seckill_rpc.domain.ticket import Tickets
from seckill_rpc.redis.wakeups import Waiters, Wakeups
from seckill_rpc.usecases.admission.registry import ActivityRegistry
from seckill_rpc.usecases.admission.result_cache import ResultCache
from seckill_rpc.usecases.admission.seckill_action import (
    Admission,
    AdmissionSettings,
    SeckillAction,
)
from seckill_rpc.usecases.result_listener import ResultListener
from seckill_rpc.usecases.results import Results
from tests.builders.seckill import AlwaysHot, SeckillWorld

SECRET = b"t" * 32
GRACE = timedelta(seconds=10)


class HandClock:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> Seconds:
        return self.now


class Front:
    """One process that buyers meet."""

    def __init__(
        self,
        world: SeckillWorld,
        *,
        burst: int = 1000,
        line_max: int = 1_000_000,
        waiters_max: int = 1000,
    ) -> None:
        self.world = world
        self.monotonic = HandClock()
        self.status: MerchantStatus | MeshError = MerchantStatus.OPEN  # of every merchant
        self.tickets = Tickets(SECRET)
        self.registry = ActivityRegistry(db=world.db, monotonic=self.monotonic)
        cache = ResultCache(monotonic=self.monotonic)
        waiters = self.waiters = Waiters(
            world.views, waiters_max=waiters_max, look_again_seconds=0.2
        )
        loop = asyncio.get_running_loop()
        self.results = Results(
            db=world.db,
            clock=world.clock,
            registry=self.registry,
            views=world.views,
            waiters=waiters,
            cache=cache,
            tickets=self.tickets,
            grace=GRACE,
            monotonic=loop.time,
            jitter=lambda: 0.0,
        )
        self.admission = Admission(
            registry=self.registry,
            scripts=world.scripts,
            results=self.results,
            cache=cache,
            tickets=self.tickets,
            ids=world.ids,
            clock=world.clock,
            buckets=RateLimiter(per_second=1000, burst=burst, now=self.monotonic),
            settings=AdmissionSettings(
                queue_max=line_max, draw_max=line_max, queued_seconds=600, batch_max=64, calls_max=2
            ),
            monotonic=self.monotonic,
            jitter=lambda: 0.0,
            statuses=self,
        )
        self.listener = ResultListener(
            db=world.db,
            registry=self.registry,
            admission=self.admission,
            cache=cache,
            waiters=waiters,
            hot_set=AlwaysHot(),
        )
        self.has_heard = asyncio.Event()
        self.wakeups = Wakeups(
            world.redis, on_message=self._hear, on_disconnect=self.listener.on_disconnect
        )

    async def of(self, merchant_id: str) -> MerchantStatus:
        """What merchant_rpc says of a merchant."""
        del merchant_id
        if isinstance(self.status, MeshError):
            raise self.status
        return self.status

    async def catch_up(self) -> None:
        """Learns which activities run, and who takes part in them."""
        await self.registry.refresh()
        while await self.listener.run_once(self.wakeups):
            pass

    async def click(
        self,
        user_id: str = "u1",
        request_id: str = "a",
        *,
        wait_seconds: Seconds = 0,
        sku_id: str = "1001",
        merchant_id: str = "mall",
    ) -> Result:
        return await self.admission.seckill_action(
            SeckillAction(
                merchant_id=merchant_id,
                user_id=user_id,
                sku_id=sku_id,
                request_id=request_id,
                wait_seconds=wait_seconds,
            )
        )

    async def result(
        self,
        user_id: str = "u1",
        *,
        ticket: str = "",
        wait_seconds: Seconds = 0,
        sku_id: str = "1001",
    ) -> Result:
        return await self.results.seckill_result(
            merchant_id="mall",
            user_id=user_id,
            sku_id=sku_id,
            ticket=ticket,
            wait_seconds=wait_seconds,
        )

    def _hear(self, activity_id: str, message: str) -> None:
        self.listener.on_message(activity_id, message)
        self.has_heard.set()

    async def script_calls(self) -> int:
        """How many scripts Redis has run."""
        stats: Any = await self.world.redis.info("commandstats")
        return int(stats.get("cmdstat_evalsha", {}).get("calls", 0)) + int(
            stats.get("cmdstat_eval", {}).get("calls", 0)
        )


@asynccontextmanager
async def front(world: SeckillWorld, **options: Any) -> AsyncIterator[Front]:
    """A process that listens, and knows the activities that run."""
    one = Front(world, **options)
    listening = asyncio.create_task(one.wakeups.run())
    try:
        async with asyncio.timeout(10):
            await one.wakeups.subscribed.wait()
        await one.catch_up()
        yield one
    finally:
        listening.cancel()
        await asyncio.wait([listening])

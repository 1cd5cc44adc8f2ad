"""Activities for the bench: open in a database and in a Redis, with buyers in their lines."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from redis.asyncio import Redis

from mesh.clock import SystemClock
from mesh.db import Database, open_database
from mesh.ids import UlidIds
from mesh.money import Money
from seckill_rpc.app import RETRY_CONSTRAINTS
from seckill_rpc.domain.activity import Activity, ActivityVerb, AdmissionMode
from seckill_rpc.redis.admission_queue import AdmissionQueue
from seckill_rpc.redis.admit import AdmitCode, Click, admit
from seckill_rpc.redis.keys import Keys, keys_of
from seckill_rpc.redis.lease import Lease
from seckill_rpc.redis.loader import ActivityLoader
from seckill_rpc.redis.scripts import Scripts
from seckill_rpc.store import activities
from seckill_rpc.tables import metadata
from seckill_rpc.usecases.consumer.consumer import Consumer
from seckill_rpc.usecases.consumer.queue_reader import ConsumerSettings
from seckill_rpc.usecases.hot_set import HotSet
from seckill_rpc.usecases.rebuild import Rebuilder

HOUR = timedelta(hours=1)
BATCH = 500


async def open_rows(url: str) -> Database:
    """A database with the tables of seckill_rpc."""
    db = open_database(url, metadata, retry_constraints=RETRY_CONSTRAINTS, unit_timeout_seconds=60)
    async with db.engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    return db


class Sale:
    """One activity."""

    def __init__(self, db: Database, redis: Redis, activity: Activity) -> None:
        self.db = db
        self.redis = redis
        self.activity = activity
        self.keys: Keys = keys_of(activity)
        self.scripts = Scripts(redis)
        self.queue = AdmissionQueue(redis, self.scripts)
        self.clock = SystemClock()
        self.ids = UlidIds(self.clock)
        self.loader = ActivityLoader(self.scripts)
        self.rebuilder = Rebuilder(
            db=db, clock=self.clock, ids=self.ids, loader=self.loader, lease=Lease(self.scripts)
        )

    @classmethod
    async def open(
        cls, db: Database, redis: Redis, *, sku_id: str, total: int, limit: int = 1
    ) -> Sale:
        """An activity that sells now."""
        clock = SystemClock()
        now = clock.now()
        activity = (
            Activity.plan(
                activity_id=UlidIds(clock).new("ACT"),
                merchant_id="mall",
                sku_id=sku_id,
                mode=AdmissionMode.FIRST_COME,
                limit_per_user=limit,
                offered=total,
                price=Money(990, "CNY"),
                starts_at=now - HOUR,
                ends_at=now + HOUR,
                at=now,
            )
            .step(ActivityVerb.PUBLISH, at=now)
            .step(ActivityVerb.OPEN, at=now)
        )
        await db.run(activities.insert, activity)
        sale = cls(db, redis, activity)
        if not await sale.rebuilder.rebuild(activity.activity_id):
            raise AssertionError("somebody else rebuilds")
        return sale

    async def admit(self, buyers: range) -> None:
        """Puts buyers into the queue."""
        for first in range(buyers.start, buyers.stop, BATCH):
            clicks = [
                Click(user_id=f"user-{number}", request_id="click", order_id=f"ORD{number:026d}")
                for number in range(first, min(first + BATCH, buyers.stop))
            ]
            _, admissions = await admit(self.scripts, self.keys, clicks, line_max=10**9)
            if any(admission.code is not AdmitCode.QUEUED for admission in admissions):
                raise AssertionError("a buyer was not admitted")

    def consumer(self) -> Consumer:
        """A consumer of this line alone."""
        return Consumer(
            db=self.db,
            queue=self.queue,
            scripts=self.scripts,
            clock=self.clock,
            ids=self.ids,
            running=lambda: [self.activity],
            hot_set=HotSet(monotonic=time.monotonic),
            settings=ConsumerSettings(name=self.ids.new("CON"), batch_size=BATCH),
        )

    async def drain(self) -> None:
        """Serves the queue until it is empty."""
        consumer = self.consumer()
        while await consumer.serve(self.activity):
            pass

    async def commands(self) -> dict[str, int]:
        """How often Redis has run each command."""
        stats: Any = await self.redis.info("commandstats")
        return {name.removeprefix("cmdstat_"): int(value["calls"]) for name, value in stats.items()}

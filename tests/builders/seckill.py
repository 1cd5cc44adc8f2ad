"""seckill_rpc for tests: an activity that is open in a database of the test and on a real Redis,
order_rpc as a test wants it, and short ways to click, consume, return and look."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from redis.asyncio import Redis
from sqlalchemy import RowMapping, Table, select, update

from mesh.call import Caller, Role
from mesh.db import Database
from mesh.errors import RemoteError, UpstreamUnavailable
from mesh.money import Money
from mesh.outbox import OUTBOX
from mesh.relay import Relay
from seckill_rpc.domain.activity import Activity, ActivityState, ActivityVerb, AdmissionMode
from seckill_rpc.domain.order import BuyerStatus
from seckill_rpc.redis.admission_queue import AdmissionQueue
from seckill_rpc.redis.admit import AdmitCode, AdmitReply, Click, admit
from seckill_rpc.redis.connection import open_admission_redis
from seckill_rpc.redis.keys import Keys, keys_of
from seckill_rpc.redis.loader import ActivityLoader, LiveUnit
from seckill_rpc.redis.scripts import Scripts
from seckill_rpc.redis.views import Views
from seckill_rpc.store import activities, orders
from seckill_rpc.tables import ACTIVITY, DEAD_ENTRY, SECKILL_ORDER, metadata
from seckill_rpc.usecases.consumer.consumer import Consumer
from seckill_rpc.usecases.consumer.queue_reader import ConsumerSettings
from seckill_rpc.usecases.hot_set import HotSet
from seckill_rpc.usecases.outbox_to_order import OrderRpcDestination
from seckill_rpc.usecases.outbox_to_redis import RedisDestination
from seckill_rpc.usecases.returns import Returns
from tests.support.databases import create_tables, open_patiently
from tests.support.fakes import FakeClock, FakeIds

HOUR = timedelta(hours=1)
ORDER_RPC = Caller(role=Role.SERVICE, subject="order_rpc", service="order_rpc")


@dataclass
class ScriptedOrderRpc:
    """order_rpc as a test wants it: what it answers, and what it was told."""

    away: bool = False
    refuses: dict[str, str] = field(default_factory=dict)  # user_id -> reason
    silent_about: set[str] = field(default_factory=set)  # user_ids
    refuses_calls: RemoteError | None = None
    orders: dict[str, str] = field(default_factory=dict)  # what it wrote: order_id -> user_id
    # (sku_id, price, currency) of these
    prices: set[tuple[str, str, str]] = field(default_factory=set)
    calls: list[int] = field(default_factory=list)  # orders per call
    # op_id -> (activity_id, quantity)
    returned: dict[str, tuple[str, int]] = field(default_factory=dict)

    async def create_orders(
        self, activity: Activity, orders: Sequence[tuple[str, str]]
    ) -> dict[str, str]:
        self._reach()
        self.calls.append(len(orders))
        decided = {}
        for order_id, user_id in orders:
            if user_id in self.silent_about:
                continue
            decided[order_id] = self.refuses.get(user_id, "")
            if not decided[order_id]:
                self.orders[order_id] = user_id
                self.prices.add((activity.sku_id, activity.price.format(), activity.price.currency))
        return decided

    async def give_back(
        self, *, op_id: str, merchant_id: str, activity_id: str, quantity: int
    ) -> int:
        del merchant_id
        self._reach()
        self.returned[op_id] = (activity_id, quantity)
        return quantity

    def _reach(self) -> None:
        if self.away:
            raise UpstreamUnavailable("order_rpc is away")
        if self.refuses_calls is not None:
            raise self.refuses_calls


class AlwaysHot(HotSet):
    """Looks closely at everything: a consumer of a test takes over what others left at once."""

    def __init__(self) -> None:
        super().__init__(monotonic=lambda: 0.0)

    def is_hot(self, activity_id: str) -> bool:
        return bool(activity_id)


class SeckillWorld:
    """One activity and everything that touches it. Its clock stands still until a test moves it;
    admission goes by the clock of Redis.
    """

    def __init__(self, db: Database, redis: Redis, clock: FakeClock) -> None:
        self.db = db
        self.redis = redis
        self.clock = clock
        self.ids = FakeIds()
        self.scripts = Scripts(redis)
        self.queue = AdmissionQueue(redis, self.scripts)
        self.loader = ActivityLoader(self.scripts)
        self.views = Views(redis)
        self.order_rpc = ScriptedOrderRpc()
        self.returns = Returns(db=db, clock=clock, ids=self.ids)
        self.consumer = self.make_consumer("one")
        self.to_order_rpc = Relay(
            db=db,
            clock=clock,
            destination=OrderRpcDestination(
                db=db, allocations=self.order_rpc, returns=self.returns, clock=clock
            ),
        )
        self.to_redis = Relay(
            db=db, clock=clock, destination=RedisDestination(db=db, queue=self.queue)
        )
        self.opened: list[Activity] = []

    # --- the activity -----------------------------------------------------------------------------

    @property
    def keys(self) -> Keys:
        """Of the activity that was opened last."""
        return keys_of(self.opened[-1])

    def plan(
        self,
        *,
        total: int = 10,
        limit: int = 1,
        sku_id: str = "1001",
        merchant_id: str = "mall",
        price: str = "9.90",
        mode: AdmissionMode = AdmissionMode.FIRST_COME,
    ) -> Activity:
        """A draft whose window is open."""
        now = self.clock.now()
        return Activity.plan(
            activity_id=self.ids.new("ACT"),
            merchant_id=merchant_id,
            sku_id=sku_id,
            mode=mode,
            limit_per_user=limit,
            offered=total,
            price=Money.parse(price, "CNY", allow_zero=True),
            starts_at=now - HOUR,
            ends_at=now + HOUR,
            at=now,
        )

    async def open(self, **plan: Any) -> Activity:
        """An activity that is OPEN in the database and in Redis."""
        now = self.clock.now()
        activity = (
            self.plan(**plan).step(ActivityVerb.PUBLISH, at=now).step(ActivityVerb.OPEN, at=now)
        )
        await self.db.run(activities.insert, activity)
        self.opened.append(activity)
        await self.publish(activity)
        return activity

    async def publish(
        self, activity: Activity, *, units: Iterable[LiveUnit] = (), carries: bool = True
    ) -> None:
        """Loads an epoch into Redis, as a rebuild ends."""
        keys = keys_of(activity)
        assert await self.loader.load_holders(keys, epoch=activity.epoch, units=units)
        assert await self.loader.publish(keys, activity, run_id=await self.loader.run_id())
        if carries:
            cursor: str | None = "start"
            while cursor:
                cursor = await self.loader.carry(
                    keys, epoch=activity.epoch, cursor="" if cursor == "start" else cursor
                )

    async def fence(self) -> Activity:
        """The transaction with which a rebuild begins; Redis still has the older epoch."""

        async def work(tx: Any) -> Activity:
            before = await activities.lock(tx, activity_id=self.keys.activity_id)
            after = before.fence(published_epoch=0, at=self.clock.now())
            await activities.save(tx, after, read_version=before.version)
            return after

        return await self.db.run(work)

    async def begin_epoch_uncarried(self) -> None:
        """As a rebuild leaves it that died before it carried the line: admissions go on in a new
        epoch, who stood in the line has the older one.
        """
        await self.publish(await self.fence(), carries=False)
        await self.redis.hdel(self.keys.meta, "hold")

    async def step(self, verb: ActivityVerb) -> Activity:
        """A step of the row alone; Redis is not told."""

        async def work(tx: Any) -> Activity:
            before = await activities.lock(tx, activity_id=self.keys.activity_id)
            after = before.step(verb, at=self.clock.now())
            await activities.save(tx, after, read_version=before.version)
            return after

        return await self.db.run(work)

    async def close(self) -> Activity:
        """CLOSING, the line, CLOSED, and the tombstone in Redis."""
        closing = await self.step(ActivityVerb.CLOSE)
        await self.loader.write_state(self.keys, closing)
        await self.consume()
        closed = await self.step(ActivityVerb.FINISH)
        await self.loader.write_tombstone(self.keys, closed)
        return closed

    async def rebuild(self) -> Activity:
        """A whole rebuild."""
        await self.loader.hold(self.keys)
        after = await self.fence()
        await self.publish(after, units=await self.live_units())
        return after

    async def live_units(self) -> list[LiveUnit]:
        found = await self.db.read(
            orders.list_holders, activity_id=self.keys.activity_id, after=None, limit=100_000
        )
        return [
            LiveUnit(user_id=each.user_id, request_id=each.request_id, order_id=each.order_id)
            for each in found
        ]

    # --- buyers -----------------------------------------------------------------------------------

    async def click(
        self, user_id: str = "u1", request_id: str = "a", order_id: str = ""
    ) -> AdmitReply:
        """One buyer's click."""
        [admission] = await self.clicks((user_id, request_id, order_id))
        return admission

    async def clicks(self, *clicks: tuple[str, str] | tuple[str, str, str]) -> list[AdmitReply]:
        """Clicks (user, request[, order]) in one call."""
        made = [
            Click(
                user_id=user_id,
                request_id=request_id,
                order_id=(order_id[0] if order_id else "") or self.ids.new("ORD"),
            )
            for user_id, request_id, *order_id in clicks
        ]
        _, admissions = await admit(self.scripts, self.keys, made)
        return admissions

    async def buy(self, user_id: str = "u1", request_id: str = "a", order_id: str = "") -> str:
        """A buyer who clicks and is served; the order's id."""
        admission = await self.click(user_id, request_id, order_id)
        assert admission.code is AdmitCode.QUEUED, admission
        await self.consume()
        return admission.detail

    async def plant(
        self,
        user_id: str,
        request_id: str = "a",
        order_id: str = "",
        *,
        epoch: int | None = None,
        **fields: str,
    ) -> str:
        """An entry of the line that no admission wrote: Redis knows nothing of it. Returns the
        order's id.
        """
        order_id = order_id or self.ids.new("ORD")
        entry: dict[Any, Any] = {
            "o": order_id,
            "u": user_id,
            "r": request_id,
            "e": str(epoch or self.opened[-1].epoch),
            **fields,
        }
        await self.redis.xadd(self.keys.queue, entry)
        return order_id

    async def forget(self, user_id: str) -> None:
        """Redis forgets that a buyer ever came, as after a failover to a replica that had not heard
        of it: his units are in its stock again.
        """
        users: Any = await self.redis.hgetall(self.keys.users)
        names = [
            name
            for name in users
            if name in {user_id, f"{user_id}+"} or name.startswith(f"{user_id}#")
        ]
        await self.redis.hdel(self.keys.users, *names)
        await self.redis.hincrby(self.keys.meta, "stock", int(users[user_id]))
        await self.redis.delete(self.keys.view(user_id))

    # --- those who work ---------------------------------------------------------------------------

    def make_consumer(self, name: str, **choices: Any) -> Consumer:
        """A consumer that takes over at once what others left."""
        values: dict[str, Any] = {
            "batch_size": 500,
            "block_ms": 0,
            "quiet_block_ms": 0,
            "take_over_seconds": 0,
            "min_idle_ms": 0,
            **choices,
        }
        return Consumer(
            db=self.db,
            queue=self.queue,
            scripts=self.scripts,
            clock=self.clock,
            ids=self.ids,
            running=lambda: self.opened,
            hot_set=AlwaysHot(),
            settings=ConsumerSettings(name=name, **values),
        )

    async def consume(self) -> int:
        """Serves the line until there is nothing more to do; how many entries left it."""
        total = 0
        while done := await self.consumer.run_once():
            total += done
        return total

    async def give_back(self, order_id: str) -> bool:
        """ReturnStock, without what follows in Redis."""
        return await self.returns.return_stock(
            order_id=order_id, merchant_id=self.keys.merchant_id, activity_id=self.keys.activity_id
        )

    async def relay(self) -> None:
        """Delivers everything that is due, until nothing is."""
        while await self.to_order_rpc.run_once() + await self.to_redis.run_once():
            pass

    # --- looking ----------------------------------------------------------------------------------

    async def row(self) -> Activity:
        """The activity as its row is now."""
        return await self.db.read(activities.get, activity_id=self.keys.activity_id)

    async def rows(self, table: Table = SECKILL_ORDER) -> list[RowMapping]:
        """Every row of a table."""

        async def work(tx: Any) -> list[RowMapping]:
            return list((await tx.execute(select(table).order_by(*table.primary_key))).mappings())

        return await self.db.read(work)

    async def states(self) -> dict[str, str]:
        """State by order id."""
        return {row["order_id"]: row["state"] for row in await self.rows()}

    async def slots(self, user_id: str) -> dict[str, int]:
        """Slot by order id of a buyer's live orders."""
        return {
            row["order_id"]: row["slot"]
            for row in await self.rows()
            if row["user_id"] == user_id and row["slot"] is not None
        }

    async def messages(self, destination: str) -> list[dict[str, Any]]:
        """Payloads in the outbox for a destination, whatever became of them."""
        return [
            json.loads(row["payload"])
            for row in await self.rows(OUTBOX)
            if row["destination"] == destination
        ]

    async def told(self) -> list[str]:
        """Order ids that order_rpc is to write, or has written."""
        return [
            order_id
            for payload in await self.messages("order_rpc")
            for order_id, _ in payload.get("orders", [])
        ]

    async def dead(self) -> list[RowMapping]:
        return await self.rows(DEAD_ENTRY)

    async def view(self, user_id: str) -> BuyerStatus | None:
        return await self.views.view(self.keys, user_id)

    async def change(self, **values: Any) -> None:
        """Changes the row of the activity behind everybody's back."""

        async def work(tx: Any) -> None:
            await tx.execute(
                update(ACTIVITY)
                .where(ACTIVITY.c.activity_id == self.keys.activity_id)
                .values(**values)
            )

        await self.db.run(work)

    async def check_database(self) -> None:
        """What holds at every instant, whatever Redis says."""
        row = await self.row()
        live = [
            order
            for order in await self.rows()
            if order["activity_id"] == row.activity_id and order["state"] == "LIVE"
        ]
        assert len(live) == row.sold <= row.total, row
        held = Counter(order["user_id"] for order in live)
        assert all(count <= row.limit_per_user for count in held.values()), held
        slots = {(order["user_id"], order["slot"]) for order in live}
        assert len(slots) == len(live), "two orders have a slot"
        assert all(1 <= slot <= row.limit_per_user for _, slot in slots), slots

    async def check_rest(self, *, law: bool = True) -> None:
        """What holds when the line is empty and nothing is due: Redis says what the rows say, of
        every buyer, and each live order was told of once.
        `law` False: Redis' stock was wrong on purpose."""
        await self.check_database()
        row, meta = await self.row(), await self.loader.meta(self.keys)
        assert await self.queue.waiting(self.keys) == (0, 0)
        found = [order for order in await self.rows() if order["activity_id"] == row.activity_id]
        told = Counter(await self.told())
        assert all(told[order["order_id"]] == 1 for order in found if order["state"] == "LIVE"), (
            "told of a live order not once"
        )
        assert all(count == 1 for count in told.values()), "told twice"
        if row.state is ActivityState.CLOSED:
            return
        assert meta is not None
        assert meta.out == 0
        if law:
            assert meta.stock + row.sold == row.total, (meta, row)
        users: Any = await self.redis.hgetall(self.keys.users)
        records = {
            f"{order['user_id']}#{order['request_id']}": f"1{order['order_id']}"
            for order in found
            if order["state"] == "LIVE"
        }
        assert {name: value for name, value in users.items() if "#" in name} == records
        holders = {order["user_id"] for order in found if order["state"] == "LIVE"}
        for user_id in {order["user_id"] for order in found}:
            assert await self.view(user_id) is (
                BuyerStatus.HOLDER if user_id in holders else BuyerStatus.NEITHER
            ), user_id


@asynccontextmanager
async def seckill_world(database_url: str, redis_url: str) -> AsyncIterator[SeckillWorld]:
    """A database that is created here and an empty Redis, without an activity."""
    db = open_patiently(database_url, metadata)
    redis = open_admission_redis(redis_url)
    try:
        await create_tables(db.engine, metadata)
        seconds, _ = await redis.time()
        yield SeckillWorld(db, redis, FakeClock(datetime.fromtimestamp(int(seconds), UTC)))
    finally:
        await redis.aclose()
        await db.close()

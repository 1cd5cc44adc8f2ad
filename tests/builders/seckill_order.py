"""seckill_rpc as it runs, with a real order_rpc in this process and a real Redis: what tests of the
life of activities stand on. A new `app`
is what starts after a crash: it knows nothing of what the one before had in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis.asyncio import Redis
from sqlalchemy import RowMapping, Table, select, update

from mesh import failpoints
from mesh.call import Caller
from mesh.db import Database
from mesh.errors import InvalidArgument, MeshError, NotFound, RemoteError, UpstreamUnavailable
from mesh.events import StreamDestination
from mesh.failpoints import FailpointRaised
from mesh.money import Money
from mesh.outbox import OUTBOX
from mesh.paging import PageTokens
from mesh.relay import Relay
from order_rpc.tables import ALLOCATION, ORDERS, STOCK
from order_rpc.usecases.allocations import AllocateStock, ReturnAllocation, SeckillOrder
from order_rpc.usecases.events import TOPIC
from order_rpc.usecases.outbox_to_seckill import SeckillDestination
from seckill_rpc.app import RETRY_CONSTRAINTS, SeckillApp
from seckill_rpc.domain.activity import Activity, ActivityState, AdmissionMode
from seckill_rpc.domain.order import BuyerStatus
from seckill_rpc.domain.ticket import Tickets
from seckill_rpc.redis.admit import AdmitCode, AdmitReply, Click, admit
from seckill_rpc.redis.connection import COMMAND_SECONDS_MAX, open_admission_redis
from seckill_rpc.redis.keys import keys_of
from seckill_rpc.settings import SeckillSettings
from seckill_rpc.store import activities
from seckill_rpc.tables import ACTIVITY, SECKILL_ORDER, metadata
from seckill_rpc.usecases.activity_lifecycle.activities import ActivityView, CreateActivity
from seckill_rpc.usecases.consumer.consumer import Consumer
from seckill_rpc.usecases.consumer.queue_reader import ConsumerSettings
from tests.builders.order import SECKILL_RPC, OrderApp, merchant, order_app
from tests.builders.seckill import AlwaysHot
from tests.conftest import PROOF
from tests.support.databases import create_tables, open_patiently
from tests.support.fakes import FakeClock, FakeIds

SECRET = b"tickets and pages of seckill_rpc"
# For tests of which many are alike, and of nothing that differs between databases: one of the two
# will do, except under `make proof`.
on_one_database = pytest.mark.parametrize(
    "dialect", ["sqlite", "mariadb"] if PROOF else ["mariadb"]
)
HOUR = timedelta(hours=1)
_NOT_FOUND, _INVALID, _PRECONDITION = 5, 3, 9


class ShelfInProcess:
    """order_rpc without the wire, for seckill_rpc. `away` makes it unreachable, `lose_answers` lets
    calls arrive and forgets what came back.
    """

    def __init__(self, orders: OrderApp) -> None:
        self._orders = orders
        self.away = False
        self.lose_answers = False
        self.allocations = 0

    async def currency_of(self, activity: Activity) -> str:
        product = await self._ask(
            self._orders.catalog.get_product(
                merchant_id=activity.merchant_id, sku_id=activity.sku_id
            )
        )
        return str(product.price.currency)

    async def allocate(self, activity: Activity, *, op_id: str) -> int:
        self.allocations += 1
        return int(
            await self._ask(
                self._orders.allocations.allocate_stock(
                    AllocateStock(
                        op_id=op_id,
                        merchant_id=activity.merchant_id,
                        activity_id=activity.activity_id,
                        sku_id=activity.sku_id,
                        quantity=activity.offered,
                    ),
                    SECKILL_RPC,
                )
            )
        )

    async def give_back(
        self, *, op_id: str, merchant_id: str, activity_id: str, quantity: int
    ) -> int:
        return int(
            await self._ask(
                self._orders.allocations.return_allocation(
                    ReturnAllocation(
                        op_id=op_id,
                        merchant_id=merchant_id,
                        activity_id=activity_id,
                        quantity=quantity,
                    ),
                    SECKILL_RPC,
                )
            )
        )

    async def create_orders(
        self, activity: Activity, orders: Sequence[tuple[str, str]]
    ) -> dict[str, str]:
        wanted = [
            SeckillOrder(
                order_id=order_id,
                merchant_id=activity.merchant_id,
                user_id=user_id,
                activity_id=activity.activity_id,
                sku_id=activity.sku_id,
                price=activity.price,
            )
            for order_id, user_id in orders
        ]
        reasons = await self._ask(
            self._orders.allocations.create_seckill_orders(wanted, SECKILL_RPC)
        )
        return {order.order_id: reason for order, reason in zip(wanted, reasons, strict=True)}

    async def _ask(self, call: Any) -> Any:
        if self.away:
            call.close()
            raise UpstreamUnavailable("order_rpc is away")
        try:
            answer = await call
        except MeshError as error:
            code = (
                _NOT_FOUND
                if isinstance(error, NotFound)
                else _INVALID
                if isinstance(error, InvalidArgument)
                else _PRECONDITION
            )
            raise RemoteError(
                error.message, remote_reason=error.reason, domain="paymesh.order.v1", grpc_code=code
            ) from error
        if self.lose_answers:
            raise UpstreamUnavailable("the answer was lost")
        return answer


@dataclass
class SeckillOrderWorld:
    """Both services and everything that works in their background."""

    db: Database
    redis: Redis
    clock: FakeClock
    orders: OrderApp
    settings: SeckillSettings
    redis_url: str

    def __post_init__(self) -> None:
        self.ids = FakeIds()
        self.shelf = ShelfInProcess(self.orders)
        self.orders.seckill_rpc.return_stock = self._return_stock  # type: ignore[method-assign]  # the real one instead of the scripted one
        self.of_orders = [
            Relay(db=self.orders.db, clock=self.clock, destination=destination)
            for destination in (
                SeckillDestination(self.orders.seckill_rpc),
                StreamDestination(self.redis, TOPIC),
            )
        ]
        self.databases: dict[str, Database] = {}  # by service, for those who look into all of them
        self.app = self.start()

    def start(self, redis: Redis | None = None) -> SeckillApp:
        """Another process of seckill_rpc."""
        allocations: Any = self.shelf
        app = SeckillApp(
            db=self.db,
            redis=redis or self.redis,
            clock=self.clock,
            monotonic=lambda: self.clock.now().timestamp(),
            jitter=lambda: 0.5,
            ids=self.ids,
            page_tokens=PageTokens(SECRET),
            tickets=Tickets(SECRET),
            allocations=allocations,
            settings=self.settings,
        )
        app.consumers[:] = [
            Consumer(  # one that does not wait for anybody
                db=self.db,
                queue=app.queue,
                scripts=app.scripts,
                clock=self.clock,
                ids=self.ids,
                running=app.registry.running,
                hot_set=AlwaysHot(),
                settings=ConsumerSettings(
                    name=self.ids.new("CON"),
                    block_ms=0,
                    quiet_block_ms=0,
                    take_over_seconds=0,
                    min_idle_ms=0,
                ),
            )
        ]
        return app

    def restart(self) -> None:
        """The process died; the next one starts with nothing in memory, a while later."""
        failpoints.arm("", environment="test")
        self.app = self.start()
        self.clock.advance(10)

    # --- the shop ---------------------------------------------------------------------------------

    async def draft(
        self,
        *,
        total: int = 10,
        limit: int = 1,
        mode: AdmissionMode = AdmissionMode.FIRST_COME,
        price: str = "5.00",
        currency: str = "CNY",
        sku_id: str = "mug",
        key: str = "",
        starts_in: timedelta = -HOUR,
        ends_in: timedelta = HOUR,
        caller: Caller | None = None,
    ) -> Activity:
        """A draft whose window is open."""
        caller = caller or merchant()
        now = self.clock.now()
        shown = await self.app.activities.create(
            CreateActivity(
                merchant_id=caller.merchant_id,
                sku_id=sku_id,
                price=Money.parse(price, currency),
                mode=mode,
                limit_per_user=limit,
                offered=total,
                starts_at=now + starts_in,
                ends_at=now + ends_in,
                idempotency_key=key,
                fingerprint={"total": str(total), "sku_id": sku_id},
            ),
            caller,
        )
        return shown.activity

    async def opened(self, **draft: Any) -> Activity:
        """An activity that is open, in both."""
        activity = await self.draft(**draft)
        shown = await self.verb("publish", activity)
        assert shown.activity.state is ActivityState.OPEN, shown
        assert shown.live is not None
        return await self.load(activity)

    async def verb(
        self, name: str, activity: Activity, *, caller: Caller | None = None
    ) -> ActivityView:
        """publish, pause, resume, close or get, as the shop does it."""
        shown: ActivityView = await getattr(self.app.activities, name)(
            activity_id=activity.activity_id,
            merchant_id=activity.merchant_id,
            caller=caller or merchant(activity.merchant_id),
        )
        return shown

    # --- buyers -----------------------------------------------------------------------------------

    async def click(self, activity: Activity, user_id: str, request_id: str = "a") -> AdmitReply:
        """One click at Redis' door."""
        [admission] = await self.clicks(activity, (user_id, request_id))
        return admission

    async def clicks(self, activity: Activity, *clicks: tuple[str, str]) -> list[AdmitReply]:
        """Clicks (user, request) in one call."""
        made = [
            Click(user_id=user_id, request_id=request_id, order_id=self.ids.new("ORD"))
            for user_id, request_id in clicks
        ]
        _, admissions = await admit(self.app.scripts, keys_of(activity), made)
        return admissions

    async def buy(self, activity: Activity, *user_ids: str) -> list[str]:
        """Buyers who are admitted and served; their order ids."""
        admissions = [await self.click(activity, user_id) for user_id in user_ids]
        assert {each.code for each in admissions} == {AdmitCode.QUEUED}, admissions
        await self.consume()
        return [each.detail for each in admissions]

    async def return_stock(self, activity: Activity, order_id: str) -> bool:
        """order_rpc says that an order was not paid."""
        return await self.app.returns.return_stock(
            order_id=order_id, merchant_id=activity.merchant_id, activity_id=activity.activity_id
        )

    async def cancel(self, order_id: str) -> None:
        """A buyer cancels at order_rpc, which tells us."""
        await self.orders.cancel(
            await self.orders.orders.get(merchant_id="mall", order_id=order_id, caller=SECKILL_RPC)
        )
        await self.relay()

    async def _return_stock(self, *, merchant_id: str, activity_id: str, order_id: str) -> None:
        await self.app.returns.return_stock(
            order_id=order_id, merchant_id=merchant_id, activity_id=activity_id
        )

    # --- time and workers -------------------------------------------------------------------------

    async def consume(self) -> int:
        """Serves all lines until there is nothing more to do."""
        await self.app.registry.refresh()
        total = 0
        while done := await self.app.consumers[0].run_once():
            total += done
        return total

    async def relay(self) -> None:
        """Delivers what is due."""
        for _ in range(20):
            if not sum([await relay.run_once() for relay in (*self.app.relays, *self.of_orders)]):
                return

    async def keep(self, *, rounds: int = 1, seconds: float = 0.2) -> int:
        """Rounds of the keeper, some time apart; how many repairs it made."""
        done = 0
        for _ in range(rounds):
            done += await self.app.reconciler.run_once()
            self.clock.advance(seconds)
        return done

    async def end_window(self, activity: Activity) -> Activity:
        """Its end was a moment ago, by the clock of Redis; in the row and there."""
        row = await self.load(activity)
        await self.change(row, ends_at=await self.now(), rev=row.rev + 1)
        row = await self.load(row)
        await self.app.loader.write_state(keys_of(row), row)
        return row

    async def end_leases(self) -> None:
        """Those who died while they rebuilt something are not waited for any more."""
        if names := await self.redis.keys("seckill:*:rebuilder"):
            await self.redis.delete(*names)

    async def settle(self, *, rounds: int = 4) -> None:
        """Time passes, and all workers do what there is to do."""
        for _ in range(rounds):
            await self.keep()
            await self.app.publisher.run_once()
            await self.app.draws.run_once()
            await self.consume()
            await self.relay()
            await self.app.closer.run_once()
            await self.relay()
            self.clock.advance(10)

    async def now(self) -> datetime:
        """By the clock that admits."""
        return datetime.fromtimestamp(await self.app.loader.now_ms() / 1000, UTC)

    # --- looking ----------------------------------------------------------------------------------

    async def load(self, activity: Activity) -> Activity:
        """The row as it is now."""
        return await self.db.read(activities.get, activity_id=activity.activity_id)

    async def change(self, activity: Activity, **values: Any) -> None:
        """Changes a row behind everybody's back."""
        await self.execute(
            update(ACTIVITY).where(ACTIVITY.c.activity_id == activity.activity_id).values(**values)
        )

    async def rows(self, table: Table = SECKILL_ORDER) -> list[RowMapping]:
        """Every row of a table of seckill_rpc."""

        async def work(tx: Any) -> list[RowMapping]:
            return list((await tx.execute(select(table).order_by(*table.primary_key))).mappings())

        return await self.db.read(work)

    async def execute(self, statement: Any) -> None:
        """One statement in a transaction of its own."""

        async def work(tx: Any) -> None:
            await tx.execute(statement)

        await self.db.run(work)

    async def tags(self, destination: str = "stream:SECKILL_TOPIC") -> list[str]:
        """Tags of the messages for a destination, whatever became of them."""
        return [row["tag"] for row in await self.rows(OUTBOX) if row["destination"] == destination]

    async def view(self, activity: Activity, user_id: str) -> BuyerStatus | None:
        return await self.app.views.view(keys_of(activity), user_id)

    async def shelf_units(self, sku_id: str = "mug") -> tuple[int, int]:
        """(available, allocated) of a product."""
        [row] = [row for row in await self.orders.rows(STOCK) if row["sku_id"] == sku_id]
        return row["available"], row["allocated"]

    async def problems(self, activity: Activity) -> list[str]:
        """What does not hold once everything is quiet: units, orders on both sides, Redis."""
        row = await self.load(activity)
        live = [
            order
            for order in await self.rows()
            if order["activity_id"] == row.activity_id and order["state"] == "LIVE"
        ]
        given = sum(
            each["allocated"] - each["returned"]
            for each in await self.orders.rows(ALLOCATION)
            if each["activity_id"] == row.activity_id
        )
        written = {order["order_id"] for order in await self.orders.rows(ORDERS)}
        undelivered = [
            message["tag"] for message in await self.rows(OUTBOX) if message["state"] != "DONE"
        ]
        problems = await self.orders.stock_problems()
        problems += [
            f"{what}: {left} is not {right}"
            for what, left, right in [
                ("live orders and sold", len(live), row.sold),
                ("units given and total", given, row.total),
                (
                    "live orders in order_rpc",
                    {order["order_id"] for order in live} - written,
                    set(),
                ),
                ("undelivered", undelivered, []),
            ]
            if left != right
        ]
        meta = await self.app.loader.meta(keys_of(row))
        if row.state in {ActivityState.OPEN, ActivityState.PAUSED, ActivityState.CLOSING}:
            if meta is None or (
                meta.stock + row.sold,
                meta.out,
                meta.epoch,
                meta.state,
                meta.is_held,
            ) != (row.total, 0, row.epoch, row.state, False):
                problems.append(f"redis has {meta}, the row is {row}")
            users: Any = await self.redis.hgetall(keys_of(row).users)
            if {name: value for name, value in users.items() if "#" in name} != {
                f"{order['user_id']}#{order['request_id']}": f"1{order['order_id']}"
                for order in live
            }:
                problems.append(f"redis has holders {users}")
            problems += [
                f"{order['user_id']} holds {order['order_id']} and is told {view}"
                for order in live
                if (view := await self.view(row, order["user_id"])) is not BuyerStatus.HOLDER
            ]
        elif (
            row.state is ActivityState.CLOSED
            and row.epoch
            and (meta is None or meta.state != "CLOSED")
        ):
            problems.append(f"redis has {meta} of a closed activity")
        return problems


@asynccontextmanager
async def seckill_order_world(
    database_url: str,
    order_url: str,
    redis_url: str,
    *,
    command_seconds: float = COMMAND_SECONDS_MAX,
    **settings: Any,
) -> AsyncIterator[SeckillOrderWorld]:
    """Fresh databases, an empty Redis, and a mug of which the shelf has 100."""
    db = open_patiently(database_url, metadata, retry_constraints=RETRY_CONSTRAINTS)
    redis = open_admission_redis(redis_url, command_seconds=command_seconds)
    try:
        await create_tables(db.engine, metadata)
        async with order_app(order_url) as orders:
            seconds, _ = await redis.time()
            orders.clock.set(datetime.fromtimestamp(int(seconds), UTC))
            await orders.product("mug", "10.00", available=100)
            yield SeckillOrderWorld(
                db=db,
                redis=redis,
                clock=orders.clock,
                orders=orders,
                settings=SeckillSettings(environment="test", **settings),
                redis_url=redis_url,
            )
    finally:
        failpoints.arm("", environment="test")
        await redis.aclose()
        await db.close()


def before(thing: Any, name: str, action: Callable[[], Awaitable[Any]]) -> None:
    """Does something right before a method of a thing runs for the next time."""
    method = getattr(thing, name)

    async def first(*args: Any, **kwargs: Any) -> Any:
        setattr(thing, name, method)
        await action()
        return await method(*args, **kwargs)

    setattr(thing, name, first)


async def struck(call: Any) -> bool:
    """Makes a call that an armed point may end; True when it struck."""
    try:
        await call
    except FailpointRaised:
        return True
    return False

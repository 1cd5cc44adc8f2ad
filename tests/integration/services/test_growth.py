"""A month of traffic: tables and keys that are emptied reach a size that they keep, and whatever
grows for ever says why.

Every day has the same traffic; so a table that is emptied has as many rows in the last ten days as
in the ten days before. The numbers per day are small, a whole run of `make proof` has more of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from sqlalchemy import Table, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

import mesh.events
import order_rpc.tables as of_orders
import payment_rpc.tables as of_payments
import seckill_rpc.tables as of_sales
from mesh.db import Database
from mesh.log_chain import LOG_CHAIN
from mesh.purge import purge_worker
from mesh.worker import Worker
from order_rpc.usecases.events import TOPIC as ORDER_TOPIC
from payment_rpc.domain.errors import CardDeclined
from payment_rpc.usecases.messages import PAYMENT_TOPIC
from seckill_rpc.app import RETRY_CONSTRAINTS
from seckill_rpc.redis.connection import open_admission_redis
from seckill_rpc.settings import SeckillSettings
from seckill_rpc.usecases.events import TOPIC as SECKILL_TOPIC
from tests.builders.order import buyer
from tests.builders.order_payment import JoinedWorld, joined_world
from tests.builders.payment import CONFIG, DECLINED
from tests.builders.seckill_order import HOUR, SeckillOrderWorld
from tests.conftest import PROOF
from tests.support.databases import create_tables, open_patiently

DAYS = 30
SALE_EVERY_DAYS = 5
# 14 by default: a month is long enough for three to show whether they are deleted
DELIVERED_KEPT = timedelta(days=3)
SCANS_KEPT = timedelta(days=7)  # 30 by default
STREAM_LENGTH = 100
TOPICS = (ORDER_TOPIC, PAYMENT_TOPIC, SECKILL_TOPIC)

# Emptied by a worker: retentions are in docs/operations.md.
EMPTIED = {
    "receipt",
    "outbox",
    "inbox",
    "scan_action",
    "channel_callback",
    "log_chain/scan_action",
    "log_chain/channel_callback",
}
# Genuine callbacks are kept for 180 days, as long as a charge may be disputed: longer than this
# month.
LONGER_THAN_A_MONTH = {"channel_callback", "log_chain/channel_callback"}
# Never emptied, and why. docs/operations.md names each of them.
FOR_EVER = {
    "payment": "the books",
    "attempt": "the books",
    "refund": "the books",
    "ledger_transaction": "the books",
    "ledger_posting": "the books",
    "wallet": "the books",
    "wallet_entry": "the books",
    "order_gate": "a closed order must never be paid",
    "attention": "decisions about money",
    "channel_account": "money of its payments may come and go back for ever",
    "channel_account_change": "evidence",
    "statement_import": "evidence",
    "statement_difference": "evidence",
    "orders": "the books",
    "order_item": "the books",
    "external_order": "a merchant's number names one order for ever",
    "reservation": "the books",
    "payment_disposition": "an order answers a payment alike for ever",
    "order_audit": "evidence",
    "refund_request": "the books",
    "refund_line": "the books",
    "stock_return": "evidence",
    "stock_movement": "evidence",
    "product": "what is sold",
    "stock": "one row per product",
    "allocation": "one row per sale",
    "allocation_step": "evidence",
    "statistic": "figures of every quarter of an hour",
    "statistic_entry": "folded into statistic within seconds",
    "activity": "what was sold",
    "seckill_order": "a ticket is answered alike for ever",
    "dead_entry": "evidence",
    "log_chain/order_audit": "heads of evidence",
    "log_chain/stock_movement": "heads of evidence",
    "log_chain/wallet_entry": "heads of evidence",
}


@dataclass
class Month:
    """All three services on one clock, with the workers that empty tables."""

    joined: JoinedWorld
    sales: SeckillOrderWorld
    redis: Redis
    databases: dict[str, tuple[Database, Any]]
    per_day: int
    sizes: list[Counter[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        money = self.joined.money
        order_app = self.joined.orders.make(redis=self.redis)
        payment_app = money.make_app(
            events=self.redis, config=replace(CONFIG, scan_action_retention_days=SCANS_KEPT.days)
        )
        purges = [
            purge_worker(db=db, clock=money.clock, retention=DELIVERED_KEPT)
            for db, _ in self.databases.values()
        ]
        apps: list[Any] = [order_app, payment_app, self.sales.app]
        workers = [worker for app in apps for worker in app.workers if isinstance(worker, Worker)]
        self.workers = [
            worker
            for worker in workers
            if worker.name.startswith(("purge", "relay", "forget", "fold", "finish"))
        ] + purges

    async def day(self, number: int) -> None:
        """What happens on each day."""
        money, orders = self.joined.money, self.joined.orders
        for each in range(self.per_day):
            paid = await orders.order(caller=buyer(f"u{each}"), key=f"order-{number}-{each}")
            payment = await money.charge(paid, key=f"pay-{number}-{each}")
            declined = await orders.order(caller=buyer(f"u{each}"))
            with suppress(CardDeclined):
                await money.charge(declined, number=DECLINED, key=f"declined-{number}-{each}")
            money.channel.lose_answers = True  # the scan asks what became of it
            await money.charge(
                await orders.order(caller=buyer(f"u{each}")), key=f"lost-{number}-{each}"
            )
            money.channel.lose_answers = False
            await money.finish(rounds=1)  # before the channel calls
            cashier = await money.cashier(await orders.order(caller=buyer(f"u{each}")))
            await money.press(cashier)
            await self.joined.settle(rounds=1)
            refund = await orders.refund(
                await orders.load(paid), amount="1.00", key=f"refund-{number}-{each}"
            )
            await orders.approve(refund)
            assert (await money.payment(payment.payment_id)).captured.minor
        if number % SALE_EVERY_DAYS == 0:
            await self.sale(number)
        for _ in range(2):
            money.clock.advance(timedelta(hours=11, minutes=55).total_seconds())
            await self.joined.settle(rounds=1)  # what nobody paid is over by then
            await self.work()
        self.sizes.append(await self.size())

    async def sale(self, number: int) -> None:
        """A flash sale, with more buyers than units."""
        # Redis admits by a clock of its own
        behind = self.joined.money.clock.now() - await self.sales.now()
        sku_id = f"sale-{number}"
        await self.joined.orders.product(sku_id, available=10)
        activity = await self.sales.opened(total=2, sku_id=sku_id, starts_in=-behind - HOUR)
        for user in range(4):
            await self.sales.click(activity, f"u{user}")
        await self.sales.consume()
        await self.sales.settle()
        assert (await self.sales.load(activity)).sold == 2
        await self.sales.verb("close", activity)
        await self.sales.settle()

    async def work(self) -> None:
        """Every worker that delivers or empties, until it finds nothing."""
        for worker in self.workers:
            for _ in range(1000):
                if not await worker._run_once():
                    break
        await self.joined.money.callbacks()

    async def size(self) -> Counter[str]:
        """Rows by table, of all services; chains by the log that they are heads of."""
        sizes: Counter[str] = Counter()
        for db, metadata in self.databases.values():
            for table in metadata.tables.values():
                for name, rows in (await db.read(_rows, table)).items():
                    sizes[name] += rows
        return sizes


async def _rows(tx: AsyncConnection, table: Table) -> dict[str, int]:
    if table.name == LOG_CHAIN.name:
        counted = await tx.execute(select(table.c.log, func.count()).group_by(table.c.log))
        return {f"{table.name}/{log}": rows for log, rows in counted}
    return {table.name: (await tx.execute(select(func.count()).select_from(table))).scalar_one()}


@pytest.fixture
async def month(
    database_url_factory: Callable[[], str],
    redis_url: str,
    tmp_path: Path,
    rounds: Callable[[int, int], int],
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Month]:
    monkeypatch.setattr(mesh.events, "STREAM_LENGTH_MAX", STREAM_LENGTH)
    async with AsyncExitStack() as stack:
        redis = open_admission_redis(redis_url)
        stack.push_async_callback(redis.aclose)
        joined = await stack.enter_async_context(
            joined_world(database_url_factory(), database_url_factory(), tmp_path, redis=redis)
        )
        db = open_patiently(
            database_url_factory(), of_sales.metadata, retry_constraints=RETRY_CONSTRAINTS
        )
        stack.push_async_callback(db.close)
        await create_tables(db.engine, of_sales.metadata)
        sales = SeckillOrderWorld(
            db=db,
            redis=redis,
            clock=joined.money.clock,
            orders=joined.orders,
            settings=SeckillSettings(environment="test"),
            redis_url=redis_url,
        )
        sales.ids = joined.money.ids  # orders of both kinds lie in one table
        sales.app = sales.start()
        joined.money.clock.set(await sales.now())
        await joined.orders.product("mug", "10.00", available=100_000)
        databases = {
            "payment_rpc": (joined.money.db, of_payments.metadata),
            "order_rpc": (joined.orders.db, of_orders.metadata),
            "seckill_rpc": (db, of_sales.metadata),
        }
        yield Month(
            joined=joined, sales=sales, redis=redis, databases=databases, per_day=rounds(1, 10)
        )


@pytest.mark.timeout(3600 if PROOF else 600)
@pytest.mark.parametrize("dialect", ["sqlite", "mariadb"] if PROOF else ["sqlite"])
async def test_a_month_of_traffic_lets_nothing_grow_that_is_emptied_and_half_a_year_empties_it(
    month: Month,
) -> None:
    for number in range(DAYS):
        await month.day(number)

    assert set(month.sizes[-1]) <= EMPTIED | FOR_EVER.keys(), (
        "a new table: is it emptied, or why not?"
    )
    before, last = month.sizes[10:20], month.sizes[20:30]
    for name in EMPTIED - LONGER_THAN_A_MONTH:
        assert max(each[name] for each in before) > 0, (
            f"nothing was ever in {name}: this proves nothing"
        )
        assert max(each[name] for each in last) <= max(each[name] for each in before), (
            f"{name} grows: {[each[name] for each in month.sizes]}"
        )
    assert month.sizes[-1]["orders"] > month.sizes[-10]["orders"] > 0
    for topic in TOPICS:
        # Redis trims whole nodes, of 100 entries by default
        assert 0 < await month.redis.xlen(topic) <= 2 * STREAM_LENGTH
    forever = [
        key
        for key in await month.redis.keys()
        if key not in TOPICS and await month.redis.ttl(key) < 0
    ]
    assert forever == []

    await _half_a_year_of_silence(month.joined.money.clock.advance, month.work)
    left = await month.size()
    assert {name: left[name] for name in EMPTIED if left[name]} == {}


async def _half_a_year_of_silence(
    advance: Callable[[float], None], work: Callable[[], Awaitable[None]]
) -> None:
    advance(timedelta(days=181).total_seconds())
    await work()


def test_operators_read_of_every_table_that_grows_for_ever() -> None:
    page = (Path(__file__).parents[3] / "docs" / "operations.md").read_text()
    missing = [
        name for name in FOR_EVER if not name.startswith("log_chain/") and f"`{name}`" not in page
    ]
    assert missing == []

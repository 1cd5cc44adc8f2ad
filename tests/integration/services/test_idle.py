"""What nobody uses costs nearly nothing, counted in statements and Redis commands rather than in
time; and it wakes at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from mesh import traffic, worker
from mesh.clock import seconds_until
from mesh.db import Database
from mesh.worker import QUIET_SECONDS, Worker
from order_rpc.domain.order import OrderState
from seckill_rpc.domain.activity import Activity
from seckill_rpc.redis.admit import AdmitCode
from seckill_rpc.redis.keys import keys_of
from seckill_rpc.usecases import hot_set
from seckill_rpc.usecases.consumer.consumer import Consumer
from seckill_rpc.usecases.consumer.queue_reader import ConsumerSettings
from seckill_rpc.usecases.reconciler import OTHERS
from tests.builders.payment import PaymentWorld, payment_world
from tests.builders.seckill_order import SeckillOrderWorld, seckill_order_world

SELDOM = ("purge_", "correct_", "forget_")  # workers with long pauses of their own
PATIENCE = 20.0
YEARS = timedelta(days=3650)


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a test prepares is long over."""
    monkeypatch.setattr(traffic, "BUSY_SECONDS", 0.0)
    monkeypatch.setattr(worker._jitter, "uniform", lambda low, high: 1.0)
    monkeypatch.setattr(worker, "together", lambda seconds: seconds)


@pytest.fixture
async def payments(
    database_url_factory: Callable[[], str], tmp_path: Path
) -> AsyncIterator[PaymentWorld]:
    async with payment_world(database_url_factory(), database_url_factory(), tmp_path) as world:
        yield world


@pytest.fixture
async def sale(
    database_url_factory: Callable[[], str], redis_url: str
) -> AsyncIterator[SeckillOrderWorld]:
    async with seckill_order_world(
        database_url_factory(), database_url_factory(), redis_url, command_seconds=PATIENCE
    ) as world:
        yield world


@contextmanager
def statements(*databases: Database) -> Any:
    """The statements that run within the block."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith(("BEGIN", "SET ", "START", "COMMIT", "ROLLBACK")):
            seen.append(statement)

    engines = [engine.sync_engine for db in databases for engine in (db._writer, db._reader)]
    for engine in engines:
        event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        for engine in engines:
            event.remove(engine, "before_cursor_execute", note)


async def one_round(workers: Sequence[Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """One round of each worker, and the pause that it makes after it."""
    pauses: dict[str, float] = {}

    async def pause(self: Worker, seconds: float) -> None:
        pauses[self.name] = seconds
        self.stop()

    with monkeypatch.context() as patched:
        patched.setattr(Worker, "_pause", pause)
        for each in workers:
            if isinstance(each, Worker) and not each.name.startswith((*SELDOM, "consume_")):
                each._stopping = False
                await asyncio.create_task(each.run())
    return pauses


async def test_the_workers_of_idle_services_ask_one_question_each_in_ten_seconds(
    payments: PaymentWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = [*payments.app.workers, *payments.order_side.real.workers]
    await one_round(workers, monkeypatch)
    with statements(payments.db, payments.order_side.db) as seen:
        pauses = await one_round(workers, monkeypatch)
    assert set(pauses.values()) == {QUIET_SECONDS}
    assert len(seen) == len(pauses), seen


async def test_what_has_a_due_time_is_done_at_its_time_by_an_idle_service(
    payments: PaymentWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = await payments.order()
    workers = [each for each in payments.order_side.real.workers if each.name == "expire_orders"]
    seconds = seconds_until(order.expires_at, payments.clock.now())
    assert seconds is not None
    payments.clock.advance(seconds - 3)
    assert await one_round(workers, monkeypatch) == {"expire_orders": 3.0}
    payments.clock.advance(3)
    await one_round(workers, monkeypatch)
    assert await payments.order_state(order) is not OrderState.PENDING_PAYMENT


async def served(sale: SeckillOrderWorld) -> dict[str, int]:
    """Commands that Redis has run, those of scripts too, but not the question itself."""
    stats: Any = await sale.redis.info("commandstats")
    return {name: int(each["calls"]) for name, each in stats.items() if "config" not in name}


async def closed_shops(sale: SeckillOrderWorld, count: int) -> list[Activity]:
    """Activities that sell nothing: not begun, paused and sold out in turn; everything about them
    is done.
    """
    found = []
    for number in range(count):
        begins = YEARS if number % 3 == 0 else timedelta(hours=-1)
        activity = await sale.opened(
            sku_id=f"sku-{number}", total=1, starts_in=begins, ends_in=YEARS + timedelta(days=1)
        )
        if number % 3 == 1:
            await sale.verb("pause", activity)
        elif number % 3 == 2:
            await sale.buy(activity, "u1")
        found.append(activity)
    await sale.settle()
    sale.clock.advance(hot_set.HOT_SECONDS)
    return found


async def test_activities_that_sell_nothing_cost_a_round_a_few_commands_however_many_there_are(
    sale: SeckillOrderWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(31):
        await sale.orders.product(f"sku-{number}", "10.00", available=10)
    await closed_shops(sale, 30)
    await one_round(sale.app.workers, monkeypatch)  # the first one looks at all of them
    sale.clock.advance(hot_set.HOT_SECONDS)
    before = await served(sale)
    with statements(sale.db) as seen:
        pauses = await one_round(sale.app.workers, monkeypatch)
    after = await served(sale)
    used = {
        name: count - before.get(name, 0)
        for name, count in after.items()
        if count > before.get(name, 0)
    }
    assert set(pauses.values()) == {QUIET_SECONDS}
    assert sum(used.values()) <= 2 * OTHERS + 4, used
    assert len(seen) <= len(pauses) + OTHERS + 4, seen


def blocking(sale: SeckillOrderWorld) -> Consumer:
    """A consumer that waits in Redis as it does in production."""
    return Consumer(
        db=sale.db,
        queue=sale.app.queue,
        scripts=sale.app.scripts,
        clock=sale.clock,
        ids=sale.ids,
        running=sale.app.registry.running,
        hot_set=sale.app.hot_set,
        settings=ConsumerSettings(name=sale.ids.new("CON")),
    )


async def until_it_waits(sale: SeckillOrderWorld, count: int = 1) -> None:
    """Returns when so many consumers wait in Redis."""
    async with asyncio.timeout(PATIENCE):
        while int((await sale.redis.info("clients"))["blocked_clients"]) < count:  # noqa: ASYNC110  Redis has no event for it
            await asyncio.sleep(0)


async def test_one_command_waits_for_the_entries_of_all_lines_and_ends_with_the_first_entry(
    sale: SeckillOrderWorld,
) -> None:
    for number in range(9):
        await sale.orders.product(f"sku-{number}", "10.00", available=10)
    shops = await closed_shops(sale, 9)
    consumer = blocking(sale)
    before = (await served(sale)).get("cmdstat_xreadgroup", 0)
    waiting = asyncio.create_task(consumer.run_once())
    await until_it_waits(sale)
    assert not waiting.done()
    paused = shops[1]
    await sale.verb("resume", paused)
    assert (await sale.click(paused, "u1")).code is AdmitCode.QUEUED
    async with asyncio.timeout(PATIENCE):
        done = await waiting or await consumer.run_once()
    assert done == 1
    assert (await served(sale))["cmdstat_xreadgroup"] - before <= 3


async def test_an_activity_that_opens_while_a_consumer_waits_is_served_beside_that_wait(
    sale: SeckillOrderWorld,
) -> None:
    for name in ("old", "new"):
        await sale.orders.product(name, "10.00", available=10)
    await sale.opened(sku_id="old")
    consumer = blocking(sale)
    # longer than a sale is opened here, and far less than a command of this client may take
    consumer._reader._settings = ConsumerSettings(name="C", block_ms=4000, quiet_block_ms=4000)
    sale.app.registry.on_change(lambda _: consumer.changed())
    waiting = asyncio.create_task(consumer.run_once())
    await until_it_waits(sale)
    opened = await sale.opened(sku_id="new")
    assert (await sale.click(opened, "u1")).code is AdmitCode.QUEUED
    async with asyncio.timeout(PATIENCE):
        assert await waiting == 0, "the change ended its wait"
        assert len(consumer._reader._reads) == 1, "which goes on beside the next one"
        assert await consumer.run_once() == 1
        while consumer._reader._reads:
            await consumer.run_once()


async def test_after_a_quiet_time_the_first_change_wakes_every_worker(
    payments: PaymentWorld,
) -> None:
    woken = {each.name for each in payments.app.workers if each._wake.is_set()}
    assert woken == set()
    await payments.charge(await payments.order())
    assert {each.name for each in payments.app.workers if each._wake.is_set()} == {
        each.name for each in payments.app.workers if not each.name.startswith(SELDOM)
    }


async def test_a_line_whose_group_was_removed_is_mended_by_itself(sale: SeckillOrderWorld) -> None:
    activity = await sale.opened()
    await sale.buy(activity, "u1")
    for damage in ("group", "line"):
        keys = keys_of(activity)
        await (
            sale.redis.xgroup_destroy(keys.queue, "orders")
            if damage == "group"
            else sale.redis.delete(keys.queue)
        )
        await sale.consume()
        assert sale.app.consumers[0].has_lost_queue(activity.activity_id)
        repaired = 0
        for _ in range(20):
            repaired += await sale.keep(seconds=0.2)
        assert repaired == 1, damage
        assert (await sale.click(activity, f"u-{damage}")).code is AdmitCode.QUEUED
        assert await sale.consume() == 1
        assert not sale.app.consumers[0].has_lost_queue(activity.activity_id)

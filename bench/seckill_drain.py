"""What follows admission: a line of 100 000 buyers drained to durable rows and published results,
beside a bare loop of the same read, the same statements and the same script; orders in order_rpc at
the pace of its batch RPC; and a rebuild.

The statements of the bare loop are those that the consumer really sends: recorded once, then
replayed with the entries' own values.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from time import perf_counter, process_time
from typing import Any

import aiomysql
from redis.asyncio import Redis
from sqlalchemy.engine import make_url

from bench.charge import Recording
from bench.machine import median
from bench.seckill_sale import BATCH, Sale, open_rows
from mesh.call import Caller, Role
from mesh.clock import SystemClock
from mesh.db import open_database
from mesh.ids import UlidIds
from mesh.money import Money
from mesh.paging import PageTokens
from order_rpc.app import RETRY_CONSTRAINTS, OrderApp, OrderConfig
from order_rpc.tables import metadata as order_metadata
from order_rpc.usecases.allocations import AllocateStock, SeckillOrder
from order_rpc.usecases.catalog import CreateProduct
from seckill_rpc.redis.admission_queue import RESULT_SECONDS
from seckill_rpc.redis.connection import open_admission_redis
from seckill_rpc.redis.keys import GROUP
from seckill_rpc.redis.scripts import ScriptName
from seckill_rpc.usecases.consumer.consumer import ROUNDS_MAX

TURN = ROUNDS_MAX * BATCH  # orders of one consumer before the other arm has its turn
ORDER_SECONDS = 3.0
ORDER_CALLS = (1, 4)  # batches under way at once
_SECKILL_RPC = Caller(role=Role.SERVICE, subject="seckill_rpc", service="seckill_rpc")
_COLUMNS = re.compile(r"\(([a-z_, ]+)\)")


@dataclass(frozen=True, slots=True)
class DrainReport:
    """Orders per second of some consumers at once, ours and bare, and µs of CPU of this process per
    order.
    """

    consumers: int
    ours: float
    bare: float
    ours_cpu: float
    bare_cpu: float


async def measure_drain(
    redis_url: str, database_url: str, *, buyers: int, consumers: Sequence[int]
) -> list[DrainReport]:
    """Each arm drains `buyers` buyers, turn by turn, of one line."""
    db, redis = await open_rows(database_url), open_admission_redis(redis_url)
    pool = await _pool(database_url, max(consumers))
    try:
        return [
            await _drain(
                await Sale.open(db, redis, sku_id=f"drain{number}", total=10_000_000),
                pool,
                buyers,
                number,
            )
            for number in consumers
        ]
    finally:
        pool.terminate()
        await pool.wait_closed()
        await redis.aclose()
        await db.close()


async def _drain(sale: Sale, pool: Any, buyers: int, consumers: int) -> DrainReport:
    turns = max(buyers // (TURN * consumers), 1)
    recorded = 2 * BATCH
    await sale.admit(range(recorded + 2 * turns * TURN * consumers))
    bare = _Bare(sale, pool, await _record(sale))
    ours = [sale.consumer() for _ in range(consumers)]
    arms: dict[str, Callable[[], Awaitable[int]]] = {
        "ours": lambda: _sum([consumer.serve(sale.activity) for consumer in ours]),
        "bare": lambda: _sum([bare.serve(number) for number in range(consumers)]),
    }
    seconds, cpu = dict.fromkeys(arms, 0.0), dict.fromkeys(arms, 0.0)
    for _ in range(turns):
        for name, work in arms.items():
            begin, cpu_begin = perf_counter(), process_time()
            done = await work()
            seconds[name] += perf_counter() - begin
            cpu[name] += process_time() - cpu_begin
            if done != TURN * consumers:
                raise AssertionError(f"{name}: {done} of {TURN * consumers}")
    if await sale.queue.waiting(sale.keys) != (0, 0):
        raise AssertionError("somebody still stands in the queue")
    total = turns * TURN * consumers
    return DrainReport(
        consumers,
        total / seconds["ours"],
        total / seconds["bare"],
        cpu["ours"] / total * 1e6,
        cpu["bare"] / total * 1e6,
    )


async def _sum(works: Sequence[Awaitable[int]]) -> int:
    return sum(await asyncio.gather(*works))


async def _record(sale: Sale) -> list[tuple[str, Any]]:
    """The statements of one whole batch."""
    consumer = sale.consumer()
    entries = await sale.queue.read(sale.keys, "recorder", count=BATCH, block_ms=100)
    await consumer.settle(sale.keys, entries)  # the first batch also connects
    recording = Recording()
    recording.listen(sale.db)
    entries = await sale.queue.read(sale.keys, "recorder", count=BATCH, block_ms=100)
    await consumer.settle(sale.keys, entries)
    recording.stop(sale.db)
    [statements] = recording.transactions
    return statements


class _Bare:
    """The least that a consumer has to do."""

    def __init__(self, sale: Sale, pool: Any, statements: Sequence[tuple[str, Any]]) -> None:
        self._sale = sale
        self._redis: Redis = sale.redis
        self._pool = pool
        self._statements = statements
        self._numbers = count()

    async def serve(self, number: int) -> int:
        """As many rounds as a consumer makes; how many orders."""
        keys, done = self._sale.keys, 0
        async with self._pool.acquire() as connection, connection.cursor() as cursor:
            for _ in range(ROUNDS_MAX):
                found: Any = await self._redis.xreadgroup(
                    GROUP, f"bare{number}", {keys.queue: ">"}, count=BATCH
                )
                rows = next(iter(found.values())) if isinstance(found, dict) else found[0][1]
                rows = rows[0] if len(rows) == 1 and isinstance(rows[0], list) else rows
                for statement, parameters in self._statements:
                    await cursor.execute(statement, self._fresh(statement, parameters, rows))
                    if cursor.description:
                        await cursor.fetchall()
                await connection.commit()
                done += await self._finish(rows)
        return done

    def _fresh(
        self, statement: str, parameters: Any, rows: Sequence[tuple[str, dict[str, str]]]
    ) -> Any:
        if statement.startswith("INSERT INTO seckill_order"):
            activity_id = self._sale.activity.activity_id
            values: list[str] = []
            for _, fields in rows:
                values += (fields["o"], activity_id, fields["u"], fields["r"], fields["r"])
            return values
        if statement.startswith("INSERT INTO outbox"):
            found = _COLUMNS.search(statement)
            assert found is not None
            names = found[1].split(", ")
            fresh = list(parameters[0] if isinstance(parameters[0], (tuple, list)) else parameters)
            fresh[names.index("event_id")] = (
                f"BARE{self._sale.activity.activity_id[-8:]}{next(self._numbers):020d}"
            )
            fresh[names.index("payload")] = json.dumps(
                {
                    "activity_id": self._sale.activity.activity_id,
                    "orders": [(fields["o"], fields["u"]) for _, fields in rows],
                }
            )
            return fresh
        return parameters

    async def _finish(self, rows: Sequence[tuple[str, dict[str, str]]]) -> int:
        keys = self._sale.keys
        args: list[str | int] = [GROUP, len(rows), RESULT_SECONDS, keys.wakeups]
        for entry_id, fields in rows:
            args += (entry_id, fields["u"], fields["r"], fields["o"], "L", "", "")
        views = [keys.view(fields["u"]) for _, fields in rows]
        return int(
            await self._sale.scripts.run(
                ScriptName.FINISH, [keys.meta, keys.users, keys.queue, *views], args
            )
        )


async def _pool(url: str, connections: int) -> Any:
    parts = make_url(url)
    return await aiomysql.create_pool(
        host=parts.host,
        port=parts.port,
        user=parts.username,
        password=parts.password or "",
        db=parts.database,
        minsize=connections,
        maxsize=connections,
        charset="utf8mb4",
        init_command="SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    )


async def measure_rebuild(
    redis_url: str, database_url: str, *, live: int, queued: int
) -> tuple[float, float]:
    """Seconds of a rebuild with live orders, and of one with buyers in the queue."""
    db, redis = await open_rows(database_url), open_admission_redis(redis_url)
    try:
        sold = await Sale.open(db, redis, sku_id="rebuild-live", total=10_000_000)
        await sold.admit(range(live))
        await sold.drain()
        waiting = await Sale.open(db, redis, sku_id="rebuild-queued", total=10_000_000)
        await waiting.admit(range(queued))
        return await _rebuild(sold), await _rebuild(waiting)
    finally:
        await redis.aclose()
        await db.close()


async def _rebuild(sale: Sale) -> float:
    begin = perf_counter()
    if not await sale.rebuilder.rebuild(sale.activity.activity_id):
        raise AssertionError("somebody else rebuilds")
    return perf_counter() - begin


class _Nobody:
    """payment_rpc and seckill_rpc; order_rpc never asks them here."""

    def __getattr__(self, name: str) -> Any:
        raise NotImplementedError(name)


async def measure_orders(database_url: str, *, rounds: int) -> dict[int, float]:
    """Orders per second that order_rpc writes in batches of 500, by batches under way at once; in
    turn, medians.
    """
    clock = SystemClock()
    # a busy machine
    db = open_database(
        database_url, order_metadata, retry_constraints=RETRY_CONSTRAINTS, unit_timeout_seconds=60
    )
    async with db.engine.begin() as connection:
        await connection.run_sync(order_metadata.create_all)
    app = OrderApp(
        db=db,
        clock=clock,
        ids=UlidIds(clock),
        page_tokens=PageTokens(b"page tokens of the bench, 32 bytes"),
        redis=None,
        payments=_Nobody(),
        seckill=_Nobody(),
        config=OrderConfig(
            payment_window=timedelta(minutes=30), scan_interval_seconds=1, hot_sku_group_size=1
        ),
    )
    shop = Caller(role=Role.MERCHANT, subject="clerk", merchant_id="mall")
    await app.catalog.create_product(
        CreateProduct(
            merchant_id="mall",
            sku_id="mug",
            name="A mug",
            price=Money(990, "CNY"),
            available=10_000_000,
            idempotency_key="",
            fingerprint={},
        ),
        shop,
    )
    await app.allocations.allocate_stock(
        AllocateStock(
            op_id="open", merchant_id="mall", activity_id="ACT", sku_id="mug", quantity=10_000_000
        ),
        _SECKILL_RPC,
    )
    rates: dict[int, list[float]] = {calls: [] for calls in ORDER_CALLS}
    numbers = count()
    for _ in range(rounds):
        for calls, found in rates.items():
            found.append(await _order_rate(app, numbers, calls))
    await db.close()
    return {calls: median(found) for calls, found in rates.items()}


async def _order_rate(app: OrderApp, numbers: Any, calls: int) -> float:
    begin = perf_counter()
    done = 0

    async def loop() -> None:
        nonlocal done
        while perf_counter() < begin + ORDER_SECONDS:
            first = next(numbers) * BATCH
            orders = [
                SeckillOrder(
                    order_id=f"ORD{number:026d}",
                    merchant_id="mall",
                    user_id=f"user-{number}",
                    activity_id="ACT",
                    sku_id="mug",
                    price=Money(990, "CNY"),
                )
                for number in range(first, first + BATCH)
            ]
            if any(await app.allocations.create_seckill_orders(orders, _SECKILL_RPC)):
                raise AssertionError("an order was refused")
            done += BATCH

    await asyncio.gather(*(loop() for _ in range(calls)))
    return done / (perf_counter() - begin)

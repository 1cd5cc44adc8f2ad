"""The runnable consumer in examples/: each event once, whoever died in between."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from examples.order_events import GROUP, TOPIC, Consumer, Inbox
from mesh.redis_client import open_redis
from tests.builders_order import OrderApp, order_app
from tests.processes import Processes


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    redis = open_redis(redis_url)
    yield redis
    await redis.aclose()


async def life_of_an_order(app: OrderApp, redis: Redis) -> None:
    await app.product()
    order = await app.paid_order()
    await app.ship(order)
    await app.complete(order)
    await app.cancel(await app.order())
    [relay] = [worker for worker in app.make(redis=redis).workers if worker.name.startswith("relay_stream")]
    await relay._run_once()


async def test_each_event_is_printed_once_although_it_is_sent_twice_and_its_reader_died(redis: Redis, database_url: str, tmp_path: Path) -> None:
    inbox = Inbox(tmp_path / "inbox.db")
    consumer = Consumer(redis, inbox, name="a")
    assert await consumer.run_once(block_milliseconds=1) == []  # makes the group
    async with order_app(database_url) as app:
        await life_of_an_order(app, redis)
    # Somebody read everything and died before he wrote anything.
    assert await redis.xreadgroup(GROUP, "dead", {TOPIC: ">"}, count=100)
    await redis.xautoclaim(TOPIC, GROUP, "a", 0, "0-0", count=100)
    for entry in await redis.xrange(TOPIC):
        await redis.xadd(TOPIC, entry[1])  # the relay sent all of them again
    lines = await consumer.run_once(block_milliseconds=1)
    assert sorted(line.split()[1] for line in lines) == ["ORDER_CANCELLED", "ORDER_COMPLETED", "ORDER_CREATED", "ORDER_CREATED", "ORDER_PAID",
                                                         "ORDER_SHIPPED"]
    assert any("carrier=SF tracking_number=T1" in line for line in lines)
    assert await consumer.run_once(block_milliseconds=1) == []
    inbox.close()


async def test_the_program_prints_and_ends_when_it_is_told_to(redis: Redis, redis_url: str, database_url: str, tmp_path: Path,
                                                              processes: Processes) -> None:
    async with order_app(database_url) as app:
        await life_of_an_order(app, redis)
    process = processes.module("examples.order_events", "--redis-url", redis_url, "--inbox", str(tmp_path / "inbox.db"))
    process.wait_for_log("ORDER_COMPLETED")
    assert process.terminate() == 0

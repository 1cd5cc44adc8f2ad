"""The runnable consumer in examples/: each event once, whoever died in between."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from examples.order_events import GROUP, TOPIC, Consumer, Inbox
from mesh.redis_client import open_redis
from tests.builders.order import OrderApp, order_app
from tests.support.processes import Processes


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
    [relay] = [
        worker for worker in app.make(redis=redis).workers if worker.name.startswith("relay_stream")
    ]
    await relay._run_once()


async def test_each_event_is_printed_once_although_it_is_sent_twice_and_its_reader_died(
    redis: Redis, database_url: str, tmp_path: Path
) -> None:
    inbox = Inbox(tmp_path / "inbox.db")
    consumer = Consumer(redis, inbox, name="a")
    assert await consumer.run_once(block_milliseconds=1) == []  # makes the group
    async with order_app(database_url) as app:
        await life_of_an_order(app, redis)
    # Somebody read everything and died before he wrote anything.
    assert await redis.xreadgroup(GROUP, "dead", {TOPIC: ">"}, count=100)
    await redis.xautoclaim(TOPIC, GROUP, "a", 0, "0-0", count=100)
    entries: Any = await redis.xrange(TOPIC)
    for entry in entries:
        await redis.xadd(TOPIC, entry[1])  # the relay sent all of them again
    lines = await consumer.run_once(block_milliseconds=1)
    assert sorted(line.split()[1] for line in lines) == [
        "ORDER_CANCELLED",
        "ORDER_COMPLETED",
        "ORDER_CREATED",
        "ORDER_CREATED",
        "ORDER_PAID",
        "ORDER_SHIPPED",
    ]
    assert any("carrier=SF tracking_number=T1" in line for line in lines)
    assert await consumer.run_once(block_milliseconds=1) == []
    inbox.close()


async def test_the_program_prints_and_ends_when_it_is_told_to(
    redis: Redis, redis_url: str, database_url: str, tmp_path: Path, processes: Processes
) -> None:
    async with order_app(database_url) as app:
        await life_of_an_order(app, redis)
    process = processes.module(
        "examples.order_events", "--redis-url", redis_url, "--inbox", str(tmp_path / "inbox.db")
    )
    process.wait_for_log("ORDER_COMPLETED")
    assert process.terminate() == 0


def test_what_was_read_is_for_its_owner_alone(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path / "order_events.db")
    inbox.take("EVT1", "a line")
    assert {
        path.name: path.stat().st_mode & 0o077
        for path in tmp_path.iterdir()
        if path.stat().st_mode & 0o077
    } == {}
    inbox.close()


async def test_what_cannot_be_read_is_kept_for_a_person_and_stops_nothing(
    redis: Redis, database_url: str, tmp_path: Path
) -> None:
    inbox = Inbox(tmp_path / "inbox.db")
    consumer = Consumer(redis, inbox, name="a")
    await consumer.run_once(block_milliseconds=1)
    bad: list[dict[str, str | bytes]] = [
        {"payload": "no JSON", "event_id": "1"},
        {"payload": "[]", "event_id": "2"},
        {"payload": "{}", "tag": "x"},
        {"other": "fields"},
        {"payload": b"\xff\xfe", "event_id": "3", "tag": b"\xff"},
    ]
    for fields in bad:
        await redis.xadd(TOPIC, fields)  # type: ignore[arg-type]  # invariant in the stubs
    async with order_app(database_url) as app:
        await life_of_an_order(app, redis)
    assert len(await consumer.run_once(block_milliseconds=1)) == 6, "those behind them are printed"
    assert len(inbox.dead_letters()) == len(bad)
    assert (await redis.xpending(TOPIC, GROUP))["pending"] == 0, "and they do not come again"
    inbox.close()


async def test_by_default_it_reads_from_the_mesh_that_runs(
    redis: Redis, redis_url: str, database_url: str, tmp_path: Path, processes: Processes
) -> None:
    async with order_app(database_url) as app:
        await life_of_an_order(app, redis)
    (tmp_path / "mesh.json").write_text(json.dumps({"supervisor_pid": 1, "redis_url": redis_url}))
    process = processes.module("examples.order_events", env={"PAYMESH_VAR_DIR": str(tmp_path)})
    process.wait_for_log("ORDER_COMPLETED")
    assert process.terminate() == 0
    nowhere = processes.module(
        "examples.order_events", "--var-dir", str(tmp_path / "none"), name="nowhere"
    )
    assert nowhere.wait() == 2
    assert "make run" in nowhere.log_text()

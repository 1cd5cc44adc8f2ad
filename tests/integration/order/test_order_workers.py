"""What order_rpc does in the background: telling ORDER_TOPIC, also after Redis was away, and
forgetting receipts whose day is over.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from google.protobuf import json_format
from paymesh.events.v1 import events_pb2
from redis.asyncio import Redis

from mesh.idempotency import RECEIPT
from mesh.outbox import OUTBOX
from mesh.redis_client import open_redis
from mesh.worker import Worker
from order_rpc.tables import ORDERS
from tests.builders.order import OrderApp, order_app, snapshot
from tools import servers


@pytest.fixture
async def app(database_url: str) -> AsyncIterator[OrderApp]:
    async with order_app(database_url) as app:
        await app.product("mug", "10.00")
        yield app


@asynccontextmanager
async def workers_of(app: OrderApp, redis_url: str) -> AsyncIterator[tuple[Redis, list[Worker]]]:
    redis = open_redis(redis_url)
    try:
        yield redis, app.make(redis=redis, scan_interval_seconds=0.01).workers
    finally:
        await redis.aclose()


async def entries(redis: Redis) -> list[dict[bytes, bytes]]:
    stream: Any = await redis.xrange("ORDER_TOPIC")
    return [fields for _, fields in stream]


async def test_events_of_an_order_stand_on_the_stream_once_and_are_messages_of_the_contract(
    app: OrderApp, redis_url: str
) -> None:
    order = await app.order()
    await app.tell(order, snapshot())
    async with workers_of(app, redis_url) as (redis, [*_, relay]):
        assert await relay._run_once() == 2
        assert await relay._run_once() == 0
        told = await entries(redis)
    assert sorted(fields[b"tag"].decode() for fields in told) == ["ORDER_CREATED", "ORDER_PAID"]
    for fields in told:
        kind = (
            events_pb2.OrderPaidEvent
            if fields[b"tag"] == b"ORDER_PAID"
            else events_pb2.OrderCreatedEvent
        )
        event = json_format.Parse(fields[b"payload"], kind())
        assert (event.order_id, event.event_id) == (order.order_id, fields[b"event_id"].decode())
    assert {row["state"] for row in await app.rows(OUTBOX)} == {"DONE"}


async def test_orders_go_on_while_redis_is_away_and_their_events_arrive_when_it_returns(
    app: OrderApp, own_redis: servers.Redis
) -> None:
    async with workers_of(app, own_redis.url) as (redis, [*_, relay]):
        own_redis.kill()
        order = await app.order()
        assert await relay._run_once() == 0  # tried, and nothing more to do until Redis is back
        [waiting] = await app.rows(OUTBOX)
        assert (waiting["state"], waiting["attempts"]) == ("NEW", 1)
        own_redis.start()
        app.clock.advance(60)
        assert await relay._run_once() == 1
        assert [json.loads(fields[b"payload"])["order_id"] for fields in await entries(redis)] == [
            order.order_id
        ]


async def test_without_redis_events_wait_in_the_outbox(app: OrderApp) -> None:
    await app.order()
    names = [worker.name for worker in app.make().workers]
    assert names == [
        "purge_receipts",
        "expire_orders",
        "fold_statistics",
        "relay_payment_rpc",
        "relay_seckill_rpc",
    ]
    assert [row["state"] for row in await app.rows(OUTBOX)] == ["NEW"]


async def test_a_receipt_lives_for_a_day(app: OrderApp) -> None:
    purge = app.make().workers[0]
    first = await app.order(key="k")
    app.clock.advance(24 * 3600 - 1)
    assert await purge._run_once() == 0
    assert await app.order(key="k") == first
    app.clock.advance(1)
    assert await purge._run_once() == 1
    assert await app.rows(RECEIPT) == []
    assert (await app.order(key="k")).order_id != first.order_id
    assert len(await app.rows(ORDERS)) == 2


async def test_the_relay_works_by_itself(app: OrderApp, redis_url: str) -> None:
    async with workers_of(app, redis_url) as (redis, [*_, relay]):
        running = asyncio.create_task(relay.run())
        order = await app.order()
        # asks until it is there; the time limit of the test ends it
        while not (told := await entries(redis)):
            pass
        relay.stop()
        await running
    assert json.loads(told[0][b"payload"])["order_id"] == order.order_id

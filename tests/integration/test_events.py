"""Events on a real Redis: what a consumer reads, and that an absent Redis costs nothing but time."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import pytest
from redis.asyncio import Redis
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh import outbox
from mesh.db import Database, open_database
from mesh.errors import Unavailable
from mesh.events import SEND_SECONDS_MAX, StreamDestination, destination
from mesh.outbox import BACKOFF_FIRST, OUTBOX, Relay
from mesh.redis_client import COMMAND_SECONDS_MAX, open_redis
from tests.fakes import FakeClock
from tests.integration.test_outbox import message
from tests.servers import Redis as RedisServer

TOPIC = "PAYMENT_TOPIC"


@asynccontextmanager
async def client_of(url: str) -> AsyncIterator[Redis]:
    redis = open_redis(url)
    try:
        yield redis
    finally:
        await redis.aclose()


@pytest.fixture
async def db(tmp_path: Any) -> AsyncIterator[Database]:
    db = open_database(f"sqlite+aiosqlite:///{tmp_path / 'outbox.db'}", OUTBOX.metadata)
    async with db.engine.begin() as connection:
        await connection.run_sync(OUTBOX.metadata.create_all)
    yield db
    await db.close()


async def states(db: Database) -> list[str]:
    async def read(tx: AsyncConnection) -> list[str]:
        return list((await tx.execute(select(OUTBOX.c.state).order_by(OUTBOX.c.id))).scalars())
    return await db.read(read)


async def test_a_consumer_reads_the_fields_of_the_contract(redis_url: str, db: Database) -> None:
    async with client_of(redis_url) as redis:
        relay = Relay(db=db, destination=StreamDestination(redis, TOPIC), clock=FakeClock())
        assert relay.name == destination(TOPIC) == "stream:PAYMENT_TOPIC"
        await db.run(outbox.put, message(destination=destination(TOPIC), tag="PAYMENT_SUCCEEDED"), message(2))
        assert await relay.run_once() == 1  # what goes to order_rpc is not for streams
        [(_, fields)] = await redis.xrange(TOPIC)
        assert set(fields) == {b"event_id", b"tag", b"payload", b"trace_id"}
        assert (fields[b"event_id"], fields[b"tag"], fields[b"trace_id"]) == (b"EVT001", b"PAYMENT_SUCCEEDED", b"t" * 32)
        assert json.loads(fields[b"payload"]) == {"n": 1, "name": "茶"}
        assert await states(db) == ["DONE", "NEW"]


async def test_an_event_waits_while_redis_is_dead_and_arrives_when_it_is_back(own_redis: RedisServer, db: Database) -> None:
    clock = FakeClock()
    async with client_of(own_redis.url) as redis:
        relay = Relay(db=db, destination=StreamDestination(redis, TOPIC), clock=clock)
        await db.run(outbox.put, message(destination=destination(TOPIC)))
        await redis.ping()  # a connection that dies with the server
        own_redis.kill()
        assert await relay.run_once() == 1
        assert await states(db) == ["NEW"]
        own_redis.start()
        assert await relay.run_once() == 0  # not before its pause is over
        clock.advance(BACKOFF_FIRST.total_seconds())
        assert await relay.run_once() == 1
        assert await states(db) == ["DONE"]
        assert await redis.xlen(TOPIC) == 1


async def test_a_frozen_redis_is_given_up_after_a_moment_and_is_sent_nothing_twice(own_redis: RedisServer) -> None:
    async with client_of(own_redis.url) as redis:
        target = StreamDestination(redis, TOPIC)
        await redis.ping()
        own_redis.process.signal(signal.SIGSTOP)
        started = monotonic()
        try:
            with pytest.raises(Unavailable):
                await target.send(message())
            assert monotonic() - started < SEND_SECONDS_MAX + COMMAND_SECONDS_MAX
        finally:
            own_redis.process.signal(signal.SIGCONT)
        await target.send(message(2))
        ids = [fields[b"event_id"] for _, fields in await redis.xrange(TOPIC)]
        assert ids in ([b"EVT002"], [b"EVT001", b"EVT002"])  # the lost one may stand there, once


async def test_a_stuck_client_is_given_up_after_a_second(own_redis: RedisServer) -> None:
    """A client that was opened with other limits than ours."""
    redis = Redis.from_url(own_redis.url)
    try:
        own_redis.process.signal(signal.SIGSTOP)
        with pytest.raises(Unavailable):
            await asyncio.wait_for(StreamDestination(redis, TOPIC).send(message()), SEND_SECONDS_MAX + 2)
    finally:
        own_redis.process.signal(signal.SIGCONT)
        await redis.aclose()


async def test_a_command_is_sent_once_and_given_up_soon(own_redis: RedisServer) -> None:
    async with client_of(own_redis.url) as redis:
        await redis.set("counter", 100)
        own_redis.process.signal(signal.SIGSTOP)
        started = monotonic()
        with pytest.raises(Exception, match=r"(?i)timeout"):
            await redis.decr("counter")
        assert monotonic() - started < 3 * COMMAND_SECONDS_MAX
        own_redis.process.signal(signal.SIGCONT)
        assert int(await redis.get("counter") or 0) in (99, 100)

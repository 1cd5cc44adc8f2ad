"""Events on a real Redis: what a consumer reads, and that an absent Redis costs nothing but
time.
"""

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
from redis.exceptions import TimeoutError as RedisTimeout
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh import outbox
from mesh.db import Database
from mesh.errors import Unavailable
from mesh.events import SEND_SECONDS_MAX, StreamDestination, destination, open_events
from mesh.outbox import OUTBOX
from mesh.redis_client import COMMAND_SECONDS_MAX, open_redis
from mesh.relay import BACKOFF_FIRST, BACKOFF_SHARED_MAX, Relay
from tests.support.databases import create_tables, open_patiently
from tests.support.fakes import FakeClock
from tests.support.messages import message
from tools.servers import Redis as RedisServer

TOPIC = "PAYMENT_TOPIC"


@asynccontextmanager
async def client_of(url: str) -> AsyncIterator[Redis]:
    redis = open_events(url)
    try:
        yield redis
    finally:
        await redis.aclose()


@pytest.fixture
async def db(tmp_path: Any) -> AsyncIterator[Database]:
    db = open_patiently(f"sqlite+aiosqlite:///{tmp_path / 'outbox.db'}", OUTBOX.metadata)
    await create_tables(db.engine, OUTBOX.metadata)
    yield db
    await db.close()


async def states(db: Database) -> list[str]:
    async def read(tx: AsyncConnection) -> list[str]:
        return list((await tx.execute(select(OUTBOX.c.state).order_by(OUTBOX.c.id))).scalars())

    return await db.read(read)


async def attempts(db: Database) -> list[int]:
    async def read(tx: AsyncConnection) -> list[int]:
        return list((await tx.execute(select(OUTBOX.c.attempts))).scalars())

    return await db.read(read)


async def test_a_consumer_reads_the_fields_of_the_contract(redis_url: str, db: Database) -> None:
    async with client_of(redis_url) as redis:
        relay = Relay(db=db, destination=StreamDestination(redis, TOPIC), clock=FakeClock())
        assert relay.name == destination(TOPIC) == "stream:PAYMENT_TOPIC"
        await db.run(
            outbox.put, message(destination=destination(TOPIC), tag="PAYMENT_SUCCEEDED"), message(2)
        )
        assert await relay.run_once() == 1  # what goes to order_rpc is not for streams
        entries: Any = await redis.xrange(TOPIC)
        [(_, fields)] = entries
        assert set(fields) == {b"event_id", b"tag", b"payload", b"trace_id"}
        assert (fields[b"event_id"], fields[b"tag"], fields[b"trace_id"]) == (
            b"EVT001",
            b"PAYMENT_SUCCEEDED",
            b"t" * 32,
        )
        assert json.loads(fields[b"payload"]) == {"n": 1, "name": "茶"}
        assert await states(db) == ["DONE", "NEW"]


async def test_an_event_waits_while_redis_is_dead_and_arrives_when_it_is_back(
    own_redis: RedisServer, db: Database
) -> None:
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


async def test_a_frozen_redis_is_given_up_after_a_moment_and_is_sent_nothing_twice(
    own_redis: RedisServer,
) -> None:
    async with client_of(own_redis.url) as redis:
        target = StreamDestination(redis, TOPIC)
        await redis.ping()
        own_redis.process.signal(signal.SIGSTOP)
        started = monotonic()
        try:
            with pytest.raises(Unavailable):
                await target.send(message())
            assert monotonic() - started > 0.9 * SEND_SECONDS_MAX, (
                "the client must not give up before its deadline"
            )
        finally:
            own_redis.process.signal(signal.SIGCONT)
        await target.send(message(2))
        entries: Any = await redis.xrange(TOPIC)
        ids = [fields[b"event_id"] for _, fields in entries]
        assert ids in ([b"EVT002"], [b"EVT001", b"EVT002"])  # the lost one may stand there, once


async def test_a_stuck_client_is_given_up_after_a_second(own_redis: RedisServer) -> None:
    """A client that was opened with other limits than ours."""
    redis = Redis.from_url(own_redis.url)
    try:
        own_redis.process.signal(signal.SIGSTOP)
        with pytest.raises(Unavailable):
            await asyncio.wait_for(
                StreamDestination(redis, TOPIC).send(message()), SEND_SECONDS_MAX + 2
            )
    finally:
        own_redis.process.signal(signal.SIGCONT)
        await redis.aclose()


async def test_a_stream_stays_as_long_as_it_may(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mesh.events.STREAM_LENGTH_MAX", 100)
    async with client_of(redis_url) as redis:
        target = StreamDestination(redis, TOPIC)
        for number in range(1000):
            await target.send(message(number))
        assert 100 <= await redis.xlen(TOPIC) < 500  # roughly: Redis cuts whole nodes of a hundred


async def test_a_dead_redis_is_tried_with_one_event_a_round_and_the_others_go_as_soon_as_it_is_back(
    own_redis: RedisServer, db: Database
) -> None:
    clock = FakeClock()
    async with client_of(own_redis.url) as redis:
        relay = Relay(
            db=db, destination=StreamDestination(redis, TOPIC), clock=clock, shares_fate=True
        )
        own_redis.kill()
        await db.run(
            outbox.put, *(message(number, destination=destination(TOPIC)) for number in range(150))
        )
        assert await relay.run_once() == 0  # and its worker pauses
        for _ in range(20):
            clock.advance(BACKOFF_SHARED_MAX.total_seconds())
            assert await relay.run_once() == 0
        assert sum(await attempts(db)) == 100 + 20, (
            "the first round does not know yet; each later one tries one event"
        )
        own_redis.start()
        clock.advance(1)
        await relay.run_once()
        while await relay.run_once():
            pass
        assert await states(db) == ["DONE"] * 150
        assert await redis.xlen(TOPIC) == 150


async def test_a_command_of_a_cache_is_sent_once_and_given_up_soon(own_redis: RedisServer) -> None:
    redis = open_redis(own_redis.url)
    try:
        await redis.set("counter", 100)
        own_redis.process.signal(signal.SIGSTOP)
        with pytest.raises(RedisTimeout):
            await asyncio.wait_for(redis.decr("counter"), 10 * COMMAND_SECONDS_MAX)
        own_redis.process.signal(signal.SIGCONT)
        async with client_of(own_redis.url) as patient:
            assert await patient.get("counter") in {b"99", b"100"}
    finally:
        await redis.aclose()

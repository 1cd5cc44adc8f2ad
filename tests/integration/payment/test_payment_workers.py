"""The background work of payment_rpc, as its process runs it: what a call began is finished without
anybody asking.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from mesh import failpoints
from mesh.failpoints import FailpointRaised
from mesh.idempotency import MONEY_RETENTION, RECEIPT
from mesh.redis_client import open_redis
from order_rpc.domain.order import OrderState
from payment_rpc.app import PaymentApp
from payment_rpc.domain.payment import PaymentState
from payment_rpc.tables import ATTEMPT
from tests.builders.order import PAYMENT_WINDOW
from tests.builders.payment import LEASE_SECONDS, PaymentWorld, payment_world

S = PaymentState


@pytest.fixture
async def world(redis_url: str, tmp_path: Path) -> AsyncIterator[PaymentWorld]:
    redis = open_redis(redis_url)
    try:
        async with payment_world(
            f"sqlite+aiosqlite:///{tmp_path / 'payment.db'}",
            f"sqlite+aiosqlite:///{tmp_path / 'order.db'}",
            tmp_path,
            redis=redis,
        ) as world:
            yield world
    finally:
        await redis.aclose()


@asynccontextmanager
async def working(app: PaymentApp) -> AsyncIterator[None]:
    """All workers of an app, at work."""
    tasks = [asyncio.create_task(worker.run()) for worker in app.workers]
    try:
        yield
    finally:
        for worker in app.workers:
            worker.stop()
        await asyncio.gather(*tasks)


async def soon(world: PaymentWorld, payment_id: str, state: PaymentState) -> None:
    async with asyncio.timeout(10):
        while (await world.payment(payment_id)).state is not state:
            for worker in world.app.workers:
                worker.wake()
            await asyncio.sleep(0)


async def test_every_worker_finds_nothing_to_do_where_there_is_nothing(world: PaymentWorld) -> None:
    assert sorted(worker.name for worker in world.app.workers) == [
        "advance_refunds",
        "ask_channels",
        "correct_future_rows",
        "expire_payments",
        "finish_callbacks",
        "import_statements",
        "purge_receipts",
        "purge_scan_actions",
        "relay_order_rpc",
        "relay_stream:PAYMENT_TOPIC",
    ]
    assert [await worker._run_once() for worker in world.app.workers] == [0] * 10


async def test_without_redis_nobody_publishes_and_the_events_wait(world: PaymentWorld) -> None:
    app = world.make_app(redis=None)
    assert "relay_stream:PAYMENT_TOPIC" not in [worker.name for worker in app.workers]
    await world.charge(await world.order(), app=app)
    [relay] = [
        worker for worker in world.app.workers if worker.name == "relay_stream:PAYMENT_TOPIC"
    ]
    assert await relay._run_once() == 1  # replayable when it is back


async def test_workers_finish_a_crash_a_callback_and_a_deadline_by_themselves(
    world: PaymentWorld,
) -> None:
    crashed, waiting, expiring = await world.order(), await world.order(), await world.order()
    failpoints.arm("payment.charge.after_channel=raise", environment="test")
    with pytest.raises(FailpointRaised):
        await world.charge(crashed)
    failpoints.arm("", environment="test")
    paid_later, never_paid = await world.cashier(waiting), await world.cashier(expiring)
    with capture_logs() as logs:
        async with working(world.app):
            await world.press(paid_later)
            await world.callbacks()
            await soon(world, paid_later.payment_id, S.SUCCESS)
            world.clock.advance(LEASE_SECONDS)
            [lost] = [row for row in await world.at_sandbox() if row["kind"] == "CHARGE"]
            lost_id = next(
                row["payment_id"]
                for row in await world.rows(ATTEMPT)
                if row["attempt_id"] == lost["attempt_id"]
            )
            await soon(world, lost_id, S.SUCCESS)
            world.clock.advance(PAYMENT_WINDOW.total_seconds())
            await soon(world, never_paid.payment_id, S.CLOSED)
    assert [entry for entry in logs if entry["log_level"] == "error"] == []
    await world.finish()
    assert [await world.order_state(order) for order in (crashed, waiting, expiring)] == [
        OrderState.PAID,
        OrderState.PAID,
        OrderState.PENDING_PAYMENT,
    ]


async def test_an_order_hears_at_once_of_money_that_a_callback_brought(world: PaymentWorld) -> None:
    order = await world.order()
    opened = await world.cashier(order)
    relay = next(worker for worker in world.app.workers if worker.name == "relay_order_rpc")
    relay._idle_seconds = 3600
    task = asyncio.create_task(relay.run())
    for _ in range(50):
        await asyncio.sleep(0)
    await world.press(opened)
    await world.callbacks()  # wakes the relay; nobody moves the clock
    async with asyncio.timeout(10):
        while await world.order_state(order) is not OrderState.PAID:  # noqa: ASYNC110  # nobody signals a row
            await asyncio.sleep(0)
    relay.stop()
    await task


async def test_events_of_a_payment_are_published(world: PaymentWorld, redis_url: str) -> None:
    paid = await world.charge(await world.order())
    with pytest.raises(Exception, match="declined"):
        await world.charge(await world.order(), number="4000000000000002")
    async with working(world.app):
        redis = open_redis(redis_url)
        async with asyncio.timeout(10):
            while await redis.xlen("PAYMENT_TOPIC") < 2:  # noqa: ASYNC110  # as above
                await asyncio.sleep(0)
        stream: Any = await redis.xrange("PAYMENT_TOPIC")
        entries = [fields for _, fields in stream]
        await redis.aclose()
    assert sorted(fields[b"tag"] for fields in entries) == [b"PAYMENT_FAILED", b"PAYMENT_SUCCEEDED"]
    payloads = {fields[b"tag"]: json.loads(fields[b"payload"]) for fields in entries}
    assert payloads[b"PAYMENT_SUCCEEDED"]["payment_id"] == paid.payment_id
    assert payloads[b"PAYMENT_FAILED"]["reason"] == "CARD_DECLINED"


async def test_receipts_are_purged_when_their_time_is_over(world: PaymentWorld) -> None:
    await world.charge(await world.order(), key="k1")
    world.channel.lose_answers = True
    await world.charge(await world.order(), key="k2")  # without an answer yet
    [purge] = [worker for worker in world.app.workers if worker.name == "purge_receipts"]
    world.clock.advance((MONEY_RETENTION - timedelta(seconds=1)).total_seconds())
    assert await purge._run_once() == 0
    world.clock.advance(1)
    assert await purge._run_once() == 1
    assert [row["idempotency_key"] for row in await world.rows(RECEIPT)] == ["k2"]

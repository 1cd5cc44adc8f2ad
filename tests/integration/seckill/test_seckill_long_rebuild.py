"""A rebuild whose steps take longer than a lease lives keeps its lease; one whose lease is gone
stops in the middle of a step.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from mesh.money import Money
from seckill_rpc.domain.activity import Activity, AdmissionMode
from seckill_rpc.redis.connection import open_admission_redis
from seckill_rpc.redis.lease import LEASE_MS, Lease
from seckill_rpc.redis.loader import ActivityLoader
from seckill_rpc.redis.scripts import Scripts
from seckill_rpc.usecases import rebuild
from tests.support.fakes import FakeClock

LONG = 20.0


@pytest.fixture
async def run(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    monkeypatch.setattr(rebuild, "HEARTBEAT_SECONDS", 0.02)
    clock = FakeClock()
    now = clock.now()
    activity = Activity.plan(
        activity_id="ACT1",
        merchant_id="mall",
        sku_id="1001",
        mode=AdmissionMode.FIRST_COME,
        limit_per_user=1,
        offered=1,
        price=Money(1, "CNY"),
        starts_at=now,
        ends_at=now + timedelta(hours=1),
        at=now,
    )
    async with open_admission_redis(redis_url) as redis:
        scripts = Scripts(redis)
        nothing: Any = None
        made: Any = rebuild._Run(
            activity=activity,
            holder="me",
            db=nothing,
            clock=clock,
            loader=ActivityLoader(scripts),
            lease=Lease(scripts),
            on_progress=lambda _: None,
        )
        assert await made._lease.take(made.keys, made.holder)
        made.redis_of_test = redis
        yield made


async def test_a_long_read_does_not_cost_the_lease(run: Any) -> None:
    redis, key = run.redis_of_test, run.keys.rebuilder
    await redis.pexpire(key, LEASE_MS // 2)

    async def read() -> str:
        while await redis.pttl(key) <= LEASE_MS // 2:
            pass
        return "read"

    async with asyncio.timeout(LONG):
        assert await run._while_alive(read()) == "read"


async def test_a_read_ends_with_the_lease(run: Any) -> None:
    await run.redis_of_test.delete(run.keys.rebuilder)
    cut = asyncio.Event()

    async def read() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cut.set()

    async with asyncio.timeout(LONG):
        with pytest.raises(rebuild._Superseded):
            await run._while_alive(read())
    assert cut.is_set()

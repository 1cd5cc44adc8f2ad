"""The line of an activity at its edges; what its scripts guard is tested in
test_seckill_scripts.py.
"""

from __future__ import annotations

import asyncio

import pytest
from redis.exceptions import ResponseError

from seckill_rpc.redis.admission_queue import AdmissionQueue
from seckill_rpc.redis.connection import open_admission_redis
from seckill_rpc.redis.keys import GROUP, Keys
from seckill_rpc.redis.scripts import Scripts

KEYS = Keys(activity_id="ACT1", merchant_id="mall", sku_id="mug")


async def test_a_line_that_is_dropped_while_a_consumer_waits_for_it_is_empty(
    redis_url: str,
) -> None:
    redis = open_admission_redis(redis_url)
    line = AdmissionQueue(redis, Scripts(redis))
    try:
        await redis.xgroup_create(KEYS.queue, GROUP, "0", mkstream=True)
        waiting = asyncio.create_task(line.read(KEYS, "c", count=10, block_ms=4000))
        async with asyncio.timeout(5):
            while not int((await redis.info("clients"))["blocked_clients"]):
                assert not waiting.done()
        await redis.delete(KEYS.queue)
        assert await waiting == []
        assert await line.read(KEYS, "c", count=10, block_ms=1) == []
    finally:
        await redis.aclose()


async def test_any_other_error_of_the_line_is_told(redis_url: str) -> None:
    redis = open_admission_redis(redis_url)
    try:
        await redis.set(KEYS.queue, "nonsense")
        with pytest.raises(ResponseError, match="WRONGTYPE"):
            await AdmissionQueue(redis, Scripts(redis)).read(KEYS, "c", count=10, block_ms=1)
    finally:
        await redis.aclose()

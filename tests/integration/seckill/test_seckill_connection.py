"""How often a command for the Redis of flash sales is sent."""

from __future__ import annotations

import pytest
from redis.exceptions import ConnectionError as ConnectionBroken
from redis.exceptions import TimeoutError as RedisTimeout

from seckill_rpc.redis.connection import open_admission_redis
from tests.support.fault_proxy import Loss, fault_proxy
from tools.servers import Redis

COMMAND = b"ECHO"


async def test_a_command_is_not_sent_again_after_a_timeout(redis_server: Redis) -> None:
    async with fault_proxy(redis_server.port) as proxy:
        redis = open_admission_redis(f"redis://127.0.0.1:{proxy.port}/0", command_seconds=0.2)
        try:
            assert await redis.echo("here") == "here"
            proxy.lose(COMMAND, Loss.ANSWER_SILENTLY)  # a second attempt would be answered
            with pytest.raises(RedisTimeout):
                await redis.echo("lost")
            assert await redis.echo("here again") == "here again"
        finally:
            await redis.aclose()


async def test_a_command_is_sent_once_more_over_a_new_connection(redis_server: Redis) -> None:
    async with fault_proxy(redis_server.port) as proxy:
        redis = open_admission_redis(f"redis://127.0.0.1:{proxy.port}/0", command_seconds=2)
        try:
            assert await redis.echo("here") == "here"
            proxy.lose(COMMAND, Loss.ANSWER)
            assert await redis.echo("twice") == "twice"
            proxy.lose(COMMAND, Loss.ANSWER, times=2)
            with pytest.raises(ConnectionBroken):
                await redis.echo("never")
        finally:
            await redis.aclose()

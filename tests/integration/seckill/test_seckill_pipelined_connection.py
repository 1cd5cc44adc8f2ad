"""Many commands under way at once on one connection: everybody gets his own answer, once, or hears
that nobody knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis as Client
from redis.exceptions import ConnectionError as ConnectionBroken
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeout

from seckill_rpc.redis.connection import open_admission_redis
from seckill_rpc.redis.pipelined_connection import PipelinedConnection, _Connection
from tests.support.fault_proxy import Loss, fault_proxy
from tools.servers import Redis

COMMAND = b"ECHO"


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Client]:
    async with open_admission_redis(redis_url) as client:
        yield client


async def test_everybody_gets_his_own_answer(client: Client) -> None:
    pipelined = PipelinedConnection(client)
    texts = [f"text {number}" for number in range(500)]
    assert await asyncio.gather(*(pipelined.execute("ECHO", text) for text in texts)) == texts
    assert len(await client.client_list()) == 2, (
        "one connection for the pipelined, one for this question"
    )


async def test_a_refusal_is_told_to_the_one_who_asked(client: Client) -> None:
    pipelined = PipelinedConnection(client)
    answers: tuple[Any, ...] = await asyncio.gather(
        pipelined.execute("ECHO", "before"),
        pipelined.execute("NONSENSE"),
        pipelined.execute("ECHO", "after"),
        return_exceptions=True,
    )
    before, refused, after = answers
    assert (before, after) == ("before", "after")
    assert isinstance(refused, ResponseError)


async def test_who_goes_away_does_not_leave_his_answer_to_the_next(client: Client) -> None:
    pipelined = PipelinedConnection(client)
    await pipelined.execute("PING")
    gone = asyncio.create_task(pipelined.execute("EVAL", "return 'of another'", 0))
    await asyncio.sleep(0)  # it is sent
    gone.cancel()
    await asyncio.wait([gone])
    assert [await pipelined.execute("ECHO", str(number)) for number in range(3)] == ["0", "1", "2"]


class Answering:
    """A connection whose answers have arrived."""

    is_usable = True

    def __init__(self, *answers: str) -> None:
        self._answers = list(answers)

    async def read_response(self) -> str:
        return self._answers.pop(0)


async def test_who_goes_away_while_his_answer_arrives_harms_nobody(client: Client) -> None:
    gone, mine = (
        asyncio.get_running_loop().create_future(),
        asyncio.get_running_loop().create_future(),
    )
    wire = _Connection(Answering("of another", "mine"))
    wire.waiting.extend((gone, mine))
    gone.cancel()
    await PipelinedConnection(client)._read(wire)
    assert await mine == "mine"


async def test_a_command_is_sent_once_more_over_a_new_connection(redis_server: Redis) -> None:
    async with (
        fault_proxy(redis_server.port) as proxy,
        open_admission_redis(f"redis://127.0.0.1:{proxy.port}/0") as client,
    ):
        pipelined = PipelinedConnection(client)
        assert await pipelined.execute("ECHO", "here") == "here"
        proxy.lose(COMMAND, Loss.ANSWER)
        assert await asyncio.gather(
            *(pipelined.execute("ECHO", str(number)) for number in range(20))
        ) == [str(number) for number in range(20)]
        proxy.lose(COMMAND, Loss.ANSWER, times=2)
        with pytest.raises(ConnectionBroken):
            await pipelined.execute("ECHO", "never")
        assert await pipelined.execute("ECHO", "here again") == "here again"


async def test_a_silent_redis_is_left_at_the_deadline(redis_server: Redis) -> None:
    async with (
        fault_proxy(redis_server.port) as proxy,
        open_admission_redis(f"redis://127.0.0.1:{proxy.port}/0") as client,
    ):
        pipelined = PipelinedConnection(client, command_seconds=0.2)
        assert await pipelined.execute("ECHO", "here") == "here"
        proxy.lose(COMMAND, Loss.ANSWER_SILENTLY)  # a second attempt would be answered
        with pytest.raises(RedisTimeout):
            await pipelined.execute("ECHO", "lost")
        assert await pipelined.execute("ECHO", "here again") == "here again"


async def test_connections_that_broke_are_given_back(client: Client) -> None:
    pipelined = PipelinedConnection(client)
    for _ in range(40):  # more than the pool has
        await pipelined.execute("PING")
        await client.client_kill_filter(_type="normal", skipme=True)
    assert await pipelined.execute("ECHO", "here") == "here"


async def test_a_closed_client_closes_the_lane(redis_url: str) -> None:
    client = open_admission_redis(redis_url)
    pipelined = PipelinedConnection(client)
    await pipelined.execute("PING")
    await client.aclose()
    async with open_admission_redis(redis_url) as other:
        assert len(await other.client_list()) == 1


async def test_a_redis_that_is_away_is_told_as_such() -> None:
    async with open_admission_redis("redis://127.0.0.1:1/0") as client:
        with pytest.raises(RedisError):
            await PipelinedConnection(client).execute("PING")

"""Redis behind a line that breaks in every way, on the loop of production and on asyncio's: a dead
connection costs no command, a server that changed sides is left, and whatever fails is a
RedisError."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import pytest
import redis as blocking
from redis.asyncio import Redis as Client
from redis.exceptions import RedisError

from mesh.redis_client import open_redis
from payment_rpc.cache import PaymentCache
from seckill_rpc.redis.connection import open_admission_redis
from seckill_rpc.redis.pipelined_connection import PipelinedConnection
from seckill_rpc.redis.wakeups import Wakeups
from tests.builders.payment import a_payment
from tests.support.echo import eventually
from tests.support.fakes import FakeClock
from tests.support.fault_proxy import FaultProxy, Loss, fault_proxy
from tests.support.idle import idle
from tools.servers import Redis, find_carried_redis, find_redis, server_folder

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop", "asyncio"])

COMMAND_SECONDS = 0.5
WRITE = "return redis.call('INCR', KEYS[1])"
Execute = Callable[..., Awaitable[Any]]


@pytest.fixture(params=["RST", "FIN"])
async def proxy(
    request: pytest.FixtureRequest, redis_url: str, redis_server: Redis
) -> AsyncIterator[FaultProxy]:
    async with fault_proxy(redis_server.port) as proxy:
        proxy.breaks_by_reset = request.param == "RST"
        yield proxy
        proxy.thaw()


@pytest.fixture(params=["cache", "stock", "pipelined"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@asynccontextmanager
async def executor(kind: str, port: int) -> AsyncIterator[tuple[Client, Execute]]:
    """A client and one of the ways in which commands are sent."""
    url = f"redis://127.0.0.1:{port}/0"
    client = (
        open_redis(url, command_seconds=COMMAND_SECONDS)
        if kind == "cache"
        else open_admission_redis(url, command_seconds=COMMAND_SECONDS)
    )
    async with client:
        yield (
            client,
            PipelinedConnection(client, command_seconds=COMMAND_SECONDS).execute
            if kind == "pipelined"
            else client.execute_command,
        )


async def warm(execute: Execute, count: int = 8) -> None:
    """Opens as many connections as commands under way at once need."""
    await asyncio.gather(*(execute("ECHO", "warm") for _ in range(count)))


async def broken(proxy: FaultProxy, client: Client) -> None:
    """Breaks every connection, and waits until the loop has heard of it."""
    proxy.cut()
    await eventually(lambda: not any(connection.is_usable for connection in idle(client)))


async def test_connections_that_broke_while_they_were_idle_cost_no_command(
    proxy: FaultProxy, kind: str
) -> None:
    async with executor(kind, proxy.port) as (client, execute):
        for _ in range(3):
            await warm(execute)
            await broken(proxy, client)
            assert await asyncio.gather(*(execute("ECHO", str(number)) for number in range(8))) in (
                [str(number) for number in range(8)],
                [str(number).encode() for number in range(8)],
            )


async def test_a_connection_that_breaks_under_a_command_is_an_error_of_redis_and_then_all_is_well(
    proxy: FaultProxy, kind: str
) -> None:
    async with executor(kind, proxy.port) as (_, execute):
        await warm(execute)
        for loss in (Loss.ANSWER, Loss.REQUEST):
            # the cache sends a command once, the stock twice
            proxy.lose(b"ECHO", loss, times=1 if kind == "cache" else 2)
            with pytest.raises(RedisError):
                await execute("ECHO", "lost")
            assert proxy.has_struck
            assert await execute("ECHO", "here") in ("here", b"here")


async def test_connections_that_break_while_they_are_opened_are_an_error_of_redis(
    proxy: FaultProxy, kind: str
) -> None:
    async with executor(kind, proxy.port) as (client, execute):
        await warm(execute)
        proxy.refuse()
        await eventually(lambda: not any(connection.is_usable for connection in idle(client)))
        for _ in range(5):
            with pytest.raises(RedisError):
                await execute("ECHO", "lost")
        proxy.refuse(refuses=False)
        await warm(execute)


async def test_connections_that_a_middlebox_forgot_cost_one_deadline_together(
    proxy: FaultProxy, kind: str
) -> None:
    async with executor(kind, proxy.port) as (client, execute):
        await warm(execute)
        await warm(client.execute_command)
        proxy.strand()
        with pytest.raises(RedisError):
            await execute("ECHO", "lost")
        await warm(execute)
        await warm(client.execute_command)


async def test_a_frozen_line_ends_with_the_deadline_and_heals(proxy: FaultProxy, kind: str) -> None:
    async with executor(kind, proxy.port) as (_, execute):
        await warm(execute)
        proxy.freeze()
        for _ in range(3):
            started = monotonic()
            with pytest.raises(RedisError):
                await execute("ECHO", "lost")
            assert monotonic() - started < 3 * COMMAND_SECONDS + 2
        proxy.thaw()
        await warm(execute)


@pytest.fixture(params=["installed", "carried"])
def two(request: pytest.FixtureRequest) -> Iterator[tuple[Redis, Redis]]:
    """Two servers; 6.2, which one of our wheels carries, tells of a read-only replica in the middle
    of a script's error.
    """
    program = find_redis() if request.param == "installed" else find_carried_redis()
    if program is None:
        pytest.skip("no such Redis here")
    servers = Redis(server_folder(), program), Redis(server_folder(), program)
    try:
        yield servers[0].start(), servers[1].start()
    finally:
        for server in servers:
            server.stop()


def demote(old: Redis, new: Redis) -> None:
    """The old primary is alive and follows the new one."""
    with blocking.Redis(port=old.port) as administrator:
        administrator.replicaof("127.0.0.1", new.port)


async def test_a_primary_that_became_a_replica_is_left_at_once(
    two: tuple[Redis, Redis], kind: str
) -> None:
    old, new = two
    async with fault_proxy(old.port) as proxy, executor(kind, proxy.port) as (_, execute):
        await warm(execute)
        assert int(await execute("EVAL", WRITE, 1, "counter")) == 1
        demote(old, new)
        proxy.target_port = new.port
        if kind == "cache":  # which sends a command once
            with pytest.raises(RedisError):
                await execute("EVAL", WRITE, 1, "counter")
        for number in range(1, 11):
            assert int(await execute("EVAL", WRITE, 1, "counter")) == number


async def test_a_consumer_that_is_blocked_at_the_old_primary_goes_to_the_new_one(
    two: tuple[Redis, Redis],
) -> None:
    old, new = two
    async with (
        fault_proxy(old.port) as proxy,
        open_admission_redis(f"redis://127.0.0.1:{proxy.port}/0", command_seconds=2) as client,
    ):
        for server in two:
            with blocking.Redis(port=server.port) as administrator:
                administrator.xgroup_create("line", "group", mkstream=True)
        waiting: Any = asyncio.ensure_future(
            client.xreadgroup("group", "me", {"line": ">"}, block=1000)
        )
        await eventually(lambda: any(connection.is_usable for connection in idle(client)))
        demote(old, new)
        proxy.target_port = new.port
        await asyncio.wait([waiting], timeout=10)
        assert waiting.done()
        await client.xadd("line", {"n": 1})
        assert await client.xreadgroup("group", "me", {"line": ">"}, block=1000)
        with blocking.Redis(port=new.port) as administrator:
            assert administrator.xlen("line") == 1


@pytest.mark.parametrize("fault", ["broken", "stranded"])
async def test_a_blocked_consumer_and_the_subscription_hear_again_after_their_connections_died(
    proxy: FaultProxy, fault: str
) -> None:
    heard: list[str] = []
    async with open_admission_redis(
        f"redis://127.0.0.1:{proxy.port}/0", command_seconds=2
    ) as client:
        wakeups = Wakeups(
            client,
            on_message=lambda _, message: heard.append(message),
            listen_seconds=0.1,
            reconnect_seconds=0.01,
        )
        task = asyncio.create_task(wakeups.run())
        try:
            for number in range(2):
                await asyncio.wait_for(wakeups.subscribed.wait(), 10)
                await client.xgroup_create(f"line{number}", "group", mkstream=True)
                blocked: Any = asyncio.ensure_future(
                    client.xreadgroup("group", "me", {f"line{number}": ">"}, block=1000)
                )
                await eventually(
                    lambda: len([each for each in idle(client) if each.is_usable]) >= 2
                )
                if fault == "broken":
                    proxy.cut()
                else:
                    proxy.strand()
                await asyncio.wait([blocked], timeout=10)
                assert blocked.done()
                assert blocked.exception() is None or isinstance(blocked.exception(), RedisError)
                assert not task.done()
                async with asyncio.timeout(10):
                    # whoever speaks before the subscription is there again is not heard
                    while str(number) not in heard:
                        await client.publish("seckill:{ACT}:wakeups", str(number))
        finally:
            wakeups.stop()
            await asyncio.wait_for(task, 10)


class Failing:
    """A client whose every command fails in the same way."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def register_script(self, text: str) -> Any:
        return self.hmget

    async def hmget(self, *_: Any, **__: Any) -> Any:
        raise self._error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(
            "unable to perform operation on <TCPTransport closed=True>; the handler is closed"
        ),
        TimeoutError(),
        ConnectionResetError(),
        AttributeError("'NoneType' object has no attribute 'write'"),
        RedisError(),
        ValueError("a parser's"),
    ],
    ids=repr,
)
async def test_nothing_that_the_cache_meets_fails_a_call(error: Exception) -> None:
    clock = FakeClock()
    cache = PaymentCache(Failing(error), clock)  # type: ignore[arg-type]
    for _ in range(2):
        await cache.put_changed(a_payment())
        clock.advance(5)
        assert await cache.get("PAY1") is None
        clock.advance(5)


async def test_a_caller_that_goes_away_is_no_failure_of_the_cache() -> None:
    cache = PaymentCache(Failing(asyncio.CancelledError()), FakeClock())  # type: ignore[arg-type]
    with pytest.raises(asyncio.CancelledError):
        await cache.get("PAY1")

"""Who waits for a result of a flash sale hears of it, also when nobody tells him."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis as Client
from redis.exceptions import RedisError

from seckill_rpc.domain.order import BuyerStatus
from seckill_rpc.redis.connection import open_admission_redis
from seckill_rpc.redis.keys import Keys
from seckill_rpc.redis.views import Views
from seckill_rpc.redis.wakeups import ViewUpdate, Waiters, Wakeups
from tests.builders.seckill_scripts import Stage
from tests.support.echo import eventually
from tools.servers import Redis

NEVER = 60.0  # seconds until a waiter looks by himself: only a message can tell him
LONG = 20.0


@pytest.fixture
async def stage(redis_url: str) -> AsyncIterator[Stage]:
    async with open_admission_redis(redis_url) as redis:
        yield await Stage(redis).open(limit=2)


@asynccontextmanager
async def listening(
    redis: Client, waiters: Waiters, lost: list[str] | None = None, *, listen_seconds: float = LONG
) -> AsyncIterator[Wakeups]:
    wakeups = Wakeups(
        redis,
        on_message=waiters.wake,
        on_disconnect=lambda: (lost if lost is not None else []).append("lost"),
        listen_seconds=listen_seconds,
        reconnect_seconds=0.01,
    )
    task = asyncio.create_task(wakeups.run())
    try:
        await asyncio.wait_for(wakeups.subscribed.wait(), LONG)
        yield wakeups
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def test_a_message_ends_the_wait_and_names_the_order(stage: Stage) -> None:
    waiters = Waiters(stage.views, look_again_seconds=NEVER)
    order = (await stage.buy("u")).detail
    await stage.buy("v")
    async with listening(stage.redis, waiters), asyncio.TaskGroup() as tasks:
        waits = [
            tasks.create_task(waiters.wait(stage.keys, user, LONG)) for user in ("u", "u", "v")
        ]
        await eventually(lambda: len(waiters) == 3)
        entries = await stage.take()
        finished, _ = stage.rows.decide(entries[:1])
        await stage.queue.finish(stage.keys, finished + stage.rows.refuse(entries[1:]))
    assert [task.result() for task in waits] == [
        ViewUpdate(view=BuyerStatus.HOLDER, order_id=order)
    ] * 2 + [ViewUpdate(view=BuyerStatus.NEITHER)]
    assert len(waiters) == 0


async def test_a_waiter_looks_by_himself_when_nobody_tells_him(stage: Stage) -> None:
    waiters = Waiters(stage.views, look_again_seconds=0.01)
    await stage.buy("u")
    async with asyncio.TaskGroup() as tasks:
        wait = tasks.create_task(waiters.wait(stage.keys, "u", LONG))
        await eventually(lambda: len(waiters) == 1)
        await stage.consume()
    assert wait.result() == ViewUpdate(view=BuyerStatus.HOLDER)


class SlowViews(Views):
    """The answer is on its way while the world goes on."""

    def __init__(self, redis: Client) -> None:
        super().__init__(redis)
        self.read, self.arrive = asyncio.Event(), asyncio.Event()

    async def view(self, keys: Keys, user_id: str) -> BuyerStatus | None:
        said = await super().view(keys, user_id)
        self.read.set()
        await self.arrive.wait()
        return said


async def test_a_result_that_is_published_during_the_first_look_is_not_missed(stage: Stage) -> None:
    views = SlowViews(stage.redis)
    waiters = Waiters(views, look_again_seconds=NEVER)
    await stage.buy("u")
    async with listening(stage.redis, waiters), asyncio.TaskGroup() as tasks:
        wait = tasks.create_task(waiters.wait(stage.keys, "u", LONG))
        await views.read.wait()  # it said 0
        await stage.consume()
        probe = tasks.create_task(
            Waiters(stage.views, look_again_seconds=0.01).wait(stage.keys, "u", LONG)
        )
        await probe
        views.arrive.set()
        assert (await wait) is not None
    assert wait.result() == ViewUpdate(view=BuyerStatus.HOLDER, order_id="ORD1")


async def test_a_wait_ends_in_time_with_what_is_known(stage: Stage) -> None:
    waiters = Waiters(stage.views)
    await stage.buy("u")
    assert await waiters.wait(stage.keys, "u", 0.02) == ViewUpdate(view=BuyerStatus.QUEUED)
    assert await waiters.wait(stage.keys, "u", 0) == ViewUpdate(view=BuyerStatus.QUEUED)
    assert await waiters.wait(stage.keys, "nobody", 0.02) is None
    await stage.consume()
    assert await waiters.wait(stage.keys, "u", NEVER) == ViewUpdate(view=BuyerStatus.HOLDER)


async def test_too_many_waiters_are_answered_at_once(stage: Stage) -> None:
    waiters = Waiters(stage.views, waiters_max=1, look_again_seconds=0.01)
    await stage.buy("u")
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(waiters.wait(stage.keys, "u", LONG))
        await eventually(lambda: len(waiters) == 1)
        assert await asyncio.wait_for(waiters.wait(stage.keys, "u", NEVER), LONG) == ViewUpdate(
            view=BuyerStatus.QUEUED
        )
        assert len(waiters) == 1
        await stage.consume()


async def test_a_cancelled_wait_leaves_nothing_and_takes_nobody_with_it(stage: Stage) -> None:
    waiters = Waiters(stage.views, look_again_seconds=NEVER)
    await stage.buy("u")
    async with listening(stage.redis, waiters), asyncio.TaskGroup() as tasks:
        stays = tasks.create_task(waiters.wait(stage.keys, "u", LONG))
        for steps in range(40):  # at any moment of the look at Redis, and after it
            goes = asyncio.create_task(waiters.wait(stage.keys, "u", LONG))
            for _ in range(steps):
                await asyncio.sleep(0)
            goes.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(asyncio.shield(goes), LONG / 2)
        assert len(waiters) == 1
        await stage.consume()
        assert (await stays) == ViewUpdate(view=BuyerStatus.HOLDER, order_id="ORD1")
    assert len(waiters) == 0
    assert not waiters._waiting


async def test_a_subscription_that_broke_is_made_again_and_says_that_something_may_be_lost(
    stage: Stage,
) -> None:
    waiters = Waiters(stage.views, look_again_seconds=NEVER)
    lost: list[str] = []
    await stage.buy("u")
    async with listening(stage.redis, waiters, lost) as wakeups, asyncio.TaskGroup() as tasks:
        wait = tasks.create_task(waiters.wait(stage.keys, "u", LONG))
        await eventually(lambda: len(waiters) == 1)
        assert await stage.redis.client_kill_filter(_type="pubsub") == 1
        await eventually(lambda: lost == ["lost"] and wakeups.subscribed.is_set())
        await stage.consume()
        assert (await wait) == ViewUpdate(view=BuyerStatus.HOLDER, order_id="ORD1")
        assert lost == ["lost"]
    assert lost == ["lost", "lost"], "the end is one more"


async def test_a_frozen_redis_does_not_pass_for_one_without_news(own_redis: Redis) -> None:
    lost: list[str] = []
    async with open_admission_redis(own_redis.url, command_seconds=0.2) as redis:
        waiters = Waiters(Views(redis))
        async with listening(redis, waiters, lost, listen_seconds=0.05) as wakeups:
            own_redis.process.signal(signal.SIGSTOP)
            try:
                await eventually(lambda: not wakeups.subscribed.is_set())
                assert lost == ["lost"]
                with pytest.raises(RedisError):
                    await waiters.wait(
                        Keys(activity_id="ACT1", merchant_id="mall", sku_id="1001"), "u", 0.05
                    )
            finally:
                own_redis.process.signal(signal.SIGCONT)
            await eventually(wakeups.subscribed.is_set)


async def test_the_loop_ends_when_it_is_told_to(stage: Stage) -> None:
    wakeups = Wakeups(stage.redis, on_message=Waiters(stage.views).wake, listen_seconds=0.01)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(wakeups.run())
        await wakeups.subscribed.wait()
        wakeups.stop()
    assert not wakeups.subscribed.is_set()


def test_lines_that_nobody_of_us_wrote_wake_nobody(redis_url: str) -> None:
    waiters = Waiters(Views(open_admission_redis(redis_url)))
    for message in ("", "u", "u 7 x", "u  ", "\n\n"):
        waiters.wake("ACT1", message)
    assert len(waiters) == 0

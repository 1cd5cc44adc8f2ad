"""SeckillAction: what each click is told, that refusals from memory are never told to who takes
part, and that a sold-out sale costs Redis nothing that grows with its buyers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from prometheus_client import REGISTRY

from seckill_rpc.domain.activity import ActivityVerb
from seckill_rpc.domain.errors import ActivityNotFound, SeckillBusy, SeckillNotReady
from seckill_rpc.domain.order import BuyerStatus
from seckill_rpc.domain.result import ResultCode
from seckill_rpc.usecases.admission.response_batcher import BATCH_SECONDS
from tests.builders.seckill import SeckillWorld, seckill_world
from tests.builders.seckill_front import Front, front


@pytest.fixture
async def world(database_url: str, redis_url: str) -> AsyncIterator[SeckillWorld]:
    async with seckill_world(database_url, redis_url) as world:
        yield world


@asynccontextmanager
async def sold_out(world: SeckillWorld, *, losers: int = 2) -> AsyncIterator[Front]:
    """A process that was told so, a tenth of a second apart, and remembers it since the second
    time.
    """
    await world.open(total=1)
    async with front(world) as door:
        await door.click("winner")
        await world.consume()
        for number in range(losers):
            await door.click(f"early loser{number}")
            door.monotonic.now += 0.1
        yield door


async def test_a_click_stands_in_the_line_and_is_served(world: SeckillWorld) -> None:
    await world.open(total=2)
    async with front(world) as door:
        queued = await door.click()
        assert (queued.status, queued.code, queued.retry_after_ms > 0) == (
            BuyerStatus.QUEUED,
            ResultCode.QUEUED,
            True,
        )
        assert queued.order_id.startswith("ORD")
        await world.consume()
        assert (await door.click()).order_id == queued.order_id
        bought = await door.result()
        assert (bought.status, bought.code, bought.order_id) == (
            BuyerStatus.HOLDER,
            ResultCode.BOUGHT,
            queued.order_id,
        )


async def test_the_answer_of_a_click_that_waits_is_final(world: SeckillWorld) -> None:
    await world.open(total=1)
    async with front(world) as door:
        clicks = [
            asyncio.create_task(door.click(f"u{number}", wait_seconds=10)) for number in range(2)
        ]
        while not await world.consume():
            pass  # it waits for the line by itself
        answers = await asyncio.gather(*clicks)
    assert Counter(answer.code for answer in answers) == {
        ResultCode.BOUGHT: 1,
        ResultCode.SOLD_OUT: 1,
    }
    [winner] = [answer for answer in answers if answer.status is BuyerStatus.HOLDER]
    assert winner.ticket
    assert winner.order_id in await world.states()


async def test_the_same_click_many_times_at_once_is_one_click(world: SeckillWorld) -> None:
    await world.open(total=10, limit=2)
    async with front(world) as door, front(world) as other:
        answers = await asyncio.gather(*(each.click("u1", "a") for each in (door, other) * 10))
        assert {answer.order_id for answer in answers} == {answers[0].order_id}
        await world.consume()
        assert (await world.row()).sold == 1


async def test_a_click_without_an_id_gets_a_fresh_one(world: SeckillWorld) -> None:
    await world.open(total=10, limit=2)
    async with front(world) as door:
        first, second = await door.click("u1", ""), await door.click("u1", "")
        assert first.request_id != second.request_id
        assert first.order_id != second.order_id
        assert (await door.click("u1", "")).code is ResultCode.LIMIT


async def test_who_has_reached_the_limit_is_told_what_he_has(world: SeckillWorld) -> None:
    await world.open(total=10)
    async with front(world) as door:
        mine = await door.click("u1", "a")
        refused = await door.click("u1", "b")
        assert (refused.status, refused.code) == (BuyerStatus.QUEUED, ResultCode.LIMIT)
        await world.consume()
        refused = await door.click("u1", "b")
        assert (refused.status, refused.code, refused.order_id) == (
            BuyerStatus.HOLDER,
            ResultCode.LIMIT,
            mine.order_id,
        )


async def test_sold_out_is_told_from_memory_and_costs_one_call_in_its_time(
    world: SeckillWorld,
) -> None:
    await world.open(total=1)
    async with front(world) as door:
        await door.click("winner")
        await world.consume()
        await door.click("first loser")
        door.monotonic.now += 0.1  # what was published about the winner has been heard by now
        await door.click("second loser")
        before = await door.script_calls()
        for number in range(200):
            assert (await door.click(f"loser{number}")).code is ResultCode.SOLD_OUT
        assert await door.script_calls() == before
        door.monotonic.now += 1
        assert (await door.click("late loser")).code is ResultCode.SOLD_OUT
        assert await door.script_calls() == before + 1


async def test_refusals_from_memory_are_told_together_and_counted(world: SeckillWorld) -> None:
    def told() -> float:
        return (
            REGISTRY.get_sample_value("paymesh_seckill_clicks_total", {"code": "SOLD_OUT"}) or 0.0
        )

    async with sold_out(world) as door:
        before, clock = told(), asyncio.get_running_loop().time
        began = clock()
        for number in range(5):
            await door.click(f"loser{number}")
        assert clock() - began >= 4 * BATCH_SECONDS * 0.9  # the clock of the loop is coarse
        assert told() == before + 5


async def test_when_the_memory_of_sold_out_ends_one_buyer_asks_for_all(world: SeckillWorld) -> None:
    async with sold_out(world) as door:
        await door.click("who made it remember")
        before = await door.script_calls()
        door.monotonic.now += 0.12  # its life of 0.2 s is just over
        answers = await asyncio.gather(*(door.click(f"loser{number}") for number in range(100)))
        assert {answer.code for answer in answers} == {ResultCode.SOLD_OUT}
        assert await door.script_calls() == before + 1


async def test_a_redis_that_is_away_makes_no_refusal_older(world: SeckillWorld) -> None:
    async with sold_out(world, losers=3) as door:
        # the life of what the second of them made it remember is just over
        door.monotonic.now += 0.01
        await world.redis.set(world.keys.meta, "broken")  # every script fails
        with pytest.raises(SeckillNotReady):
            await door.click("asks for all")
        assert (await door.click("hears while he asks")).code is ResultCode.SOLD_OUT
        door.monotonic.now += 0.051
        for user_id in ("asks for himself", "asks for himself too"):
            with pytest.raises(SeckillNotReady):
                await door.click(user_id)


async def test_a_winner_never_hears_sold_out_from_memory_wherever_he_clicks_again(
    world: SeckillWorld,
) -> None:
    await world.open(total=1)
    async with front(world) as here, front(world) as there:
        mine = await here.click("winner", "a")
        await world.consume()
        async with front(world) as later:  # a process that started after he won
            async with asyncio.timeout(10):
                await here.has_heard.wait()
                await there.has_heard.wait()
            for door in (here, there, later):
                for number in range(2):
                    assert (await door.click(f"loser{number}")).code is ResultCode.SOLD_OUT
                    door.monotonic.now += 0.1
                calls = await door.script_calls()
                assert (await door.click("told from memory")).code is ResultCode.SOLD_OUT
                assert await door.script_calls() == calls
                again = await door.click("winner", "a")
                assert (again.status, again.order_id) == (BuyerStatus.HOLDER, mine.order_id)


async def test_nothing_is_refused_from_memory_while_a_click_is_undecided(
    world: SeckillWorld,
) -> None:
    await world.open(total=1)
    async with front(world) as here, front(world) as there:
        mine = await here.click("winner", "a")
        for number in range(2):
            assert (await there.click(f"loser{number}")).code is ResultCode.SOLD_OUT
            there.monotonic.now += 0.1
        again = await there.click("winner", "a")  # no process but the first has heard of him yet
        assert (again.status, again.order_id) == (BuyerStatus.QUEUED, mine.order_id)


async def test_a_process_that_hears_nothing_refuses_nobody_from_memory(world: SeckillWorld) -> None:
    await world.open(total=1)
    async with front(world) as here:
        mine = await here.click("winner", "a")
        await world.consume()
        deaf = Front(world)
        await deaf.registry.refresh()
        for number in range(2):
            assert (await deaf.click(f"loser{number}")).code is ResultCode.SOLD_OUT
            deaf.monotonic.now += 0.1
        assert (await deaf.click("winner", "a")).order_id == mine.order_id


async def test_a_process_whose_subscription_broke_refuses_nobody_from_memory(
    world: SeckillWorld,
) -> None:
    async with sold_out(world) as door:
        before = await door.script_calls()
        await door.click("told from memory")
        assert await door.script_calls() == before
        door.listener.on_disconnect()
        for number in range(4):
            assert (await door.click(f"loser{number}")).code is ResultCode.SOLD_OUT
            door.monotonic.now += 0.1
        assert await door.script_calls() == before + 4


async def test_nothing_is_refused_from_memory_until_what_was_published_has_been_heard(
    world: SeckillWorld,
) -> None:
    activity = await world.open(total=1)
    async with front(world) as here:
        mine = await here.click("winner", "a")
        await world.consume()
        late = Front(world)  # it listens, but what is said of the winner has not come through yet
        await late.registry.refresh()
        late.admission.open_gate(activity)
        late.admission.mark_complete(activity.activity_id)
        assert (await late.click("loser")).code is ResultCode.SOLD_OUT
        again = await late.click("winner", "a")
        assert (again.status, again.order_id) == (BuyerStatus.HOLDER, mine.order_id)


async def test_a_unit_that_comes_back_is_sold_within_the_life_of_the_memory(
    world: SeckillWorld,
) -> None:
    await world.open(total=1)
    async with front(world) as door:
        order_id = (await door.click("u1")).order_id
        await world.consume()
        assert (await door.click("u2")).code is ResultCode.SOLD_OUT
        assert await world.give_back(order_id)
        await world.relay()
        door.monotonic.now += 0.3
        assert (await door.click("u2")).code is ResultCode.QUEUED


async def test_a_paused_an_ended_and_a_closed_sale_say_so(world: SeckillWorld) -> None:
    await world.open(total=5)
    async with front(world) as door:
        mine = await door.click("u1", "a")
        await world.consume()
        await world.loader.write_state(world.keys, await world.step(ActivityVerb.PAUSE))
        paused = await door.click("u2")
        assert (paused.status, paused.code, paused.retry_after_ms > 0) == (
            BuyerStatus.NEITHER,
            ResultCode.PAUSED,
            True,
        )
        assert (await door.click("u1", "a")).order_id == mine.order_id
        await world.loader.write_state(world.keys, await world.step(ActivityVerb.RESUME))
        door.monotonic.now += 1
        await world.close()
        assert (await door.click("u3")).code is ResultCode.ENDED
        await door.registry.refresh()
        assert (await door.click("u3")).code is ResultCode.ENDED
        again = await door.click("u1", "a")
        assert (again.status, again.order_id) == (BuyerStatus.HOLDER, mine.order_id)
        assert (await door.click("u1", "b")).code is ResultCode.ENDED


async def test_too_many_clicks_of_one_buyer_are_refused_and_take_nothing(
    world: SeckillWorld,
) -> None:
    await world.open(total=100, limit=10)
    async with front(world, burst=3) as door:
        for request_id in "abc":
            await door.click("u1", request_id)
        with pytest.raises(SeckillBusy) as refusal:
            await door.click("u1", "d")
        assert refusal.value.retry_after_seconds
        await door.click("u2", "a")
        await world.consume()
        assert (await world.row()).sold == 4


async def test_a_full_line_is_busy_and_takes_nothing(world: SeckillWorld) -> None:
    await world.open(total=100)
    async with front(world, line_max=2) as door:
        await door.click("u1")
        await door.click("u2")
        with pytest.raises(SeckillBusy) as refusal:
            await door.click("u3")
        assert refusal.value.retry_after_seconds
        await world.consume()
        assert (await door.click("u3")).code is ResultCode.QUEUED


async def test_a_sale_that_is_being_rebuilt_is_not_ready(world: SeckillWorld) -> None:
    await world.open(total=100)
    async with front(world) as door:
        await world.loader.hold(world.keys)
        with pytest.raises(SeckillNotReady) as refusal:
            await door.click("u1", "a")
        assert refusal.value.retry_after_seconds
        await world.rebuild()
        assert (await door.click("u1", "a")).code is ResultCode.QUEUED


async def test_a_product_without_a_sale_is_not_found_and_not_looked_up_each_time(
    world: SeckillWorld,
) -> None:
    async with front(world) as door:
        with pytest.raises(ActivityNotFound):
            await door.click()
        await world.open(total=1)
        with pytest.raises(ActivityNotFound):
            await door.click()
        door.monotonic.now += 3
        assert (await door.click()).code is ResultCode.QUEUED


async def test_a_buyer_who_goes_away_takes_nobody_with_him(world: SeckillWorld) -> None:
    await world.open(total=100)
    async with front(world) as door:
        clicks = [asyncio.create_task(door.click(f"u{number}")) for number in range(10)]
        await asyncio.sleep(0)
        for click in clicks[::2]:
            click.cancel()
        answers = await asyncio.gather(*clicks, return_exceptions=True)
    assert [getattr(answer, "code", None) for answer in answers[1::2]] == [ResultCode.QUEUED] * 5
    assert all(isinstance(answer, asyncio.CancelledError) for answer in answers[::2])


async def test_clicks_are_limited_by_shop_and_buyer(world: SeckillWorld) -> None:
    await world.open(total=5, limit=5)
    await world.open(total=5, limit=5, merchant_id="shop2")
    async with front(world, burst=2) as door:
        for number in range(2):
            await door.click("u1", f"r{number}")
        with pytest.raises(SeckillBusy):
            await door.click("u1", "r3")
        # somebody else of that name
        assert (await door.click("u1", "r4", merchant_id="shop2")).status is BuyerStatus.QUEUED
        assert (await door.click("u2", "r5")).status is BuyerStatus.QUEUED


async def test_what_a_process_learns_while_it_refreshes_stays(
    world: SeckillWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = await world.open(sku_id="old")
    async with front(world) as door:
        read, go_on = asyncio.Event(), asyncio.Event()
        real = world.db.read

        async def slow(*arguments: Any, **named: Any) -> Any:
            found = await real(*arguments, **named)
            read.set()
            await go_on.wait()
            return found

        with monkeypatch.context() as patched:
            patched.setattr(world.db, "read", slow)
            refreshing = asyncio.create_task(door.registry.refresh())
            await read.wait()
            opened = await world.open(sku_id="new")
            door.registry.learn(opened)
            go_on.set()
            await refreshing
        assert {each.activity_id for each in door.registry.running()} == {
            old.activity_id,
            opened.activity_id,
        }


async def test_a_start_in_years_asks_nobody_to_come_back_in_years(world: SeckillWorld) -> None:
    await world.open()
    starts_at = world.clock.now() + timedelta(days=3650)
    await world.change(starts_at=starts_at, ends_at=starts_at + timedelta(days=1), rev=9)
    await world.loader.write_state(world.keys, await world.row())
    async with front(world) as door:
        refused = await door.click("u1")
        assert refused.code is ResultCode.NOT_STARTED
        assert refused.starts_in_ms > 3649 * 86_400_000
        assert refused.retry_after_ms == 60_000

"""Rebuilds: what Redis knows of an activity comes from its rows, while it sells, whoever dies,
whoever else is at it, and whatever Redis forgets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from paymesh.seckill.v1 import activity_pb2

from mesh import failpoints
from mesh.failpoints import FailpointRaised
from seckill_rpc.domain.activity import Activity, ActivityState
from seckill_rpc.domain.order import BuyerStatus
from seckill_rpc.redis.admit import AdmitCode
from seckill_rpc.redis.keys import keys_of
from seckill_rpc.servicer.activities import ActivityServicer
from seckill_rpc.store import activities, orders
from seckill_rpc.usecases import rebuild as rebuild_module
from seckill_rpc.usecases.rebuild import Progress, RebuildStep
from tests.builders.seckill_order import (
    SeckillOrderWorld,
    before,
    on_one_database,
    seckill_order_world,
)
from tools.servers import Redis as RedisServer

POINTS = ("after_hold", "after_fence", "after_parts", "after_publish", "after_carry")


async def rebuild(
    world: SeckillOrderWorld, activity: Activity, **how: Any
) -> tuple[bool, list[RebuildStep]]:
    """Whether it was done, and its steps."""
    heard: list[Progress] = []
    is_done = await world.app.rebuilder.rebuild(
        activity.activity_id, on_progress=heard.append, **how
    )
    return is_done, list(dict.fromkeys(progress.step for progress in heard))


async def finish_sale(world: SeckillOrderWorld, activity: Activity) -> None:
    """Everybody clicks until nothing is left, and all is quiet."""
    for number in range(200):
        await world.settle(rounds=1)
        if (await world.click(activity, f"last{number}")).code is AdmitCode.SOLD_OUT and (
            await world.load(activity)
        ).left == 0:
            break
    await world.settle()


async def test_a_rebuild_keeps_holders_places_and_units(world: SeckillOrderWorld) -> None:
    activity = await world.opened(total=10)
    [order_id] = await world.buy(activity, "holder")
    queued = await world.click(activity, "queued")
    is_done, steps = await rebuild(world, activity)
    assert is_done
    assert steps == [
        RebuildStep.HOLD,
        RebuildStep.FENCE,
        RebuildStep.HOLDERS,
        RebuildStep.CARRY,
        RebuildStep.DONE,
    ]
    again = [await world.click(activity, "holder"), await world.click(activity, "queued")]
    assert [(each.code, each.detail) for each in again] == [
        (AdmitCode.REPLAY_LIVE, order_id),
        (AdmitCode.REPLAY_QUEUED, queued.detail),
    ]
    assert (await world.click(activity, "holder", "b")).code is AdmitCode.LIMIT
    await world.consume()
    await world.relay()
    assert await world.problems(activity) == []
    assert (await world.load(activity)).epoch == activity.epoch + 1


async def test_an_emptied_redis_knows_everything_again(world: SeckillOrderWorld) -> None:
    activity = await world.opened(total=10, limit=2)
    for user_id in ("u1", "u2"):
        await world.buy(activity, user_id)
    await world.clicks(activity, ("u1", "b"))
    await world.consume()
    await world.relay()
    await world.redis.flushall()
    assert (await world.click(activity, "u3")).code is AdmitCode.NOT_READY
    await rebuild(world, activity)
    assert await world.problems(activity) == []
    assert (await world.click(activity, "u1", "c")).code is AdmitCode.LIMIT
    assert (await world.click(activity, "u2", "c")).code is AdmitCode.QUEUED


@on_one_database
async def test_long_lists_of_holders_are_read_and_built_in_portions(
    world: SeckillOrderWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The orders of one buyer never fall into two portions: his numbers are absolute."""
    monkeypatch.setattr(rebuild_module, "CHUNK", 3)
    monkeypatch.setattr(orders, "CHUNK", 3)
    activity = await world.opened(total=20, limit=2)
    await world.clicks(
        activity, *((f"u{number}", request) for number in range(8) for request in ("a", "b"))
    )
    await world.consume()
    await world.relay()
    await world.redis.flushall()
    heard: list[Progress] = []
    assert await world.app.rebuilder.rebuild(activity.activity_id, on_progress=heard.append)
    done = [progress.done for progress in heard if progress.step is RebuildStep.HOLDERS]
    assert done == [4, 8, 12, 16]
    assert await world.problems(activity) == []


@on_one_database
async def test_a_one_without_an_order_becomes_two(world: SeckillOrderWorld) -> None:
    activity = await world.opened()
    await world.buy(activity, "u1")
    await world.redis.set(keys_of(activity).view("nobody"), BuyerStatus.HOLDER)
    await rebuild(world, activity)
    assert [await world.view(activity, user_id) for user_id in ("u1", "nobody")] == [
        BuyerStatus.HOLDER,
        BuyerStatus.NEITHER,
    ]


@on_one_database
@pytest.mark.parametrize("point", POINTS)
async def test_a_rebuild_that_dies_at_any_step_is_followed_by_another(
    world: SeckillOrderWorld, point: str
) -> None:
    activity = await world.opened(total=10)
    await world.buy(activity, "u1", "u2")
    await world.click(activity, "queued")
    failpoints.arm(f"seckill.rebuild.{point}=raise", environment="test")
    with pytest.raises(FailpointRaised):
        await rebuild(world, activity)
    world.restart()
    assert await world.keep(rounds=3, seconds=1) == 0, "the lease of the one who died"
    await world.end_leases()
    await world.keep(rounds=4, seconds=0.6)
    assert (await world.click(activity, "u3")).code is AdmitCode.QUEUED
    await world.consume()
    await world.relay()
    assert await world.problems(activity) == []
    assert (await world.load(activity)).sold == 4


async def test_of_two_rebuilders_the_newer_one_wins(world: SeckillOrderWorld) -> None:
    activity = await world.opened(total=10)
    await world.buy(activity, "u1")
    other = world.start()

    async def another() -> None:
        assert await other.rebuilder.rebuild(activity.activity_id)
        await world.buy(activity, "u2")

    before(world.app.loader, "publish", another)
    is_done, steps = await rebuild(world, activity)
    assert (is_done, steps[-1]) == (False, RebuildStep.SUPERSEDED)
    await world.relay()
    assert await world.problems(activity) == []


async def test_rebuilders_that_run_at_once_leave_one_truth(
    world: SeckillOrderWorld, rounds: Callable[[int, int], int]
) -> None:
    activity = await world.opened(total=10)
    await world.buy(activity, "u1")
    await world.click(activity, "queued")
    for _ in range(rounds(2, 30)):
        apps = [world.start() for _ in range(4)]
        await asyncio.gather(*(app.rebuilder.rebuild(activity.activity_id) for app in apps))
        await world.end_leases()
        await world.keep(rounds=6, seconds=0.5)
    await world.consume()
    await world.relay()
    assert await world.problems(activity) == []
    assert (await world.load(activity)).sold == 2


@on_one_database
async def test_a_rebuild_for_what_was_seen_does_nothing_when_it_is_over(
    world: SeckillOrderWorld,
) -> None:
    activity = await world.opened()
    assert await rebuild(world, activity, seen_epoch=activity.epoch - 1) == (
        False,
        [RebuildStep.SUPERSEDED],
    )
    other = world.start()
    assert await other.lease.take(keys_of(activity), "somebody")
    assert await rebuild(world, activity, seen_epoch=activity.epoch) == (
        False,
        [RebuildStep.SUPERSEDED],
    )
    assert await world.load(activity) == activity
    assert (await rebuild(world, activity))[0], "an operator is not kept waiting"


async def test_redis_emptied_under_the_hands_of_a_rebuilder_is_noticed(
    world: SeckillOrderWorld,
) -> None:
    activity = await world.opened(total=10)
    await world.buy(activity, "u1", "u2")
    await world.relay()
    before(world.app.loader, "publish", world.redis.flushall)
    is_done, steps = await rebuild(world, activity)
    assert (is_done, steps[-1]) == (False, RebuildStep.SUPERSEDED)
    assert (await world.click(activity, "u1", "b")).code is AdmitCode.NOT_READY, (
        "its holders are lost"
    )
    assert await world.keep(rounds=4, seconds=0.6) == 1
    assert await world.problems(activity) == []


async def test_a_unit_that_comes_back_during_a_rebuild_is_neither_lost_nor_doubled(
    world: SeckillOrderWorld,
) -> None:
    """Before the fence, between fence and reading, between reading and publishing, before the end;
    its message may come before or after.
    """
    for step in ("hold", "load_holders", "publish", "carry"):
        for delivers_at_once in (True, False):
            activity = await world.opened(total=10)
            [order_id] = await world.buy(activity, "u1")

            async def back(
                activity: Activity = activity,
                order_id: str = order_id,
                *,
                at_once: bool = delivers_at_once,
            ) -> None:
                assert await world.return_stock(activity, order_id)
                if at_once:
                    await world.relay()

            before(world.app.loader, step, back)
            assert (await rebuild(world, activity))[0]
            world.clock.advance(10)
            await world.relay()
            assert await world.problems(activity) == [], (step, delivers_at_once)
            assert (await world.click(activity, "u1")).code is AdmitCode.QUEUED
            await world.consume()
            await world.verb("close", activity)
            await world.relay()


@pytest.mark.parametrize("dialect", ["mariadb"], indirect=True)
async def test_a_unit_that_comes_back_while_the_orders_are_read_is_not_lost(
    world: SeckillOrderWorld,
) -> None:
    """The row was read before and the orders after it: unless both are of one moment, Redis has
    neither the unit nor its holder.
    """
    activity = await world.opened(total=10)
    [order_id] = await world.buy(activity, "u1")
    await world.relay()
    before(orders, "list_holders", lambda: world.return_stock(activity, order_id))
    assert (await rebuild(world, activity))[0]
    assert (await world.load(activity)).sold == 0
    world.clock.advance(10)
    await world.relay()
    assert await world.problems(activity) == []


@on_one_database
async def test_nobody_is_let_in_between_the_hold_and_the_end_of_a_rebuild(
    world: SeckillOrderWorld,
) -> None:
    activity = await world.opened(total=10)
    await world.buy(activity, "u1")
    told: list[AdmitCode] = []

    async def knock() -> None:
        told.append((await world.click(activity, "u2", f"r{len(told)}")).code)

    before(world.db, "run", knock)  # the fence
    for step in ("load_holders", "publish", "carry"):
        before(world.app.loader, step, knock)
    assert (await rebuild(world, activity))[0]
    assert told == [AdmitCode.NOT_READY] * 4
    assert (await world.click(activity, "u2")).code is AdmitCode.QUEUED


@on_one_database
@pytest.mark.parametrize("step", ["hold", "load_holders", "publish", "carry"])
async def test_a_pause_wins_over_a_running_rebuild(world: SeckillOrderWorld, step: str) -> None:
    activity = await world.opened()
    await world.buy(activity, "u1")
    before(world.app.loader, step, lambda: world.verb("pause", activity))
    assert (await rebuild(world, activity))[0]
    assert (await world.click(activity, "u2")).code is AdmitCode.PAUSED


@on_one_database
async def test_a_pause_wins_although_redis_was_emptied_after_it(world: SeckillOrderWorld) -> None:
    """Redis heard of the pause and forgot it; only a last look at the row can tell."""
    activity = await world.opened()

    async def pause_and_lose() -> None:
        await world.verb("pause", activity)
        await world.redis.delete(keys_of(activity).meta)

    before(world.app.loader, "publish", pause_and_lose)
    assert (await rebuild(world, activity))[0]
    assert (await world.click(activity, "u1")).code is AdmitCode.PAUSED


@on_one_database
async def test_a_close_wins_over_a_slow_rebuild(world: SeckillOrderWorld) -> None:
    for is_lost in (False, True):
        activity = await world.opened()

        async def close(activity: Activity = activity, *, lost: bool = is_lost) -> None:
            await world.keep()
            await world.change(activity, ends_at=activity.ends_at)
            row = await world.load(activity)
            await world.change(
                activity,
                state=ActivityState.CLOSED,
                open_slot=None,
                epoch=row.epoch + 1,
                rev=row.rev + 2,
                total=row.sold,
            )
            await world.app.loader.write_tombstone(keys_of(activity), await world.load(activity))
            if lost:
                await world.redis.delete(keys_of(activity).meta)

        before(world.app.loader, "publish", close)
        await rebuild(world, activity)
        assert (await world.click(activity, "u1")).code is AdmitCode.ENDED, (
            f"redis lost the tombstone: {is_lost}"
        )


@on_one_database
async def test_an_emptied_redis_opens_no_paused_and_no_closed_sale(
    world: SeckillOrderWorld,
) -> None:
    paused = await world.opened()
    await world.verb("pause", paused)
    await world.orders.product("cup", "10.00", available=100)
    closed = await world.opened(sku_id="cup")
    await world.verb("close", closed)
    await world.redis.flushall()
    assert (await world.click(paused, "u1")).code is AdmitCode.NOT_READY
    await world.settle()
    assert (await world.click(paused, "u1")).code is AdmitCode.PAUSED
    assert (await world.click(closed, "u1")).code in {AdmitCode.ENDED, AdmitCode.NOT_READY}
    assert (await world.load(closed)).state is ActivityState.CLOSED


@on_one_database
async def test_a_redis_that_starts_anew_opens_no_paused_sale(
    database_url_factory: Callable[[], str], own_redis: RedisServer
) -> None:
    async with seckill_order_world(
        database_url_factory(), database_url_factory(), own_redis.url
    ) as world:
        activity = await world.opened()
        await world.buy(activity, "u1")
        await world.verb("pause", activity)
        own_redis.kill()
        own_redis.start()
        assert (await world.click(activity, "u2")).code is AdmitCode.PAUSED
        assert await world.keep() == 1, "another run of Redis: what it has may be old"
        assert (await world.click(activity, "u2")).code is AdmitCode.PAUSED
        await world.relay()
        assert await world.problems(activity) == []


@on_one_database
async def test_a_redis_that_starts_anew_during_a_rebuild_is_noticed(
    database_url_factory: Callable[[], str], own_redis: RedisServer
) -> None:
    async with seckill_order_world(
        database_url_factory(), database_url_factory(), own_redis.url
    ) as world:
        activity = await world.opened()
        await world.buy(activity, "u1")

        async def start_anew() -> None:
            own_redis.kill()
            own_redis.start()

        before(world.app.loader, "clear_stale_views", start_anew)  # the holders are built already
        await rebuild(world, activity)
        meta = await world.app.loader.meta(keys_of(activity))
        assert meta is not None
        assert meta.run_id != await world.app.loader.run_id(), "what was built before may be lost"
        await world.end_leases()
        assert await world.keep() == 1
        await world.relay()
        assert await world.problems(activity) == []


@on_one_database
async def test_an_old_copy_of_redis_sells_no_unit_twice(
    database_url_factory: Callable[[], str], own_redis: RedisServer
) -> None:
    """A failover to a replica that lags: it has the places and the stock of a while ago."""
    async with seckill_order_world(
        database_url_factory(), database_url_factory(), own_redis.url
    ) as world:
        activity = await world.opened(total=6)
        await world.buy(activity, "u1")
        await world.click(activity, "old")
        copy = {key: await _dump(world, key) for key in await world.redis.keys("*")}
        await world.consume()
        await world.buy(activity, "u2", "u3")
        own_redis.kill()
        own_redis.start()
        await world.redis.flushall()
        for key, value in copy.items():
            await _restore(world, key, value)
        admitted = [await world.click(activity, f"late{number}") for number in range(6)]
        assert [each.code for each in admitted].count(AdmitCode.QUEUED) == 4, (
            "the copy has four units left; two were sold since"
        )
        assert (await world.click(activity, "u2", "b")).code in {
            AdmitCode.QUEUED,
            AdmitCode.SOLD_OUT,
        }
        await world.consume()
        assert (await world.load(activity)).sold == 6
        assert await world.keep() == 1
        await world.settle()
        assert await world.problems(activity) == []
        assert (await world.load(activity)).sold == 6


async def test_flushall_in_the_middle_of_a_sale_ends_with_every_unit_sold_once(
    world: SeckillOrderWorld, rounds: Callable[[int, int], int]
) -> None:
    for turn in range(rounds(1, 20)):
        activity = await world.opened(total=30)
        for wave in range(6):
            await world.clicks(
                activity, *((f"u{turn}-{wave}-{number}", "a") for number in range(8))
            )
            if wave in {1, 3}:
                await world.redis.flushall()
            if wave % 2:
                await world.consume()
            await world.keep(rounds=2)
        await finish_sale(world, activity)
        row = await world.load(activity)
        assert (row.sold, row.total) == (30, 30)
        assert await world.problems(activity) == []
        await world.verb("close", activity)
        await world.relay()


async def test_a_sale_goes_on_while_it_is_rebuilt(
    world: SeckillOrderWorld, rounds: Callable[[int, int], int]
) -> None:
    """Clicks, consumers, returns and rebuilds at once: no place is lost, every unit is sold,
    nothing is doubled.
    """
    buyers, total = rounds(60, 600), rounds(30, 60)
    activity = await world.opened(total=total)
    await world.app.registry.refresh()
    is_over = asyncio.Event()
    promised: dict[str, str] = {}

    async def click() -> None:
        for number in range(buyers):
            admission = await world.click(activity, f"u{number}")
            if admission.code is AdmitCode.QUEUED:
                promised[f"u{number}"] = admission.detail
            await asyncio.sleep(0)
        is_over.set()

    async def consume() -> None:
        while not is_over.is_set():
            await world.app.consumers[0].run_once()

    async def rebuild_again() -> None:
        while not is_over.is_set():
            await world.app.rebuilder.rebuild(activity.activity_id)

    await asyncio.gather(click(), consume(), rebuild_again())
    await world.settle()
    decided = {row["order_id"]: row["state"] for row in await world.rows()}
    assert {order_id: decided.get(order_id) for order_id in promised.values()} == dict.fromkeys(
        promised.values(), "LIVE"
    ), "a place was lost"
    await finish_sale(world, activity)
    assert (await world.load(activity)).sold == total
    assert await world.problems(activity) == []


@on_one_database
async def test_an_operator_hears_how_far_it_is(world: SeckillOrderWorld) -> None:
    activity = await world.opened()
    await world.buy(activity, "u1")
    servicer = ActivityServicer(activities=world.app.activities, rebuilder=world.app.rebuilder)
    request = activity_pb2.RebuildActivityRequest(activity_id=activity.activity_id)
    heard = [message async for message in servicer.RebuildActivity(request, None)]
    assert [activity_pb2.RebuildStep.Name(message.step) for message in (heard[0], heard[-1])] == [
        "REBUILD_STEP_HOLD",
        "REBUILD_STEP_DONE",
    ]
    assert (heard[-1].done, heard[-1].total, heard[-1].epoch) == (1, 1, activity.epoch + 1)
    await world.verb("close", activity)
    heard = [message async for message in servicer.RebuildActivity(request, None)]
    assert [message.step for message in heard] == [activity_pb2.REBUILD_STEP_SUPERSEDED]


@on_one_database
async def test_a_rebuild_goes_on_when_who_asked_for_it_hangs_up(world: SeckillOrderWorld) -> None:
    activity = await world.opened()
    servicer = ActivityServicer(activities=world.app.activities, rebuilder=world.app.rebuilder)
    stream = servicer.RebuildActivity(
        activity_pb2.RebuildActivityRequest(activity_id=activity.activity_id), None
    )
    assert (await anext(stream)).step == activity_pb2.REBUILD_STEP_HOLD
    await stream.aclose()  # type: ignore[attr-defined]  # it is a generator
    [task] = servicer._rebuilds
    assert await task
    meta = await world.app.loader.meta(keys_of(activity))
    assert meta is not None
    assert (meta.epoch, meta.is_held) == (activity.epoch + 1, False)


@on_one_database
async def test_redis_ahead_of_a_database_that_was_brought_back_is_passed(
    world: SeckillOrderWorld,
) -> None:
    activity = await world.opened()
    await world.redis.hset(keys_of(activity).meta, "epoch", activity.epoch + 5)
    assert await world.keep(rounds=4, seconds=0.5) == 1
    row = await world.db.read(activities.get, activity_id=activity.activity_id)
    assert row.epoch == activity.epoch + 6
    await world.relay()
    assert await world.problems(activity) == []


async def _dump(world: SeckillOrderWorld, key: Any) -> tuple[str, Any]:
    kind: Any = await world.redis.type(key)
    match kind:
        case "hash":
            return kind, await world.redis.hgetall(key)
        case "stream":
            return kind, await world.redis.xrange(key)
        case _:
            return kind, await world.redis.get(key)


async def _restore(world: SeckillOrderWorld, key: Any, value: tuple[str, Any]) -> None:
    kind, content = value
    match kind:
        case "hash":
            await world.redis.hset(key, mapping=content)
        case "stream":
            await world.redis.xgroup_create(key, "orders", "0", mkstream=True)
            for entry_id, fields in content:
                await world.redis.xadd(key, fields, id=entry_id)
        case _:
            await world.redis.set(key, content)

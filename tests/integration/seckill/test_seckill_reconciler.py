"""The keeper: whatever goes wrong in Redis is seen and repaired, once, and nothing is repaired that
is right.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prometheus_client import REGISTRY

from mesh import failpoints
from seckill_rpc.domain.activity import Activity, ActivityState
from seckill_rpc.domain.drift import Trigger
from seckill_rpc.domain.errors import SeckillNotReady
from seckill_rpc.redis.admit import AdmitCode
from seckill_rpc.redis.keys import keys_of
from seckill_rpc.usecases.admission.seckill_action import SeckillAction
from tests.builders.seckill_order import (
    SeckillOrderWorld,
    before,
    on_one_database,
    seckill_order_world,
    struck,
)
from tools.servers import Redis as RedisServer

Damage = Callable[[SeckillOrderWorld, Activity], Awaitable[object]]


def meta_field(name: str, value: int | str) -> Damage:
    async def damage(world: SeckillOrderWorld, activity: Activity) -> None:
        await world.redis.hset(keys_of(activity).meta, name, value)

    return damage


def units(change: int) -> Damage:
    async def damage(world: SeckillOrderWorld, activity: Activity) -> None:
        await world.redis.hincrby(keys_of(activity).meta, "stock", change)

    return damage


async def without_stock(world: SeckillOrderWorld, activity: Activity) -> None:
    await world.redis.hdel(keys_of(activity).meta, "stock")


async def lost(world: SeckillOrderWorld, activity: Activity) -> None:
    await world.redis.delete(keys_of(activity).meta)


async def fenced_and_died(world: SeckillOrderWorld, activity: Activity) -> None:
    await world.change(activity, epoch=activity.epoch + 1, version=activity.version + 1)


def repairs(trigger: Trigger) -> float:
    return REGISTRY.get_sample_value("paymesh_seckill_repairs_total", {"trigger": trigger}) or 0.0


def gap(activity: Activity) -> float | None:
    return REGISTRY.get_sample_value(
        "paymesh_seckill_conservation_gap", {"activity_id": activity.activity_id}
    )


# What is damaged, why it is noticed, and after how many tenths of a second.
DAMAGES: dict[str, tuple[Damage, Trigger, int]] = {
    "redis lost it": (lost, Trigger.META_MISSING, 0),
    "another run of redis": (meta_field("run", "another"), Trigger.RUN_ID, 0),
    "an epoch that was never published": (fenced_and_died, Trigger.EPOCH, 10),
    "a hold that was left": (meta_field("hold", 1), Trigger.HOLD, 10),
    "a field that was removed by hand": (without_stock, Trigger.META_MISSING, 0),
    "an epoch that is no number": (meta_field("epoch", "x"), Trigger.META_MISSING, 0),
    "units that do not exist": (units(3), Trigger.CONSERVATION, 20),
    "units that are missing": (units(-3), Trigger.CONSERVATION, 20),
}


@on_one_database
@pytest.mark.parametrize("damage", DAMAGES)
async def test_what_goes_wrong_is_repaired_after_its_time_and_once(
    world: SeckillOrderWorld, damage: str
) -> None:
    hurt, trigger, tenths = DAMAGES[damage]
    activity = await world.opened(total=10)
    await world.buy(activity, "u1")
    await world.relay()
    assert await world.keep(rounds=12) == 0
    activity = await world.load(activity)
    count = repairs(trigger)
    await hurt(world, activity)
    noticed = 0
    while not await world.app.reconciler.run_once():
        noticed += 1
        assert noticed < 50, "nobody noticed"
        world.clock.advance(0.1)
    assert tenths <= noticed <= tenths + 2
    assert repairs(trigger) == count + 1
    assert await world.problems(activity) == []
    assert await world.keep(rounds=12) == 0
    assert (await world.click(activity, "u2")).code is AdmitCode.QUEUED


@on_one_database
async def test_an_older_state_is_told_again_without_a_rebuild(world: SeckillOrderWorld) -> None:
    activity = await world.opened()
    await world.change(activity, state=ActivityState.PAUSED, rev=activity.rev + 1)
    count = repairs(Trigger.STATE)
    assert await world.keep() == 1
    assert repairs(Trigger.STATE) == count + 1
    assert (await world.load(activity)).epoch == activity.epoch
    assert (await world.click(activity, "u1")).code is AdmitCode.PAUSED


async def test_a_sale_without_an_end_does_not_keep_the_others_from_being_repaired(
    world: SeckillOrderWorld,
) -> None:
    await world.orders.product("other", "10.00", available=100)
    endless, other = await world.opened(), await world.opened(sku_id="other")
    await world.change(
        endless, ends_at=datetime(9999, 12, 31, 23, 59, 59, 999000, tzinfo=UTC), rev=endless.rev + 1
    )
    await lost(world, other)
    # what Redis knew of the other one, and the new end of the endless one
    assert await world.keep() == 2
    assert (await world.load(endless)).state is ActivityState.OPEN
    assert (await world.click(other, "u1")).code is AdmitCode.QUEUED


@on_one_database
async def test_the_gap_can_be_watched_and_goes_with_the_activity(world: SeckillOrderWorld) -> None:
    activity = await world.opened()
    await world.keep()
    assert gap(activity) == 0
    await units(-2)(world, activity)
    await world.keep()
    assert gap(activity) == -2
    await units(2)(world, activity)
    await world.verb("close", activity)
    await world.keep()
    assert gap(activity) is None


@on_one_database
async def test_a_damage_that_was_mended_in_time_is_no_reason(world: SeckillOrderWorld) -> None:
    activity = await world.opened()
    for change in (1, -1, 1, -1):
        await units(change)(world, activity)
        assert await world.keep(rounds=8) == 0
    assert (await world.load(activity)).epoch == activity.epoch


async def test_places_in_the_line_and_units_on_their_way_back_are_no_gap(
    world: SeckillOrderWorld,
) -> None:
    activity = await world.opened(total=10)
    orders = await world.buy(activity, "u1", "u2")
    await world.clicks(activity, ("u3", "a"), ("u4", "a"))
    assert await world.return_stock(activity, orders[0])
    assert await world.keep(rounds=25, seconds=0.5) == 0
    assert gap(activity) == 0
    # counts the unit that comes back; its message is still under way
    await world.app.rebuilder.rebuild(activity.activity_id)
    assert await world.keep(rounds=25, seconds=0.5) == 0
    await world.consume()
    await world.relay()
    assert await world.problems(activity) == []


async def test_orders_that_are_written_and_not_yet_published_explain_a_surplus_for_a_while(
    world: SeckillOrderWorld,
) -> None:
    """A consumer died between its commit and the script; another one takes the entries over. They
    count twice until then.
    """
    activity = await world.opened(total=10)
    await world.clicks(activity, ("u1", "a"), ("u2", "a"))
    await world.app.registry.refresh()
    failpoints.arm("seckill.consume.after_commit=raise", environment="test")
    assert await struck(world.app.consumers[0].run_once())
    failpoints.arm("", environment="test")
    assert (await world.load(activity)).sold == 2
    assert await world.keep(rounds=18, seconds=0.5) == 0
    assert gap(activity) == 2
    assert await world.keep(rounds=6, seconds=0.5) == 1, "but not for ever"
    await world.consume()
    await world.relay()
    assert await world.problems(activity) == []


async def test_a_busy_sale_gives_no_false_alarm(
    world: SeckillOrderWorld, rounds: Callable[[int, int], int]
) -> None:
    """Units move all the time between what the keeper reads of the database and of Redis."""
    activity = await world.opened(total=100, limit=1)
    await world.app.registry.refresh()
    is_over = asyncio.Event()

    async def trade() -> None:
        for number in range(rounds(40, 400)):
            if (await world.click(activity, f"u{number}")).code is AdmitCode.QUEUED:
                await world.app.consumers[0].run_once()
            if number % 3 == 0:
                row = next(
                    (row for row in await world.rows() if row["user_id"] == f"u{number}"), None
                )
                if row is not None and row["state"] == "LIVE":
                    await world.return_stock(activity, row["order_id"])
            await world.relay()
        is_over.set()

    async def keep() -> int:
        done = 0
        while not is_over.is_set():
            done += await world.keep()
        return done

    _, done = await asyncio.gather(trade(), keep())
    assert done == 0
    assert await world.problems(activity) == []


@on_one_database
async def test_a_rebuild_that_is_under_way_is_left_alone(world: SeckillOrderWorld) -> None:
    activity = await world.opened()
    other = world.start()
    assert await other.lease.take(keys_of(activity), "somebody")
    await world.redis.hset(keys_of(activity).meta, "hold", 1)
    assert await world.keep(rounds=20) == 0
    await world.redis.delete(keys_of(activity).meta)
    assert await world.keep(rounds=20) == 0
    assert (await world.load(activity)).epoch == activity.epoch
    await world.end_leases()
    assert await world.keep(rounds=3) == 1


async def test_keepers_of_many_processes_rebuild_once(
    world: SeckillOrderWorld, rounds: Callable[[int, int], int]
) -> None:
    activity = await world.opened(total=10)
    await world.buy(activity, "u1")
    await world.relay()
    apps = [world.start() for _ in range(4)]
    for _ in range(rounds(2, 20)):
        epoch = (await world.load(activity)).epoch
        await world.redis.flushall()
        await asyncio.gather(*(app.reconciler.run_once() for app in apps))
        for _ in range(10):
            world.clock.advance(0.1)
            await asyncio.gather(*(app.reconciler.run_once() for app in apps))
        assert (await world.load(activity)).epoch == epoch + 1
        assert await world.problems(activity) == []


@on_one_database
async def test_a_keeper_that_comes_late_rebuilds_nothing(world: SeckillOrderWorld) -> None:
    """Another one saw the same and has repaired it, lease and all, before this one begins."""
    activity = await world.opened()
    other = world.start()
    await world.relay()
    await lost(world, activity)
    before(world.app.rebuilder, "rebuild", lambda: other.rebuilder.rebuild(activity.activity_id))
    assert await world.keep() == 0
    assert (await world.load(activity)).epoch == activity.epoch + 1
    assert await world.problems(activity) == []


@on_one_database
async def test_a_rebuild_that_takes_long_keeps_no_other_activity_waiting(
    world: SeckillOrderWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seckill_rpc.usecases.reconciler.PATIENCE_SECONDS", 0.01)
    await world.orders.product("cup", "10.00", available=100)
    slow, quick = await world.opened(), await world.opened(sku_id="cup")
    gate = asyncio.Event()
    before(world.app.loader, "publish", gate.wait)
    await lost(world, slow)
    assert await world.keep() == 0
    await lost(world, quick)
    before(world.app.loader, "hold", lambda: asyncio.sleep(0))
    await world.keep()
    await world.keep()
    assert not gate.is_set()
    assert (await world.load(slow)).epoch == slow.epoch + 1, "begun once"
    gate.set()
    await asyncio.gather(*world.app.reconciler._rebuilds.values())
    assert [(await world.click(each, "u1")).code for each in (slow, quick)] == [
        AdmitCode.QUEUED
    ] * 2


async def test_an_activity_is_closed_when_its_end_is_over_by_the_clock_of_redis(
    world: SeckillOrderWorld,
) -> None:
    activity = await world.opened(total=10)
    await world.buy(activity, "u1")
    world.clock.advance(24 * 3600)
    assert await world.keep() == 0, "our own clock decides nothing"
    assert (await world.load(activity)).state is ActivityState.OPEN
    row = await world.end_window(activity)
    assert await world.keep() == 0, "the line has its time"
    await world.change(row, ends_at=await world.now() - timedelta(seconds=61))
    assert await world.keep() == 1
    await world.settle()
    assert (await world.load(activity)).state is ActivityState.CLOSED
    assert await world.shelf_units() == (99, 1)
    assert await world.problems(activity) == []


@on_one_database
async def test_a_paused_activity_ends_too(world: SeckillOrderWorld) -> None:
    activity = await world.opened()
    await world.verb("pause", activity)
    await world.change(activity, ends_at=await world.now() - timedelta(seconds=61))
    await world.settle()
    assert (await world.load(activity)).state is ActivityState.CLOSED


@on_one_database
async def test_an_old_copy_of_redis_opens_no_closed_activity(
    database_url_factory: Callable[[], str], own_redis: RedisServer
) -> None:
    async with seckill_order_world(
        database_url_factory(), database_url_factory(), own_redis.url
    ) as world:
        activity = await world.opened()
        await world.keep()
        copy: Any = await world.redis.hgetall(keys_of(activity).meta)
        await world.verb("close", activity)
        await world.relay()
        own_redis.kill()
        own_redis.start()
        await world.redis.delete(keys_of(activity).meta)
        await world.redis.hset(keys_of(activity).meta, mapping=copy)
        await world.redis.xgroup_create(keys_of(activity).queue, "orders", "0", mkstream=True)
        assert (await world.click(activity, "early")).code is AdmitCode.QUEUED, (
            "nobody has noticed yet"
        )
        assert await world.keep() == 1
        assert (await world.click(activity, "u1")).code is AdmitCode.ENDED
        assert await world.problems(activity) == []


@on_one_database
async def test_a_keeper_waits_for_a_redis_that_is_away(
    database_url_factory: Callable[[], str], own_redis: RedisServer
) -> None:
    async with seckill_order_world(
        database_url_factory(), database_url_factory(), own_redis.url
    ) as world:
        activity = await world.opened()
        own_redis.kill()
        assert await world.keep() == 0
        own_redis.start()
        assert await world.keep() == 1
        assert (await world.click(activity, "u1")).code is AdmitCode.QUEUED


@on_one_database
@pytest.mark.parametrize("name", ["meta", "users", "queue"])
async def test_a_key_of_another_kind_heals_by_itself_after_the_first_click_that_met_it(
    world: SeckillOrderWorld, name: str
) -> None:
    activity = await world.opened(total=10)
    [held] = await world.buy(activity, "u1")
    await world.relay()
    assert await world.keep(rounds=2) == 0
    key = getattr(keys_of(activity), name)
    await world.redis.delete(key)
    await world.redis.set(key, "x")
    with pytest.raises(SeckillNotReady):
        await world.app.admission.seckill_action(
            SeckillAction("mall", "u2", activity.sku_id, "a", 0)
        )
    assert await world.keep(rounds=2) == 1
    assert (await world.click(activity, "u2")).code is AdmitCode.QUEUED
    await world.consume()
    assert (await world.click(activity, "u1")).detail == held
    await world.relay()
    assert await world.problems(activity) == []


@on_one_database
async def test_what_does_not_agree_in_one_activity_does_not_keep_the_others_from_being_watched(
    world: SeckillOrderWorld,
) -> None:
    await world.orders.product("other", "10.00", available=100)
    broken, other = await world.opened(), await world.opened(sku_id="other")
    await world.redis.hset(keys_of(broken).meta, "stock", "many")
    await world.redis.delete(keys_of(other).meta)
    assert await world.keep() == 2
    for activity in (broken, other):
        assert (await world.click(activity, "u1")).code is AdmitCode.QUEUED

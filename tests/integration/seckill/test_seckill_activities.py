"""The life of activities, with a real order_rpc and a real Redis: planned, published, paused,
closed; killed at every step and finished by a worker, while every unit stays somewhere."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from mesh import failpoints
from mesh.errors import IdempotencyKeyReused, InvalidArgument, MeshError, RemoteError
from mesh.outbox import OUTBOX
from order_rpc.usecases.catalog_stock import AdjustStock
from seckill_rpc.domain.activity import Activity, ActivityState
from seckill_rpc.domain.errors import ActivityAlreadyOpen, ActivityNotFound, ActivityStateInvalid
from seckill_rpc.redis.admit import AdmitCode
from seckill_rpc.redis.keys import keys_of
from seckill_rpc.usecases.activity_lifecycle.activities import ActivityView, ListActivities
from tests.builders.order import merchant
from tests.builders.seckill_order import (
    SeckillOrderWorld,
    on_one_database,
    seckill_order_world,
    struck,
)
from tools.servers import Redis as RedisServer

DRAFT, PUBLISHING, OPEN, PAUSED, CLOSING, CLOSED = ActivityState
REFUSED = "refused"
# What becomes of an activity in a state when its shop says something; most is refused. CLOSING has
# somebody in its line.
LIFE: dict[ActivityState, dict[str, Any]] = {
    DRAFT: {"publish": OPEN, "pause": REFUSED, "resume": REFUSED, "close": CLOSED},
    PUBLISHING: {"publish": OPEN, "pause": REFUSED, "resume": REFUSED, "close": REFUSED},
    OPEN: {"publish": OPEN, "pause": PAUSED, "resume": OPEN, "close": CLOSED},
    PAUSED: {"publish": REFUSED, "pause": PAUSED, "resume": OPEN, "close": CLOSED},
    CLOSING: {"publish": REFUSED, "pause": REFUSED, "resume": REFUSED, "close": CLOSING},
    CLOSED: {"publish": REFUSED, "pause": REFUSED, "resume": REFUSED, "close": CLOSED},
}


async def in_state(world: SeckillOrderWorld, state: ActivityState) -> Activity:
    """An activity that came to a state as activities come to it."""
    activity = await world.draft()
    if state is PUBLISHING:
        world.shelf.away = True
        await world.verb("publish", activity)
        world.shelf.away = False
    elif state is not DRAFT:
        await world.verb("publish", activity)
        if state is CLOSING:
            await world.click(activity, "u1")
        if state is not OPEN:
            await world.verb("pause" if state is PAUSED else "close", activity)
    found = await world.load(activity)
    assert found.state is state, found
    return found


@pytest.mark.parametrize("state", ActivityState)
async def test_each_verb_does_in_each_state_what_the_table_says(
    world: SeckillOrderWorld, state: ActivityState
) -> None:
    for verb, expected in LIFE[state].items():
        activity = await in_state(world, state)
        if expected is REFUSED:
            with pytest.raises(ActivityStateInvalid):
                await world.verb(verb, activity)
            assert await world.load(activity) == activity, f"{verb} changed a {state} activity"
        else:
            assert (await world.verb(verb, activity)).activity.state is expected, (
                f"{verb} of {state}"
            )
            assert (await world.verb(verb, activity)).activity.state is expected or (
                state,
                verb,
            ) == (PAUSED, "resume"), f"{verb} again"
        if await world.consume() + (
            (await world.load(activity)).state in {PUBLISHING, OPEN, PAUSED, CLOSING}
        ):
            world.clock.advance(10)
            await world.app.publisher.run_once()
            await world.verb("close", activity)  # makes room for the next one
        await world.relay()
    assert await world.orders.stock_problems() == []


async def test_publishing_takes_the_units_off_the_shelf_and_lets_buyers_in(
    world: SeckillOrderWorld,
) -> None:
    activity = await world.draft(total=10)
    assert (await world.verb("get", activity)).live is None
    assert await world.shelf_units() == (100, 0)
    shown = await world.verb("publish", activity)
    assert (shown.activity.state, shown.activity.total) == (OPEN, 10)
    assert shown.live is not None
    assert (shown.live.stock, shown.live.queued, shown.live.is_admitting) == (10, 0, True)
    assert await world.shelf_units() == (90, 10)
    await world.buy(activity, "u1")
    await world.relay()
    assert (await world.verb("get", activity)).activity.sold == 1
    assert await world.problems(activity) == []
    assert await world.tags() == ["ACTIVITY_OPENED"]


async def test_closing_sends_what_was_not_sold_back_to_the_shelf(world: SeckillOrderWorld) -> None:
    activity = await world.opened(total=10)
    await world.buy(activity, "u1", "u2")
    await world.relay()
    closed = await world.verb("close", activity)
    assert (closed.activity.state, closed.activity.sold, closed.activity.total, closed.live) == (
        CLOSED,
        2,
        2,
        None,
    )
    await world.relay()
    assert await world.shelf_units() == (98, 2)
    assert await world.problems(activity) == []
    assert await world.tags() == ["ACTIVITY_OPENED", "ACTIVITY_CLOSING", "ACTIVITY_CLOSED"]
    told = [
        json.loads(row["payload"])
        for row in await world.rows(OUTBOX)
        if row["destination"] == "stream:SECKILL_TOPIC"
    ]
    # one meaning in each state
    assert [(event["sold"], event["total"]) for event in told] == [
        ("0", "10"),
        ("2", "10"),
        ("2", "10"),
    ]
    assert (await world.click(activity, "u3")).code is AdmitCode.ENDED


async def test_an_activity_that_closes_serves_its_line_first(world: SeckillOrderWorld) -> None:
    activity = await world.opened(total=10)
    assert (await world.click(activity, "u1")).code is AdmitCode.QUEUED
    closing = await world.verb("close", activity)
    assert closing.activity.state is CLOSING
    assert "line" in closing.activity.problem
    assert (await world.click(activity, "u2")).code is AdmitCode.ENDED
    assert await world.app.closer.run_once() == 0
    await world.consume()
    assert await world.app.closer.run_once() == 1
    closed = await world.load(activity)
    assert (closed.state, closed.sold, closed.total) == (CLOSED, 1, 1)
    await world.relay()
    assert await world.problems(activity) == []


async def test_a_unit_on_its_way_back_keeps_an_activity_from_being_closed_over_it(
    world: SeckillOrderWorld,
) -> None:
    activity = await world.opened(total=10)
    [order_id] = await world.buy(activity, "u1")
    assert await world.return_stock(activity, order_id)
    closing = await world.verb("close", activity)
    assert closing.activity.state is CLOSING
    assert "way back" in closing.activity.problem
    await world.relay()
    assert await world.app.closer.run_once() == 1
    await world.relay()
    assert await world.shelf_units() == (100, 0)
    assert await world.problems(activity) == []


async def test_a_unit_that_comes_back_after_the_close_goes_to_the_shelf(
    world: SeckillOrderWorld,
) -> None:
    activity = await world.opened(total=10)
    [order_id] = await world.buy(activity, "u1")
    await world.verb("close", activity)
    await world.relay()
    assert await world.return_stock(activity, order_id)
    assert not await world.return_stock(activity, order_id)
    await world.relay()
    assert await world.shelf_units() == (100, 0)
    row = await world.load(activity)
    assert (row.sold, row.total) == (0, 0)
    assert await world.problems(activity) == []


@pytest.mark.parametrize(
    "point", ["after_row", "after_allocate", "after_clear", "after_open", "after_load"]
)
async def test_a_publication_that_dies_at_any_step_is_finished_by_a_worker(
    world: SeckillOrderWorld, point: str
) -> None:
    activity = await world.draft(total=10)
    failpoints.arm(f"seckill.publish.{point}=raise", environment="test")
    assert await struck(world.verb("publish", activity))
    assert sum(await world.shelf_units()) == 100
    world.restart()
    await world.settle()
    assert (await world.load(activity)).state is OPEN
    assert await world.shelf_units() == (90, 10)
    await world.buy(activity, "u1")
    await world.relay()
    assert await world.problems(activity) == []


@pytest.mark.parametrize("point", ["after_row", "after_drained", "after_closed", "after_drop"])
async def test_a_close_that_dies_at_any_step_is_finished_by_a_worker(
    world: SeckillOrderWorld, point: str
) -> None:
    activity = await world.opened(total=10)
    await world.buy(activity, "u1")
    failpoints.arm(f"seckill.close.{point}=raise", environment="test")
    assert await struck(world.verb("close", activity))
    assert sum(await world.shelf_units()) == 100
    world.restart()
    await world.settle()
    assert (await world.load(activity)).state is CLOSED
    assert await world.shelf_units() == (99, 1)
    assert await world.problems(activity) == []


@on_one_database
async def test_the_tombstone_of_a_closed_activity_is_left_by_the_relay_alone(
    world: SeckillOrderWorld,
) -> None:
    """The keeper of a new process would leave it too."""
    activity = await world.opened()
    failpoints.arm("seckill.close.after_closed=raise", environment="test")
    assert await struck(world.verb("close", activity))
    world.restart()
    await world.relay()
    meta = await world.app.loader.meta(keys_of(activity))
    assert meta is not None
    assert meta.state == "CLOSED"


async def test_the_shelf_refuses_and_the_draft_is_back_with_the_reason(
    world: SeckillOrderWorld,
) -> None:
    too_many = await world.draft(total=101)
    unknown = await world.draft(sku_id="unknown")
    dear = await world.draft(currency="USD")
    refusals: list[tuple[Activity, type[MeshError], str]] = [
        (too_many, RemoteError, "OUT_OF_STOCK"),
        (unknown, RemoteError, "PRODUCT_NOT_FOUND"),
        (dear, InvalidArgument, "INVALID_ARGUMENT"),
    ]
    for activity, refusal, reason in refusals:
        with pytest.raises(refusal) as refused:
            await world.verb("publish", activity)
        assert refused.value.reason == reason
        row = await world.load(activity)
        assert row.state is DRAFT
        assert row.problem.startswith(reason)
    assert await world.shelf_units() == (100, 0)
    await world.orders.catalog_stock.adjust_stock(
        AdjustStock(
            merchant_id="mall",
            sku_id="mug",
            quantity=1,
            reason="found one",
            idempotency_key="",
            fingerprint={},
        ),
        merchant(),
    )
    shown = await world.verb("publish", too_many)
    assert (shown.activity.state, shown.activity.problem) == (OPEN, "")


@on_one_database
async def test_a_worker_brings_a_draft_back_too(world: SeckillOrderWorld) -> None:
    activity = await world.draft(total=101)
    world.shelf.away = True
    shown = await world.verb("publish", activity)
    assert shown.activity.state is PUBLISHING
    assert "NEIGHBOUR_UNAVAILABLE" in shown.activity.problem
    world.shelf.away = False
    assert await world.app.publisher.run_once() == 0, (
        "a worker does not join a call that may still be at it"
    )
    world.clock.advance(5)
    assert await world.app.publisher.run_once() == 1
    assert (await world.load(activity)).state is DRAFT


@on_one_database
async def test_a_worker_does_not_wait_for_the_error_of_a_clock_that_was_ahead(
    world: SeckillOrderWorld,
) -> None:
    activity = await world.draft(total=10)
    world.shelf.away = True
    assert (await world.verb("publish", activity)).activity.state is PUBLISHING
    world.shelf.away = False
    world.clock.advance(-30)
    assert await world.app.publisher.run_once() == 0
    world.clock.advance(-1)
    assert await world.app.publisher.run_once() == 1


async def test_an_answer_that_was_lost_takes_no_units_twice(world: SeckillOrderWorld) -> None:
    activity = await world.draft(total=10)
    allocate = world.shelf.allocate

    async def unheard(activity: Activity, *, op_id: str) -> int:
        world.shelf.lose_answers = True
        try:
            return await allocate(activity, op_id=op_id)
        finally:
            world.shelf.lose_answers = False

    world.shelf.allocate = unheard  # type: ignore[method-assign]  # the product's currency is heard
    assert (await world.verb("publish", activity)).activity.state is PUBLISHING
    assert await world.shelf_units() == (90, 10)
    world.shelf.allocate = allocate  # type: ignore[method-assign]
    assert (await world.verb("publish", activity)).activity.state is OPEN
    assert await world.shelf_units() == (90, 10)


async def test_publishing_at_once_takes_the_units_once_and_opens_once(
    world: SeckillOrderWorld,
) -> None:
    activity = await world.draft(total=10)
    other = world.start()
    calls = [
        each.activities.publish(
            activity_id=activity.activity_id, merchant_id="mall", caller=merchant()
        )
        for each in (world.app, other) * 3
    ]
    states = {shown.activity.state for shown in await asyncio.gather(*calls)}
    assert states <= {OPEN, PUBLISHING}
    await world.settle()
    assert await world.shelf_units() == (90, 10)
    assert await world.problems(activity) == []
    assert (await world.tags()).count("ACTIVITY_OPENED") == 1


async def test_a_publication_that_slept_clears_no_result_of_a_buyer(
    world: SeckillOrderWorld,
) -> None:
    """Old views are cleared while nothing is published. Whoever comes to that step late finds
    buyers there.
    """
    activity = await world.draft(total=10)
    gate, allocated, other = asyncio.Event(), asyncio.Event(), world.start()
    allocate = world.shelf.allocate

    async def slow(activity: Activity, *, op_id: str) -> int:
        units = await allocate(activity, op_id=op_id)
        allocated.set()
        await gate.wait()
        return units

    world.shelf.allocate = slow  # type: ignore[method-assign]  # the first of the two sleeps here
    first = asyncio.create_task(world.verb("publish", activity))
    await allocated.wait()
    world.shelf.allocate = allocate  # type: ignore[method-assign]
    await other.activities.publish(
        activity_id=activity.activity_id, merchant_id="mall", caller=merchant()
    )
    await world.buy(activity, "u1")
    epoch = (await world.load(activity)).epoch
    gate.set()
    assert (await first).activity.state is OPEN
    assert (await world.load(activity)).epoch == epoch, "it was rebuilt for nothing"
    await world.relay()
    assert await world.problems(activity) == []


async def test_a_product_has_one_activity_at_a_time(world: SeckillOrderWorld) -> None:
    first = await world.opened()
    second = await world.draft()
    with pytest.raises(ActivityAlreadyOpen) as refused:
        await world.verb("publish", second)
    assert refused.value.metadata["activity_id"] == first.activity_id
    await world.verb("close", first)
    assert (await world.verb("publish", second)).activity.state is OPEN


@on_one_database
async def test_a_new_activity_of_a_product_begins_without_the_results_of_the_last_one(
    world: SeckillOrderWorld,
) -> None:
    first = await world.opened()
    await world.buy(first, "u1")
    await world.verb("close", first)
    second = await world.opened()
    assert await world.view(second, "u1") is None
    assert (await world.click(second, "u1")).code is AdmitCode.QUEUED


async def test_the_same_idempotency_key_answers_the_activity_that_is_there(
    world: SeckillOrderWorld,
) -> None:
    first = await world.draft(key="k1")
    assert await world.draft(key="k1") == first
    assert (await world.draft(key="k2")).activity_id != first.activity_id
    await world.verb("publish", first)
    assert (await world.draft(key="k1")).state is OPEN
    with pytest.raises(IdempotencyKeyReused):
        await world.draft(key="k1", total=11)


@on_one_database
async def test_a_window_that_makes_no_sense_is_refused(world: SeckillOrderWorld) -> None:
    windows: list[dict[str, Any]] = [
        {"starts_in": timedelta(0), "ends_in": timedelta(0)},
        {"starts_in": timedelta(hours=-2), "ends_in": timedelta(hours=-1)},
    ]
    for window in windows:
        with pytest.raises(InvalidArgument):
            await world.draft(**window)
    late = await world.draft(ends_in=timedelta(minutes=1))
    world.clock.advance(60)
    with pytest.raises(ActivityStateInvalid):
        await world.verb("publish", late)
    assert (await world.load(late)).state is DRAFT


@on_one_database
async def test_another_shop_sees_and_changes_nothing(world: SeckillOrderWorld) -> None:
    activity = await world.opened()
    stranger = merchant("other")
    for verb in ("get", "publish", "pause", "resume", "close"):
        with pytest.raises(ActivityNotFound):
            await getattr(world.app.activities, verb)(
                activity_id=activity.activity_id, merchant_id="other", caller=stranger
            )
        with pytest.raises(ActivityNotFound):
            await world.verb(verb, activity, caller=stranger)
    assert (await world.load(activity)).state is OPEN


async def test_a_list_shows_each_activity_once_newest_first_with_its_numbers(
    world: SeckillOrderWorld,
) -> None:
    made = []
    for _ in range(5):
        made.append(await world.draft())
        world.clock.advance(1)
    await world.verb("publish", made[2])
    found: list[ActivityView] = []
    token = ""
    while True:
        page, token = await world.app.activities.list_activities(
            ListActivities(merchant_id="mall", state=None, page_size=2, page_token=token),
            merchant(),
        )
        found += page
        if not token:
            break
    assert [shown.activity.activity_id for shown in found] == [
        each.activity_id for each in made[::-1]
    ]
    assert [shown.live is not None for shown in found] == [False, False, True, False, False]
    drafts, _ = await world.app.activities.list_activities(
        ListActivities(merchant_id="mall", state=DRAFT, page_size=0, page_token=""), merchant()
    )
    assert len(drafts) == 4


@on_one_database
async def test_a_pause_is_told_to_redis_at_once_and_serves_who_stands_in_the_line(
    world: SeckillOrderWorld,
) -> None:
    activity = await world.opened()
    await world.click(activity, "u1")
    await world.verb("pause", activity)
    assert (await world.click(activity, "u2")).code is AdmitCode.PAUSED
    await world.consume()
    assert (await world.load(activity)).sold == 1
    await world.verb("resume", activity)
    assert (await world.click(activity, "u2")).code is AdmitCode.QUEUED


@on_one_database
async def test_a_verb_counts_although_redis_did_not_hear_it(world: SeckillOrderWorld) -> None:
    """The row is the truth; the keeper tells Redis."""
    activity = await world.opened()
    await world.change(activity, state=PAUSED, rev=activity.rev + 1)
    assert (await world.click(activity, "u1")).code is AdmitCode.QUEUED
    assert await world.keep() == 1
    assert (await world.click(activity, "u2")).code is AdmitCode.PAUSED
    assert await world.keep() == 0


@on_one_database
async def test_verbs_while_redis_is_away_are_kept_for_it(
    database_url_factory: Callable[[], str], own_redis: RedisServer
) -> None:
    async with seckill_order_world(
        database_url_factory(), database_url_factory(), own_redis.url
    ) as world:
        paused, published = await world.opened(), await world.draft(sku_id="cup")
        await world.orders.product("cup", "10.00", available=100)
        closing = await world.opened(sku_id="cup")
        own_redis.kill()
        assert (await world.verb("pause", paused)).activity.state is PAUSED
        assert (await world.verb("get", paused)).live is None
        assert (await world.verb("close", closing)).activity.problem == "REDIS_UNAVAILABLE"
        assert await world.keep() == 0
        own_redis.start()
        await world.settle()
        assert (await world.load(closing)).state is CLOSED
        assert (await world.verb("publish", published)).activity.state is OPEN
        assert (await world.click(paused, "u1")).code is AdmitCode.PAUSED
        await world.relay()
        assert [await world.problems(each) for each in (paused, published)] == [[], []]


async def test_an_activity_is_admitting_only_while_clicks_are_let_in(
    world: SeckillOrderWorld,
) -> None:
    async def is_admitting(activity: Activity) -> bool:
        shown = await world.verb("get", activity)
        assert shown.live is not None
        return shown.live.is_admitting

    await world.orders.product("later", "10.00", available=10)
    assert not await is_admitting(
        await world.opened(sku_id="later", starts_in=timedelta(days=1), ends_in=timedelta(days=2))
    )
    activity = await world.opened()
    assert await is_admitting(activity)
    await world.verb("pause", activity)
    assert not await is_admitting(activity)
    await world.verb("resume", activity)
    assert await is_admitting(activity)
    await world.app.loader.hold(keys_of(activity))
    assert not await is_admitting(activity)

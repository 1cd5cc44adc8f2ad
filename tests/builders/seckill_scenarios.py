"""Scripted interleavings around the flash sale's scripts: what random runs hit too rarely. Each
takes a `Stage`, whose scripts may be mutants, and fails when a guard is gone:
test_seckill_scripts.py plays all of them,
test_seckill_script_mutants.py the one that each guard needs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest
from redis.exceptions import ResponseError

from seckill_rpc.domain.activity import ActivityState, ActivityVerb, AdmissionMode
from seckill_rpc.domain.order import BuyerStatus, Verdict
from seckill_rpc.redis.admission_queue import Entry, FinishedEntry, GiveBack, ReturnedUnit
from seckill_rpc.redis.admit import CLICKS_MAX, AdmitCode, Click, admit
from seckill_rpc.redis.keys import GROUP
from seckill_rpc.redis.loader import LiveUnit
from tests.builders.seckill_scripts import HOUR, Rebuild, Stage, plant

Scenario = Callable[[Stage], Awaitable[None]]
SCENARIOS: dict[str, Scenario] = {}
DRAW = AdmissionMode.DRAW


def scenario(play: Scenario) -> Scenario:
    SCENARIOS[play.__name__] = play
    return play


def unit_of(stage: Stage, order_id: str) -> ReturnedUnit:
    unit = stage.rows.give_back(order_id)
    assert unit is not None
    return unit


async def fill_memory(stage: Stage) -> None:
    await stage.redis.config_set("maxmemory", "1")


async def free_memory(stage: Stage) -> None:
    await stage.redis.config_set("maxmemory", "0")


# --- admission ------------------------------------------------------------------------------------


@scenario
async def a_click_is_queued_and_its_replay_says_so_until_it_is_live(stage: Stage) -> None:
    await stage.open()
    first = await stage.buy("u", "a", "ORD-A")
    assert (first.code, first.detail) == (AdmitCode.QUEUED, "ORD-A")
    assert await stage.view("u") is BuyerStatus.QUEUED
    again = await stage.buy("u", "a", "ORD-B")
    assert (again.code, again.detail) == (AdmitCode.REPLAY_QUEUED, "ORD-A")
    assert await stage.queued() == ["ORD-A"]
    await stage.check_law()
    await stage.consume()
    live = await stage.buy("u", "a", "ORD-C")
    assert (live.code, live.detail) == (AdmitCode.REPLAY_LIVE, "ORD-A")
    assert await stage.view("u") is BuyerStatus.HOLDER
    await stage.check_rest()


@scenario
async def the_stock_ends_where_it_ends_in_one_call_too(stage: Stage) -> None:
    await stage.open(total=3)
    clicks = [Click(user_id=f"u{i}", request_id="a", order_id=f"ORD-{i}") for i in range(5)]
    epoch, answers = await admit(stage.scripts, stage.keys, clicks)
    assert epoch == stage.rows.activity.epoch
    assert [answer.code for answer in answers] == [AdmitCode.QUEUED] * 3 + [AdmitCode.SOLD_OUT] * 2
    assert await stage.code("u9") is AdmitCode.SOLD_OUT
    await stage.consume()
    assert stage.rows.activity.sold == 3
    await stage.check_rest()


@scenario
async def a_refusal_says_how_many_clicks_are_undecided(stage: Stage) -> None:
    await stage.open(total=2)
    clicks = [Click(user_id=f"u{i}", request_id="a", order_id=f"ORD-{i}") for i in range(3)]
    _, answers = await admit(stage.scripts, stage.keys, clicks)
    assert (answers[2].code, answers[2].detail) == (AdmitCode.SOLD_OUT, "2")
    assert (await stage.buy("v")).detail == "2"
    [first, second] = await stage.take()
    await stage.settle([first])
    assert (await stage.buy("v")).detail == "1"
    await stage.loader.write_state(stage.keys, stage.rows.step(ActivityVerb.PAUSE))
    paused = await stage.buy("v")
    assert (paused.code, paused.detail) == (AdmitCode.PAUSED, "1")
    await stage.settle([second])
    await stage.loader.write_state(stage.keys, stage.rows.step(ActivityVerb.CLOSE))
    ended = await stage.buy("v")
    assert (ended.code, ended.detail) == (AdmitCode.ENDED, "0")


@scenario
async def a_refusal_of_a_draw_counts_its_entries(stage: Stage) -> None:
    await open_draw(stage, total=1, entrants=3)
    await stage.end_window()
    late = await stage.buy("late")
    assert (late.code, late.detail) == (AdmitCode.ENDED, "3")
    await stage.draw(1)
    assert (await stage.buy("late")).detail == "3", "two entries, and the winner in the line"
    await stage.draw_all()
    await stage.consume()
    assert (await stage.buy("late")).detail == "0"


@scenario
async def one_call_may_hold_several_clicks_of_a_buyer(stage: Stage) -> None:
    await stage.open(limit=2)
    clicks = [
        Click(user_id="u", request_id=request, order_id=f"ORD-{i}")
        for i, request in enumerate(["a", "a", "b", "c"])
    ]
    _, answers = await admit(stage.scripts, stage.keys, clicks)
    assert [(answer.code, answer.detail) for answer in answers] == [
        (AdmitCode.QUEUED, "ORD-0"),
        (AdmitCode.REPLAY_QUEUED, "ORD-0"),
        (AdmitCode.QUEUED, "ORD-2"),
        (AdmitCode.LIMIT, "2"),
    ]
    await stage.check_law()


@scenario
async def the_limit_counts_what_is_queued_and_what_is_held(stage: Stage) -> None:
    await stage.open(limit=2)
    await stage.sell("u", "a")
    assert await stage.code("u", "b") is AdmitCode.QUEUED
    refused = await stage.buy("u", "c")
    assert (refused.code, refused.detail) == (AdmitCode.LIMIT, "2")
    assert await stage.code("v", "c") is AdmitCode.QUEUED
    await stage.check_law()


@scenario
async def nobody_comes_before_the_start_by_the_clock_of_redis(stage: Stage) -> None:
    await stage.open(starts_in=HOUR, ends_in=2 * HOUR)
    early = await stage.buy("u")
    assert early.code is AdmitCode.NOT_STARTED
    assert 3_590_000 < int(early.detail) <= 3_600_000


@scenario
async def nobody_comes_after_the_end_by_the_clock_of_redis(stage: Stage) -> None:
    await stage.open(ends_in=timedelta(seconds=-1))
    assert await stage.code("u") is AdmitCode.ENDED


@scenario
async def nobody_comes_while_it_is_closing(stage: Stage) -> None:
    await stage.open()
    await stage.loader.write_state(stage.keys, stage.rows.step(ActivityVerb.CLOSE))
    assert await stage.code("u") is AdmitCode.ENDED


@scenario
async def nobody_comes_during_a_pause_and_the_door_opens_again(stage: Stage) -> None:
    await stage.open()
    assert await stage.loader.write_state(stage.keys, stage.rows.step(ActivityVerb.PAUSE))
    assert await stage.code("u") is AdmitCode.PAUSED
    assert await stage.loader.write_state(stage.keys, stage.rows.step(ActivityVerb.RESUME))
    assert await stage.code("u") is AdmitCode.QUEUED


@scenario
async def what_is_not_published_is_not_ready(stage: Stage) -> None:
    epoch, [answer] = await admit(
        stage.scripts, stage.keys, [Click(user_id="u", request_id="a", order_id="ORD-A")]
    )
    assert (epoch, answer.code) == (0, AdmitCode.NOT_READY)
    await stage.loader.hold(stage.keys)
    assert await stage.redis.dbsize() == 0


@scenario
async def a_state_without_stock_admits_nobody(stage: Stage) -> None:
    await stage.open()
    await stage.redis.flushall()
    assert await stage.change(limit_per_user=2)
    assert await stage.code("u") is AdmitCode.NOT_READY
    assert await stage.loader.meta(stage.keys) is None, "so that the keeper rebuilds it"
    await stage.rebuild()
    await stage.redis.hdel(stage.keys.meta, "stock")  # by hand
    assert await stage.code("u") is AdmitCode.NOT_READY
    await stage.rebuild()
    assert await stage.code("u") is AdmitCode.QUEUED


@scenario
async def nobody_comes_while_a_rebuild_holds_it(stage: Stage) -> None:
    await stage.open()
    rebuild = await Rebuild(stage).fence()
    assert await stage.code("u") is AdmitCode.NOT_READY
    await rebuild.build()
    await rebuild.publish()
    assert await stage.code("u") is AdmitCode.NOT_READY, "carry comes first"
    await rebuild.carry()
    assert await stage.code("u") is AdmitCode.QUEUED
    await stage.check_law()


@scenario
async def an_entry_of_an_epoch_that_redis_has_not_yet_is_not_ready(stage: Stage) -> None:
    await stage.open()
    await stage.buy("u", "a", "ORD-A")
    assert await stage.code("u", "a", min_epoch=99) is AdmitCode.NOT_READY, (
        "a replay by the old record would lose the entry"
    )
    await stage.check_law()


@scenario
async def a_full_line_is_busy_and_takes_nothing(stage: Stage) -> None:
    await stage.open()
    assert await stage.code("u", line_max=1) is AdmitCode.QUEUED
    before = await stage.snapshot()
    assert await stage.code("v", line_max=1) is AdmitCode.BUSY
    assert await stage.snapshot() == before
    clicks = [Click(user_id=f"w{i}", request_id="a", order_id=f"ORD-{i}") for i in range(3)]
    _, answers = await admit(stage.scripts, stage.keys, clicks, line_max=3)
    assert [answer.code for answer in answers] == [
        AdmitCode.QUEUED,
        AdmitCode.QUEUED,
        AdmitCode.BUSY,
    ]
    await stage.check_law()


@scenario
async def a_replay_wins_over_every_refusal(stage: Stage) -> None:
    await stage.open(total=1)
    order = (await stage.buy("u", "a")).detail

    async def is_found_again() -> None:
        again = await stage.buy("u", "a", line_max=0)
        assert (again.code, again.detail) == (AdmitCode.REPLAY_QUEUED, order)

    assert await stage.code("v") is AdmitCode.SOLD_OUT
    assert await stage.code("u", "b") is AdmitCode.LIMIT
    await is_found_again()
    await stage.loader.write_state(stage.keys, stage.rows.step(ActivityVerb.PAUSE))
    assert await stage.code("u", "b") is AdmitCode.PAUSED
    await is_found_again()
    await stage.loader.write_state(stage.keys, stage.rows.step(ActivityVerb.RESUME))
    await stage.end_window()
    assert await stage.code("u", "b") is AdmitCode.ENDED
    await is_found_again()
    await stage.loader.write_state(stage.keys, stage.rows.step(ActivityVerb.CLOSE))
    await is_found_again()
    await stage.consume()
    assert await stage.code("u", "a") is AdmitCode.REPLAY_LIVE
    now = await stage.now()
    await stage.change(state=ActivityState.OPEN, starts_at=now + HOUR, ends_at=now + 2 * HOUR)
    assert await stage.code("u", "b") is AdmitCode.NOT_STARTED
    assert await stage.code("u", "a") is AdmitCode.REPLAY_LIVE


@scenario
async def a_second_unit_leaves_the_first_ones_view(stage: Stage) -> None:
    await stage.open(limit=2)
    await stage.sell("u", "a")
    assert await stage.code("u", "b") is AdmitCode.QUEUED
    assert await stage.view("u") is BuyerStatus.HOLDER
    [entry] = await stage.take()
    await stage.queue.finish(stage.keys, stage.rows.refuse([entry]))
    assert await stage.view("u") is BuyerStatus.HOLDER, "a refused second unit leaves the first"
    await stage.check_rest()


@scenario
async def losers_write_nothing(stage: Stage) -> None:
    await stage.open(total=1)
    await stage.buy("u", "a")
    before = await stage.snapshot()
    for i in range(200):
        assert await stage.code(f"robot{i}", f"r{i}") is AdmitCode.SOLD_OUT
    assert await stage.code("u", "b") is AdmitCode.LIMIT
    await stage.loader.write_state(stage.keys, stage.rows.step(ActivityVerb.PAUSE))
    paused = await stage.snapshot()
    assert await stage.code("robot", "a") is AdmitCode.PAUSED
    assert await stage.snapshot() == paused
    assert {name for name in paused if name != stage.keys.meta} == {
        name for name in before if name != stage.keys.meta
    }
    assert await stage.redis.dbsize() == 4, "meta, users, the line and the winner's view"


@scenario
async def full_memory_is_busy_and_nothing_is_half_written(stage: Stage) -> None:
    await stage.open()
    before = await stage.snapshot()
    await fill_memory(stage)
    try:
        clicks = [Click(user_id=user, request_id="a", order_id=f"ORD-{user}") for user in "uv"]
        _, answers = await admit(stage.scripts, stage.keys, clicks)
    finally:
        await free_memory(stage)
    assert [answer.code for answer in answers] == [AdmitCode.BUSY, AdmitCode.BUSY]
    assert await stage.snapshot() == before
    await stage.check_law()


@scenario
async def a_full_memory_stops_no_decision(stage: Stage) -> None:
    await stage.open()
    order = (await stage.buy("u", "a")).detail
    await fill_memory(stage)
    try:
        await stage.consume()
        assert await stage.view("u") is BuyerStatus.HOLDER
        assert await stage.give_back(unit_of(stage, order)) == GiveBack.DONE
    finally:
        await free_memory(stage)
    assert await stage.view("u") is BuyerStatus.NEITHER
    await stage.check_rest()


@scenario
async def a_planted_type_fails_before_anything_is_written(stage: Stage) -> None:
    keys = stage.keys
    for planted in (keys.meta, keys.users, keys.queue):
        await stage.redis.flushall()
        await stage.open()
        await stage.buy("queued", "a")
        [entry] = await stage.take()
        await stage.redis.delete(planted)
        await stage.redis.set(planted, "x")
        before = await stage.snapshot()
        with pytest.raises(ResponseError, match="WRONGTYPE"):
            await stage.buy("u", "a")
        with pytest.raises(ResponseError, match="WRONGTYPE"):
            await stage.queue.finish(keys, [FinishedEntry(entry=entry, verdict=Verdict.LIVE)])
        if planted != keys.queue:
            with pytest.raises(ResponseError, match="WRONGTYPE"):
                await stage.give_back(
                    ReturnedUnit(user_id="queued", request_id="a", order_id=entry.order_id, epoch=0)
                )
        assert await stage.snapshot() == before


@scenario
async def a_view_of_another_type_is_nobodys_answer_and_stops_nothing(stage: Stage) -> None:
    await stage.open()
    order = await stage.sell("u", "a")
    unit = unit_of(stage, order)
    assert await stage.give_back(unit) == GiveBack.DONE
    await stage.redis.delete(stage.keys.view("u"))
    await stage.redis.hset(stage.keys.view("u"), "x", "y")
    other = await stage.sell("v", "a")
    assert await stage.queue.give_back(stage.keys, [unit_of(stage, other), unit]) == [
        GiveBack.DONE,
        GiveBack.NOTHING,
    ]
    await stage.check_law()


@scenario
async def a_redis_that_forgot_the_scripts_is_told_them_again(stage: Stage) -> None:
    await stage.open()
    await stage.redis.script_flush()
    assert await stage.code("u") is AdmitCode.QUEUED
    await stage.redis.script_flush()
    await stage.consume()
    await stage.check_rest()


# --- finish ---------------------------------------------------------------------------------------


@scenario
async def a_refusal_gives_the_unit_back_and_lets_the_buyer_try_again(stage: Stage) -> None:
    await stage.open(total=1)
    await stage.buy("u", "a")
    entries = await stage.take()
    assert await stage.queue.finish(stage.keys, stage.rows.refuse(entries)) == 1
    assert await stage.view("u") is BuyerStatus.NEITHER
    await stage.check_rest()
    assert await stage.code("u", "a") is AdmitCode.QUEUED
    await stage.check_law()


@scenario
async def a_phantom_unit_does_not_come_back(stage: Stage) -> None:
    await stage.open(total=1)
    # Redis believes in a unit that does not exist
    await stage.redis.hincrby(stage.keys.meta, "stock", 1)
    await stage.buy("u")
    await stage.buy("v")
    await stage.consume()
    assert [await stage.view("u"), await stage.view("v")] == [
        BuyerStatus.HOLDER,
        BuyerStatus.NEITHER,
    ]
    assert await stage.code("w") is AdmitCode.SOLD_OUT
    await stage.check_rest()


@scenario
async def an_order_that_redis_forgot_is_found_by_the_same_click(stage: Stage) -> None:
    await stage.open(limit=2)
    order = await stage.sell("u", "a")
    await stage.redis.hdel(stage.keys.users, "u", "u+", "u#a")
    await stage.redis.hincrby(stage.keys.meta, "stock", 1)
    await stage.redis.delete(stage.keys.view("u"))
    assert await stage.code("u", "a") is AdmitCode.QUEUED
    [entry] = await stage.take()
    finished, _ = stage.rows.decide([entry])
    assert (finished[0].verdict, finished[0].other_order_id, finished[0].other_request_id) == (
        Verdict.DUPLICATE,
        order,
        "a",
    )
    assert await stage.queue.finish(stage.keys, finished) == 1
    assert await stage.view("u") is BuyerStatus.HOLDER
    await stage.check_rest()
    again = await stage.buy("u", "a")
    assert (again.code, again.detail) == (AdmitCode.REPLAY_LIVE, order)


@scenario
async def a_duplicate_of_an_order_that_redis_knows_gives_its_unit_back(stage: Stage) -> None:
    await stage.open(limit=2)
    order = await stage.sell("u", "a")
    await stage.buy("u", "b")
    [entry] = await stage.take()
    stage.rows.refuse([entry])
    duplicate = FinishedEntry(
        entry=entry, verdict=Verdict.DUPLICATE, other_order_id=order, other_request_id="a"
    )
    assert await stage.queue.finish(stage.keys, [duplicate]) == 1
    assert await stage.view("u") is BuyerStatus.HOLDER
    await stage.check_rest()


@scenario
async def a_decision_is_published_once(stage: Stage) -> None:
    await stage.open()
    await stage.buy("u")
    entries = await stage.take()
    finished, _ = stage.rows.decide(entries)
    assert await stage.queue.finish(stage.keys, finished) == 1
    redelivered, _ = stage.rows.decide(entries)
    assert redelivered == finished
    assert await stage.queue.finish(stage.keys, redelivered) == 0
    await stage.check_rest()


@scenario
async def two_entries_of_one_order_count_once(stage: Stage) -> None:
    await stage.open()
    await stage.buy("u", "a", "ORD-A")
    await stage.redis.xadd(
        stage.keys.queue, {"o": "ORD-A", "u": "u", "r": "a", "e": stage.rows.activity.epoch}
    )
    await stage.consume()
    await stage.check_rest()


@scenario
async def a_late_decision_does_not_revive_what_was_given_back(stage: Stage) -> None:
    await stage.open()
    await stage.buy("u", "a", "ORD-A")
    entries = await stage.take()
    finished, _ = stage.rows.decide(entries)  # committed; the consumer sleeps
    assert await stage.give_back(unit_of(stage, "ORD-A")) == GiveBack.DONE
    assert await stage.view("u") is BuyerStatus.NEITHER
    await stage.check_law()
    assert (await stage.buy("u", "a", "ORD-B")).code is AdmitCode.QUEUED
    await stage.queue.finish(stage.keys, finished)
    assert await stage.view("u") is BuyerStatus.QUEUED
    await stage.check_law()
    await stage.consume()
    await stage.check_rest()


@scenario
async def a_message_names_the_buyer_the_view_and_the_order(stage: Stage) -> None:
    await stage.open(total=3)
    async with stage.redis.pubsub() as subscription:
        await subscription.subscribe(stage.keys.wakeups)
        await subscription.get_message(timeout=5)
        for user in "uv":
            await stage.buy(user, "a", f"ORD-{user}")
        message = await subscription.get_message(ignore_subscribe_messages=True, timeout=5)
        assert message is not None
        assert message["data"] == "", "the line was empty"
        entries = await stage.take()
        finished, _ = stage.rows.decide(entries[:1])
        await stage.queue.finish(stage.keys, finished + stage.rows.refuse(entries[1:]))
        message = await subscription.get_message(ignore_subscribe_messages=True, timeout=5)
        assert message is not None
        assert message["data"] == "u 1 ORD-u\nv 2 "
        await stage.give_back(unit_of(stage, "ORD-u"))
        message = await subscription.get_message(ignore_subscribe_messages=True, timeout=5)
        assert message is not None
        assert message["data"] == "u 2 "


# --- give-back ------------------------------------------------------------------------------------


@scenario
async def a_unit_comes_back_once_and_is_sold_again(stage: Stage) -> None:
    await stage.open(total=1)
    unit = unit_of(stage, await stage.sell("u", "a"))
    assert [await stage.give_back(unit), await stage.give_back(unit)] == [
        GiveBack.DONE,
        GiveBack.NOTHING,
    ]
    assert await stage.view("u") is BuyerStatus.NEITHER
    await stage.check_rest()
    assert await stage.code("v", "a") is AdmitCode.QUEUED
    assert await stage.give_back(unit) == GiveBack.NOTHING
    await stage.check_law()


@scenario
async def a_unit_of_an_epoch_that_redis_has_not_yet_waits(stage: Stage) -> None:
    await stage.open()
    order = await stage.sell("u", "a")
    rebuild = await Rebuild(stage).fence()
    unit = unit_of(stage, order)
    assert await stage.give_back(unit) == GiveBack.NOT_YET
    await rebuild.finish()
    assert [await stage.give_back(unit), await stage.give_back(unit)] == [
        GiveBack.DONE,
        GiveBack.NOTHING,
    ]
    assert await stage.view("u") is BuyerStatus.NEITHER
    await stage.check_rest()


@scenario
async def a_unit_waits_while_redis_knows_nothing(stage: Stage) -> None:
    await stage.open()
    unit = unit_of(stage, await stage.sell("u", "a"))
    await stage.redis.flushall()
    assert await stage.give_back(unit) == GiveBack.NOT_YET
    await stage.rebuild()
    assert await stage.give_back(unit) == GiveBack.NOTHING, "the rebuild has counted it"
    await stage.check_law()


@scenario
async def a_queued_order_may_be_given_back_before_its_decision_is_published(stage: Stage) -> None:
    await stage.open()
    await stage.buy("u", "a", "ORD-A")
    entries = await stage.take()
    finished, _ = stage.rows.decide(entries)
    await stage.rebuild()  # not carried: it is live
    unit = unit_of(stage, "ORD-A")
    assert await stage.give_back(unit) == GiveBack.DONE
    await stage.queue.finish(stage.keys, finished)
    assert await stage.view("u") is BuyerStatus.NEITHER
    await stage.check_rest()


@scenario
async def a_return_that_a_rebuild_counted_needs_nothing_and_its_carried_entry_is_refused(
    stage: Stage,
) -> None:
    await stage.open()
    await stage.buy("u", "a", "ORD-A")
    entries = await stage.take()
    finished, _ = stage.rows.decide(entries)  # committed; the consumer sleeps
    unit = unit_of(stage, "ORD-A")
    # carries the entry: to Redis it is still queued
    await stage.rebuild()
    assert await stage.give_back(unit) in {GiveBack.DONE, GiveBack.NOTHING}
    assert await stage.queue.finish(stage.keys, finished) == 0, "the old entry is gone"
    [entry] = await stage.take()
    again, _ = stage.rows.decide([entry])
    assert again[0].verdict is Verdict.REFUSED
    await stage.queue.finish(stage.keys, again)
    assert await stage.view("u") is BuyerStatus.NEITHER
    await stage.check_rest()
    assert await stage.code("u", "a") is AdmitCode.QUEUED


@scenario
async def a_request_that_was_given_back_may_buy_again_and_its_old_unit_takes_nothing(
    stage: Stage,
) -> None:
    await stage.open()
    first = await stage.sell("u", "a")
    unit = unit_of(stage, first)
    assert await stage.give_back(unit) == GiveBack.DONE
    second = await stage.buy("u", "a")
    assert second.code is AdmitCode.QUEUED
    assert await stage.give_back(unit) == GiveBack.NOTHING
    await stage.consume()
    assert await stage.give_back(unit) == GiveBack.NOTHING
    assert await stage.view("u") is BuyerStatus.HOLDER
    again = await stage.buy("u", "a")
    assert (again.code, again.detail) == (AdmitCode.REPLAY_LIVE, second.detail)
    await stage.check_rest()


@scenario
async def a_give_back_leaves_the_view_of_another_live_unit(stage: Stage) -> None:
    await stage.open(limit=2)
    first = await stage.sell("u", "a")
    second = await stage.sell("u", "b")
    unit = unit_of(stage, first)
    assert await stage.give_back(unit) == GiveBack.DONE
    assert await stage.view("u") is BuyerStatus.HOLDER
    assert await stage.code("u", "a") is AdmitCode.QUEUED
    assert await stage.view("u") is BuyerStatus.HOLDER
    assert await stage.give_back(unit_of(stage, second)) == GiveBack.DONE
    assert await stage.view("u") is BuyerStatus.QUEUED
    await stage.consume()
    await stage.check_rest()


@scenario
async def a_one_that_nothing_holds_up_falls_with_a_give_back_that_was_counted(stage: Stage) -> None:
    await stage.open()
    unit = unit_of(stage, await stage.sell("u", "a"))
    rebuild = await Rebuild(stage).fence()
    await rebuild.build()
    await stage.redis.set(stage.keys.view("u"), BuyerStatus.HOLDER)  # a failover brought it back
    await rebuild.publish()
    await rebuild.carry()
    assert await stage.give_back(unit) == GiveBack.NOTHING
    assert await stage.view("u") is BuyerStatus.NEITHER


@scenario
async def a_closed_activity_leaves_the_view_to_the_next_one(stage: Stage) -> None:
    await stage.open()
    await stage.sell("u", "a")
    epoch = stage.rows.activity.epoch
    await stage.close()
    late = ReturnedUnit(user_id="u", request_id="a", order_id="ORD1", epoch=epoch)
    following = await Stage(stage.redis, stage.scripts, activity_id="ACT2").open()
    await following.sell("u", "a")
    assert await stage.give_back(late) == GiveBack.NOTHING
    assert await following.view("u") is BuyerStatus.HOLDER
    await following.check_rest()


# --- loading --------------------------------------------------------------------------------------


@scenario
async def a_rebuild_keeps_orders_places_and_their_order(stage: Stage) -> None:
    await stage.open(total=13)
    holder = await stage.sell("holder", "a")
    for i in range(12):
        await stage.buy(f"u{i}", "a", f"ORD-{i}")
    taken = await stage.queue.read(stage.keys, "sleeper", count=4, block_ms=0)
    assert len(taken) == 4
    rebuild = await Rebuild(stage).fence()
    await rebuild.build()
    await rebuild.publish()
    assert await rebuild.carry(count=5)
    assert await stage.queued() == [f"ORD-{i}" for i in range(12)]
    assert await stage.queue.waiting(stage.keys) == (12, 0), (
        "what was pending is not pending any more"
    )
    assert await stage.code("late") is AdmitCode.SOLD_OUT
    again = await stage.buy("u3", "a")
    assert (again.code, again.detail) == (AdmitCode.REPLAY_QUEUED, "ORD-3")
    again = await stage.buy("holder", "a")
    assert (again.code, again.detail) == (AdmitCode.REPLAY_LIVE, holder)
    await stage.check_law()
    assert [entry.order_id for entry in await stage.consume()] == [f"ORD-{i}" for i in range(12)]
    await stage.check_rest()


@scenario
async def a_rebuild_takes_no_place_twice(stage: Stage) -> None:
    await stage.open(total=5)
    for i in range(5):
        await stage.buy(f"u{i}", "a", f"ORD-{i}")
    for _ in range(3):
        await stage.rebuild()
        await stage.check_law()
    assert await stage.queued() == [f"ORD-{i}" for i in range(5)]
    await stage.consume()
    await stage.check_rest()


@scenario
async def carry_goes_on_where_it_was_stopped(stage: Stage) -> None:
    await stage.open(total=6)
    for i in range(6):
        await stage.buy(f"u{i}", "a", f"ORD-{i}")
    rebuild = await Rebuild(stage).fence()
    await rebuild.build()
    await rebuild.publish()
    cursor = await stage.loader.carry(stage.keys, epoch=rebuild.row.epoch, count=2)
    assert cursor
    assert await stage.code("new") is AdmitCode.NOT_READY
    assert await rebuild.carry(count=2), "from the beginning, by somebody else"
    assert sorted(await stage.queued()) == [f"ORD-{i}" for i in range(6)]
    await stage.check_law()
    assert await stage.code("new") is AdmitCode.SOLD_OUT


@scenario
async def what_carry_leaves_the_consumer_decides(stage: Stage) -> None:
    await stage.open(total=3)
    for i in range(3):
        await stage.buy(f"u{i}", "a", f"ORD-{i}")
    stage.rows.change(total=1)  # Redis had admitted too many
    await stage.rebuild()
    await stage.check_law()
    assert await stage.queued() == ["ORD-1", "ORD-2", "ORD-0"]
    await stage.consume()
    assert [await stage.view(f"u{i}") for i in range(3)] == [
        BuyerStatus.HOLDER,
        BuyerStatus.NEITHER,
        BuyerStatus.NEITHER,
    ]
    await stage.check_rest()


@scenario
async def carry_leaves_entries_that_nobody_of_us_wrote(stage: Stage) -> None:
    await stage.open()
    await stage.redis.xadd(stage.keys.queue, {"junk": "x"})
    await stage.redis.xadd(stage.keys.queue, {"o": "ORD-X", "u": "x", "r": "a", "e": "soon"})
    await stage.buy("u", "a", "ORD-A")
    assert await stage.rebuild()
    entries = await stage.take()
    assert [entry.is_whole for entry in entries] == [False, False, True]
    await stage.queue.drop(stage.keys, [entry.entry_id for entry in entries[:2]])
    await stage.settle(entries[2:])
    await stage.check_rest()


@scenario
async def carry_leaves_an_order_that_is_live(stage: Stage) -> None:
    await stage.open(limit=2)
    await stage.buy("u", "a", "ORD-A")
    finished, _ = stage.rows.decide(await stage.take())  # committed; the consumer sleeps
    await stage.rebuild()
    await stage.check_law()
    assert await stage.queue.finish(stage.keys, finished) == 1
    await stage.check_rest()


@scenario
async def carry_leaves_what_is_over_the_limit(stage: Stage) -> None:
    await stage.open()
    await stage.sell("u", "a")
    # forgotten, so the next click is admitted
    await stage.redis.hdel(stage.keys.users, "u", "u+", "u#a")
    await stage.redis.hincrby(stage.keys.meta, "stock", 1)
    assert await stage.code("u", "b") is AdmitCode.QUEUED
    await stage.rebuild()
    await stage.check_law()
    await stage.consume()
    assert await stage.view("u") is BuyerStatus.HOLDER
    await stage.check_rest()


@scenario
async def who_waits_comes_first_also_when_meta_alone_was_lost(stage: Stage) -> None:
    await stage.open(total=1)
    await stage.buy("u", "a", "ORD-A")
    await stage.redis.delete(stage.keys.meta)
    rebuild = await Rebuild(stage).fence()
    await rebuild.build()
    await rebuild.publish()
    assert await stage.code("new") is AdmitCode.NOT_READY
    await rebuild.carry()
    assert await stage.code("new") is AdmitCode.SOLD_OUT
    await stage.consume()
    assert await stage.view("u") is BuyerStatus.HOLDER
    await stage.check_rest()


@scenario
async def a_line_whose_group_was_lost_is_served_to_its_end(stage: Stage) -> None:
    await stage.open()
    for user in "uv":
        await stage.buy(user)
    await stage.redis.xgroup_destroy(stage.keys.queue, GROUP)
    stage.rows.change(total=1)
    await stage.rebuild()
    assert len(await stage.consume()) == 2
    assert [await stage.view("u"), await stage.view("v")] == [
        BuyerStatus.HOLDER,
        BuyerStatus.NEITHER,
    ]
    await stage.check_rest()


@scenario
async def a_decision_survives_a_rebuild(stage: Stage) -> None:
    await stage.open()
    await stage.buy("u", "a", "ORD-A")
    await stage.buy("v", "a", "ORD-B")
    entries = await stage.take()
    # committed before the fence, published after the rebuild
    finished, _ = stage.rows.decide(entries)
    await stage.rebuild()
    assert await stage.give_back(unit_of(stage, "ORD-A")) == GiveBack.DONE
    await stage.queue.finish(stage.keys, finished)
    assert [await stage.view("u"), await stage.view("v")] == [
        BuyerStatus.NEITHER,
        BuyerStatus.HOLDER,
    ]
    await stage.check_rest()


@scenario
async def the_users_that_a_rebuild_published_do_not_fade(stage: Stage) -> None:
    await stage.open()
    await stage.sell("u", "a")
    await stage.rebuild()
    assert await stage.redis.ttl(stage.keys.users) == -1
    assert await stage.redis.ttl(stage.keys.meta) == -1


@scenario
async def what_a_dead_rebuilder_built_fades(stage: Stage) -> None:
    await stage.open()
    await stage.sell("u", "a")
    rebuild = await Rebuild(stage).fence()
    await rebuild.build()
    assert 0 < await stage.redis.ttl(stage.keys.building(rebuild.row.epoch)) <= 600


@scenario
async def a_slow_rebuilder_publishes_nothing_after_a_newer_one(stage: Stage) -> None:
    await stage.open()
    await stage.sell("holder", "a")
    slow = await Rebuild(stage).fence()
    await slow.build()
    await stage.rebuild()
    for i in range(5):
        await stage.buy(f"u{i}", "a")
    await stage.consume()
    assert not await slow.publish()
    assert not await slow.carry()
    assert not await stage.redis.exists(stage.keys.building(slow.row.epoch))
    await stage.check_rest()


@scenario
async def a_slow_rebuilder_builds_nothing_after_a_newer_one(stage: Stage) -> None:
    await stage.open()
    order = await stage.sell("u", "a")
    slow = await Rebuild(stage).fence()
    await stage.rebuild()
    assert await stage.give_back(unit_of(stage, order)) == GiveBack.DONE
    assert not await slow.build()
    assert await stage.view("u") is BuyerStatus.NEITHER
    await stage.check_rest()


@scenario
async def a_rebuilder_whose_epoch_was_replaced_carries_nothing_and_lifts_no_hold(
    stage: Stage,
) -> None:
    await stage.open()
    await stage.buy("u", "a")
    slow = await Rebuild(stage).fence()
    await slow.build()
    await slow.publish()
    newer = await Rebuild(stage).fence()
    await newer.build()
    await newer.publish()
    assert not await slow.carry()
    assert await stage.code("new") is AdmitCode.NOT_READY
    assert await newer.carry()
    await stage.check_law()


@scenario
async def two_rebuilders_never_mix_what_they_build(stage: Stage) -> None:
    await stage.open()
    first = await stage.sell("u", "a")
    await stage.sell("v", "a")
    slow = await Rebuild(stage).fence()
    await slow.build()
    unit = unit_of(stage, first)
    newer = await Rebuild(stage).fence()
    await newer.finish()
    assert await stage.give_back(unit) in {GiveBack.DONE, GiveBack.NOTHING}
    await stage.check_rest()
    assert not await slow.publish()
    await stage.check_rest()
    assert await stage.code("v", "b") is AdmitCode.LIMIT
    assert await stage.code("u", "b") is AdmitCode.QUEUED


@scenario
async def a_pause_during_a_rebuild_stays(stage: Stage) -> None:
    await stage.open()
    rebuild = await Rebuild(stage).fence()
    await rebuild.build()
    assert await stage.loader.write_state(stage.keys, stage.rows.step(ActivityVerb.PAUSE))
    assert await rebuild.publish()
    assert await rebuild.carry()
    assert await stage.code("u") is AdmitCode.PAUSED


@scenario
async def an_older_state_never_replaces_a_newer_one(stage: Stage) -> None:
    await stage.open()
    paused = stage.rows.step(ActivityVerb.PAUSE)
    resumed = stage.rows.step(ActivityVerb.RESUME)
    assert await stage.loader.write_state(stage.keys, resumed)
    assert not await stage.loader.write_state(stage.keys, paused)
    assert not await stage.loader.write_state(stage.keys, resumed)
    assert await stage.code("u") is AdmitCode.QUEUED


@scenario
async def a_slow_rebuilder_never_opens_a_closed_activity(stage: Stage) -> None:
    await stage.open()
    slow = await Rebuild(stage).fence()
    await slow.build()
    await stage.redis.hdel(stage.keys.meta, "hold")
    closed = await stage.close()
    assert not await slow.publish()
    assert await stage.code("u") is AdmitCode.ENDED
    meta = await stage.loader.meta(stage.keys)
    assert meta is not None
    assert (meta.epoch, meta.rev, meta.state) == (closed.epoch, closed.rev, "CLOSED")
    assert not await stage.loader.write_tombstone(stage.keys, closed)


@scenario
async def what_a_slow_rebuilder_opened_after_redis_was_lost_is_dropped(stage: Stage) -> None:
    await stage.open()
    slow = await Rebuild(stage).fence()
    await slow.build()
    closed = await stage.close()
    await stage.redis.flushall()
    assert await slow.publish(), "no script can see it: the rebuilder reads the row once more"
    assert await stage.loader.write_tombstone(stage.keys, closed)
    assert await stage.code("u") is AdmitCode.ENDED
    assert await stage.redis.keys("*") == [stage.keys.meta]
    assert await stage.redis.ttl(stage.keys.meta) > 0


@scenario
async def a_one_without_an_order_becomes_two_and_nothing_else_changes(stage: Stage) -> None:
    await stage.open()
    await stage.sell("holder", "a")
    await stage.buy("queued", "a")
    await stage.redis.set(stage.keys.view("stale"), BuyerStatus.HOLDER)
    await stage.redis.set(stage.keys.view("shop:mallory"), BuyerStatus.HOLDER)
    await stage.redis.set("seckill:result:shop/u:1001", BuyerStatus.HOLDER)
    await stage.redis.hset(stage.keys.view("odd"), "x", "y")
    rebuild = await Rebuild(stage).fence()
    await stage.redis.set(stage.keys.view("loser"), BuyerStatus.NEITHER)
    await stage.loader.clear_stale_views(
        stage.keys, epoch=rebuild.row.epoch, users=["odd", "queued", "loser"]
    )
    await rebuild.finish()
    told = [
        await stage.view(user) for user in ("holder", "queued", "stale", "shop:mallory", "loser")
    ]
    assert told == [
        BuyerStatus.HOLDER,
        BuyerStatus.QUEUED,
        BuyerStatus.NEITHER,
        BuyerStatus.NEITHER,
        BuyerStatus.NEITHER,
    ]
    assert await stage.redis.get("seckill:result:shop/u:1001") == BuyerStatus.HOLDER, (
        "another merchant's"
    )


@scenario
async def a_lost_view_of_a_holder_comes_back_with_a_rebuild(stage: Stage) -> None:
    await stage.open(limit=2)
    await stage.sell("u", "a")
    await stage.sell("u", "b")
    await stage.redis.flushall()
    await stage.rebuild()
    assert await stage.view("u") is BuyerStatus.HOLDER
    assert await stage.users() == {"u": "2", "u+": "2", "u#a": "1ORD1", "u#b": "1ORD2"}
    await stage.check_rest()


@scenario
async def a_long_list_of_orders_is_built_in_portions(stage: Stage) -> None:
    await stage.open(total=3000)
    units = [
        LiveUnit(user_id=f"u{i // 2}", request_id=f"r{i}", order_id=f"ORD-{i}") for i in range(2500)
    ]
    rebuild = await Rebuild(stage).fence()
    assert await stage.loader.load_holders(stage.keys, epoch=rebuild.row.epoch, units=units)
    assert await rebuild.publish()
    users = await stage.users()
    assert (len(users), users["u1249"], users["u1249+"], users["u7#r15"]) == (
        5000,
        "2",
        "2",
        "1ORD-15",
    )
    assert len(await stage.loader.viewed_holders(stage.keys)) == 1250


@scenario
async def views_are_cleared_before_anything_is_published_and_never_after(stage: Stage) -> None:
    for number in range(1250):
        await stage.redis.set(stage.keys.view(f"u{number}"), "1")
    assert await stage.loader.clear_views(stage.keys) == 1250
    await stage.open()
    await stage.buy("u", "a", "ORD-A")
    assert await stage.loader.clear_views(stage.keys) == 0
    assert await stage.views.view(stage.keys, "u") is BuyerStatus.QUEUED


@scenario
async def who_came_in_time_stays_in_time(stage: Stage) -> None:
    await stage.open(total=2)
    await stage.buy("u", "a", "ORD-A")
    entries = await stage.take()
    await stage.redis.delete(stage.keys.users, stage.keys.meta)  # lost; the entry is still here
    stage.rows.fence()
    await stage.end_window()
    rebuild = await Rebuild(stage).fence()
    await rebuild.build()
    await rebuild.publish()
    await stage.redis.hdel(stage.keys.meta, "hold")  # nothing was carried
    epoch = stage.rows.activity.epoch
    assert await stage.code("v") is AdmitCode.ENDED
    assert await stage.code("u", "a", min_epoch=epoch, line_max=0) is AdmitCode.QUEUED
    await stage.loader.write_state(stage.keys, stage.rows.step(ActivityVerb.PAUSE))
    assert await stage.code("w", "a", min_epoch=epoch, line_max=0) is AdmitCode.QUEUED
    assert await stage.code("x", "a", min_epoch=epoch) is AdmitCode.SOLD_OUT
    await stage.queue.drop(stage.keys, [entry.entry_id for entry in entries])
    await stage.check_law()


# --- drawing lots ---------------------------------------------------------------------------------


async def open_draw(stage: Stage, *, total: int, entrants: int) -> list[str]:
    await stage.open(total=total, mode=DRAW)
    users = [f"u{i}" for i in range(entrants)]
    for user in users:
        assert await stage.code(user) is AdmitCode.QUEUED
    return users


async def results(stage: Stage, users: list[str]) -> tuple[int, int]:
    """How many win and lose once the line is served."""
    await stage.consume()
    told = [await stage.view(user) for user in users]
    return told.count(BuyerStatus.HOLDER), told.count(BuyerStatus.NEITHER)


@scenario
async def an_entry_takes_no_unit_and_counts_once(stage: Stage) -> None:
    await stage.open(total=1, mode=DRAW)
    assert (await stage.buy("u", "a", "ORD-A")).code is AdmitCode.QUEUED
    again = await stage.buy("u", "a", "ORD-B")
    assert (again.code, again.detail) == (AdmitCode.REPLAY_QUEUED, "ORD-A")
    assert await stage.code("u", "b") is AdmitCode.LIMIT
    assert (await stage.buy("v", "a", "ORD-V", line_max=2)).code is AdmitCode.QUEUED
    assert await stage.queued() == []
    assert await stage.users() == {}
    assert await stage.redis.hgetall(stage.keys.entries) == {"u": "ORD-A a", "v": "ORD-V a"}
    assert await stage.view("u") is BuyerStatus.QUEUED
    assert await stage.redis.ttl(stage.keys.view("u")) >= 3600 + 590, "told until it is drawn"
    record = (await stage.views.look_up(stage.keys, "u", "a")).record
    assert record is not None
    assert (record.view, record.order_id) == (BuyerStatus.QUEUED, "ORD-A")
    assert (await stage.views.look_up(stage.keys, "u", "b")).record is None
    await stage.check_law()


@scenario
async def a_draw_keeps_window_and_pause_and_a_replay_wins(stage: Stage) -> None:
    await stage.open(total=1, mode=DRAW, starts_in=HOUR, ends_in=2 * HOUR)
    assert await stage.code("u") is AdmitCode.NOT_STARTED
    now = await stage.now()
    await stage.change(starts_at=now - HOUR)
    assert await stage.code("u") is AdmitCode.QUEUED
    await stage.loader.write_state(stage.keys, stage.rows.step(ActivityVerb.PAUSE))
    before = await stage.snapshot()
    assert [await stage.code("u"), await stage.code("v"), await stage.code("u", "b")] == [
        AdmitCode.REPLAY_QUEUED,
        AdmitCode.PAUSED,
        AdmitCode.PAUSED,
    ]
    await stage.loader.write_state(stage.keys, stage.rows.step(ActivityVerb.RESUME))
    await stage.end_window()
    assert [await stage.code("u"), await stage.code("v")] == [
        AdmitCode.REPLAY_QUEUED,
        AdmitCode.ENDED,
    ]
    assert set(await stage.snapshot()) == set(before)


@scenario
async def nothing_is_drawn_before_the_end(stage: Stage) -> None:
    await open_draw(stage, total=1, entrants=3)
    before = await stage.snapshot()
    assert await stage.draw() is None
    assert await stage.snapshot() == before
    await stage.loader.write_state(stage.keys, stage.rows.step(ActivityVerb.CLOSE))
    assert await stage.draw() is not None, "who closes early draws early"


@scenario
async def nothing_is_drawn_where_nothing_is_to_be_drawn(stage: Stage) -> None:
    assert await stage.draw() is None
    await stage.open()
    await stage.end_window()
    assert await stage.draw() is None


@scenario
async def as_many_win_as_there_are_units(stage: Stage) -> None:
    users = await open_draw(stage, total=7, entrants=40)
    await stage.end_window()
    drawn = await stage.draw(100)
    assert drawn is not None
    assert (drawn.winners, drawn.losers, drawn.left) == (7, 0, 33)
    await stage.check_law()
    drawn = await stage.draw(100)
    assert drawn is not None
    assert (drawn.winners, drawn.losers, drawn.left) == (0, 33, 0)
    assert await results(stage, users) == (7, 33)
    assert stage.rows.activity.sold == 7
    await stage.check_law()
    assert await stage.code("new") is AdmitCode.ENDED


@scenario
async def everybody_wins_when_there_is_enough(stage: Stage) -> None:
    users = await open_draw(stage, total=9, entrants=5)
    await stage.end_window()
    await stage.draw_all(2)
    assert await results(stage, users) == (5, 0)
    await stage.check_rest()


@scenario
async def a_winner_has_the_order_of_his_entry(stage: Stage) -> None:
    await stage.open(total=1, mode=DRAW)
    await stage.buy("u", "a", "ORD-A")
    await stage.end_window()
    await stage.draw_all()
    again = await stage.buy("u", "a")
    assert (again.code, again.detail) == (AdmitCode.REPLAY_QUEUED, "ORD-A")
    assert await stage.view("u") is BuyerStatus.QUEUED
    await stage.consume()
    again = await stage.buy("u", "a")
    assert (again.code, again.detail) == (AdmitCode.REPLAY_LIVE, "ORD-A")
    await stage.check_rest()


@scenario
async def a_draw_that_stopped_goes_on(stage: Stage) -> None:
    users = await open_draw(stage, total=5, entrants=12)
    await stage.end_window()
    for _ in range(3):
        await stage.draw(2)  # whoever drew died after each
        await stage.check_law()
        await stage.consume()
    await stage.draw_all(2)
    assert await results(stage, users) == (5, 7)
    await stage.check_law()


@scenario
async def a_rebuild_between_portions_loses_nobody(stage: Stage) -> None:
    users = await open_draw(stage, total=6, entrants=20)
    await stage.rebuild()
    assert await stage.redis.hlen(stage.keys.entries) == 20
    await stage.end_window()
    await stage.draw(4)
    rebuild = await Rebuild(stage).fence()
    assert await stage.draw(4) is None, "what has been won is not reserved in the new epoch yet"
    await rebuild.build()
    await rebuild.publish()
    assert await stage.draw(4) is None
    await rebuild.carry()
    await stage.check_law()
    await stage.draw_all(4)
    assert await results(stage, users) == (6, 14)
    assert stage.rows.activity.sold == 6
    await stage.check_law()


@scenario
async def a_draw_that_has_begun_takes_no_entry(stage: Stage) -> None:
    users = await open_draw(stage, total=1, entrants=4)
    await stage.end_window()
    await stage.draw(1)
    await stage.change(ends_at=await stage.now() + HOUR)  # or a clock that went back
    assert await stage.code("late") is AdmitCode.ENDED
    meta = await stage.loader.meta(stage.keys)
    assert meta is not None
    assert meta.has_drawn
    await stage.end_window()
    await stage.draw_all()
    assert await results(stage, [*users, "late"]) == (1, 3)


@scenario
async def nobody_wins_twice_when_a_failover_brings_his_entry_back(stage: Stage) -> None:
    users = await open_draw(stage, total=3, entrants=2)
    await stage.end_window()
    await stage.draw(2)
    await stage.consume()
    await stage.redis.hset(stage.keys.entries, "u0", "ORD1 a")
    await stage.redis.hset(stage.keys.entries, "u1", "nothing-of-ours")
    # one unit is left, so each takes one entry
    drawn = [await stage.draw(10), await stage.draw(10)]
    assert [portion and (portion.winners, portion.losers, portion.left) for portion in drawn] == [
        (0, 1, 1),
        (0, 1, 0),
    ]
    assert await results(stage, users) == (2, 0)
    await stage.check_rest()


@scenario
async def an_entry_that_nobody_of_us_wrote_wins_nothing(stage: Stage) -> None:
    users = await open_draw(stage, total=3, entrants=2)
    await stage.redis.hset(stage.keys.entries, "x", "nothing-of-ours")
    assert await stage.code("x") is AdmitCode.LIMIT
    await stage.end_window()
    await stage.draw_all(1)
    assert await results(stage, [*users, "x"]) == (2, 1)
    await stage.check_rest()


@scenario
async def a_winner_who_is_admitted_again_goes_into_the_line(stage: Stage) -> None:
    await open_draw(stage, total=1, entrants=1)
    await stage.end_window()
    await stage.draw_all()
    entries = await stage.take()
    rebuild = await Rebuild(stage).fence()
    await rebuild.build()
    await rebuild.publish()
    await stage.redis.hdel(stage.keys.meta, "hold")  # not carried
    await stage.readmit(entries)
    assert await stage.queued() == [entries[0].order_id]
    await stage.consume()
    assert await stage.view("u0") is BuyerStatus.HOLDER
    await stage.check_rest()


@scenario
async def full_memory_takes_no_entry_and_draws_nothing(stage: Stage) -> None:
    users = await open_draw(stage, total=1, entrants=2)
    await fill_memory(stage)
    try:
        assert await stage.code("late") is AdmitCode.BUSY
        await free_memory(stage)
        await stage.end_window()
        before = await stage.snapshot()
        await fill_memory(stage)
        assert await stage.draw() is None
    finally:
        await free_memory(stage)
    assert await stage.snapshot() == before
    await stage.draw_all()
    assert await results(stage, users) == (1, 1)


@scenario
async def losers_of_a_draw_are_woken_and_a_holder_keeps_his_one(stage: Stage) -> None:
    await open_draw(stage, total=1, entrants=2)
    await stage.end_window()
    await stage.draw(1)
    await stage.consume()
    [holder] = [row.user_id for row in stage.rows.live()]
    await stage.redis.hset(stage.keys.entries, holder, "ORD1 a")
    loser = next(user for user in ("u0", "u1") if user != holder)
    async with stage.redis.pubsub() as subscription:
        await subscription.subscribe(stage.keys.wakeups)
        await subscription.get_message(timeout=5)
        await stage.draw_all()
        message = await subscription.get_message(ignore_subscribe_messages=True, timeout=5)
    assert message is not None
    assert set(message["data"].split("\n")) == {f"{holder} 1 ", f"{loser} 2 "}
    assert [await stage.view(holder), await stage.view(loser)] == [
        BuyerStatus.HOLDER,
        BuyerStatus.NEITHER,
    ]


@scenario
async def closing_drops_the_entries(stage: Stage) -> None:
    await open_draw(stage, total=1, entrants=2)
    await stage.close()
    assert not await stage.redis.exists(stage.keys.entries)


@scenario
async def the_line_of_an_activity_that_redis_lost_is_empty(stage: Stage) -> None:
    await stage.open()
    await stage.redis.flushall()
    assert await stage.take() == []
    assert await stage.queue.take_over(
        stage.keys, "one", min_idle_ms=0, cursor="0-0", count=10
    ) == (
        "0-0",
        [],
    )
    assert await stage.queue.waiting(stage.keys) == (0, 0)
    assert await stage.queue.deliveries(stage.keys, "1-1") == 0


@scenario
async def what_a_dead_consumer_had_is_taken_over(stage: Stage) -> None:
    await stage.open()
    for i in range(5):
        await stage.buy(f"u{i}", "a")
    assert len(await stage.take("dead")) == 5
    found: list[Entry] = []
    cursor = "0-0"
    for _ in range(10):
        cursor, entries = await stage.queue.take_over(
            stage.keys, "heir", min_idle_ms=0, cursor=cursor, count=2
        )
        found += entries
        if cursor == "0-0":
            break
    assert [entry.user_id for entry in found] == [f"u{i}" for i in range(5)]
    assert await stage.queue.deliveries(stage.keys, found[0].entry_id) == 2
    assert await stage.queue.waiting(stage.keys) == (5, 5)
    await stage.settle(found)
    await stage.check_rest()


@scenario
async def a_planted_line_is_removed_by_hand_and_nothing_was_lost(stage: Stage) -> None:
    await stage.open()
    await stage.redis.delete(stage.keys.queue)
    await stage.redis.set(stage.keys.queue, "x")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await stage.buy("u", "a")
    await plant(stage.redis, stage.keys)
    await stage.check_law()
    assert await stage.code("u") is AdmitCode.QUEUED


@scenario
async def a_click_that_finds_the_line_empty_is_told_to_all_and_others_are_not(stage: Stage) -> None:
    await stage.open()
    async with stage.redis.pubsub() as subscription:
        await subscription.subscribe(stage.keys.wakeups)
        await subscription.get_message(timeout=5)

        async def heard() -> list[str]:
            found = []
            while (
                message := await subscription.get_message(
                    ignore_subscribe_messages=True, timeout=0.05
                )
            ) is not None:
                found.append(message["data"])
            return found

        await stage.buy("u")
        await stage.buy("v")
        await stage.buy("u")
        assert await heard() == [""]
        await stage.consume()
        await heard()
        await stage.buy("w")
        assert await heard() == [""]


@scenario
async def keys_of_another_kind_go_when_a_rebuild_begins(stage: Stage) -> None:
    keys = stage.keys
    for planted in (keys.meta, keys.users, keys.queue, keys.entries):
        await stage.redis.flushall()
        await stage.open()
        assert await stage.loader.has_whole_keys(keys)
        await stage.redis.delete(planted)
        await stage.redis.set(planted, "x")
        assert not await stage.loader.has_whole_keys(keys)
        assert await stage.rebuild()
        assert await stage.code("u") is AdmitCode.QUEUED
        await stage.consume()
        await stage.check_rest()


@scenario
async def a_meta_whose_numbers_are_none_goes_when_a_rebuild_begins(stage: Stage) -> None:
    for field in ("epoch", "rev"):
        await stage.redis.flushall()
        await stage.open()
        await stage.redis.hset(stage.keys.meta, field, "x")
        assert await stage.loader.meta(stage.keys) is None, "so that the keeper rebuilds it"
        assert await stage.rebuild()
        assert await stage.code("u") is AdmitCode.QUEUED


@scenario
async def the_end_of_a_rebuild_is_written_down(stage: Stage) -> None:
    await stage.open()
    now = await stage.now()
    since = (await stage.views.look_up(stage.keys, "u", "a")).since_ms
    assert 0 <= now.timestamp() * 1000 - since < 60_000
    await stage.loader.hold(stage.keys)
    place = await stage.views.look_up(stage.keys, "u", "a")
    assert place.is_held
    assert not await stage.views.is_steady(stage.keys)


@scenario
async def a_draw_takes_so_many_entries_and_no_more(stage: Stage) -> None:
    await stage.open(total=1, mode=AdmissionMode.DRAW)
    clicks = [
        Click(user_id=f"u{number}", request_id="a", order_id=f"ORD-{number}") for number in range(4)
    ]
    _, answers = await admit(stage.scripts, stage.keys, clicks, line_max=3)
    assert [answer.code for answer in answers] == [AdmitCode.QUEUED] * 3 + [AdmitCode.BUSY]
    assert await stage.redis.hlen(stage.keys.entries) == 3
    assert (await stage.buy("u0", "a", line_max=3)).code is AdmitCode.REPLAY_QUEUED
    assert (await stage.buy("v", "a", line_max=3)).code is AdmitCode.BUSY


@scenario
async def no_call_takes_more_clicks_than_redis_should_be_busy_with(stage: Stage) -> None:
    await stage.open()
    clicks = [
        Click(user_id=f"u{number}", request_id="a", order_id=f"ORD-{number}")
        for number in range(CLICKS_MAX + 1)
    ]
    with pytest.raises(ValueError, match="at most 500"):
        await admit(stage.scripts, stage.keys, clicks)
    assert await stage.queued() == []


async def _consumers(stage: Stage) -> set[str]:
    return {
        str(each["name"]) for each in await stage.redis.xinfo_consumers(stage.keys.queue, "orders")
    }


@scenario
async def names_of_consumers_that_are_gone_are_removed_and_their_entries_never(
    stage: Stage,
) -> None:
    assert await stage.queue.forget_consumers(stage.keys, idle_ms=0) == 0, "there is no line"
    await stage.open()
    await stage.buy("u")
    await stage.settle(await stage.take("done"))
    await stage.buy("v")
    await stage.take("died with an entry")
    assert await stage.queue.forget_consumers(stage.keys, idle_ms=3_600_000) == 0, (
        "they were heard of a moment ago"
    )
    assert await stage.queue.forget_consumers(stage.keys, idle_ms=0) == 1
    assert await _consumers(stage) == {"died with an entry"}
    _, entries = await stage.queue.take_over(
        stage.keys, "two", min_idle_ms=0, cursor="0-0", count=10
    )
    await stage.settle(entries)
    await stage.check_rest()

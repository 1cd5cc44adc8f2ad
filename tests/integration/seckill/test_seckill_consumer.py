"""The consumer on real databases and a real Redis: nothing is sold twice, nobody gets more than his
limit, every delivery of a click gets the same answer, whatever dies, comes twice or lies."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from mesh import failpoints
from mesh.db import ConstraintViolated
from mesh.errors import MeshError, Unavailable
from mesh.failpoints import FailpointRaised
from mesh.outbox import OUTBOX
from seckill_rpc.domain.activity import Activity, ActivityVerb
from seckill_rpc.domain.errors import ActivityNotFound
from seckill_rpc.domain.order import BuyerStatus, UnitState, Verdict
from seckill_rpc.redis.admission_queue import Entry, FinishedEntry
from seckill_rpc.redis.admit import AdmitCode
from seckill_rpc.store import activities, batches, orders
from seckill_rpc.store.batches import Batch, NewOrder
from seckill_rpc.tables import ACTIVITY
from seckill_rpc.usecases.consumer.batch_decider import BatchDecider
from seckill_rpc.usecases.consumer.consumer import LOST_SECONDS
from tests.builders.seckill import SeckillWorld, seckill_world
from tests.support.databases import plant
from tools.servers import MariaDB

Rounds = Callable[[int, int], int]


@pytest.fixture
async def world(database_url: str, redis_url: str) -> AsyncIterator[SeckillWorld]:
    async with seckill_world(database_url, redis_url) as made:
        yield made


def deciding(world: SeckillWorld) -> BatchDecider:
    return BatchDecider(db=world.db, clock=world.clock, ids=world.ids)


def entry_of(
    world: SeckillWorld,
    user_id: str,
    request_id: str = "a",
    *,
    order_id: str = "",
    epoch: int = 1,
    entry_id: str = "1-1",
) -> Entry:
    return Entry(
        entry_id=entry_id,
        order_id=order_id or world.ids.new("ORD"),
        user_id=user_id,
        request_id=request_id,
        epoch=epoch,
    )


async def verdicts(world: SeckillWorld, *entries: Entry) -> list[Verdict]:
    decided = await deciding(world).decide(world.keys.activity_id, entries)
    return [done.verdict for done in decided.finished]


# --- the plain way --------------------------------------------------------------------------------


async def test_an_order_is_written_told_of_sold_and_published(world: SeckillWorld) -> None:
    activity = await world.open(total=3)
    order_id = await world.buy("u1", "click-1")
    [row] = await world.rows()
    assert (
        row["order_id"],
        row["user_id"],
        row["request_id"],
        row["live_request"],
        row["slot"],
    ) == (order_id, "u1", "click-1", "click-1", 1)
    assert (row["state"], row["epoch"], row["order_ready"], row["collisions"]) == (
        "LIVE",
        1,
        False,
        0,
    )
    assert row["created_at"] == row["updated_at"] == world.clock.now()
    [message] = await world.rows(OUTBOX)
    assert (message["destination"], message["tag"], message["aggregate_id"], message["state"]) == (
        "order_rpc",
        "CreateSeckillOrders",
        activity.activity_id,
        "NEW",
    )
    assert json.loads(message["payload"]) == {
        "activity_id": activity.activity_id,
        "orders": [[order_id, "u1"]],
    }
    assert (await world.row()).sold == 1
    assert await world.view("u1") is BuyerStatus.HOLDER
    await world.check_rest()


async def test_three_units_go_to_three_of_a_thousand_buyers(
    world: SeckillWorld, rounds: Rounds
) -> None:
    for number in range(rounds(3, 100)):
        await world.open(total=3, sku_id=f"sku-{number}")
        consumers = [
            world.make_consumer(f"c{each}", batch_size=200, min_idle_ms=5) for each in range(2)
        ]
        crowds = [
            world.clicks(*((f"u{user}", "a") for user in range(start, start + 50)))
            for start in range(0, 1000, 50)
        ]
        answers: Any
        answers, *_ = await asyncio.gather(
            asyncio.gather(*crowds), *(consumer.serve(world.opened[-1]) for consumer in consumers)
        )
        await world.consume()
        assert [each.code for crowd in answers for each in crowd].count(AdmitCode.QUEUED) == 3
        assert (await world.row()).sold == 3
        await world.check_rest()


async def test_three_clicks_at_once_of_a_buyer_who_may_have_two_become_two_orders(
    world: SeckillWorld, rounds: Rounds
) -> None:
    await world.open(total=1000, limit=2)
    users = rounds(30, 300)
    await asyncio.gather(
        *(world.clicks((f"u{user}", f"r{click}")) for user in range(users) for click in range(3))
    )
    await world.consume()
    assert (await world.row()).sold == 2 * users
    for user in range(0, users, 10):
        assert sorted((await world.slots(f"u{user}")).values()) == [1, 2]
    await world.check_rest()


async def test_a_batch_is_one_message_and_one_transaction(world: SeckillWorld) -> None:
    await world.open(total=100)
    admitted = await world.clicks(*((f"u{user}", "a") for user in range(7)))
    assert await world.consumer.run_once() == 7
    [payload] = await world.messages("order_rpc")
    assert sorted(payload["orders"]) == sorted(
        [each.detail, f"u{user}"] for user, each in enumerate(admitted)
    )
    assert len({row["batch_id"] for row in await world.rows()}) == 1


async def test_lines_of_several_activities_are_served_and_one_that_fails_stops_no_other(
    world: SeckillWorld,
) -> None:
    await world.open(sku_id="a")
    await world.click("u1")
    broken = await world.open(sku_id="b")
    await world.redis.delete(world.keys.queue)
    await world.redis.set(world.keys.queue, "not a stream")
    await world.open(sku_id="c")
    await world.click("u1")
    with capture_logs() as logged:
        assert await world.consumer.run_once() == 2
    assert [line["event"] for line in logged if line["log_level"] == "warning"] == [
        "seckill_line_lost"
    ]
    world.opened = [broken]
    assert await world.consumer.run_once() == 0
    assert world.consumer.pause_seconds() == LOST_SECONDS  # there is no line to wait for


# --- limits, slots, duplicates --------------------------------------------------------------------


async def test_two_requests_of_one_buyer_get_slots_one_and_two_and_a_slot_that_came_back_is_taken_first(
    world: SeckillWorld,
) -> None:
    await world.open(limit=2)
    first = await world.buy("u1", "a")
    second = await world.buy("u1", "b")
    assert await world.slots("u1") == {first: 1, second: 2}
    assert await world.give_back(first)
    await world.relay()
    third = await world.buy("u1", "c")
    assert await world.slots("u1") == {second: 2, third: 1}
    await world.check_rest()


async def test_a_slot_that_came_back_between_others_is_the_next_one(world: SeckillWorld) -> None:
    await world.open(limit=3)
    bought = [await world.buy("u1", request) for request in "abc"]
    await world.give_back(bought[1])
    await world.relay()
    again = await world.buy("u1", "d")
    assert await world.slots("u1") == {bought[0]: 1, again: 2, bought[2]: 3}
    await world.check_rest()


async def test_a_buyer_whom_redis_forgot_gets_no_second_unit_and_keeps_his_first(
    world: SeckillWorld,
) -> None:
    await world.open(total=5)
    first = await world.buy("u1", "a")
    await world.forget("u1")
    second = await world.buy("u1", "b")
    assert await world.states() == {first: "LIVE", second: "REFUSED"}
    assert (await world.row()).sold == 1
    assert await world.view("u1") is BuyerStatus.HOLDER
    await world.check_rest()


async def test_a_duplicate_that_was_refused_before_a_crash_still_tells_redis_of_the_order_it_forgot(
    world: SeckillWorld,
) -> None:
    await world.open(total=5)
    first = await world.buy("u1", "a")
    await world.forget("u1")
    second = (await world.click("u1", "b")).detail
    failpoints.arm("seckill.consume.after_commit=raise", environment="test")
    with pytest.raises(FailpointRaised):
        await world.consumer.run_once()
    failpoints.arm("", environment="test")
    await world.consume()
    assert await world.states() == {first: "LIVE", second: "REFUSED"}
    assert await world.view("u1") is BuyerStatus.HOLDER
    await world.check_rest()


async def test_the_same_request_twice_is_one_unit_though_a_second_would_be_allowed(
    world: SeckillWorld,
) -> None:
    await world.open(total=5, limit=2)
    first = await world.buy("u1", "a")
    await world.forget("u1")
    again = await world.buy("u1", "a")
    assert await world.states() == {first: "LIVE", again: "REFUSED"}
    await world.check_rest()


async def test_the_same_request_twice_in_one_batch_is_one_unit(world: SeckillWorld) -> None:
    await world.open(limit=2)
    one, two = (
        entry_of(world, "u1", "a", entry_id="1-1"),
        entry_of(world, "u1", "a", entry_id="1-2"),
    )
    assert await verdicts(world, one, two) == [Verdict.LIVE, Verdict.DUPLICATE]
    await world.check_database()


async def test_more_entries_of_a_buyer_in_one_batch_than_he_may_have_units(
    world: SeckillWorld,
) -> None:
    await world.open(limit=2)
    entries = [entry_of(world, "u1", f"r{number}", entry_id=f"1-{number}") for number in range(4)]
    decided = await deciding(world).decide(world.keys.activity_id, entries)
    assert [done.verdict for done in decided.finished] == [
        Verdict.LIVE,
        Verdict.LIVE,
        Verdict.DUPLICATE,
        Verdict.DUPLICATE,
    ]
    assert {done.other_order_id for done in decided.finished[2:]} == {entries[0].order_id}
    assert await world.slots("u1") == {entries[0].order_id: 1, entries[1].order_id: 2}
    await world.check_database()


async def test_a_refusal_names_the_order_that_the_buyer_holds(world: SeckillWorld) -> None:
    await world.open()
    first = await world.buy("u1", "a")
    decided = await deciding(world).decide(
        world.keys.activity_id, [late := entry_of(world, "u1", "b")]
    )
    assert decided.finished == [
        FinishedEntry(
            entry=late, verdict=Verdict.DUPLICATE, other_order_id=first, other_request_id="a"
        )
    ]


async def test_a_new_batch_with_one_old_entry_counts_only_what_is_new(world: SeckillWorld) -> None:
    await world.open(total=10)
    old, new = entry_of(world, "u1"), entry_of(world, "u2", entry_id="1-2")
    assert await verdicts(world, old) == [Verdict.LIVE]
    assert await verdicts(world, old, new) == [Verdict.LIVE, Verdict.LIVE]
    assert (await world.row()).sold == 2
    assert await world.told() == [old.order_id, new.order_id]
    await world.check_database()


# --- Redis is wrong -------------------------------------------------------------------------------


async def test_the_guard_of_the_database_holds_when_redis_has_more_units_than_there_are(
    world: SeckillWorld,
) -> None:
    await world.open(total=3)
    await world.redis.hset(world.keys.meta, "stock", 50)
    admitted = await world.clicks(*((f"u{user}", "a") for user in range(7, -1, -1)))
    await world.consume()
    states = await world.states()
    # who came first got them
    assert [states[each.detail] for each in admitted] == ["LIVE"] * 3 + ["REFUSED"] * 5
    assert (await world.row()).sold == 3
    assert sorted(await world.told()) == sorted(each.detail for each in admitted[:3])
    assert [await world.view(f"u{user}") for user in (7, 0)] == [
        BuyerStatus.HOLDER,
        BuyerStatus.NEITHER,
    ]
    await world.check_rest(law=False)
    meta = await world.loader.meta(world.keys)
    assert meta is not None
    assert meta.stock == 50 - 8  # a unit that never was does not come back


async def test_who_came_first_gets_the_last_unit_though_his_slot_had_to_be_looked_for(
    world: SeckillWorld,
) -> None:
    await world.open(total=2, limit=2)
    await world.buy("u1", "a")
    first, second = entry_of(world, "u1", "b"), entry_of(world, "u0", entry_id="1-2")
    assert await verdicts(world, first, second) == [Verdict.LIVE, Verdict.PHANTOM]
    await world.check_database()


async def test_the_check_of_the_table_stands_behind_the_guard(world: SeckillWorld) -> None:
    await world.open(total=1)
    await world.buy()
    with pytest.raises(Exception, match="ck_activity_sold"):
        await world.change(sold=2)


async def test_when_nothing_is_left_no_message_is_sent_and_duplicates_of_phantoms_are_phantoms(
    world: SeckillWorld,
) -> None:
    await world.open(total=1, limit=2)
    await world.buy("u1")
    entries = [
        entry_of(world, "u2", "a", entry_id="1-1"),
        entry_of(world, "u2", "a", entry_id="1-2"),
        entry_of(world, "u3", entry_id="1-3"),
    ]
    assert await verdicts(world, *entries) == [Verdict.PHANTOM] * 3
    assert len(await world.messages("order_rpc")) == 1
    assert await verdicts(world, *entries) == [Verdict.REFUSED] * 3
    await world.check_database()


async def test_a_fenced_batch_sells_nothing_and_waits_for_the_new_epoch(
    world: SeckillWorld,
) -> None:
    await world.open(total=5)
    await world.clicks(("u1", "a"), ("u2", "a"))
    await world.fence()
    assert await world.consumer.run_once() == 0  # Redis has not published the epoch of the row
    assert await world.states() == {}
    assert await world.queue.waiting(world.keys) == (2, 2)
    await world.publish(await world.row(), carries=False)
    await world.redis.hdel(world.keys.meta, "hold")
    await world.consume()
    rows = await world.rows()
    assert [(row["state"], row["epoch"]) for row in rows] == [("LIVE", 2)] * 2
    await world.check_rest()


@pytest.mark.parametrize("total", [5, 0])
@pytest.mark.parametrize("dialect", ["mariadb"], indirect=True)
async def test_an_epoch_that_ends_between_reading_and_selling_is_noticed_by_the_guard(
    world: SeckillWorld, monkeypatch: pytest.MonkeyPatch, total: int
) -> None:
    await world.open(total=5)
    real = activities.sell
    fenced: list[Activity] = []

    async def late(tx: Any, **how: Any) -> bool:
        if not fenced:
            fenced.append(await world.fence())  # another connection: the row is not locked yet
            await world.change(total=total)
        return await real(tx, **how)

    monkeypatch.setattr(activities, "sell", late)
    entry = entry_of(world, "u1")
    decided = await deciding(world).decide(world.keys.activity_id, [entry])
    assert (decided.epoch, decided.finished, decided.older) == (2, [], [entry])
    assert await world.states() == {}
    assert (await world.row()).sold == 0
    assert await world.messages("order_rpc") == []


async def test_an_entry_of_an_epoch_that_the_row_has_not_reached_waits(world: SeckillWorld) -> None:
    await world.open()
    await world.plant("u1", epoch=7)  # the database was brought back from a copy
    assert await world.consumer.run_once() == 0
    assert await world.states() == {}
    assert await world.queue.waiting(world.keys) == (1, 1)


async def test_who_stood_in_the_line_of_an_older_epoch_is_admitted_again_as_long_as_there_are_units(
    world: SeckillWorld,
) -> None:
    await world.open(total=2)
    await world.clicks(("u1", "a", "O1"), ("u2", "a", "O2"))
    await world.begin_epoch_uncarried()
    late = await world.plant("u3", order_id="O3", epoch=1)
    await world.consume()
    assert await world.states() == {"O1": "LIVE", "O2": "LIVE", late: "REFUSED"}
    assert await world.view("u3") is BuyerStatus.NEITHER
    await world.check_rest()


async def test_an_entry_whose_copy_stands_in_the_line_leaves_it(world: SeckillWorld) -> None:
    await world.open(total=2)
    await world.clicks(("u1", "a", "O1"), ("u2", "a", "O2"))
    await world.begin_epoch_uncarried()
    assert await world.consumer.run_once() == 2
    assert await world.queue.waiting(world.keys) == (2, 0)
    await world.consume()
    assert await world.states() == {"O1": "LIVE", "O2": "LIVE"}
    await world.check_rest()


async def test_who_cannot_be_admitted_again_for_want_of_memory_stays_in_the_line(
    world: SeckillWorld,
) -> None:
    await world.open(total=2)
    await world.click("u1", "a", "O1")
    await world.begin_epoch_uncarried()
    await world.redis.config_set("maxmemory", 1)
    try:
        assert await world.consumer.run_once() == 0
    finally:
        await world.redis.config_set("maxmemory", 0)
    assert await world.states() == {}
    await world.consume()
    assert await world.states() == {"O1": "LIVE"}
    await world.check_rest()


async def test_a_paused_or_closing_activity_serves_those_who_were_admitted(
    world: SeckillWorld,
) -> None:
    await world.open(total=2)
    await world.clicks(("u1", "a", "O1"), ("u2", "a", "O2"))
    for verb in (ActivityVerb.PAUSE, ActivityVerb.CLOSE):
        await world.loader.write_state(world.keys, await world.step(verb))
    await world.begin_epoch_uncarried()
    await world.consume()
    assert await world.states() == {"O1": "LIVE", "O2": "LIVE"}
    await world.check_rest()


async def test_after_the_close_an_entry_that_turns_up_is_refused(world: SeckillWorld) -> None:
    await world.open(total=2)
    await world.close()
    await world.redis.flushdb()  # not even the tombstone says so
    await world.redis.xgroup_create(world.keys.queue, "orders", "0", mkstream=True)
    await world.plant("u1", order_id="O1")
    await world.plant("u2", order_id="O2", epoch=2)
    assert await world.consume() == 2
    assert await world.states() == {"O1": "REFUSED", "O2": "REFUSED"}
    assert (await world.row()).sold == 0


async def test_a_click_that_has_another_order_by_now_is_refused_under_its_old_one(
    world: SeckillWorld,
) -> None:
    await world.open(total=5)
    await world.click("u1", "a", "OLD")
    await world.begin_epoch_uncarried()
    assert (await world.click("u1", "a", "NEW")).code is AdmitCode.QUEUED
    await world.consume()
    assert await world.states() == {"NEW": "LIVE", "OLD": "REFUSED"}
    await world.check_rest()


async def test_an_order_that_came_back_before_it_was_published_is_not_admitted_again(
    world: SeckillWorld,
) -> None:
    await world.open(total=1)
    await world.click("u1", "a", "O1")
    failpoints.arm("seckill.consume.after_commit=raise", environment="test")
    with pytest.raises(FailpointRaised):
        await world.consumer.run_once()
    await world.give_back("O1")
    await world.begin_epoch_uncarried()
    assert await world.consumer.run_once() == 1
    assert await world.states() == {"O1": "RETURNED"}
    await world.relay()
    await world.check_rest()


# --- twice and at once ----------------------------------------------------------------------------

POINTS = ("after_read", "after_insert", "after_update", "after_commit", "after_finish")


@pytest.mark.parametrize("point", POINTS)
async def test_whatever_a_crash_leaves_is_delivered_again_and_has_no_second_effect(
    world: SeckillWorld, point: str
) -> None:
    await world.open(total=4)
    await world.redis.hincrby(world.keys.meta, "stock", 2)
    admitted = await world.clicks(*((f"u{user}", "a") for user in range(6)))
    failpoints.arm(f"seckill.consume.{point}=raise", environment="test")
    with pytest.raises(FailpointRaised):
        await world.consumer.run_once()
    world.consumer = world.make_consumer("two")
    await world.consume()
    states = await world.states()
    assert sorted(states[each.detail] for each in admitted) == ["LIVE"] * 4 + ["REFUSED"] * 2
    assert (await world.row()).sold == 4
    await world.check_rest(law=False)


async def test_a_crash_after_admitting_again_has_no_second_effect(world: SeckillWorld) -> None:
    await world.open(total=2)
    await world.clicks(("u1", "a", "O1"), ("u2", "a", "O2"))
    await world.begin_epoch_uncarried()
    failpoints.arm("seckill.consume.after_readmit=raise", environment="test")
    with pytest.raises(FailpointRaised):
        await world.consumer.run_once()
    assert await world.queue.waiting(world.keys) == (4, 2)  # the old entries and their copies
    await world.consume()
    assert await world.states() == {"O1": "LIVE", "O2": "LIVE"}
    await world.check_rest()


async def test_an_entry_that_two_consumers_decide_at_once_is_one_order(
    world: SeckillWorld, rounds: Rounds
) -> None:
    for number in range(rounds(5, 100)):
        await world.open(total=100, sku_id=f"sku-{number}")
        await world.clicks(*((f"u{user}", "a") for user in range(20)))
        entries = await world.queue.read(world.keys, "one", count=100, block_ms=0)
        decided = await asyncio.gather(
            *(deciding(world).decide(world.keys.activity_id, entries) for _ in range(3))
        )
        assert [[done.verdict for done in each.finished] for each in decided] == [
            [Verdict.LIVE] * 20
        ] * 3
        finished = await asyncio.gather(
            *(world.queue.finish(world.keys, each.finished) for each in decided)
        )
        assert sorted(finished) == [0, 0, 20]
        assert (await world.row()).sold == 20
        await world.check_rest()


async def test_two_batches_of_the_same_buyers_at_once_stay_within_their_limits(
    world: SeckillWorld, rounds: Rounds
) -> None:
    for number in range(rounds(5, 100)):
        activity = await world.open(total=1000, limit=2, sku_id=f"sku-{number}")
        entries = [
            [
                entry_of(world, f"u{user}", f"r{batch}", entry_id=f"{batch}-{user}")
                for user in (range(30) if batch % 2 else range(29, -1, -1))
            ]
            for batch in range(4)
        ]
        await asyncio.gather(
            *(deciding(world).decide(activity.activity_id, batch) for batch in entries)
        )
        assert (await world.row()).sold == 60
        await world.check_database()


async def test_a_slot_that_is_taken_after_it_was_looked_for_is_looked_for_again(
    world: SeckillWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """InnoDB's locks let nobody in at this place; the code does not rely on it."""
    await world.open(limit=2)
    first = await world.buy("u1", "x")
    real, others = orders.lock_live_orders, [NewOrder("C", "u1", "c", 2)]

    async def slow(tx: Any, **which: Any) -> Any:
        found = await real(tx, **which)
        if others:
            await batches.insert_orders(
                tx, [others.pop()], Batch(world.keys.activity_id, 1, 1, world.clock.now())
            )
        return found

    monkeypatch.setattr(orders, "lock_live_orders", slow)
    assert await verdicts(world, entry_of(world, "u1", "b", order_id="B")) == [Verdict.LIVE]
    assert await world.slots("u1") == {first: 1, "B": 2}
    await world.check_database()


async def test_an_order_that_became_live_after_it_was_looked_for_is_not_refused(
    world: SeckillWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slot was free for a moment, and another delivery of the same entry was quicker."""
    await world.open()
    first = await world.buy("u1", "x")
    real, others = orders.lock_live_orders, [NewOrder("B", "u1", "b", 1)]

    async def slow(tx: Any, **which: Any) -> Any:
        found = await real(tx, **which)
        if others:
            await orders.leave_live(tx, order_id=first, to=UnitState.RETURNED, at=world.clock.now())
            await batches.insert_orders(
                tx, [others.pop()], Batch(world.keys.activity_id, 1, 1, world.clock.now())
            )
        return found

    monkeypatch.setattr(orders, "lock_live_orders", slow)
    assert await verdicts(world, entry_of(world, "u1", "b", order_id="B")) == [Verdict.DUPLICATE]
    # decided again, without what was written in between
    assert await world.states() == {first: "LIVE", "B": "REFUSED"}
    await world.check_database()


async def test_whoever_commits_first_decides_between_the_ticket_and_the_consumer(
    world: SeckillWorld,
) -> None:
    await world.open(total=5)
    first, second = (
        entry_of(world, "u1", order_id="O1"),
        entry_of(world, "u2", order_id="O2", entry_id="1-2"),
    )

    async def by_ticket(tx: Any, entry: Entry) -> str:
        lost = NewOrder(entry.order_id, entry.user_id, entry.request_id, None)
        rows = await batches.insert_refused(
            tx, [lost], Batch(world.keys.activity_id, 0, 1, world.clock.now())
        )
        return str(rows[entry.order_id].state)

    assert await world.db.run(by_ticket, first) == "REFUSED"
    assert await verdicts(world, first, second) == [Verdict.REFUSED, Verdict.LIVE]
    assert await world.db.run(by_ticket, second) == "LIVE"
    assert (await world.row()).sold == 1
    await world.check_database()


# --- what fails -----------------------------------------------------------------------------------


async def refuse_user(world: SeckillWorld, user_id: str) -> None:
    """From now on the database refuses rows of this buyer, as it would a value that it cannot
    hold.
    """
    body = (
        f"BEGIN IF NEW.user_id = '{user_id}' THEN SIGNAL SQLSTATE '22001' SET MYSQL_ERRNO = 1406, "
        f"MESSAGE_TEXT = 'too long'; END IF; END"
        if world.db.engine.dialect.name == "mysql"
        else f"WHEN NEW.user_id = '{user_id}' BEGIN SELECT RAISE(ABORT, 'too long'); END"
    )
    async with world.db.engine.begin() as connection:
        each = "FOR EACH ROW " if world.db.engine.dialect.name == "mysql" else ""
        await connection.execute(
            text(f"CREATE TRIGGER poison BEFORE INSERT ON seckill_order {each}{body}")
        )


async def test_an_entry_that_the_database_refuses_alone_five_times_is_given_up_and_stops_nobody(
    world: SeckillWorld,
) -> None:
    await world.open(total=20)
    await refuse_user(world, "u5")
    admitted = await world.clicks(*((f"u{user}", "a") for user in range(10)))
    with capture_logs() as logged:
        assert await world.consumer.run_once() == 9
        for _ in range(3):
            assert await world.consumer.run_once() == 0
        assert await world.dead() == []
        assert await world.view("u5") is BuyerStatus.QUEUED
        assert await world.consumer.run_once() == 1
    [dead] = await world.dead()
    assert (dead["order_id"], dead["deliveries"], json.loads(dead["fields"])["user_id"]) == (
        admitted[5].detail,
        5,
        "u5",
    )
    assert "too long" in dead["reason"]
    alerts = [line for line in logged if line.get("alert")]
    assert [(line["event"], line["user_id"]) for line in alerts] == [("seckill_entry_dead", "u5")]
    assert await world.view("u5") is BuyerStatus.NEITHER
    assert len(await world.states()) == 9
    meta = await world.loader.meta(world.keys)
    assert meta is not None
    assert (meta.stock, meta.out) == (11, 0)  # his unit is sold to somebody else


async def test_entries_that_no_admission_writes_are_given_up_too(world: SeckillWorld) -> None:
    await world.open()
    strange: list[dict[str, Any]] = [
        {"u": "someone#else"},
        {"u": "名"},
        {"r": "x" * 65},
        {"o": "not an order"},
        {"e": "later"},
        {"u": ""},
    ]
    for fields in strange:
        await world.plant("u1", **fields)
    good = await world.click("u2")
    assert await world.consumer.run_once() == 1
    for _ in range(3):
        assert await world.consumer.run_once() == 0
    assert await world.dead() == []
    assert await world.consumer.run_once() == len(strange)
    assert await world.states() == {good.detail: "LIVE"}
    assert len(await world.dead()) == len(strange)
    assert await world.queue.waiting(world.keys) == (0, 0)


async def test_a_poisonous_entry_whose_order_is_decided_keeps_its_answer(
    world: SeckillWorld,
) -> None:
    await world.open()
    order_id = await world.buy("u1")
    entry = entry_of(world, "u1", order_id=order_id)
    done = await deciding(world).give_up(
        world.keys.activity_id, entry, reason="test", deliveries=5, refuse=True
    )
    assert done.verdict is Verdict.LIVE
    assert (
        await deciding(world).give_up(
            world.keys.activity_id, entry, reason="again", deliveries=6, refuse=True
        )
        == done
    )
    assert len(await world.dead()) == 1


async def test_a_click_whose_row_cannot_be_read_keeps_no_other_from_being_served(
    world: SeckillWorld,
) -> None:
    await world.open(total=5)
    order_id = await world.buy("u1")
    await plant(
        world.db, f"UPDATE seckill_order SET state = 'NONSENSE' WHERE order_id = '{order_id}'"
    )
    epoch = (await world.row()).epoch
    await world.rebuild()
    # delivered once more, in the next epoch
    await world.plant("u1", order_id=order_id, epoch=epoch)
    await world.clicks(("u2", "a"), ("u3", "a"))
    with capture_logs() as logs:
        assert await world.consume() == 2
    assert [
        (line["worker"], line["row"], line["alert"])
        for line in logs
        if line["event"] == "row_left_out"
    ] == [("consume", order_id, True)]
    assert sorted((await world.states()).values()) == ["LIVE", "LIVE", "NONSENSE"]
    assert (await world.dead(), await world.queue.waiting(world.keys)) == ([], (1, 1))


async def test_an_activity_that_the_database_does_not_know_makes_nothing_poison(
    world: SeckillWorld,
) -> None:
    await world.open()
    await world.click("u1")
    async with world.db.engine.begin() as connection:
        await connection.execute(ACTIVITY.delete())
    for _ in range(6):
        with pytest.raises(ActivityNotFound):
            await world.consumer.run_once()
    assert await world.dead() == []
    assert await world.queue.waiting(world.keys) == (1, 1)


async def test_a_table_that_is_missing_makes_nothing_poison(world: SeckillWorld) -> None:
    await world.open()
    await world.click("u1")
    async with world.db.engine.begin() as connection:
        await connection.execute(text("ALTER TABLE seckill_order RENAME TO elsewhere"))
    for _ in range(6):
        with pytest.raises(Exception, match=r"(?i)seckill_order"):
            await world.consumer.run_once()
    async with world.db.engine.begin() as connection:
        await connection.execute(text("ALTER TABLE elsewhere RENAME TO seckill_order"))
    assert await world.consume() == 1
    assert await world.dead() == []
    await world.check_rest()


async def test_an_outage_of_the_database_makes_nothing_poison(
    own_mariadb: MariaDB, redis_url: str
) -> None:
    async with seckill_world(own_mariadb.create_database(), redis_url) as world:
        await world.open(total=5)
        await world.clicks(("u1", "a"), ("u2", "a"))
        own_mariadb.kill()
        for _ in range(6):
            with pytest.raises(Unavailable):
                await world.consumer.run_once()
        own_mariadb.start()
        assert await world.consume() == 2
        assert await world.dead() == []
        await world.check_rest()


@pytest.mark.parametrize("dialect", ["mariadb"], indirect=True)
async def test_a_deadlock_is_tried_again(
    world: SeckillWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another transaction has the row of the activity and wants the order that this one has just
    written.
    """
    await world.open(total=5)
    entry = entry_of(world, "u1", order_id="O1")
    real = activities.sell
    victims: list[asyncio.Task[None]] = []

    async def other() -> None:
        async with world.db.engine.begin() as connection:
            await connection.execute(text("SELECT * FROM activity FOR UPDATE"))
            # A heavier transaction: InnoDB breaks the lighter one.
            await connection.execute(text("UPDATE activity SET updated_at = updated_at + 1"))
            for number in range(20):
                await connection.execute(text(f"INSERT INTO inbox VALUES ('c', 'e{number}', 0)"))
            has_row.set()
            await connection.execute(
                text("SELECT * FROM seckill_order WHERE order_id = 'O1' FOR UPDATE")
            )

    async def late(tx: Any, **how: Any) -> bool:
        if not victims:
            victims.append(asyncio.create_task(other()))
            await has_row.wait()
        return await real(tx, **how)

    has_row = asyncio.Event()
    monkeypatch.setattr(activities, "sell", late)
    with capture_logs() as logged:
        assert await verdicts(world, entry) == [Verdict.LIVE]
    await asyncio.gather(*victims)
    assert [
        "Deadlock" in line["cause"] for line in logged if line["event"] == "transaction_retried"
    ] == [True]
    assert await world.told() == ["O1"]
    await world.check_database()


async def test_a_commit_without_an_answer_is_decided_by_what_is_there(
    world: SeckillWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.open(total=5)
    await world.clicks(("u1", "a"), ("u2", "a"))
    real = world.queue.finish

    async def lost(*_: Any) -> int:
        monkeypatch.setattr(world.queue, "finish", real)
        raise ConnectionError("redis went away after the commit")

    monkeypatch.setattr(world.queue, "finish", lost)
    with pytest.raises(ConnectionError):
        await world.consumer.run_once()
    assert await world.consume() == 2
    await world.check_rest()


async def test_entries_that_cannot_be_decided_do_not_hide_those_behind_them(
    world: SeckillWorld,
) -> None:
    await world.open(total=50)
    for user in range(8):
        await world.plant(f"early{user}", epoch=7)
    await world.clicks(("u1", "a"), ("u2", "a"))
    assert len(await world.queue.read(world.keys, "dead", count=100, block_ms=0)) == 10
    assert await world.make_consumer("two", batch_size=4).run_once() == 2
    assert await world.queue.waiting(world.keys) == (8, 8)


async def test_entries_that_a_living_consumer_has_are_left_to_it(world: SeckillWorld) -> None:
    await world.open(total=50)
    await world.click("u1")
    await world.queue.read(world.keys, "alive", count=100, block_ms=0)
    assert await world.make_consumer("two", min_idle_ms=60_000).run_once() == 0
    assert await world.states() == {}


async def test_a_second_win_of_a_slot_makes_a_new_order(world: SeckillWorld) -> None:
    await world.open(total=1)
    first = await world.buy("u1", "a")
    await world.give_back(first)
    await world.relay()
    second = await world.buy("u2", "a")
    assert await world.states() == {first: "RETURNED", second: "LIVE"}
    assert (await world.row()).sold == 1
    await world.relay()
    assert world.order_rpc.orders == {first: "u1", second: "u2"}
    await world.check_rest()


async def test_live_orders_are_read_in_chunks_without_a_sort(world: SeckillWorld) -> None:
    await world.open(total=100, limit=2)
    for request in ("a", "b"):
        await world.clicks(*((f"u{user:02}", request) for user in range(11)))
        await world.consume()
    seen: list[tuple[str, int]] = []
    while chunk := await world.db.read(
        orders.list_holders,
        activity_id=world.keys.activity_id,
        after=seen[-1] if seen else None,
        limit=5,
    ):
        seen += [(each.user_id, each.slot) for each in chunk]
    assert seen == [(f"u{user:02}", slot) for user in range(11) for slot in (1, 2)]


def test_what_a_refusal_of_ours_means_is_no_fault_of_an_entry() -> None:
    assert not batches.is_data_error(MeshError("any"))
    assert not batches.is_data_error(OSError())
    assert not batches.is_data_error(ConstraintViolated("ck_activity_sold"))
    assert batches.is_data_error(ConstraintViolated("ck_seckill_order_slot"))
    assert batches.is_data_error(UnicodeEncodeError("ascii", "名", 0, 1, "no"))


async def test_a_consumer_that_is_stopped_ends_after_the_batch_that_is_under_way(
    world: SeckillWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.open(total=100)
    await world.clicks(*((f"u{user}", "a") for user in range(30)))
    consumer = world.make_consumer("stopped", batch_size=10)
    real, batches = world.queue.finish, 0

    async def finish(*arguments: Any) -> int:
        nonlocal batches
        batches += 1
        consumer.stop()
        return await real(*arguments)

    monkeypatch.setattr(world.queue, "finish", finish)
    assert await consumer.run_once() == 10
    assert batches == 1
    assert await world.queue.waiting(world.keys) == (20, 0)  # nobody has to take anything over


async def test_a_consumer_that_waits_ends_its_wait_when_it_is_stopped(world: SeckillWorld) -> None:
    await world.open(total=100)
    consumer = world.make_consumer("waits", block_ms=1000, quiet_block_ms=1000)
    waiting = asyncio.create_task(consumer.run_once())
    await asyncio.sleep(0)
    consumer.stop()
    assert await waiting == 0
    assert len(consumer._reader._reads) == 1  # Redis still waits
    await asyncio.gather(*consumer._reader._reads)

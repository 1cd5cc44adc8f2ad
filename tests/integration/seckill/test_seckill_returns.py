"""Units that come back: once, whoever asks how often; sold again by Redis, or put on the shelf once
the activity is closed; and what order_rpc makes of the orders that it is told of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from mesh import failpoints
from mesh.errors import RemoteError
from mesh.failpoints import FailpointRaised
from mesh.outbox import OUTBOX
from seckill_rpc.domain.activity import ActivityState, ActivityVerb
from seckill_rpc.domain.errors import SeckillOrderNotFound
from seckill_rpc.domain.order import BuyerStatus, UnitState
from seckill_rpc.redis.admission_queue import ReturnedUnit
from seckill_rpc.redis.admit import AdmitCode
from seckill_rpc.store import activities, orders
from seckill_rpc.store.orders import count_give_backs
from seckill_rpc.usecases.outbox_to_redis import RedisDestination, give_back_message
from tests.builders.seckill import SeckillWorld, seckill_world

Rounds = Callable[[int, int], int]


@pytest.fixture
async def world(database_url: str, redis_url: str) -> AsyncIterator[SeckillWorld]:
    async with seckill_world(database_url, redis_url) as made:
        yield made


async def waiting(world: SeckillWorld) -> int:
    return await world.db.read(count_give_backs, activity_id=world.keys.activity_id)


async def outbox_states(world: SeckillWorld) -> dict[str, list[str]]:
    """States of the messages by destination."""
    found: dict[str, list[str]] = {}
    for row in await world.rows(OUTBOX):
        found.setdefault(row["destination"], []).append(row["state"])
    return found


# --- one unit -------------------------------------------------------------------------------------


async def test_a_unit_that_comes_back_is_sold_again(world: SeckillWorld) -> None:
    activity = await world.open(total=1)
    order_id = await world.buy("u1", "click-1")
    await world.relay()
    assert (await world.click("u2")).code is AdmitCode.SOLD_OUT
    world.clock.advance(60)
    assert await world.give_back(order_id)
    [row] = await world.rows()
    assert (row["state"], row["slot"], row["live_request"], row["request_id"]) == (
        "RETURNED",
        None,
        None,
        "click-1",
    )
    assert row["updated_at"] == world.clock.now() > row["created_at"]
    assert await world.messages("redis") == [
        {
            "activity_id": activity.activity_id,
            "merchant_id": "mall",
            "sku_id": "1001",
            "order_id": order_id,
            "user_id": "u1",
            "request_id": "click-1",
            "epoch": 1,
        }
    ]
    assert (await world.row()).sold == 0
    assert await waiting(world) == 1
    assert await world.view("u1") is BuyerStatus.HOLDER  # Redis does not know yet
    await world.relay()
    assert await waiting(world) == 0
    assert await world.view("u1") is BuyerStatus.NEITHER
    assert (await world.click("u2")).code is AdmitCode.QUEUED
    await world.consume()
    await world.check_rest()


async def test_a_buyer_whose_order_came_back_buys_again_with_the_same_request_and_gets_a_new_order(
    world: SeckillWorld,
) -> None:
    await world.open(total=1)
    first = await world.buy("u1", "a")
    assert (await world.click("u1", "a")).code is AdmitCode.REPLAY_LIVE
    await world.give_back(first)
    await world.relay()
    second = await world.buy("u1", "a")
    assert second != first
    assert await world.states() == {first: "RETURNED", second: "LIVE"}
    await world.relay()
    await world.check_rest()


async def test_a_unit_comes_back_once_however_often_and_by_how_many_it_is_asked(
    world: SeckillWorld, rounds: Rounds
) -> None:
    await world.open(total=200)
    for number in range(rounds(5, 100)):
        order_id = await world.buy(f"u{number}")
        answers = await asyncio.gather(*(world.give_back(order_id) for _ in range(8)))
        assert sorted(answers) == [False] * 7 + [True]
        assert not await world.give_back(order_id)
    assert (await world.row()).sold == 0
    await world.relay()
    await world.check_rest()


async def test_what_was_refused_has_no_unit_to_give_back(world: SeckillWorld) -> None:
    await world.open(total=1)
    await world.redis.hincrby(world.keys.meta, "stock", 1)
    await world.buy("u1")
    order_id = await world.buy("u2")
    assert not await world.give_back(order_id)
    assert (await world.row()).sold == 1
    assert await world.messages("redis") == []


async def test_an_order_that_is_not_of_this_activity_and_merchant_is_not_found(
    world: SeckillWorld,
) -> None:
    other = await world.open(sku_id="other")
    await world.open()
    order_id = await world.buy()
    for wrong in (
        {"order_id": "ORD-none"},
        {"activity_id": other.activity_id},
        {"activity_id": "ACT-none"},
        {"merchant_id": "shop"},
    ):
        with pytest.raises(SeckillOrderNotFound):
            await world.returns.return_stock(
                **{
                    "order_id": order_id,
                    "merchant_id": "mall",
                    "activity_id": world.keys.activity_id,
                    **wrong,
                }
            )
    assert await world.states() == {order_id: "LIVE"}


async def test_a_crash_after_the_commit_leaves_everything_to_the_relay(world: SeckillWorld) -> None:
    await world.open(total=1)
    order_id = await world.buy()
    failpoints.arm("seckill.return.after_commit=raise", environment="test")
    with pytest.raises(FailpointRaised):
        await world.give_back(order_id)
    assert not await world.give_back(order_id)
    await world.relay()
    await world.check_rest()


async def test_a_return_and_a_batch_of_the_same_buyer_at_once(
    world: SeckillWorld, rounds: Rounds
) -> None:
    await world.open(total=500, limit=2)
    for number in range(rounds(10, 200)):
        first = await world.buy(f"u{number}", "a")
        await world.click(f"u{number}", "b")
        await asyncio.gather(world.give_back(first), world.consumer.run_once())
        await world.check_database()
    await world.consume()
    await world.relay()
    await world.check_rest()


# --- into Redis -----------------------------------------------------------------------------------


async def test_give_backs_that_are_sent_side_by_side_share_one_call_of_the_script(
    world: SeckillWorld,
) -> None:
    async def calls() -> int:
        return int(
            (await world.redis.info("commandstats")).get("cmdstat_evalsha", {"calls": 0})["calls"]
        )

    activity = await world.open(total=100)
    await world.clicks(*((f"u{user}", "a") for user in range(20)))
    await world.consume()
    bought = await world.db.read(orders.find_orders, list(await world.states()))
    destination = RedisDestination(db=world.db, queue=world.queue)
    messages = [
        give_back_message(order, activity, ids=world.ids, at=world.clock.now())
        for order in bought.values()
    ]
    before = await calls()
    first = asyncio.create_task(destination.send(messages[0]))
    others = [asyncio.create_task(destination.send(message)) for message in messages[1:]]
    for _ in range(2):  # until the call is under way
        await asyncio.sleep(0)
    first.cancel()  # a caller that goes away takes no other along
    await asyncio.gather(*others)
    assert await calls() == before + 1
    meta = await world.loader.meta(world.keys)
    assert meta is not None
    assert meta.stock == 100


async def test_a_storm_of_returns_ends(world: SeckillWorld) -> None:
    await world.open(total=100)
    await world.clicks(*((f"u{user}", "a") for user in range(40)))
    await world.consume()
    await asyncio.gather(*(world.give_back(order_id) for order_id in await world.states()))
    assert await waiting(world) == 40
    await world.relay()
    assert await waiting(world) == 0
    await world.check_rest()


async def test_a_give_back_that_crashes_after_the_script_counts_once(world: SeckillWorld) -> None:
    await world.open(total=3)
    order_id = await world.buy()
    await world.give_back(order_id)
    failpoints.arm("seckill.give_back.after_script=raise", environment="test")
    await world.relay()
    assert await waiting(world) == 1
    world.clock.advance(60)  # the claim of the relay has ended
    await world.relay()
    assert await waiting(world) == 0
    await world.check_rest()


async def test_a_give_back_of_an_epoch_that_redis_has_not_published_waits_for_it(
    world: SeckillWorld,
) -> None:
    await world.open(total=3)
    order_id = await world.buy()
    units = await world.live_units()
    fenced = await world.fence()
    await world.give_back(order_id)
    await world.relay()
    assert await waiting(world) == 1
    assert await world.view("u1") is BuyerStatus.HOLDER
    await world.publish(fenced, units=units)  # read before the unit came back
    world.clock.advance(60)
    await world.relay()
    assert await waiting(world) == 0
    assert await world.view("u1") is BuyerStatus.NEITHER
    await world.check_rest()


async def test_a_give_back_waits_while_redis_is_away(
    world: SeckillWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.open(total=3)
    await world.give_back(await world.buy())
    real = world.queue.give_back

    async def away(*_: Any) -> list[int]:
        monkeypatch.setattr(world.queue, "give_back", real)
        raise ConnectionError("redis is away")

    monkeypatch.setattr(world.queue, "give_back", away)
    await world.relay()
    assert await outbox_states(world) == {"order_rpc": ["DONE"], "redis": ["NEW"]}
    world.clock.advance(60)
    await world.relay()
    await world.check_rest()


# --- after the close ------------------------------------------------------------------------------


async def test_a_unit_that_comes_back_after_the_close_goes_to_the_shelf_once(
    world: SeckillWorld,
) -> None:
    activity = await world.open(total=5)
    bought = [await world.buy(f"u{user}") for user in range(2)]
    closed = await world.close()
    assert (closed.total, closed.sold) == (2, 2)
    for _ in range(2):
        await world.give_back(bought[0])
    row = await world.row()
    assert (row.total, row.sold) == (1, 1)
    assert await world.messages("redis") == []
    await world.relay()
    assert world.order_rpc.returned == {f"late:{bought[0]}": (activity.activity_id, 1)}
    await world.check_database()


async def test_a_give_back_that_the_close_has_counted_is_done(world: SeckillWorld) -> None:
    await world.open(total=5)
    order_id = await world.buy()
    await world.step(ActivityVerb.CLOSE)
    await world.give_back(order_id)
    closed = await world.step(ActivityVerb.FINISH)
    # the unit is among those that go back to the shelf
    assert (closed.total, closed.sold) == (0, 0)
    await world.redis.flushdb()
    await world.relay()
    assert (await outbox_states(world))["redis"] == ["DONE"]


async def test_a_close_that_read_the_row_before_a_unit_came_back_is_not_written(
    world: SeckillWorld,
) -> None:
    await world.open(total=5)
    order_id = await world.buy()
    await world.step(ActivityVerb.CLOSE)
    stale = (await world.row()).step(ActivityVerb.FINISH, at=world.clock.now())
    await world.give_back(order_id)
    with pytest.raises(Exception, match="Concurrent changes"):
        await world.db.run(activities.save, stale, read_version=stale.version - 1)
    assert (await world.row()).total == 5


async def test_a_step_of_a_row_that_has_changed_meanwhile_is_not_written(
    world: SeckillWorld,
) -> None:
    await world.open(total=5)
    before = await world.row()
    await world.step(ActivityVerb.PAUSE)
    with pytest.raises(Exception, match="Concurrent changes"):
        await world.db.run(
            activities.save,
            before.step(ActivityVerb.CLOSE, at=world.clock.now()),
            read_version=before.version,
        )
    assert (await world.row()).state is ActivityState.PAUSED


# --- order_rpc ------------------------------------------------------------------------------------


async def test_orders_reach_order_rpc_with_the_price_of_the_activity_and_are_ready_then(
    world: SeckillWorld,
) -> None:
    await world.open(total=5, price="8.80")
    bought = [await world.buy(f"u{user}") for user in range(2)]
    world.order_rpc.away = True
    await world.relay()
    assert [row["order_ready"] for row in await world.rows()] == [False, False]
    world.order_rpc.away = False
    world.clock.advance(60)
    await world.relay()
    assert world.order_rpc.orders == {bought[0]: "u0", bought[1]: "u1"}
    assert world.order_rpc.prices == {("1001", "8.80", "CNY")}
    assert [row["order_ready"] for row in await world.rows()] == [True, True]
    assert await outbox_states(world) == {"order_rpc": ["DONE", "DONE"]}


async def test_an_order_that_order_rpc_refuses_gives_its_unit_back(world: SeckillWorld) -> None:
    await world.open(total=3)
    admitted = await world.clicks(*((f"u{user}", "a") for user in range(3)))
    await world.consume()
    world.order_rpc.refuses = {"u1": "CURRENCY_MIXED"}
    await world.relay()
    states = await world.states()
    assert [states[each.detail] for each in admitted] == ["LIVE", "REFUSED", "LIVE"]
    assert {row["order_id"]: row["order_ready"] for row in await world.rows()} == {
        each.detail: user != 1 for user, each in enumerate(admitted)
    }
    assert (await world.row()).sold == 2
    assert await world.view("u1") is BuyerStatus.NEITHER
    await world.check_rest()
    world.order_rpc.refuses = {}
    again = await world.buy("u1", "a")  # he may try again
    await world.relay()
    assert world.order_rpc.orders[again] == "u1"
    await world.check_rest()


async def test_a_refusal_that_order_rpc_repeats_takes_one_unit_back(world: SeckillWorld) -> None:
    await world.open(total=3)
    order_id = await world.buy("u1")
    world.order_rpc.refuses = {"u1": "CURRENCY_MIXED"}
    failpoints.arm("outbox.relay.after_send=raise", environment="test")
    await world.relay()
    assert await world.states() == {order_id: "LIVE"}
    world.clock.advance(60)
    await world.relay()
    assert len(world.order_rpc.calls) == 2
    assert await world.states() == {order_id: "REFUSED"}
    assert len(await world.messages("redis")) == 1
    await world.check_rest()


async def test_an_answer_that_leaves_orders_out_is_asked_for_again(world: SeckillWorld) -> None:
    await world.open(total=3)
    await world.clicks(("u1", "a"), ("u2", "a"))
    await world.consume()
    world.order_rpc.silent_about = {"u2"}
    await world.relay()
    assert await outbox_states(world) == {"order_rpc": ["NEW"]}
    assert (await world.rows(OUTBOX))[0]["last_error"] == "order_rpc said nothing of 1 orders"
    assert [row["order_ready"] for row in await world.rows()] == [False, False]
    world.order_rpc.silent_about = set()
    world.clock.advance(60)
    await world.relay()
    assert [row["order_ready"] for row in await world.rows()] == [True, True]


async def test_a_call_that_order_rpc_refuses_as_a_whole_needs_a_person_and_gives_no_unit_away(
    world: SeckillWorld,
) -> None:
    await world.open(total=3)
    order_id = await world.buy()
    world.order_rpc.refuses_calls = RemoteError(
        "no", remote_reason="INVALID_ARGUMENT", domain="paymesh.common.v1", grpc_code=3
    )
    await world.relay()
    assert await outbox_states(world) == {"order_rpc": ["DEAD"]}
    assert await world.states() == {order_id: "LIVE"}


async def test_a_full_batch_fits_into_one_message_with_the_longest_ids(world: SeckillWorld) -> None:
    await world.open(total=500)
    await world.clicks(
        *((f"{user:03}" + "u" * 61, "r" * 64, f"{user:03}" + "O" * 29) for user in range(500))
    )
    assert await world.consumer.run_once() == 500
    [message] = await world.rows(OUTBOX)
    assert 49_000 < len(message["payload"]) < 65_535
    await world.relay()
    assert world.order_rpc.calls == [500]
    assert len(world.order_rpc.orders) == 500


async def test_an_order_is_taken_back_as_one_thing_only(world: SeckillWorld) -> None:
    """The state is the gate: a refusal after a return changes nothing."""
    await world.open()
    order_id = await world.buy()
    now = world.clock.now()
    assert await world.db.run(orders.leave_live, order_id=order_id, to=UnitState.RETURNED, at=now)
    assert not await world.db.run(
        orders.leave_live, order_id=order_id, to=UnitState.REFUSED, at=now
    )
    assert await world.states() == {order_id: "RETURNED"}


async def test_the_record_in_redis_is_of_one_order(world: SeckillWorld) -> None:
    """A give-back that comes late does not take the unit that the buyer has won since, with the
    same request.
    """
    await world.open(total=2)
    first = await world.buy("u1", "a")
    await world.give_back(first)
    await world.relay()
    await world.buy("u1", "a")
    assert await world.queue.give_back(
        world.keys, [ReturnedUnit(user_id="u1", request_id="a", order_id=first, epoch=1)]
    ) == [0]
    await world.relay()
    await world.check_rest()

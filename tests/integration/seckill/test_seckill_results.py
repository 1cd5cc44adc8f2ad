"""SeckillResult: an answer "waiting" always ends, whatever Redis loses; a ticket makes it definite;
a 1 is never lost while the order lives.
"""

from __future__ import annotations

import asyncio
import hmac
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.exceptions import TimeoutError as RedisTimeout

from seckill_rpc.domain.activity import AdmissionMode
from seckill_rpc.domain.errors import ActivityNotFound, SeckillBusy, SeckillNotReady, TicketInvalid
from seckill_rpc.domain.order import BuyerStatus
from seckill_rpc.domain.result import ResultCode
from seckill_rpc.domain.ticket import Tickets
from seckill_rpc.usecases.circuit_breaker import QUERIES_MAX
from tests.builders.seckill import SeckillWorld, seckill_world
from tests.builders.seckill_front import GRACE, SECRET, front

PAST_GRACE = GRACE.total_seconds() + 1


@pytest.fixture
async def world(database_url: str, redis_url: str) -> AsyncIterator[SeckillWorld]:
    async with seckill_world(database_url, redis_url) as world:
        yield world


async def test_the_result_of_a_buyer_follows_his_click(world: SeckillWorld) -> None:
    await world.open(total=1)
    async with front(world) as door:
        assert (await door.result("u1"))[:2] == (BuyerStatus.NEITHER, ResultCode.NO_CLICK)
        mine = await door.click("u1")
        assert (await door.result("u1")).status is BuyerStatus.QUEUED
        await world.consume()
        assert (await door.result("u1")).order_id == mine.order_id
        door.monotonic.now += 10  # from Redis and the rows again, not from memory
        assert (await door.result("u1")).order_id == mine.order_id


async def test_who_waits_is_woken_by_the_result(world: SeckillWorld) -> None:
    await world.open(total=1)
    async with front(world) as door:
        mine = await door.click("u1")
        waiting = asyncio.create_task(door.result("u1", wait_seconds=30))
        by_ticket = asyncio.create_task(door.result("u1", ticket=mine.ticket, wait_seconds=30))
        await asyncio.sleep(0)
        await world.consume()
        async with asyncio.timeout(10):
            assert (await waiting).order_id == mine.order_id
            assert (await by_ticket).order_id == mine.order_id


async def test_a_result_that_does_not_come_is_still_waiting(world: SeckillWorld) -> None:
    await world.open(total=1)
    async with front(world) as door:
        mine = await door.click("u1")
        assert (await door.result("u1", wait_seconds=0.05)).status is BuyerStatus.QUEUED
        assert (
            await door.result("u1", ticket=mine.ticket, wait_seconds=0.05)
        ).status is BuyerStatus.QUEUED


async def test_after_redis_lost_everything_a_winner_is_still_a_winner(world: SeckillWorld) -> None:
    await world.open(total=2)
    async with front(world) as door:
        mine = await door.click("u1")
        await world.consume()
        await world.redis.flushall()
        door.monotonic.now += 10
        assert (await door.result("u1")).order_id == mine.order_id
        assert (await door.result("u1", ticket=mine.ticket)).order_id == mine.order_id


async def test_a_place_that_redis_lost_ends_as_2_after_the_grace_and_for_ever(
    world: SeckillWorld,
) -> None:
    await world.open(total=2)
    async with front(world) as door:
        mine = await door.click("u1")
        await world.redis.flushall()
        # perhaps it is only late
        assert (await door.result("u1", ticket=mine.ticket)).status is BuyerStatus.QUEUED
        world.clock.advance(PAST_GRACE)
        lost = await door.result("u1", ticket=mine.ticket)
        assert (lost.status, lost.code) == (BuyerStatus.NEITHER, ResultCode.NOT_SERVED)
        assert await world.states() == {mine.order_id: "REFUSED"}
        # The entry turns up after all, as from a replica that had it: the row has decided.
        await world.rebuild()
        await world.plant("u1", "a", mine.order_id)
        await world.consume()
        assert (await door.result("u1", ticket=mine.ticket)).status is BuyerStatus.NEITHER
        assert (await world.row()).sold == 0


async def test_the_2_of_a_ticket_stays_when_the_same_click_is_repeated_and_wins_after_all(
    world: SeckillWorld,
) -> None:
    await world.open(total=2)
    async with front(world) as door:
        lost = await door.click("u1", "a")
        await world.redis.flushall()
        assert (await door.result("u1", ticket=lost.ticket)).status is BuyerStatus.QUEUED
        world.clock.advance(PAST_GRACE)
        assert (await door.result("u1", ticket=lost.ticket)).status is BuyerStatus.NEITHER
        await world.rebuild()
        won = await door.click("u1", "a")
        await world.consume()
        assert (await door.result("u1", ticket=won.ticket)).order_id == won.order_id
        assert (await door.result("u1", ticket=lost.ticket)).status is BuyerStatus.NEITHER


async def test_a_place_that_is_still_in_the_line_is_not_taken_away_by_waiting(
    world: SeckillWorld,
) -> None:
    await world.open(total=2)
    async with front(world) as door:
        mine = await door.click("u1")
        world.clock.advance(PAST_GRACE)  # nobody consumed: the database was away
        assert (await door.result("u1", ticket=mine.ticket)).status is BuyerStatus.QUEUED
        await world.consume()
        assert (await door.result("u1", ticket=mine.ticket)).order_id == mine.order_id


async def test_a_redis_that_does_not_answer_takes_nobodys_place_away(world: SeckillWorld) -> None:
    await world.open(total=2)
    async with front(world) as door:
        mine = await door.click("u1")
        world.clock.advance(PAST_GRACE)
        users: Any = await world.redis.hgetall(world.keys.users)
        await world.redis.set(world.keys.users, "broken")  # whoever asks for a record gets an error
        with pytest.raises(SeckillNotReady):
            await door.result("u1", ticket=mine.ticket)
        assert await world.states() == {}
        await world.redis.delete(world.keys.users)
        await world.redis.hset(world.keys.users, mapping=users)
        await world.consume()
        assert (await door.result("u1", ticket=mine.ticket)).order_id == mine.order_id


async def test_a_unit_that_went_back_ends_as_2_and_can_be_won_again(world: SeckillWorld) -> None:
    await world.open(total=1)
    async with front(world) as door:
        first = await door.click("u1", "a")
        await world.consume()
        assert await world.give_back(first.order_id)
        await world.relay()
        door.monotonic.now += 10
        assert (await door.result("u1")).status is BuyerStatus.NEITHER
        assert (await door.result("u1", ticket=first.ticket)).status is BuyerStatus.NEITHER
        again = await door.click("u1", "a")
        await world.consume()
        assert again.order_id != first.order_id
        door.monotonic.now += 10
        assert (await door.result("u1")).order_id == again.order_id
        assert (await door.result("u1", ticket=first.ticket)).status is BuyerStatus.NEITHER


async def test_each_of_two_clicks_has_its_own_result(world: SeckillWorld) -> None:
    await world.open(total=5, limit=2)
    async with front(world) as door:
        first = await door.click("u1", "a")
        await world.consume()
        second = await door.click("u1", "b")
        assert (await door.result("u1", ticket=first.ticket)).order_id == first.order_id
        assert (
            await door.result("u1", ticket=second.ticket, wait_seconds=0.05)
        ).status is BuyerStatus.QUEUED
        waiting = asyncio.create_task(door.result("u1", ticket=second.ticket, wait_seconds=30))
        await asyncio.sleep(0)
        await world.consume()
        async with asyncio.timeout(10):
            assert (await waiting).order_id == second.order_id


async def test_the_results_of_a_closed_sale_come_from_its_rows(world: SeckillWorld) -> None:
    await world.open(total=1)
    async with front(world) as door:
        mine = await door.click("u1")
        await world.consume()
        await world.close()
        await door.registry.refresh()
        assert (await door.result("u1")).order_id == mine.order_id
        assert (await door.result("u2"))[:2] == (BuyerStatus.NEITHER, ResultCode.NO_CLICK)
        await world.give_back(mine.order_id)
        assert (await door.result("u1")).status is BuyerStatus.NEITHER
        assert (await door.result("u1", ticket=mine.ticket)).status is BuyerStatus.NEITHER


async def test_a_ticket_is_good_for_its_buyer_and_product_only(world: SeckillWorld) -> None:
    await world.open(total=5)
    async with front(world) as door:
        mine = await door.click("u1")
        with pytest.raises(TicketInvalid):
            await door.result("u2", ticket=mine.ticket)
        with pytest.raises(TicketInvalid):
            await door.result("u1", ticket=mine.ticket, sku_id="1002")
        payload = b"2\x1f" + b"\x1f".join(
            str(field).encode() for field in door.tickets.read(mine.ticket)
        )
        later = (
            urlsafe_b64encode(hmac.digest(SECRET, payload, "sha256") + payload)
            .rstrip(b"=")
            .decode()
        )
        # signed by us, in a later version whose fields may mean something else
        with pytest.raises(TicketInvalid):
            await door.result("u1", ticket=later)
        forged = Tickets(b"f" * 32).sign(door.tickets.read(mine.ticket))
        for wrong in (forged, mine.ticket[:-2], mine.ticket + "A", "", "ü", "=" * 100, "A" * 43):
            if wrong:
                with pytest.raises(TicketInvalid):
                    await door.result("u1", ticket=wrong)


async def test_watching_tells_the_result_now_and_when_it_is_final(world: SeckillWorld) -> None:
    await world.open(total=1)
    async with front(world) as door:
        mine = await door.click("u1")
        heard = []
        async with asyncio.timeout(10):
            async for result in door.results.watch_seckill_result(mine.ticket):
                heard.append(result.status)
                await world.consume()
        assert heard == [BuyerStatus.QUEUED, BuyerStatus.HOLDER]
        assert [
            result.order_id async for result in door.results.watch_seckill_result(mine.ticket)
        ] == [mine.order_id]


async def test_order_rpc_hears_whether_the_order_of_a_ticket_is_coming(world: SeckillWorld) -> None:
    await world.open(total=1)
    async with front(world) as door:
        mine = await door.click("u1")
        ticket, is_coming = await door.results.get_ticket_order(mine.ticket)
        assert (ticket.order_id, ticket.user_id, is_coming) == (mine.order_id, "u1", True)
        await world.consume()
        assert (await door.results.get_ticket_order(mine.ticket))[1]
        await world.give_back(mine.order_id)
        await world.relay()
        assert not (await door.results.get_ticket_order(mine.ticket))[1]


async def test_an_entry_of_a_draw_waits_past_the_grace_until_it_is_drawn(
    world: SeckillWorld,
) -> None:
    await world.open(total=1, mode=AdmissionMode.DRAW)
    async with front(world) as door:
        mine = await door.click("u1")
        world.clock.advance(PAST_GRACE)
        assert (await door.result("u1", ticket=mine.ticket)).status is BuyerStatus.QUEUED


async def test_a_product_without_a_sale_has_no_results(world: SeckillWorld) -> None:
    async with front(world) as door:
        with pytest.raises(ActivityNotFound):
            await door.result()


async def test_a_place_that_a_rebuild_has_still_to_move_is_not_taken_away_however_old_the_click_is(
    world: SeckillWorld,
) -> None:
    await world.open(total=2)
    async with front(world) as door:
        mine = await door.click("u1")
        world.clock.advance(PAST_GRACE)
        await world.loader.hold(world.keys)
        # the holders are there, the line is not moved yet
        await world.publish(await world.fence(), carries=False)
        assert (await door.result("u1", ticket=mine.ticket)).status is BuyerStatus.QUEUED
        assert await world.states() == {}
        assert await world.loader.carry(world.keys, epoch=(await world.row()).epoch) == ""
        await world.consume()
        assert (await door.result("u1", ticket=mine.ticket)).order_id == mine.order_id


async def test_the_grace_of_a_place_that_was_lost_counts_from_the_end_of_the_rebuild(
    world: SeckillWorld,
) -> None:
    await world.open(total=2)
    async with front(world) as door:
        mine = await door.click("u1")
        await world.redis.flushall()
        door.monotonic.now += 10
        await world.publish(await world.fence())
        ended = int(await world.redis.hget(world.keys.meta, "since") or 0)
        world.clock.advance(
            ended / 1000 - world.clock.now().timestamp() + 0.9 * GRACE.total_seconds()
        )
        assert (await door.result("u1", ticket=mine.ticket)).status is BuyerStatus.QUEUED
        world.clock.advance(0.2 * GRACE.total_seconds())
        assert (await door.result("u1", ticket=mine.ticket)).status is BuyerStatus.NEITHER


async def test_who_is_not_known_while_redis_is_rebuilt_is_told_to_come_back(
    world: SeckillWorld,
) -> None:
    await world.open(total=2)
    async with front(world) as door:
        await world.loader.hold(world.keys)
        with pytest.raises(SeckillNotReady) as refused:
            await door.result("u1")
        assert refused.value.retry_after_seconds
        await world.redis.delete(world.keys.meta)
        with pytest.raises(SeckillNotReady):
            await door.result("u1")


async def test_a_holder_hears_of_his_order_however_many_others_he_gave_back(
    world: SeckillWorld,
) -> None:
    await world.open(total=5, limit=2)
    async with front(world) as door:
        held = await world.buy("u1", "keeps")
        for number in range(25):
            world.clock.advance(1)
            assert await world.give_back(await world.buy("u1", f"back-{number}"))
            await world.relay()
        await world.redis.delete(world.keys.view("u1"))  # a day later
        door.monotonic.now += 10
        assert (await door.result("u1")).order_id == held
        await world.close()
        await door.registry.refresh()
        assert (await door.result("u1")).order_id == held
        assert (await door.click("u1", "keeps")).order_id == held


async def test_a_click_that_redis_forgot_finds_its_order_when_it_is_repeated(
    world: SeckillWorld,
) -> None:
    await world.open(total=5)
    async with front(world) as door:
        held = await world.buy("u1", "a")
        await world.redis.delete(world.keys.users)
        door.monotonic.now += 10
        again = await door.click("u1", "a")
        await world.consume()
        assert (await door.result("u1", ticket=again.ticket)).order_id == held
        await world.check_database()


async def test_above_the_number_of_waiters_an_answer_comes_at_once_and_redis_is_not_polled(
    world: SeckillWorld,
) -> None:
    await world.open(total=5)
    async with front(world, waiters_max=0) as door:
        mine = await door.click("u1")
        stats = await world.redis.info("commandstats")
        async with asyncio.timeout(10):
            assert (
                await door.result("u1", ticket=mine.ticket, wait_seconds=3600)
            ).status is BuyerStatus.QUEUED
            watching = door.results.watch_seckill_result(mine.ticket)
            assert (await anext(watching)).status is BuyerStatus.QUEUED
            with pytest.raises(SeckillBusy):
                await anext(watching)
        # two looks
        assert (await world.redis.info("commandstats"))["cmdstat_hget"]["calls"] - stats.get(
            "cmdstat_hget", {"calls": 0}
        )["calls"] == 4


async def test_while_redis_is_away_few_questions_become_queries_and_the_others_hear_when_to_come_back(
    world: SeckillWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.open(total=5)
    async with front(world) as door:
        held = await world.buy("u1", "a")
        mine = await door.click("u2")
        asked, queries = 0, 0
        answer = asyncio.Event()

        async def away(*_: object) -> None:
            nonlocal asked
            asked += 1
            raise RedisTimeout

        real = world.db.read

        async def slow(*arguments: Any, **named: Any) -> Any:
            nonlocal queries
            queries += 1
            await answer.wait()
            return await real(*arguments, **named)

        for name in ("view", "look_up", "is_steady"):
            monkeypatch.setattr(world.views, name, away)
        monkeypatch.setattr(world.db, "read", slow)
        door.monotonic.now += 10
        tasks = [
            asyncio.create_task(door.result(user, ticket=ticket))
            for user, ticket in [("u1", ""), *[("u2", mine.ticket)] * 49]
        ]
        for _ in range(1000):  # every task comes to its query, or to its refusal
            await asyncio.sleep(0)
        assert queries == QUERIES_MAX
        assert sum(task.done() for task in tasks) == 50 - QUERIES_MAX
        answer.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [result.order_id for result in results if not isinstance(result, BaseException)] == [
            held
        ]
        refused = [result for result in results if isinstance(result, BaseException)]
        assert {type(each) for each in refused} == {SeckillNotReady}
        assert all(
            each.retry_after_seconds for each in refused if isinstance(each, SeckillNotReady)
        )
        before = asked
        with pytest.raises(SeckillNotReady):
            await door.result("u2", ticket=mine.ticket)
        assert asked == before, "nobody waits for a Redis that was away a moment ago"

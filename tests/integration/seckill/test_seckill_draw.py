"""Draws lots at the end of an activity: everybody gets an answer, winners become orders, and what
a crash leaves is drawn by the next.
"""

from __future__ import annotations

import pytest
from redis.exceptions import RedisError

from seckill_rpc.domain.activity import Activity, ActivityState, AdmissionMode
from seckill_rpc.domain.order import BuyerStatus
from seckill_rpc.redis.admit import AdmitCode
from seckill_rpc.redis.draw import DrawProgress, draw
from seckill_rpc.redis.keys import keys_of
from seckill_rpc.usecases import draw as draw_usecase
from tests.builders.seckill_order import SeckillOrderWorld, on_one_database


async def entered(world: SeckillOrderWorld, *, total: int, entrants: int) -> Activity:
    """A draw that people have entered."""
    activity = await world.opened(total=total, mode=AdmissionMode.DRAW)
    admissions = await world.clicks(activity, *((f"u{number}", "a") for number in range(entrants)))
    assert {each.code for each in admissions} == {AdmitCode.QUEUED}
    return activity


async def views(
    world: SeckillOrderWorld, activity: Activity, entrants: int
) -> list[BuyerStatus | None]:
    return [await world.view(activity, f"u{number}") for number in range(entrants)]


async def test_nothing_is_drawn_before_the_end_and_everybody_has_an_answer_after_it(
    world: SeckillOrderWorld,
) -> None:
    activity = await entered(world, total=4, entrants=12)
    world.clock.advance(24 * 3600)
    assert await world.app.draws.run_once() == 0, "our own clock decides nothing"
    assert await world.consume() == 0
    shown = await world.verb("get", activity)
    assert shown.live is not None
    assert (shown.live.entries, shown.live.stock) == (12, 4)
    await world.end_window(activity)
    assert await world.app.draws.run_once() == 1
    assert (await world.load(activity)).drawn
    assert await world.app.draws.run_once() == 0
    assert await world.consume() == 4
    await world.relay()
    told = await views(world, activity, 12)
    assert (told.count(BuyerStatus.HOLDER), told.count(BuyerStatus.NEITHER)) == (4, 8)
    assert (await world.load(activity)).sold == 4
    assert await world.problems(activity) == []
    assert (await world.click(activity, "late")).code is AdmitCode.ENDED


async def test_a_close_draws_first(world: SeckillOrderWorld) -> None:
    activity = await entered(world, total=4, entrants=12)
    closing = await world.verb("close", activity)
    assert closing.activity.state is ActivityState.CLOSING, "the winners stand in the line"
    assert (await world.load(activity)).drawn
    await world.settle()
    closed = await world.load(activity)
    assert (closed.state, closed.sold, closed.total) == (ActivityState.CLOSED, 4, 4)
    assert await world.shelf_units() == (96, 4)
    assert await world.problems(activity) == []


@on_one_database
async def test_everybody_wins_where_there_are_enough_units_and_the_rest_goes_back(
    world: SeckillOrderWorld,
) -> None:
    activity = await entered(world, total=10, entrants=3)
    await world.verb("close", activity)
    await world.settle()
    assert await views(world, activity, 3) == [BuyerStatus.HOLDER] * 3
    assert await world.shelf_units() == (97, 3)


@on_one_database
async def test_a_draw_that_dies_between_portions_goes_on(
    world: SeckillOrderWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    activity = await entered(world, total=4, entrants=12)
    await world.end_window(activity)
    portions = 0

    async def three_at_a_time(*args: object, **kwargs: object) -> DrawProgress | None:
        nonlocal portions
        portions += 1
        if portions in {2, 4}:
            raise RedisError("the process died here")
        return await draw(*args, **{**kwargs, "count": 3})  # type: ignore[arg-type]  # as it was called

    monkeypatch.setattr(draw_usecase, "draw", three_at_a_time)
    assert [await world.app.draws.run_once() for _ in range(3)] == [0, 0, 1]
    await world.consume()
    await world.relay()
    told = await views(world, activity, 12)
    assert (told.count(BuyerStatus.HOLDER), told.count(BuyerStatus.NEITHER)) == (4, 8)
    assert await world.problems(activity) == []


@on_one_database
async def test_a_rebuild_keeps_the_entries_and_nothing_is_drawn_meanwhile(
    world: SeckillOrderWorld,
) -> None:
    activity = await entered(world, total=4, entrants=12)
    await world.end_window(activity)
    await world.app.loader.hold(keys_of(activity))
    assert await world.app.draws.run_once() == 0
    assert await world.keep(rounds=8) == 1
    assert await world.app.draws.run_once() == 1
    await world.consume()
    await world.relay()
    assert (await world.load(activity)).sold == 4
    assert await world.problems(activity) == []


@on_one_database
async def test_a_unit_that_comes_back_after_the_draw_goes_to_the_shelf_with_the_close(
    world: SeckillOrderWorld,
) -> None:
    activity = await entered(world, total=2, entrants=5)
    await world.end_window(activity)
    await world.app.draws.run_once()
    await world.consume()
    [first, _] = [row["order_id"] for row in await world.rows() if row["state"] == "LIVE"]
    await world.return_stock(activity, first)
    await world.settle()
    assert (await world.load(activity)).sold == 1
    await world.verb("close", activity)
    await world.relay()
    assert await world.shelf_units() == (99, 1)
    assert await world.problems(activity) == []

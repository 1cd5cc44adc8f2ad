"""Answers that are given together: a lone caller waits for nobody, many go on in one tick, and
whoever goes away takes nobody with him.
"""

from __future__ import annotations

import asyncio

import pytest

from seckill_rpc.usecases.admission.response_batcher import ResponseBatcher

SECONDS = 0.03


async def test_a_lone_caller_does_not_wait() -> None:
    turn = ResponseBatcher(SECONDS).wait()
    with pytest.raises(StopIteration):  # it never gave the event loop a chance
        turn.send(None)


async def test_all_who_come_soon_after_go_on_together_when_the_pause_is_over() -> None:
    loop, pace, went_on = asyncio.get_running_loop(), ResponseBatcher(SECONDS), []
    began = loop.time()
    await pace.wait()

    async def caller() -> None:
        await pace.wait()
        went_on.append(loop.time())

    callers = [asyncio.create_task(caller()) for _ in range(20)]
    await asyncio.wait(callers, return_when=asyncio.FIRST_COMPLETED)
    assert len(went_on) == 20
    assert min(went_on) - began >= SECONDS * 0.9  # the clock of the loop is coarse
    await asyncio.gather(*callers)


async def test_those_of_the_next_pause_wait_for_its_end_too() -> None:
    loop, pace = asyncio.get_running_loop(), ResponseBatcher(SECONDS)
    began = loop.time()
    for _ in range(4):
        await pace.wait()
    assert loop.time() - began >= 3 * SECONDS * 0.9


async def test_a_caller_that_goes_away_takes_only_itself_away() -> None:
    pace = ResponseBatcher(SECONDS)
    await pace.wait()
    callers = [asyncio.create_task(pace.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    callers[0].cancel()
    outcomes = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [
        asyncio.CancelledError,
        type(None),
        type(None),
    ]

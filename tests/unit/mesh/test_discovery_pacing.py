"""The rhythm of discovery: pauses, pace and the loop that holds the task."""

from __future__ import annotations

import asyncio

import pytest

from mesh.backoff import Backoff
from mesh.discovery.consul import next_index
from mesh.discovery.loop import Loop
from mesh.rate_limit import RateLimiter


@pytest.mark.parametrize(
    ("previous", "received", "expected"),
    [
        (0, 7, 7),  # the first answer
        (7, 7, 7),  # nothing happened
        (7, 9, 9),  # something did
        (7, 6, 0),  # the counter was restored or belongs to another cluster
        (7, 0, 0),
        (0, 0, 1),  # 0 would not wait
        (0, -1, 0),
    ],
)
def test_an_index_follows_the_rules_of_blocking_queries(previous, received, expected):
    assert next_index(previous, received) == expected


def test_pauses_double_up_to_their_limit_and_lie_between_half_and_whole():
    for jitter, expected in (
        (lambda: 0.0, [0.5, 1, 2, 2.5, 2.5]),
        (lambda: 1.0, [1, 2, 4, 5, 5]),
    ):
        backoff = Backoff(first_seconds=1, max_seconds=5, jitter=jitter)
        assert [backoff.next_seconds() for _ in range(5)] == expected
        backoff.reset()
        assert backoff.next_seconds() == expected[0]


def test_a_limiter_lets_its_burst_pass_and_then_one_per_interval():
    now, waits = 100.0, []
    limiter = RateLimiter(per_second=1, burst=2, now=lambda: now)
    for _ in range(4):
        assert limiter.take() == 0
        waits.append(limiter.wait_seconds())
        now += waits[-1]
    assert waits == [0, 1, 1, 1]


def test_a_limiter_fills_up_to_its_burst_and_no_further():
    now = 0.0
    limiter = RateLimiter(per_second=1, burst=2, now=lambda: now)
    assert limiter.take() == 0
    now = 3600.0
    assert (limiter.take(), limiter.wait_seconds()) == (0, 0)
    assert (limiter.take(), limiter.wait_seconds()) == (0, 1)
    assert limiter.take() == 1


def test_a_clock_that_is_set_back_empties_a_limiter_for_its_burst_only():
    now = 3600.0
    limiter = RateLimiter(per_second=1, burst=2, now=lambda: now)
    assert limiter.take() == 0
    now = 0.0
    assert limiter.take() == 1
    now = 1.0
    assert limiter.take() == 0


async def test_a_defect_of_a_step_does_not_end_the_loop():
    again, rounds = asyncio.Event(), []

    async def step() -> float:
        rounds.append(1)
        if len(rounds) == 1:
            raise ZeroDivisionError
        again.set()
        return 3600

    loop = Loop(step, name="test", defect_pause_seconds=0)
    loop.start()
    async with asyncio.timeout(5):
        await again.wait()
        await loop.finish()


async def test_finishing_lets_a_step_come_to_its_end_and_begins_no_other():
    begun, release, ended = asyncio.Event(), asyncio.Event(), []

    async def step() -> float:
        begun.set()
        await release.wait()
        ended.append(1)
        return 0

    loop = Loop(step, name="test", defect_pause_seconds=0)
    loop.start()
    await begun.wait()
    finishing = asyncio.create_task(loop.finish())
    release.set()
    await asyncio.wait_for(finishing, 5)
    assert ended == [1]


async def test_stopping_cancels_a_step_and_leaves_no_task():
    begun, before = asyncio.Event(), asyncio.all_tasks()

    async def step() -> float:
        begun.set()
        await asyncio.Event().wait()
        return 0

    loop = Loop(step, name="test", defect_pause_seconds=0)
    loop.start()
    await begun.wait()
    await asyncio.wait_for(loop.stop(), 5)
    assert asyncio.all_tasks() == before


async def test_stopping_ends_a_pause_at_once():
    paused = asyncio.Event()

    async def step() -> float:
        paused.set()
        return 3600

    loop = Loop(step, name="test", defect_pause_seconds=0)
    loop.start()
    await paused.wait()
    await asyncio.wait_for(loop.finish(), 5)


async def test_a_loop_that_was_stopped_does_not_start():
    before = asyncio.all_tasks()
    loop = Loop(asyncio.Event().wait, name="test", defect_pause_seconds=0)
    await loop.stop()
    loop.start()
    assert asyncio.all_tasks() == before

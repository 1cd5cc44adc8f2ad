"""Group commit: work of one key shares a batch, and no caller pays for another one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from mesh.batching import Batching
from mesh.call import calling, current_call, current_trace_id, mark_effects
from mesh.errors import Conflict, DeadlineExceeded, MeshError, Unavailable

PATIENCE = 10


class Runs:
    """What a batch does: waits for its turn, remembers its work, answers with ten times the
    number.
    """

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.begun, self.go = asyncio.Event(), asyncio.Event()
        self.then: Callable[[Sequence[int]], None] = lambda _: None

    async def __call__(self, work: Sequence[int]) -> Sequence[int | MeshError]:
        self.batches.append(list(work))
        self.begun.set()
        await self.go.wait()
        self.then(work)
        return [each * 10 for each in work]


async def under_way(
    batching: Batching[str, int, int], runs: Runs, *work: Coroutine[Any, Any, int]
) -> list[asyncio.Task[int]]:
    """The first piece of work runs, the others wait."""
    tasks = []
    for each in work:
        tasks.append(asyncio.create_task(each))
        await asyncio.wait_for(runs.begun.wait(), PATIENCE)
    await asyncio.sleep(0)
    return tasks


async def test_what_arrives_while_work_is_under_way_shares_the_next_batch() -> None:
    runs = Runs()
    batching: Batching[str, int, int] = Batching(runs, batch_max=3)
    tasks = await under_way(batching, runs, *(batching.do("mug", number) for number in range(6)))
    runs.go.set()
    assert await asyncio.gather(*tasks) == [0, 10, 20, 30, 40, 50]
    assert runs.batches == [[0], [1, 2, 3], [4, 5]]


async def test_work_of_a_caller_that_went_away_before_its_turn_is_not_done() -> None:
    runs = Runs()
    batching: Batching[str, int, int] = Batching(runs, batch_max=10)
    first, gone, stays = await under_way(
        batching, runs, *(batching.do("mug", number) for number in range(3))
    )
    gone.cancel()
    await asyncio.sleep(0)
    runs.go.set()
    assert (await first, await stays) == (0, 20)
    assert runs.batches == [[0], [2]]


async def test_a_caller_whose_deadline_passed_in_the_line_hears_so_and_nothing_is_done() -> None:
    runs = Runs()
    batching: Batching[str, int, int] = Batching(runs, batch_max=10)

    async def impatient() -> int:
        with calling(timeout_seconds=-1):
            return await batching.do("mug", 1)

    first, late = await under_way(batching, runs, batching.do("mug", 0), impatient())
    runs.go.set()
    assert await first == 0
    with pytest.raises(DeadlineExceeded):
        await late
    assert runs.batches == [[0]]


async def test_more_than_may_wait_are_refused_at_once_and_other_keys_are_served() -> None:
    runs = Runs()
    batching: Batching[str, int, int] = Batching(runs, batch_max=10, waiting_max=2)
    tasks = await under_way(batching, runs, *(batching.do("mug", number) for number in range(3)))
    refused = asyncio.create_task(batching.do("mug", 3))
    await asyncio.wait([refused], timeout=PATIENCE)
    assert refused.done(), "it waits"
    with pytest.raises(Unavailable):
        refused.result()
    other = asyncio.create_task(batching.do("pen", 4))
    runs.go.set()
    assert await asyncio.gather(*tasks, other) == [0, 10, 20, 40]


async def test_effects_reach_every_call_of_a_batch_and_no_other_and_the_first_lends_nobody_its_trace() -> (
    None
):
    runs, traces = Runs(), []
    batching: Batching[str, int, int] = Batching(runs, batch_max=10)
    seen: dict[int, bool] = {}

    def then(work: Sequence[int]) -> None:
        traces.append(current_trace_id())
        if work != [0]:
            mark_effects()

    runs.then = then

    async def one(number: int) -> str:
        with calling(timeout_seconds=PATIENCE) as call:
            await batching.do("mug", number)
            assert current_call() is call
            seen[number] = call.effects
            return call.trace.trace_id

    tasks = await under_way(batching, runs, *(one(number) for number in range(3)))  # type: ignore[arg-type]
    runs.go.set()
    own = await asyncio.gather(*tasks)
    assert seen == {0: False, 1: True, 2: True}
    assert traces[0] == own[0]  # alone it runs as its own call
    assert traces[1] not in own


async def test_a_batch_that_fails_is_done_one_by_one_and_each_hears_its_own() -> None:
    done: list[list[int]] = []

    async def run(work: Sequence[int]) -> Sequence[int | MeshError]:
        done.append(list(work))
        await asyncio.sleep(0)
        if 2 in work:
            raise Conflict
        return list(work)

    batching: Batching[str, int, int] = Batching(run, batch_max=10)
    found = await asyncio.gather(
        *(batching.do("mug", number) for number in range(4)), return_exceptions=True
    )
    assert found[:2] == [0, 1]
    assert isinstance(found[2], Conflict)
    assert found[3] == 3
    assert done == [[0, 1, 2, 3], [0], [1], [2], [3]]


async def test_two_with_one_exclusive_key_never_share_a_batch() -> None:
    runs = Runs()
    batching: Batching[str, int, int] = Batching(runs, batch_max=10)
    tasks = await under_way(
        batching,
        runs,
        *(
            batching.do("mug", number, exclusive_key="" if number == 0 else "same")
            for number in range(3)
        ),
    )
    runs.go.set()
    await asyncio.gather(*tasks)
    assert runs.batches == [[0], [1], [2]]

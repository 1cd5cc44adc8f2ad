"""The loop of all workers: on while there is work, pauses that grow with failures and end with a
wake, and an end between two items.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from mesh import worker as worker_module
from mesh.traffic import BUSY_SECONDS, LOOKING, Traffic
from mesh.worker import AT_ONCE, FAILURE_PAUSE_SECONDS_MAX, QUIET_SECONDS, Worker, each

FOREVER = 3600.0


class Pauses:
    """Stands in for the passing of time: a pause is noted and over at once, unless `endless`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds: list[float] = []
        monkeypatch.setattr(worker_module._jitter, "uniform", lambda low, high: 1.0)
        monkeypatch.setattr(worker_module, "together", lambda seconds: seconds)
        self._real = asyncio.timeout
        monkeypatch.setattr(asyncio, "timeout", self._note)

    def _note(self, seconds: float | None) -> asyncio.Timeout:
        assert seconds is not None
        self.seconds.append(seconds)
        return self._real(0)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> Pauses:
    return Pauses(monkeypatch)


def with_outcomes(
    name: str, *outcomes: int | Exception, idle_seconds: float = 1, **choices: Any
) -> tuple[Worker, list[int]]:
    """A worker whose rounds end so, and which is stopped in the round after the last one; and the
    number of its rounds so far.
    """
    left, seen = list(outcomes), [0]

    async def run_once() -> int:
        seen[0] += 1
        if not left:
            worker.stop()
            return 0
        outcome = left.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    worker = Worker(name, run_once, idle_seconds=idle_seconds, **choices)
    return worker, seen


def value(name: str, worker: str) -> float:
    return REGISTRY.get_sample_value(name, {"worker": worker}) or 0


async def test_it_goes_on_at_once_while_there_is_work_and_pauses_when_there_is_none(
    pauses: Pauses,
) -> None:
    worker, seen = with_outcomes("w1", 3, 1, 0, 2, idle_seconds=0.7)
    await worker.run()
    assert (seen[0], pauses.seconds) == (5, [0.7])
    assert value("paymesh_worker_items_total", "w1") == 6


async def test_failures_are_logged_counted_and_followed_by_longer_pauses_up_to_half_a_minute(
    pauses: Pauses,
) -> None:
    worker, _ = with_outcomes("w2", *[RuntimeError("database")] * 8, 0, RuntimeError("again"))
    with capture_logs() as logs:
        await worker.run()
    # a good round forgets them
    assert pauses.seconds == [2, 4, 8, 16, FAILURE_PAUSE_SECONDS_MAX, 30, 30, 30, 1, 2]
    assert [entry["failures"] for entry in logs] == [1, 2, 3, 4, 5, 6, 7, 8, 1]
    assert value("paymesh_worker_failures_total", "w2") == 9


async def test_where_somebody_waits_failures_make_no_long_pause(pauses: Pauses) -> None:
    worker, _ = with_outcomes(
        "w-waited-for", *[RuntimeError("redis")] * 4, idle_seconds=0.1, failure_seconds_max=0.5
    )
    await worker.run()
    assert pauses.seconds == [0.2, 0.4, 0.5, 0.5]


async def test_a_worker_survives_any_number_of_failures(pauses: Pauses) -> None:
    worker, seen = with_outcomes("w3", *[RuntimeError("database")] * 1200)
    with capture_logs():
        await worker.run()
    assert seen[0] == 1201


async def test_a_worker_with_long_pauses_does_not_hurry_because_it_failed(pauses: Pauses) -> None:
    worker, _ = with_outcomes("w4", RuntimeError("database"), idle_seconds=600)
    with capture_logs():
        await worker.run()
    assert pauses.seconds == [600]


async def test_a_wake_ends_the_pause() -> None:
    entered, seen = asyncio.Event(), [0]

    async def run_once() -> int:
        seen[0] += 1
        entered.set()
        return 0

    worker = Worker("w5", run_once, idle_seconds=FOREVER)
    task = asyncio.create_task(worker.run())
    async with asyncio.timeout(5):
        await entered.wait()
        entered.clear()
        worker.wake()
        await entered.wait()
        worker.stop()
        await task
    assert seen[0] == 2


async def test_a_wake_during_a_round_is_not_lost() -> None:
    seen = [0]

    async def run_once() -> int:
        seen[0] += 1
        if seen[0] == 1:
            worker.wake()
        else:
            worker.stop()
        return 0

    worker = Worker("w6", run_once, idle_seconds=FOREVER)
    async with asyncio.timeout(5):
        await worker.run()
    assert seen[0] == 2


async def test_stop_ends_the_loop_after_the_item_and_never_inside_one() -> None:
    inside, go_on, finished = asyncio.Event(), asyncio.Event(), []

    async def run_once() -> int:
        inside.set()
        await go_on.wait()
        finished.append(1)
        return 1

    worker = Worker("w7", run_once, idle_seconds=FOREVER)
    task = asyncio.create_task(worker.run())
    async with asyncio.timeout(5):
        await inside.wait()
        worker.stop()
        await asyncio.sleep(0)
        assert not task.done()
        go_on.set()
        await task
    assert finished == [1]


async def test_a_round_hears_that_it_should_end() -> None:
    ended, under_way = asyncio.Event(), asyncio.Event()

    async def run_once() -> int:
        under_way.set()
        await ended.wait()
        return 1

    worker = Worker("long", run_once, idle_seconds=FOREVER, on_stop=ended.set)
    task = asyncio.create_task(worker.run())
    async with asyncio.timeout(5):
        await under_way.wait()
        worker.stop()
        await task


async def test_stop_during_a_pause_and_before_the_start_end_it_too() -> None:
    worker, _ = with_outcomes("w8", 0, 0, idle_seconds=FOREVER)
    task = asyncio.create_task(worker.run())
    async with asyncio.timeout(5):
        await asyncio.sleep(0)
        worker.stop()
        await task
        await worker.run()


async def test_a_cancelled_worker_ends() -> None:
    async def run_once() -> int:
        await asyncio.Event().wait()
        return 0

    task = asyncio.create_task(Worker("w9", run_once, idle_seconds=FOREVER).run())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_step_that_hangs_or_fails_stands_in_no_other_ones_way() -> None:
    release, done = asyncio.Event(), list[str]()

    async def step(item: str) -> None:
        if item == "hangs":
            await release.wait()
        elif item == "fails":
            raise RuntimeError("on purpose")
        done.append(item)
        if len(done) == 20:  # everybody else
            release.set()

    items = ["hangs", "fails", *(f"item {number}" for number in range(20))]
    with capture_logs() as logs:
        async with asyncio.timeout(10):
            assert (
                await each(items, step, failed="step_failed", about=lambda item: {"item": item})
                == 22
            )
    assert sorted(done) == sorted({*items} - {"fails"})
    assert [(entry["event"], entry["item"]) for entry in logs] == [("step_broke", "fails")]


async def test_eight_steps_are_under_way_at_once_and_no_more() -> None:
    under_way, most = 0, 0

    async def step(_: int) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        for _turn in range(3):
            await asyncio.sleep(0)
        under_way -= 1

    assert await each(range(50), step, failed="step_failed", about=lambda _: {}) == 50
    assert most == AT_ONCE == 8


class Quiet:
    """A worker over traffic whose clock stands still until the test moves it; `due` is what
    `due_in` answers.
    """

    def __init__(self, *outcomes: int, due: float | None = None) -> None:
        self.seconds = 0.0
        self.traffic = Traffic(now=lambda: self.seconds)
        self.due, self.asked, self.rounds = due, 0, 0
        self._outcomes = list(outcomes)
        self._left = len(outcomes)
        self.worker = Worker(
            "quiet", self._run_once, idle_seconds=0.5, traffic=self.traffic, due_in=self._due_in
        )

    def fall_quiet(self) -> None:
        self.seconds += BUSY_SECONDS

    async def _run_once(self) -> int:
        self.rounds += 1
        return self._next()

    async def _due_in(self) -> float | None:
        self.asked += 1
        if self.due is None or self.due > 0:
            self._next()
        return self.due

    def _next(self) -> int:
        if not self._outcomes:
            self.worker.stop()
            return 0
        return self._outcomes.pop(0)


@pytest.mark.parametrize("phase", [0.0, 2.5, 9.99])
def test_long_pauses_of_one_process_end_at_the_same_moments_whenever_they_begin(
    monkeypatch: pytest.MonkeyPatch, phase: float
) -> None:
    monkeypatch.setattr(worker_module, "_PHASE_SECONDS", phase)
    ends = set()
    for begin in (100.0, 101.3, 104.99, 107.0, 109.999, 110.001):
        monkeypatch.setattr(worker_module, "monotonic", lambda begin=begin: begin)
        pause = worker_module.together(QUIET_SECONDS)
        assert QUIET_SECONDS / 2 <= pause <= QUIET_SECONDS * 1.5
        ends.add(round((begin + pause + phase) % QUIET_SECONDS, 6) % QUIET_SECONDS)
        # a timer may end a moment too early or too late: the next pause is a whole one all the same
        for late in (-0.002, 0.0, 0.3):
            monkeypatch.setattr(worker_module, "monotonic", lambda now=begin + pause + late: now)
            assert worker_module.together(QUIET_SECONDS) == pytest.approx(QUIET_SECONDS - late)
    assert ends == {0.0}


async def test_a_worker_without_work_waits_together_and_one_that_fails_alone(
    pauses: Pauses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "together", lambda seconds: seconds + 1)
    worker, _ = with_outcomes("long", 0, RuntimeError("broken"), idle_seconds=QUIET_SECONDS)
    await worker.run()
    assert pauses.seconds == [QUIET_SECONDS + 1, QUIET_SECONDS * 2]


async def test_while_something_changes_a_worker_looks_as_often_as_it_was_told(
    pauses: Pauses,
) -> None:
    quiet = Quiet(0, 0)
    await quiet.worker.run()
    assert (quiet.rounds, quiet.asked, pauses.seconds) == (3, 0, [0.5, 0.5])


async def test_in_a_quiet_process_a_worker_only_asks_now_and_then_whether_something_is_due(
    pauses: Pauses,
) -> None:
    quiet = Quiet(0, 0)
    quiet.fall_quiet()
    await quiet.worker.run()
    assert (quiet.rounds, quiet.asked, pauses.seconds) == (0, 3, [QUIET_SECONDS] * 2)


@pytest.mark.parametrize(("due", "pause"), [(3.0, 3.0), (0.01, 0.5), (3600.0, QUIET_SECONDS)])
async def test_what_is_due_sooner_is_looked_for_when_it_is_due(
    pauses: Pauses, due: float, pause: float
) -> None:
    quiet = Quiet(0, due=due)
    quiet.fall_quiet()
    await quiet.worker.run()
    assert (quiet.rounds, pauses.seconds) == (0, [pause])


async def test_what_is_due_is_done_and_is_traffic(pauses: Pauses) -> None:
    quiet = Quiet(1, 0, due=-1.0)
    quiet.fall_quiet()
    await quiet.worker.run()
    # others follow at the pace of traffic
    assert (quiet.rounds, quiet.asked, pauses.seconds) == (3, 1, [0.5])
    assert not quiet.traffic.is_quiet


async def test_the_first_change_after_a_quiet_time_wakes_and_later_ones_do_not() -> None:
    seconds, woken = [0.0], list[float]()
    traffic = Traffic(now=lambda: seconds[0])
    traffic.on_first_change(lambda: woken.append(seconds[0]))
    for at in (1.0, BUSY_SECONDS + 0.5, 30.0, 31.0):
        seconds[0] = at
        traffic.changed()
    assert woken == [30.0]


async def test_what_a_worker_does_while_it_looks_is_known_as_such() -> None:
    seen = list[bool]()

    async def run_once() -> int:
        await asyncio.create_task(note())
        worker.stop()
        return 0

    async def note() -> None:
        seen.append(LOOKING.get())

    worker = Worker("looks", run_once, idle_seconds=FOREVER)
    await asyncio.create_task(worker.run())
    assert (seen, LOOKING.get()) == ([True], False)

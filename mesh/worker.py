"""Runs background work: one loop for workers, which call a `run_once() -> int` that does the work
that is due, and `each` for steps that run concurrently.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import monotonic
from typing import TypeVar

from prometheus_client import Counter

from mesh.backoff import doubled
from mesh.errors import MeshError
from mesh.failpoints import FailpointRaised
from mesh.logs import get_logger
from mesh.traffic import LOOKING, Traffic

# between two rounds while this process is idle: finds work that other processes have left
QUIET_SECONDS = 10.0
FAILURE_PAUSE_SECONDS_MAX = 30.0  # a database that is back is used again within half a minute

# concurrent steps: a step that gets no answer blocks only one of them
AT_ONCE = 8

Item = TypeVar("Item")

log = get_logger()
_ITEMS = Counter("paymesh_worker_items_total", "Things that a worker did.", ["worker"])
_FAILURES = Counter(
    "paymesh_worker_failures_total", "Rounds of a worker that ended in an exception.", ["worker"]
)
_jitter = random.Random()  # noqa: S311  spreads replicas, protects nothing
# differs by process, so that replicas do not query at the same moment
_PHASE_SECONDS = _jitter.uniform(0, QUIET_SECONDS)


def together(pause: float, every: float = QUIET_SECONDS) -> float:
    """Aligns a pause with the other long pauses of this process; it changes by at most half of
    `every`. A process wakes from sleep with cold caches, so ten rounds at one moment cost little
    more than one."""
    past = (monotonic() + _PHASE_SECONDS + pause) % every
    return pause - past if past < every / 2 else pause - past + every


class Worker:
    """Calls `run_once` again at once while it finds work, else after `idle_seconds` or a call of
    `wake`. Short pauses have jitter, long ones end together with those of the other workers.

    With `traffic` it runs only every QUIET_SECONDS while nothing changes in this process, sooner
    when work is due.
    """

    def __init__(
        self,
        name: str,
        run_once: Callable[[], Awaitable[int]],
        *,
        idle_seconds: float | Callable[[], float],
        traffic: Traffic | None = None,
        due_in: Callable[[], Awaitable[float | None]] | None = None,
        on_stop: Callable[[], None] = lambda: None,
        failure_seconds_max: float = FAILURE_PAUSE_SECONDS_MAX,
    ) -> None:
        """
        Args:
            idle_seconds: pause after a round without work, or a function that returns it. With
                `traffic` it applies while there is traffic.
            due_in: seconds until the next known work is due, None when none is known. It is called
                instead of a round while there is no traffic, so it should cost less.
            on_stop: tells a round that is long, or waits, to end.
            failure_seconds_max: longest pause after failures; short where a caller waits for the
                work.
        """
        self.name = name
        self._run_once = run_once
        self._idle_seconds = idle_seconds
        self._traffic = traffic
        self._due_in = due_in
        self._on_stop = on_stop
        self._failure_seconds_max = failure_seconds_max
        self._wake = asyncio.Event()
        self._stopping = False
        self._items = _ITEMS.labels(name)
        self._failures = _FAILURES.labels(name)
        if traffic is not None:
            traffic.on_first_change(self.wake)

    def wake(self) -> None:
        """Ends the present pause, because there is work."""
        self._wake.set()

    def stop(self) -> None:
        """Ends the loop after the present item, never inside one."""
        self._stopping = True
        self._on_stop()
        self._wake.set()

    async def run(self) -> None:
        """Works until `stop`. A failure is logged and followed by a growing pause; it does not end
        the loop.
        """
        LOOKING.set(True)
        failures = 0
        while not self._stopping:
            self._wake.clear()
            try:
                done, pause = await self._round()
                failures = 0
            except Exception:
                failures += 1
                done, pause = 0, self._idle()
                self._failures.inc()
                log.exception("worker_failed", worker=self.name, failures=failures)
            self._items.inc(done)
            if done == 0 and not self._stopping:
                longest = max(self._failure_seconds_max, pause)
                pause = doubled(pause, failures, max_seconds=longest)
                await self._pause(
                    together(pause)
                    if pause >= QUIET_SECONDS and not failures
                    else pause * _jitter.uniform(0.8, 1.2)
                )

    async def _round(self) -> tuple[int, float]:
        """The number of items done, and the pause to make when it is 0."""
        due = None
        if self._traffic is not None and self._traffic.is_quiet and self._due_in is not None:
            due = await self._due_in()
            if due is None or due > 0:
                return 0, self._quiet_pause(due)
        done = await self._run_once()
        if done and self._traffic is not None:
            self._traffic.found_work()
        return done, self._quiet_pause(due)

    def _quiet_pause(self, due: float | None) -> float:
        if self._traffic is None or not self._traffic.is_quiet:
            return self._idle()
        shortest = self._idle()
        longest = max(QUIET_SECONDS, shortest)
        return longest if due is None else min(longest, max(due, shortest))

    def _idle(self) -> float:
        return self._idle_seconds() if callable(self._idle_seconds) else self._idle_seconds

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass


async def each(
    items: Sequence[Item],
    step: Callable[[Item], Awaitable[object]],
    *,
    failed: str,
    about: Callable[[Item], Mapping[str, str]],
    at_once: int = AT_ONCE,
) -> int:
    """Runs a step for each item, `at_once` at a time, and returns the number of items. A step that
    fails or hangs does not stop the others.

    Args:
        failed: the event that is logged for a step that is refused or gets no answer, with the
            fields that `about` returns for its item. Any other exception is a bug or bad data, and
            raises an alert.
    """
    gate = asyncio.Semaphore(at_once)

    async def take(item: Item) -> None:
        async with gate:
            try:
                await step(item)
            except (MeshError, FailpointRaised):
                log.exception(failed, **about(item))
            except Exception:
                log.exception("step_broke", alert=True, step=failed, **about(item))

    async with asyncio.TaskGroup() as group:
        for item in items:
            group.create_task(take(item))
    return len(items)

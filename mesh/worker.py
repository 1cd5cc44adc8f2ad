"""Background work: a `run_once() -> int` that does what there is to do, one loop that all of them
share, and one way to do many things at once.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import monotonic
from typing import TypeVar

import structlog
from prometheus_client import Counter

from mesh.backoff import doubled
from mesh.errors import MeshError
from mesh.failpoints import FailpointRaised
from mesh.traffic import LOOKING, Traffic

# between two looks while nobody uses this process: finds what others have left
QUIET_SECONDS = 10.0
FAILURE_PAUSE_SECONDS_MAX = 30.0  # a database that comes back is used again within half a minute

# steps under way at once: one that gets no answer holds up only its own place
AT_ONCE = 8

Item = TypeVar("Item")

log = structlog.get_logger()
_ITEMS = Counter("paymesh_worker_items_total", "Things that a worker did.", ["worker"])
_FAILURES = Counter(
    "paymesh_worker_failures_total", "Rounds of a worker that ended in an exception.", ["worker"]
)
_jitter = random.Random()  # noqa: S311  spreads replicas, protects nothing
# of this process: replicas look at different moments
_PHASE_SECONDS = _jitter.uniform(0, QUIET_SECONDS)


def together(pause: float, every: float = QUIET_SECONDS) -> float:
    """A pause that differs from the one asked for by at most half of `every`, and ends when the
    other long pauses of this process end. A process that
    sleeps wakes with cold caches: ten looks at one moment cost it little more than one."""
    past = (monotonic() + _PHASE_SECONDS + pause) % every
    return pause - past if past < every / 2 else pause - past + every


class Worker:
    """Calls `run_once` again at once while it finds work, else after `idle_seconds` or when
    somebody calls `wake`. Short pauses have jitter, long ones end together with those of the
    others.

    With `traffic` it looks every QUIET_SECONDS only while nothing changes in this process, sooner
    when something is due.
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
            idle_seconds: pause after a round without work, or what tells it; while there is
                traffic, where `traffic` is given.
            due_in: seconds until the next work is due as far as anybody can know, None when none
                is. It is asked instead of a round while all is quiet, so it should cost less.
            on_stop: tells a round that is long, or waits, to come to its end.
            failure_seconds_max: longest pause after failures; short where somebody waits for what
                is done.
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
        """There is work: do not wait for the pause to end."""
        self._wake.set()

    def stop(self) -> None:
        """Ends the loop after the present item, never inside one."""
        self._stopping = True
        self._on_stop()
        self._wake.set()

    async def run(self) -> None:
        """Works until `stop`. A failure is logged and followed by a growing pause; it ends
        nothing.
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
        """How much was done, and the pause that follows when it was nothing."""
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
    """Takes a step for each item, `at_once` at a time, and returns how many items there were. A
    step that fails or hangs stands in no other's way.

    Args:
        failed: the event that the log gets of a step that is refused or gets no answer, with what
            `about` says of its item. Any other exception is a fault, of the item or of ours, and
            calls for a person.
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

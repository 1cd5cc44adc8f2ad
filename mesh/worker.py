"""Background work: a `run_once() -> int` that does what there is to do, one loop that all of them share, and one way to do many things at once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import structlog
from prometheus_client import Counter

FAILURE_PAUSE_SECONDS_MAX = 30.0  # a database that comes back is used again within half a minute
_DOUBLINGS_MAX = 16               # far beyond the longest pause; without a limit the number outgrows a float after a night's outage

AT_ONCE = 8                       # steps under way at once: one that gets no answer holds up only its own place

Item = TypeVar("Item")

log = structlog.get_logger()
_ITEMS = Counter("paymesh_worker_items_total", "Things that a worker did.", ["worker"])
_FAILURES = Counter("paymesh_worker_failures_total", "Rounds of a worker that ended in an exception.", ["worker"])
_jitter = random.Random()  # noqa: S311  spreads replicas, protects nothing


class Worker:
    """Calls `run_once` again at once while it finds work, else after `idle_seconds` (with jitter) or when somebody calls `wake`."""

    def __init__(self, name: str, run_once: Callable[[], Awaitable[int]], *, idle_seconds: float) -> None:
        self.name = name
        self._run_once = run_once
        self._idle_seconds = idle_seconds
        self._wake = asyncio.Event()
        self._stopping = False
        self._items = _ITEMS.labels(name)
        self._failures = _FAILURES.labels(name)

    def wake(self) -> None:
        """There is work: do not wait for the pause to end."""
        self._wake.set()

    def stop(self) -> None:
        """Ends the loop after the present item, never inside one."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Works until `stop`. A failure is logged and followed by a growing pause; it ends nothing."""
        failures = 0
        while not self._stopping:
            self._wake.clear()
            try:
                done = await self._run_once()
                failures = 0
            except Exception:
                failures += 1
                done = 0
                self._failures.inc()
                log.exception("worker_failed", worker=self.name, failures=failures)
            self._items.inc(done)
            if done == 0 and not self._stopping:
                longest = max(FAILURE_PAUSE_SECONDS_MAX, self._idle_seconds)
                await self._pause(min(self._idle_seconds * 2 ** min(failures, _DOUBLINGS_MAX), longest))

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds * _jitter.uniform(0.8, 1.2)):
                await self._wake.wait()
        except TimeoutError:
            pass


async def each(items: Sequence[Item], step: Callable[[Item], Awaitable[object]], *, failed: str, about: Callable[[Item], Mapping[str, str]],
               at_once: int = AT_ONCE) -> int:
    """Takes a step for each item, `at_once` at a time, and returns how many items there were. A step that fails or hangs stands in no other's way.

    Args:
        failed: the event that the log gets of a step that ends in an exception, with what `about` says of its item.
    """
    gate = asyncio.Semaphore(at_once)

    async def take(item: Item) -> None:
        async with gate:
            try:
                await step(item)
            except Exception:
                log.exception(failed, **about(item))

    async with asyncio.TaskGroup() as group:
        for item in items:
            group.create_task(take(item))
    return len(items)

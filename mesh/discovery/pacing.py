"""How fast discovery may ask a registry. Keeps true that a registry that fails is asked ever more
seldom, that one that answers at once is not asked in a tight loop, and that a background task is
held by somebody and ends when it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

log = structlog.get_logger(__name__)


class Backoff:
    """Pauses after failures: doubling up to a limit, each between half and the whole of it, so that
    a fleet does not ask in step.
    """

    def __init__(
        self, *, first_seconds: float, max_seconds: float, jitter: Callable[[], float]
    ) -> None:
        """Takes `jitter`, a source of numbers in [0, 1)."""
        self._first_seconds = first_seconds
        self._max_seconds = max_seconds
        self._jitter = jitter
        self._next_seconds = first_seconds

    def next_seconds(self) -> float:
        """The pause after one more failure."""
        whole = self._next_seconds
        self._next_seconds = min(whole * 2, self._max_seconds)
        return whole * (1 + self._jitter()) / 2

    def reset(self) -> None:
        """Forgets the failures."""
        self._next_seconds = self._first_seconds


class TokenBucket:
    """Lets `burst` requests pass at once and afterwards one per `refill_seconds`. Times are seconds
    of a monotonic clock.
    """

    def __init__(self, *, burst: int, refill_seconds: float) -> None:
        self._burst = burst
        self._refill_seconds = refill_seconds
        self._tokens = float(burst)
        self._counted_at = 0.0

    def take(self, now: float) -> None:
        """Takes the token of a request that is sent now."""
        self._count(now)
        self._tokens -= 1

    def wait_seconds(self, now: float) -> float:
        """How long the next request has to wait for its token."""
        self._count(now)
        return max(0.0, (1 - self._tokens) * self._refill_seconds)

    def _count(self, now: float) -> None:
        self._tokens = min(
            float(self._burst), self._tokens + (now - self._counted_at) / self._refill_seconds
        )
        self._counted_at = now


class Loop:
    """Runs a step again and again in one task of its own; the step says how many seconds to wait
    before the next.
    """

    def __init__(
        self, step: Callable[[], Awaitable[float]], *, name: str, defect_pause_seconds: float
    ) -> None:
        self._step = step
        self._name = name
        self._defect_pause_seconds = defect_pause_seconds
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Starts the task in the running event loop; does nothing when it was started or stopped
        before.
        """
        if self._task is None and not self._stopping.is_set():
            self._task = asyncio.get_running_loop().create_task(self._run(), name=self._name)

    async def finish(self) -> None:
        """Lets a running step come to its end, then ends."""
        self._stopping.set()
        if self._task is not None:
            await asyncio.wait({self._task})

    async def stop(self) -> None:
        """Cancels a running step and waits until the task is gone."""
        self._stopping.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                pause_seconds = await self._step()
            # the outermost frame of a task: a defect must neither end discovery nor pass in silence
            except Exception:
                log.exception("discovery_step_failed", task=self._name)
                pause_seconds = self._defect_pause_seconds
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_seconds):
                    await self._stopping.wait()

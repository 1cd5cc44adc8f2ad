"""Runs the loop of a watch or a registrar. Its task is referenced and ends on request. An error in
a step is logged and does not end it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from mesh.logs import get_logger

log = get_logger()


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
        """Lets a running step finish, then ends."""
        self._stopping.set()
        if self._task is not None:
            await asyncio.wait({self._task})

    async def stop(self) -> None:
        """Cancels a running step and waits until the task has ended."""
        self._stopping.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                pause_seconds = await self._step()
            # the outermost frame of a task: an error must be logged and must not end discovery
            except Exception:
                log.exception("discovery_step_failed", task=self._name)
                pause_seconds = self._defect_pause_seconds
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_seconds):
                    await self._stopping.wait()

"""One deadline for all steps of a call to a channel."""

from __future__ import annotations

import asyncio


class TimeLeft:
    """The time that a call still has. Make it when the call begins, in a running loop."""

    def __init__(self, timeout_seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._ends_seconds = self._loop.time() + timeout_seconds

    @property
    def in_seconds(self) -> float:
        """0 or less when it is over."""
        return self._ends_seconds - self._loop.time()

"""Tells whether this process has written anything lately. Workers poll often while it has, and
seldom while the process is idle.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from time import monotonic
from typing import Final

# the follow-up of a change (a delivery, a query, a second attempt) comes within this time, or has a
# due time of its own
BUSY_SECONDS = 5.0

# True in the tasks of workers: a round that finds no work does not count as traffic, although it
# ran transactions.
LOOKING: Final[ContextVar[bool]] = ContextVar("looking", default=False)


class Traffic:
    """Records changes, and wakes the workers at the first change after a quiet time."""

    def __init__(self, *, now: Callable[[], float] = monotonic) -> None:
        """`now`: a monotonic clock in seconds."""
        self._now = now
        # busy at first, so that work left by an earlier process is found at once
        self._busy_until = now() + BUSY_SECONDS
        self._wakes: list[Callable[[], None]] = []

    @property
    def is_quiet(self) -> bool:
        """Whether nothing has changed for BUSY_SECONDS."""
        return self._now() >= self._busy_until

    def on_first_change(self, wake: Callable[[], None]) -> None:
        """Registers `wake` to be called at every change that ends a quiet time."""
        self._wakes.append(wake)

    def changed(self) -> None:
        """Records a write, by this process or at its request. Transactions of a worker that polls
        do not count.
        """
        if LOOKING.get():
            return
        self.found_work()

    def found_work(self) -> None:
        """Records that a worker has done some work."""
        was_quiet = self.is_quiet
        self._busy_until = self._now() + BUSY_SECONDS
        if was_quiet:
            for wake in self._wakes:
                wake()

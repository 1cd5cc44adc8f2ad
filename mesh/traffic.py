"""Whether this process has changed anything lately. Workers look often while it has, and seldom
while nobody uses it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from time import monotonic
from typing import Final

# what follows a change (a delivery, a question, a second attempt) comes within this time, or has a
# due time of its own
BUSY_SECONDS = 5.0

# True in the tasks of workers: a round that finds nothing is no traffic, though it ran
# transactions.
LOOKING: Final[ContextVar[bool]] = ContextVar("looking", default=False)


class Traffic:
    """Notes changes, and wakes who sleeps when the first one comes after a quiet time."""

    def __init__(self, *, now: Callable[[], float] = monotonic) -> None:
        """`now`: seconds of a clock that never goes back."""
        self._now = now
        # what a process before this one has left is found at once
        self._busy_until = now() + BUSY_SECONDS
        self._wakes: list[Callable[[], None]] = []

    @property
    def is_quiet(self) -> bool:
        """Whether nothing has changed for BUSY_SECONDS."""
        return self._now() >= self._busy_until

    def on_first_change(self, wake: Callable[[], None]) -> None:
        """Has `wake` called with every change that ends a quiet time."""
        self._wakes.append(wake)

    def changed(self) -> None:
        """Something was written, here or at our doing. A transaction of a worker that looks for
        work counts for nothing.
        """
        if LOOKING.get():
            return
        self.found_work()

    def found_work(self) -> None:
        """A worker has done something."""
        was_quiet = self.is_quiet
        self._busy_until = self._now() + BUSY_SECONDS
        if was_quiet:
            for wake in self._wakes:
                wake()

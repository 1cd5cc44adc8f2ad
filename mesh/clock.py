"""Defines the clock, which is a constructor argument. Nothing below a `__main__` reads the system
time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

Seconds = float  # a duration, or a moment of a monotonic clock
Monotonic = Callable[[], Seconds]  # a monotonic clock, for durations


class Clock(Protocol):
    """A source of the current time."""

    def now(self) -> datetime:
        """The present moment, aware, in UTC."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """The present moment, aware, in UTC, truncated to milliseconds: the precision of every
        stored time.
        """
        # a third of the cost of truncating datetime.now()
        return datetime.fromtimestamp(time.time_ns() // 1_000_000 / 1000, UTC)


def seconds_until(moment: datetime | None, now: datetime) -> Seconds | None:
    """Seconds until a moment, negative when it has passed; None when there is none."""
    return None if moment is None else (moment - now).total_seconds()

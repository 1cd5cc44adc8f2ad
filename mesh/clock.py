"""Time as a constructor argument. Nothing below a `__main__` asks the system for the time."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

Seconds = float  # a duration, or a moment of a monotonic clock
Monotonic = Callable[[], Seconds]  # a clock that is never set, for durations


class Clock(Protocol):
    """Tells the time."""

    def now(self) -> datetime:
        """The present moment, aware, in UTC."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """The present moment, aware, in UTC, cut to milliseconds: the precision of every stored
        time.
        """
        # a third of what cutting datetime.now() costs
        return datetime.fromtimestamp(time.time_ns() // 1_000_000 / 1000, UTC)


def seconds_until(moment: datetime | None, now: datetime) -> Seconds | None:
    """How far away a moment is, negative when it is over; None when there is none."""
    return None if moment is None else (moment - now).total_seconds()

"""Rate limits: `burst` at once, then one per interval, for each key (the generic cell rate
algorithm). A key costs one number, the time at which its allowance is full again, and the table of
keys is bounded: a stranger with many names costs a fixed amount of memory.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Final

KEYS_MAX: Final = 100_000  # about 20 MB
_ROUNDING_SECONDS: Final = 1e-6  # of sums of clock readings


class RateLimiter:
    """One limit that holds for each key by itself; "" where there is only one."""

    def __init__(
        self,
        *,
        per_second: float,
        burst: int,
        now: Callable[[], float] = monotonic,
        keys_max: int = KEYS_MAX,
    ) -> None:
        """Takes `now`, a clock in seconds.

        Raises:
            ValueError: a limit that lets nothing pass.
        """
        if per_second <= 0 or burst <= 0:
            raise ValueError("a limit needs per_second and burst")
        self._interval_seconds = 1 / per_second
        self._burst_seconds = burst / per_second
        self._now = now
        self._keys_max = keys_max
        self._full_at: dict[str, float] = {}  # the one touched last stands last

    def take(self, key: str = "") -> float:
        """0.0 when one passes now; else the seconds until one does, and nothing is taken."""
        now = self._now()
        full_at = self._full_at_of(key, now)
        self._full_at.pop(key, None)
        missing_seconds = self._missing_seconds(full_at, now)
        self._full_at[key] = full_at if missing_seconds else full_at + self._interval_seconds
        if len(self._full_at) > self._keys_max:
            del self._full_at[next(iter(self._full_at))]
        return missing_seconds

    def wait_seconds(self, key: str = "") -> float:
        """The seconds until one passes; takes nothing."""
        now = self._now()
        return self._missing_seconds(self._full_at_of(key, now), now)

    def _full_at_of(self, key: str, now: float) -> float:
        # A clock that was set back leaves the allowance empty, and not for as long as it was set
        # back.
        return min(max(self._full_at.get(key, now), now), now + self._burst_seconds)

    def _missing_seconds(self, full_at: float, now: float) -> float:
        missing = full_at + self._interval_seconds - now - self._burst_seconds
        return missing if missing > _ROUNDING_SECONDS else 0.0

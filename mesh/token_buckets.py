"""Token buckets per caller, in this process. A bucket is one number, the time at which it would be
full again (the generic cell rate algorithm), and the table of buckets has an end, so that a
stranger with many names costs a fixed amount of memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

BUCKETS_MAX: Final = 100_000  # about 20 MB


class TokenBuckets:
    """One bucket per caller, all of one size."""

    def __init__(
        self,
        *,
        per_second: float,
        burst: int,
        now: Callable[[], float],
        buckets_max: int = BUCKETS_MAX,
    ) -> None:
        """Takes `now`, a monotonic clock in seconds.

        Raises:
            ValueError: a limit that lets nothing pass.
        """
        if per_second <= 0 or burst <= 0:
            raise ValueError("a limit needs per_second and burst")
        self._interval_seconds = 1 / per_second
        self._burst_seconds = burst / per_second
        self._now = now
        self._buckets_max = buckets_max
        self._full_at: dict[str, float] = {}  # the one touched last stands last

    def take(self, caller: str) -> float:
        """Takes one token of a caller's bucket: 0.0, or the seconds until it will have one when it
        is empty.
        """
        now = self._now()
        full_at = max(self._full_at.pop(caller, now), now) + self._interval_seconds
        missing_seconds = full_at - now - self._burst_seconds
        if missing_seconds > 1e-9:  # rounding of the sums above
            self._full_at[caller] = full_at - self._interval_seconds
            return missing_seconds
        self._full_at[caller] = full_at
        if len(self._full_at) > self._buckets_max:
            del self._full_at[next(iter(self._full_at))]
        return 0.0

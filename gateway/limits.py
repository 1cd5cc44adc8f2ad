"""The limits of methods, per caller, in this process."""

from __future__ import annotations

from collections.abc import Callable

from gateway.refusals import RateLimited
from mesh.policies import Limit
from mesh.token_buckets import BUCKETS_MAX, TokenBuckets


class RateLimit:
    """The buckets of one method."""

    def __init__(self, limit: Limit, *, now: Callable[[], float], buckets_max: int = BUCKETS_MAX) -> None:
        """Takes `now`, a monotonic clock in seconds.

        Raises:
            ValueError: a limit that lets nothing pass.
        """
        self._buckets = TokenBuckets(per_second=limit.per_second, burst=limit.burst, now=now, buckets_max=buckets_max)

    def take(self, caller: str) -> None:
        """Takes one token of a caller's bucket.

        Raises:
            RateLimited: it is empty; says when it will have one.
        """
        missing_seconds = self._buckets.take(caller)
        if missing_seconds:
            raise RateLimited(retry_after_seconds=missing_seconds)

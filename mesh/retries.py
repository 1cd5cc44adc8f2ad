"""Which failed calls may be sent again, and how many."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from grpc.aio import AioRpcError

from mesh.errors import DeadlineExceeded, MeshError, RemoteError, UpstreamUnavailable
from mesh.wire_errors import has_details

_UNAVAILABLE = 14


class RetryBudget:
    """Keeps retries a small share of the calls, so that a service in trouble is not hit harder: a
    tenth of recent calls, and ten at any time.
    """

    CALLS_PER_RETRY = 10
    RETRIES_MIN = 10
    RETRIES_MAX = 100
    REFILL_PER_SECOND = 1

    def __init__(self, *, now: Callable[[], float] = monotonic) -> None:
        self._now = now
        self._credit: float = self.RETRIES_MIN * self.CALLS_PER_RETRY  # in calls
        self._at = now()

    def called(self) -> None:
        """A first attempt was made."""
        self._credit = min(self.RETRIES_MAX * self.CALLS_PER_RETRY, self._credit + 1)

    def take(self) -> bool:
        """Whether a further attempt may be made."""
        now = self._now()
        least = self.RETRIES_MIN * self.CALLS_PER_RETRY
        if self._credit < least:
            self._credit = min(
                least,
                self._credit + (now - self._at) * self.REFILL_PER_SECOND * self.CALLS_PER_RETRY,
            )
        self._at = now
        if self._credit < self.CALLS_PER_RETRY:
            return False
        self._credit -= self.CALLS_PER_RETRY
        return True


def is_retryable(error: RemoteError) -> bool:
    """UNAVAILABLE of the sibling itself. What the sibling says about *its* neighbours it has
    repeated by itself; repeating that multiplies.
    """
    return isinstance(error, UpstreamUnavailable) or (
        error.grpc_code == _UNAVAILABLE and error.reason != "NEIGHBOUR_UNAVAILABLE"
    )


def is_healthy_answer(error: MeshError, problem: AioRpcError) -> bool:
    """Whether a failed call shows a replica that works: it answered, and not that its clock is in
    the way.
    """
    if isinstance(error, RemoteError) and error.is_unserved:
        return False
    return not isinstance(error, UpstreamUnavailable | DeadlineExceeded) or has_details(problem)

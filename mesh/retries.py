"""Decides which failed calls may be retried, and limits the number of retries."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from grpc.aio import AioRpcError

from mesh.errors import DeadlineExceeded, MeshError, RemoteError, UpstreamUnavailable
from mesh.wire_errors import has_details

_UNAVAILABLE = 14


class RetryBudget:
    """Limits retries to a tenth of the recent calls, and ten at any time, so that they do not
    overload a failing service.
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
        """Counts the first attempt of a call."""
        self._credit = min(self.RETRIES_MAX * self.CALLS_PER_RETRY, self._credit + 1)

    def take(self) -> bool:
        """Takes the credit for one retry; False when there is not enough."""
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
    """Whether the sibling itself was UNAVAILABLE. It has already retried its own calls to its
    neighbours, so a retry for their failure would multiply the attempts.
    """
    return isinstance(error, UpstreamUnavailable) or (
        error.grpc_code == _UNAVAILABLE and error.reason != "NEIGHBOUR_UNAVAILABLE"
    )


def is_healthy_answer(error: MeshError, problem: AioRpcError) -> bool:
    """Whether a failed call counts as a success of the replica: it answered, with another error
    than clock skew.
    """
    if isinstance(error, RemoteError) and error.is_unserved:
        return False
    return not isinstance(error, UpstreamUnavailable | DeadlineExceeded) or has_details(problem)

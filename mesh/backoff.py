"""Pauses after failures: each twice as long as the one before, up to a limit."""

from __future__ import annotations

from collections.abc import Callable

# far beyond the longest pause; without a limit the number outgrows a float after a night's outage
_DOUBLINGS_MAX = 16


def doubled(first_seconds: float, doublings: int, *, max_seconds: float) -> float:
    """A first pause, doubled so often. The caller adds its jitter."""
    return min(first_seconds * (1 << min(doublings, _DOUBLINGS_MAX)), max_seconds)


class Backoff:
    """The pauses of one caller that fails again and again, each between half and the whole of its
    length, so that a fleet does not ask in step.
    """

    def __init__(
        self, *, first_seconds: float, max_seconds: float, jitter: Callable[[], float]
    ) -> None:
        """Takes `jitter`, a source of numbers in [0, 1)."""
        self._first_seconds = first_seconds
        self._max_seconds = max_seconds
        self._jitter = jitter
        self._failures = 0

    def next_seconds(self) -> float:
        """The pause after one more failure."""
        whole = doubled(self._first_seconds, self._failures, max_seconds=self._max_seconds)
        self._failures += 1
        return whole * (1 + self._jitter()) / 2

    def reset(self) -> None:
        """Forgets the failures."""
        self._failures = 0

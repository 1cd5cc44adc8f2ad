"""Stand-ins for what lives outside our code: time and identifiers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

EPOCH = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)


class FakeClock:
    """A clock that moves only when it is told to."""

    def __init__(self, start: datetime = EPOCH) -> None:
        self._now = start

    def now(self) -> datetime:
        return self._now

    def advance(self, seconds: float) -> None:
        """Moves by a number of seconds; negative moves back."""
        self._now += timedelta(seconds=seconds)

    def set(self, moment: datetime) -> None:
        """Moves to a moment."""
        self._now = moment


class FakeIds:
    """Identifiers of the real form (prefix and 26 characters) that count up, so that a test can
    name them.
    """

    def __init__(self) -> None:
        self._last = 0

    def begin_after(self, number: int) -> None:
        """Counts on from there: what an earlier process made is not made again."""
        self._last = number

    def new(self, prefix: str) -> str:
        self._last += 1
        return f"{prefix}{self._last:026d}"

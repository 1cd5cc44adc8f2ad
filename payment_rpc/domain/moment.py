"""Which times from outside are believed. Everything that reckons with one (a day of a statement, a
grace, a contract's timestamp) stays in range.
"""

from __future__ import annotations

from datetime import UTC, date, datetime

EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
LATEST = datetime(2200, 1, 1, tzinfo=UTC)


def is_believable(moment: datetime) -> bool:
    """False for what no channel means: a clock that was never set, a language's smallest or largest
    date.
    """
    return EARLIEST <= moment < LATEST


def believable(*moments: datetime | None) -> datetime | None:
    """The first of some times that is there and believable."""
    return next(
        (moment for moment in moments if moment is not None and is_believable(moment)), None
    )


def is_believable_day(day: date) -> bool:
    """The same of a day."""
    return EARLIEST.date() < day < LATEST.date()

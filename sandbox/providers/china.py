"""Moments as providers of mainland China write them: in China time, whatever the machine's zone."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Final

# China has one zone and no daylight saving time.
CHINA: Final = timezone(timedelta(hours=8))
_FORMAT = "%Y-%m-%d %H:%M:%S"


def china_text(moment: datetime) -> str:
    """A moment as `2026-11-20 20:00:00`."""
    return moment.astimezone(CHINA).strftime(_FORMAT)


def china_rfc3339(moment: datetime) -> str:
    """A moment as `2026-11-20T20:00:00+08:00`."""
    return moment.astimezone(CHINA).isoformat(timespec="seconds")


def china_moment(text: str) -> datetime:
    """Reads `2026-11-20 20:00:00`, in UTC.

    Raises:
        ValueError: it is none.
    """
    moment = datetime.strptime(text, _FORMAT).replace(tzinfo=CHINA).astimezone(UTC)
    if china_text(moment) != text:
        raise ValueError(f"{text!r} is not written in full")
    return moment


def china_day(moment: datetime) -> date:
    """The day of a moment in China."""
    return moment.astimezone(CHINA).date()


def china_hour(day: date, hour: int) -> datetime:
    """The moment at which an hour of a day begins in China."""
    return datetime(day.year, day.month, day.day, hour, tzinfo=CHINA)


def yuan(fen: int) -> str:
    """An amount of fen as `99.90`; a negative one has a leading minus."""
    return f"{'-' if fen < 0 else ''}{abs(fen) // 100}.{abs(fen) % 100:02}"


def fee_fen(fen: int, *, per_mille: int) -> int:
    """The provider's fee on an amount, rounded half up."""
    return (fen * per_mille + 500) // 1000

"""Columns of the sandbox's file and the values that they hold."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from mesh.money import Money

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def money(minor: int | None, currency: str | None) -> Money | None:
    """An amount of two columns."""
    return None if minor is None or currency is None else Money(minor, currency)


def ms(moment: datetime) -> int:
    """Milliseconds since 1970."""
    return (moment - _EPOCH) // _MILLISECOND


def ms_or_none(moment: datetime | None) -> int | None:
    """Milliseconds since 1970, None for no time."""
    return None if moment is None else ms(moment)


def time(milliseconds: int) -> datetime:
    """The time of so many milliseconds since 1970."""
    return _EPOCH + milliseconds * _MILLISECOND


def time_or_none(milliseconds: int | None) -> datetime | None:
    """The time of a column that may be empty."""
    return None if milliseconds is None else time(milliseconds)

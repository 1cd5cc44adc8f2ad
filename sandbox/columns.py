"""Converts between columns of the sandbox's file and their values."""

from __future__ import annotations

from datetime import datetime

from mesh.money import Money
from mesh.times import from_milliseconds, milliseconds


def money(minor: int | None, currency: str | None) -> Money | None:
    """An amount of two columns."""
    return None if minor is None or currency is None else Money(minor, currency)


def ms_or_none(moment: datetime | None) -> int | None:
    """Milliseconds since 1970, None for no time."""
    return None if moment is None else milliseconds(moment)


def time_or_none(since_epoch: int | None) -> datetime | None:
    """The time of a column that may be empty."""
    return None if since_epoch is None else from_milliseconds(since_epoch)

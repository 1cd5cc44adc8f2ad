"""Moments as numbers, as text and as protobuf's Timestamp. Every moment is an aware UTC datetime,
kept in whole milliseconds.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from mesh.errors import InvalidArgument

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)


def milliseconds(moment: datetime) -> int:
    """Whole milliseconds since 1970."""
    return (moment - EPOCH) // MILLISECOND


def from_milliseconds(since_epoch: int) -> datetime:
    """The moment so many milliseconds after 1970."""
    return EPOCH + since_epoch * MILLISECOND


def rfc3339(moment: datetime) -> str:
    """A moment as JSON writes a Timestamp: UTC, milliseconds, Z."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def timestamp(moment: datetime | None) -> Timestamp | None:
    """A moment as the contract writes it; None stays unset."""
    if moment is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def moment_of(request: Any, field: str) -> datetime | None:
    """A Timestamp of a request, None when it has none.

    Raises:
        InvalidArgument: no time that we can keep; names the field.
    """
    if not request.HasField(field):
        return None
    try:
        found: datetime = getattr(request, field).ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise InvalidArgument.of(field, "expected a time between the years 1 and 9999") from None
    return found

"""Held money: who captures it, and until when we keep it held."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum

# Held money is let go this long before the channel would do so by itself: its clock is not ours.
HOLD_GRACE = timedelta(minutes=10)
# How long money counts as held at a channel that does not say until when. Asking for longer than
# the channel holds it costs nothing: the channel then says that it is closed.
HOLD_UNSAID = timedelta(days=7)


class CaptureMode(StrEnum):
    """Whether a payment takes its money at once, or holds it for a later capture of the shop's."""

    AUTOMATIC = "AUTOMATIC"
    MANUAL = "MANUAL"


def let_go_at(held_until: datetime | None, *, at: datetime) -> datetime:
    """When money that the channel holds until then is let go; None where it does not say. A hold
    shorter than the grace is used to its end.
    """
    ends_at = held_until or at + HOLD_UNSAID
    early = ends_at - HOLD_GRACE
    return early if early > at else ends_at

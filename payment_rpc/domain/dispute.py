"""What a channel says about a dispute: a buyer asks his bank for the money back."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from mesh.money import Money


class DisputeStatus(StrEnum):
    """How far a dispute is."""

    OPENED = "OPENED"  # the bank took the money, or will; evidence may be given
    WON = "WON"  # the money came back
    LOST = "LOST"  # the buyer keeps it
    CLOSED = "CLOSED"  # it ended without moving money


@dataclass(frozen=True, slots=True, kw_only=True)
class DisputeFact:
    """What a channel says about one dispute. The channel adapters make it.

    Attributes:
        attempt_id: ours; "" where the channel names its own id only.
        ref: the channel's id of the attempt.
        dispute_ref: the channel's id of the dispute.
        fee: what the channel keeps for it; None when it does not say.
        reason: in the channel's words.
        evidence_due: until when evidence is taken.
    """

    attempt_id: str
    dispute_ref: str
    status: DisputeStatus
    amount: Money
    ref: str = ""
    fee: Money | None = None
    reason: str = ""
    evidence_due: datetime | None = None
    occurred_at: datetime | None = None

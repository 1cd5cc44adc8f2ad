"""What the background did about a payment or a refund, and what came of it: the diary of the scan
(t_pay_reconcile_audit of source 001).

NOTIFY does not stand for a delivery. In source 001 the scan found an outcome that nobody had heard
of and published it once more. Here an outcome and
the message that tells order_rpc of it are one transaction, so there is no outcome without a
message, and nothing to publish again: NOTIFY says that what the scan found changed something and
that the message for order_rpc, whose event id is its `reason`, was written in that same
transaction. Its delivery, and how often it took, is told by the outbox.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

ORDER = "order_rpc"


class ScanAction(StrEnum):
    """What the scan can do."""

    QUERY = "QUERY"  # the channel was asked what became of an attempt or a refund
    # a payment's deadline was over, or its attempt was closed, at the channel or because the
    # channel cannot
    CLOSE = "CLOSE"
    SUBMIT = "SUBMIT"  # a refund was sent, for the first time or once more, under its id
    NOTIFY = "NOTIFY"  # order_rpc will be told what was found


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanStep:
    """One action, as it went.

    Attributes:
        result: the channel's status, "" where no channel was asked; reason: the channel's code, or
            ours.
        began_at, ended_at: of the call of the channel.
        state_before: where the action itself has written a state before its call; "" for the state
            that its effect was written on.
    """

    action: ScanAction
    result: str = ""
    reason: str = ""
    began_at: datetime
    ended_at: datetime
    state_before: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanSubject:
    """What it was about. States are the refund's where there is a refund, else the payment's."""

    payment_id: str
    attempt_id: str = ""
    refund_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanEntry:
    """One line of the diary."""

    action: ScanAction
    subject: ScanSubject
    state_before: str
    state_after: str
    result: str
    reason: str
    duration: timedelta
    at: datetime


def entries(
    steps: Sequence[ScanStep], subject: ScanSubject, *, before: str, after: str, event_id: str = ""
) -> list[ScanEntry]:
    """The lines of one round about one thing. Its last step is the one whose answer was applied and
    made `after` of `before`; those in front of it led to it. `event_id` is that of the message that
    tells order_rpc of the change, "" for none."""
    written = [
        ScanEntry(
            action=step.action,
            subject=subject,
            state_before=step.state_before or before,
            state_after=after if step is steps[-1] else step.state_before or before,
            result=step.result,
            reason=step.reason,
            duration=step.ended_at - step.began_at,
            at=step.ended_at,
        )
        for step in steps
    ]
    if written and event_id:
        written.append(
            ScanEntry(
                action=ScanAction.NOTIFY,
                subject=subject,
                state_before=before,
                state_after=after,
                result=ORDER,
                reason=event_id,
                duration=timedelta(0),
                at=steps[-1].ended_at,
            )
        )
    return written

"""The log of the background scan: what it did about a payment or a refund, and the result
(t_pay_reconcile_audit of source 001).

NOTIFY is not a delivery. In source 001 the scan found an outcome that had not been published, and
published it again. Here an outcome and its message for order_rpc are written in one transaction, so
there is nothing to publish again. NOTIFY says that the scan changed something and wrote that
message, whose event id is the `reason`. The outbox knows whether it was delivered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

ORDER = "order_rpc"


class ScanAction(StrEnum):
    """What the scan can do."""

    QUERY = "QUERY"  # the channel was queried about an attempt or a refund
    # a payment's deadline was over, or its attempt was closed, at the channel or because the
    # channel cannot
    CLOSE = "CLOSE"
    ADVANCE = "ADVANCE"  # the step of an attempt that is ours was taken, e.g. a capture
    SUBMIT = "SUBMIT"  # a refund was sent, for the first time or once more, under its id
    NOTIFY = "NOTIFY"  # a message for order_rpc was written


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanStep:
    """One action and its result.

    Attributes:
        result: the channel's status, "" where no channel was called; reason: the channel's code, or
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
    """What an action was about. States are the refund's where there is a refund, else the
    payment's.
    """

    payment_id: str
    attempt_id: str = ""
    refund_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanEntry:
    """One line of the log."""

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
    """The lines of one round of the scan. The answer of the last step was applied and made `after`
    of `before`. `event_id` is that of the message for order_rpc, "" for none.
    """
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

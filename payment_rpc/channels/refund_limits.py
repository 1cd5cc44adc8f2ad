"""What a channel gives back of one capture, and when. What it would never take is refused before
anything is reserved. What it would not take yet waits.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from mesh.errors import InvalidArgument
from mesh.money import Money
from mesh.times import rfc3339
from payment_rpc.channels.capabilities import Capabilities
from payment_rpc.domain.attempt import Attempt
from payment_rpc.domain.errors import RefundLimitReached, RefundNotAllowed
from payment_rpc.domain.refund import OPEN, Refund, RefundState

_NEVER_SENT: Final = frozenset({RefundState.CREATED, RefundState.CANCELED})
# What the channel refused may not count there: a shop is never refused what the channel would take.
_NOT_COUNTED: Final = frozenset({RefundState.FAILED, RefundState.CANCELED})


def require_refundable(
    capabilities: Capabilities,
    capture: Attempt,
    amount: Money,
    *,
    refunds: Sequence[Refund],
    at: datetime,
) -> None:
    """Refuses what the channel would never give back.

    Args:
        capture: whose money goes back.
        refunds: those of its payment so far.

    Raises:
        InvalidArgument: a part of a capture, where only the whole goes back.
        RefundNotAllowed: the channel's time for refunds is over.
        RefundLimitReached: the capture has as many refunds as the channel takes.
    """
    captured = capture.captured or capture.amount
    if not capabilities.partial_refunds and amount != captured:
        raise InvalidArgument.of("amount", f"the channel gives back {captured}, and no part of it")
    window = capabilities.refund_window
    # not known for captures of long ago: then the channel decides
    if window is not None and capture.captured_at is not None:
        ends_at = capture.captured_at + window
        if at > ends_at:
            raise RefundNotAllowed(
                f"The channel gives money back for {window.days} days, of this payment until "
                f"{rfc3339(ends_at)}.",
                payment_id=capture.payment_id,
                refundable_until=rfc3339(ends_at),
            )
    most = capabilities.refunds_max
    counted = [one for one in _of(capture.attempt_id, refunds) if one.state not in _NOT_COUNTED]
    if most is not None and len(counted) >= most:
        raise RefundLimitReached(
            f"The channel takes {most} refunds of a payment at most.",
            payment_id=capture.payment_id,
            limit=most,
        )


def wait_until(
    capabilities: Capabilities, refund: Refund, *, refunds: Sequence[Refund], at: datetime
) -> datetime | None:
    """When the channel takes a refund, after the others of its capture; None: now."""
    last_calls = [
        # a call without a result may go on until its lease is over
        other.lease_until if other.state in OPEN else other.updated_at
        for other in _of(refund.attempt_id, refunds)
        if other.refund_id != refund.refund_id and other.state not in _NEVER_SENT
    ]
    if not (capabilities.refund_spacing and last_calls):
        return None
    free_at = max(last_calls) + capabilities.refund_spacing
    return free_at if free_at > at else None


def _of(attempt_id: str, refunds: Sequence[Refund]) -> list[Refund]:
    return [refund for refund in refunds if refund.attempt_id == attempt_id]

"""Refund facts, and `apply_refund_fact`: the one place where a fact changes a refund and, with it,
the amounts of its payment.

Pure, like `apply_channel_fact`. The same fact again changes nothing. Money that left although its
reservation was released is booked to `loss` when another refund was reserved in its place, or when
an operator made the capture the payment's own meanwhile (`is_captured_attempt`). A bounce whose
success was never reported is applied as two facts (`steps_of`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import assert_never

from mesh.money import Money
from payment_rpc.domain import ledger
from payment_rpc.domain.ledger import LedgerTransaction
from payment_rpc.domain.payment import Failure, Payment
from payment_rpc.domain.refund import OPEN, Refund, RefundState, refundable, settled


class RefundChannelStatus(StrEnum):
    """What a channel says, or fails to say, about a refund."""

    SUCCESS = "SUCCESS"  # the money left
    FAILED = "FAILED"  # finally no; nothing left
    PENDING = "PENDING"  # accepted, decided later
    REVERSED = "REVERSED"  # it left and came back
    NOT_FOUND = "NOT_FOUND"  # the channel does not know the refund (yet)
    UNKNOWN = "UNKNOWN"  # no answer that can be believed
    NOT_SENT = "NOT_SENT"  # this call did not reach the channel


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundFact:
    """What a channel says about one refund, under our own id. The channel adapters make it.

    Attributes:
        reason: why no money left, or why it came back, as a reason of our catalogue (REFUND_FAILED,
            REFUND_NOT_ALLOWED, REFUND_EXCEEDS_REFUNDABLE, CURRENCY_MISMATCH, REFUND_REVERSED), or
            "".
        message: for people.
        occurred_at: when it became what it is, by the channel's clock.
        fee_returned: what came back of the fee with it; None when the channel does not say.
    """

    refund_id: str
    status: RefundChannelStatus
    channel_refund_no: str = ""
    reason: str = ""
    message: str = ""
    occurred_at: datetime | None = None
    fee_returned: Money | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundDecision:
    """What the rows become. `review_reason` opens a manual review; "" for none."""

    payment: Payment
    refund: Refund
    booking: LedgerTransaction | None = None
    fee_booking: LedgerTransaction | None = None
    review_reason: str = ""

    def changes(self, refund: Refund) -> bool:
        """False when the fact changed nothing."""
        return self.refund is not refund


def steps_of(refund: Refund, fact: RefundFact) -> tuple[RefundFact, ...]:
    """The facts that are applied one after another, in one transaction, for one fact of a channel.

    A refund that bounced had left. Where its success was never reported, the success is applied
    first. That holds for a refund in FAILED too: the bounce is evidence that the money was out for
    a while, against what the channel said before, and that it is here again. The books then show
    both ways, no amount changes, and a manual review is opened for the channel that contradicts
    itself.
    """
    was_sent = refund.state in OPEN and refund.state is not RefundState.CREATED
    if fact.status is RefundChannelStatus.REVERSED and (
        was_sent or refund.state is RefundState.FAILED
    ):
        return replace(fact, status=RefundChannelStatus.SUCCESS), fact
    return (fact,)


def apply_refund_fact(
    payment: Payment, refund: Refund, fact: RefundFact, *, is_captured_attempt: bool, at: datetime
) -> RefundDecision:
    """What one fact, see `steps_of`, makes of a refund and its payment. `is_captured_attempt`: the
    capture that the refund gives back is the money of the payment. A refund of a duplicate capture
    takes it to be nobody's.
    """
    same = RefundDecision(payment=payment, refund=refund)
    match fact.status:
        case RefundChannelStatus.SUCCESS:
            if refund.state in OPEN and refund.state is not RefundState.CREATED:
                return _succeeded(payment, refund, fact, at=at)
            return (
                _left_after_all(
                    payment, refund, fact, is_captured_attempt=is_captured_attempt, at=at
                )
                if refund.state is RefundState.FAILED
                else same
            )
        case RefundChannelStatus.FAILED:
            return (
                _failed(payment, refund, fact, at=at)
                if refund.state in OPEN and refund.state is not RefundState.CREATED
                else same
            )
        case RefundChannelStatus.PENDING:
            if refund.state not in (RefundState.SUBMITTED, RefundState.UNKNOWN):
                return same
            pending = replace(
                refund.to(RefundState.PENDING, at=at),
                channel_refund_no=fact.channel_refund_no or refund.channel_refund_no,
            )
            return RefundDecision(payment=payment, refund=pending)
        case (
            RefundChannelStatus.UNKNOWN
            | RefundChannelStatus.NOT_FOUND
            | RefundChannelStatus.NOT_SENT
        ):
            return (
                RefundDecision(payment=payment, refund=refund.to(RefundState.UNKNOWN, at=at))
                if refund.state is RefundState.SUBMITTED
                else same
            )
        case RefundChannelStatus.REVERSED:
            return (
                _bounced(payment, refund, fact, at=at)
                if refund.state is RefundState.SUCCESS
                else same
            )
        case _:
            assert_never(fact.status)


def _succeeded(
    payment: Payment, refund: Refund, fact: RefundFact, *, at: datetime
) -> RefundDecision:
    done = _gone(refund, fact, at=at)
    booking = ledger.refunded(
        refund_id=refund.refund_id, payment=payment, channel=refund.channel, amount=refund.amount
    )
    fee_booking = None
    if fact.fee_returned is not None and fact.fee_returned.minor > 0:
        fee_booking = ledger.fee_returned(
            refund_id=refund.refund_id,
            payment_id=payment.payment_id,
            channel=refund.channel,
            fee=fact.fee_returned,
        )
    if refund.stands_alone:
        return RefundDecision(
            payment=payment, refund=done, booking=booking, fee_booking=fee_booking
        )
    moved = replace(
        payment,
        refund_reserved=payment.refund_reserved - refund.amount,
        refunded=payment.refunded + refund.amount,
        version=payment.version + 1,
        updated_at=at,
    )
    return RefundDecision(
        payment=settled(moved), refund=done, booking=booking, fee_booking=fee_booking
    )


def _failed(payment: Payment, refund: Refund, fact: RefundFact, *, at: datetime) -> RefundDecision:
    failed = replace(
        refund.to(RefundState.FAILED, at=at),
        failure=Failure(reason=fact.reason or "REFUND_FAILED", message=fact.message),
        needs_attention=refund.automatic,
    )
    booking = ledger.refund_released(
        refund_id=refund.refund_id,
        payment_id=payment.payment_id,
        channel=refund.channel,
        held_by=ledger.holder(payment, stands_alone=refund.stands_alone, channel=refund.channel),
        amount=refund.amount,
    )
    moved = (
        payment
        if refund.stands_alone
        else replace(
            payment,
            refund_reserved=payment.refund_reserved - refund.amount,
            version=payment.version + 1,
            updated_at=at,
        )
    )
    return RefundDecision(
        payment=moved,
        refund=failed,
        booking=booking,
        review_reason="REFUND_FAILED" if refund.automatic else "",
    )


def _left_after_all(
    payment: Payment, refund: Refund, fact: RefundFact, *, is_captured_attempt: bool, at: datetime
) -> RefundDecision:
    """Money left for a refund in FAILED. Where its capture is the payment's by now, the order has
    that money: what left is our loss, and a manual review decides what becomes of the order.
    """
    done = _gone(refund, fact, at=at)
    fits = not is_captured_attempt if refund.stands_alone else refundable(payment) >= refund.amount
    source = (
        ledger.holder(payment, stands_alone=refund.stands_alone, channel=refund.channel)
        if fits
        else ledger.LOSS
    )
    booking = ledger.refunded_directly(
        refund_id=refund.refund_id,
        payment_id=payment.payment_id,
        channel=refund.channel,
        source=source,
        amount=refund.amount,
    )
    if not fits:
        lost = replace(done, above_cap=True, needs_attention=True)
        return RefundDecision(
            payment=payment, refund=lost, booking=booking, review_reason="REFUNDED_ABOVE_CAP"
        )
    if refund.stands_alone:
        return RefundDecision(payment=payment, refund=done, booking=booking)
    moved = replace(
        payment,
        refunded=payment.refunded + refund.amount,
        version=payment.version + 1,
        updated_at=at,
    )
    return RefundDecision(payment=settled(moved), refund=done, booking=booking)


def _bounced(payment: Payment, refund: Refund, fact: RefundFact, *, at: datetime) -> RefundDecision:
    held_by = (
        ledger.LOSS
        if refund.above_cap
        else ledger.holder(payment, stands_alone=refund.stands_alone, channel=refund.channel)
    )
    back = replace(
        refund.to(RefundState.REVERSED, at=at),
        failure=Failure(reason=fact.reason or "REFUND_REVERSED", message=fact.message),
        needs_attention=True,
    )
    booking = ledger.refund_bounced(
        refund_id=refund.refund_id,
        payment_id=payment.payment_id,
        channel=refund.channel,
        held_by=held_by,
        amount=refund.amount,
    )
    counted = not refund.stands_alone and not refund.above_cap
    moved = payment
    if counted:
        moved = replace(
            payment,
            refunded=payment.refunded - refund.amount,
            version=payment.version + 1,
            updated_at=at,
        )
    return RefundDecision(
        payment=moved, refund=back, booking=booking, review_reason="REFUND_REVERSED"
    )


def _gone(refund: Refund, fact: RefundFact, *, at: datetime) -> Refund:
    return replace(
        refund.to(RefundState.SUCCESS, at=at),
        channel_refund_no=fact.channel_refund_no or refund.channel_refund_no,
        refunded_at=fact.occurred_at or at,
        failure=None,
    )

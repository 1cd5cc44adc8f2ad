"""`apply_refund_fact`: the one place where news of a channel changes a refund and, with it, the
amounts of its payment.

Pure, like `apply_channel_fact`. The same fact again changes nothing. Money that left although the
reservation was free again is booked to `loss` when another refund took its place, or when an
operator made the capture the payment's own meanwhile (`is_kept`). A bounce is two pieces of news
where nobody heard of the first one (`steps_of`).
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


class RefundFactKind(StrEnum):
    """What a channel can tell of a refund."""

    SUCCESS = "SUCCESS"  # the money left
    FAILED = "FAILED"  # no, finally
    PENDING = "PENDING"  # decided later
    UNKNOWN = "UNKNOWN"  # no readable answer
    REVERSED = "REVERSED"  # it came back


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundFact:
    """One piece of news about a refund."""

    kind: RefundFactKind
    channel_refund_no: str = ""
    occurred_at: datetime | None = None
    reason: str = ""
    message: str = ""
    fee_returned: Money | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundDecision:
    """What the rows become. `attention` names what a person must look at, "" for nothing."""

    payment: Payment
    refund: Refund
    booking: LedgerTransaction | None = None
    fee_booking: LedgerTransaction | None = None
    attention: str = ""

    def changes(self, refund: Refund) -> bool:
        """False when everything was so before."""
        return self.refund is not refund


def steps_of(refund: Refund, fact: RefundFact) -> tuple[RefundFact, ...]:
    """A fact as the pieces of news that are applied one after another, in one transaction.

    What bounced has left: where its success was never heard, it is told first. That is so too for a
    refund that we hold for FAILED. The bounce is
    evidence that the money was out for a while, against what the channel said before, and it is
    here again: the books show both ways, no amount changes, and a person looks at the channel that
    contradicts itself.
    """
    was_sent = refund.state in OPEN and refund.state is not RefundState.CREATED
    if fact.kind is RefundFactKind.REVERSED and (was_sent or refund.state is RefundState.FAILED):
        return replace(fact, kind=RefundFactKind.SUCCESS), fact
    return (fact,)


def apply_refund_fact(
    payment: Payment, refund: Refund, fact: RefundFact, *, is_kept: bool, at: datetime
) -> RefundDecision:
    """What one piece of news, see `steps_of`, makes of a refund and its payment. `is_kept`: the
    capture that it gives back is the payment's money and not, as a refund that stands alone takes
    it to be, nobody's."""
    same = RefundDecision(payment=payment, refund=refund)
    match fact.kind:
        case RefundFactKind.SUCCESS:
            if refund.state in OPEN and refund.state is not RefundState.CREATED:
                return _succeeded(payment, refund, fact, at=at)
            return (
                _left_after_all(payment, refund, fact, is_kept=is_kept, at=at)
                if refund.state is RefundState.FAILED
                else same
            )
        case RefundFactKind.FAILED:
            return (
                _failed(payment, refund, fact, at=at)
                if refund.state in OPEN and refund.state is not RefundState.CREATED
                else same
            )
        case RefundFactKind.PENDING:
            if refund.state not in (RefundState.SUBMITTED, RefundState.UNKNOWN):
                return same
            pending = replace(
                refund.to(RefundState.PENDING, at=at),
                channel_refund_no=fact.channel_refund_no or refund.channel_refund_no,
            )
            return RefundDecision(payment=payment, refund=pending)
        case RefundFactKind.UNKNOWN:
            return (
                RefundDecision(payment=payment, refund=refund.to(RefundState.UNKNOWN, at=at))
                if refund.state is RefundState.SUBMITTED
                else same
            )
        case RefundFactKind.REVERSED:
            return (
                _bounced(payment, refund, fact, at=at)
                if refund.state is RefundState.SUCCESS
                else same
            )
        case _:
            assert_never(fact.kind)


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
        attention="REFUND_FAILED" if refund.automatic else "",
    )


def _left_after_all(
    payment: Payment, refund: Refund, fact: RefundFact, *, is_kept: bool, at: datetime
) -> RefundDecision:
    """Evidence of money out for a refund that we held for failed. Where its capture is the
    payment's by now, the order has that money: what left is ours to miss, and a person decides what
    becomes of the order."""
    done = _gone(refund, fact, at=at)
    fits = not is_kept if refund.stands_alone else refundable(payment) >= refund.amount
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
            payment=payment, refund=lost, booking=booking, attention="REFUNDED_ABOVE_CAP"
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
    return RefundDecision(payment=moved, refund=back, booking=booking, attention="REFUND_REVERSED")


def _gone(refund: Refund, fact: RefundFact, *, at: datetime) -> Refund:
    return replace(
        refund.to(RefundState.SUCCESS, at=at),
        channel_refund_no=fact.channel_refund_no or refund.channel_refund_no,
        refunded_at=fact.occurred_at or at,
        failure=None,
    )

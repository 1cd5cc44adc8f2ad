"""Held money that is taken in several parts: what a channel says of it, in all, against what we
know. A channel tells totals, so a part that is told again, late or out of order counts once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from mesh.errors import Outcome
from mesh.money import Money
from payment_rpc.domain import ledger
from payment_rpc.domain.attempt import Attempt
from payment_rpc.domain.decision import Decision
from payment_rpc.domain.ledger import LedgerTransaction
from payment_rpc.domain.payment import Payment, PaymentState

CAPTURE_CONTRADICTED = "CAPTURE_CONTRADICTED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What the channel says that it took of a hold in all, under which number, when, and the fee of
    all that.
    """

    total: Money
    trade_no: str
    at: datetime | None = None
    fee: Money | None = None


def part_taken(payment: Payment, attempt: Attempt, taken: Taken, *, at: datetime) -> Decision:
    """A part is taken and the rest is still held. What we did not intend counts for nothing, and a
    person looks at it. A rest that we did not want to keep is let go.
    """
    if not _is_news(attempt, taken):
        return Decision(payment=payment, attempt=attempt)
    if taken.total != attempt.intended:
        return Decision(payment=payment, attempt=attempt, review_reason=CAPTURE_CONTRADICTED)
    part = taken.total - attempt.taken
    after = replace(
        payment.touched(at=at),
        captured=payment.captured + part,
        channel_trade_no=payment.channel_trade_no or taken.trade_no,
    )
    after, fee_booking = _with_fee(after, attempt, taken)
    known = attempt.take_part(taken.total, trade_no=taken.trade_no, moved_at=taken.at or at, at=at)
    if payment.state is PaymentState.AUTHORIZED and not attempt.capture_keeps_rest:
        after = after.begin_closing(at=at)
    return Decision(
        payment=after,
        attempt=known.query_now(at=at) if after.state is PaymentState.CLOSING else known,
        booking=_booking(payment, attempt, part),
        fee_booking=fee_booking,
    )


def hold_ended(payment: Payment, attempt: Attempt, taken: Taken, *, at: datetime) -> Decision:
    """The hold is over, and a part of it had been taken: by the last capture, or because the rest
    was let go. With the slot the payment is a SUCCESS, without it late money: the order decides.
    A total that we did not intend is looked at by a person; one that is less is older news.
    """
    if taken.total.currency != attempt.amount.currency or taken.total < attempt.taken:
        return Decision(payment=payment, attempt=attempt, review_reason=CAPTURE_CONTRADICTED)
    is_last = taken.total == attempt.intended
    last = taken.total - attempt.taken if is_last else Money.zero(attempt.amount.currency)
    moved_at = (taken.at or at) if is_last else attempt.captured_at
    ended = replace(
        payment.to(
            PaymentState.SUCCESS if payment.holds_slot else PaymentState.LATE_SUCCESS, at=at
        ),
        captured=payment.captured + last,
        outcome=Outcome.CAPTURED,
        paid_at=moved_at,
        failure=None,
        next_action=None,
    )
    fee_booking = None
    if is_last:
        ended, fee_booking = _with_fee(ended, attempt, taken)
    kept = attempt if is_last else attempt.withdraw_capture(at=at)
    late = None
    if ended.state is PaymentState.LATE_SUCCESS:
        late = ledger.refused_by_order(
            payment_id=payment.payment_id,
            version=ended.version,
            channel=payment.channel,
            merchant_id=payment.merchant_id,
            amount=ended.captured,
        )
    return Decision(
        payment=ended,
        attempt=kept.capture(
            attempt.taken + last, trade_no=attempt.channel_trade_no, captured_at=moved_at, at=at
        ),
        booking=_booking(payment, attempt, last) if is_last else None,
        fee_booking=fee_booking,
        late_booking=late,
        review_reason="" if is_last or taken.total == attempt.taken else CAPTURE_CONTRADICTED,
    )


def _is_news(attempt: Attempt, taken: Taken) -> bool:
    known = attempt.taken
    return taken.total.currency != known.currency or taken.total > known


def _with_fee(
    payment: Payment, attempt: Attempt, taken: Taken
) -> tuple[Payment, LedgerTransaction | None]:
    """The payment with the fee of all that was taken, and the booking of what is new of it."""
    fee = taken.fee
    if fee is None or fee.currency != payment.fee.currency or fee <= payment.fee:
        return payment, None
    return replace(payment, fee=fee), ledger.fee_charged(
        attempt_id=attempt.attempt_id,
        payment_id=payment.payment_id,
        channel=attempt.channel,
        fee=fee - payment.fee,
        capture_id=attempt.capture_id if attempt.taken.minor else "",
    )


def _booking(payment: Payment, attempt: Attempt, part: Money) -> LedgerTransaction:
    return ledger.part_captured(
        payment,
        attempt_id=attempt.attempt_id,
        capture_id=attempt.capture_id,
        channel=attempt.channel,
        amount=part,
    )

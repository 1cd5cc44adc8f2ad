"""`apply_channel_fact`: the one place where news of a channel changes a payment. Callback, query,
answer, close and operator all end here.

Pure: it takes the rows as they are and says what they become, what is booked and what needs a
person. Applying the same fact again changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import assert_never

from mesh.errors import Outcome
from mesh.money import Money
from payment_rpc.domain import ledger
from payment_rpc.domain.attempt import OPEN, Attempt, AttemptState
from payment_rpc.domain.ledger import LedgerTransaction
from payment_rpc.domain.payment import (
    TOP_UP,
    UNDECIDED,
    Disposition,
    Failure,
    NextAction,
    Payment,
    PaymentState,
)


class FactKind(StrEnum):
    """What a channel can tell of an attempt."""

    CAPTURED = "CAPTURED"  # money moved
    DECLINED = "DECLINED"  # no, finally
    TECH_FAILED = "TECH_FAILED"  # its fault, nothing moved
    NOT_ATTEMPTED = "NOT_ATTEMPTED"  # proven that it never got it
    PENDING = "PENDING"  # the result comes later
    CLOSED = "CLOSED"  # closed there, nothing moved
    # it never arrived there, and a tombstone keeps it from arriving
    LOST = "LOST"
    UNKNOWN = "UNKNOWN"  # no readable answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One piece of news. `amount`, `trade_no` and `occurred_at` come with CAPTURED."""

    kind: FactKind
    amount: Money | None = None
    trade_no: str = ""
    occurred_at: datetime | None = None
    reason: str = ""
    message: str = ""
    next_action: NextAction | None = None
    fee: Money | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What the rows become. `attention` names what a person must look at, "" for nothing."""

    payment: Payment
    attempt: Attempt
    booking: LedgerTransaction | None = None
    fee_booking: LedgerTransaction | None = None
    attention: str = ""

    def changes(self, payment: Payment, attempt: Attempt) -> bool:
        """False when everything was so before."""
        return self.payment is not payment or self.attempt is not attempt


SECOND_CAPTURE = "SECOND_CAPTURE"
LOST_BEFORE_CHANNEL = Failure(
    reason="LOST_BEFORE_CHANNEL", message="the payment never reached the channel"
)
_ENDINGS = {
    FactKind.DECLINED: (AttemptState.DECLINED, PaymentState.FAILED, Outcome.DECLINED),
    FactKind.TECH_FAILED: (AttemptState.TECH_FAILED, PaymentState.FAILED, Outcome.TECH_FAILED),
    FactKind.NOT_ATTEMPTED: (
        AttemptState.NOT_ATTEMPTED,
        PaymentState.FAILED,
        Outcome.NOT_ATTEMPTED,
    ),
    FactKind.CLOSED: (AttemptState.CLOSED, PaymentState.CLOSED, Outcome.NOT_ATTEMPTED),
    FactKind.LOST: (AttemptState.CLOSED, PaymentState.FAILED, Outcome.NOT_ATTEMPTED),
}


def apply_channel_fact(
    payment: Payment, attempt: Attempt, fact: Fact, *, others_open: bool, at: datetime
) -> Decision:
    """What a fact makes of a payment and one of its attempts.

    Args:
        others_open: another attempt of the payment has no result yet; the payment then waits for
            it. No use case opens a second attempt beside an open one today (nothing fails over), so
            only unit tests and the protocol model come here with True: the rule stays, because rows
            of two attempts can be there, and ending a payment while money may be on its way would
            be a lost payment.
        at: now.
    """
    match fact.kind:
        case FactKind.CAPTURED:
            return _captured(payment, attempt, fact, at=at)
        case FactKind.PENDING:
            if attempt.state not in OPEN or payment.state not in UNDECIDED:
                return Decision(payment=payment, attempt=attempt)
            if attempt.state is AttemptState.PENDING and fact.next_action in (
                None,
                payment.next_action,
            ):
                return Decision(payment=payment, attempt=attempt)
            return Decision(
                payment=payment.wait_for_buyer(fact.next_action, at=at),
                attempt=attempt.to(AttemptState.PENDING, at=at),
            )
        case FactKind.UNKNOWN:
            if attempt.state is not AttemptState.SENT:
                return Decision(payment=payment, attempt=attempt)
            return Decision(
                payment=payment.doubt(at=at), attempt=attempt.to(AttemptState.UNKNOWN, at=at)
            )
        case (
            FactKind.DECLINED
            | FactKind.TECH_FAILED
            | FactKind.NOT_ATTEMPTED
            | FactKind.CLOSED
            | FactKind.LOST
        ):
            return _ended(payment, attempt, fact, others_open=others_open, at=at)
        case _:
            assert_never(fact.kind)


def _captured(payment: Payment, attempt: Attempt, fact: Fact, *, at: datetime) -> Decision:
    if fact.amount is None:
        raise ValueError("a capture has an amount")
    if attempt.state is AttemptState.CAPTURED:
        is_known = (fact.amount, fact.trade_no) == (attempt.captured, attempt.channel_trade_no)
        return Decision(
            payment=payment, attempt=attempt, attention="" if is_known else "CAPTURE_CONTRADICTED"
        )
    taken = attempt.capture(
        fact.amount, trade_no=fact.trade_no, captured_at=fact.occurred_at, at=at
    )
    parked = ledger.captured_unapplied(
        attempt_id=attempt.attempt_id,
        payment_id=payment.payment_id,
        channel=attempt.channel,
        amount=fact.amount,
    )
    has_money = payment.captured.minor > 0 or payment.state in (
        PaymentState.CONFLICTED,
        PaymentState.LATE_REFUNDED,
    )
    fee_booking = None
    # the channel keeps it of any capture, also of one that is not ours
    if fact.fee is not None and fact.fee.minor > 0:
        fee_booking = ledger.fee_charged(
            attempt_id=attempt.attempt_id,
            payment_id=payment.payment_id,
            channel=attempt.channel,
            fee=fact.fee,
        )
    if has_money:
        return Decision(
            payment=payment,
            attempt=taken,
            booking=parked,
            fee_booking=fee_booking,
            attention=SECOND_CAPTURE,
        )
    if fact.amount != payment.amount:
        return Decision(
            payment=payment.park(at=at),
            attempt=taken,
            booking=parked,
            fee_booking=fee_booking,
            attention="AMOUNT_CONFLICT",
        )
    paid = payment.capture(
        fact.amount, trade_no=fact.trade_no, at=at, paid_at=fact.occurred_at or at
    )
    if fact.fee is not None and fee_booking is not None:
        paid = replace(paid, fee=fact.fee)
    if payment.payment_method == TOP_UP:  # a wallet takes money whenever it comes
        paid = paid.take(Disposition.APPLIED, at=at)
    if paid.state is PaymentState.LATE_SUCCESS:
        return Decision(payment=paid, attempt=taken, booking=parked, fee_booking=fee_booking)
    booking = ledger.capture_of(
        payment, attempt_id=attempt.attempt_id, channel=attempt.channel, amount=fact.amount
    )
    return Decision(payment=paid, attempt=taken, booking=booking, fee_booking=fee_booking)


def _ended(
    payment: Payment, attempt: Attempt, fact: Fact, *, others_open: bool, at: datetime
) -> Decision:
    if attempt.state not in OPEN:
        return Decision(payment=payment, attempt=attempt)
    attempt_state, payment_state, outcome = _ENDINGS[fact.kind]
    ended = attempt.to(attempt_state, at=at)
    if others_open or payment.state not in UNDECIDED:
        return Decision(payment=payment, attempt=ended)
    failure = (
        LOST_BEFORE_CHANNEL
        if fact.kind is FactKind.LOST
        else Failure(reason=fact.reason or attempt_state.value, message=fact.message)
    )
    if (
        payment.state is PaymentState.CLOSING
        and payment.failure is not None
        and fact.kind in (FactKind.CLOSED, FactKind.LOST)
    ):
        failure = payment.failure  # who asked for it says more than that it is done
    return Decision(
        payment=payment.end(payment_state, outcome=outcome, failure=failure, at=at), attempt=ended
    )

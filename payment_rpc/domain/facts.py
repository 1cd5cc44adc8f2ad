"""Channel facts, and `apply_channel_fact`: the one place where a fact changes a payment. Answers
to charges, queries and closes end here, and so does every callback.

Pure: it takes the rows as they are and returns what they become, what is booked and what needs a
manual review. Applying the same fact again changes nothing.
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
from payment_rpc.domain.decision import Decision
from payment_rpc.domain.hold import CaptureMode
from payment_rpc.domain.hold_parts import CAPTURE_CONTRADICTED, Taken, hold_ended, part_taken
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


class ChannelStatus(StrEnum):
    """What a channel says, or fails to say, about an attempt."""

    CAPTURED = "CAPTURED"  # money moved
    AUTHORIZED = "AUTHORIZED"  # money is held for us and not taken yet
    DECLINED = "DECLINED"  # finally no; nothing moved
    FAILED = "FAILED"  # the channel failed and says that nothing moved
    PENDING = "PENDING"  # waits for the buyer or the channel
    CLOSED = "CLOSED"  # nothing moved, nothing ever will
    NOT_FOUND = "NOT_FOUND"  # the channel does not know the attempt (yet)
    UNKNOWN = "UNKNOWN"  # no answer that can be believed: money may have moved
    # answer to close: this attempt cannot be closed; it may be paid until its deadline and some
    # time after
    NOT_CLOSABLE = "NOT_CLOSABLE"
    # this call of charge or checkout did not reach the channel, or was refused before it was looked
    # at
    NOT_SENT = "NOT_SENT"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelFact:
    """What a channel says about one attempt. The channel adapters make it.

    Attributes:
        attempt_id: ours.
        amount: what the channel says it moved or will move; compare it. None when it does not say.
        trade_no: the channel's number, or "".
        reason: why no money moved, as a reason of our catalogue (CARD_DECLINED, INSUFFICIENT_FUNDS,
            CHANNEL_FAILED, PAYMENT_CLOSED, CHANNEL_UNAVAILABLE), or "".
        message: for people; never holds a secret.
        occurred_at: when it ended at the channel, by the channel's clock.
        next_action: while PENDING.
        fee: what the channel keeps of a capture; None when it does not say.
        duplicate_of: the attempt of ours whose buyer was charged once more under this attempt id,
            which the channel made; "" for our own attempts.
        ref: the channel's own id of the attempt, "" when it does not say or has none.
        held_until: while AUTHORIZED, when the channel lets the money go by itself.
        capturable: while AUTHORIZED, what can still be taken; None when it does not say.
        surplus: what a buyer paid beyond a captured `amount`, all in all; None for nothing.
        taken: while AUTHORIZED, what was taken of the held money so far, in all; None for nothing.
            `trade_no` and `fee` are then of what was taken.
        is_our_turn: while PENDING, the next step is ours: `advance` takes it.
    """

    attempt_id: str
    status: ChannelStatus
    amount: Money | None = None
    trade_no: str = ""
    reason: str = ""
    message: str = ""
    occurred_at: datetime | None = None
    next_action: NextAction | None = None
    fee: Money | None = None
    duplicate_of: str = ""
    ref: str = ""
    held_until: datetime | None = None
    capturable: Money | None = None
    taken: Money | None = None
    surplus: Money | None = None
    is_our_turn: bool = False

    @property
    def is_tombstone(self) -> bool:
        """True when the channel never saw the attempt and, from now on, never accepts it."""
        return self.status is ChannelStatus.CLOSED and self.amount is None


SECOND_CAPTURE = "SECOND_CAPTURE"
SURPLUS_PAID = "SURPLUS_PAID"
_WITH_MONEY = frozenset({ChannelStatus.CAPTURED, ChannelStatus.AUTHORIZED})
_NO_ANSWERS = frozenset({ChannelStatus.UNKNOWN, ChannelStatus.NOT_SENT})
LOST_BEFORE_CHANNEL = Failure(
    reason="LOST_BEFORE_CHANNEL", message="the payment never reached the channel"
)
_ENDINGS = {
    ChannelStatus.DECLINED: (AttemptState.DECLINED, PaymentState.FAILED, Outcome.DECLINED),
    ChannelStatus.FAILED: (AttemptState.TECH_FAILED, PaymentState.FAILED, Outcome.TECH_FAILED),
    ChannelStatus.NOT_SENT: (
        AttemptState.NOT_ATTEMPTED,
        PaymentState.FAILED,
        Outcome.NOT_ATTEMPTED,
    ),
    ChannelStatus.CLOSED: (AttemptState.CLOSED, PaymentState.CLOSED, Outcome.NOT_ATTEMPTED),
}
_TOMBSTONE_ENDING = (AttemptState.CLOSED, PaymentState.FAILED, Outcome.NOT_ATTEMPTED)


def apply_channel_fact(
    payment: Payment,
    attempt: Attempt,
    fact: ChannelFact,
    *,
    others_open: bool,
    at: datetime,
    first_send: bool = False,
) -> Decision:
    """What a fact makes of a payment and one of its attempts. The channel's own id is kept with
    whatever it says.

    Args:
        others_open: another attempt of the payment has no result yet; the payment then waits for
            it. No use case opens a second attempt beside an open one today (nothing fails over), so
            only unit tests and the protocol model come here with True: the rule stays, because rows
            of two attempts can be there, and ending a payment while money may be on its way would
            be a lost payment.
        at: now.
        first_send: the fact answers the first send of the attempt. Only then, and only while the
            attempt was not sent again, does NOT_SENT prove that the channel never got it.
    """
    decision = _decide(
        payment, attempt, fact, others_open=others_open, at=at, first_send=first_send
    )
    if fact.surplus is not None:
        decision = _with_surplus(decision, attempt, fact.surplus, at=at)
    decision = _with_ref(decision, attempt, fact, at=at)
    if decision.attempt.is_watch_over(at) and fact.status not in _NO_ANSWERS:
        decision = replace(decision, attempt=decision.attempt.end_watch(at=at))
    return decision


def _with_ref(decision: Decision, attempt: Attempt, fact: ChannelFact, *, at: datetime) -> Decision:
    is_news = fact.ref not in ("", attempt.channel_ref)
    # only money is a reason to believe that it goes by another id there
    is_moved = fact.status in _WITH_MONEY and decision.attempt is not attempt
    if not is_news or (attempt.channel_ref and not is_moved):
        return decision
    known = (
        attempt.remember(fact.ref, at=at)
        if decision.attempt is attempt
        else replace(decision.attempt, channel_ref=fact.ref)
    )
    return replace(decision, attempt=known)


def _with_surplus(decision: Decision, before: Attempt, surplus: Money, *, at: datetime) -> Decision:
    """A surplus is told as its sum, so that only what it grew by is news: facts come twice and out
    of their order. A person looks at one that contradicts the capture that is known.
    """
    attempt = decision.attempt
    if decision.review_reason == CAPTURE_CONTRADICTED:
        return decision
    if attempt.captured is None or attempt.captured.currency != surplus.currency:
        return replace(decision, review_reason=decision.review_reason or SURPLUS_PAID)
    grown = surplus if attempt.surplus is None else surplus - attempt.surplus
    if grown.minor <= 0:
        return decision
    paid = (
        attempt.add_surplus(surplus, at=at)
        if attempt is before
        else replace(attempt, surplus=surplus)
    )
    return replace(decision, attempt=paid, surplus=grown)


def _decide(
    payment: Payment,
    attempt: Attempt,
    fact: ChannelFact,
    *,
    others_open: bool,
    at: datetime,
    first_send: bool,
) -> Decision:
    match fact.status:
        case ChannelStatus.CAPTURED:
            return _captured(payment, attempt, fact, at=at)
        case ChannelStatus.AUTHORIZED if payment.capture_mode is CaptureMode.MANUAL:
            return _authorized(payment, attempt, fact, at=at)
        case ChannelStatus.PENDING | ChannelStatus.AUTHORIZED:
            return _pending(payment, attempt, fact, at=at)
        case ChannelStatus.DECLINED | ChannelStatus.FAILED | ChannelStatus.CLOSED:
            return _ended(payment, attempt, fact, others_open=others_open, at=at)
        case ChannelStatus.NOT_SENT if first_send and _is_unsent(attempt):
            return _ended(payment, attempt, fact, others_open=others_open, at=at)
        case (
            ChannelStatus.UNKNOWN
            | ChannelStatus.NOT_FOUND
            | ChannelStatus.NOT_SENT
            | ChannelStatus.NOT_CLOSABLE
        ):
            if attempt.state is not AttemptState.SENT:
                return Decision(payment=payment, attempt=attempt)
            return Decision(
                payment=payment.mark_unknown(at=at), attempt=attempt.to(AttemptState.UNKNOWN, at=at)
            )
        case _:
            assert_never(fact.status)


def _is_unsent(attempt: Attempt) -> bool:
    """Whether NOT_SENT of the first send proves that nothing happened. What the channel already
    holds was sent, whatever that call says.
    """
    return attempt.sends == 1 and attempt.state is not AttemptState.AUTHORIZED


def _authorized(payment: Payment, attempt: Attempt, fact: ChannelFact, *, at: datetime) -> Decision:
    """Held money. Another amount than what is owed is let go: nothing has moved yet. Money of a
    payment that is being closed is let go by the next question.
    """
    if attempt.state not in OPEN or payment.state not in UNDECIDED:
        return Decision(payment=payment, attempt=attempt)
    if attempt.state is AttemptState.AUTHORIZED:
        held = attempt
    else:
        held = attempt.to(AttemptState.AUTHORIZED, at=at)
        if payment.state is PaymentState.CLOSING:
            held = held.query_now(at=at)
    if payment.state is PaymentState.AUTHORIZED and fact.held_until is not None:
        payment = payment.hold_until(fact.held_until, at=at)
    if payment.state is not PaymentState.PAYING:
        if fact.taken is None:
            return Decision(payment=payment, attempt=held)
        taken = Taken(total=fact.taken, trade_no=fact.trade_no, at=fact.occurred_at, fee=fact.fee)
        return part_taken(payment, held, taken, at=at)
    if fact.amount not in (None, payment.amount):
        failure = Failure(
            reason="CHANNEL_FAILED", message=f"the channel holds {fact.amount} instead"
        )
        return Decision(
            payment=payment.begin_closing(failure=failure, at=at),
            attempt=held.query_now(at=at),
            review_reason="AMOUNT_CONFLICT",
        )
    return Decision(payment=payment.authorize(held_until=fact.held_until, at=at), attempt=held)


def _pending(payment: Payment, attempt: Attempt, fact: ChannelFact, *, at: datetime) -> Decision:
    is_open = (
        attempt.state in OPEN
        and attempt.state is not AttemptState.AUTHORIZED
        and payment.state in UNDECIDED
    )
    is_known = attempt.state is AttemptState.PENDING and fact.next_action in (
        None,
        payment.next_action,
    )
    if not is_open or is_known:
        return Decision(payment=payment, attempt=attempt)
    return Decision(
        payment=payment.wait_for_buyer(fact.next_action, at=at),
        attempt=attempt.to(AttemptState.PENDING, at=at),
    )


def _captured(payment: Payment, attempt: Attempt, fact: ChannelFact, *, at: datetime) -> Decision:
    if fact.amount is None:
        raise ValueError("a capture has an amount")
    if attempt.state is AttemptState.CAPTURED:
        # a channel that counts all that came may take another part of it for the capture
        is_known = fact.amount == attempt.captured and (
            fact.trade_no == attempt.channel_trade_no or fact.surplus is not None
        )
        return Decision(
            payment=payment,
            attempt=attempt,
            review_reason="" if is_known else CAPTURE_CONTRADICTED,
        )
    if attempt.taken.minor:
        total = Taken(total=fact.amount, trade_no=fact.trade_no, at=fact.occurred_at, fee=fact.fee)
        return hold_ended(payment, attempt, total, at=at)
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
    fee_booking = _fee_booking(payment, attempt, fact)
    if has_money:
        return Decision(
            payment=payment,
            attempt=taken,
            booking=parked,
            fee_booking=fee_booking,
            review_reason=SECOND_CAPTURE,
        )
    if fact.amount != (attempt.capture_amount or payment.amount):
        return Decision(
            payment=payment.park(at=at),
            attempt=taken,
            booking=parked,
            fee_booking=fee_booking,
            review_reason="AMOUNT_CONFLICT",
        )
    paid = payment.capture(
        fact.amount, trade_no=fact.trade_no, at=at, paid_at=fact.occurred_at or at
    )
    if fact.fee is not None and fee_booking is not None:
        paid = replace(paid, fee=fact.fee)
    if payment.payment_method == TOP_UP:  # a wallet takes money whenever it comes
        paid = paid.accept(Disposition.APPLIED, at=at)
    if paid.state is PaymentState.LATE_SUCCESS:
        return Decision(payment=paid, attempt=taken, booking=parked, fee_booking=fee_booking)
    booking = ledger.capture_of(
        payment, attempt_id=attempt.attempt_id, channel=attempt.channel, amount=fact.amount
    )
    return Decision(payment=paid, attempt=taken, booking=booking, fee_booking=fee_booking)


def _fee_booking(payment: Payment, attempt: Attempt, fact: ChannelFact) -> LedgerTransaction | None:
    """The channel keeps its fee of any capture, also of one that is not ours."""
    if fact.fee is None or fact.fee.minor <= 0:
        return None
    return ledger.fee_charged(
        attempt_id=attempt.attempt_id,
        payment_id=payment.payment_id,
        channel=attempt.channel,
        fee=fact.fee,
    )


def _ended(
    payment: Payment, attempt: Attempt, fact: ChannelFact, *, others_open: bool, at: datetime
) -> Decision:
    if attempt.state not in OPEN:
        return Decision(payment=payment, attempt=attempt)
    if attempt.taken.minor:  # the rest of a hold is over; what was taken of it stays
        rest = Taken(total=attempt.taken, trade_no=attempt.channel_trade_no)
        return hold_ended(payment, attempt, rest, at=at)
    attempt_state, payment_state, outcome = (
        _TOMBSTONE_ENDING if fact.is_tombstone else _ENDINGS[fact.status]
    )
    ended = attempt.to(attempt_state, at=at)
    if others_open or payment.state not in UNDECIDED:
        return Decision(payment=payment, attempt=ended)
    failure = (
        LOST_BEFORE_CHANNEL
        if fact.is_tombstone
        else Failure(reason=fact.reason or attempt_state.value, message=fact.message)
    )
    if (
        payment.state is PaymentState.CLOSING
        and payment.failure is not None
        and fact.status is ChannelStatus.CLOSED
    ):
        failure = payment.failure  # the reason for closing says more than that it is closed
    return Decision(
        payment=payment.end(payment_state, outcome=outcome, failure=failure, at=at), attempt=ended
    )

"""`apply_channel_fact` as a table: what each fact makes of each payment and attempt, and that
everything else changes nothing.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import Outcome
from mesh.money import Money
from payment_rpc.domain.attempt import OPEN, Attempt, AttemptState
from payment_rpc.domain.decision import Decision
from payment_rpc.domain.errors import PaymentStateInvalid
from payment_rpc.domain.facts import ChannelFact, ChannelStatus, apply_channel_fact
from payment_rpc.domain.hold import CaptureMode
from payment_rpc.domain.ledger import LedgerTransaction, Side
from payment_rpc.domain.payment import (
    BUYER_CANCELLED,
    Failure,
    NextAction,
    Payment,
    PaymentState,
)
from tests.builders.payment import PRICE, a_payment, an_attempt, balance_of
from tests.support.fakes import EPOCH

S, A = PaymentState, AttemptState
LATER = EPOCH + timedelta(minutes=1)
HELD_UNTIL = EPOCH + timedelta(days=7)
ACTION = NextAction(kind="REDIRECT_URL", value="https://cashier.test/x")

PAYMENTS = {
    **{state.value: a_payment(state) for state in S},
    "CLOSING without slot": a_payment(S.CLOSING, holds_slot=False),
    "PAYING pending": a_payment(outcome=Outcome.PENDING, next_action=ACTION),
    "PAYING manual": a_payment(capture_mode=CaptureMode.MANUAL),
    "CLOSING manual": a_payment(S.CLOSING, capture_mode=CaptureMode.MANUAL),
}


def a_fact(status: ChannelStatus, **values: Any) -> ChannelFact:
    return ChannelFact(attempt_id="ATT1", status=status, **values)


FACTS = {
    "captured": a_fact(ChannelStatus.CAPTURED, amount=PRICE, trade_no="T1", occurred_at=EPOCH),
    "captured other amount": a_fact(
        ChannelStatus.CAPTURED, amount=Money(9999, "CNY"), trade_no="T1"
    ),
    "captured other currency": a_fact(
        ChannelStatus.CAPTURED, amount=Money(10000, "USD"), trade_no="T1"
    ),
    "declined": a_fact(ChannelStatus.DECLINED, reason="CARD_DECLINED", message="no"),
    "tech failed": a_fact(ChannelStatus.FAILED, reason="CHANNEL_FAILED"),
    "not attempted": a_fact(ChannelStatus.NOT_SENT, reason="CHANNEL_UNAVAILABLE"),
    "pending": a_fact(ChannelStatus.PENDING, next_action=ACTION),
    "authorized": a_fact(ChannelStatus.AUTHORIZED, amount=PRICE, held_until=HELD_UNTIL),
    "authorized other amount": a_fact(ChannelStatus.AUTHORIZED, amount=Money(9999, "CNY")),
    "closed": a_fact(ChannelStatus.CLOSED, amount=PRICE, reason="PAYMENT_CLOSED"),
    "lost": a_fact(ChannelStatus.CLOSED),
    "unknown": a_fact(ChannelStatus.UNKNOWN),
}
CAPTURES = ("captured", "captured other amount", "captured other currency")
ENDS = {
    "declined": A.DECLINED,
    "tech failed": A.TECH_FAILED,
    "not attempted": A.NOT_ATTEMPTED,
    "closed": A.CLOSED,
    "lost": A.CLOSED,
}
NOT_HELD = tuple(state for state in A if state in OPEN and state is not A.AUTHORIZED)
PAYING = ("PAYING", "PAYING pending", "PAYING manual")
CLOSING = ("CLOSING", "CLOSING without slot", "CLOSING manual")
NOT_CAPTURED = tuple(state for state in A if state is not A.CAPTURED)
Line = tuple[
    PaymentState, AttemptState, str, str
]  # payment, attempt, kind of booking, review_reason


def table() -> dict[tuple[str, AttemptState, str], Line]:  # noqa: C901  # a table
    """Everything that changes something. What is not in it changes nothing."""
    lines: dict[tuple[str, AttemptState, str], Line] = {}
    for attempt in NOT_CAPTURED:  # also from ends: late money is money
        for payment in (*PAYING, "AUTHORIZED", "CLOSING", "CLOSING manual"):
            lines[payment, attempt, "captured"] = (S.SUCCESS, A.CAPTURED, "CAPTURED", "")
        for payment in ("CLOSING without slot", "FAILED", "CLOSED"):
            lines[payment, attempt, "captured"] = (
                S.LATE_SUCCESS,
                A.CAPTURED,
                "CAPTURED_UNAPPLIED",
                "",
            )
        for payment, wrong in product(
            (*PAYING, "AUTHORIZED", *CLOSING, "FAILED", "CLOSED"),
            CAPTURES[1:],
        ):
            lines[payment, attempt, wrong] = (
                S.CONFLICTED,
                A.CAPTURED,
                "CAPTURED_UNAPPLIED",
                "AMOUNT_CONFLICT",
            )
        for payment, capture in product(
            (S.SUCCESS, S.LATE_SUCCESS, S.LATE_REFUNDED, S.CONFLICTED), CAPTURES
        ):
            lines[payment.value, attempt, capture] = (
                payment,
                A.CAPTURED,
                "CAPTURED_UNAPPLIED",
                "SECOND_CAPTURE",
            )
    for before, (fact, ended) in product(OPEN, ENDS.items()):
        if (before, fact) == (A.AUTHORIZED, "not attempted"):  # what is held was sent
            continue
        for payment in (*PAYING, "AUTHORIZED"):
            lines[payment, before, fact] = (
                S.CLOSED if fact == "closed" else S.FAILED,
                ended,
                "",
                "",
            )
        for payment in CLOSING:
            lines[payment, before, fact] = (S.CLOSED, ended, "", "")
        # only the attempt is news
        for payment in (
            S.SUCCESS,
            S.FAILED,
            S.CLOSED,
            S.CONFLICTED,
            S.LATE_SUCCESS,
            S.LATE_REFUNDED,
        ):
            lines[payment.value, before, fact] = (payment, ended, "", "")
    for before in NOT_HELD:
        for payment in ("PAYING", "PAYING manual", *CLOSING):
            lines[payment, before, "pending"] = (PAYMENTS[payment].state, A.PENDING, "", "")
    # rows that no use case leaves behind
    for before in NOT_HELD:
        lines["AUTHORIZED", before, "authorized"] = (S.AUTHORIZED, A.AUTHORIZED, "", "")
        lines["AUTHORIZED", before, "authorized other amount"] = (
            S.AUTHORIZED,
            A.AUTHORIZED,
            "",
            "",
        )
        lines["AUTHORIZED", before, "pending"] = (S.AUTHORIZED, A.PENDING, "", "")
    lines["AUTHORIZED", A.AUTHORIZED, "authorized"] = (S.AUTHORIZED, A.AUTHORIZED, "", "")
    lines |= _held()
    # a pending payment that hears "pending" once more stays as it is
    for before in (A.SENT, A.UNKNOWN):
        lines["PAYING pending", before, "pending"] = (S.PAYING, A.PENDING, "", "")
    for name, row in PAYMENTS.items():
        if row.state is not S.INIT:
            lines[name, A.SENT, "unknown"] = (row.state, A.UNKNOWN, "", "")
    return lines


def _held() -> dict[tuple[str, AttemptState, str], Line]:
    """What AUTHORIZED does: to a payment that asked for a capture at once it is one more wait."""
    lines: dict[tuple[str, AttemptState, str], Line] = {}
    facts = ("authorized", "authorized other amount")
    for before, fact in product((A.SENT, A.UNKNOWN), facts):
        for payment in ("PAYING", "PAYING pending", "CLOSING", "CLOSING without slot"):
            lines[payment, before, fact] = (PAYMENTS[payment].state, A.PENDING, "", "")
    for before in OPEN:
        lines["PAYING manual", before, "authorized"] = (S.AUTHORIZED, A.AUTHORIZED, "", "")
        lines["PAYING manual", before, "authorized other amount"] = (
            S.CLOSING,
            A.AUTHORIZED,
            "",
            "AMOUNT_CONFLICT",
        )
    for before, fact in product(NOT_HELD, facts):
        lines["CLOSING manual", before, fact] = (S.CLOSING, A.AUTHORIZED, "", "")
    return lines


TABLE = table()
# a payment for which no channel was ever asked: such news is a defect, and nothing is written
REFUSED = {
    *(("INIT", attempt, capture) for attempt, capture in product(NOT_CAPTURED, CAPTURES)),
    *(
        ("INIT", attempt, fact)
        for attempt, fact in product(OPEN, ("declined", "tech failed", "not attempted", "lost"))
        if (attempt, fact) != (A.AUTHORIZED, "not attempted")
    ),
}
INIT_ENDS: dict[tuple[str, AttemptState, str], Line] = {
    **{("INIT", attempt, "closed"): (S.CLOSED, A.CLOSED, "", "") for attempt in OPEN},
    **{("INIT", attempt, "pending"): (S.INIT, A.PENDING, "", "") for attempt in NOT_HELD},
    **{
        ("INIT", attempt, fact): (S.INIT, A.PENDING, "", "")
        for attempt in (A.SENT, A.UNKNOWN)
        for fact in ("authorized", "authorized other amount")
    },
    ("INIT", A.SENT, "unknown"): (S.INIT, A.UNKNOWN, "", ""),
}


@pytest.mark.parametrize("fact", FACTS)
@pytest.mark.parametrize("payment", PAYMENTS)
def test_a_fact_does_what_the_table_says_and_nothing_else(payment: str, fact: str) -> None:
    before = PAYMENTS[payment]
    for state in A:
        attempt = an_attempt(state)
        line = (payment, state, fact)
        if line in REFUSED:
            with pytest.raises(PaymentStateInvalid):
                apply(before, attempt, FACTS[fact])
            continue
        decision = apply(before, attempt, FACTS[fact])
        expected = {**TABLE, **INIT_ENDS}.get(line)
        if expected is None:
            assert decision.payment == before, line
            assert decision.attempt == attempt, line
            assert decision.booking is None, line
            assert not decision.changes(before, attempt), line
            continue
        kind = decision.booking.kind if decision.booking else ""
        assert (
            decision.payment.state,
            decision.attempt.state,
            kind,
            decision.review_reason,
        ) == expected, line
        assert decision.changes(before, attempt), line


def apply(
    payment: Payment, attempt: Attempt, fact: ChannelFact, *, others_open: bool = False
) -> Decision:
    return apply_channel_fact(
        payment, attempt, fact, others_open=others_open, first_send=True, at=LATER
    )


def lines_of(booking: LedgerTransaction | None) -> list[tuple[str, str, int, str]]:
    assert booking is not None
    return [
        (posting.side, posting.account, posting.amount.minor, posting.amount.currency)
        for posting in booking.postings
    ]


def test_a_capture_in_time_is_owed_to_the_merchant() -> None:
    decision = apply(a_payment(), an_attempt(), FACTS["captured"])
    assert (
        decision.payment.captured,
        decision.payment.channel_trade_no,
        decision.payment.paid_at,
        decision.payment.outcome,
    ) == (PRICE, "T1", EPOCH, Outcome.CAPTURED)
    assert (
        decision.attempt.captured,
        decision.attempt.channel_trade_no,
        decision.attempt.next_query_at,
    ) == (PRICE, "T1", None)
    assert decision.booking is not None
    assert decision.booking.key == "attempt:ATT1:captured"
    assert lines_of(decision.booking) == [
        (Side.DEBIT, "channel_receivable:sandbox", 10000, "CNY"),
        (Side.CREDIT, "merchant_payable:mall", 10000, "CNY"),
    ]


def test_late_money_is_parked_and_keeps_the_moment_of_the_channel() -> None:
    decision = apply(a_payment(S.FAILED), an_attempt(A.DECLINED), FACTS["captured"])
    assert (decision.payment.captured, decision.payment.holds_slot, decision.payment.paid_at) == (
        PRICE,
        False,
        EPOCH,
    )
    assert lines_of(decision.booking) == [
        (Side.DEBIT, "channel_receivable:sandbox", 10000, "CNY"),
        (Side.CREDIT, "unapplied_receipts:sandbox", 10000, "CNY"),
    ]


@pytest.mark.parametrize("wrong", CAPTURES[1:])
def test_money_that_is_not_ours_is_parked_as_what_it_is(wrong: str) -> None:
    decision = apply(a_payment(), an_attempt(), FACTS[wrong])
    amount = FACTS[wrong].amount
    assert amount is not None
    assert (decision.payment.captured, decision.payment.holds_slot, decision.attempt.captured) == (
        Money(0, "CNY"),
        False,
        amount,
    )
    assert lines_of(decision.booking) == [
        (Side.DEBIT, "channel_receivable:sandbox", amount.minor, amount.currency),
        (Side.CREDIT, "unapplied_receipts:sandbox", amount.minor, amount.currency),
    ]


def test_a_second_capture_changes_no_column_of_the_payment() -> None:
    first = a_payment(S.SUCCESS)
    decision = apply(first, an_attempt(A.CLOSED, attempt_id="ATT2"), FACTS["captured"])
    assert decision.payment is first
    assert decision.booking is not None
    assert decision.booking.key == "attempt:ATT2:captured"


@pytest.mark.parametrize(
    ("wrong", "trade_no"),
    [("captured", "T9"), ("captured other amount", "T0"), ("captured other currency", "T0")],
)
def test_a_capture_that_contradicts_the_one_that_is_known_needs_a_person(
    wrong: str, trade_no: str
) -> None:
    payment, attempt = a_payment(S.SUCCESS), an_attempt(A.CAPTURED)
    decision = apply(payment, attempt, replace(FACTS[wrong], trade_no=trade_no))
    assert (decision.payment, decision.attempt, decision.booking, decision.review_reason) == (
        payment,
        attempt,
        None,
        "CAPTURE_CONTRADICTED",
    )
    assert apply(payment, attempt, replace(FACTS["captured"], trade_no="T0")).review_reason == ""


def test_what_a_buyer_paid_too_much_is_news_by_what_it_grew() -> None:
    first, more = (
        replace(FACTS["captured"], trade_no="T0", surplus=Money(minor, "CNY"))
        for minor in (500, 700)
    )
    decision = apply(a_payment(), an_attempt(), first)
    assert (decision.payment.state, decision.review_reason) == (S.SUCCESS, "")
    assert (decision.surplus, decision.attempt.surplus) == (Money(500, "CNY"), Money(500, "CNY"))
    grown = apply(decision.payment, decision.attempt, more)
    assert (grown.surplus, grown.attempt.surplus) == (Money(200, "CNY"), Money(700, "CNY"))
    for again in (more, first):
        same = apply(grown.payment, grown.attempt, again)
        assert not same.changes(grown.payment, grown.attempt)
        assert same.surplus is None


def test_a_surplus_beside_a_contradiction_moves_nothing() -> None:
    payment, attempt = a_payment(S.SUCCESS), an_attempt(A.CAPTURED)
    more = replace(FACTS["captured other amount"], trade_no="T0", surplus=Money(500, "CNY"))
    decision = apply(payment, attempt, more)
    assert not decision.changes(payment, attempt)
    assert (decision.surplus, decision.review_reason) == (None, "CAPTURE_CONTRADICTED")


def test_a_capture_without_an_amount_is_refused() -> None:
    with pytest.raises(ValueError, match="amount"):
        apply(a_payment(), an_attempt(), a_fact(ChannelStatus.CAPTURED))


@pytest.mark.parametrize("fact", [*ENDS])
def test_a_payment_waits_while_another_attempt_has_no_result(fact: str) -> None:
    decision = apply(a_payment(), an_attempt(), FACTS[fact], others_open=True)
    assert (decision.payment, decision.attempt.state) == (a_payment(), ENDS[fact])


@pytest.mark.parametrize(
    ("fact", "outcome", "reason"),
    [
        ("declined", Outcome.DECLINED, "CARD_DECLINED"),
        ("tech failed", Outcome.TECH_FAILED, "CHANNEL_FAILED"),
        ("not attempted", Outcome.NOT_ATTEMPTED, "CHANNEL_UNAVAILABLE"),
        ("lost", Outcome.NOT_ATTEMPTED, "LOST_BEFORE_CHANNEL"),
        ("closed", Outcome.NOT_ATTEMPTED, "PAYMENT_CLOSED"),
    ],
)
def test_an_end_without_money_says_why_and_frees_the_slot(
    fact: str, outcome: Outcome, reason: str
) -> None:
    ended = apply(a_payment(), an_attempt(), FACTS[fact]).payment
    assert (
        ended.outcome,
        ended.failure.reason if ended.failure else "",
        ended.holds_slot,
        ended.next_action,
    ) == (outcome, reason, False, None)


def test_pending_tells_the_buyer_what_to_do_and_keeps_what_it_said() -> None:
    waiting = apply(a_payment(), an_attempt(), FACTS["pending"])
    assert (waiting.payment.next_action, waiting.payment.outcome) == (ACTION, Outcome.PENDING)
    again = apply(waiting.payment, waiting.attempt, a_fact(ChannelStatus.PENDING))
    assert not again.changes(waiting.payment, waiting.attempt)
    other = replace(ACTION, value="https://cashier.test/y")
    assert (
        apply(
            waiting.payment, waiting.attempt, a_fact(ChannelStatus.PENDING, next_action=other)
        ).payment.next_action
        == other
    )


def test_doubt_after_pending_takes_nothing_back() -> None:
    waiting = apply(a_payment(), an_attempt(), FACTS["pending"])
    assert not apply(waiting.payment, waiting.attempt, FACTS["unknown"]).changes(
        waiting.payment, waiting.attempt
    )


facts = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from(list(FACTS.values())), st.integers(1, 2)),
    max_size=12,
)


@given(facts)
def test_any_news_in_any_order_books_each_capture_once_balances_and_repeats_without_effect(
    news: list[tuple[int, ChannelFact, int]],
) -> None:
    payment = a_payment()
    attempts = [an_attempt(), an_attempt(attempt_id="ATT2")]
    bookings: list[LedgerTransaction] = []
    for which, fact, closing in news:
        if closing == 2 and payment.state is S.PAYING:
            payment = payment.begin_closing(at=LATER)
        for repetition in (False, True):
            attempt = attempts[which]
            others_open = attempts[1 - which].state in OPEN
            decision = apply_channel_fact(
                payment, attempt, fact, others_open=others_open, first_send=True, at=LATER
            )
            if repetition:
                assert not decision.changes(payment, attempt)
                assert decision.booking is None
            payment, attempts[which] = decision.payment, decision.attempt
            if decision.booking is not None:
                bookings.append(decision.booking)
    keys = [booking.key for booking in bookings]
    captured = [attempt for attempt in attempts if attempt.state is A.CAPTURED]
    assert sorted(keys) == sorted(f"attempt:{attempt.attempt_id}:captured" for attempt in captured)
    assert all(not any(balance_of(booking.postings).values()) for booking in bookings)
    received = [
        posting.amount
        for booking in bookings
        for posting in booking.postings
        if posting.account == "channel_receivable:sandbox"
    ]
    assert sorted(received, key=str) == sorted(
        (attempt.captured for attempt in captured if attempt.captured), key=str
    )
    assert payment.captured in (Money(0, "CNY"), PRICE)  # never more than is owed
    applied = [booking for booking in bookings if booking.kind == "CAPTURED"]
    assert len(applied) == (1 if payment.state is S.SUCCESS else 0)
    if not any(attempt.state in OPEN for attempt in attempts):
        assert payment.state not in (S.INIT, S.PAYING, S.CLOSING)  # nothing is left without an end


@pytest.mark.parametrize(
    ("decided", "reason"), [(BUYER_CANCELLED, "CANCELLED_BY_BUYER"), (None, "PAYMENT_CLOSED")]
)
def test_a_closed_payment_says_whether_the_buyer_himself_cancelled_it(
    decided: Failure | None, reason: str
) -> None:
    closing = a_payment(S.PAYING).begin_closing(failure=decided, at=LATER)
    closed = apply_channel_fact(
        closing, an_attempt(A.SENT), FACTS["closed"], others_open=False, at=LATER
    ).payment
    assert closed.state is S.CLOSED
    assert closed.failure is not None
    assert closed.failure.reason == reason


def test_a_card_that_was_declined_while_the_buyer_cancelled_was_declined() -> None:
    closing = a_payment(S.PAYING).begin_closing(failure=BUYER_CANCELLED, at=LATER)
    ended = apply_channel_fact(
        closing, an_attempt(A.SENT), FACTS["declined"], others_open=False, at=LATER
    ).payment
    assert ended.failure is not None
    assert ended.failure.reason == "CARD_DECLINED"


def test_money_that_comes_while_the_buyer_cancels_leaves_no_failure() -> None:
    closing = a_payment(S.PAYING).begin_closing(failure=BUYER_CANCELLED, at=LATER)
    for fact in CAPTURES:
        assert (
            apply_channel_fact(
                closing, an_attempt(A.SENT), FACTS[fact], others_open=False, at=LATER
            ).payment.failure
            is None
        )


@pytest.mark.parametrize(("first_send", "sends"), [(False, 1), (True, 2)])
def test_a_send_that_failed_leaves_doubt_where_another_one_may_have_arrived(
    first_send: bool, sends: int
) -> None:
    decision = apply_channel_fact(
        a_payment(),
        an_attempt(sends=sends),
        FACTS["not attempted"],
        others_open=False,
        first_send=first_send,
        at=LATER,
    )
    assert decision.attempt.state is A.UNKNOWN

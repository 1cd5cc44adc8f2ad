"""What news of a refund makes of it and its payment, by table: which news counts, whose money
moves, when a person is called."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import product
from typing import Any

import pytest

from mesh.money import Money
from payment_rpc.domain.ledger import LOSS, Side
from payment_rpc.domain.payment import Payment, PaymentState
from payment_rpc.domain.refund import OPEN, Refund, RefundState
from payment_rpc.domain.refund_facts import (
    RefundChannelStatus,
    RefundDecision,
    RefundFact,
    apply_refund_fact,
    steps_of,
)
from tests.builders.payment import a_payment
from tests.support.fakes import EPOCH

P, S, F = PaymentState, RefundState, RefundChannelStatus
MERCHANT, NOBODY, LEAVING, CHANNEL = (
    "merchant_payable:mall",
    "unapplied_receipts:sandbox",
    "refund_payable:sandbox",
    "channel_receivable:sandbox",
)
SENT = OPEN - {S.CREATED}
# What each news makes of a refund in a state; news that is not here changes nothing.
BECOMES = {
    **{(state, F.SUCCESS): S.SUCCESS for state in (*SENT, S.FAILED)},
    **{(state, F.FAILED): S.FAILED for state in SENT},
    (S.SUBMITTED, F.PENDING): S.PENDING,
    (S.UNKNOWN, F.PENDING): S.PENDING,
    **dict.fromkeys(product([S.SUBMITTED], [F.UNKNOWN, F.NOT_FOUND, F.NOT_SENT]), S.UNKNOWN),
    (S.SUCCESS, F.REVERSED): S.REVERSED,
}


def cny(minor: int) -> Money:
    return Money(minor, "CNY")


def a_refund(state: RefundState = S.SUBMITTED, **changes: Any) -> Refund:
    """A refund of 40.00 in a state."""
    started = Refund.start(
        a_payment(P.SUCCESS),
        refund_id="RF1",
        attempt_id="ATT1",
        channel="sandbox",
        amount=cny(4000),
        reason="",
        at=EPOCH,
    )
    return replace(
        started,
        **{
            "state": state,
            "next_query_at": EPOCH if state in OPEN else None,
            "channel_refund_no": "SR0",
            **changes,
        },
    )


def paid(
    state: PaymentState = P.SUCCESS, *, refunded: int = 0, reserved: int = 0, disputed: int = 0
) -> Payment:
    """A payment of 100.00 of which a part went back, is on its way, or is disputed."""
    return a_payment(
        state, refunded=cny(refunded), refund_reserved=cny(reserved), disputed=cny(disputed)
    )


def told(
    payment: Payment,
    refund: Refund,
    kind: RefundChannelStatus,
    *,
    is_captured_attempt: bool = False,
    **fact: Any,
) -> RefundDecision:
    return apply_refund_fact(
        payment,
        refund,
        RefundFact(refund_id="RF1", status=kind, **fact),
        is_captured_attempt=is_captured_attempt,
        at=EPOCH,
    )


def moved(decision: RefundDecision) -> tuple[str, str]:
    """(debited, credited) account of its booking."""
    assert decision.booking is not None
    accounts = {posting.side: posting.account for posting in decision.booking.postings}
    assert {posting.amount for posting in decision.booking.postings} == {cny(4000)}
    return accounts[Side.DEBIT], accounts[Side.CREDIT]


def amounts(payment: Payment) -> tuple[int, int]:
    return payment.refunded.minor, payment.refund_reserved.minor


@pytest.mark.parametrize(("state", "kind"), list(product(S, F)))
def test_each_news_does_what_the_table_says_and_repeats_without_effect(
    state: RefundState, kind: RefundChannelStatus
) -> None:
    payment = paid(
        reserved=4000 if state in OPEN else 0, refunded=4000 if state is S.SUCCESS else 0
    )
    refund = a_refund(state)
    decision = told(payment, refund, kind)
    if (state, kind) not in BECOMES:
        assert (decision.payment, decision.refund, decision.booking, decision.review_reason) == (
            payment,
            refund,
            None,
            "",
        )
        assert not decision.changes(refund)
        return
    assert decision.refund.state is BECOMES[state, kind]
    assert decision.changes(refund)
    again = told(decision.payment, decision.refund, kind)
    assert (again.payment, again.refund, again.booking) == (decision.payment, decision.refund, None)


@pytest.mark.parametrize("state", list(S))
def test_a_bounce_tells_of_the_success_before_it_where_nobody_heard_of_that(
    state: RefundState,
) -> None:
    kinds = [
        step.status
        for step in steps_of(
            a_refund(state), RefundFact(refund_id="RF1", status=F.REVERSED, channel_refund_no="SR1")
        )
    ]
    assert kinds == ([F.SUCCESS, F.REVERSED] if state in (*SENT, S.FAILED) else [F.REVERSED])
    assert [
        step.status
        for step in steps_of(a_refund(state), RefundFact(refund_id="RF1", status=F.SUCCESS))
    ] == [F.SUCCESS]


def test_what_left_is_no_longer_promised() -> None:
    decision = told(paid(reserved=4000), a_refund(), F.SUCCESS, channel_refund_no="SR1")
    assert (
        decision.refund.channel_refund_no,
        decision.refund.refunded_at,
        decision.review_reason,
    ) == (
        "SR1",
        EPOCH,
        "",
    )
    assert moved(decision) == (LEAVING, CHANNEL)
    assert amounts(decision.payment) == (4000, 0)
    assert told(paid(reserved=4000), a_refund(), F.SUCCESS).refund.channel_refund_no == "SR0"


@pytest.mark.parametrize("state", [S.SUBMITTED, S.FAILED])
def test_money_left_when_the_channel_says_not_when_we_heard_of_it(state: RefundState) -> None:
    """Its day in the channel's statement hangs on that."""
    moment = EPOCH - timedelta(hours=9)
    assert (
        told(paid(reserved=4000), a_refund(state), F.SUCCESS, occurred_at=moment).refund.refunded_at
        == moment
    )
    assert told(paid(reserved=4000), a_refund(state), F.SUCCESS).refund.refunded_at == EPOCH


@pytest.mark.parametrize(("fee", "is_booked"), [(None, False), (cny(0), False), (cny(24), True)])
def test_a_fee_is_booked_when_something_of_it_came_back(fee: Money | None, is_booked: bool) -> None:
    decision = told(paid(reserved=4000), a_refund(), F.SUCCESS, fee_returned=fee)
    assert (decision.fee_booking is not None) is is_booked


@pytest.mark.parametrize(
    ("state", "refunded", "after"),
    [
        (P.LATE_SUCCESS, 6000, P.LATE_REFUNDED),
        (P.LATE_SUCCESS, 5999, P.LATE_SUCCESS),
        (P.SUCCESS, 6000, P.SUCCESS),
    ],
)
def test_late_money_is_over_with_its_last_cent(
    state: PaymentState, refunded: int, after: PaymentState
) -> None:
    assert (
        told(paid(state, refunded=refunded, reserved=4000), a_refund(), F.SUCCESS).payment.state
        is after
    )
    assert (
        told(paid(state, refunded=refunded), a_refund(S.FAILED), F.SUCCESS).payment.state is after
    )  # also when it left after all


@pytest.mark.parametrize("automatic", [True, False])
@pytest.mark.parametrize(("state", "holder"), [(P.SUCCESS, MERCHANT), (P.LATE_SUCCESS, NOBODY)])
def test_what_failed_is_its_holders_again_and_calls_a_person_when_nobody_asked_for_it(
    state: PaymentState, holder: str, automatic: bool
) -> None:
    decision = told(
        paid(state, reserved=4000),
        a_refund(automatic=automatic),
        F.FAILED,
        reason="NO",
        message="no",
    )
    assert (decision.refund.needs_attention, decision.review_reason) == (
        automatic,
        "REFUND_FAILED" if automatic else "",
    )
    assert moved(decision) == (LEAVING, holder)
    assert amounts(decision.payment) == (0, 0)
    assert decision.refund.failure is not None
    assert decision.refund.failure.reason == "NO"


@pytest.mark.parametrize(
    ("refunded", "reserved", "disputed", "fits"),
    [
        (0, 0, 0, True),
        (6000, 0, 0, True),
        (0, 6000, 0, True),
        (0, 0, 6000, True),
        (2000, 2000, 2000, True),
        (6001, 0, 0, False),
        (0, 6001, 0, False),
        (0, 0, 6001, False),
        (10000, 0, 0, False),
    ],
)
def test_what_left_after_all_is_a_loss_only_above_what_was_left(
    refunded: int, reserved: int, disputed: int, fits: bool
) -> None:
    """40.00 of 100.00 were held for failed, so others could be promised: exactly what is left still
    fits.
    """
    payment = paid(refunded=refunded, reserved=reserved, disputed=disputed)
    decision = told(payment, a_refund(S.FAILED), F.SUCCESS)
    assert decision.refund.state is S.SUCCESS
    assert (decision.refund.above_cap, decision.refund.needs_attention) == (not fits, not fits)
    assert decision.review_reason == ("" if fits else "REFUNDED_ABOVE_CAP")
    assert moved(decision) == (MERCHANT if fits else LOSS, CHANNEL)
    assert amounts(decision.payment) == (refunded + 4000 if fits else refunded, reserved)


@pytest.mark.parametrize(
    ("state", "kind", "debit", "credit"),
    [
        (S.SUBMITTED, F.SUCCESS, LEAVING, CHANNEL),
        (S.SUBMITTED, F.FAILED, LEAVING, NOBODY),
        (S.SUCCESS, F.REVERSED, CHANNEL, NOBODY),
        (S.FAILED, F.SUCCESS, NOBODY, CHANNEL),
    ],
)
def test_a_refund_that_stands_alone_touches_no_column_of_its_payment(
    state: RefundState, kind: RefundChannelStatus, debit: str, credit: str
) -> None:
    payment = paid(refunded=10000)  # nothing of it is left, which is nothing to a second capture
    decision = told(payment, a_refund(state, stands_alone=True, automatic=True), kind)
    assert decision.payment is payment
    assert moved(decision) == (debit, credit)
    assert not decision.refund.above_cap


def test_a_capture_that_is_the_payments_by_now_and_leaves_after_all_is_a_loss() -> None:
    decision = told(
        paid(), a_refund(S.FAILED, stands_alone=True), F.SUCCESS, is_captured_attempt=True
    )
    assert (moved(decision), decision.refund.above_cap, decision.review_reason) == (
        (LOSS, CHANNEL),
        True,
        "REFUNDED_ABOVE_CAP",
    )
    own = told(
        paid(), a_refund(S.FAILED), F.SUCCESS, is_captured_attempt=True
    )  # a refund of the payment's own money is counted by its columns
    assert (moved(own), own.refund.above_cap) == ((MERCHANT, CHANNEL), False)


@pytest.mark.parametrize(
    ("changes", "holder", "refunded"),
    [
        ({}, MERCHANT, 0),
        ({"above_cap": True}, LOSS, 4000),
        ({"stands_alone": True}, NOBODY, 4000),
        ({"stands_alone": True, "above_cap": True}, LOSS, 4000),
    ],
)
def test_what_bounced_is_here_again_and_a_person_looks(
    changes: dict[str, bool], holder: str, refunded: int
) -> None:
    decision = told(paid(refunded=4000), a_refund(S.SUCCESS, **changes), F.REVERSED)
    assert (decision.refund.state, decision.refund.needs_attention, decision.review_reason) == (
        S.REVERSED,
        True,
        "REFUND_REVERSED",
    )
    assert moved(decision) == (CHANNEL, holder)
    assert amounts(decision.payment) == (refunded, 0)

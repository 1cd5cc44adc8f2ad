"""The transition tables of payments and attempts, every pair of states, against docs/protocols.md
1, and what each step does to slot and money.
"""

from __future__ import annotations

from datetime import timedelta
from itertools import product

import pytest

from mesh.errors import Outcome
from mesh.money import Money
from payment_rpc.domain.attempt import QUERY_PAUSES, AttemptState
from payment_rpc.domain.errors import PaymentStateInvalid
from payment_rpc.domain.payment import LIVE, Disposition, Failure, NextAction, PaymentState
from tests.builders.payment import PRICE, a_payment, an_attempt
from tests.support.fakes import EPOCH

S, A = PaymentState, AttemptState
LATER = EPOCH + timedelta(minutes=1)

# Copied from docs/protocols.md 1, not from the code.
PAYMENT_STEPS = {
    S.INIT: "PAYING CLOSED",
    S.PAYING: "AUTHORIZED SUCCESS FAILED CLOSING CLOSED CONFLICTED",
    S.AUTHORIZED: "SUCCESS FAILED CLOSING CLOSED CONFLICTED",
    S.CLOSING: "CLOSED SUCCESS LATE_SUCCESS CONFLICTED",
    S.FAILED: "LATE_SUCCESS CONFLICTED",
    S.CLOSED: "LATE_SUCCESS CONFLICTED",
    S.SUCCESS: "LATE_SUCCESS",
    S.LATE_SUCCESS: "SUCCESS LATE_REFUNDED",
    S.CONFLICTED: "LATE_SUCCESS FAILED",
    S.LATE_REFUNDED: "",
}
_OPEN_ATTEMPT = "PENDING AUTHORIZED CAPTURED DECLINED TECH_FAILED NOT_ATTEMPTED UNKNOWN CLOSED"
ATTEMPT_STEPS = {
    A.SENT: _OPEN_ATTEMPT,
    A.PENDING: _OPEN_ATTEMPT,
    A.UNKNOWN: _OPEN_ATTEMPT,
    A.AUTHORIZED: "CAPTURED DECLINED TECH_FAILED CLOSED",
    A.CLOSED: "CAPTURED",
    A.DECLINED: "CAPTURED",
    A.TECH_FAILED: "CAPTURED",
    A.NOT_ATTEMPTED: "CAPTURED",
    A.CAPTURED: "",
}


def test_the_tables_name_every_state() -> None:
    assert set(PAYMENT_STEPS) == set(S)
    assert set(ATTEMPT_STEPS) == set(A)


@pytest.mark.parametrize(("state", "target"), list(product(S, S)))
def test_a_payment_takes_the_steps_of_the_protocol_and_no_other(
    state: PaymentState, target: PaymentState
) -> None:
    payment = a_payment(state)
    if target not in PAYMENT_STEPS[state].split():
        with pytest.raises(PaymentStateInvalid) as refused:
            payment.to(target, at=LATER)
        assert refused.value.payment_id == "PAY1"
        return
    changed = payment.to(target, at=LATER)
    assert (changed.state, changed.version, changed.updated_at, changed.created_at) == (
        target,
        2,
        LATER,
        EPOCH,
    )
    # a step never takes a slot, and a state that is not live gives it up
    assert changed.holds_slot == (state in LIVE and target in LIVE)


@pytest.mark.parametrize(("state", "target"), list(product(A, A)))
def test_an_attempt_takes_the_steps_of_the_protocol_and_no_other(
    state: AttemptState, target: AttemptState
) -> None:
    attempt = an_attempt(state)
    if target not in ATTEMPT_STEPS[state].split():
        with pytest.raises(PaymentStateInvalid):
            attempt.to(target, at=LATER)
        return
    changed = attempt.to(target, at=LATER)
    assert (changed.state, changed.version, changed.updated_at) == (target, 2, LATER)
    # an attempt without a result is asked for, another is not
    assert (changed.next_query_at is None) == (target not in (A.PENDING, A.UNKNOWN, A.AUTHORIZED))


def test_questions_get_rarer_and_never_stop() -> None:
    attempt, pauses = an_attempt(A.UNKNOWN), []
    for _ in range(11):
        attempt = attempt.postpone_query(at=EPOCH, last_chance=EPOCH)
        assert attempt.next_query_at is not None
        pauses.append((attempt.next_query_at - EPOCH).total_seconds())
    assert pauses == [5, 15, 45, 120, 300, 900, 3600, 21600, 86400, 86400, 86400]
    assert len(QUERY_PAUSES) == 9


def test_a_lost_answer_is_asked_for_in_five_seconds_not_after_the_lease() -> None:
    doubted = an_attempt(A.SENT).to(A.UNKNOWN, at=EPOCH)
    assert doubted.next_query_at == EPOCH + timedelta(seconds=5)
    assert doubted.lease_until == EPOCH + timedelta(seconds=20)


def test_an_attempt_is_sent_again_under_its_id_with_a_new_lease() -> None:
    again = an_attempt(A.UNKNOWN).resend(lease=timedelta(seconds=20), at=LATER)
    assert (again.attempt_id, again.sends, again.lease_until, again.next_query_at) == (
        "ATT1",
        2,
        LATER + timedelta(seconds=20),
        LATER + timedelta(seconds=20),
    )


@pytest.mark.parametrize(
    "state", [A.CAPTURED, A.DECLINED, A.TECH_FAILED, A.NOT_ATTEMPTED, A.CLOSED]
)
def test_an_attempt_with_a_result_is_not_sent_again(state: AttemptState) -> None:
    with pytest.raises(PaymentStateInvalid):
        an_attempt(state).resend(lease=timedelta(seconds=20), at=LATER)


def test_a_new_payment_is_paying_in_doubt_and_holds_the_slot() -> None:
    payment = a_payment()
    assert (
        payment.state,
        payment.outcome,
        payment.holds_slot,
        payment.captured,
        payment.version,
    ) == (S.PAYING, Outcome.UNKNOWN, True, Money(0, "CNY"), 1)


@pytest.mark.parametrize(
    ("state", "holds_slot", "after"),
    [
        (S.PAYING, True, S.SUCCESS),
        (S.CLOSING, True, S.SUCCESS),
        (S.CLOSING, False, S.LATE_SUCCESS),
        (S.FAILED, False, S.LATE_SUCCESS),
        (S.CLOSED, False, S.LATE_SUCCESS),
    ],
)
def test_money_is_in_time_with_the_slot_and_late_without_it(
    state: PaymentState, holds_slot: bool, after: PaymentState
) -> None:
    failed = Failure(reason="CARD_DECLINED", message="no")
    payment = a_payment(
        state,
        holds_slot=holds_slot,
        failure=failed,
        next_action=NextAction(kind="QR_CODE", value="x"),
    )
    paid = payment.capture(PRICE, trade_no="T1", at=LATER, paid_at=EPOCH)
    assert (
        paid.state,
        paid.holds_slot,
        paid.captured,
        paid.channel_trade_no,
        paid.outcome,
        paid.paid_at,
        paid.failure,
        paid.next_action,
    ) == (after, after is S.SUCCESS, PRICE, "T1", Outcome.CAPTURED, EPOCH, None, None)


@pytest.mark.parametrize("state", [S.INIT, S.SUCCESS, S.LATE_SUCCESS, S.LATE_REFUNDED])
def test_a_payment_that_has_its_money_takes_no_more(state: PaymentState) -> None:
    with pytest.raises(PaymentStateInvalid):
        a_payment(state).capture(PRICE, trade_no="T1", at=LATER, paid_at=LATER)


def test_whatever_ends_a_closing_payment_leaves_it_closed() -> None:
    failure = Failure(reason="CARD_DECLINED", message="no")
    for target in (S.FAILED, S.CLOSED):
        ended = a_payment(S.CLOSING).end(
            target, outcome=Outcome.DECLINED, failure=failure, at=LATER
        )
        assert (ended.state, ended.holds_slot, ended.failure, ended.outcome) == (
            S.CLOSED,
            False,
            failure,
            Outcome.DECLINED,
        )


def test_closing_keeps_the_slot_until_the_channel_answers() -> None:
    assert a_payment().begin_closing(at=LATER).holds_slot


@pytest.mark.parametrize("disposition", list(Disposition))
def test_the_orders_answer_moves_late_and_early_money_alike(disposition: Disposition) -> None:
    for state in (S.SUCCESS, S.LATE_SUCCESS):
        payment = a_payment(state)
        assert payment.awaits_order
        after = (
            payment.refuse(disposition, at=LATER)
            if disposition.is_refusal
            else payment.accept(disposition, at=LATER)
        )
        assert (after.state, after.holds_slot) == (
            (S.LATE_SUCCESS, False) if disposition.is_refusal else (S.SUCCESS, True)
        )
        assert (after.disposition, after.version, after.captured, after.awaits_order) == (
            disposition,
            2,
            PRICE,
            False,
        )


def test_two_dispositions_are_refusals() -> None:
    assert [disposition.value for disposition in Disposition if disposition.is_refusal] == [
        "REFUSED_CANCELLED",
        "REFUSED_PAID_BY_OTHER",
    ]


@pytest.mark.parametrize(
    ("state", "after"), [(S.PAYING, S.CLOSING), (S.CLOSING, S.CLOSING), (S.SUCCESS, S.LATE_SUCCESS)]
)
def test_a_holder_that_gives_up_the_slot_is_closed_or_late(
    state: PaymentState, after: PaymentState
) -> None:
    given_up = a_payment(state).give_up_slot(at=LATER)
    assert (given_up.state, given_up.holds_slot, given_up.version) == (after, False, 2)


@pytest.mark.parametrize(
    "state", [S.INIT, S.FAILED, S.CLOSED, S.CONFLICTED, S.LATE_SUCCESS, S.LATE_REFUNDED]
)
def test_who_holds_no_slot_gives_none_up(state: PaymentState) -> None:
    with pytest.raises(PaymentStateInvalid):
        a_payment(state).give_up_slot(at=LATER)

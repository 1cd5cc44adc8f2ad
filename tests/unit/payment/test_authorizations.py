"""Held money in the domain: deadlines, the capture that is intended, and what every fact makes of
both.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from mesh.money import Money
from payment_rpc.audit.explain import headline
from payment_rpc.domain.attempt import AttemptState
from payment_rpc.domain.decision import Decision
from payment_rpc.domain.errors import PaymentStateInvalid
from payment_rpc.domain.facts import ChannelFact, ChannelStatus, apply_channel_fact
from payment_rpc.domain.hold import CaptureMode
from payment_rpc.domain.payment import Payment, PaymentState
from payment_rpc.domain.snapshot import from_json, to_json
from tests.builders.payment import PRICE, a_payment, an_attempt
from tests.support.fakes import EPOCH

S, A = PaymentState, AttemptState
LATER = EPOCH + timedelta(minutes=1)
LEASE = timedelta(seconds=20)
HELD_UNTIL = EPOCH + timedelta(days=7)
HALF = Money(5000, "CNY")
MANUAL = a_payment(capture_mode=CaptureMode.MANUAL)


def hear(payment: Payment, attempt: Any, status: ChannelStatus, **values: Any) -> Decision:
    fact = ChannelFact(attempt_id="ATT1", status=status, **values)
    return apply_channel_fact(payment, attempt, fact, others_open=False, at=LATER)


@pytest.mark.parametrize(
    ("held_until", "let_go_at"),
    [
        (HELD_UNTIL, HELD_UNTIL - timedelta(minutes=10)),
        # shorter than the grace: used to its end
        (LATER + timedelta(minutes=10), LATER + timedelta(minutes=10)),
        (LATER + timedelta(minutes=11), LATER + timedelta(minutes=1)),
        # not said
        (None, LATER + timedelta(days=7) - timedelta(minutes=10)),
    ],
)
def test_a_hold_replaces_the_deadline_of_the_buyer_and_ends_before_the_channel_ends_it(
    held_until: datetime | None, let_go_at: datetime
) -> None:
    held = hear(MANUAL, an_attempt(), ChannelStatus.AUTHORIZED, amount=PRICE, held_until=held_until)
    assert (held.payment.state, held.payment.expires_at) == (S.AUTHORIZED, let_go_at)
    assert (held.payment.holds_slot, held.payment.captured) == (True, Money(0, "CNY"))
    assert (held.attempt.state, held.booking) == (A.AUTHORIZED, None)


def test_a_hold_that_the_channel_prolongs_is_held_longer_and_the_same_one_is_no_news() -> None:
    held = hear(MANUAL, an_attempt(), ChannelStatus.AUTHORIZED, amount=PRICE, held_until=HELD_UNTIL)
    again = hear(held.payment, held.attempt, ChannelStatus.AUTHORIZED, held_until=HELD_UNTIL)
    assert not again.changes(held.payment, held.attempt)
    longer = hear(
        held.payment,
        held.attempt,
        ChannelStatus.AUTHORIZED,
        held_until=HELD_UNTIL + timedelta(days=1),
    )
    assert longer.payment.expires_at == held.payment.expires_at + timedelta(days=1)
    assert not hear(held.payment, held.attempt, ChannelStatus.AUTHORIZED).changes(
        held.payment, held.attempt
    )


@pytest.mark.parametrize("status", [ChannelStatus.PENDING, ChannelStatus.UNKNOWN])
def test_older_news_do_not_take_a_hold_back(status: ChannelStatus) -> None:
    payment, attempt = a_payment(S.AUTHORIZED), an_attempt(A.AUTHORIZED)
    assert not hear(payment, attempt, status).changes(payment, attempt)


def test_money_that_is_held_while_the_payment_is_being_closed_is_let_go_at_once() -> None:
    closing = a_payment(S.CLOSING, capture_mode=CaptureMode.MANUAL)
    held = hear(closing, an_attempt(), ChannelStatus.AUTHORIZED, amount=PRICE)
    assert (held.payment, held.attempt.next_query_at) == (closing, LATER)
    again = hear(closing, an_attempt(A.AUTHORIZED), ChannelStatus.AUTHORIZED, amount=PRICE)
    assert not again.changes(closing, again.attempt)


def test_another_amount_that_is_held_is_let_go_at_once_and_somebody_looks() -> None:
    held = hear(MANUAL, an_attempt(), ChannelStatus.AUTHORIZED, amount=HALF)
    assert (held.payment.state, held.review_reason) == (S.CLOSING, "AMOUNT_CONFLICT")
    assert (held.attempt.state, held.attempt.next_query_at) == (A.AUTHORIZED, LATER)


@pytest.mark.parametrize(
    ("intended", "captured", "state"),
    [
        (None, PRICE, S.SUCCESS),
        (None, HALF, S.CONFLICTED),
        (HALF, HALF, S.SUCCESS),
        (HALF, PRICE, S.CONFLICTED),
        (HALF, Money(4999, "CNY"), S.CONFLICTED),
        (HALF, Money(5000, "USD"), S.CONFLICTED),
    ],
)
def test_a_capture_is_ours_when_it_takes_what_was_intended(
    intended: Money | None, captured: Money, state: PaymentState
) -> None:
    attempt = an_attempt(A.AUTHORIZED)
    if intended is not None:
        attempt = attempt.begin_capture(intended, capture_id="CAP1", lease=LEASE, at=EPOCH)
    taken = hear(
        a_payment(S.AUTHORIZED), attempt, ChannelStatus.CAPTURED, amount=captured, trade_no="T1"
    )
    assert taken.payment.state is state
    if state is S.SUCCESS:
        assert (taken.payment.captured, taken.payment.amount) == (captured, PRICE)
        assert taken.booking is not None
        assert {posting.amount for posting in taken.booking.postings} == {captured}


def test_a_capture_in_part_is_told_as_one() -> None:
    attempt = an_attempt(A.AUTHORIZED).begin_capture(HALF, capture_id="C1", lease=LEASE, at=EPOCH)
    taken = hear(a_payment(S.AUTHORIZED), attempt, ChannelStatus.CAPTURED, amount=HALF)
    assert "50.00 CNY of 100.00 CNY was paid" in headline(taken.payment)
    assert "is held" in headline(a_payment(S.AUTHORIZED))


# --- the intention --------------------------------------------------------------------------------


def test_a_capture_that_is_sent_again_keeps_its_key_and_gets_a_new_lease() -> None:
    once = an_attempt(A.AUTHORIZED).begin_capture(HALF, capture_id="CAP1", lease=LEASE, at=EPOCH)
    twice = once.begin_capture(HALF, capture_id="CAP1", lease=LEASE, at=LATER)
    assert (twice.capture_id, twice.capture_amount, twice.capture_sends) == ("CAP1", HALF, 2)
    assert twice.lease_until == twice.next_query_at == LATER + LEASE


@pytest.mark.parametrize(("amount", "capture_id"), [(PRICE, "CAP1"), (HALF, "CAP2")])
def test_a_second_capture_is_refused_while_one_is_under_way(amount: Money, capture_id: str) -> None:
    once = an_attempt(A.AUTHORIZED).begin_capture(HALF, capture_id="CAP1", lease=LEASE, at=EPOCH)
    with pytest.raises(PaymentStateInvalid):
        once.begin_capture(amount, capture_id=capture_id, lease=LEASE, at=LATER)


@pytest.mark.parametrize("state", [state for state in A if state is not A.AUTHORIZED])
def test_only_held_money_is_captured(state: AttemptState) -> None:
    with pytest.raises(PaymentStateInvalid):
        an_attempt(state).begin_capture(HALF, capture_id="CAP1", lease=LEASE, at=EPOCH)


def test_a_capture_that_took_nothing_is_forgotten_and_the_channel_is_asked() -> None:
    once = an_attempt(A.AUTHORIZED).begin_capture(HALF, capture_id="CAP1", lease=LEASE, at=EPOCH)
    none = once.withdraw_capture(at=LATER)
    assert (none.capture_id, none.capture_amount, none.capture_sends) == ("", None, 0)
    assert (none.state, none.lease_until, none.next_query_at) == (A.AUTHORIZED, LATER, LATER)


def test_an_answer_that_was_kept_before_there_were_holds_is_of_a_capture_at_once() -> None:
    held = a_payment(S.AUTHORIZED)
    assert from_json(to_json(held)) == held
    old = to_json(a_payment()).replace(',"capture_mode":"AUTOMATIC"', "")
    assert "capture_mode" not in old
    assert from_json(old) == a_payment()

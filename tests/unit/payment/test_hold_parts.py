"""Held money that is taken in parts, in the domain: a channel tells what it took in all, and each
part counts once.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from mesh.money import Money
from payment_rpc.audit.explain import headline
from payment_rpc.domain.attempt import Attempt, AttemptState
from payment_rpc.domain.decision import Decision
from payment_rpc.domain.errors import PaymentStateInvalid
from payment_rpc.domain.facts import ChannelFact, ChannelStatus, apply_channel_fact
from payment_rpc.domain.hold import CaptureMode
from payment_rpc.domain.ledger import first_key
from payment_rpc.domain.payment import Payment, PaymentState
from tests.builders.payment import a_payment, an_attempt
from tests.support.fakes import EPOCH

S, A = PaymentState, AttemptState
LATER = EPOCH + timedelta(minutes=1)
EARLIER = EPOCH - timedelta(minutes=1)
LEASE = timedelta(seconds=20)


def cny(units: int) -> Money:
    return Money(units * 100, "CNY")


def held(
    taken: int = 0, capturing: int = 0, *, keeps: bool = True, **payment: Any
) -> tuple[Payment, Attempt]:
    """100.00 CNY that are held: how much of it was taken, and what a capture is about to take."""
    attempt = an_attempt(
        A.AUTHORIZED,
        captured=cny(taken) if taken else None,
        captured_at=EARLIER if taken else None,
        channel_trade_no="T1" if taken else "",
    )
    if capturing:
        attempt = attempt.begin_capture(
            cny(capturing), capture_id="CAP2", keeps_rest=keeps, lease=LEASE, at=EPOCH
        )
    values: dict[str, Any] = {
        "captured": cny(taken),
        "channel_trade_no": attempt.channel_trade_no,
    } | payment
    state = values.pop("state", S.AUTHORIZED)
    return a_payment(state, **{"capture_mode": CaptureMode.MANUAL} | values), attempt


def hear(
    rows: tuple[Payment, Attempt],
    total: Money,
    *,
    over: bool = False,
    status: ChannelStatus | None = None,
    fee: Money | None = None,
) -> Decision:
    """The channel says what it took in all; `over`: it holds no rest."""
    word = status or (ChannelStatus.CAPTURED if over else ChannelStatus.AUTHORIZED)
    fact = ChannelFact(
        attempt_id="ATT1",
        status=word,
        amount=total if over else cny(100),
        taken=None if over else total,
        trade_no="T1",
        fee=fee,
        occurred_at=EPOCH,
    )
    return apply_channel_fact(*rows, fact, others_open=False, at=LATER)


# taken before, under way, total, over -> state, captured, booked, contradicted
@pytest.mark.parametrize(
    ("case", "ends"),
    [
        ((0, 30, 30, False), (S.AUTHORIZED, 30, 30, False)),
        ((30, 20, 50, False), (S.AUTHORIZED, 50, 20, False)),
        ((30, 20, 50, True), (S.SUCCESS, 50, 20, False)),  # the channel let the rest go
        ((30, 70, 100, True), (S.SUCCESS, 100, 70, False)),
        ((30, 0, 30, True), (S.SUCCESS, 30, 0, False)),  # let go
        ((30, 20, 30, True), (S.SUCCESS, 30, 0, False)),  # over before the capture came
        # told again, late or out of order
        ((30, 0, 30, False), (S.AUTHORIZED, 30, 0, False)),
        ((30, 20, 30, False), (S.AUTHORIZED, 30, 0, False)),
        ((50, 20, 30, False), (S.AUTHORIZED, 50, 0, False)),
        # what no capture of ours was to take counts for nothing, and somebody looks
        ((0, 0, 30, False), (S.AUTHORIZED, 0, 0, True)),
        ((30, 0, 50, False), (S.AUTHORIZED, 30, 0, True)),
        ((30, 20, 60, False), (S.AUTHORIZED, 30, 0, True)),
        ((30, 20, 90, True), (S.SUCCESS, 30, 0, True)),
        ((30, 20, 20, True), (S.AUTHORIZED, 30, 0, True)),
    ],
)
def test_a_total_counts_what_the_capture_under_way_takes_and_nothing_else(
    case: tuple[int, int, int, bool], ends: tuple[PaymentState, int, int, bool]
) -> None:
    taken, capturing, total, over = case
    state, captured, booked, wrong = ends
    rows = held(taken, capturing)
    after = hear(rows, cny(total), over=over)
    assert (after.payment.state, after.payment.captured) == (state, cny(captured))
    assert after.attempt.state is (A.AUTHORIZED if state is S.AUTHORIZED else A.CAPTURED)
    assert after.attempt.taken == cny(captured)
    assert after.review_reason == ("CAPTURE_CONTRADICTED" if wrong else "")
    moved = {posting.amount for posting in after.booking.postings} if after.booking else set()
    assert moved == ({cny(booked)} if booked else set())
    assert after.late_booking is None
    again = hear((after.payment, after.attempt), cny(total), over=over)
    assert not again.changes(after.payment, after.attempt)
    assert again.booking is None


def test_a_total_of_another_currency_counts_for_nothing() -> None:
    for over in (False, True):
        rows = held(30, 20)
        after = hear(rows, Money(5000, "USD"), over=over)
        assert not after.changes(*rows)
        assert after.review_reason == "CAPTURE_CONTRADICTED"


def test_a_part_makes_room_for_the_next_capture_of_what_is_left_and_no_more() -> None:
    after = hear(held(30, 20), cny(50))
    attempt = after.attempt
    assert (attempt.capture_id, attempt.capture_amount, attempt.capture_keeps_rest) == (
        "",
        None,
        False,
    )
    assert (attempt.channel_trade_no, attempt.captured_at, attempt.lease_until) == (
        "T1",
        EPOCH,
        LATER,
    )
    with pytest.raises(PaymentStateInvalid, match="less money is held"):
        attempt.begin_capture(cny(51), capture_id="CAP3", lease=LEASE, at=LATER)
    attempt.begin_capture(cny(50), capture_id="CAP3", lease=LEASE, at=LATER)


def test_each_capture_of_a_hold_is_booked_under_a_key_of_its_own() -> None:
    first = hear(held(0, 30), cny(30), fee=cny(3))
    second = hear(held(30, 20, fee=cny(3)), cny(50), fee=cny(5))
    keys = [
        booking.key
        for decision in (first, second)
        for booking in (decision.booking, decision.fee_booking)
        if booking is not None
    ]
    assert keys == [
        "attempt:ATT1:captured",
        "attempt:ATT1:fee",
        "attempt:ATT1:captured:CAP2",
        "attempt:ATT1:fee:CAP2",
    ]
    assert [first_key(key) for key in keys] == keys[:2] * 2
    assert second.fee_booking is not None
    assert {posting.amount for posting in second.fee_booking.postings} == {cny(2)}
    assert second.payment.fee == cny(5)


def test_a_rest_that_nobody_wanted_to_keep_is_let_go() -> None:
    after = hear(held(30, 20, keeps=False), cny(50))
    assert (after.payment.state, after.payment.captured) == (S.CLOSING, cny(50))
    assert after.attempt.next_query_at == LATER
    ended = hear((after.payment, after.attempt), cny(50), over=True)
    assert (ended.payment.state, ended.payment.captured) == (S.SUCCESS, cny(50))


@pytest.mark.parametrize(
    "status", [ChannelStatus.CLOSED, ChannelStatus.DECLINED, ChannelStatus.FAILED]
)
@pytest.mark.parametrize("state", [S.AUTHORIZED, S.CLOSING])
def test_a_hold_that_ends_after_a_part_was_taken_ends_with_that_part(
    status: ChannelStatus, state: PaymentState
) -> None:
    after = hear(held(30, state=state), cny(100), status=status)
    assert (after.payment.state, after.payment.captured) == (S.SUCCESS, cny(30))
    assert (after.attempt.state, after.attempt.captured_at) == (A.CAPTURED, EARLIER)
    assert (after.booking, after.payment.paid_at) == (None, EARLIER)


def test_parts_of_a_payment_that_gave_up_its_slot_are_late_money_in_the_end() -> None:
    rows = held(30, 20, state=S.CLOSING, holds_slot=False)
    part = hear(rows, cny(50))
    assert (part.payment.state, part.payment.captured) == (S.CLOSING, cny(50))
    after = hear((part.payment, part.attempt), cny(50), over=True)
    assert (after.payment.state, after.payment.captured) == (S.LATE_SUCCESS, cny(50))
    assert after.late_booking is not None
    assert {posting.amount for posting in after.late_booking.postings} == {cny(50)}


def test_people_read_how_much_is_still_held() -> None:
    payment, _ = held(30)
    assert "30.00 CNY of 100.00 CNY was captured; 70.00 CNY is still held" in headline(payment)

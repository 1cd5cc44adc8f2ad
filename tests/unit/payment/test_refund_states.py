"""The life of a refund by table: which transition exists, what may be sent, what may be reserved.
Most lines are refusals.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import product

import pytest

from mesh.money import Money
from payment_rpc.domain.errors import PaymentStateInvalid, RefundExceedsRefundable, RefundNotAllowed
from payment_rpc.domain.payment import MONEY, TOP_UP, PaymentState
from payment_rpc.domain.refund import OPEN, Refund, RefundState, refundable, reserve, settled
from tests.builders.payment import PRICE, a_payment
from tests.support.fakes import EPOCH

S = RefundState
LEASE = timedelta(seconds=20)
# The whole table, written out by hand from docs/protocols.md 1; every other pair is refused.
EDGES = {
    (S.CREATED, S.SUBMITTED),
    (S.CREATED, S.CANCELED),
    (S.SUBMITTED, S.SUCCESS),
    (S.SUBMITTED, S.FAILED),
    (S.SUBMITTED, S.PENDING),
    (S.SUBMITTED, S.UNKNOWN),
    (S.PENDING, S.SUCCESS),
    (S.PENDING, S.FAILED),
    (S.PENDING, S.PENDING),
    (S.UNKNOWN, S.SUCCESS),
    (S.UNKNOWN, S.FAILED),
    (S.UNKNOWN, S.PENDING),
    (S.FAILED, S.SUCCESS),
    (S.SUCCESS, S.REVERSED),
}


def a_refund(state: RefundState = S.CREATED) -> Refund:
    """A refund of 40.00 in a state."""
    started = Refund.start(
        a_payment(PaymentState.SUCCESS),
        refund_id="RF1",
        attempt_id="ATT1",
        channel="sandbox",
        amount=Money(4000, "CNY"),
        reason="",
        request_id="",
        automatic=False,
        at=EPOCH,
    )
    return replace(started, state=state, next_query_at=EPOCH if state in OPEN else None)


@pytest.mark.parametrize(("before", "after"), list(product(S, S)))
def test_a_refund_takes_the_transitions_of_the_protocol_and_no_other(
    before: RefundState, after: RefundState
) -> None:
    refund = a_refund(before)
    if (before, after) in EDGES:
        moved = refund.to(after, at=EPOCH)
        assert (moved.state, moved.version) == (after, refund.version + 1)
        assert (moved.next_query_at is not None) == (after in OPEN)
    else:
        with pytest.raises(PaymentStateInvalid):
            refund.to(after, at=EPOCH)


@pytest.mark.parametrize("state", list(S))
def test_only_a_refund_without_a_result_is_sent(state: RefundState) -> None:
    refund = a_refund(state)
    if state in OPEN:
        sent = refund.submit(lease=LEASE, at=EPOCH)
        assert sent.state is (S.SUBMITTED if state is S.CREATED else state)
        assert sent.lease_until == sent.next_query_at == EPOCH + LEASE
    else:
        with pytest.raises(PaymentStateInvalid):
            refund.submit(lease=LEASE, at=EPOCH)


@pytest.mark.parametrize(
    ("refunded", "reserved", "disputed", "left"),
    [
        (0, 0, 0, 10000),
        (4000, 0, 0, 6000),
        (0, 4000, 0, 6000),
        (0, 0, 4000, 6000),
        (3000, 3000, 3000, 1000),
        (10000, 0, 0, 0),
    ],
)
def test_what_went_back_is_reserved_or_is_disputed_cannot_be_refunded_again(
    refunded: int, reserved: int, disputed: int, left: int
) -> None:
    payment = a_payment(
        PaymentState.SUCCESS,
        refunded=Money(refunded, "CNY"),
        refund_reserved=Money(reserved, "CNY"),
        disputed=Money(disputed, "CNY"),
    )
    assert refundable(payment) == Money(left, "CNY")
    if left:
        after, amount = reserve(payment, Money(left, "CNY"), at=EPOCH)
        assert (amount.minor, after.refund_reserved.minor, after.version) == (
            left,
            reserved + left,
            payment.version + 1,
        )
    amounts: list[Money | None] = [Money(left + 1, "CNY"), Money(0, "CNY")]
    for refused in amounts if left else [*amounts, None]:
        with pytest.raises(RefundExceedsRefundable):
            reserve(payment, refused, at=EPOCH)


@pytest.mark.parametrize("state", [state for state in PaymentState if state not in MONEY])
def test_a_payment_that_holds_no_money_has_nothing_to_refund(state: PaymentState) -> None:
    with pytest.raises(RefundNotAllowed):
        reserve(a_payment(state, captured=PRICE), Money(1, "CNY"), at=EPOCH)


def test_money_paid_into_a_wallet_is_not_refunded() -> None:
    with pytest.raises(RefundNotAllowed):
        reserve(a_payment(PaymentState.SUCCESS, payment_method=TOP_UP), Money(1, "CNY"), at=EPOCH)


@pytest.mark.parametrize(
    ("state", "captured", "refunded", "after"),
    [
        (PaymentState.LATE_SUCCESS, 10000, 10000, PaymentState.LATE_REFUNDED),
        (PaymentState.LATE_SUCCESS, 10000, 9999, PaymentState.LATE_SUCCESS),
        (PaymentState.LATE_SUCCESS, 0, 0, PaymentState.LATE_SUCCESS),
        (PaymentState.SUCCESS, 10000, 10000, PaymentState.SUCCESS),
    ],
)
def test_late_money_of_which_nothing_is_left_is_refunded(
    state: PaymentState, captured: int, refunded: int, after: PaymentState
) -> None:
    assert (
        settled(
            a_payment(state, captured=Money(captured, "CNY"), refunded=Money(refunded, "CNY"))
        ).state
        is after
    )

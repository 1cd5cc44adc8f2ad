"""What the payments of an order mean for closing it, by table."""

from __future__ import annotations

from datetime import timedelta

import pytest

from payment_rpc.domain.payment import Disposition, Payment, PaymentState
from payment_rpc.usecases.cancel import CloseResult, close_answer
from tests.builders.payment import a_payment
from tests.support.fakes import EPOCH

P = PaymentState


def late(disposition: Disposition | None) -> Payment:
    """Late money whose order has answered so."""
    return a_payment(P.LATE_SUCCESS, disposition=disposition)


TABLE: list[tuple[list[Payment], CloseResult]] = [
    ([], CloseResult.CLOSED),
    ([a_payment(P.CLOSED)], CloseResult.CLOSED),
    ([a_payment(P.FAILED), a_payment(P.CLOSED)], CloseResult.CLOSED),
    ([a_payment(P.LATE_REFUNDED)], CloseResult.CLOSED),
    ([late(Disposition.REFUSED_CANCELLED)], CloseResult.CLOSED),
    ([a_payment(P.PAYING)], CloseResult.CLOSING),
    ([a_payment(P.CLOSING), a_payment(P.CLOSED)], CloseResult.CLOSING),
    ([a_payment(P.CLOSING), a_payment(P.CONFLICTED)], CloseResult.CLOSING),
    ([a_payment(P.AUTHORIZED)], CloseResult.HELD),
    ([a_payment(P.AUTHORIZED), a_payment(P.CONFLICTED)], CloseResult.HELD),
    ([a_payment(P.AUTHORIZED), late(None)], CloseResult.ALREADY_PAID),
    ([a_payment(P.CONFLICTED)], CloseResult.CONFLICTED),
    ([a_payment(P.CONFLICTED), a_payment(P.CLOSED)], CloseResult.CONFLICTED),
    ([a_payment(P.SUCCESS)], CloseResult.ALREADY_PAID),
    (
        [a_payment(P.CLOSED), a_payment(P.SUCCESS), a_payment(P.CONFLICTED)],
        CloseResult.ALREADY_PAID,
    ),
    ([late(None)], CloseResult.ALREADY_PAID),
    ([a_payment(P.CLOSING), late(None)], CloseResult.ALREADY_PAID),
]


@pytest.mark.parametrize(("of_order", "expected"), TABLE)
def test_the_strongest_payment_of_an_order_decides(
    of_order: list[Payment], expected: CloseResult
) -> None:
    for payments in (of_order, list(reversed(of_order))):
        answer = close_answer(payments, lets_go=False, at=EPOCH)
        assert answer.result is expected
        with_payment = (CloseResult.ALREADY_PAID, CloseResult.HELD)
        assert (answer.payment is not None) == (expected in with_payment)


@pytest.mark.parametrize(
    ("lets_go", "seconds_before_its_end", "expected"),
    [(False, 1, CloseResult.HELD), (False, 0, CloseResult.CLOSING), (True, 1, CloseResult.CLOSING)],
)
def test_held_money_is_held_until_its_shop_lets_it_go_or_its_time_is_over(
    lets_go: bool, seconds_before_its_end: int, expected: CloseResult
) -> None:
    held = a_payment(P.AUTHORIZED)
    at = held.expires_at - timedelta(seconds=seconds_before_its_end)
    assert close_answer([held], lets_go=lets_go, at=at).result is expected

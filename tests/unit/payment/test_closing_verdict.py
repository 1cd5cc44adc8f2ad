"""What the payments of an order mean for closing it, by table."""

from __future__ import annotations

import pytest

from payment_rpc.domain.payment import Disposition, Payment, PaymentState
from payment_rpc.usecases.cancel import CloseResult, close_answer
from tests.builders.payment import a_payment

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
        answer = close_answer(payments)
        assert answer.result is expected
        assert (answer.payment is not None) == (expected is CloseResult.ALREADY_PAID)

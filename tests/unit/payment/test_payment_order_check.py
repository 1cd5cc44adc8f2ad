"""May this buyer pay this amount for this order now? Every way in which the answer is no, by
name.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import InvalidArgument
from mesh.money import Money, RequestedAmount
from order_rpc.domain.order import OrderState
from payment_rpc.domain.errors import (
    AmountMismatch,
    CurrencyMismatch,
    OrderAlreadyPaid,
    OrderNotFound,
    OrderNotPayable,
)
from payment_rpc.domain.order import OrderToPay
from tests.support.fakes import EPOCH

ORDER = OrderToPay(
    order_id="ORD1",
    merchant_id="mall",
    user_id="u1",
    amount=Money(10000, "CNY"),
    state="PENDING_PAYMENT",
    expires_at=EPOCH + timedelta(minutes=30),
)
YEN = replace(ORDER, amount=Money(100, "JPY"))


def check(
    order: OrderToPay = ORDER,
    *,
    user_id: str = "u1",
    amount: str = "100.00",
    currency: str = "",
    after: timedelta = timedelta(0),
) -> None:
    order.check(user_id=user_id, amount=RequestedAmount(amount, currency), now=EPOCH + after)


@pytest.mark.parametrize(
    ("amount", "currency"),
    [("100.00", ""), ("100", "CNY"), ("100.0", "CNY"), ("", ""), ("0100.00", "")],
)
def test_the_order_in_any_spelling_of_its_amount_may_be_paid(amount: str, currency: str) -> None:
    check(amount=amount, currency=currency)


def test_an_order_in_yen_is_paid_without_digits_after_the_point() -> None:
    check(YEN, amount="100", currency="JPY")


@pytest.mark.parametrize("amount", ["99.99", "100.01", "1", "10000", "0.01", "9999999999999"])
def test_another_amount_is_refused_by_the_name_of_the_field(amount: str) -> None:
    with pytest.raises(AmountMismatch) as refused:
        check(amount=amount)
    assert refused.value.fields == {"amount": "the order costs 100.00 CNY"}


@pytest.mark.parametrize(
    "amount",
    [
        "0",
        "0.00",
        "-1",
        "+1",
        "1e3",
        "0.001",
        "NaN",
        "Infinity",
        "1" * 16,
        "99.990000000000001",
        "100,00",
        " 100",
        "1_00",
        "١٠٠",
        ".5",
        "5.",
        "0x64",
        "100.00\n",
    ],
)
def test_what_is_no_amount_is_refused_by_the_name_of_the_field(amount: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        check(amount=amount)
    assert list(refused.value.fields) == ["amount"]


@pytest.mark.parametrize("amount", ["100.00", "100.0", "99.5"])
def test_yen_have_no_digits_after_the_point(amount: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        check(YEN, amount=amount)
    assert refused.value.fields == {"amount": "JPY has 0 digits after the point"}


def test_another_currency_is_refused_by_the_name_of_the_field() -> None:
    with pytest.raises(CurrencyMismatch) as refused:
        check(currency="USD")
    assert refused.value.fields == {"currency": "the order is in CNY"}


@pytest.mark.parametrize("currency", ["XXX", "cny", "CNYY", "¥"])
def test_an_unknown_currency_is_refused_by_the_name_of_the_field(currency: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        check(currency=currency)
    assert list(refused.value.fields) == ["currency"]


def test_somebody_elses_order_is_not_found_whatever_else_is_wrong() -> None:
    for order in (ORDER, replace(ORDER, state="PAID"), replace(ORDER, state="CANCELLED")):
        with pytest.raises(OrderNotFound):
            check(order, user_id="u2", amount="1")


def test_an_order_can_be_paid_until_its_deadline_and_not_at_it() -> None:
    check(after=timedelta(minutes=30) - timedelta(milliseconds=1))
    with pytest.raises(OrderNotPayable) as refused:
        check(after=timedelta(minutes=30))
    assert refused.value.metadata == {"order_state": "EXPIRED"}


@pytest.mark.parametrize("state", list(OrderState))
def test_every_state_of_an_order_has_an_answer(state: OrderState) -> None:
    order = replace(ORDER, state=state.value)
    match state:
        case OrderState.PENDING_PAYMENT:
            check(order)
        case OrderState.PAID | OrderState.SHIPPED | OrderState.COMPLETED | OrderState.REFUNDED:
            with pytest.raises(OrderAlreadyPaid):
                check(order)
        case OrderState.CANCELLING | OrderState.CANCELLED:
            with pytest.raises(OrderNotPayable) as refused:
                check(order)
            assert refused.value.metadata == {"order_state": state.value}


def test_a_state_that_we_do_not_know_is_not_paid() -> None:
    with pytest.raises(OrderNotPayable):
        check(replace(ORDER, state="CREATING"))


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("100", "100"),
        ("100.0", "100"),
        ("100.00", "100"),
        ("0100.00", "100"),
        ("99.90", "99.9"),
        ("0.01", "0.01"),
        ("00.010", "0.01"),
        ("", "0"),
    ],
)
def test_the_spellings_of_an_amount_have_one_canonical_form(text: str, canonical: str) -> None:
    assert RequestedAmount(text).canonical == canonical


@pytest.mark.parametrize("text", ["0", "0.0", "000.000"])
def test_zero_is_refused_before_anything_is_asked(text: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        RequestedAmount(text).positive()
    assert refused.value.fields == {"amount": "must be greater than zero"}


def test_no_amount_is_not_zero() -> None:
    assert RequestedAmount("").positive().canonical == "0"


@given(st.integers(1, 10**12 - 1), st.integers(0, 3))
def test_two_spellings_are_the_same_request_exactly_when_they_are_the_same_money(
    minor: int, zeros: int
) -> None:
    money = Money(minor, "KWD")
    text = money.format()
    short = RequestedAmount("0" * zeros + text.rstrip("0").rstrip("."))
    assert short.canonical == RequestedAmount(text).canonical
    assert short.matches(money)
    assert RequestedAmount(short.canonical).in_currency("KWD") == money
    assert RequestedAmount(Money(minor + 1, "KWD").format()).canonical != short.canonical

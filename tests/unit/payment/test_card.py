"""The card rules of source 002 with a real Luhn check. A refusal names the field, never its value,
and nothing prints a number.
"""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.money import RequestedAmount
from payment_rpc.domain.card import Card, CardSummary
from payment_rpc.domain.errors import CardInvalid
from payment_rpc.usecases.payment_requests import Charge

TODAY = date(2026, 11, 20)
GOOD = {"number": "4242424242424242", "cvv": "737", "expiration_year": 2030, "expiration_month": 12}
FIELDS = {
    "number": "credit_card.credit_card_number",
    "cvv": "credit_card.credit_card_cvv",
    "expiration_year": "credit_card.credit_card_expiration_year",
    "expiration_month": "credit_card.credit_card_expiration_month",
}


def parse(today: date = TODAY, **changes: object) -> Card:
    return Card.parse(**{**GOOD, **changes}, today=today)  # type: ignore[arg-type]  # what callers may send


@pytest.mark.parametrize(
    ("number", "brand"),
    [
        ("4111111111111111", "visa"),
        ("4242424242424242", "visa"),
        ("4222222222222", "visa"),
        ("5555555555554444", "mastercard"),
        ("2223003122003222", "mastercard"),
        ("2720990000000007", "mastercard"),
        ("378282246310005", "amex"),
        ("6011111111111117", "discover"),
        ("30569309025904", "diners"),
        ("3566002020360505", "jcb"),
        ("6200000000000005", "unionpay"),
        ("9000000000000001", "unknown"),
        ("6011000990139424", "discover"),
        ("4000000000000000006", "visa"),
    ],
)
def test_a_good_card_of_each_brand_is_taken_and_summarised(number: str, brand: str) -> None:
    card = parse(number=number)
    assert (card.number, card.summary()) == (
        number,
        CardSummary(brand=brand, last_four=number[-4:], expiration_year=2030, expiration_month=12),
    )


@pytest.mark.parametrize(
    "number", ["4242 4242 4242 4242", "4242-4242-4242-4242", "4242 42424242-4242"]
)
def test_spaces_and_dashes_between_digits_are_typing(number: str) -> None:
    assert parse(number=number).number == "4242424242424242"


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("number", "4242424242424241", "fails the check digit"),
        ("number", "1234567890123456", "fails the check digit"),
        ("number", "0" * 15 + "1", "fails the check digit"),
        ("number", "424242424242", "must be 13 to 19 digits"),
        ("number", "4" * 20, "must be 13 to 19 digits"),
        ("number", "", "is required"),
        ("number", "4242abcd42424242", "must be 13 to 19 digits"),
        ("number", "٤٢٤٢٤٢٤٢٤٢٤٢٤٢٤٢", "must be 13 to 19 digits"),
        ("number", "4242.4242.4242.4242", "must be 13 to 19 digits"),
        ("number", "4242424242424242\n", "must be 13 to 19 digits"),
        ("cvv", "12", "must be 3 or 4 digits"),
        ("cvv", "12345", "must be 3 or 4 digits"),
        ("cvv", "12a", "must be 3 or 4 digits"),
        ("cvv", "", "is required"),
        ("cvv", "١٢٣", "must be 3 or 4 digits"),
        ("cvv", "123\n", "must be 3 or 4 digits"),
        ("expiration_month", 0, "is required"),
        ("expiration_year", 0, "is required"),
        ("expiration_month", 13, "must be 1 to 12"),
        ("expiration_month", -1, "must be 1 to 12"),
        *(("expiration_year", year, "the card has expired") for year in (2025, 25, -1, 100)),
        ("expiration_year", 2077, "is too far in the future"),
        ("expiration_year", 20300, "is too far in the future"),
    ],
)
def test_a_bad_field_is_named_and_its_value_is_not(field: str, value: Any, problem: str) -> None:
    with pytest.raises(CardInvalid) as refused:
        parse(**{field: value})
    assert refused.value.fields == {FIELDS[field]: problem}
    assert refused.value.message == f"{FIELDS[field]}: {problem}"
    if field in ("number", "cvv") and value:
        assert str(value) not in refused.value.message


def test_a_card_that_is_not_there_is_missed_as_a_whole() -> None:
    with pytest.raises(CardInvalid) as refused:
        parse(number="", cvv="", expiration_year=0, expiration_month=0)
    assert refused.value.fields == {"credit_card": "is required"}


@pytest.mark.parametrize(
    ("today", "year", "month", "is_good"),
    [
        (date(2026, 11, 1), 2026, 11, True),
        (date(2026, 11, 30), 2026, 11, True),
        (date(2026, 12, 1), 2026, 11, False),
        (date(2026, 11, 20), 2026, 10, False),
        (date(2026, 12, 31), 2026, 12, True),
        (date(2027, 1, 1), 2026, 12, False),
        (date(2026, 1, 1), 2027, 1, True),
    ],
)
def test_a_card_is_good_until_the_end_of_the_month_it_names(
    today: date, year: int, month: int, is_good: bool
) -> None:
    if is_good:
        assert parse(today, expiration_year=year, expiration_month=month).expiration_month == month
        return
    with pytest.raises(CardInvalid) as refused:
        parse(today, expiration_year=year, expiration_month=month)
    assert list(refused.value.fields) == [FIELDS["expiration_year"]]


@pytest.mark.parametrize(("typed", "meant"), [(26, 2026), (30, 2030), (76, 2076), (2030, 2030)])
def test_two_digits_of_a_year_mean_this_century(typed: int, meant: int) -> None:
    assert parse(expiration_year=typed).expiration_year == meant


def test_a_leading_zero_of_a_cvv_counts() -> None:
    assert parse(cvv="012").cvv == "012"


def test_nothing_prints_number_and_cvv() -> None:
    card = parse(number="4242 4242 4242 4242", cvv="7373")
    charge = Charge(
        merchant_id="mall",
        order_id="ORD1",
        user_id="u1",
        amount=RequestedAmount("1"),
        payment_method="",
        number="4242 4242 4242 4242",
        cvv="7373",
        expiration_year=2030,
        expiration_month=12,
        key="",
    )
    for text in (repr(card), str(card), f"{card}", repr(charge), repr(card.summary())):
        assert "42424242" not in text.replace(" ", "")
        assert "7373" not in text


@given(st.text(alphabet="0123456789", min_size=12, max_size=18))
def test_of_ten_check_digits_exactly_one_is_good(digits: str) -> None:
    def is_good(digit: int) -> bool:
        try:
            parse(number=f"{digits}{digit}")
        except CardInvalid:
            return False
        return True

    assert sum(is_good(digit) for digit in range(10)) == 1

"""Money at the boundary: what is read, what is refused, and that nothing is lost on the way in and
out.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import InvalidArgument
from mesh.money import (
    DEFAULT_CURRENCY,
    Money,
    RequestedAmount,
    currency_exponent,
    required_amount,
)

EXPONENTS = {
    "CNY": 2,
    "USD": 2,
    "EUR": 2,
    "JPY": 0,
    "KRW": 0,
    "ISK": 0,
    "UGX": 0,
    "MGA": 2,
    "VND": 0,
    "KWD": 3,
    "BHD": 3,
    "JOD": 3,
}
# Thirty-two currencies that the source system 004 lists: all of them must be ours.
CURRENCIES = [
    "USD",
    "EUR",
    "GBP",
    "CNY",
    "JPY",
    "KRW",
    "HKD",
    "SGD",
    "AUD",
    "CAD",
    "INR",
    "BRL",
    "MXN",
    "RUB",
    "TRY",
    "ZAR",
    "CHF",
    "SEK",
    "NOK",
    "DKK",
    "PLN",
    "CZK",
    "HUF",
    "THB",
    "IDR",
    "MYR",
    "PHP",
    "VND",
    "AED",
    "SAR",
    "ILS",
    "EGP",
]


@pytest.mark.parametrize(
    ("text", "currency", "minor", "formatted"),
    [
        ("99.99", "CNY", 9999, "99.99"),
        ("100.0", "CNY", 10000, "100.00"),
        ("100", "CNY", 10000, "100.00"),
        ("0.01", "CNY", 1, "0.01"),
        ("0.1", "CNY", 10, "0.10"),
        ("1", "JPY", 1, "1"),
        ("500", "JPY", 500, "500"),
        ("0.001", "KWD", 1, "0.001"),
        ("1.5", "KWD", 1500, "1.500"),
        ("9999999999999.99", "CNY", 999999999999999, "9999999999999.99"),
        ("999999999999999", "JPY", 999999999999999, "999999999999999"),
        ("0.30", "USD", 30, "0.30"),  # 0.1 + 0.2 in floats is not
        ("4.35", "USD", 435, "4.35"),  # int(4.35 * 100) is 434
        ("1.10", "EUR", 110, "1.10"),
    ],
)
def test_an_amount_is_read_digit_for_digit_and_written_with_the_digits_of_its_currency(
    text: str, currency: str, minor: int, formatted: str
) -> None:
    money = Money.parse(text, currency)
    assert money == Money(minor, currency)
    assert money.format() == formatted
    assert str(money) == f"{formatted} {currency}"


@pytest.mark.parametrize(
    ("text", "currency", "problem"),
    [
        ("0", "CNY", "greater than zero"),
        ("0.00", "CNY", "greater than zero"),
        ("000", "JPY", "greater than zero"),
        ("-1", "CNY", "decimal string"),
        ("-0", "CNY", "decimal string"),
        ("+1", "CNY", "decimal string"),
        ("1e3", "CNY", "decimal string"),
        ("1E3", "CNY", "decimal string"),
        ("1e3000000", "CNY", "decimal string"),
        ("0.001", "CNY", "2 digits after the point"),
        ("1.000", "CNY", "2 digits after the point"),
        ("1.0", "JPY", "0 digits after the point"),
        ("0.0001", "KWD", "decimal string"),
        ("99.990000000000001", "CNY", "decimal string"),
        ("NaN", "CNY", "decimal string"),
        ("nan", "CNY", "decimal string"),
        ("Infinity", "CNY", "decimal string"),
        ("-Infinity", "CNY", "decimal string"),
        ("1234567890123456", "CNY", "decimal string"),
        ("12345678901234.56", "CNY", "more than 15 digits"),
        # it would be written out as 99999999999999.00
        ("99999999999999", "CNY", "more than 15 digits"),
        ("1234567890123.456", "KWD", "more than 15 digits"),
        ("", "CNY", "decimal string"),
        (" ", "CNY", "decimal string"),
        (" 1", "CNY", "decimal string"),
        ("1 ", "CNY", "decimal string"),
        ("1 000", "CNY", "decimal string"),
        ("1\n", "CNY", "decimal string"),
        ("1\x00", "CNY", "decimal string"),
        ("1_000", "CNY", "decimal string"),
        ("1,000", "CNY", "decimal string"),
        ("1,5", "CNY", "decimal string"),
        (".5", "CNY", "decimal string"),
        ("5.", "CNY", "decimal string"),
        (".", "CNY", "decimal string"),
        ("1.2.3", "CNY", "decimal string"),
        ("0x10", "CNY", "decimal string"),
        ("１２", "CNY", "decimal string"),  # full-width digits
        ("٣", "CNY", "decimal string"),  # Arabic-Indic three
        ("1．5", "CNY", "decimal string"),  # full-width point
        ("²", "CNY", "decimal string"),
        ("¥1", "CNY", "decimal string"),
        ("1 CNY", "CNY", "decimal string"),
        ("true", "CNY", "decimal string"),
        ("null", "CNY", "decimal string"),
    ],
)
def test_anything_but_a_plain_amount_is_refused_and_the_refusal_names_the_field(
    text: str, currency: str, problem: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        Money.parse(text, currency, field="order.amount")
    assert list(refused.value.fields) == ["order.amount"]
    assert problem in refused.value.fields["order.amount"]
    assert "order.amount" in refused.value.message


@pytest.mark.parametrize(
    "currency", ["", "cny", "CNYY", "CN", "XXX", "人民币", "CNY ", "BTC", "ＣＮＹ"]
)
def test_an_unknown_currency_is_refused_under_the_name_of_its_own_field(currency: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        Money.parse("1", currency, field="price.amount", currency_field="price.currency")
    assert list(refused.value.fields) == ["price.currency"]


def test_zero_is_read_only_where_it_is_allowed() -> None:
    assert Money.parse("0.00", "CNY", allow_zero=True) == Money.zero("CNY")
    with pytest.raises(InvalidArgument, match="greater than zero"):
        Money.parse("0.00", "CNY")


@pytest.mark.parametrize("text", ["9" * 1_000_000, "1e3000000", "0." + "0" * 1_000_000 + "1"])
def test_a_huge_number_is_refused_without_being_computed(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compute(*_: object) -> int:
        raise AssertionError("a million digits were looked at as a number")

    monkeypatch.setattr("mesh.money.int", compute, raising=False)
    with pytest.raises(InvalidArgument):
        Money.parse(text, "CNY")


@pytest.mark.parametrize(("currency", "digits"), EXPONENTS.items())
def test_each_currency_has_its_digits(currency: str, digits: int) -> None:
    assert currency_exponent(currency) == digits


def test_every_currency_of_the_source_systems_is_known() -> None:
    assert DEFAULT_CURRENCY == "CNY"
    assert {currency: currency_exponent(currency) for currency in CURRENCIES}.keys() == set(
        CURRENCIES
    )


@pytest.mark.parametrize(
    ("minor", "currency", "text"),
    [(-1, "CNY", "-0.01"), (-12345, "USD", "-123.45"), (-7, "JPY", "-7"), (0, "KWD", "0.000")],
)
def test_a_difference_below_zero_is_written_with_a_minus(
    minor: int, currency: str, text: str
) -> None:
    assert Money(minor, currency).format() == text


@pytest.mark.parametrize(
    "operation", [operator.add, operator.sub, operator.lt, operator.le, operator.gt, operator.ge]
)
def test_two_currencies_never_mix(operation: Callable[[Money, Money], Any]) -> None:
    with pytest.raises(ValueError, match="do not mix"):
        operation(Money(1, "CNY"), Money(1, "USD"))


def test_the_same_number_of_another_currency_is_another_amount() -> None:
    assert Money(1, "CNY") != Money(1, "USD")


def test_amounts_are_added_subtracted_multiplied_and_compared_as_integers() -> None:
    price = Money.parse("0.10", "CNY")
    assert price.times(3) == Money.parse("0.30", "CNY")
    assert price + price.times(2) - price == Money(20, "CNY")
    assert Money.zero("CNY") < price <= price.times(1) < price.times(2)
    assert max(price, price.times(2)) == Money(20, "CNY")


def test_an_amount_cannot_be_changed_in_place() -> None:
    with pytest.raises(AttributeError):
        Money(1, "CNY").minor = 2  # type: ignore[misc]  # that is what must not work


amounts = st.builds(
    Money, st.integers(1, 10**15 - 1), st.sampled_from(sorted({*CURRENCIES, *EXPONENTS}))
)


@given(amounts)
def test_what_is_written_is_read_back_unchanged(money: Money) -> None:
    assert Money.parse(money.format(), money.currency) == money


@given(amounts)
def test_the_written_amount_is_the_exact_decimal(money: Money) -> None:
    assert Decimal(money.format()) == Decimal(money.minor).scaleb(
        -currency_exponent(money.currency)
    )
    assert money.format().isascii()


@given(
    st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20),
    st.sampled_from(sorted(EXPONENTS)),
)
def test_any_text_is_either_exactly_its_amount_or_refused(text: str, currency: str) -> None:
    try:
        money = Money.parse(text, currency)
    except InvalidArgument:
        return
    assert Decimal(text) == Decimal(money.format())


@given(
    st.from_regex(r"[0-9]{0,17}\.?[0-9]{0,4}", fullmatch=True), st.sampled_from(sorted(EXPONENTS))
)
def test_any_digits_are_either_exactly_their_amount_or_refused(text: str, currency: str) -> None:
    try:
        money = Money.parse(text, currency)
    except InvalidArgument:
        return
    assert Decimal(text) == Decimal(money.format())
    assert 0 < money.minor < 2**63


def test_an_amount_is_sent_in_one_kind_of_units() -> None:
    with pytest.raises(InvalidArgument) as refusal:
        RequestedAmount.sent("1.00", 100, "CNY")
    assert set(refusal.value.fields) == {"amount", "amount_minor"}
    assert RequestedAmount.sent("", None).spelled_in("CNY") == RequestedAmount("")


@pytest.mark.parametrize(
    ("minor", "currency", "text"),
    [(100, "CNY", "1.00"), (100, "JPY", "100"), (100, "KWD", "0.100"), (1, "CNY", "0.01")],
)
def test_minor_units_become_text_when_their_currency_is_known(
    minor: int, currency: str, text: str
) -> None:
    spelled = RequestedAmount.sent("", minor, "").spelled_in(currency)
    assert spelled == RequestedAmount(text)
    assert spelled.in_currency(currency) == Money(minor, currency)


def test_an_amount_of_yen_has_no_decimals() -> None:
    with pytest.raises(InvalidArgument):
        RequestedAmount.sent("100.5", None).in_currency("JPY")


def test_an_amount_that_has_to_be_named_is_named_once() -> None:
    sent: list[tuple[str, int | None]] = [("9.9", None), ("", 990)]
    assert {required_amount(*each, "CNY", field="price") for each in sent} == {Money(990, "CNY")}
    missing: list[tuple[str, int | None]] = [("", None), ("", 0), ("0", None)]
    for each in missing:
        with pytest.raises(InvalidArgument):
            required_amount(*each, "CNY", field="price")
    assert required_amount("", 0, "CNY", field="price", allow_zero=True) == Money.zero("CNY")

"""Amounts at Stripe: its own digits per currency, both ways, and what it cannot express."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.money import CURRENCIES as KNOWN
from mesh.money import Money
from payment_rpc.channels.capabilities import Capabilities, Close
from payment_rpc.channels.stripe.amounts import CURRENCIES, from_stripe, to_stripe

# Source 004 lists these; Stripe takes them all.
LISTED = (  # noqa: SIM905  # one word per code reads better
    "USD EUR GBP CNY JPY KRW HKD SGD AUD CAD INR BRL MXN RUB TRY ZAR CHF SEK NOK DKK PLN CZK HUF "
    "THB IDR MYR PHP VND AED SAR ILS EGP"
).split()
TAKES = Capabilities(instruments=frozenset(), currencies=CURRENCIES, close=Close.KNOWN)


@pytest.mark.parametrize(
    ("text", "currency", "number"),
    [
        ("99.99", "USD", 9999),
        ("500", "JPY", 500),
        ("5", "ISK", 500),  # sent as if it had two digits
        ("5", "UGX", 500),
        ("7.00", "MGA", 7),  # two digits for us, none at Stripe
        ("5.120", "KWD", 5120),
        ("10.45", "HUF", 1045),
        ("800.45", "TWD", 80045),
        ("1000", "VND", 1000),
        ("99999999.99", "USD", 9_999_999_999),
    ],
)
def test_an_amount_has_stripes_digits(text: str, currency: str, number: int) -> None:
    amount = Money.parse(text, currency)
    assert to_stripe(amount) == number
    assert from_stripe(number, currency.lower()) == amount


@pytest.mark.parametrize(
    ("text", "currency", "problem"),
    [
        ("0.49", "USD", "no less than 0.50 USD"),
        ("0.29", "GBP", "no less than 0.30 GBP"),
        ("49", "JPY", "no less than 50 JPY"),
        ("174.99", "HUF", "no less than 175.00 HUF"),
        ("5.124", "KWD", "multiples of 0.010 KWD"),
        ("7.50", "MGA", "multiples of 1.00 MGA"),
        ("10000000000.00", "USD", "no more than 9999999999.99 USD"),
        ("1.000", "IQD", "does not take IQD"),
        ("1.000", "LYD", "does not take LYD"),
    ],
)
def test_what_stripe_does_not_take_is_refused_before_it_is_sent(
    text: str, currency: str, problem: str
) -> None:
    assert problem in TAKES.problem_with(Money.parse(text, currency))


@pytest.mark.parametrize(
    ("number", "currency"),
    [(501, "isk"), (1, "ugx"), (1, "iqd"), (100, "USD"), (100, "usd "), (100, ""), (100, "xxx")],
)
def test_an_amount_that_is_none_is_refused(number: int, currency: str) -> None:
    with pytest.raises(ValueError, match=r"Stripe|smallest"):
        from_stripe(number, currency)


@pytest.mark.parametrize("amount", [Money(750, "MGA"), Money(1000, "IQD")])
def test_what_cannot_be_expressed_is_never_sent(amount: Money) -> None:
    with pytest.raises(ValueError, match="cannot express"):
        to_stripe(amount)


def test_the_listed_currencies_are_taken() -> None:
    assert len(LISTED) == 32
    assert set(LISTED) <= set(CURRENCIES) <= set(KNOWN)


@given(currency=st.sampled_from(sorted(CURRENCIES)), data=st.data())
def test_what_is_taken_comes_back_as_it_was(currency: str, data: st.DataObject) -> None:
    limits = CURRENCIES[currency]
    assert limits.maximum_minor is not None
    steps = data.draw(st.integers(1, limits.maximum_minor // limits.step_minor))
    amount = Money(steps * limits.step_minor, currency)
    number = to_stripe(amount)
    assert from_stripe(number, currency.lower()) == amount
    assert 0 < number < 10**12


@given(currency=st.sampled_from(sorted(CURRENCIES)), number=st.integers(1, 10**12 - 1))
def test_what_stripe_says_is_read_exactly_or_not_at_all(currency: str, number: int) -> None:
    try:
        amount = from_stripe(number, currency.lower())
    except ValueError:
        assert currency in ("ISK", "UGX")
        assert number % 100
        return
    assert to_stripe(amount) == number


@pytest.mark.parametrize("currency", sorted(CURRENCIES))
def test_the_smallest_and_the_largest_amount_are_taken(currency: str) -> None:
    limits = CURRENCIES[currency]
    assert limits.maximum_minor is not None
    for minor in (limits.minimum_minor, limits.maximum_minor):
        assert TAKES.problem_with(Money(minor, currency)) == ""
        assert 0 < to_stripe(Money(minor, currency)) < 10**12

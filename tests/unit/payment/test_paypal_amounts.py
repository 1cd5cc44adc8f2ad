"""Amounts as PayPal writes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.money import Money
from payment_rpc.channels.paypal.amounts import CURRENCIES, read_amount, write_amount


@given(st.sampled_from(sorted(CURRENCIES)), st.integers(1, 10**10))
def test_every_amount_that_is_taken_goes_both_ways(currency, units):
    amount = Money(units * CURRENCIES[currency].step_minor, currency)
    written = write_amount(amount)
    assert read_amount(written["value"], written["currency_code"]) == amount


@pytest.mark.parametrize(
    ("minor", "currency", "value"),
    [
        (1250, "USD", "12.50"),
        (1, "EUR", "0.01"),
        (1200, "HUF", "12"),
        (1200, "TWD", "12"),
        (12, "JPY", "12"),
    ],
)
def test_digits_are_paypals(minor, currency, value):
    assert write_amount(Money(minor, currency))["value"] == value


@pytest.mark.parametrize(
    ("minor", "currency"), [(1250, "HUF"), (1201, "TWD"), (100, "KRW"), (100, "CLP"), (100, "BHD")]
)
def test_what_paypal_cannot_express_is_refused(minor, currency):
    with pytest.raises(ValueError, match="cannot express"):
        write_amount(Money(minor, currency))


@pytest.mark.parametrize(
    ("value", "currency"),
    [
        ("12.50", "HUF"),
        ("12.5", "JPY"),
        ("1.001", "USD"),
        ("-1.00", "USD"),
        ("1e2", "USD"),
        ("", "USD"),
        ("1,00", "USD"),
        (" 1.00", "USD"),
        ("NaN", "USD"),
        ("1.00", "usd"),
        ("1.00", "XXX"),
        ("9" * 20, "USD"),
    ],
)
def test_what_is_no_amount_of_paypals_is_refused(value, currency):
    with pytest.raises(ValueError, match=r"not|less"):
        read_amount(value, currency)


def test_only_statements_have_signs():
    assert read_amount("-3.17", "USD", is_signed=True) == Money(-317, "USD")
    for text in ("--3.17", "+3.17"):
        with pytest.raises(ValueError, match="not an amount"):
            read_amount(text, "USD", is_signed=True)

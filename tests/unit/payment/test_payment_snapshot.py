"""What a receipt keeps of a payment comes back whole, and a card in it is only what may be kept."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import Outcome
from mesh.money import Money
from payment_rpc.domain.card import CardSummary
from payment_rpc.domain.payment import Disposition, Failure, NextAction, Payment, PaymentState
from payment_rpc.domain.snapshot import from_json, to_json
from tests.builders.payment import a_payment

texts = st.text(max_size=40)
moments = st.integers(0, 4_000_000_000_000).map(
    lambda millis: datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=millis)
)
currencies = st.sampled_from(["CNY", "JPY", "KWD"])


@st.composite
def stored_payments(draw: st.DrawFn) -> Payment:
    currency = draw(currencies)
    money = st.integers(0, 10**15).map(lambda minor: Money(minor, currency))
    cards = st.builds(
        CardSummary,
        brand=texts,
        last_four=texts,
        expiration_year=st.integers(2026, 2099),
        expiration_month=st.integers(1, 12),
    )
    return draw(
        st.builds(
            Payment,
            payment_id=texts,
            merchant_id=texts,
            order_id=texts,
            user_id=texts,
            amount=money,
            captured=money,
            refunded=money,
            refund_reserved=money,
            disputed=money,
            fee=money,
            state=st.sampled_from(PaymentState),
            holds_slot=st.booleans(),
            payment_method=texts,
            channel=texts,
            channel_trade_no=texts,
            outcome=st.sampled_from(Outcome),
            disposition=st.none() | st.sampled_from(Disposition),
            failure=st.none() | st.builds(Failure, reason=texts, message=texts),
            card=st.none() | cards,
            next_action=st.none() | st.builds(NextAction, kind=texts, value=texts),
            ledger_head=texts,
            version=st.integers(1, 10**6),
            paid_at=st.none() | moments,
            expires_at=moments,
            created_at=moments,
            updated_at=moments,
        )
    )


@given(stored_payments())
def test_a_payment_comes_back_as_it_was(payment: Payment) -> None:
    assert from_json(to_json(payment)) == payment


def test_amounts_are_minor_units_and_times_milliseconds() -> None:
    values = json.loads(to_json(a_payment(PaymentState.SUCCESS)))
    assert (values["amount"], values["captured"], values["currency"], values["created_at"]) == (
        10000,
        10000,
        "CNY",
        1795176000000,
    )
    assert values["card"] == {
        "brand": "visa",
        "last_four": "4242",
        "expiration_year": 2030,
        "expiration_month": 12,
    }


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", "null", '{"currency":"CNY"}', to_json(a_payment()).replace("PAYING", "LOST")],
)
def test_what_another_release_wrote_is_an_error_that_the_cache_expects(text: str) -> None:
    with pytest.raises((ValueError, KeyError, TypeError, AttributeError)):
        from_json(text)

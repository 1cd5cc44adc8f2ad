"""Postings balance or cannot be made, and every transaction is chained to the one before it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.money import Money
from payment_rpc.domain import ledger
from payment_rpc.domain.ledger import LedgerTransaction, Posting, Side
from tests.builders.payment import PRICE, balance_of

D, C = Side.DEBIT, Side.CREDIT
CNY, USD = Money(100, "CNY"), Money(100, "USD")

BOOKINGS = {
    "captured": ledger.captured(
        attempt_id="ATT1", payment_id="PAY1", channel="sandbox", merchant_id="mall", amount=PRICE
    ),
    "captured unapplied": ledger.captured_unapplied(
        attempt_id="ATT1", payment_id="PAY1", channel="sandbox", amount=PRICE
    ),
    "taken": ledger.accepted_by_order(
        payment_id="PAY1", version=4, channel="sandbox", merchant_id="mall", amount=PRICE
    ),
    "refused": ledger.refused_by_order(
        payment_id="PAY1", version=4, channel="sandbox", merchant_id="mall", amount=PRICE
    ),
}


def posting(side: Side, amount: Money, account: str = "bank") -> Posting:
    return Posting(account=account, side=side, amount=amount)


@pytest.mark.parametrize(
    ("name", "key", "debit", "credit"),
    [
        (
            "captured",
            "attempt:ATT1:captured",
            "channel_receivable:sandbox",
            "merchant_payable:mall",
        ),
        (
            "captured unapplied",
            "attempt:ATT1:captured",
            "channel_receivable:sandbox",
            "unapplied_receipts:sandbox",
        ),
        ("taken", "payment:PAY1:v4:taken", "unapplied_receipts:sandbox", "merchant_payable:mall"),
        (
            "refused",
            "payment:PAY1:v4:refused",
            "merchant_payable:mall",
            "unapplied_receipts:sandbox",
        ),
    ],
)
def test_each_event_moves_its_money_between_its_two_accounts(
    name: str, key: str, debit: str, credit: str
) -> None:
    booking = BOOKINGS[name]
    assert booking.key == key
    assert booking.postings == (posting(D, PRICE, debit), posting(C, PRICE, credit))


def test_a_capture_has_one_key_whether_it_is_applied_or_not() -> None:
    assert BOOKINGS["captured"].key == BOOKINGS["captured unapplied"].key


@pytest.mark.parametrize(
    "postings",
    [
        (),
        (posting(D, CNY),),
        (posting(D, CNY), posting(C, USD)),
        (posting(D, CNY), posting(C, Money(99, "CNY"))),
        (posting(D, CNY), posting(D, CNY)),
    ],
)
def test_what_does_not_balance_cannot_be_made(postings: tuple[Posting, ...]) -> None:
    with pytest.raises(ValueError, match="does not balance"):
        LedgerTransaction(key="k", kind="K", payment_id="PAY1", postings=postings)


@pytest.mark.parametrize("minor", [0, -1])
def test_a_posting_moves_more_than_nothing(minor: int) -> None:
    with pytest.raises(ValueError, match="more than nothing"):
        posting(D, Money(minor, "CNY"))


amounts = st.builds(Money, st.integers(1, 10**15), st.sampled_from(["CNY", "USD", "JPY"]))


@given(st.lists(st.tuples(st.sampled_from([D, C]), amounts), min_size=1, max_size=6))
def test_a_transaction_exists_exactly_when_it_balances_in_every_currency(
    lines: list[tuple[Side, Money]],
) -> None:
    postings = tuple(posting(side, amount) for side, amount in lines)
    if any(balance_of(postings).values()):
        with pytest.raises(ValueError, match="does not balance"):
            LedgerTransaction(key="k", kind="K", payment_id="PAY1", postings=postings)
    else:
        assert (
            LedgerTransaction(key="k", kind="K", payment_id="PAY1", postings=postings).postings
            == postings
        )


def test_a_hash_depends_on_everything_that_is_said_and_on_what_came_before() -> None:
    base = BOOKINGS["captured"]
    variants = [
        base.hash(""),
        base.hash("a" * 64),
        BOOKINGS["captured unapplied"].hash(""),
        BOOKINGS["taken"].hash(""),
        BOOKINGS["refused"].hash(""),
        ledger.captured(
            attempt_id="ATT2",
            payment_id="PAY1",
            channel="sandbox",
            merchant_id="mall",
            amount=PRICE,
        ).hash(""),
        ledger.captured(
            attempt_id="ATT1",
            payment_id="PAY2",
            channel="sandbox",
            merchant_id="mall",
            amount=PRICE,
        ).hash(""),
        ledger.captured(
            attempt_id="ATT1",
            payment_id="PAY1",
            channel="sandbox",
            merchant_id="shop",
            amount=PRICE,
        ).hash(""),
        ledger.captured(
            attempt_id="ATT1",
            payment_id="PAY1",
            channel="sandbox",
            merchant_id="mall",
            amount=Money(10000, "USD"),
        ).hash(""),
        ledger.captured(
            attempt_id="ATT1",
            payment_id="PAY1",
            channel="sandbox",
            merchant_id="mall",
            amount=Money(10001, "CNY"),
        ).hash(""),
    ]
    assert len(set(variants)) == len(variants)
    assert base.hash("") == base.hash("")
    assert all(len(value) == 64 for value in variants)

"""What must hold of the books of one payment: every rule has rows that break it and nothing
else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from mesh.money import Money
from payment_rpc.domain import ledger
from payment_rpc.domain.attempt import Attempt, AttemptState
from payment_rpc.domain.books import Booked, Books, problems_of
from payment_rpc.domain.ledger import LedgerTransaction, Posting, Side
from payment_rpc.domain.payment import Payment, PaymentState
from payment_rpc.domain.refund import Refund, RefundState
from tests.builders.payment import PRICE, a_payment, an_attempt
from tests.support.fakes import EPOCH

CAPTURED = ledger.captured(
    attempt_id="ATT1", payment_id="PAY1", channel="sandbox", merchant_id="mall", amount=PRICE
)


def posting(side: Side, account: str, minor: int = 4000) -> Posting:
    return Posting(account=account, side=side, amount=Money(minor, "CNY"))


def chained(transactions: Sequence[LedgerTransaction | Booked]) -> tuple[Booked, ...]:
    """Transactions as they would lie in their rows, one after another."""
    rows: list[Booked] = []
    for transaction in transactions:
        previous = rows[-1].hash if rows else ""
        rows.append(
            Booked(
                key=transaction.key,
                kind=transaction.kind,
                previous_hash=previous,
                postings=transaction.postings,
                hash=ledger.chained_hash(
                    previous,
                    key=transaction.key,
                    kind=transaction.kind,
                    payment_id="PAY1",
                    postings=transaction.postings,
                ),
            )
        )
    return tuple(rows)


def books(
    *more: LedgerTransaction | Booked,
    refunds: tuple[Refund, ...] = (),
    refunded: int = 0,
    reserved: int = 0,
) -> Books:
    """A captured payment of 100.00 with more transactions and refunds, its columns as they are
    given.
    """
    transactions = chained([CAPTURED, *more])
    payment = a_payment(
        PaymentState.SUCCESS,
        refunded=Money(refunded, "CNY"),
        refund_reserved=Money(reserved, "CNY"),
        ledger_head=transactions[-1].hash,
    )
    return Books(
        payment=payment,
        attempts=(an_attempt(AttemptState.CAPTURED),),
        refunds=refunds,
        transactions=transactions,
        wallet_entries=(),
    )


def a_refund(state: RefundState, **changes: bool) -> Refund:
    started = Refund.start(
        a_payment(PaymentState.SUCCESS),
        refund_id="RF1",
        attempt_id="ATT1",
        channel="sandbox",
        amount=Money(4000, "CNY"),
        reason="",
        at=EPOCH,
    )
    return replace(started, state=state, **changes)  # type: ignore[arg-type]


RESERVED = ledger.refund_reserved(
    refund_id="RF1",
    payment_id="PAY1",
    channel="sandbox",
    held_by="merchant_payable:mall",
    amount=Money(4000, "CNY"),
)
GONE = ledger.refunded(
    refund_id="RF1", payment=a_payment(), channel="sandbox", amount=Money(4000, "CNY")
)


def payment_of(of: Books) -> Payment:
    assert isinstance(of.payment, Payment)
    return of.payment


def attempt_of(of: Books) -> Attempt:
    assert isinstance(of.attempts[0], Attempt)
    return of.attempts[0]


def found(of: Books) -> set[str]:
    return {problem.invariant for problem in problems_of(of)}


def test_right_books_have_no_problem() -> None:
    assert problems_of(books()) == []
    assert (
        problems_of(books(RESERVED, refunds=(a_refund(RefundState.PENDING),), reserved=4000)) == []
    )
    assert (
        problems_of(books(RESERVED, GONE, refunds=(a_refund(RefundState.SUCCESS),), refunded=4000))
        == []
    )


@pytest.mark.parametrize(
    "postings",
    [
        (),
        (posting(Side.DEBIT, "bank"),),
        (posting(Side.DEBIT, "bank"), posting(Side.CREDIT, "fx_position", 3999)),
    ],
)
def test_a_transaction_has_postings_and_they_balance(postings: tuple[Posting, ...]) -> None:
    """On accounts that no other rule looks at."""
    wrong = Booked(key="x", kind="X", previous_hash="", hash="", postings=postings)
    assert [(problem.invariant, problem.subject) for problem in problems_of(books(wrong))] == [
        ("transaction_balanced", "x")
    ]


@pytest.mark.parametrize(
    ("refunded", "reserved", "state", "steps", "rule"),
    [
        (3999, 0, RefundState.SUCCESS, (RESERVED, GONE), "payment_refunded"),
        (0, 0, RefundState.SUCCESS, (RESERVED, GONE), "payment_refunded"),
        (0, 3999, RefundState.UNKNOWN, (RESERVED,), "payment_refund_reserved"),
        (0, 4000, RefundState.FAILED, (RESERVED,), "payment_refund_reserved"),
    ],
)
def test_the_sums_of_a_payment_are_those_of_its_refunds(
    refunded: int,
    reserved: int,
    state: RefundState,
    steps: tuple[LedgerTransaction, ...],
    rule: str,
) -> None:
    assert rule in found(
        books(*steps, refunds=(a_refund(state),), refunded=refunded, reserved=reserved)
    )


@pytest.mark.parametrize("flag", ["stands_alone", "above_cap"])
def test_what_no_column_covers_is_in_no_column(flag: str) -> None:
    assert "payment_refunded" in found(
        books(
            RESERVED, GONE, refunds=(a_refund(RefundState.SUCCESS, **{flag: True}),), refunded=4000
        )
    )
    assert "payment_refunded" not in found(
        books(RESERVED, GONE, refunds=(a_refund(RefundState.SUCCESS, **{flag: True}),))
    )


def test_a_capture_is_booked_once_with_what_was_captured() -> None:
    other = ledger.captured(
        attempt_id="ATT9", payment_id="PAY1", channel="sandbox", merchant_id="mall", amount=PRICE
    )
    assert "capture_booked" in found(books(other))
    right = books()
    assert "capture_booked" in found(
        replace(right, attempts=(replace(attempt_of(right), captured=Money(9999, "CNY")),))
    )
    assert "capture_booked" in found(
        replace(
            right, attempts=(*right.attempts, an_attempt(AttemptState.CAPTURED, attempt_id="ATT2"))
        )
    )


def rehashed(transaction: Booked) -> Booked:
    """With the hash of what it says."""
    return replace(
        transaction,
        hash=ledger.chained_hash(
            transaction.previous_hash,
            key=transaction.key,
            kind=transaction.kind,
            payment_id="PAY1",
            postings=transaction.postings,
        ),
    )


def test_a_chain_that_is_cut_or_changed_is_found() -> None:
    right = books(RESERVED, refunds=(a_refund(RefundState.PENDING),), reserved=4000)
    first, second = right.transactions
    for wrong in ((first,), (replace(first, kind="CAPTURED_X"), second), (second, first)):
        assert "hash_chain" in found(replace(right, transactions=wrong))


@pytest.mark.parametrize("forged", ["another beginning", "another text", "another head"])
def test_whoever_repairs_the_rest_of_a_chain_is_still_found(forged: str) -> None:
    right = books(RESERVED, refunds=(a_refund(RefundState.PENDING),), reserved=4000)
    first, second = right.transactions
    head = second.hash
    if forged == "another beginning":
        second = rehashed(replace(second, previous_hash=""))
        head = second.hash
    if forged == "another text":
        second = replace(second, kind="REFUND_X")
        head = rehashed(second).hash
    if forged == "another head":
        head = first.hash
    assert found(
        replace(
            right,
            transactions=(first, second),
            payment=replace(payment_of(right), ledger_head=head),
        )
    ) >= {"hash_chain"}


@pytest.mark.parametrize(
    ("key", "kind"), [("attempt:ATT9:fee", "FEE"), ("refund:RF9:fee", "FEE_RETURNED")]
)
def test_a_fee_belongs_to_a_capture_or_to_a_refund_that_left(key: str, kind: str) -> None:
    fee = Booked(
        key=key,
        kind=kind,
        previous_hash="",
        hash="",
        postings=(
            posting(Side.DEBIT, "channel_fee_expense:sandbox", 60),
            posting(Side.CREDIT, "channel_receivable:sandbox", 60),
        ),
    )
    assert "fee_booked" in found(books(fee))


def test_a_payment_remembers_the_fee_of_its_capture() -> None:
    fee = ledger.fee_charged(
        attempt_id="ATT1", payment_id="PAY1", channel="sandbox", fee=Money(60, "CNY")
    )
    of = books(fee)
    assert found(of) == {"payment_fee"}
    assert found(replace(of, payment=replace(payment_of(of), fee=Money(60, "CNY")))) == set()

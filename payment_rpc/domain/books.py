"""What must be true of the ledger of one payment. Every posting belongs to a payment, so what holds
of each of them holds of their sum, and no error is hidden by another one elsewhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from mesh.money import Money
from payment_rpc.domain.attempt import Attempt, AttemptState
from payment_rpc.domain.ledger import (
    LOSS,
    WRITTEN_OFF,
    Posting,
    Side,
    chained_hash,
    channel_fee_expense,
    channel_receivable,
    customer_wallet,
    fee_returned_key,
    first_key,
    merchant_payable,
    refund_payable,
    unapplied_receipts,
)
from payment_rpc.domain.payment import TOP_UP, WALLET, Payment, PaymentState
from payment_rpc.domain.refund import OPEN, Refund, RefundState

Balances = Counter[tuple[str, str]]  # credit minus debit by (account, currency)
_CHECKED = frozenset(
    [
        "channel_fee_expense",
        "channel_receivable",
        "customer_wallet",
        "loss",
        "merchant_payable",
        "recon_clearing",
        "refund_payable",
        "unapplied_receipts",
    ]
)
# kinds of transactions, and their sign in what a channel keeps
_FEES = {"FEE": 1, "FEE_RETURNED": -1}
# a wallet is checked as a whole: payments take from it what others paid in
_NEVER_NEGATIVE = frozenset({"refund_payable", "unapplied_receipts"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Booked:
    """A ledger transaction as its rows have it, right or wrong."""

    key: str
    kind: str
    previous_hash: str
    hash: str
    postings: tuple[Posting, ...]


class PaymentOfBooks(NamedTuple):
    """A payment in the books. A tuple, because the audit reads millions of them."""

    payment_id: str
    merchant_id: str
    user_id: str
    payment_method: str
    channel: str
    channel_trade_no: str
    state: PaymentState
    amount: Money
    captured: Money
    refunded: Money
    refund_reserved: Money
    fee: Money
    ledger_head: str
    version: int


class AttemptOfBooks(NamedTuple):
    """An attempt in the books."""

    attempt_id: str
    channel: str
    channel_trade_no: str
    state: AttemptState
    captured: Money | None
    surplus: Money | None


class RefundOfBooks(NamedTuple):
    """A refund in the books."""

    refund_id: str
    channel: str
    state: RefundState
    amount: Money
    stands_alone: bool
    above_cap: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """A payment with all its rows, transactions in the order of their booking."""

    payment: Payment | PaymentOfBooks
    attempts: tuple[Attempt | AttemptOfBooks, ...]
    refunds: tuple[Refund | RefundOfBooks, ...]
    transactions: tuple[Booked, ...]
    wallet_entries: tuple[Money, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that does not hold: the name of the rule, what it is about, one sentence."""

    invariant: str
    subject: str
    detail: str


def problems_of(books: Books) -> list[Problem]:
    """What does not hold of a payment's books; empty when they are right."""
    return [
        *_unbalanced(books),
        *_broken_chain(books),
        *_miscounted(books),
        *_wrong_captures(books),
        *_wrong_fees(books),
        *_wrong_accounts(books),
    ]


def _unbalanced(books: Books) -> Iterator[Problem]:
    for transaction in books.transactions:
        balances: Counter[str] = Counter()
        for posting in transaction.postings:
            balances[posting.amount.currency] += _signed(posting)
        for currency, minor in balances.items():
            if minor:
                yield Problem(
                    invariant="transaction_balanced",
                    subject=transaction.key,
                    detail=f"credits exceed debits by {Money(minor, currency)}",
                )
        if not transaction.postings:
            yield Problem(
                invariant="transaction_balanced", subject=transaction.key, detail="has no postings"
            )


def _broken_chain(books: Books) -> Iterator[Problem]:
    payment_id, head = books.payment.payment_id, ""
    for transaction in books.transactions:
        if transaction.previous_hash != head:
            yield Problem(
                invariant="hash_chain",
                subject=transaction.key,
                detail="does not continue the transaction before it",
            )
        head = chained_hash(
            transaction.previous_hash,
            key=transaction.key,
            kind=transaction.kind,
            payment_id=payment_id,
            postings=transaction.postings,
        )
        if transaction.hash != head:
            yield Problem(
                invariant="hash_chain",
                subject=transaction.key,
                detail="says something else than when it was booked",
            )
            head = transaction.hash  # one problem per transaction
    if books.payment.ledger_head != head:
        yield Problem(
            invariant="hash_chain",
            subject=payment_id,
            detail="its last transaction is not the one that the payment remembers",
        )


def _miscounted(books: Books) -> Iterator[Problem]:
    """The amounts of the payment against its attempts and refunds."""
    payment = books.payment
    main = _main_attempt(books)
    taken = (main and main.captured) or Money.zero(payment.amount.currency)
    counted = [
        refund for refund in books.refunds if not refund.stands_alone and not refund.above_cap
    ]
    for name, stored, rows in (
        ("captured", payment.captured.minor, taken.minor),
        (
            "refunded",
            payment.refunded.minor,
            sum(refund.amount.minor for refund in counted if refund.state is RefundState.SUCCESS),
        ),
        (
            "refund_reserved",
            payment.refund_reserved.minor,
            sum(refund.amount.minor for refund in counted if refund.state in OPEN),
        ),
    ):
        if stored != rows:
            currency = payment.amount.currency
            yield Problem(
                invariant=f"payment_{name}",
                subject=payment.payment_id,
                detail=f"the payment says {Money(stored, currency)}, its rows "
                f"{Money(rows, currency)}",
            )


def _wrong_captures(books: Books) -> Iterator[Problem]:
    """The captures of each attempt are booked once with what was captured, and nothing else is
    booked as a capture.
    """
    booked: dict[str, list[Booked]] = {}
    for transaction in books.transactions:
        if transaction.kind.startswith("CAPTURED"):
            booked.setdefault(first_key(transaction.key), []).append(transaction)
    for attempt in books.attempts:
        if attempt.captured is None:
            continue
        of_attempt = booked.pop(f"attempt:{attempt.attempt_id}:captured", None)
        if of_attempt is None:
            yield Problem(
                invariant="capture_booked",
                subject=attempt.attempt_id,
                detail=f"{attempt.captured} was captured and not booked",
            )
        elif _debits(*of_attempt) != {attempt.captured.currency: attempt.captured.minor}:
            found = f"{attempt.captured} was captured, something else is booked"
            yield Problem(invariant="capture_booked", subject=attempt.attempt_id, detail=found)
    for key in booked:
        yield Problem(
            invariant="capture_booked", subject=key, detail="is booked and nothing was captured"
        )


def _wrong_fees(books: Books) -> Iterator[Problem]:
    """A fee belongs to a capture, what came back of it to a refund that left; and the payment
    remembers the fee of its own capture.
    """
    main = _main_attempt(books)
    paid = [attempt for attempt in books.attempts if attempt.captured is not None]
    captured = {f"attempt:{attempt.attempt_id}:fee" for attempt in paid}
    left = {
        fee_returned_key(refund.refund_id)
        for refund in books.refunds
        if refund.state in (RefundState.SUCCESS, RefundState.REVERSED)
    }
    own = 0
    for transaction in books.transactions:
        key = first_key(transaction.key)
        if transaction.kind in _FEES and key not in (
            captured if transaction.kind == "FEE" else left
        ):
            yield Problem(
                invariant="fee_booked",
                subject=transaction.key,
                detail="is booked, and there is no such capture or refund",
            )
        if main is not None and key == f"attempt:{main.attempt_id}:fee":
            own += _debits(transaction).total()
    if books.payment.fee.minor != own:
        yield Problem(
            invariant="payment_fee",
            subject=books.payment.payment_id,
            detail=f"the payment says {books.payment.fee}, the ledger "
            f"{Money(own, books.payment.fee.currency)}",
        )


def _wrong_accounts(books: Books) -> Iterator[Problem]:
    actual: Balances = Counter()
    for transaction in books.transactions:
        for posting in transaction.postings:
            if posting.account.partition(":")[0] in _CHECKED:
                actual[posting.account, posting.amount.currency] += _signed(posting)
    for (account, currency), minor in sorted(actual.items()):
        if minor < 0 and account.partition(":")[0] in _NEVER_NEGATIVE:
            yield Problem(
                invariant="never_negative",
                subject=books.payment.payment_id,
                detail=f"{account} holds {Money(minor, currency)} for it",
            )
    expected = _expected(books)
    for account, currency in sorted(actual.keys() | expected.keys()):
        is_, should = actual[account, currency], expected[account, currency]
        if is_ != should:
            yield Problem(
                invariant=account.partition(":")[0],
                subject=books.payment.payment_id,
                detail=f"{account} holds {Money(is_, currency)} for it, its rows say "
                f"{Money(should, currency)}",
            )


def _expected(books: Books) -> Balances:
    """What the rows say that the accounts hold for this payment."""
    payment = books.payment
    expected: Balances = Counter()
    left = payment.captured - payment.refunded - payment.refund_reserved
    if payment.payment_method != TOP_UP:
        account = (
            unapplied_receipts(payment.channel)
            if payment.state in (PaymentState.LATE_SUCCESS, PaymentState.LATE_REFUNDED)
            else merchant_payable(payment.merchant_id)
        )
        expected[account, left.currency] += left.minor
    _expect_captures(books, expected)
    _expect_decisions_and_fees(books, expected)
    for refund in books.refunds:
        _expect_refund(refund, expected)
    for amount in books.wallet_entries:
        expected[customer_wallet(payment.merchant_id, payment.user_id), amount.currency] += (
            amount.minor
        )
    return expected


def _expect_captures(books: Books, expected: Balances) -> None:
    main = _main_attempt(books)
    for attempt in books.attempts:
        if attempt.captured is None:
            continue
        currency, minor = attempt.captured.currency, attempt.captured.minor
        if attempt is not main:
            expected[unapplied_receipts(attempt.channel), currency] += minor
        surplus = attempt.surplus.minor if attempt.surplus else 0
        expected[unapplied_receipts(attempt.channel), currency] += surplus
        if attempt.channel != WALLET:
            expected[channel_receivable(attempt.channel), currency] -= minor + surplus


def _expect_decisions_and_fees(books: Books, expected: Balances) -> None:
    """What no other row says: write-offs, which a person decided with a name and a reason, and
    fees, whose amounts the channel says.
    """
    channel = books.payment.channel
    for transaction in books.transactions:
        for posting in transaction.postings:
            currency = posting.amount.currency
            if transaction.kind == WRITTEN_OFF:
                expected[posting.account, currency] += _signed(posting)
            elif transaction.kind in _FEES and posting.side is (
                Side.DEBIT if transaction.kind == "FEE" else Side.CREDIT
            ):
                minor = _FEES[transaction.kind] * posting.amount.minor
                expected[channel_fee_expense(channel), currency] -= minor
                expected[channel_receivable(channel), currency] += minor


def _expect_refund(refund: Refund | RefundOfBooks, expected: Balances) -> None:
    currency, minor = refund.amount.currency, refund.amount.minor
    if refund.state is RefundState.SUCCESS and refund.channel != WALLET:
        expected[channel_receivable(refund.channel), currency] += minor
    if refund.state in OPEN:
        expected[refund_payable(refund.channel), currency] += minor
    if (
        refund.stands_alone
        and not refund.above_cap
        and (refund.state in OPEN or refund.state is RefundState.SUCCESS)
    ):
        expected[unapplied_receipts(refund.channel), currency] -= minor
    if refund.above_cap and refund.state is RefundState.SUCCESS:
        expected[LOSS, currency] -= minor


def _main_attempt(books: Books) -> Attempt | AttemptOfBooks | None:
    """The attempt whose capture is the payment's own money."""
    if not books.payment.captured.minor:
        return None
    return next(
        (
            attempt
            for attempt in books.attempts
            if attempt.captured is not None
            and attempt.channel_trade_no == books.payment.channel_trade_no
        ),
        None,
    )


def _debits(*transactions: Booked) -> Counter[str]:
    sums: Counter[str] = Counter()
    for transaction in transactions:
        for posting in transaction.postings:
            if posting.side is Side.DEBIT:
                sums[posting.amount.currency] += posting.amount.minor
    return sums


def _signed(posting: Posting) -> int:
    return posting.amount.minor if posting.side is Side.CREDIT else -posting.amount.minor

"""Double-entry postings. A transaction balances per currency or cannot be made; its key is the
business fact, so that a fact is booked once.

Hashes are chained per payment: a chain of all payments would make them wait for each other.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from mesh.money import Money
from payment_rpc.domain.payment import BALANCE, TOP_UP, WALLET, Payment, PaymentState


class Side(StrEnum):
    """Debit or credit."""

    DEBIT = "D"
    CREDIT = "C"


@dataclass(frozen=True, slots=True, kw_only=True)
class Posting:
    """One line: an account, a side, an amount above zero."""

    account: str
    side: Side
    amount: Money

    def __post_init__(self) -> None:
        if self.amount.minor <= 0:
            raise ValueError("a posting moves more than nothing")


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerTransaction:
    """Postings that belong together.

    Attributes:
        key: the business fact, unique for ever, e.g. `attempt:ATT…:captured`.
        kind: what happened, for reports.
    """

    key: str
    kind: str
    payment_id: str
    postings: tuple[Posting, ...]

    def __post_init__(self) -> None:
        balance: Counter[str] = Counter()
        for posting in self.postings:
            balance[posting.amount.currency] += (
                posting.amount.minor if posting.side is Side.DEBIT else -posting.amount.minor
            )
        if not self.postings or any(balance.values()):
            raise ValueError(f"ledger transaction {self.key} does not balance")

    def hash(self, previous: str) -> str:
        """SHA-256 over the previous hash and the whole transaction; hex."""
        return chained_hash(
            previous,
            key=self.key,
            kind=self.kind,
            payment_id=self.payment_id,
            postings=self.postings,
        )


def chained_hash(
    previous: str, *, key: str, kind: str, payment_id: str, postings: Sequence[Posting]
) -> str:
    """The hash of a transaction at the end of a chain, whether it balances or not."""
    parts = [previous, key, kind, payment_id]
    for posting in postings:
        parts += [posting.account, posting.side, str(posting.amount.minor), posting.amount.currency]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def captured(
    *, attempt_id: str, payment_id: str, channel: str, merchant_id: str, amount: Money
) -> LedgerTransaction:
    """Money in time: the channel owes it to us, we owe it to the merchant."""
    return _move(
        key=f"attempt:{attempt_id}:captured",
        kind="CAPTURED",
        payment_id=payment_id,
        amount=amount,
        debit=channel_receivable(channel),
        credit=merchant_payable(merchant_id),
    )


def part_captured(
    payment: Payment, *, attempt_id: str, capture_id: str, channel: str, amount: Money
) -> LedgerTransaction:
    """A further capture of the same hold. The first one is booked as any other capture; a later one
    has our key of it in its own, so that it is booked once.
    """
    first = captured(
        attempt_id=attempt_id,
        payment_id=payment.payment_id,
        channel=channel,
        merchant_id=payment.merchant_id,
        amount=amount,
    )
    if not payment.captured.minor:
        return first
    return replace(first, key=f"{first.key}:{capture_id}")


def first_key(key: str) -> str:
    """The key of a capture or of its fee, without what a further capture of the hold adds to it."""
    return ":".join(key.split(":")[:3]) if key.startswith("attempt:") else key


def capture_of(
    payment: Payment, *, attempt_id: str, channel: str, amount: Money
) -> LedgerTransaction:
    """The booking of money that a payment was waiting for: for its merchant, from a channel or from
    the buyer's wallet, or into the wallet.
    """
    wallet = customer_wallet(payment.merchant_id, payment.user_id)
    if payment.payment_method == TOP_UP:
        return _move(
            key=f"attempt:{attempt_id}:captured",
            kind="CAPTURED_TOP_UP",
            payment_id=payment.payment_id,
            amount=amount,
            debit=channel_receivable(channel),
            credit=wallet,
        )
    if payment.payment_method == BALANCE:
        return _move(
            key=f"attempt:{attempt_id}:captured",
            kind="CAPTURED_BALANCE",
            payment_id=payment.payment_id,
            amount=amount,
            debit=wallet,
            credit=merchant_payable(payment.merchant_id),
        )
    return captured(
        attempt_id=attempt_id,
        payment_id=payment.payment_id,
        channel=channel,
        merchant_id=payment.merchant_id,
        amount=amount,
    )


def topped_up_late(payment: Payment) -> LedgerTransaction:
    """A conflict about a top-up was resolved: the parked money is the buyer's."""
    return _move(
        key=f"payment:{payment.payment_id}:topped_up",
        kind="TOPPED_UP",
        payment_id=payment.payment_id,
        amount=payment.captured,
        debit=unapplied_receipts(payment.channel),
        credit=customer_wallet(payment.merchant_id, payment.user_id),
    )


def captured_unapplied(
    *, attempt_id: str, payment_id: str, channel: str, amount: Money
) -> LedgerTransaction:
    """Money of no live payment: late, a second capture, or another amount than owed."""
    return _move(
        key=f"attempt:{attempt_id}:captured",
        kind="CAPTURED_UNAPPLIED",
        payment_id=payment_id,
        amount=amount,
        debit=channel_receivable(channel),
        credit=unapplied_receipts(channel),
    )


def surplus_received(
    *, attempt_id: str, payment_id: str, channel: str, total: Money, grown: Money
) -> LedgerTransaction:
    """A buyer paid more than a capture: `grown` since the last time, `total` all in all."""
    return _move(
        key=surplus_key(attempt_id, total),
        kind="SURPLUS",
        payment_id=payment_id,
        amount=grown,
        debit=channel_receivable(channel),
        credit=unapplied_receipts(channel),
    )


def surplus_key(attempt_id: str, total: Money) -> str:
    """Business key of the surplus that made it `total`, and of its refund."""
    return f"attempt:{attempt_id}:surplus:{total.minor}"


def accepted_by_order(
    *, payment_id: str, version: int, channel: str, merchant_id: str, amount: Money
) -> LedgerTransaction:
    """The order accepted late money."""
    return _move(
        key=f"payment:{payment_id}:v{version}:taken",
        kind="LATE_TAKEN",
        payment_id=payment_id,
        amount=amount,
        debit=unapplied_receipts(channel),
        credit=merchant_payable(merchant_id),
    )


def refused_by_order(
    *, payment_id: str, version: int, channel: str, merchant_id: str, amount: Money
) -> LedgerTransaction:
    """The order refused money, or another payment took its place."""
    return _move(
        key=f"payment:{payment_id}:v{version}:refused",
        kind="REFUSED",
        payment_id=payment_id,
        amount=amount,
        debit=merchant_payable(merchant_id),
        credit=unapplied_receipts(channel),
    )


def fee_charged(
    *, attempt_id: str, payment_id: str, channel: str, fee: Money, capture_id: str = ""
) -> LedgerTransaction:
    """The channel keeps a fee of a capture. `capture_id`: of a further capture of the same hold."""
    return _move(
        key=f"attempt:{attempt_id}:fee" + (f":{capture_id}" if capture_id else ""),
        kind=FEE,
        payment_id=payment_id,
        amount=fee,
        debit=channel_fee_expense(channel),
        credit=channel_receivable(channel),
    )


def fee_returned(*, refund_id: str, payment_id: str, channel: str, fee: Money) -> LedgerTransaction:
    """The channel gives a part of its fee back with a refund."""
    return _move(
        key=fee_returned_key(refund_id),
        kind="FEE_RETURNED",
        payment_id=payment_id,
        amount=fee,
        debit=channel_receivable(channel),
        credit=channel_fee_expense(channel),
    )


def fee_returned_key(refund_id: str) -> str:
    """Business key of what came back of a fee with a refund."""
    return f"refund:{refund_id}:fee"


def fee_share(fee: Money, *, captured: Money, refunded: Money, returned: Money) -> Money:
    """The share of a fee that comes back when `refunded` is out in all and `returned` of the fee
    came back before. Cumulative pro rata: the shares of a full refund add up to the fee exactly,
    also when a refund on the way bounced, whose share stays with us."""
    if captured.minor == 0:
        return Money.zero(fee.currency)
    return Money(
        max(0, fee.minor * refunded.minor // captured.minor - returned.minor), fee.currency
    )


def refund_reserved(
    *, refund_id: str, payment_id: str, channel: str, held_by: str, amount: Money
) -> LedgerTransaction:
    """Money is reserved: the account that held it owes it to the refund."""
    return _move(
        key=f"refund:{refund_id}:reserved",
        kind="REFUND_RESERVED",
        payment_id=payment_id,
        amount=amount,
        debit=held_by,
        credit=refund_payable(channel),
    )


def refund_released(
    *, refund_id: str, payment_id: str, channel: str, held_by: str, amount: Money
) -> LedgerTransaction:
    """The channel refused the refund, or it was cancelled: the reservation is released."""
    return _move(
        key=f"refund:{refund_id}:released",
        kind="REFUND_RELEASED",
        payment_id=payment_id,
        amount=amount,
        debit=refund_payable(channel),
        credit=held_by,
    )


def refunded(*, refund_id: str, payment: Payment, channel: str, amount: Money) -> LedgerTransaction:
    """The channel paid it out of what it owes us, or it is in the buyer's wallet again."""
    payer = (
        customer_wallet(payment.merchant_id, payment.user_id)
        if channel == WALLET
        else channel_receivable(channel)
    )
    return _move(
        key=f"refund:{refund_id}:success",
        kind="REFUNDED",
        payment_id=payment.payment_id,
        amount=amount,
        debit=refund_payable(channel),
        credit=payer,
    )


def refunded_directly(
    *, refund_id: str, payment_id: str, channel: str, source: str, amount: Money
) -> LedgerTransaction:
    """Money left for a refund whose reservation was gone."""
    return _move(
        key=f"refund:{refund_id}:success",
        kind="REFUNDED_LATE",
        payment_id=payment_id,
        amount=amount,
        debit=source,
        credit=channel_receivable(channel),
    )


def refund_bounced(
    *, refund_id: str, payment_id: str, channel: str, held_by: str, amount: Money
) -> LedgerTransaction:
    """It came back."""
    return _move(
        key=f"refund:{refund_id}:bounced",
        kind="REFUND_REVERSED",
        payment_id=payment_id,
        amount=amount,
        debit=channel_receivable(channel),
        credit=held_by,
    )


def holder(payment: Payment, *, stands_alone: bool, channel: str) -> str:
    """The account that holds the money of a payment now: the merchant's once the order has it,
    nobody's before and after a refusal.
    """
    if stands_alone or payment.state is not PaymentState.SUCCESS:
        return unapplied_receipts(channel)
    return merchant_payable(payment.merchant_id)


FEE = "FEE"  # kind of a transaction by which a channel keeps a fee of a capture
WRITTEN_OFF = "RECON_WRITTEN_OFF"  # kind of a transaction that ends a difference with a statement
LOSS = "loss"  # money out that nothing covers, with a reason beside it


def channel_fee_expense(channel: str) -> str:
    """What channels cost us (debit-normal)."""
    return f"channel_fee_expense:{channel}"


def refund_payable(channel: str) -> str:
    """Refunds that are reserved and not confirmed (credit-normal)."""
    return f"refund_payable:{channel}"


def channel_receivable(channel: str) -> str:
    """What a channel owes us (debit-normal)."""
    return f"channel_receivable:{channel}"


def merchant_payable(merchant_id: str) -> str:
    """What we owe a merchant (credit-normal)."""
    return f"merchant_payable:{merchant_id}"


def customer_wallet(merchant_id: str, user_id: str) -> str:
    """What a buyer has with us (credit-normal, never below zero). Users belong to a tenant."""
    return f"customer_wallet:{merchant_id}:{user_id}"


def unapplied_receipts(channel: str) -> str:
    """Money that no live payment owns (credit-normal)."""
    return f"unapplied_receipts:{channel}"


def _move(
    *, key: str, kind: str, payment_id: str, amount: Money, debit: str, credit: str
) -> LedgerTransaction:
    return LedgerTransaction(
        key=key,
        kind=kind,
        payment_id=payment_id,
        postings=(
            Posting(account=debit, side=Side.DEBIT, amount=amount),
            Posting(account=credit, side=Side.CREDIT, amount=amount),
        ),
    )

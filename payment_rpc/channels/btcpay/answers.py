"""Invoices, payments and payouts of a BTCPay Server as facts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final, NamedTuple, TypeVar

import msgspec

from mesh.money import Money
from payment_rpc.channels.btcpay.amounts import read_amount, worth
from payment_rpc.channels.doubt import Unclear, message_of
from payment_rpc.domain.facts import ChannelFact, ChannelStatus
from payment_rpc.domain.payment import NextAction
from payment_rpc.domain.refund_facts import RefundChannelStatus, RefundFact
from payment_rpc.domain.statement import first_plausible

PENDING, CAPTURED, UNKNOWN = (
    ChannelStatus.PENDING,
    ChannelStatus.CAPTURED,
    ChannelStatus.UNKNOWN,
)
# CAPTURED: what was paid and confirmed is read from the payments. UNKNOWN: somebody said so, or it
# contradicts itself; a person looks at it.
INVOICES: Final[Mapping[tuple[str, str], ChannelStatus]] = {
    ("New", "None"): PENDING,
    ("New", "PaidPartial"): PENDING,
    ("Processing", "None"): PENDING,
    ("Processing", "PaidOver"): PENDING,
    ("Processing", "Marked"): PENDING,
    ("Settled", "None"): CAPTURED,
    ("Settled", "PaidOver"): CAPTURED,
    ("Settled", "PaidLate"): CAPTURED,
    ("Settled", "Marked"): UNKNOWN,
    ("Expired", "None"): PENDING,  # coins may still come
    ("Expired", "PaidPartial"): CAPTURED,  # less than was due
    ("Expired", "PaidLate"): PENDING,  # not confirmed yet
    ("Invalid", "None"): PENDING,  # never confirmed, and may be yet
    ("Invalid", "PaidPartial"): UNKNOWN,
    ("Invalid", "PaidOver"): UNKNOWN,
    ("Invalid", "PaidLate"): UNKNOWN,
    ("Invalid", "Marked"): UNKNOWN,
}
OPEN: Final = ("New", "None")
SETTLED: Final = "Settled"
UNDER_WAY: Final = frozenset({"AwaitingApproval", "AwaitingPayment", "InProgress"})
COMPLETED, CANCELLED = "Completed", "Cancelled"
# nothing was made
REFUSED: Final = frozenset({400, 401, 403, 404, 422})
UNAVAILABLE: Final = (503, "payment-method-unavailable")

_URL: Final = re.compile(r"https?://[!-~]{1,2040}")
_QR_TEXT: Final = re.compile(r"[A-Za-z]{2,20}:[!-~]{1,2000}")
Id = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")]
T = TypeVar("T")


class Invoice(msgspec.Struct, frozen=True, rename="camel"):
    """An invoice. Unknown fields are ignored."""

    id: Id
    status: str
    additional_status: str
    amount: str
    currency: str
    created_time: int
    checkout_link: str = ""
    metadata: dict[str, Any] = {}

    @property
    def attempt_id(self) -> str:
        """Ours, "" without one."""
        found = self.metadata.get("orderId")
        return found if isinstance(found, str) else ""

    def money(self) -> Money:
        """What is due. Raises Unclear."""
        try:
            return read_amount(self.amount, self.currency)
        except ValueError as problem:
            raise Unclear(f"the invoice: {problem}") from None


class Payment(msgspec.Struct, frozen=True, rename="camel"):
    """Coins that came."""

    value: str
    status: str
    received_date: int


class Method(msgspec.Struct, frozen=True, rename="camel"):
    """A way to pay an invoice, and what came by it."""

    rate: str
    payment_link: str | None = None
    payments: tuple[Payment, ...] = ()


class PullPayment(msgspec.Struct, frozen=True):
    """A refund that its buyer claims."""

    id: Id
    amount: str
    currency: str
    name: str | None = None


class Payout(msgspec.Struct, frozen=True, rename="camel"):
    """A claim. Older servers call its money `amount`."""

    id: Id
    state: str
    original_amount: str | None = None
    amount: str | None = None


class _Error(msgspec.Struct, frozen=True):
    code: str = ""


class Paid(NamedTuple):
    """What was confirmed of an invoice, and when the last of it came."""

    amount: Money
    at: datetime | None


def decode(content: bytes, kind: type[T]) -> T:
    """An object.

    Raises:
        Unclear: it is none.
    """
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Unclear("the answer cannot be read") from None


def code_of(content: bytes) -> str:
    """The code of an error, or ""."""
    try:
        return msgspec.json.decode(content, type=_Error).code[:64]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""


def status_of(invoice: Invoice) -> ChannelStatus:
    """What an invoice's words mean.

    Raises:
        Unclear: nobody knows them.
    """
    found = INVOICES.get((invoice.status, invoice.additional_status))
    if found is None:
        words = message_of(f"{invoice.status}/{invoice.additional_status}")[:60]
        raise Unclear(f"the invoice is {words!r}, which nobody knows")
    return found


def paid_of(invoice: Invoice, methods: Sequence[Method]) -> Paid:
    """What was confirmed, at the rates of the invoice.

    Raises:
        Unclear: it cannot be read.
    """
    settled = [(one, each.rate) for each in methods for one in each.payments]
    settled = [(one, rate) for one, rate in settled if one.status == SETTLED]
    try:
        amount = worth(
            [one.value for one, _ in settled], [rate for _, rate in settled], invoice.currency
        )
        last = max((one.received_date for one, _ in settled), default=None)
        at = None if last is None else first_plausible(datetime.fromtimestamp(last, UTC))
    except (ValueError, OverflowError, OSError) as problem:
        raise Unclear(f"the payments: {problem}") from None
    return Paid(amount, at)


def read_attempt(
    invoices: Sequence[tuple[Invoice, Sequence[Method]]], *, attempt_id: str, ref: str
) -> ChannelFact:
    """The fact in all invoices of one attempt, the oldest first. Every one of them can be paid. The
    first that was paid in full is the attempt's; all else that came is surplus.

    Args:
        invoices: with their payments, where `status_of` says CAPTURED.

    Raises:
        Unclear: words that nobody knows, or a contradiction.
    """
    taken = list[tuple[Invoice, Money, Money, datetime | None]]()
    doubt = ""
    for invoice, methods in invoices:
        status = status_of(invoice)
        if status is UNKNOWN:
            doubt = f"somebody has to look at invoice {invoice.id}"
        if status is not CAPTURED:
            continue
        due, paid = invoice.money(), paid_of(invoice, methods)
        is_full = invoice.status == SETTLED
        if not is_full and not paid.amount.minor:
            continue  # a part that is not confirmed yet
        # what is settled counts as what is due, whatever the rounding of coins
        amount = due if is_full else paid.amount
        more = max(paid.amount.minor - amount.minor, 0)
        taken.append((invoice, amount, Money(more, due.currency), paid.at))
    if not taken:
        if doubt:
            raise Unclear(doubt)
        first = invoices[0][0]
        return ChannelFact(
            attempt_id=attempt_id,
            status=PENDING,
            amount=first.money(),
            next_action=_still_shown(first),
            ref=ref,
        )
    taken.sort(key=lambda one: one[0].status != SETTLED)
    invoice, amount, own_surplus, at = taken[0]
    others = taken[1:]
    if any(one[1].currency != amount.currency for one in others):
        raise Unclear("the attempt's invoices have several currencies")
    surplus = own_surplus.minor + sum(one[1].minor + one[2].minor for one in others)
    return ChannelFact(
        attempt_id=attempt_id,
        status=CAPTURED,
        amount=amount,
        trade_no=invoice.id,
        occurred_at=at,
        fee=Money.zero(amount.currency),
        surplus=Money(surplus, amount.currency) if surplus else None,
        message=doubt,
        ref=ref,
    )


def _still_shown(invoice: Invoice) -> NextAction | None:
    """The page of an invoice that waits for its buyer: who made it may have died before he told."""
    is_open = (invoice.status, invoice.additional_status) == OPEN
    return page_of(invoice) if is_open and _URL.fullmatch(invoice.checkout_link) else None


def page_of(invoice: Invoice) -> NextAction:
    """Where the buyer pays.

    Raises:
        Unclear: the address is none.
    """
    if not _URL.fullmatch(invoice.checkout_link):  # it is shown to the buyer's browser
        raise Unclear("the address of the page is not one")
    return NextAction(kind="REDIRECT_URL", value=invoice.checkout_link)


def code_to_scan(methods: Sequence[Method]) -> NextAction:
    """What the buyer's wallet scans.

    Raises:
        Unclear: there is none.
    """
    for method in methods:
        if method.payment_link and _QR_TEXT.fullmatch(method.payment_link):
            return NextAction(kind="QR_CODE", value=method.payment_link)
    raise Unclear("there is no code to scan")


def read_refund(
    pull_payment: PullPayment, payouts: Sequence[Payout], *, refund_id: str, amount: Money
) -> RefundFact:
    """The fact in a claim and its payouts: the buyer may never claim it, and may claim it in parts.

    Raises:
        Unclear: of another amount, or words that nobody knows.
    """
    try:
        told = read_amount(pull_payment.amount, pull_payment.currency)
    except ValueError as problem:
        raise Unclear(f"the refund: {problem}") from None
    if told != amount:
        raise Unclear("the refund has another amount")
    done = 0
    for payout in payouts:
        if payout.state == COMPLETED:
            done += _claimed(payout, amount.currency).minor
        elif payout.state not in UNDER_WAY and payout.state != CANCELLED:
            raise Unclear("a payout has an unknown state")
    is_done = done >= amount.minor
    return RefundFact(
        refund_id=refund_id,
        status=RefundChannelStatus.SUCCESS if is_done else RefundChannelStatus.PENDING,
        channel_refund_no=pull_payment.id,
    )


def _claimed(payout: Payout, currency: str) -> Money:
    text = payout.original_amount or payout.amount
    if text is None:
        raise Unclear("a payout has no amount")
    try:
        return read_amount(text, currency)
    except ValueError as problem:
        raise Unclear(f"a payout: {problem}") from None

"""Stripe's objects as far as they are read. Fields that are not named here are ignored; a field
that is there with another type makes the whole object unreadable.
"""

from __future__ import annotations

from typing import Any

import msgspec

# raised by msgspec for bytes that do not match the struct
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class BalanceTransaction(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the account's balance; `fee` is in its currency, that of the bank account."""

    id: str
    currency: str
    amount: int
    fee: int
    created: int


class _Card(msgspec.Struct, frozen=True, kw_only=True):
    capture_before: int | None = None


class _MethodDetails(msgspec.Struct, frozen=True, kw_only=True):
    card: _Card | None = None


class Charge(msgspec.Struct, frozen=True, kw_only=True):
    """Money taken or held. Without `expand` its balance transaction is an id only."""

    id: str
    created: int
    balance_transaction: BalanceTransaction | str | None = None
    payment_method_details: _MethodDetails | None = None


class PaymentError(msgspec.Struct, frozen=True, kw_only=True):
    """Why a payment method was declined."""

    code: str | None = None
    decline_code: str | None = None
    message: str | None = None


class PaymentIntent(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="object", tag="payment_intent"
):
    """A payment. `next_action` is read by its type."""

    id: str
    status: str
    amount: int
    currency: str
    livemode: bool = False
    amount_received: int | None = None
    amount_capturable: int | None = None
    client_secret: str | None = None
    next_action: dict[str, Any] | None = None
    latest_charge: Charge | str | None = None
    last_payment_error: PaymentError | None = None
    canceled_at: int | None = None
    metadata: dict[str, str] = {}

    @property
    def charge(self) -> Charge | None:
        """The charge, where it was expanded."""
        return self.latest_charge if isinstance(self.latest_charge, Charge) else None


class Session(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="object", tag="checkout.session"
):
    """A hosted page. Its PaymentIntent exists from the first try of the buyer on."""

    id: str
    status: str | None
    amount_total: int | None = None
    currency: str | None = None
    url: str | None = None
    payment_intent: str | None = None
    metadata: dict[str, str] = {}


class Refund(msgspec.Struct, frozen=True, kw_only=True, tag_field="object", tag="refund"):
    """A refund."""

    id: str
    status: str
    amount: int
    currency: str
    created: int = 0
    payment_intent: str | None = None
    failure_reason: str | None = None
    balance_transaction: str | None = None
    failure_balance_transaction: str | None = None
    metadata: dict[str, str] = {}


class RefundList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of refunds, newest first."""

    data: list[Refund]
    has_more: bool


class _EvidenceDetails(msgspec.Struct, frozen=True, kw_only=True):
    due_by: int | None = None


class Dispute(msgspec.Struct, frozen=True, kw_only=True, tag_field="object", tag="dispute"):
    """A dispute, or an inquiry (`warning_…`), which takes no money yet."""

    id: str
    status: str
    amount: int
    currency: str
    reason: str = ""
    payment_intent: str | None = None
    balance_transactions: list[BalanceTransaction] = []
    evidence_details: _EvidenceDetails | None = None


class Error(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in an answer that refuses."""

    type: str = ""
    code: str | None = None
    decline_code: str | None = None
    message: str | None = None
    param: str | None = None
    payment_intent: PaymentIntent | None = None


class _ErrorAnswer(msgspec.Struct, frozen=True, kw_only=True):
    error: Error


def error_of(body: bytes) -> Error:
    """The error in an answer; an empty one where it cannot be read."""
    try:
        return msgspec.json.decode(body, type=_ErrorAnswer).error
    except UNREADABLE:
        return Error()

"""Defines the messages of the channel's HTTP API: requests as strict structs, transactions as JSON.
Amounts are decimal strings in major units.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, TypeVar

import msgspec

from mesh.errors import InvalidArgument
from mesh.money import Money
from mesh.times import rfc3339
from sandbox import cards
from sandbox.domain import InvalidRequest, Refund, Status, Transaction

R = TypeVar("R", bound=msgspec.Struct)

ATTEMPT_ID = r"^[A-Za-z0-9_-]{1,64}\Z"

AttemptId = Annotated[str, msgspec.Meta(pattern=ATTEMPT_ID)]
Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class CardInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A card. It is never printed."""

    number: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{12,19}\Z")]
    cvv: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{3,4}\Z")]
    expiration_year: Annotated[int, msgspec.Meta(ge=2000, le=2099)]
    expiration_month: Annotated[int, msgspec.Meta(ge=1, le=12)]

    def __repr__(self) -> str:
        return "CardInput(hidden)"

    def card(self) -> cards.Card:
        """The card without its CVV, which is not used again."""
        return cards.Card(
            number=self.number,
            expiration_year=self.expiration_year,
            expiration_month=self.expiration_month,
        )


class ChargeRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /v1/charges."""

    attempt_id: AttemptId
    amount: str
    currency: str
    card: CardInput
    expires_at: Moment | None = None


class CheckoutRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /v1/checkouts."""

    attempt_id: AttemptId
    amount: str
    currency: str
    subject: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    expires_at: Moment
    # shown as a link: no other scheme
    return_url: Annotated[str, msgspec.Meta(pattern=r"^(https?://[!-~]{1,500})?\Z")] = ""
    merchant_name: Annotated[str, msgspec.Meta(max_length=100)] = ""
    description: Annotated[str, msgspec.Meta(max_length=500)] = ""


class RefundRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /v1/refunds."""

    refund_id: AttemptId
    attempt_id: AttemptId
    amount: str
    currency: str
    reason: Annotated[str, msgspec.Meta(max_length=256)] = ""


class PlantRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /v1/statements/{date}/plant. Without kinds: all of them in turn."""

    count: Annotated[int, msgspec.Meta(ge=1, le=1000)]
    seed: int | str = 0
    kinds: tuple[str, ...] = ()


class SignatureRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /v1/transactions/{attempt_id}/signature. The fixed patterns keep the fields of
    an unseparated text apart.
    """

    payment_id: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,32}\Z")]
    callback_status: Annotated[str, msgspec.Meta(pattern=r"^(SUCCESS|FAILED)\Z")]
    timestamp: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{13}\Z")]
    nonce: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z][A-Za-z0-9]{0,63}\Z")]


def decode(body: bytes, kind: type[R]) -> R:
    """Reads a request.

    Raises:
        InvalidRequest: names the invalid field, never its value.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidRequest(str(error)) from None


def money(amount: str, currency: str) -> Money:
    """Reads an amount.

    Raises:
        InvalidRequest: not a decimal string of that currency above zero.
    """
    try:
        return Money.parse(amount, currency)
    except InvalidArgument as error:
        raise InvalidRequest(error.message) from None


def transaction_json(transaction: Transaction, *, cashier_url: str | None) -> dict[str, object]:
    """A transaction as every endpoint answers it. Amount and currency are null for a tombstone."""
    amount, fee = transaction.shown_amount, transaction.fee
    return {
        "attempt_id": transaction.attempt_id,
        "trade_no": transaction.trade_no,
        "kind": transaction.kind,
        "status": transaction.status,
        "amount": amount.format() if amount else None,
        "currency": amount.currency if amount else None,
        "fee": fee.format() if fee else None,
        "decline_code": transaction.decline_code,
        "message": transaction.message,
        "duplicate_of": transaction.duplicate_of,
        "card": {"brand": transaction.card_brand, "last4": transaction.card_last4}
        if transaction.card_last4
        else None,
        "created_at": _rfc3339(transaction.created_at),
        "expires_at": _rfc3339(transaction.expires_at),
        "finished_at": _rfc3339(transaction.finished_at),
        "captured_at": _rfc3339(
            transaction.finished_at if transaction.status is Status.CAPTURED else None
        ),
        "cashier_url": cashier_url,
    }


def refund_json(refund: Refund) -> dict[str, object]:
    """A refund as every endpoint answers it. `fee_returned` is null until it was a SUCCESS."""
    return {
        "refund_id": refund.refund_id,
        "refund_no": refund.refund_no,
        "attempt_id": refund.attempt_id,
        "status": refund.status,
        "amount": refund.amount.format(),
        "currency": refund.amount.currency,
        "fee_returned": refund.fee_returned.format() if refund.fee_returned else None,
        "code": refund.code,
        "message": refund.message,
        "reason": refund.reason,
        "created_at": _rfc3339(refund.created_at),
        "finished_at": _rfc3339(refund.finished_at),
        "reversed_at": _rfc3339(refund.reversed_at),
        "occurred_at": _rfc3339(refund.occurred_at),
    }


def callback_body(transaction: Transaction, *, event_id: str) -> bytes:
    """The bytes of a callback: written once, so that every delivery carries the same."""
    amount, fee = transaction.shown_amount, transaction.fee
    return _compact(
        {
            "event_id": event_id,
            "kind": "payment",
            "attempt_id": transaction.attempt_id,
            "trade_no": transaction.trade_no,
            "status": transaction.status,
            "amount": amount.format() if amount else None,
            "currency": amount.currency if amount else None,
            "fee": fee.format() if fee else None,
            "decline_code": transaction.decline_code,
            "message": transaction.message,
            "duplicate_of": transaction.duplicate_of,
            "occurred_at": _rfc3339(transaction.finished_at),
        }
    )


def refund_callback_body(refund: Refund, *, event_id: str) -> bytes:
    """The bytes of a callback about a refund."""
    told = (
        "refund_id",
        "attempt_id",
        "refund_no",
        "status",
        "amount",
        "currency",
        "fee_returned",
        "reason",
        "code",
        "message",
        "occurred_at",
    )
    shown = refund_json(refund)
    return _compact(
        {"event_id": event_id, "kind": "refund", **{name: shown[name] for name in told}}
    )


def _compact(content: dict[str, object]) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


def _rfc3339(moment: datetime | None) -> str | None:
    return None if moment is None else rfc3339(moment)

"""Bodies of requests. What BTCPay Server does not know, or knows as another type, is refused."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from mesh.errors import InvalidArgument
from mesh.money import Money
from sandbox.providers.btcpay.refusals import invalid

T = TypeVar("T")

Minutes = Annotated[int, msgspec.Meta(ge=1, le=60 * 24 * 365)]
_PATH = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")


class Checkout(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """Settings of an invoice's page and of how long it is watched."""

    speed_policy: Literal["HighSpeed", "MediumSpeed", "LowMediumSpeed", "LowSpeed"] = "MediumSpeed"
    payment_methods: list[str] | None = None
    default_payment_method: str | None = None
    lazy_payment_methods: bool | None = None
    expiration_minutes: Minutes = 15
    monitoring_minutes: Minutes = 1440
    payment_tolerance: Annotated[int, msgspec.Meta(ge=0, le=100)] = 0
    redirect_url: str | None = msgspec.field(name="redirectURL", default=None)
    redirect_automatically: bool = False
    requires_refund_email: bool | None = None
    default_language: str | None = None


class CreateInvoice(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """POST /api/v1/stores/{s}/invoices."""

    currency: str
    amount: str | None = None
    type: Literal["Standard", "TopUp"] | None = None
    metadata: dict[str, Any] = {}
    checkout: Checkout = msgspec.field(default_factory=Checkout)
    receipt: dict[str, Any] | None = None
    additional_search_terms: list[str] | None = None


class MarkInvoice(msgspec.Struct, forbid_unknown_fields=True):
    """POST …/invoices/{id}/status."""

    status: Literal["Invalid", "Settled"]


class RefundInvoice(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """POST …/invoices/{id}/refund."""

    refund_variant: Literal["RateThen", "CurrentRate", "OverpaidAmount", "Fiat", "Custom"]
    payout_methods: list[str] | None = None
    payout_method_id: str | None = None
    name: Annotated[str, msgspec.Meta(max_length=50)] | None = None
    description: str | None = None
    subtract_percentage: Annotated[int, msgspec.Meta(ge=0, le=100)] | str = 0
    custom_amount: str | None = None
    custom_currency: str | None = None


class CreateWebhook(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """POST /api/v1/stores/{s}/webhooks."""

    url: Annotated[str, msgspec.Meta(pattern=r"^https?://[!-~]{1,500}$")]
    enabled: bool = True
    automatic_redelivery: bool = True
    authorized_events: dict[str, Any] | None = None
    secret: str | None = None


def decode(raw: bytes, kind: type[T]) -> T:
    """A body as the type of its call.

    Raises:
        Refused: 422; it is no JSON, or a field is missing, unknown or of another type.
    """
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as problem:
        path = _PATH.search(str(problem))
        raise invalid(path["path"] if path else "", str(problem)) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise invalid("", "Malformed JSON") from None


def read_money(text: str, currency: str, *, path: str, currency_path: str = "currency") -> Money:
    """An amount of a request.

    Raises:
        Refused: 422; no such currency, no such amount, or zero.
    """
    try:
        return Money.parse(text, currency, field=path, currency_field=currency_path)
    except InvalidArgument as problem:
        where = currency_path if currency_path in problem.fields else path
        raise invalid(where, str(problem)) from None

"""Bodies of requests. What PayPal does not know, or knows as another type, is refused."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from sandbox.providers.paypal.refusals import invalid

T = TypeVar("T")

Text127 = Annotated[str, msgspec.Meta(min_length=1, max_length=127)]
Text255 = Annotated[str, msgspec.Meta(max_length=255)]
Url = Annotated[str, msgspec.Meta(pattern=r"^https?://[!-~]{1,2000}$")]

_REQUIRED = re.compile(r"missing required field `(?P<name>[^`]+)`")
_UNKNOWN = re.compile(r"unknown field `(?P<name>[^`]+)`")
_PATH = re.compile(r" - at `\$(?P<path>[^`]*)`$")
_SYNTAX = re.compile(r"matching regex|length")


class Amount(msgspec.Struct, forbid_unknown_fields=True):
    """An amount. The breakdown is taken as it is."""

    currency_code: Annotated[str, msgspec.Meta(pattern="^[A-Z]{3}$")]
    value: Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
    breakdown: dict[str, Any] | None = None


class PurchaseUnit(msgspec.Struct, forbid_unknown_fields=True):
    """What is bought."""

    amount: Amount
    reference_id: Annotated[str, msgspec.Meta(min_length=1, max_length=256)] = "default"
    description: Annotated[str, msgspec.Meta(max_length=127)] = ""
    custom_id: Text127 | None = None
    invoice_id: Text127 | None = None
    soft_descriptor: Annotated[str, msgspec.Meta(max_length=22)] = ""
    payee: dict[str, Any] | None = None
    payment_instruction: dict[str, Any] | None = None
    items: list[dict[str, Any]] | None = None
    shipping: dict[str, Any] | None = None
    supplementary_data: dict[str, Any] | None = None


class ExperienceContext(msgspec.Struct, forbid_unknown_fields=True):
    """How the buyer is led."""

    return_url: Url = ""
    cancel_url: Url = ""
    brand_name: Annotated[str, msgspec.Meta(max_length=127)] = ""
    locale: Annotated[str, msgspec.Meta(pattern="^[a-z]{2}([A-Za-z-]{0,8})$")] = "en-US"
    shipping_preference: Literal["GET_FROM_FILE", "NO_SHIPPING", "SET_PROVIDED_ADDRESS"] = (
        "GET_FROM_FILE"
    )
    user_action: Literal["CONTINUE", "PAY_NOW"] = "CONTINUE"
    landing_page: Literal["LOGIN", "GUEST_CHECKOUT", "NO_PREFERENCE", "BILLING"] = "NO_PREFERENCE"
    payment_method_preference: Literal["UNRESTRICTED", "IMMEDIATE_PAYMENT_REQUIRED"] = (
        "UNRESTRICTED"
    )
    contact_preference: str = ""


class Wallet(msgspec.Struct, forbid_unknown_fields=True):
    """PayPal's own wallet. What identifies a buyer is taken as it is."""

    experience_context: ExperienceContext = msgspec.field(default_factory=ExperienceContext)
    email_address: str = ""
    name: dict[str, Any] | None = None
    phone: dict[str, Any] | None = None
    address: dict[str, Any] | None = None
    attributes: dict[str, Any] | None = None


class PaymentSource(msgspec.Struct, forbid_unknown_fields=True):
    """With what is paid. Only the wallet is simulated."""

    paypal: Wallet


class ApplicationContext(msgspec.Struct):
    """The older place of what now stands in the experience context."""

    return_url: Url = ""
    cancel_url: Url = ""


class CreateOrder(msgspec.Struct, forbid_unknown_fields=True):
    """POST /v2/checkout/orders."""

    intent: Literal["CAPTURE", "AUTHORIZE"]
    purchase_units: Annotated[list[PurchaseUnit], msgspec.Meta(min_length=1, max_length=10)]
    payment_source: PaymentSource | None = None
    processing_instruction: Literal["NO_INSTRUCTION", "ORDER_COMPLETE_ON_PAYMENT_APPROVAL"] = (
        "NO_INSTRUCTION"
    )
    payer: dict[str, Any] | None = None
    application_context: ApplicationContext | None = None


class FinishOrder(msgspec.Struct, forbid_unknown_fields=True):
    """POST /v2/checkout/orders/{id}/capture and …/authorize."""

    payment_source: dict[str, Any] | None = None


class CaptureAuthorization(msgspec.Struct, forbid_unknown_fields=True):
    """POST /v2/payments/authorizations/{id}/capture."""

    amount: Amount | None = None
    final_capture: bool = False
    invoice_id: Text127 | None = None
    note_to_payer: Text255 = ""
    soft_descriptor: Annotated[str, msgspec.Meta(max_length=22)] = ""
    payment_instruction: dict[str, Any] | None = None


class Reauthorize(msgspec.Struct, forbid_unknown_fields=True):
    """POST /v2/payments/authorizations/{id}/reauthorize."""

    amount: Amount | None = None


class RefundCapture(msgspec.Struct, forbid_unknown_fields=True):
    """POST /v2/payments/captures/{id}/refund."""

    amount: Amount | None = None
    custom_id: Text127 | None = None
    invoice_id: Text127 | None = None
    note_to_payer: Text255 = ""
    payment_instruction: dict[str, Any] | None = None


class VerifySignature(msgspec.Struct, forbid_unknown_fields=True):
    """POST /v1/notifications/verify-webhook-signature. The event keeps its bytes."""

    auth_algo: str
    cert_url: str
    transmission_id: str
    transmission_sig: str
    transmission_time: str
    webhook_id: str
    webhook_event: msgspec.Raw


class Resend(msgspec.Struct):
    """POST /v1/notifications/webhooks-events/{id}/resend."""

    webhook_ids: list[str] = []


def decode(raw: bytes, kind: type[T]) -> T:
    """A body as the type of its call; an empty one is an empty object.

    Raises:
        Refused: 400; it is no JSON, or a field is missing, unknown or of another type.
    """
    try:
        return msgspec.json.decode(raw or b"{}", type=kind)
    except msgspec.ValidationError as problem:
        text = str(problem)
        path = _PATH.search(text)
        where = (
            "/" + re.sub(r"[.\[]", "/", path["path"]).replace("]", "").strip("/") if path else ""
        )
        if missing := _REQUIRED.search(text):
            raise invalid("MISSING_REQUIRED_PARAMETER", f"{where}/{missing['name']}") from None
        if unknown := _UNKNOWN.search(text):
            raise invalid("INVALID_PARAMETER_SYNTAX", f"{where}/{unknown['name']}", text) from None
        issue = "INVALID_PARAMETER_SYNTAX" if _SYNTAX.search(text) else "INVALID_PARAMETER_VALUE"
        raise invalid(issue, where, text) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise invalid("MALFORMED_REQUEST_JSON", "") from None

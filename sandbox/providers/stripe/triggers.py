"""What makes the simulated Stripe misbehave: the published test cards, and amounts of our own for
what no card stands for. `STEP_SECONDS` of the simulation's clock lie between two steps.

Cards succeed unless the table says otherwise; a number can be typed on the pages, the API takes the
token only. Amounts, in the smallest unit, count by their last four digits:

| payment ends in | effect |
|---|---|
| 7721 | processing, then succeeded |
| 7722 | processing, then payment_failed |
| 7723 | processing for ever; cancel is refused |
| 7724 | declined with do_not_honor, advice try_again_later |
| 7725 | declined as fraudulent, advice do_not_try_again |
| 7726 | authorization that runs out after 60 seconds |
| 7727 | the PaymentIntent says a status that nobody knows, while it has succeeded |
| 7728 | the next action has a type that nobody knows; the buyer's deed `approve` ends it |
| 7729 | every event of the payment is told by two Event objects |

| refund ends in | effect |
|---|---|
| 7741 | requires_action; may be cancelled, ends with the buyer's deed `pay` |
| 7742 | pending (processing), then succeeded |
| 7743 | pending (processing), then failed (declined) |
| 7744 | pending (insufficient_funds), then succeeded |
| 7745 | failed at once (lost_or_stolen_card) |
| 7746 | pending (charge_pending), then canceled |
| 7747 | succeeded, then failed (expired_or_canceled_card) |
| 7748 | refused with 402 (insufficient_funds) |
| 7749 | a status that nobody knows, while it has succeeded |
| 7750 | pending, then failed (insufficient_funds) |
| 7751 | pending, then failed (merchant_request) |
| 7752 | pending, then failed (charge_for_pending_refund_disputed) |
| 7753 | pending, then failed (unknown) |
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

STEP_SECONDS: Final = 60.0
UNKNOWN_STATUS: Final = "brand_new_status"
UNKNOWN_ACTION: Final = "brand_new_action"
_DIGITS: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Decline:
    """Why a card is refused. `decline_code` is None where the code says it all."""

    code: str = "card_declined"
    decline_code: str | None = None
    advice_code: str | None = None
    blocked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A payment method and what becomes of it.

    Attributes:
        number: "" for methods that are no card.
        authenticate: "always", or "off_session" when the buyer is away, or "on_session" when he is
            there; "" never.
        processing: "succeeded" or "failed" after a step, "forever", "" for no processing at all.
        dispute: the reason of the dispute that follows. inquiry: it takes no money.
        refund: the ending of a refund amount (see above) that every refund follows.
        action: the type of the next action of a method that is no card.
    """

    kind: str = "card"
    pm: str = ""
    number: str = ""
    brand: str = "visa"
    decline: Decline | None = None
    authenticate: str = ""
    processing: str = ""
    dispute: str = ""
    inquiry: bool = False
    fraud_warning: bool = False
    risk: str = "normal"
    refund: int = 0
    action: str = ""

    @property
    def last4(self) -> str:
        """The last digits that statements show."""
        return self.number[-4:] or "0000"


def _declined(number: str, pm: str, decline: Decline) -> Method:
    return Method(number=number, pm=pm, decline=decline)


def _code(decline_code: str, advice: str | None = None) -> Decline:
    return Decline(decline_code=decline_code, advice_code=advice)


_GENERIC = _code("generic_decline", "try_again_later")
_NEVER = "do_not_try_again"
_D = "pm_card_visa_chargeDeclined"

METHODS: Final = (
    Method(number="4242424242424242", pm="pm_card_visa"),
    Method(number="4000056655665556", pm="pm_card_visa_debit"),
    Method(number="5555555555554444", pm="pm_card_mastercard", brand="mastercard"),
    Method(number="378282246310005", pm="pm_card_amex", brand="amex"),
    Method(number="6011111111111117", pm="pm_card_discover", brand="discover"),
    _declined("4000000000000002", _D, _GENERIC),
    _declined("4000000000009995", f"{_D}InsufficientFunds", _code("insufficient_funds")),
    _declined("4000000000009987", f"{_D}LostCard", _code("lost_card", _NEVER)),
    _declined("4000000000009979", f"{_D}StolenCard", _code("stolen_card", _NEVER)),
    _declined("4000000000000069", f"{_D}ExpiredCard", Decline(code="expired_card")),
    _declined("4000000000000127", f"{_D}IncorrectCvc", Decline(code="incorrect_cvc")),
    _declined("4000000000000119", f"{_D}ProcessingError", Decline(code="processing_error")),
    _declined("4000000000006975", f"{_D}VelocityLimitExceeded", _code("card_velocity_exceeded")),
    _declined("4000000000000341", "pm_card_chargeCustomerFail", _GENERIC),
    Method(
        number="4000002500003155",
        pm="pm_card_authenticationRequiredOnSetup",
        authenticate="on_session",
    ),
    Method(number="4000002760003184", pm="pm_card_authenticationRequired", authenticate="always"),
    Method(number="4000000000003220", pm="pm_card_threeDSecure2Required", authenticate="always"),
    Method(number="4000000000003055"),
    Method(number="4000008400001629", authenticate="always", decline=_GENERIC),
    Method(
        number="4000008400001280", authenticate="always", decline=Decline(code="processing_error")
    ),
    Method(number="4000003800000446", authenticate="off_session"),
    Method(number="4000000000000077", pm="pm_card_bypassPending"),
    Method(number="4000000000007726", pm="pm_card_pendingRefund", refund=7742),
    Method(number="4000000000005126", pm="pm_card_refundFail", refund=7747),
    Method(number="4000000000000259", pm="pm_card_createDispute", dispute="fraudulent"),
    Method(
        number="4000000000002685",
        pm="pm_card_createDisputeProductNotReceived",
        dispute="product_not_received",
    ),
    Method(
        number="4000000000001976",
        pm="pm_card_createDisputeInquiry",
        dispute="fraudulent",
        inquiry=True,
    ),
    Method(number="4000000000005423", fraud_warning=True),
    Method(
        number="4100000000000019",
        pm="pm_card_radarBlock",
        risk="highest",
        decline=Decline(decline_code="fraudulent", advice_code=_NEVER, blocked=True),
    ),
    Method(number="4000000000004954", risk="highest"),
    Method(number="4000000000009235", risk="elevated"),
)
BY_TOKEN: Final = {method.pm: method for method in METHODS if method.pm}
BY_NUMBER: Final = {method.number: method for method in METHODS}
# fails the Luhn check
INCORRECT_NUMBER: Final = Method(
    number="4242424242424241", decline=Decline(code="incorrect_number")
)
# account numbers of debits: they are in `processing` first
_SEPA: Final = {"AT321904300235473204": "succeeded", "AT861904300235473202": "failed"}
_ACH: Final = {
    "000123456789": "succeeded",
    "000222222227": "failed",
    "000000000009": "forever",
}
ACH_ROUTING: Final = "110000000"
# methods that send the buyer elsewhere, and the type of the next action
WALLETS: Final = {"wechat_pay": "wechat_pay_display_qr_code", "alipay": "alipay_handle_redirect"}
KINDS: Final = ("card", "sepa_debit", "us_bank_account", *WALLETS)


def debit(kind: str, account: str) -> Method:
    """A debit from an account; one that is not published succeeds."""
    ends = (_SEPA if kind == "sepa_debit" else _ACH).get(account, "succeeded")
    return Method(kind=kind, number=account, brand="", processing=ends)


def wallet(kind: str) -> Method:
    """WeChat Pay or Alipay."""
    return Method(kind=kind, brand="", action=WALLETS[kind])


def with_amount(method: Method, amount: int) -> Method:
    """The method as an amount of the payment changes it."""
    match amount % _DIGITS:
        case 7721:
            return replace(method, processing="succeeded")
        case 7722:
            return replace(method, processing="failed")
        case 7723:
            return replace(method, processing="forever")
        case 7724:
            return replace(method, decline=_code("do_not_honor", "try_again_later"))
        case 7725:
            return replace(method, decline=_code("fraudulent", _NEVER))
        case 7728:
            return replace(method, action=UNKNOWN_ACTION)
        case _:
            return method


def runs_out_soon(amount: int) -> bool:
    """Whether an authorization runs out after a step instead of days."""
    return amount % _DIGITS == 7726


def hides_status(amount: int) -> bool:
    """Whether a succeeded payment says a status that nobody knows."""
    return amount % _DIGITS == 7727


def doubles_events(amount: int) -> bool:
    """Whether each change is told by two Event objects."""
    return amount % _DIGITS == 7729


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundPlan:
    """What becomes of a refund.

    Attributes:
        first, then: statuses, at once and after a step; `then` is "" for none.
        reason: why it fails or waits.
    """

    first: str = "succeeded"
    then: str = ""
    pending_reason: str | None = None
    failure_reason: str | None = None
    refused: bool = False


_PLANS: Final = {
    7741: RefundPlan(first="requires_action"),
    7742: RefundPlan(first="pending", then="succeeded", pending_reason="processing"),
    7744: RefundPlan(first="pending", then="succeeded", pending_reason="insufficient_funds"),
    7745: RefundPlan(first="failed", failure_reason="lost_or_stolen_card"),
    7746: RefundPlan(first="pending", then="canceled", pending_reason="charge_pending"),
    7747: RefundPlan(then="failed", failure_reason="expired_or_canceled_card"),
    7748: RefundPlan(refused=True),
    7749: RefundPlan(first=UNKNOWN_STATUS),
    **{
        ending: RefundPlan(
            first="pending", then="failed", pending_reason="processing", failure_reason=reason
        )
        for ending, reason in (
            (7743, "declined"),
            (7750, "insufficient_funds"),
            (7751, "merchant_request"),
            (7752, "charge_for_pending_refund_disputed"),
            (7753, "unknown"),
        )
    },
}


def refund_plan(amount: int, method: Method) -> RefundPlan:
    """What becomes of a refund of this amount; the amount goes before the card."""
    ending = amount % _DIGITS
    return _PLANS.get(ending) or _PLANS.get(method.refund) or RefundPlan()

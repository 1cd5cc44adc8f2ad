"""What Stripe's objects mean, as facts. Words that are not in the tables are `Unclear`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from mesh.money import Money
from mesh.times import EPOCH
from payment_rpc.channels.doubt import Unclear, message_of
from payment_rpc.channels.stripe.amounts import from_stripe
from payment_rpc.channels.stripe.objects import (
    BalanceTransaction,
    PaymentError,
    PaymentIntent,
    Refund,
    Session,
)
from payment_rpc.domain.facts import ChannelFact, ChannelStatus
from payment_rpc.domain.payment import NextAction
from payment_rpc.domain.refund_facts import RefundChannelStatus, RefundFact
from payment_rpc.domain.statement import first_plausible

# keys of the metadata that we give to Stripe's objects
ATTEMPT = "attempt_id"
REFUND = "refund_id"
FLOW = "flow"
RETURN_URL = ("return_url", "return_url_2")  # a value of metadata has at most 500 characters

# values of FLOW: who confirms the payment
TOKEN = "token"  # noqa: S105  we do; nobody else can
CLIENT = "client"  # the buyer's browser, with the client secret
HOSTED = "hosted"  # Stripe's page

_REF = re.compile(r"(?:pi|cs)_[A-Za-z0-9_]{1,250}")
_REFUND_NO = re.compile(r"[A-Za-z0-9_]{1,64}")
_TRADE_NO_MAX = 64
_URL = re.compile(r"https?://[!-~]{1,4088}")
_SECRET = re.compile(r"[!-~]{1,500}")
_SECONDS_MAX = 7_258_118_400  # of the year 2200

_STATUSES = {
    "requires_payment_method": ChannelStatus.PENDING,
    "requires_confirmation": ChannelStatus.PENDING,
    "requires_action": ChannelStatus.PENDING,
    "processing": ChannelStatus.PENDING,
    "requires_capture": ChannelStatus.AUTHORIZED,
    "succeeded": ChannelStatus.CAPTURED,
    "canceled": ChannelStatus.CLOSED,
}
_REFUND_STATUSES = {
    "pending": RefundChannelStatus.PENDING,
    "requires_action": RefundChannelStatus.PENDING,
    "succeeded": RefundChannelStatus.SUCCESS,
    "failed": RefundChannelStatus.FAILED,
    "canceled": RefundChannelStatus.FAILED,
}
# A thief shall not learn that the card is known to be stolen.
_SILENT = frozenset(
    {"fraudulent", "lost_card", "stolen_card", "pickup_card", "restricted_card"}
    | {"merchant_blacklist", "security_violation"}
)
_SILENT_MESSAGE = "Your card was declined."


def moment(seconds: int | None) -> datetime | None:
    """A time of Stripe's; None where it is none."""
    if seconds is None or not 0 < seconds < _SECONDS_MAX:
        return None
    return first_plausible(EPOCH + timedelta(seconds=seconds))


def money(number: int | None, currency: str | None, *, allow_zero: bool = False) -> Money:
    """An amount of Stripe's.

    Raises:
        Unclear: there is none, or not one of ours.
    """
    if number is None or currency is None or number < (0 if allow_zero else 1):
        raise Unclear("the answer has no amount")
    try:
        return from_stripe(number, currency)
    except ValueError:
        raise Unclear("the amount cannot be read") from None


def decline(error: PaymentError) -> tuple[str, str]:
    """Reason in our catalogue, and text for the buyer."""
    words = {error.code, error.decline_code}
    reason = "INSUFFICIENT_FUNDS" if "insufficient_funds" in words else "CARD_DECLINED"
    return reason, _SILENT_MESSAGE if words & _SILENT else message_of(error.message or "")


def is_ours_to_confirm(intent: PaymentIntent) -> bool:
    """Only we can confirm it, and nobody did yet."""
    return intent.metadata.get(FLOW) == TOKEN and intent.status == "requires_confirmation"


def is_ours_to_end(intent: PaymentIntent) -> bool:
    """A try of ours was declined, or it wants a buyer where there is none: only cancelling it makes
    the refusal final, because Stripe takes another payment method for a payment that is open.
    """
    if intent.metadata.get(FLOW) != TOKEN:
        return False
    if intent.status == "requires_action":
        return not return_url_of(intent)
    return intent.status == "requires_payment_method" and intent.last_payment_error is not None


def return_url_of(intent: PaymentIntent) -> str:
    """Where the buyer goes after confirming, as it was when the payment was created."""
    return "".join(intent.metadata.get(name, "") for name in RETURN_URL)


def check_attempt(metadata: dict[str, str], attempt_id: str) -> None:
    """Raises:
    Unclear: the object is of another attempt.
    """
    if metadata.get(ATTEMPT) != attempt_id:
        raise Unclear("the answer is about another attempt")


def is_ref(ref: str) -> bool:
    """Whether it is an id of a payment or page of Stripe's. Ids come back in paths."""
    return _REF.fullmatch(ref) is not None


def check_ref(ref: str) -> str:
    """An id of Stripe's that is kept.

    Raises:
        Unclear: it is none.
    """
    if not is_ref(ref):
        raise Unclear("the answer has no usable id")
    return ref


def read_intent(intent: PaymentIntent, *, attempt_id: str) -> ChannelFact:
    """The fact in a PaymentIntent. That of a hosted page has no `ref`: the session is it.

    Raises:
        Unclear: of another attempt, of an unknown status, or without what its status needs.
    """
    check_attempt(intent.metadata, attempt_id)
    ref = check_ref(intent.id)
    if len(ref) > _TRADE_NO_MAX:
        raise Unclear("the answer has no usable id")
    status = _STATUSES.get(intent.status)
    if status is None:
        raise Unclear("the answer has an unknown status")
    is_hosted = intent.metadata.get(FLOW) == HOSTED
    fact = ChannelFact(
        attempt_id=attempt_id,
        status=status,
        amount=money(intent.amount, intent.currency),
        trade_no=ref,
        ref="" if is_hosted else ref,
    )
    return _COMPLETE[status](intent, fact)


def _captured(intent: PaymentIntent, fact: ChannelFact) -> ChannelFact:
    amount = money(intent.amount_received, intent.currency)
    charge = intent.charge
    row = charge.balance_transaction if charge is not None else None
    known = row if isinstance(row, BalanceTransaction) else None
    return replace(
        fact,
        amount=amount,
        # the row of one of several captures says one of several fees
        fee=None
        if known is None or known.amount not in (intent.amount, intent.amount_received)
        else _fee(known, amount.currency),
        occurred_at=first_plausible(
            moment(known.created if known else None), moment(charge.created if charge else None)
        ),
    )


def _fee(row: BalanceTransaction | None, currency: str) -> Money | None:
    """The fee; None where it is in the currency of another bank account, which the statement shows
    as a line of its own.
    """
    if row is None or row.currency.upper() != currency:
        return None
    try:
        return money(row.fee, row.currency, allow_zero=True)
    except Unclear:
        return None


def _authorized(intent: PaymentIntent, fact: ChannelFact) -> ChannelFact:
    capturable = money(intent.amount_capturable, intent.currency)
    details = intent.charge.payment_method_details if intent.charge else None
    taken = intent.amount_received or 0
    return replace(
        fact,
        taken=money(taken, intent.currency) if taken > 0 else None,
        capturable=capturable,
        held_until=moment(details.card.capture_before if details and details.card else None),
        occurred_at=moment(intent.charge.created if intent.charge else None),
    )


def _pending(intent: PaymentIntent, fact: ChannelFact) -> ChannelFact:
    reason, message = "", ""
    if intent.status == "requires_payment_method" and intent.last_payment_error is not None:
        reason, message = decline(intent.last_payment_error)
    return replace(
        fact,
        reason=reason,
        message=message,
        is_our_turn=is_ours_to_confirm(intent) or is_ours_to_end(intent),
        next_action=_next_action(intent),
    )


def _closed(intent: PaymentIntent, fact: ChannelFact) -> ChannelFact:
    """A charge of ours that was declined and then cancelled is DECLINED: nobody else could confirm
    it. A checkout that was cancelled is CLOSED, however often the buyer was declined before.
    """
    at = moment(intent.canceled_at)
    if intent.metadata.get(FLOW) == TOKEN and intent.last_payment_error is not None:
        reason, message = decline(intent.last_payment_error)
        return replace(
            fact, status=ChannelStatus.DECLINED, reason=reason, message=message, occurred_at=at
        )
    return replace(fact, reason="PAYMENT_CLOSED", occurred_at=at)


_COMPLETE: dict[ChannelStatus, Callable[[PaymentIntent, ChannelFact], ChannelFact]] = {
    ChannelStatus.CAPTURED: _captured,
    ChannelStatus.AUTHORIZED: _authorized,
    ChannelStatus.PENDING: _pending,
    ChannelStatus.CLOSED: _closed,
}


def _next_action(intent: PaymentIntent) -> NextAction | None:
    """What the buyer does next. A kind that is not known here is for Stripe's script in the
    browser, which takes the client secret. The page of a session does everything by itself.
    """
    flow = intent.metadata.get(FLOW)
    if flow == HOSTED or intent.status == "processing":
        return None
    if intent.status == "requires_action" and intent.next_action is not None:
        found = _outside(intent.next_action)
        if found is not None:
            return found
    if flow == TOKEN and (intent.status != "requires_action" or not return_url_of(intent)):
        return None
    if intent.client_secret is None:  # events of restricted keys do not have it
        return None
    if not _SECRET.fullmatch(intent.client_secret):
        raise Unclear("the client secret is not one")
    return NextAction(kind="CLIENT_SECRET", value=intent.client_secret)


# type of Stripe's next action -> our kind, and the field that holds the value
_OUTSIDE = {
    "redirect_to_url": ("REDIRECT_URL", "url"),
    "alipay_handle_redirect": ("REDIRECT_URL", "url"),
    "wechat_pay_display_qr_code": ("QR_CODE", "data"),
}


def _outside(action: dict[str, object]) -> NextAction | None:
    """An action that needs no script of Stripe's."""
    name = action.get("type")
    kind, field = _OUTSIDE.get(name, ("", "")) if isinstance(name, str) else ("", "")
    if not kind or not isinstance(name, str):
        return None
    inner = action.get(name)
    value = inner.get(field) if isinstance(inner, dict) else None
    form = _URL if kind == "REDIRECT_URL" else _SECRET
    if not isinstance(value, str) or not form.fullmatch(value):
        raise Unclear("the next action cannot be read")
    return NextAction(kind=kind, value=value)


def read_session(session: Session, intent: PaymentIntent | None, *, attempt_id: str) -> ChannelFact:
    """The fact in a hosted page and its PaymentIntent, if there is one yet.

    Raises:
        Unclear: as `read_intent`.
    """
    check_attempt(session.metadata, attempt_id)
    ref = check_ref(session.id)
    known = None if intent is None else read_intent(intent, attempt_id=attempt_id)
    if known is not None and known.status is not ChannelStatus.PENDING:
        return replace(known, ref=ref)
    fact = known or ChannelFact(
        attempt_id=attempt_id,
        status=ChannelStatus.PENDING,
        amount=money(session.amount_total, session.currency),
    )
    fact = replace(fact, ref=ref)
    # a buyer whose bank is still at it, or who is on its page
    is_under_way = intent is not None and intent.status in ("processing", "requires_action")
    match session.status:
        case "open":
            if session.url is None or not _URL.fullmatch(session.url):
                raise Unclear("the address of the page is not one")
            return replace(fact, next_action=NextAction(kind="REDIRECT_URL", value=session.url))
        case "expired" | "complete" if is_under_way:
            return fact
        case "expired":
            return replace(
                fact, status=ChannelStatus.CLOSED, reason="PAYMENT_CLOSED", is_our_turn=False
            )
        case "complete" if intent is not None and intent.status == "requires_payment_method":
            # a debit that came back: the page is over, so nobody can try again
            reason, message = decline(intent.last_payment_error or PaymentError())
            return replace(fact, status=ChannelStatus.DECLINED, reason=reason, message=message)
        case _:
            raise Unclear("the answer has an unknown status")


def read_refund(refund: Refund, *, refund_id: str, amount: Money | None = None) -> RefundFact:
    """The fact in a refund. One that failed after it had moved the balance came back: REVERSED,
    whatever we knew of it before. Stripe's statement has both rows then, and so have our books.

    Args:
        amount: the expected amount; None when not known.

    Raises:
        Unclear: another refund, another amount, or an unknown status.
    """
    if refund.metadata.get(REFUND) != refund_id or not _REFUND_NO.fullmatch(refund.id):
        raise Unclear("the answer is about another refund")
    told = money(refund.amount, refund.currency)
    if amount not in (None, told):
        raise Unclear("the answer is about another amount")
    status = _REFUND_STATUSES.get(refund.status)
    if status is None:
        raise Unclear("the answer has an unknown status")
    moved = refund.failure_balance_transaction is not None or (
        refund.status == "failed" and refund.balance_transaction is not None
    )
    reason, message = "", ""
    if status is RefundChannelStatus.FAILED:
        status = RefundChannelStatus.REVERSED if moved else status
        reason = "REFUND_REVERSED" if moved else "REFUND_FAILED"
        message = message_of((refund.failure_reason or refund.status).replace("_", " "))
    return RefundFact(
        refund_id=refund_id,
        status=status,
        channel_refund_no=refund.id,
        reason=reason,
        message=message,
        # a later change of a refund has no time of its own
        occurred_at=moment(refund.created) if status is RefundChannelStatus.SUCCESS else None,
    )

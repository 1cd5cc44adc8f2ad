"""PayPal's notices as news."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import msgspec

from mesh.errors import InvalidArgument
from mesh.logs import get_logger
from payment_rpc.channels.doubt import Doubt, Unclear, message_of
from payment_rpc.channels.inbound import Ask, News, Received
from payment_rpc.channels.paypal import answers
from payment_rpc.channels.paypal.objects import (
    Amount,
    Capture,
    Refund,
    SupplementaryData,
    decode,
)
from payment_rpc.domain.callback import Subject
from payment_rpc.domain.dispute import DisputeFact, DisputeStatus
from payment_rpc.domain.errors import SignatureInvalid
from payment_rpc.domain.refund_facts import RefundChannelStatus, RefundFact

# an order, an authorization, or the end of an approval: what they say is asked
_ASK: Final = frozenset(
    {
        "CHECKOUT.ORDER.APPROVED",
        "CHECKOUT.ORDER.COMPLETED",
        "CHECKOUT.PAYMENT-APPROVAL.REVERSED",
        "PAYMENT.AUTHORIZATION.CREATED",
        "PAYMENT.AUTHORIZATION.VOIDED",
        "PAYMENT.CAPTURE.REVERSED",
    }
)
_CAPTURES: Final = frozenset(
    {
        "PAYMENT.CAPTURE.COMPLETED",
        "PAYMENT.CAPTURE.PENDING",
        "PAYMENT.CAPTURE.DECLINED",
        "PAYMENT.CAPTURE.DENIED",  # its older name
    }
)
_REFUNDS: Final = frozenset(
    {"PAYMENT.CAPTURE.REFUNDED", "PAYMENT.REFUND.PENDING", "PAYMENT.REFUND.FAILED"}
)
_REFUND_FAILED: Final = "PAYMENT.REFUND.FAILED"
_DISPUTES: Final = frozenset(
    {"CUSTOMER.DISPUTE.CREATED", "CUSTOMER.DISPUTE.UPDATED", "CUSTOMER.DISPUTE.RESOLVED"}
)
_RESOLVED: Final = "RESOLVED"
OUTCOMES: Final[Mapping[str, DisputeStatus]] = {
    "RESOLVED_BUYER_FAVOUR": DisputeStatus.LOST,
    "ACCEPTED": DisputeStatus.LOST,
    "RESOLVED_SELLER_FAVOUR": DisputeStatus.WON,
    "DENIED": DisputeStatus.WON,
    "RESOLVED_WITH_PAYOUT": DisputeStatus.WON,  # PayPal paid the buyer itself
    "CANCELED_BY_BUYER": DisputeStatus.CLOSED,
}

_log = get_logger()


class _Payee(msgspec.Struct, frozen=True):
    merchant_id: str = ""


class _Owner(msgspec.Struct, frozen=True):
    payee: _Payee = _Payee()
    purchase_units: tuple[_Owner, ...] = ()


class _Event(msgspec.Struct, frozen=True):
    id: str
    event_type: str
    resource: msgspec.Raw
    create_time: str = ""


class _Named(msgspec.Struct, frozen=True):
    """The ids in a resource."""

    id: str = ""
    order_id: str = ""
    custom_id: str = ""
    purchase_units: tuple[_Named, ...] = ()
    supplementary_data: SupplementaryData = SupplementaryData()


class _Transaction(msgspec.Struct, frozen=True):
    custom: str = ""
    invoice_number: str = ""


class _Outcome(msgspec.Struct, frozen=True):
    outcome_code: str = ""


class _Dispute(msgspec.Struct, frozen=True):
    dispute_id: str
    status: str
    dispute_amount: Amount
    reason: str = ""
    disputed_transactions: tuple[_Transaction, ...] = ()
    dispute_outcome: _Outcome = _Outcome()
    seller_response_due_date: str = ""
    update_time: str = ""


def read(body: bytes, *, merchant_id: str, doubt: Doubt) -> Received:
    """What a genuine notice says.

    Raises:
        InvalidArgument: it cannot be read. SignatureInvalid: it is of another merchant.
    """
    try:
        event = msgspec.json.decode(body, type=_Event)
        owner = msgspec.json.decode(event.resource, type=_Owner)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise InvalidArgument.of("body", "not a callback of this channel") from None
    payees = {one.payee.merchant_id for one in (owner, *owner.purchase_units)} - {""}
    if merchant_id and payees - {merchant_id}:
        raise SignatureInvalid("the notice is of another merchant")
    try:
        news = _news(event, doubt)
    except Unclear as problem:
        raise InvalidArgument.of("body", message_of(problem)) from None
    return Received(
        news=() if news is None else (news,),
        event_id=event.id[:64],
        occurred_at=answers.moment(event.create_time),
        summary=message_of(event.event_type)[:64],
    )


def subject_of(body: bytes) -> Subject:
    """The ids in a notice that nobody checked."""
    try:
        event = msgspec.json.decode(body, type=_Event)
        subject = _subject(event)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, Unclear):
        return Subject()
    return Subject(event_id=event.id[:64], attempt_id=subject.attempt_id, ref=subject.ref)


def _news(event: _Event, doubt: Doubt) -> News | None:
    if event.event_type in _ASK:
        return _ask(_subject(event))
    if event.event_type in _CAPTURES:
        return _capture(decode(event.resource, Capture), doubt)
    if event.event_type in _REFUNDS:
        return _refund(decode(event.resource, Refund), event.event_type)
    if event.event_type in _DISPUTES:
        return _dispute(decode(event.resource, _Dispute))
    return None


def _ask(subject: Subject) -> Ask | None:
    return Ask(subject=subject) if subject.attempt_id or subject.ref else None


def _subject(event: _Event) -> Subject:
    named = decode(event.resource, _Named)
    is_order = event.event_type.startswith("CHECKOUT.ORDER.")
    custom = named.custom_id or next(
        (unit.custom_id for unit in named.purchase_units if unit.custom_id), ""
    )
    related = named.supplementary_data.related_ids
    ref = named.id if is_order else named.order_id or related.order_id
    return Subject(attempt_id=custom[:64], ref=ref[:255])


def _capture(capture: Capture, doubt: Doubt) -> News | None:
    """A capture of an order. One of several captures of an authorization does not say the sum."""
    related = capture.supplementary_data.related_ids
    subject = Subject(attempt_id=capture.custom_id[:64], ref=related.order_id[:255])
    if not capture.custom_id or related.authorization_id:
        return _ask(subject)
    try:
        return answers.read_captures((capture,), attempt_id=capture.custom_id, ref=related.order_id)
    except Unclear as problem:
        return doubt.unknown(capture.custom_id, problem, ref=related.order_id)


def _refund(refund: Refund, event_type: str) -> RefundFact | None:
    """A refund of ours; one that somebody made in PayPal's dashboard has no id of ours. A notice of
    a failure comes after PayPal took the money from the account, so the money came back.
    """
    if not refund.custom_id:
        return None
    fact = answers.read_refund(refund, refund_id=refund.custom_id)
    if event_type == _REFUND_FAILED and fact.status is RefundChannelStatus.FAILED:
        return replace(fact, status=RefundChannelStatus.REVERSED, reason="REFUND_REVERSED")
    return fact


def _dispute(dispute: _Dispute) -> DisputeFact | None:
    status = DisputeStatus.OPENED
    if dispute.status == _RESOLVED:
        found = OUTCOMES.get(dispute.dispute_outcome.outcome_code)
        if found is None:
            _log.error("paypal_dispute_outcome_unknown", dispute=message_of(dispute.dispute_id))
            return None
        status = found
    about = next(iter(dispute.disputed_transactions), _Transaction())
    return DisputeFact(
        attempt_id=(about.custom or about.invoice_number)[:64],
        dispute_ref=dispute.dispute_id[:64],
        status=status,
        amount=dispute.dispute_amount.money(),
        reason=message_of(dispute.reason)[:64],
        evidence_due=answers.moment(dispute.seller_response_due_date),
        occurred_at=answers.moment(dispute.update_time),
    )

"""Stripe's events: what a verified webhook says."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

from mesh.errors import InvalidArgument
from mesh.logs import get_logger
from mesh.money import Money
from payment_rpc.channels.doubt import Unclear, message_of
from payment_rpc.channels.inbound import Ask, News, Received
from payment_rpc.channels.stripe.answers import (
    ATTEMPT,
    FLOW,
    HOSTED,
    REFUND,
    is_ref,
    moment,
    money,
    read_intent,
    read_refund,
)
from payment_rpc.channels.stripe.api import API_VERSION
from payment_rpc.channels.stripe.objects import (
    UNREADABLE,
    Dispute,
    PaymentIntent,
    Refund,
)
from payment_rpc.domain.callback import Subject
from payment_rpc.domain.dispute import DisputeFact, DisputeStatus
from payment_rpc.domain.errors import SignatureInvalid
from payment_rpc.domain.facts import ChannelStatus

_ID_MAX = 64
_TYPE_MAX = 64
T = TypeVar("T")

log = get_logger()

_DISPUTE_STATUSES = {
    "warning_needs_response": DisputeStatus.OPENED,
    "warning_under_review": DisputeStatus.OPENED,
    "warning_closed": DisputeStatus.CLOSED,
    "needs_response": DisputeStatus.OPENED,
    "under_review": DisputeStatus.OPENED,
    "charge_refunded": DisputeStatus.CLOSED,
    "prevented": DisputeStatus.CLOSED,
    "won": DisputeStatus.WON,
    "lost": DisputeStatus.LOST,
}


class _Data(msgspec.Struct, frozen=True):
    object: msgspec.Raw


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """An event. `account` is there for events of other accounts that are connected to ours."""

    id: str
    type: str
    data: _Data
    created: int = 0
    livemode: bool = False
    api_version: str | None = None
    account: str | None = None


class _Named(msgspec.Struct, frozen=True):
    """The ids in an object of an event; "" when not given."""

    id: str = ""
    object: str = ""
    payment_intent: str | None = None
    metadata: dict[str, str] = {}


def read_subject(body: bytes) -> Subject:
    """What an event claims to be about; empty where it cannot be read. Verifies nothing."""
    try:
        event = msgspec.json.decode(body, type=Event)
        return _subject(event, msgspec.json.decode(event.data.object, type=_Named))
    except UNREADABLE:
        return Subject()


def read_event(body: bytes, *, is_live: bool, account_id: str) -> Received:
    """Reads a verified event. One of another version of the API has objects of another shape: it is
    only a reason to ask.

    Raises:
        SignatureInvalid: of the other mode, or of another account.
        InvalidArgument: it cannot be read.
    """
    try:
        event = msgspec.json.decode(body, type=Event)
        named = msgspec.json.decode(event.data.object, type=_Named)
    except UNREADABLE:
        raise InvalidArgument.of("body", "not a callback of this channel") from None
    if event.livemode is not is_live:
        raise SignatureInvalid("an event of the other mode")
    if event.account and event.account != account_id:
        raise SignatureInvalid("an event of another account")
    read = _READERS.get(event.type)
    news: tuple[News, ...] = ()
    if read is not None:
        subject = _subject(event, named)
        if event.api_version == API_VERSION:
            try:
                news = read(event, subject)
            except Unclear:
                news = _ask(subject)
        else:
            news = _ask(subject)
    return Received(
        news=news,
        event_id=event.id[:_ID_MAX],
        occurred_at=moment(event.created),
        summary=message_of(event.type)[:_TYPE_MAX],
    )


def _subject(event: Event, named: _Named) -> Subject:
    match named.object:
        case "checkout.session":
            ref = named.id
        case "payment_intent" | "charge" | "dispute":
            ref = named.id if named.object == "payment_intent" else named.payment_intent or ""
            if named.metadata.get(FLOW) == HOSTED:
                ref = ""  # we know it by its session
        case _:
            ref = ""
    return Subject(
        event_id=event.id[:_ID_MAX],
        attempt_id=named.metadata.get(ATTEMPT, "")[:_ID_MAX],
        refund_id=named.metadata.get(REFUND, "")[:_ID_MAX],
        ref=ref if is_ref(ref) else "",
    )


def _ask(subject: Subject) -> tuple[News, ...]:
    """Nothing, where it is no payment of ours: other software may use the same account."""
    return (Ask(subject=subject),) if subject.attempt_id or subject.refund_id else ()


def _intent(event: Event, subject: Subject) -> tuple[News, ...]:
    if not subject.attempt_id:
        return ()
    intent = _decode(event, PaymentIntent)
    fact = read_intent(intent, attempt_id=subject.attempt_id)
    # how long money is held, and the step that is ours, take a question
    if fact.status is ChannelStatus.AUTHORIZED or fact.is_our_turn:
        return _ask(subject)
    return (fact,)


def _question(_event: Event, subject: Subject) -> tuple[News, ...]:
    return _ask(subject)


def _refund(event: Event, subject: Subject) -> tuple[News, ...]:
    if not subject.refund_id:
        return ()
    return (read_refund(_decode(event, Refund), refund_id=subject.refund_id),)


def _dispute(event: Event, subject: Subject) -> tuple[News, ...]:
    dispute = _decode(event, Dispute)
    status = _DISPUTE_STATUSES.get(dispute.status)
    if status is None or not subject.ref:
        log.warning("stripe_dispute_unread", dispute_ref=dispute.id[:_ID_MAX])
        return ()
    due = dispute.evidence_details.due_by if dispute.evidence_details else None
    return (
        DisputeFact(
            attempt_id=subject.attempt_id,
            ref=subject.ref,
            dispute_ref=dispute.id[:_ID_MAX],
            status=status,
            amount=money(dispute.amount, dispute.currency),
            fee=_dispute_fee(dispute),
            reason=message_of(dispute.reason),
            evidence_due=moment(due),
            occurred_at=moment(event.created),
        ),
    )


def _dispute_fee(dispute: Dispute) -> Money | None:
    """What Stripe keeps for a dispute; None while it took nothing, or in another currency."""
    rows = dispute.balance_transactions
    if not rows or any(row.currency != dispute.currency for row in rows):
        return None
    return money(sum(row.fee for row in rows), dispute.currency, allow_zero=True)


def _decode(event: Event, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(event.data.object, type=kind)
    except UNREADABLE:
        raise Unclear("the object of the event cannot be read") from None


_READERS: dict[str, Callable[[Event, Subject], tuple[News, ...]]] = {
    "payment_intent.succeeded": _intent,
    "payment_intent.payment_failed": _intent,
    "payment_intent.processing": _intent,
    "payment_intent.requires_action": _intent,
    "payment_intent.amount_capturable_updated": _intent,
    "payment_intent.canceled": _intent,
    "charge.expired": _question,
    "charge.dispute.created": _dispute,
    "charge.dispute.updated": _dispute,
    "charge.dispute.closed": _dispute,
    "charge.dispute.funds_withdrawn": _dispute,
    "charge.dispute.funds_reinstated": _dispute,
    "refund.created": _refund,
    "refund.updated": _refund,
    "refund.failed": _refund,
    "charge.refund.updated": _refund,  # its name in older versions
    "checkout.session.completed": _question,
    "checkout.session.expired": _question,
    "checkout.session.async_payment_succeeded": _question,
    "checkout.session.async_payment_failed": _question,
}

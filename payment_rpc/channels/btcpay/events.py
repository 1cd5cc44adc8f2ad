"""A BTCPay Server's notices. None says how much came, so each of them only makes us ask."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from mesh.errors import InvalidArgument
from payment_rpc.channels.doubt import message_of
from payment_rpc.channels.inbound import Ask, Received
from payment_rpc.domain.callback import Subject
from payment_rpc.domain.errors import SignatureInvalid
from payment_rpc.domain.statement import first_plausible


class _Event(msgspec.Struct, frozen=True, rename="camel"):
    type: str
    delivery_id: str = ""
    original_delivery_id: str = ""
    store_id: str = ""
    invoice_id: str | None = None
    timestamp: int | None = None
    metadata: dict[str, Any] | None = None

    @property
    def subject(self) -> Subject:
        order_id = (self.metadata or {}).get("orderId")
        return Subject(
            event_id=(self.original_delivery_id or self.delivery_id)[:64],
            attempt_id=order_id[:64] if isinstance(order_id, str) else "",
            ref=(self.invoice_id or "")[:255],
        )


def read(body: bytes, *, store_id: str) -> Received:
    """What a genuine notice says: ask. One of another subject than an invoice means nothing to us.

    Raises:
        InvalidArgument: it cannot be read. SignatureInvalid: it is of another store.
    """
    event = _decode(body)
    if event is None:
        raise InvalidArgument.of("body", "not a callback of this channel")
    if event.store_id != store_id:
        raise SignatureInvalid("the notice is of another store")
    subject = event.subject
    is_invoice = event.type.startswith("Invoice") and (subject.attempt_id or subject.ref)
    asked = Subject(attempt_id=subject.attempt_id, ref=subject.ref)
    return Received(
        news=(Ask(subject=asked),) if is_invoice else (),
        event_id=subject.event_id,
        occurred_at=_moment(event.timestamp),
        summary=message_of(event.type)[:64],
    )


def subject_of(body: bytes) -> Subject:
    """The ids in a notice that nobody checked."""
    event = _decode(body)
    return Subject() if event is None else event.subject


def _decode(body: bytes) -> _Event | None:
    try:
        return msgspec.json.decode(body, type=_Event)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _moment(seconds: int | None) -> datetime | None:
    try:
        return None if seconds is None else first_plausible(datetime.fromtimestamp(seconds, UTC))
    except (ValueError, OverflowError, OSError):
        return None

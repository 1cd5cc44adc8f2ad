"""The events of orders on ORDER_TOPIC. Payloads are the messages of
`paymesh.events.v1` as JSON with snake_case names.
"""

from __future__ import annotations

from datetime import datetime

from mesh.events import destination
from mesh.outbox import Message
from mesh.times import rfc3339
from order_rpc.domain.order import Order

TOPIC = "ORDER_TOPIC"
ORDER_CREATED = "ORDER_CREATED"
ORDER_PAID = "ORDER_PAID"
ORDER_CANCELLED = "ORDER_CANCELLED"
ORDER_SHIPPED = "ORDER_SHIPPED"
ORDER_COMPLETED = "ORDER_COMPLETED"
ORDER_REFUNDED = "ORDER_REFUNDED"
_VERSION = "1.0"


def order_created(order: Order, *, event_id: str, trace_id: str) -> Message:
    """ORDER_CREATED."""
    payload = _facts(order, event_id=event_id, trace_id=trace_id, event_time=order.created_at) | {
        "expires_at": rfc3339(order.expires_at)
    }
    return _message(ORDER_CREATED, order, payload, at=order.created_at)


def order_paid(order: Order, *, event_id: str, trace_id: str) -> Message:
    """ORDER_PAID."""
    paid_at = order.paid_at or order.updated_at
    payload = _facts(order, event_id=event_id, trace_id=trace_id, event_time=paid_at) | {
        "payment_id": order.paid_payment_id,
        "captured_amount": order.captured.format(),
    }
    return _message(ORDER_PAID, order, payload, at=paid_at)


def order_cancelled(order: Order, *, event_id: str, trace_id: str) -> Message:
    """ORDER_CANCELLED."""
    return _event(
        ORDER_CANCELLED,
        order,
        {"reason": order.cancel_reason},
        event_id=event_id,
        trace_id=trace_id,
    )


def order_shipped(order: Order, *, event_id: str, trace_id: str) -> Message:
    """ORDER_SHIPPED."""
    facts = {"carrier": order.carrier, "tracking_number": order.tracking_number}
    return _event(ORDER_SHIPPED, order, facts, event_id=event_id, trace_id=trace_id)


def order_completed(order: Order, *, event_id: str, trace_id: str) -> Message:
    """ORDER_COMPLETED."""
    return _event(ORDER_COMPLETED, order, {}, event_id=event_id, trace_id=trace_id)


def order_refunded(order: Order, *, event_id: str, trace_id: str) -> Message:
    """ORDER_REFUNDED."""
    facts = {"payment_id": order.paid_payment_id, "refunded_amount": order.refunded.format()}
    return _event(ORDER_REFUNDED, order, facts, event_id=event_id, trace_id=trace_id)


def _event(
    tag: str, order: Order, facts: dict[str, str], *, event_id: str, trace_id: str
) -> Message:
    """An event of the step that an order just took."""
    payload = (
        _facts(order, event_id=event_id, trace_id=trace_id, event_time=order.updated_at) | facts
    )
    return _message(tag, order, payload, at=order.updated_at)


def _facts(order: Order, *, event_id: str, trace_id: str, event_time: datetime) -> dict[str, str]:
    return {
        "event_id": event_id,
        "order_id": order.order_id,
        "merchant_id": order.merchant_id,
        "user_id": order.user_id,
        "amount": order.amount.format(),
        "currency": order.amount.currency,
        "event_time": rfc3339(event_time),
        "trace_id": trace_id,
        "version": _VERSION,
    }


def _message(tag: str, order: Order, payload: dict[str, str], *, at: datetime) -> Message:
    return Message(
        event_id=payload["event_id"],
        destination=destination(TOPIC),
        tag=tag,
        aggregate_id=order.order_id,
        payload=payload,
        trace_id=payload["trace_id"],
        due_at=at,
        created_at=at,
    )

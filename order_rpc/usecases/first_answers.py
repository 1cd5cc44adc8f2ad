"""What a repeated CreateOrder gets: the order as the first call saw it."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Final

from mesh.times import from_milliseconds, milliseconds
from order_rpc.domain.address import Address
from order_rpc.domain.order import Order, OrderState
from order_rpc.domain.refund import RefundStatus

CREATE_ORDER: Final = "CreateOrder"  # the method of these idempotency records


def answer_of(order: Order) -> str:
    """What a replay cannot read from the row, because it may have changed since."""
    address = None if order.address is None else asdict(order.address)
    return json.dumps(
        {
            "state": order.state,
            "version": order.version,
            "address": address,
            "expires_at": milliseconds(order.expires_at),
        }
    )


def without_people(answer: str) -> str:
    """An answer that says nothing of people any more."""
    return json.dumps({**json.loads(answer), "address": None})


def as_answered(order: Order, answer: str) -> Order:
    """The order as the first call saw it. Everything but these fields never changes."""
    first = json.loads(answer)
    state = OrderState(first["state"])
    address = first.get("address")
    due = first.get("expires_at")
    zero = order.amount - order.amount
    return replace(
        order,
        state=state,
        version=first["version"],
        paid_payment_id="",
        updated_at=order.created_at,
        paid_at=order.created_at if state is OrderState.PAID else None,
        address=None if address is None else Address(**address),
        captured=zero,
        refunded=zero,
        refund_status=RefundStatus.NONE,
        carrier="",
        tracking_number="",
        cancel_reason="",
        shipped_at=None,
        completed_at=None,
        cancelled_at=None,
        expires_at=order.expires_at if due is None else from_milliseconds(due),
        held=None,
    )

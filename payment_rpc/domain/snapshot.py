"""A payment as JSON: the answer that an idempotency record keeps and the entry of the read
cache.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from mesh.errors import Outcome
from mesh.money import Money
from payment_rpc.domain.card import CardSummary
from payment_rpc.domain.hold import CaptureMode
from payment_rpc.domain.payment import (
    Disposition,
    Failure,
    NextAction,
    Payment,
    PaymentState,
)

_MONEY = ("amount", "captured", "refunded", "refund_reserved", "disputed", "fee")
_TIMES = ("paid_at", "expires_at", "created_at", "updated_at")
_VALUES: dict[str, Any] = {"failure": Failure, "card": CardSummary, "next_action": NextAction}


def to_json(payment: Payment) -> str:
    """Everything of a payment; amounts in minor units, times in milliseconds since 1970."""
    values: dict[str, Any] = {name: getattr(payment, name) for name in Payment.__slots__}
    for name in _MONEY:
        values[name] = values[name].minor
    for name in _TIMES:
        values[name] = None if values[name] is None else round(values[name].timestamp() * 1000)
    for name, kind in _VALUES.items():
        value = values[name]
        values[name] = (
            None if value is None else {field: getattr(value, field) for field in kind.__slots__}
        )
    return json.dumps(
        {**values, "currency": payment.amount.currency}, ensure_ascii=False, separators=(",", ":")
    )


def from_json(text: str) -> Payment:
    """The payment that `to_json` wrote."""
    values = json.loads(text)
    currency = values.pop("currency")
    for name in _MONEY:
        values[name] = Money(values[name], currency)
    for name in _TIMES:
        values[name] = (
            None if values[name] is None else datetime.fromtimestamp(values[name] / 1000, UTC)
        )
    for name, kind in _VALUES.items():
        values[name] = None if values[name] is None else kind(**values[name])
    values["state"] = PaymentState(values["state"])
    values["outcome"] = Outcome(values["outcome"])
    values["disposition"] = (
        None if values["disposition"] is None else Disposition(values["disposition"])
    )
    # absent in answers that were kept before there were holds
    values["capture_mode"] = CaptureMode(values.get("capture_mode", CaptureMode.AUTOMATIC))
    return Payment(**values)

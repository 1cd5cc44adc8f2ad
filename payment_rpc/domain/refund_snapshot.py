"""A refund as JSON: the answer that an idempotency record keeps."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from mesh.money import Money
from payment_rpc.domain.payment import Failure
from payment_rpc.domain.refund import Refund, RefundState

_TIMES = ("lease_until", "next_query_at", "refunded_at", "created_at", "updated_at")


def to_json(refund: Refund) -> str:
    """Everything of a refund; the amount in minor units, times in milliseconds since 1970."""
    values: dict[str, Any] = {name: getattr(refund, name) for name in Refund.__slots__}
    values["amount"] = [refund.amount.minor, refund.amount.currency]
    values["failure"] = (
        None if refund.failure is None else [refund.failure.reason, refund.failure.message]
    )
    for name in _TIMES:
        values[name] = None if values[name] is None else round(values[name].timestamp() * 1000)
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"))


def from_json(text: str) -> Refund:
    """The refund that `to_json` wrote."""
    # idempotency records of before do not have it
    values = {"automatic_of": "", **json.loads(text)}
    values["amount"] = Money(*values["amount"])
    values["state"] = RefundState(values["state"])
    values["failure"] = (
        None
        if values["failure"] is None
        else Failure(reason=values["failure"][0], message=values["failure"][1])
    )
    for name in _TIMES:
        values[name] = (
            None if values[name] is None else datetime.fromtimestamp(values[name] / 1000, UTC)
        )
    return Refund(**values)

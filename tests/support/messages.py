"""A message of an outbox."""

from __future__ import annotations

from typing import Any

from mesh.outbox import Message
from tests.support.fakes import EPOCH


def message(number: int = 1, **changes: Any) -> Message:
    values = {
        "event_id": f"EVT{number:03}",
        "destination": "order_rpc",
        "tag": "UpdateOrderStatus",
        "aggregate_id": "PAY1",
        "trace_id": "t" * 32,
        "payload": {"n": number, "name": "茶"},
        "due_at": EPOCH,
        "created_at": EPOCH,
        **changes,
    }
    return Message(**values)

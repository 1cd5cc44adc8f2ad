"""What is told of a row that cannot be read."""

from __future__ import annotations

from typing import Any

from mesh.call import Caller, Role

CLERK = Caller(
    role=Role.MERCHANT, subject="clerk", merchant_id="mall", roles=frozenset({Role.MERCHANT})
)


def left_out(logs: Any) -> list[tuple[str, str, bool]]:
    """What people are told: worker, row, whether it is an alert."""
    return [
        (line["worker"], line["row"], line["alert"])
        for line in logs
        if line["event"] == "row_left_out"
    ]

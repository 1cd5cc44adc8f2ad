"""Rows of providers' own statements as lines of ours."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final

from mesh.money import Money
from payment_rpc.domain.statement import BadLine, Line, LineType

_ID: Final = re.compile(r"[A-Za-z0-9_-]{0,64}")  # ids come back to the channel in paths
_ID_MAX: Final = 64
_SHOWN_MAX: Final = 500


def line_of(
    line_no: int,
    text: str,
    *,
    kind: LineType,
    trade_no: str,
    attempt_id: str,
    amount: Money | None,
    fee: Money | None,
    occurred_at: datetime | None,
    refund_id: str = "",
) -> Line | BadLine:
    """A line of what stands in a row.

    Args:
        text: the row, shown when it is bad.
        amount, fee: without a sign; None for one that cannot be read.
    """
    ids = {"trade_no": trade_no, "attempt_id": attempt_id, "refund_id": refund_id}
    problem = next(
        (
            f"{name}: not up to {_ID_MAX} letters, digits, _ and -"
            for name, value in ids.items()
            if not _ID.fullmatch(value)
        ),
        "",
    )
    is_refund = kind in (LineType.REFUND, LineType.REFUND_REVERSED)
    if not problem and is_refund and not refund_id:
        problem = "refund_id: a refund without a number"
    if problem or amount is None or amount.minor <= 0 or fee is None or occurred_at is None:
        return bad_line(
            line_no,
            text,
            problem
            or ("amount: cannot be read" if amount is None or amount.minor <= 0 else "")
            or ("fee: cannot be read" if fee is None else "occurred_at: cannot be read"),
            attempt_id=attempt_id,
            refund_id=refund_id,
        )
    return Line(
        line_no=line_no,
        type=kind,
        trade_no=trade_no,
        attempt_id=attempt_id,
        refund_id=refund_id,
        amount=amount,
        fee=fee,
        occurred_at=occurred_at,
    )


def bad_line(
    line_no: int, text: str, problem: str, *, attempt_id: str = "", refund_id: str = ""
) -> BadLine:
    """A row that cannot be read."""
    return BadLine(
        line_no=line_no,
        problem=problem,
        text=text[:_SHOWN_MAX],
        attempt_id=attempt_id[:_ID_MAX],
        refund_id=refund_id[:_ID_MAX],
    )


def without_sign(amount: Money | None) -> Money | None:
    """The amount of a row whose meaning its type says."""
    return None if amount is None else Money(abs(amount.minor), amount.currency)

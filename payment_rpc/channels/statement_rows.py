"""Rows of providers' own statements as lines of ours."""

from __future__ import annotations

from datetime import datetime

from mesh.money import Money
from payment_rpc.domain.statement import (
    ID_MAX,
    SHOWN_MAX,
    BadLine,
    Line,
    LineType,
    problem_of_ids,
)


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
    problem = problem_of_ids(
        {"trade_no": trade_no, "attempt_id": attempt_id, "refund_id": refund_id}
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
        text=text[:SHOWN_MAX],
        attempt_id=attempt_id[:ID_MAX],
        refund_id=refund_id[:ID_MAX],
    )


def without_sign(amount: Money | None) -> Money | None:
    """The amount of a row whose meaning its type says."""
    return None if amount is None else Money(abs(amount.minor), amount.currency)

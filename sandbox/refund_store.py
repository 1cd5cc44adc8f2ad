"""Stores refunds in the sandbox's file."""

from __future__ import annotations

import sqlite3
from datetime import datetime

from mesh.money import Money
from mesh.times import from_milliseconds, milliseconds
from sandbox.columns import money, ms_or_none, time_or_none
from sandbox.domain import OutcomeDiffers, Refund, RefundStatus
from sandbox.store import Tx

_COLUMNS = (
    "refund_id, refund_no, attempt_id, status, amount_minor, currency, reason, code, message, "
    "fee_minor, created_ms, finished_ms, "
    "reversed_ms"
)


def find_refund(tx: Tx, refund_id: str) -> Refund | None:
    """The refund of a refund id."""
    found = list_refunds(tx, "refund_id = ?", refund_id)
    return found[0] if found else None


def refunds_of(tx: Tx, attempt_id: str) -> list[Refund]:
    """All refunds of an attempt, oldest first."""
    return list_refunds(tx, "attempt_id = ?", attempt_id)


def list_refunds(tx: Tx, condition: str, *values: object) -> list[Refund]:
    """Refunds under a condition of ours, oldest first."""
    rows = tx.execute(
        f"SELECT {_COLUMNS} FROM refunds WHERE {condition} ORDER BY seq",  # noqa: S608  # own constants
        values,
    )
    return [_refund(row) for row in rows]


def insert_refund(tx: Tx, refund: Refund) -> None:
    """Adds a refund. A second one with its refund id is refused by the table."""
    values = (
        refund.refund_id,
        refund.refund_no,
        refund.attempt_id,
        refund.status,
        refund.amount.minor,
        refund.amount.currency,
        refund.reason,
        refund.code,
        refund.message,
        refund.fee_returned.minor if refund.fee_returned else None,
        milliseconds(refund.created_at),
        ms_or_none(refund.finished_at),
        ms_or_none(refund.reversed_at),
    )
    tx.execute(
        f"INSERT INTO refunds ({_COLUMNS}) VALUES ({', '.join('?' * len(values))})",  # noqa: S608  # own constants
        values,
    )


def save_refund(tx: Tx, refund: Refund, *, before: RefundStatus) -> None:
    """Writes a step of a refund whose status is still `before`.

    Raises:
        OutcomeDiffers: it is not.
    """
    changed = tx.execute(
        "UPDATE refunds SET status = ?, code = ?, message = ?, fee_minor = ?, finished_ms = ?, "
        "reversed_ms = ? WHERE refund_id = ? AND status = ?",
        (
            refund.status,
            refund.code,
            refund.message,
            refund.fee_returned.minor if refund.fee_returned else None,
            ms_or_none(refund.finished_at),
            ms_or_none(refund.reversed_at),
            refund.refund_id,
            before,
        ),
    )
    if changed.rowcount != 1:
        raise OutcomeDiffers(f"the refund is not {before}")


def list_asked_back(
    tx: Tx, begins: datetime, ends: datetime, *, after: int, limit: int
) -> list[tuple[int, Refund]]:
    """Refunds that were asked for from a moment on and before another, by position, beyond a
    position.
    """
    rows = tx.execute(
        f"SELECT seq, {_COLUMNS} FROM refunds WHERE created_ms >= ? AND created_ms < ? AND "  # noqa: S608  # own constants
        f"seq > ? ORDER BY seq LIMIT ?",
        (milliseconds(begins), milliseconds(ends), after, limit),
    )
    return [(row["seq"], _refund(row)) for row in rows]


def refunds_finished_between(tx: Tx, begins: datetime, ends: datetime) -> list[Refund]:
    """Refunds that left or were refused from a moment on and before another."""
    return list_refunds(
        tx, "finished_ms >= ? AND finished_ms < ?", milliseconds(begins), milliseconds(ends)
    )


def refunds_reversed_between(tx: Tx, begins: datetime, ends: datetime) -> list[Refund]:
    """Refunds that came back from a moment on and before another."""
    return list_refunds(
        tx,
        "status = 'REVERSED' AND reversed_ms >= ? AND reversed_ms < ?",
        milliseconds(begins),
        milliseconds(ends),
    )


def _refund(row: sqlite3.Row) -> Refund:
    return Refund(
        refund_id=row["refund_id"],
        refund_no=row["refund_no"],
        attempt_id=row["attempt_id"],
        status=RefundStatus(row["status"]),
        amount=Money(row["amount_minor"], row["currency"]),
        reason=row["reason"],
        code=row["code"],
        message=row["message"],
        fee_returned=money(row["fee_minor"], row["currency"]),
        created_at=from_milliseconds(row["created_ms"]),
        finished_at=time_or_none(row["finished_ms"]),
        reversed_at=time_or_none(row["reversed_ms"]),
    )

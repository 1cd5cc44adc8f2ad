"""What order_rpc keeps of what it did: the messages of the last hours, and the figures of every
quarter of an hour.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, literal, select

from mesh.audit import FOUND_MAX, AuditTolerance, Violation
from mesh.audit.queries import Check
from mesh.clock import Clock
from mesh.db import Database
from mesh.outbox import OUTBOX
from order_rpc.tables import ORDERS
from order_rpc.usecases import events
from order_rpc.usecases.statistics import Statistics

MESSAGES_KEPT = timedelta(hours=12)  # shorter than any retention of delivered messages
_O = ORDERS.c
_BY_ORDER = (_O.merchant_id, _O.order_id)


def messages(tolerance: AuditTolerance) -> list[Check]:
    """What was told to others is kept for some time, delivered or not."""
    since = tolerance.now - MESSAGES_KEPT

    def untold(tag: str, moment: Any) -> ColumnElement[bool]:
        told = (
            select(OUTBOX.c.id)
            .where(OUTBOX.c.aggregate_id == _O.order_id, OUTBOX.c.tag == tag)
            .exists()
        )
        return and_(moment > since, ~told)

    steps = {
        events.ORDER_CREATED: _O.created_at,
        events.ORDER_PAID: _O.paid_at,
        events.ORDER_CANCELLED: _O.cancelled_at,
        events.ORDER_SHIPPED: _O.shipped_at,
        events.ORDER_COMPLETED: _O.completed_at,
    }
    return [
        Check(
            name="message_kept",
            query=select(_O.order_id, _O.state, literal(tag).label("tag")).where(
                untold(tag, moment)
            ),
            by=_BY_ORDER,
            detail="it is {state}, and the message {tag} about it is missing",
        )
        for tag, moment in steps.items()
    ]


class _At(Clock):
    """The moment of the audit."""

    def __init__(self, tolerance: AuditTolerance) -> None:
        self._now = tolerance.now

    def now(self) -> Any:
        """That moment."""
        return self._now


async def check_statistics(db: Database, tolerance: AuditTolerance) -> AsyncIterator[Violation]:
    """The figures of each quarter of an hour are those of its orders."""
    try:
        missing = await Statistics(db=db, clock=_At(tolerance)).missing(
            progress=lambda _done, _total: None
        )
    # a row that cannot be read, which `row_readable` names
    except (ArithmeticError, TypeError, ValueError) as problem:
        yield Violation(
            check="statistics_right",
            subject="all",
            detail=f"the orders cannot be counted: {problem!r}",
        )
        return
    for entry in missing[:FOUND_MAX]:
        detail = (
            f"{entry.count:+} orders and {entry.amount_minor:+} {entry.currency} in minor "
            f"units are missing"
        )
        yield Violation(
            check="statistics_right",
            subject=f"{entry.merchant_id} {entry.quarter:%Y-%m-%d %H:%M} {entry.figure}",
            detail=f"{detail}: paymesh stats rebuild",
        )

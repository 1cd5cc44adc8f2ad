"""The history of every order: one row per step, written in the transaction of the step and never
changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.log_chain import chained
from order_rpc.domain.order import Order, OrderState
from order_rpc.tables import AUDIT_LOG, ORDER_AUDIT

_INSERT = insert(ORDER_AUDIT)
REMARK_LENGTH_MAX = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRow:
    """One step of an order, or a reason for a manual review."""

    from_state: str  # "" for the creation
    to_state: OrderState
    event: str  # what happened
    event_id: str  # message or call that caused it
    operator: str  # who did it, e.g. "user:u1" or "payment_rpc"
    trace_id: str
    remark: str = ""
    needs_review: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PastStep:
    """A step as it stands in the history."""

    step_id: int  # ascends
    row: AuditRow
    at: datetime


async def append_audit(tx: AsyncConnection, order: Order, *rows: AuditRow, at: datetime) -> None:
    """Adds to the history of an order, in the transaction of the step."""
    await append_audits(tx, [(order, row) for row in rows], at=at)


async def append_audits(
    tx: AsyncConnection, rows: Sequence[tuple[Order, AuditRow]], *, at: datetime
) -> None:
    """Adds to the histories of several orders."""
    lines = [
        {
            "merchant_id": order.merchant_id,
            "order_id": order.order_id,
            "from_state": row.from_state,
            "to_state": row.to_state,
            "event": row.event,
            "event_id": row.event_id,
            "operator": row.operator,
            "remark": row.remark[:REMARK_LENGTH_MAX],
            "trace_id": row.trace_id,
            "needs_attention": row.needs_review,
            "created_at": at,
        }
        for order, row in rows
    ]
    # The order is locked, or made by this transaction: nobody else writes to its history now.
    await tx.execute(
        _INSERT,
        await chained(tx, AUDIT_LOG, lines, begins=all(not row.from_state for _, row in rows)),
    )


async def history(tx: AsyncConnection, order: Order, *, after: int, limit: int) -> list[PastStep]:
    """Steps of an order, oldest first, beginning after a step id."""
    audit = ORDER_AUDIT.c
    rows = await tx.execute(
        select(ORDER_AUDIT)
        .where(
            audit.merchant_id == order.merchant_id,
            audit.order_id == order.order_id,
            audit.id > after,
        )
        .order_by(audit.id)
        .limit(limit)
    )
    return [
        PastStep(
            step_id=row.id,
            at=row.created_at,
            row=AuditRow(
                from_state=row.from_state,
                to_state=OrderState(row.to_state),
                event=row.event,
                event_id=row.event_id,
                operator=row.operator,
                trace_id=row.trace_id,
                remark=row.remark,
                needs_review=row.needs_attention,
            ),
        )
        for row in rows
    ]

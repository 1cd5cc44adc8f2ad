"""Rows of order gates. A transaction that adds a payment or an attempt locks the gate of the order
first.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import and_, bindparam, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db import insert_if_absent
from payment_rpc.domain.payment import Payment, PaymentState
from payment_rpc.store.payments import payment_of, with_index
from payment_rpc.tables import ORDER_GATE, PAYMENT

# The gate of an order with the payments that block a new one, in one statement.
_GATE_AND_PAYMENTS = with_index(
    select(ORDER_GATE.c.state.label("gate"), *PAYMENT.c)
    .select_from(
        ORDER_GATE.outerjoin(
            PAYMENT,
            and_(
                PAYMENT.c.merchant_id == ORDER_GATE.c.merchant_id,
                PAYMENT.c.order_id == ORDER_GATE.c.order_id,
                or_(
                    PAYMENT.c.live_slot == 1,
                    and_(
                        PAYMENT.c.state == PaymentState.LATE_SUCCESS,
                        PAYMENT.c.disposition.is_(None),
                    ),
                ),
            ),
        )
    )
    .where(
        ORDER_GATE.c.merchant_id == bindparam("merchant"),
        ORDER_GATE.c.order_id == bindparam("order"),
    )
)


async def enter_gate(
    tx: AsyncConnection, *, merchant_id: str, order_id: str, at: datetime
) -> tuple[bool, list[Payment]]:
    """Locks the gate of an order, which is made OPEN when it is absent (`insert_if_absent` leaves
    the row locked, new or not). Returns whether it is open, and the payments that block a new one:
    the one with the slot, and late money that the order has not answered.
    """
    await insert_if_absent(
        tx,
        ORDER_GATE,
        {"merchant_id": merchant_id, "order_id": order_id, "state": "OPEN", "updated_at": at},
    )
    rows = (
        await tx.execute(_GATE_AND_PAYMENTS, {"merchant": merchant_id, "order": order_id})
    ).all()
    return rows[0].gate == "OPEN", [payment_of(row) for row in rows if row.payment_id is not None]


async def close_gate(tx: AsyncConnection, *, merchant_id: str, order_id: str, at: datetime) -> None:
    """Closes the gate of an order: no payment of it is ever inserted after this commit."""
    await insert_if_absent(
        tx,
        ORDER_GATE,
        {"merchant_id": merchant_id, "order_id": order_id, "state": "CLOSED", "updated_at": at},
    )
    still_open = and_(
        ORDER_GATE.c.merchant_id == merchant_id,
        ORDER_GATE.c.order_id == order_id,
        ORDER_GATE.c.state == "OPEN",
    )
    await tx.execute(update(ORDER_GATE).where(still_open).values(state="CLOSED", updated_at=at))

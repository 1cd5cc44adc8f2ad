"""What order_rpc knows about an order, in words for a support person: its history, what it did with payments, its refunds and messages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db import Database
from mesh.money import Money
from mesh.proof import OrderKey
from mesh.story import Line, Next, Story, Who, messages_about
from order_rpc.domain.order import OrderState
from order_rpc.tables import ORDER_AUDIT, ORDERS, PAYMENT_DISPOSITION, REFUND_REQUEST

_STANDING = {
    OrderState.PENDING_PAYMENT: "waits for its money",
    OrderState.PAID: "is paid",
    OrderState.CANCELLING: "is being cancelled; its payments are being closed first",
    OrderState.CANCELLED: "is cancelled",
    OrderState.SHIPPED: "is paid and on its way to the buyer",
    OrderState.COMPLETED: "is completed",
    OrderState.REFUNDED: "was paid, and all its money went back",
}
_DECISIONS = {
    "APPLIED": "The order took payment {payment} and is paid by it.",
    "ALREADY": "The order was paid by payment {payment} before.",
    "REVIVED": "The order had been cancelled, took the late money of payment {payment} and is paid by it.",
    "REFUSED_CANCELLED": "The order refused the money of payment {payment}: it was cancelled. The money must go back.",
    "REFUSED_PAID_BY_OTHER": "The order refused the money of payment {payment}: another payment had paid it. The money must go back.",
}


async def find_order(db: Database, name: str) -> list[OrderKey]:
    """The orders with an id; several tenants may use the same."""
    async def find(tx: AsyncConnection) -> list[OrderKey]:
        rows = await tx.execute(select(ORDERS.c.merchant_id, ORDERS.c.order_id).where(ORDERS.c.order_id == name).order_by(ORDERS.c.merchant_id))
        return [(row.merchant_id, row.order_id) for row in rows]
    return await db.read(find)


async def story(db: Database, key: OrderKey) -> Story | None:
    """Everything about an order; None when there is none."""
    return await db.read(_story, key)


async def _story(tx: AsyncConnection, key: OrderKey) -> Story | None:
    def of(table: Any) -> Any:
        return select(table).where(table.c.merchant_id == key[0], table.c.order_id == key[1])

    order = (await tx.execute(of(ORDERS))).first()
    if order is None:
        return None
    told, to_tell = await messages_about(tx, [key[1]], receivers={"payment_rpc": "The payment service", "seckill_rpc": "The flash sale"})
    lines = [*_history((await tx.execute(of(ORDER_AUDIT).order_by(ORDER_AUDIT.c.id))).all()),
             *_decisions((await tx.execute(of(PAYMENT_DISPOSITION))).all()), *_requests((await tx.execute(of(REFUND_REQUEST))).all()), *told]
    amount = Money(order.amount_minor, order.currency)
    reason = f" ({order.cancel_reason})" if order.cancel_reason else ""
    return Story(headlines=(f"Order {order.order_id} of buyer {order.user_id} at {order.merchant_id}, {amount}, {_STANDING[order.state]}{reason}.",),
                 lines=tuple(lines), nexts=(*_order_nexts(order), *to_tell))


def _history(rows: Sequence[Any]) -> Iterator[Line]:
    for row in rows:
        remark = f" – {row.remark}" if row.remark else ""
        by = f" by {row.operator}" if row.operator else ""
        if not row.from_state:
            text = f"The order was made{by}{remark}."
        elif row.from_state == row.to_state:
            text = f"The order noted {row.event}{by}{remark}."
        else:
            text = f"The order went from {row.from_state} to {row.to_state}: {row.event}{by}{remark}."
        yield Line(at=row.created_at, who=Who.PERSON if row.needs_attention else Who.ORDER if not row.from_state else Who.DECISION,
                   text=text + (" A person must look at it." if row.needs_attention else ""))


def _decisions(rows: Sequence[Any]) -> Iterator[Line]:
    for row in rows:
        if row.disposition:
            yield Line(at=row.created_at, who=Who.DECISION, text=_DECISIONS[row.disposition].format(payment=row.payment_id))


def _requests(rows: Sequence[Any]) -> Iterator[Line]:
    for row in rows:
        failure = f": {row.failure}" if row.failure else ""
        yield Line(at=row.updated_at, who=Who.DECISION,
                   text=f"The order knows refund {row.request_id} of {Money(row.amount_minor, row.currency)} as {row.state}{failure}.")


def _order_nexts(order: Any) -> Iterator[Next]:
    if order.state == OrderState.PENDING_PAYMENT:
        yield Next(at=order.expires_at, text="The order is cancelled if it is not paid by then.")

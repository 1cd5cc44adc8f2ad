"""What order_rpc knows about an order, in words for a support person: its history, what it did with
payments, its refunds and messages.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.audit import TenantKey
from mesh.audit.explain import Actor, Explanation, PendingStep, TimelineEntry, messages_about
from mesh.db import Database
from mesh.money import Money
from mesh.outbox import OUTBOX
from order_rpc.domain.order import OrderState
from order_rpc.tables import (
    ORDER_AUDIT,
    ORDERS,
    PAYMENT_DISPOSITION,
    PRODUCT,
    REFUND_REQUEST,
    STOCK,
    STOCK_MOVEMENT,
)

_Q, _H = REFUND_REQUEST.c, ORDER_AUDIT.c
ORDERS_MAX = 20  # a trace id may lead to several
MOVEMENTS_MAX = 200  # more than a person reads
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
    "REVIVED": "The order had been cancelled, took the late money of payment {payment} and is "
    "paid by it.",
    "REFUSED_CANCELLED": "The order refused the money of payment {payment}: it was cancelled. The "
    "money must go back.",
    "REFUSED_PAID_BY_OTHER": "The order refused the money of payment {payment}: another payment "
    "had paid it. The money must go back.",
}


async def find_orders(db: Database, name: str) -> list[TenantKey]:
    """The orders that something belongs to: an order (several tenants may use the same id), a
    refund or a request for one, a message, a step of an order by the event or the call that caused
    it."""
    return await db.read(_find, name)


async def _find(tx: AsyncConnection, name: str) -> list[TenantKey]:
    of_message = OUTBOX.join(ORDERS, ORDERS.c.order_id == OUTBOX.c.aggregate_id)
    for table, of, condition in (
        (ORDERS, ORDERS, ORDERS.c.order_id == name),
        (REFUND_REQUEST, REFUND_REQUEST, or_(_Q.request_id == name, _Q.refund_id == name)),
        (ORDERS, of_message, OUTBOX.c.event_id == name),
        (ORDER_AUDIT, ORDER_AUDIT, or_(_H.event_id == name, _H.trace_id == name)),
        (ORDERS, of_message, OUTBOX.c.trace_id == name),
    ):
        columns = table.c.merchant_id, table.c.order_id
        if rows := (
            await tx.execute(
                select(*columns)
                .select_from(of)
                .where(condition)
                .distinct()
                .order_by(*columns)
                .limit(ORDERS_MAX)
            )
        ).all():
            return [(row.merchant_id, row.order_id) for row in rows]
    return []


async def explain_others(db: Database, name: str) -> dict[TenantKey, Explanation]:
    """The explanations of products by tenant and SKU: their units, and what people, flash sales and
    refunds did to them.
    """
    return await db.read(_products, name)


async def _products(tx: AsyncConnection, name: str) -> dict[TenantKey, Explanation]:
    found = (
        await tx.execute(
            select(PRODUCT, STOCK.c.available, STOCK.c.reserved, STOCK.c.sold, STOCK.c.allocated)
            .join(
                STOCK,
                (STOCK.c.merchant_id == PRODUCT.c.merchant_id)
                & (STOCK.c.sku_id == PRODUCT.c.sku_id),
            )
            .where(PRODUCT.c.sku_id == name)
        )
    ).all()
    explanations = {}
    for row in found:
        log = STOCK_MOVEMENT.c
        moved = (
            await tx.execute(
                select(STOCK_MOVEMENT)
                .where(log.merchant_id == row.merchant_id, log.sku_id == name)
                .order_by(log.id.desc())
                .limit(MOVEMENTS_MAX)
            )
        ).all()
        price = Money(row.price_minor, row.currency)
        headline = (
            f"Product {name} ({row.name}) of {row.merchant_id} at {price}: {row.available} units "
            f"may be bought, {row.reserved} are reserved, "
            f"{row.sold} are sold, {row.allocated} belong to flash sales."
        )
        explanations[row.merchant_id, name] = Explanation(
            headlines=(headline,), timeline=tuple(map(_moved, reversed(moved))), pending=()
        )
    return explanations


def _moved(step: Any) -> TimelineEntry:
    why = f" ({step.reason or step.reference})" if step.reason or step.reference else ""
    return TimelineEntry(
        at=step.created_at,
        actor=Actor.ORDER,
        text=f"{step.kind} of {step.quantity:+} by {step.operator or 'nobody named'}{why}: "
        f"{step.available_after} may be bought.",
    )


async def explain_order(db: Database, key: TenantKey) -> Explanation | None:
    """Everything about an order; None when there is none."""
    return await db.read(_explain, key)


async def _explain(tx: AsyncConnection, key: TenantKey) -> Explanation | None:
    def of(table: Any) -> Any:
        return select(table).where(table.c.merchant_id == key[0], table.c.order_id == key[1])

    order = (await tx.execute(of(ORDERS))).first()
    if order is None:
        return None
    told, to_tell = await messages_about(
        tx,
        [key[1]],
        receivers={"payment_rpc": "The payment service", "seckill_rpc": "The flash sale"},
    )
    timeline = [
        *_history((await tx.execute(of(ORDER_AUDIT).order_by(ORDER_AUDIT.c.id))).all()),
        *_decisions((await tx.execute(of(PAYMENT_DISPOSITION))).all()),
        *_requests((await tx.execute(of(REFUND_REQUEST))).all()),
        *told,
    ]
    amount = Money(order.amount_minor, order.currency)
    captured = Money(order.captured_minor, order.currency)
    part = f" of which {captured} was captured" if 0 < captured.minor < amount.minor else ""
    reason = f" ({order.cancel_reason})" if order.cancel_reason else ""
    headline = (
        f"Order {order.order_id} of buyer {order.user_id} at {order.merchant_id}, {amount}{part}, "
        f"{_STANDING[order.state]}{reason}."
    )
    return Explanation(
        headlines=(headline,),
        timeline=tuple(timeline),
        pending=(*_order_steps(order), *to_tell),
    )


def _history(rows: Sequence[Any]) -> Iterator[TimelineEntry]:
    for row in rows:
        remark = f" – {row.remark}" if row.remark else ""
        by = f" by {row.operator}" if row.operator else ""
        if not row.from_state:
            text = f"The order was made{by}{remark}."
        elif row.from_state == row.to_state:
            text = f"The order noted {row.event}{by}{remark}."
        else:
            text = (
                f"The order went from {row.from_state} to {row.to_state}: {row.event}{by}{remark}."
            )
        yield TimelineEntry(
            at=row.created_at,
            actor=Actor.PERSON
            if row.needs_attention
            else Actor.ORDER
            if not row.from_state
            else Actor.DECISION,
            text=text + (" A person must look at it." if row.needs_attention else ""),
        )


def _decisions(rows: Sequence[Any]) -> Iterator[TimelineEntry]:
    for row in rows:
        if row.disposition:
            yield TimelineEntry(
                at=row.created_at,
                actor=Actor.DECISION,
                text=_DECISIONS[row.disposition].format(payment=row.payment_id),
            )


def _requests(rows: Sequence[Any]) -> Iterator[TimelineEntry]:
    for row in rows:
        failure = f": {row.failure}" if row.failure else ""
        yield TimelineEntry(
            at=row.updated_at,
            actor=Actor.DECISION,
            text=f"The order knows refund {row.request_id} of "
            f"{Money(row.amount_minor, row.currency)} as {row.state}{failure}.",
        )


def _order_steps(order: Any) -> Iterator[PendingStep]:
    if order.held_payment_id:
        yield PendingStep(
            at=order.held_until,
            text=f"Payment {order.held_payment_id} holds {Money(order.held_minor, order.currency)} "
            "for it. The money is let go and the order is cancelled if the shop does not capture "
            "it by then.",
        )
    elif order.state == OrderState.PENDING_PAYMENT:
        yield PendingStep(
            at=order.expires_at, text="The order is cancelled if it is not paid by then."
        )

"""Payments of orders as `paymesh audit` compares them with order_rpc."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db import Database
from mesh.db.keys import among_keys, one_of_keys
from mesh.outbox import OUTBOX
from mesh.proof import SETTLING, Allowance, OrderKey, PaymentFacts, RefundFacts
from payment_rpc.domain import refund as refunds
from payment_rpc.domain.payment import TOP_UP
from payment_rpc.domain.refund import RefundState
from payment_rpc.tables import ORDER_GATE, PAYMENT, REFUND
from payment_rpc.usecases.messages import ORDER_DESTINATION

_P, _R, _O, _G = PAYMENT.c, REFUND.c, OUTBOX.c, ORDER_GATE.c
_IN_WORDS_OF_ORDERS = {
    RefundState.SUCCESS: "SUCCEEDED",
    RefundState.FAILED: "FAILED",
    RefundState.CANCELED: "FAILED",
    RefundState.REVERSED: "BOUNCED",
    **dict.fromkeys(refunds.OPEN, "APPROVED"),
}


async def paid_orders_page(db: Database, *, after: str, limit: int) -> list[tuple[str, OrderKey]]:
    """The ids of payments of orders, those after `after`, each with its order."""

    async def read(tx: AsyncConnection) -> list[tuple[str, OrderKey]]:
        query = (
            select(_P.payment_id, _P.merchant_id, _P.order_id)
            .where(_P.payment_id > after, _P.payment_method != TOP_UP)
            .order_by(_P.payment_id)
            .limit(limit)
        )
        return [(row.payment_id, (row.merchant_id, row.order_id)) for row in await tx.execute(query)]

    return await db.read(read)


async def payments_of_orders(
    db: Database, allowance: Allowance, keys: Sequence[OrderKey], *, neighbours: bool = False
) -> list[PaymentFacts]:
    """All payments of some orders. Those of neighbours by their keys are found sooner."""
    of, wanted = among_keys if neighbours else one_of_keys, set(keys)
    found = await db.read(_read_facts, of((_P.merchant_id, _P.order_id), keys), allowance)
    return [payment for payment in found if payment.key in wanted]


async def gates_of_orders(
    db: Database, keys: Sequence[OrderKey], *, neighbours: bool = False
) -> dict[OrderKey, str]:
    """The gates of some orders, OPEN or CLOSED, where there is one. Those of neighbours by their keys are found sooner."""
    of = among_keys if neighbours else one_of_keys

    async def read(tx: AsyncConnection) -> dict[OrderKey, str]:
        rows = await tx.execute(
            select(_G.merchant_id, _G.order_id, _G.state).where(of((_G.merchant_id, _G.order_id), keys))
        )
        return {(row.merchant_id, row.order_id): row.state for row in rows}

    return await db.read(read)


async def _read_facts(
    tx: AsyncConnection, condition: ColumnElement[bool], allowance: Allowance
) -> list[PaymentFacts]:
    fresh = (
        select(_O.event_id)
        .where(
            _O.aggregate_id == _P.payment_id,
            _O.destination == ORDER_DESTINATION,
            _O.state == "NEW",
            _O.created_at > allowance.before(SETTLING),
        )
        .exists()
    )
    query = (
        select(
            _P.payment_id,
            _P.merchant_id,
            _P.order_id,
            _P.user_id,
            _P.state,
            _P.version,
            _P.amount_minor,
            _P.currency,
            _P.captured_minor,
            _P.refunded_minor,
            fresh.label("fresh"),
        )
        .where(condition, _P.payment_method != TOP_UP)
        .order_by(_P.payment_id)
    )
    rows = (await tx.execute(query)).all()
    refunds_of = await _refunds(tx, [row.payment_id for row in rows])
    return [
        PaymentFacts(
            payment_id=row.payment_id,
            merchant_id=row.merchant_id,
            order_id=row.order_id,
            user_id=row.user_id,
            state=row.state,
            version=row.version,
            amount_minor=row.amount_minor,
            currency=row.currency,
            captured_minor=row.captured_minor,
            refunded_minor=row.refunded_minor,
            is_settling=bool(row.fresh),
            refunds=tuple(refunds_of[row.payment_id]),
        )
        for row in rows
    ]


async def _refunds(tx: AsyncConnection, payment_ids: Iterable[str]) -> dict[str, list[RefundFacts]]:
    """Refunds that orders are told of; those of a second capture are no affair of theirs."""
    found: dict[str, list[RefundFacts]] = defaultdict(list)
    query = select(_R.refund_id, _R.request_id, _R.payment_id, _R.state, _R.amount_minor, _R.currency).where(
        _R.payment_id.in_(payment_ids), ~_R.stands_alone
    )
    row: Any
    for row in await tx.execute(query):
        found[row.payment_id].append(
            RefundFacts(
                request_id=row.request_id or "",
                refund_id=row.refund_id,
                payment_id=row.payment_id,
                state=_IN_WORDS_OF_ORDERS.get(row.state, row.state),  # one that no code knows is nobody's
                amount_minor=row.amount_minor,
                currency=row.currency,
            )
        )
    return found

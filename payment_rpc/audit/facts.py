"""Payments of orders as `paymesh audit` compares them with order_rpc."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.audit import SETTLING, AuditTolerance, TenantKey
from mesh.db import Database
from mesh.db.keys import one_of_keys
from mesh.db.packed import packed_rows
from mesh.db.ranges import range_of
from mesh.outbox import OUTBOX
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


_OF_PAYMENT = (
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
)
_OF_REFUND = (_R.payment_id, _R.request_id, _R.refund_id, _R.state, _R.amount_minor, _R.currency)
_KEY, _GATE_KEY = (_P.merchant_id, _P.order_id), (_G.merchant_id, _G.order_id)
_IS_FOR_ORDER = _P.payment_method != TOP_UP


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundFacts:
    """A refund as payment_rpc has it, in the words of order_rpc: REQUESTED, APPROVED,
    REJECTED, SUCCEEDED, FAILED, BOUNCED. `request_id` is "" when nobody asked order_rpc for it."""

    request_id: str
    refund_id: str
    payment_id: str
    state: str
    amount_minor: int
    currency: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentFacts:
    """A payment of an order as payment_rpc has it. `is_settling` while a snapshot of it is on its
    way to order_rpc and not late. `refunds` are those that the order is told of."""

    payment_id: str
    merchant_id: str
    order_id: str
    user_id: str
    state: str
    version: int
    amount_minor: int
    currency: str
    captured_minor: int
    refunded_minor: int
    is_settling: bool
    refunds: tuple[RefundFacts, ...] = ()

    @property
    def key(self) -> TenantKey:
        """Names its order."""
        return self.merchant_id, self.order_id


async def payments_between(
    db: Database, tolerance: AuditTolerance, *, after: TenantKey | None, upto: TenantKey | None
) -> list[PaymentFacts]:
    """All payments of orders after one key and up to another, whether there are such orders or
    not.
    """
    return await db.read(_read_facts, range_of(_KEY, after, upto), tolerance)


async def payments_of_orders(
    db: Database, tolerance: AuditTolerance, keys: Sequence[TenantKey]
) -> list[PaymentFacts]:
    """All payments of some orders."""
    return await db.read(_read_facts, one_of_keys(_KEY, keys), tolerance)


async def gates_between(
    db: Database, *, after: TenantKey | None, upto: TenantKey | None
) -> dict[TenantKey, str]:
    """The gates of orders after one key and up to another, OPEN or CLOSED, where there is one."""
    return await db.read(_read_gates, range_of(_GATE_KEY, after, upto))


async def gates_of_orders(db: Database, keys: Sequence[TenantKey]) -> dict[TenantKey, str]:
    """The gates of some orders."""
    return await db.read(_read_gates, one_of_keys(_GATE_KEY, keys))


async def _read_gates(tx: AsyncConnection, condition: ColumnElement[bool]) -> dict[TenantKey, str]:
    rows = await packed_rows(tx, ORDER_GATE, (*_GATE_KEY, _G.state), condition)
    return {(merchant_id, order_id): state for merchant_id, order_id, state in rows}


async def _read_facts(
    tx: AsyncConnection, condition: ColumnElement[bool], tolerance: AuditTolerance
) -> list[PaymentFacts]:
    fresh = (
        select(_O.event_id)
        .where(
            _O.aggregate_id == _P.payment_id,
            _O.destination == ORDER_DESTINATION,
            _O.state == "NEW",
            _O.created_at > tolerance.before(SETTLING),
        )
        .exists()
    )
    rows = await packed_rows(tx, PAYMENT, (*_OF_PAYMENT, fresh), condition, _IS_FOR_ORDER)
    refunds_of = await _refunds(tx, condition)
    return [
        PaymentFacts(
            payment_id=payment_id,
            merchant_id=merchant_id,
            order_id=order_id,
            user_id=user_id,
            state=state,
            version=version,
            amount_minor=amount_minor,
            currency=currency,
            captured_minor=captured_minor,
            refunded_minor=refunded_minor,
            is_settling=bool(is_fresh),
            refunds=tuple(refunds_of.get(payment_id, ())),
        )
        for (
            payment_id,
            merchant_id,
            order_id,
            user_id,
            state,
            version,
            amount_minor,
            currency,
            captured_minor,
            refunded_minor,
            is_fresh,
        ) in sorted(rows)
    ]


async def _refunds(
    tx: AsyncConnection, condition: ColumnElement[bool]
) -> dict[str, list[RefundFacts]]:
    """Refunds that orders are told of; those of a second capture are no affair of theirs."""
    found: dict[str, list[RefundFacts]] = defaultdict(list)
    of_payments = PAYMENT.join(REFUND, _R.payment_id == _P.payment_id)
    for payment_id, request_id, refund_id, state, amount_minor, currency in await packed_rows(
        tx, of_payments, _OF_REFUND, condition, _IS_FOR_ORDER, ~_R.stands_alone
    ):
        found[payment_id].append(
            RefundFacts(
                request_id=request_id or "",
                refund_id=refund_id,
                payment_id=payment_id,
                # one that no code knows is nobody's
                state=_IN_WORDS_OF_ORDERS.get(state) or str(state),
                amount_minor=amount_minor,
                currency=currency,
            )
        )
    return found

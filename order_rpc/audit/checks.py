"""What must hold within order_rpc: stock is what orders hold of it, histories end where orders are,
nothing is left undone (docs/protocols.md 6).

Each check is one statement per range of a table, so it sees one moment.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, FromClause, ScalarSelect, and_, case, func, or_, select

from mesh.audit import OVERDUE, AuditTolerance, Violation
from mesh.audit.queries import Check, check_logs, check_outbox, check_rows, run_checks
from mesh.db import Database
from mesh.outbox import OUTBOX
from order_rpc.audit.kept import check_statistics, messages
from order_rpc.audit.stock import check_stock
from order_rpc.domain.order import OrderState
from order_rpc.domain.order_line import StockSource
from order_rpc.domain.payment import Disposition
from order_rpc.domain.refund import RefundState
from order_rpc.domain.statistics import Figure
from order_rpc.tables import (
    AUDIT_LOG,
    COMMITTED,
    MOVEMENT_LOG,
    ORDER_AUDIT,
    ORDER_ITEM,
    ORDERS,
    PAYMENT_DISPOSITION,
    REFUND_REQUEST,
    RELEASED,
    RESERVATION,
    RESERVED,
    STATISTIC_ENTRY,
    metadata,
)
from order_rpc.usecases.outbox_to_payment import CREATE_REFUND

CANCELLING = timedelta(hours=1)  # a channel may be away; the question is repeated every few minutes
_O, _I, _R, _H, _D, _Q = (
    ORDERS.c,
    ORDER_ITEM.c,
    RESERVATION.c,
    ORDER_AUDIT.c,
    PAYMENT_DISPOSITION.c,
    REFUND_REQUEST.c,
)
_BY_ORDER, _BY_LINE = (_O.merchant_id, _O.order_id), (_I.merchant_id, _I.order_id, _I.sku_id)
_BY_RESERVATION = (_R.merchant_id, _R.order_id, _R.sku_id, _R.generation)
_BY_REFUND = (_Q.merchant_id, _Q.order_id, _Q.request_id)


async def violations(db: Database, tolerance: AuditTolerance) -> AsyncIterator[Violation]:
    """Everything that does not hold."""
    checks = (
        *_unfinished(tolerance),
        *_orders(),
        *_taken(),
        *_reservations(),
        *_refunds(),
        *messages(tolerance),
    )
    for part in (
        check_rows(
            db,
            metadata,
            words={_H.to_state: OrderState, STATISTIC_ENTRY.c.figure: Figure},
            documents=(_O.address,),
        ),
        check_outbox(db, tolerance),
        check_logs(db, AUDIT_LOG, MOVEMENT_LOG),
        run_checks(db, checks),
        check_stock(db),
        check_statistics(db, tolerance),
    ):
        async for violation in part:
            yield violation


def _unfinished(tolerance: AuditTolerance) -> list[Check]:
    return [
        Check(
            name="order_late",
            query=select(_O.order_id, _O.state).where(
                _O.state == OrderState.PENDING_PAYMENT, _O.expires_at < tolerance.before(OVERDUE)
            ),
            detail="it is still {state} after its deadline",
        ),
        Check(
            name="order_late",
            query=select(_O.order_id, _O.state).where(
                _O.state == OrderState.CANCELLING, _O.updated_at < tolerance.before(CANCELLING)
            ),
            detail="it is still {state}",
        ),
    ]


def _orders() -> list[Check]:
    """An order against its lines, its history and the payments that it took."""
    lines = (
        select(func.coalesce(func.sum(_I.amount_minor), 0)).where(_same_order(_I)).scalar_subquery()
    )
    step, earlier = ORDER_AUDIT.alias(), ORDER_AUDIT.alias()
    ends = _last(step, _same_order(step.c))
    before = func.coalesce(
        _last(
            earlier,
            earlier.c.merchant_id == _H.merchant_id,
            earlier.c.order_id == _H.order_id,
            earlier.c.id < _H.id,
        ),
        "",
    )
    return [
        Check(
            name="order_total",
            query=select(_O.order_id, _O.amount_minor, lines.label("lines")).where(
                _O.amount_minor != lines + _O.shipping_minor - _O.discount_minor
            ),
            by=_BY_ORDER,
            detail="its amount is {amount_minor}, its lines add up to {lines}, in minor units",
        ),
        Check(
            name="history_leads_here",
            query=select(_O.order_id, _O.state, func.coalesce(ends, "nothing").label("ends")).where(
                or_(ends.is_(None), ends != _O.state)
            ),
            by=_BY_ORDER,
            detail="it is {state}, and its history ends with {ends}",
        ),
        Check(
            name="history_unbroken",
            query=select(_H.order_id, before.label("was"), _H.from_state).where(
                before != _H.from_state
            ),
            by=(_H.id,),
            detail="its history jumps from {was!r} to {from_state}",
        ),
    ]


def _taken() -> list[Check]:
    """An order against the payments that it took."""
    took = _D.disposition.in_((Disposition.APPLIED, Disposition.REVIVED, Disposition.ALREADY))
    return [
        Check(
            name="order_took_payment",
            query=select(_O.order_id, _O.paid_payment_id).where(
                _O.paid_payment_id != "",
                ~select(_D.payment_id)
                .where(_same_order(_D), _D.payment_id == _O.paid_payment_id, took)
                .exists(),
            ),
            by=_BY_ORDER,
            detail="it is paid by {paid_payment_id}, and it never took that payment",
        ),
        Check(
            name="taken_once",
            query=select(_D.payment_id, _O.order_id, _O.paid_payment_id)
            .select_from(ORDERS.join(PAYMENT_DISPOSITION, _same_order(_D)))
            .where(took, _D.payment_id != _O.paid_payment_id),
            by=_BY_ORDER,
            detail="order {order_id} took it, and is paid by {paid_payment_id}",
        ),
    ]


def _reservations() -> list[Check]:
    """What orders hold: each line of the catalog stock once, in the state that its order is in."""
    other = RESERVATION.alias()
    newest = (
        select(func.max(other.c.generation))
        .where(
            other.c.merchant_id == _I.merchant_id,
            other.c.order_id == _I.order_id,
            other.c.sku_id == _I.sku_id,
        )
        .scalar_subquery()
    )
    should = case(
        (_O.state.in_((OrderState.PENDING_PAYMENT, OrderState.CANCELLING)), RESERVED),
        (_O.state == OrderState.CANCELLED, RELEASED),
        else_=COMMITTED,
    )
    held = ORDER_ITEM.join(ORDERS, _same_order(_I)).outerjoin(
        RESERVATION, and_(_same_line(_R), _R.generation == newest)
    )
    later = RESERVATION.alias()
    outdated = (
        select(later.c.generation)
        .where(
            later.c.merchant_id == _R.merchant_id,
            later.c.order_id == _R.order_id,
            later.c.sku_id == _R.sku_id,
            later.c.generation > _R.generation,
        )
        .exists()
    )
    return [
        Check(
            name="line_reserved",
            query=select(
                _I.order_id,
                _I.sku_id,
                _O.state,
                _R.state.label("held"),
                _R.quantity.label("units"),
                _I.quantity,
            )
            .select_from(held)
            .where(
                _I.stock_source == StockSource.CATALOG,
                or_(_R.state.is_(None), _R.state != should, _R.quantity != _I.quantity),
            ),
            by=_BY_LINE,
            detail="it is {state}, {quantity} of {sku_id} should be held, {units} are {held}",
        ),
        Check(
            name="reservation_of_line",
            query=select(_R.order_id, _R.sku_id).where(
                ~select(_I.sku_id)
                .where(_same_line(_R), _I.stock_source == StockSource.CATALOG)
                .exists()
            ),
            by=_BY_RESERVATION,
            detail="it holds {sku_id}, and no line says so",
        ),
        Check(
            name="old_reservation_released",
            query=select(_R.order_id, _R.sku_id, _R.generation, _R.state).where(
                _R.state != RELEASED, outdated
            ),
            by=_BY_RESERVATION,
            detail="generation {generation} of {sku_id} is {state} beside a newer one",
        ),
    ]


def _refunds() -> list[Check]:
    """Refunds of an order against what the order says of them, and that somebody works on each."""
    paid = and_(
        _same_order(_Q), _Q.payment_id == _O.paid_payment_id, _Q.state == RefundState.SUCCEEDED
    )
    back = select(func.coalesce(func.sum(_Q.amount_minor), 0)).where(paid).scalar_subquery()
    asked = (
        select(OUTBOX.c.id)
        .where(
            OUTBOX.c.aggregate_id == _Q.order_id,
            OUTBOX.c.tag == CREATE_REFUND,
            OUTBOX.c.state != "DONE",
            OUTBOX.c.payload.contains(_Q.request_id),
        )
        .exists()
    )
    return [
        # More may have gone back than counts: money out above what was there is payment_rpc's loss.
        Check(
            name="refunds_add_up",
            query=select(_O.order_id, _O.refunded_minor, back.label("back")).where(
                _O.paid_payment_id != "",
                or_(
                    back < _O.refunded_minor,
                    and_(back > _O.refunded_minor, back <= _O.captured_minor),
                ),
            ),
            by=_BY_ORDER,
            detail="{refunded_minor} went back by the order, {back} by its refunds, in minor units",
        ),
        Check(
            name="refund_nobodys_work",
            query=select(_Q.request_id, _Q.order_id).where(
                _Q.state == RefundState.APPROVED, _Q.refund_id == "", ~asked
            ),
            by=_BY_REFUND,
            detail="it is APPROVED, payment_rpc never named it, and no message asks for it; order "
            "{order_id}",
        ),
    ]


def _last(step: FromClause, *conditions: ColumnElement[bool]) -> ScalarSelect[str]:
    """Where a history led last. Left to itself MySQL goes back through everybody's steps by their
    ids, as far as the other orders are old.
    """
    query = select(step.c.to_state).where(*conditions).order_by(step.c.id.desc()).limit(1)
    for dialect in ("mysql", "mariadb"):
        query = query.with_hint(step, "FORCE INDEX (ix_order_audit_order_id)", dialect)
    return query.scalar_subquery()


def _same_order(columns: Any) -> ColumnElement[bool]:
    return and_(columns.merchant_id == _O.merchant_id, columns.order_id == _O.order_id)


def _same_line(columns: Any) -> ColumnElement[bool]:
    return and_(
        columns.merchant_id == _I.merchant_id,
        columns.order_id == _I.order_id,
        columns.sku_id == _I.sku_id,
    )

"""Pages of payments, each one range of one index, newest first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.bad_rows import readable_page
from mesh.call import Caller
from payment_rpc.domain.payment import Payment, PaymentState
from payment_rpc.store.payments import payment_of
from payment_rpc.tables import PAYMENT

_ALL = tuple(PAYMENT.c)


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentPage:
    """Which payments a page shows: those of a merchant, newest first, after a position."""

    merchant_id: str
    order_id: str = ""  # "" shows those of every order
    customer_digest: str = ""  # "" shows those of every customer
    state: PaymentState | None = None  # None shows every state
    created_from: datetime | None = None  # None: from the first one on
    created_before: datetime | None = None  # None: up to the last one
    after: tuple[datetime, str] | None = None  # created_at and payment_id of the last one seen
    limit: int


def page_statement(page: PaymentPage, *, visible_to: Caller) -> Select[Any]:
    """The query of one page; a test reads the EXPLAIN of each search."""
    filters: list[ColumnElement[bool]] = [PAYMENT.c.merchant_id == page.merchant_id]
    scope = visible_to.scope()
    if scope.merchant_id is not None:
        filters.append(PAYMENT.c.merchant_id == scope.merchant_id)
    if scope.user_id is not None:
        filters.append(PAYMENT.c.user_id == scope.user_id)
    if page.order_id:
        filters.append(PAYMENT.c.order_id == page.order_id)
    if page.customer_digest:
        filters.append(PAYMENT.c.customer_digest == page.customer_digest)
    if page.state is not None:
        filters.append(PAYMENT.c.state == page.state)
    if page.created_from is not None:
        filters.append(PAYMENT.c.created_at >= page.created_from)
    if page.created_before is not None:
        filters.append(PAYMENT.c.created_at < page.created_before)
    index, order = _index_and_order(page)
    if page.after is not None:
        created_at, payment_id = page.after
        # Of an order by payment_id alone, which its index has in that order.
        filters += (
            [PAYMENT.c.payment_id < payment_id]
            if page.order_id
            else [
                PAYMENT.c.created_at <= created_at,
                or_(PAYMENT.c.created_at < created_at, PAYMENT.c.payment_id < payment_id),
            ]
        )
    statement = select(*_ALL).where(and_(*filters)).order_by(*order).limit(page.limit)
    # Left alone, MySQL chooses the index of the slot and sorts, or reads all of a state.
    for dialect in ("mysql", "mariadb"):
        statement = statement.with_hint(PAYMENT, f"FORCE INDEX ({index})", dialect)
    return statement


def _index_and_order(page: PaymentPage) -> tuple[str, tuple[ColumnElement[Any], ...]]:
    newest = (PAYMENT.c.created_at.desc(), PAYMENT.c.payment_id.desc())
    if page.order_id:
        return "ix_payment_order", newest[1:]
    if page.customer_digest:
        return "ix_payment_customer", newest
    return ("ix_payment_merchant" if page.state is None else "ix_payment_state"), newest


async def list_payments(
    tx: AsyncConnection, page: PaymentPage, *, visible_to: Caller
) -> Sequence[Payment]:
    """Payments of one page, newest first, without those that cannot be read."""

    async def fetch(last: Any, limit: int) -> Sequence[Any]:
        after = page.after if last is None else (last.created_at, last.payment_id)
        rows: Sequence[Any] = (
            await tx.execute(
                page_statement(replace(page, after=after, limit=limit), visible_to=visible_to)
            )
        ).all()
        return rows

    return await readable_page(
        fetch, payment_of, of="payment", key=lambda row: row.payment_id, limit=page.limit
    )

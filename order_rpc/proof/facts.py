"""Orders as `paymesh audit` compares them with payment_rpc."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Table, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db import Database
from mesh.db.keys import after_key, among_keys, one_of_keys
from mesh.proof import OrderFacts, OrderKey, RefundFacts
from order_rpc.domain.order import OrderState
from order_rpc.tables import ORDERS, PAYMENT_DISPOSITION, REFUND_REQUEST

_UNPAID = (OrderState.PENDING_PAYMENT, OrderState.CANCELLING, OrderState.CANCELLED)
_O, _D, _Q = ORDERS.c, PAYMENT_DISPOSITION.c, REFUND_REQUEST.c
_KEY = (_O.merchant_id, _O.order_id)


async def orders_page(db: Database, *, after: OrderKey, limit: int) -> list[OrderFacts]:
    """Orders by tenant and id, those after `after`."""
    return await db.read(_read_facts, after_key(_KEY, after), limit)


async def known_orders(db: Database, keys: Sequence[OrderKey]) -> set[OrderKey]:
    """Those of some orders that there are."""

    async def read(tx: AsyncConnection) -> set[OrderKey]:
        return {(row.merchant_id, row.order_id) for row in await tx.execute(select(*_KEY).where(one_of_keys(_KEY, keys)))}

    return await db.read(read)


async def orders_of(db: Database, keys: Sequence[OrderKey]) -> list[OrderFacts]:
    """Some orders."""
    return await db.read(_read_facts, one_of_keys(_KEY, keys), None)


async def _read_facts(tx: AsyncConnection, condition: ColumnElement[bool], limit: int | None) -> list[OrderFacts]:
    query = select(
        *_KEY,
        _O.user_id,
        _O.state,
        _O.amount_minor,
        _O.currency,
        _O.paid_payment_id,
        _O.captured_minor,
        _O.refunded_minor,
    )
    rows = (await tx.execute(query.where(condition).order_by(*_KEY).limit(limit))).all()
    keys = [(row.merchant_id, row.order_id) for row in rows]
    of = one_of_keys if limit is None else among_keys  # a page is of neighbours
    heard = await _of_orders(tx, PAYMENT_DISPOSITION, of, keys, _D.payment_id, _D.payment_version, _D.payment_state)
    asked = await _of_orders(
        tx, REFUND_REQUEST, of, keys, _Q.request_id, _Q.refund_id, _Q.payment_id, _Q.state, _Q.amount_minor, _Q.currency
    )
    return [
        OrderFacts(
            merchant_id=row.merchant_id,
            order_id=row.order_id,
            user_id=row.user_id,
            state=row.state,
            is_paid=row.state not in _UNPAID,
            amount_minor=row.amount_minor,
            currency=row.currency,
            paid_payment_id=row.paid_payment_id,
            captured_minor=row.captured_minor,
            refunded_minor=row.refunded_minor,
            heard={(news.payment_id, news.payment_version): news.payment_state for news in heard[key]},
            refunds=tuple(
                RefundFacts(
                    request_id=refund.request_id,
                    refund_id=refund.refund_id,
                    payment_id=refund.payment_id,
                    state=refund.state,
                    amount_minor=refund.amount_minor,
                    currency=refund.currency,
                )
                for refund in asked[key]
            ),
        )
        for key, row in zip(keys, rows, strict=True)
    ]


async def _of_orders(
    tx: AsyncConnection, table: Table, of: Callable[..., ColumnElement[bool]], keys: Iterable[OrderKey], *columns: Any
) -> dict[OrderKey, list[Any]]:
    """Rows of a table by their orders, and of orders between them, as `of` says."""
    found: dict[OrderKey, list[Any]] = defaultdict(list)
    key = (table.c.merchant_id, table.c.order_id)
    for row in await tx.execute(select(*key, *columns).where(of(key, keys))):
        found[row.merchant_id, row.order_id].append(row)
    return found

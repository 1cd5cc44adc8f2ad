"""Pages of orders, each one range of one index, newest first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, or_, select, true
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.bad_rows import readable_page
from mesh.call import Caller
from order_rpc.domain.external_order import ExternalDetails
from order_rpc.domain.order import Order, OrderState
from order_rpc.store import external_orders
from order_rpc.store.orders import HEAD, LINE, AnyRow, order_of
from order_rpc.tables import EXTERNAL_ORDER, ORDER_ITEM, ORDERS

# an order, its lines, and what only an external one has
_Whole = tuple[AnyRow, Sequence[AnyRow], ExternalDetails | None]
# By whether a page shows one buyer and whether it shows one state.
_INDEXES = {
    (False, False): "ix_orders_merchant",
    (False, True): "ix_orders_state",
    (True, False): "ix_orders_user",
    (True, True): "ix_orders_user_state",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderPage:
    """Which orders a page shows: those of a merchant, newest first, after a position."""

    merchant_id: str
    user_id: str  # "" shows those of every buyer
    state: OrderState | None  # None shows every state
    created_from: datetime | None = None  # None: from the first one on
    created_before: datetime | None = None  # None: up to the last one
    after: tuple[datetime, str] | None  # created_at and order_id of the last one seen
    limit: int
    order_no: str = ""  # "" does not look for a number of the merchant
    customer_digest: str = ""  # "" shows those of every customer of the merchant


def page_statement(page: OrderPage, *, visible_to: Caller) -> Select[Any]:
    """The query of one page; a test reads the EXPLAIN of each combination of filters."""
    filters = [ORDERS.c.merchant_id == page.merchant_id, _visible(visible_to)]
    if page.user_id:
        filters.append(ORDERS.c.user_id == page.user_id)
    if page.state is not None:
        filters.append(ORDERS.c.state == page.state)
    if page.created_from is not None:
        filters.append(ORDERS.c.created_at >= page.created_from)
    if page.created_before is not None:
        filters.append(ORDERS.c.created_at < page.created_before)
    if page.after is not None:
        created_at, order_id = page.after
        # In this form MySQL starts reading at the position; of (a < x OR (a = x AND b < y)) alone
        # it makes two ranges and a sort.
        filters += [
            ORDERS.c.created_at <= created_at,
            or_(ORDERS.c.created_at < created_at, ORDERS.c.order_id < order_id),
        ]
    if page.order_no or page.customer_digest:
        return _of_external(page, filters)
    statement = (
        select(*HEAD)
        .where(*filters)
        .order_by(ORDERS.c.created_at.desc(), ORDERS.c.order_id.desc())
        .limit(page.limit)
    )
    # Left alone, the optimizer reads an index of fewer columns from its newest row on: at 200 000
    # orders a page in the middle took 50 times longer.
    is_of_a_buyer = bool(page.user_id) or visible_to.scope().user_id is not None
    hint = f"FORCE INDEX ({_INDEXES[is_of_a_buyer, page.state is not None]})"
    return statement.with_hint(ORDERS, hint, "mysql").with_hint(ORDERS, hint, "mariadb")


def _of_external(page: OrderPage, filters: list[ColumnElement[bool]]) -> Select[Any]:
    """The page of a number or a customer: an index of the external orders names the rows, and each
    is looked up by its key.
    """
    external = EXTERNAL_ORDER.c
    wanted: list[ColumnElement[bool]] = [external.merchant_id == page.merchant_id]
    if page.order_no:
        wanted.append(external.order_no == page.order_no)
    if page.customer_digest:
        wanted.append(external.customer_digest == page.customer_digest)
    if page.created_from is not None:
        wanted.append(external.created_at >= page.created_from)
    if page.created_before is not None:
        wanted.append(external.created_at < page.created_before)
    if page.after is not None:
        created_at, order_id = page.after
        wanted += [
            external.created_at <= created_at,
            or_(external.created_at < created_at, external.order_id < order_id),
        ]
    same = and_(
        ORDERS.c.merchant_id == external.merchant_id, ORDERS.c.order_id == external.order_id
    )
    # A number names one order at most: there is nothing to sort.
    index = "uq_external_order_order_no" if page.order_no else "ix_external_order_customer"
    statement = (
        select(*HEAD)
        .select_from(EXTERNAL_ORDER.join(ORDERS, same))
        .where(*wanted, *filters)
        .order_by(external.created_at.desc(), external.order_id.desc())
        .limit(page.limit)
    )
    for dialect in ("mysql", "mariadb"):
        statement = (
            statement.prefix_with("STRAIGHT_JOIN", dialect=dialect)
            .with_hint(EXTERNAL_ORDER, f"FORCE INDEX ({index})", dialect)
            .with_hint(ORDERS, "FORCE INDEX (PRIMARY)", dialect)
        )
    return statement


async def list_orders(tx: AsyncConnection, page: OrderPage, *, visible_to: Caller) -> list[Order]:
    """Orders of one page, newest first, without those that cannot be read."""

    async def fetch(last: _Whole | None, limit: int) -> list[_Whole]:
        after = page.after if last is None else (last[0].created_at, last[0].order_id)
        return await _fetch(tx, replace(page, after=after, limit=limit), visible_to=visible_to)

    return await readable_page(
        fetch,
        lambda whole: order_of(*whole),
        of="orders",
        key=lambda whole: whole[0].order_id,
        limit=page.limit,
    )


async def _fetch(tx: AsyncConnection, page: OrderPage, *, visible_to: Caller) -> list[_Whole]:
    heads = (await tx.execute(page_statement(page, visible_to=visible_to))).all()
    if not heads:
        return []
    # Lines never change, so that reading them in a second statement is safe.
    wanted = select(ORDER_ITEM.c.order_id, *LINE).where(
        ORDER_ITEM.c.merchant_id == page.merchant_id,
        ORDER_ITEM.c.order_id.in_([head.order_id for head in heads]),
    )
    lines: dict[str, list[AnyRow]] = {}
    for row in await tx.execute(wanted.order_by(ORDER_ITEM.c.order_id, ORDER_ITEM.c.sku_id)):
        lines.setdefault(row.order_id, []).append(row)
    details = await external_orders.details_of(tx, heads)
    return [
        (head, lines.get(head.order_id, []), each)
        for head, each in zip(heads, details, strict=True)
    ]


def _visible(caller: Caller) -> ColumnElement[bool]:
    scope = caller.scope()
    return and_(
        true(),
        *(() if scope.merchant_id is None else (ORDERS.c.merchant_id == scope.merchant_id,)),
        *(() if scope.user_id is None else (ORDERS.c.user_id == scope.user_id,)),
    )

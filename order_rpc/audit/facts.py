"""Orders as `paymesh audit` compares them with payment_rpc."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Column, ColumnElement, Table
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.audit import TenantKey
from mesh.db import Database
from mesh.db.keys import one_of_keys
from mesh.db.packed import Values, packed_rows
from mesh.db.ranges import end_of_range, range_of
from order_rpc.domain.order import OrderState
from order_rpc.tables import ORDERS, PAYMENT_DISPOSITION, REFUND_REQUEST

_UNPAID = (OrderState.PENDING_PAYMENT, OrderState.CANCELLING, OrderState.CANCELLED)
_O, _D, _Q = ORDERS.c, PAYMENT_DISPOSITION.c, REFUND_REQUEST.c
# the columns in the order of the fields of OrderFacts and RefundFacts
_KEY = (_O.merchant_id, _O.order_id)
_OF_ORDER = (
    _O.user_id,
    _O.state,
    _O.amount_minor,
    _O.currency,
    _O.paid_payment_id,
    _O.captured_minor,
    _O.refunded_minor,
    _O.held_payment_id,
    _O.held_minor,
)
_OF_REFUND = (_Q.request_id, _Q.refund_id, _Q.payment_id, _Q.state, _Q.amount_minor, _Q.currency)
# a condition on the columns of a table that name its order
Within = Callable[[Sequence[Column[Any]]], ColumnElement[bool]]


@dataclass(frozen=True, slots=True)
class RefundFacts:
    """A refund as order_rpc has it: REQUESTED, APPROVED,
    REJECTED, SUCCEEDED, FAILED, BOUNCED. `refund_id` is "" as long as payment_rpc has not
    said it."""

    request_id: str
    refund_id: str
    payment_id: str
    state: str
    amount_minor: int
    currency: str


@dataclass(frozen=True, slots=True)
class OrderFacts:
    """An order as order_rpc has it; amounts in minor units. `heard` is the state of each payment by
    (payment_id, version) as order_rpc heard of it. `held_payment_id` is "" where no money is
    held."""

    merchant_id: str
    order_id: str
    user_id: str
    state: str
    amount_minor: int
    currency: str
    paid_payment_id: str
    captured_minor: int
    refunded_minor: int
    held_payment_id: str
    held_minor: int
    heard: Mapping[tuple[str, int], str] = field(kw_only=True)
    refunds: tuple[RefundFacts, ...] = field(kw_only=True)

    @property
    def key(self) -> TenantKey:
        """Names it."""
        return self.merchant_id, self.order_id

    @property
    def is_paid(self) -> bool:
        """Whether money (or nothing to pay) made it PAID, whatever came then."""
        return self.state not in _UNPAID


async def orders_page(
    db: Database, *, after: TenantKey | None, limit: int
) -> tuple[list[OrderFacts], TenantKey | None]:
    """So many orders by tenant and id, those after `after`; and the last one, or None where the
    orders end.
    """

    async def read(tx: AsyncConnection) -> tuple[list[OrderFacts], TenantKey | None]:
        upto = await end_of_range(tx, _KEY, limit, after)
        facts = await _read_facts(tx, lambda key: range_of(key, after, upto))
        return facts, None if upto is None else (upto[0], upto[1])

    return await db.read(read)


async def orders_of(db: Database, keys: Sequence[TenantKey]) -> list[OrderFacts]:
    """Some orders."""
    return await db.read(_read_facts, lambda key: one_of_keys(key, keys))


async def _read_facts(tx: AsyncConnection, within: Within) -> list[OrderFacts]:
    orders = await packed_rows(tx, ORDERS, (*_KEY, *_OF_ORDER), within(_KEY))
    heard: dict[TenantKey, dict[tuple[str, int], str]] = defaultdict(dict)
    for merchant_id, order_id, payment_id, version, payment_state in await _of_orders(
        tx, PAYMENT_DISPOSITION, within, _D.payment_id, _D.payment_version, _D.payment_state
    ):
        heard[merchant_id, order_id][payment_id, version] = payment_state
    asked: dict[TenantKey, list[RefundFacts]] = defaultdict(list)
    for merchant_id, order_id, *refund in await _of_orders(tx, REFUND_REQUEST, within, *_OF_REFUND):
        asked[merchant_id, order_id].append(RefundFacts(*refund))
    return [
        OrderFacts(
            merchant_id,
            order_id,
            *order,
            heard=heard.get((merchant_id, order_id), {}),
            refunds=tuple(asked.get((merchant_id, order_id), ())),
        )
        for merchant_id, order_id, *order in orders
    ]


async def _of_orders(
    tx: AsyncConnection, table: Table, within: Within, *columns: Column[Any]
) -> list[Values]:
    key = (table.c.merchant_id, table.c.order_id)
    return await packed_rows(tx, table, (*key, *columns), within(key))

"""Merchants' own orders: with CreateOrder at their prices, and with RegisterExternalOrder for a
payment that is about to begin. The merchant's number names one order for ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh import idempotency
from mesh.call import Caller, current_trace_id, mark_replayed
from mesh.clock import Clock
from mesh.customers import buyer_of
from mesh.db import Database
from mesh.failpoints import failpoint
from mesh.idempotency import IdempotencyKey
from mesh.ids import Ids
from mesh.money import Money
from order_rpc.domain.address import Address
from order_rpc.domain.errors import OrderExistsDifferent
from order_rpc.domain.external_order import (
    ExternalDetails,
    ExternalLine,
    deadline,
    merchant_lines,
    require_total,
    whole_order_line,
)
from order_rpc.domain.merchant_terms import MerchantTerms
from order_rpc.domain.order import ERASE, Order
from order_rpc.domain.order_line import OrderLine
from order_rpc.store import catalog, external_orders, orders, stock
from order_rpc.usecases.first_answers import CREATE_ORDER, answer_of, as_answered, without_people
from order_rpc.usecases.journal import ORDER_RPC, Journal, NewOrder, operator
from order_rpc.usecases.merchant_terms import TermsOfMerchants
from order_rpc.usecases.outbox_to_payment import erase_message


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateExternalOrder:
    """An order at the prices of its merchant. Every amount is of one currency."""

    merchant_id: str
    details: ExternalDetails
    items: tuple[ExternalLine, ...]
    shipping: Money
    discount: Money
    amount: Money | None  # as the merchant added it up; None leaves the sum to us
    reserve_stock: bool  # take the units from our stock
    expires_at: datetime | None  # None means after the payment window
    idempotency_key: str  # "" leaves it to the number of the order
    fingerprint: Mapping[str, str]
    address: Address | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterExternalOrder:
    """An order of which a merchant says only what it costs, on its way to a payment."""

    merchant_id: str
    details: ExternalDetails
    amount: Money
    expires_at: datetime | None
    operator: str = field(default="")  # who asked payment_rpc


_Registered = tuple[Order, bool]  # True: it was there before


class ExternalOrders:
    """CreateOrder of merchants, RegisterExternalOrder, ErasePersonalData."""

    def __init__(
        self, *, db: Database, clock: Clock, ids: Ids, journal: Journal, terms: TermsOfMerchants
    ) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._journal = journal
        self._terms = terms

    async def create(self, command: CreateExternalOrder, caller: Caller) -> Order:
        """Makes an order, once per number of the merchant and once per idempotency key; later
        calls are marked as replayed. The same number finds the order as it is now.

        Raises:
            InvalidArgument, TotalTooLarge, ProductNotFound, ProductNotOnSale, OutOfStock,
                OrderExistsDifferent, IdempotencyKeyReused, MerchantSuspended, MerchantNotLive:
                nothing was done.
        """
        terms = await self._terms.of(command.merchant_id)
        order, existed = await self._db.run(self._create, command, caller, terms)
        failpoint("order.external.after_commit")
        if existed:
            mark_replayed()
        return order

    async def register(self, command: RegisterExternalOrder) -> _Registered:
        """Makes the order that a payment is for, or finds it as it is now; True: it was there.

        Raises:
            InvalidArgument: the deadline makes no sense. OrderExistsDifferent: the number is
                taken by an order of another amount or currency.
        """
        terms = await self._terms.of(command.merchant_id)
        registered = await self._db.run(self._register, command, terms)
        failpoint("order.external.after_commit")
        return registered

    async def erase_personal_data(
        self, *, merchant_id: str, order_id: str, reason: str, caller: Caller
    ) -> Order:
        """Removes what an external order says of people. A repetition changes nothing.

        Raises:
            OrderNotFound: there is none in the caller's shop. OrderStateInvalid: it is an order of
                the catalogue.
        """
        return await self._db.run(self._erase, merchant_id, order_id, reason, caller)

    async def _create(
        self,
        tx: AsyncConnection,
        command: CreateExternalOrder,
        caller: Caller,
        terms: MerchantTerms,
    ) -> _Registered:
        now = self._clock.now()
        key = IdempotencyKey(
            merchant_id=command.merchant_id,
            caller=caller.key,
            method=CREATE_ORDER,
            key=command.idempotency_key,
        )
        # Before the idempotency record, as for orders of the catalogue.
        products = (
            await catalog.find_products(
                tx,
                merchant_id=command.merchant_id,
                sku_ids={item.sku_id for item in command.items},
            )
            if command.reserve_stock
            else None
        )
        if key.key and (record := await idempotency.find(tx, key, fingerprint=command.fingerprint)):
            first = await self._load(tx, command.merchant_id, record.resource_id)
            return as_answered(first, record.answer or "{}"), True
        earlier = await self._earlier(tx, command.merchant_id, command.details.order_no)
        # An order that is there holds its units already: only the prices are compared.
        lines = merchant_lines(command.items, products if earlier is None else None)
        require_total(
            lines, shipping=command.shipping, discount=command.discount, sent=command.amount
        )
        # What was said first holds: the deadline of a repetition is not looked at.
        expires_at = (
            deadline(command.expires_at, now=now, window=terms.payment_window)
            if earlier is None
            else earlier.expires_at
        )
        wanted = self._place(command, lines, now, expires_at)
        if earlier is not None:
            _require_same(earlier, wanted, with_lines=True)
            return earlier, True
        terms.require_open()
        order = wanted if wanted.amount.minor else wanted.pay(payment_id="", at=now)
        if key.key:
            await idempotency.claim(
                tx,
                key,
                fingerprint=command.fingerprint,
                resource_id=order.order_id,
                now=now,
                retention=idempotency.OTHER_RETENTION,
                answer=answer_of(order),
            )
        await self._write(tx, order, operator(caller), now)
        return order, False

    async def _register(
        self, tx: AsyncConnection, command: RegisterExternalOrder, terms: MerchantTerms
    ) -> _Registered:
        now = self._clock.now()
        order_no = command.details.order_no
        order_id = self._ids.new("ORD")
        earlier = await self._earlier(tx, command.merchant_id, order_no)
        zero = Money.zero(command.amount.currency)
        order = Order.place(
            merchant_id=command.merchant_id,
            order_id=order_id,
            user_id=buyer_of(order_id),
            lines=(whole_order_line(order_no=order_no, amount=command.amount),),
            at=now,
            expires_at=earlier.expires_at
            if earlier is not None
            else deadline(command.expires_at, now=now, window=terms.payment_window),
            external=command.details,
            own_terms=(zero, zero),
        )
        if earlier is not None:
            _require_same(earlier, order, with_lines=False)
            return earlier, True
        terms.require_open()
        await self._write(tx, order, command.operator, now)
        return order, False

    def _place(
        self,
        command: CreateExternalOrder,
        lines: tuple[OrderLine, ...],
        now: datetime,
        expires_at: datetime,
    ) -> Order:
        order_id = self._ids.new("ORD")
        return Order.place(
            merchant_id=command.merchant_id,
            order_id=order_id,
            user_id=buyer_of(order_id),
            lines=lines,
            at=now,
            expires_at=expires_at,
            address=command.address,
            external=command.details,
            own_terms=(command.shipping, command.discount),
        )

    async def _earlier(self, tx: AsyncConnection, merchant_id: str, order_no: str) -> Order | None:
        if not order_no:
            return None
        order_id = await external_orders.order_id_of(tx, merchant_id=merchant_id, order_no=order_no)
        return None if order_id is None else await self._load(tx, merchant_id, order_id)

    @staticmethod
    async def _load(tx: AsyncConnection, merchant_id: str, order_id: str) -> Order:
        return await orders.load_order(
            tx, merchant_id=merchant_id, order_id=order_id, visible_to=ORDER_RPC
        )

    async def _write(self, tx: AsyncConnection, order: Order, by_whom: str, now: datetime) -> None:
        new = NewOrder(order=order, operator=by_whom, trace_id=current_trace_id())
        await self._journal.create(tx, [new], at=now)
        failpoint("order.external.before_commit")
        if order.catalog_lines:
            # Last: other buyers of the products wait for these locks until the commit.
            await stock.reserve(tx, order)

    async def _erase(
        self, tx: AsyncConnection, merchant_id: str, order_id: str, reason: str, caller: Caller
    ) -> Order:
        now = self._clock.now()
        order = await orders.load_order(
            tx, merchant_id=merchant_id, order_id=order_id, visible_to=caller, for_update=True
        )
        erased = order.erase(at=now)
        if erased is not order:
            await external_orders.erase(tx, erased)
            await idempotency.rewrite_answers(
                tx,
                merchant_id=merchant_id,
                method=CREATE_ORDER,
                resource_id=order.order_id,
                change=without_people,
            )
            await self._journal.step(
                tx,
                order,
                erased,
                event=ERASE,
                cause=self._journal.cause(caller),
                at=now,
                remark=reason,
                messages=[erase_message(erased, ids=self._ids, at=now)],
            )
        return erased


def _require_same(there: Order, wanted: Order, *, with_lines: bool) -> None:
    problem = "differs from the order with this number"
    differing = {
        "amount": there.amount.minor != wanted.amount.minor,
        "currency": there.amount.currency != wanted.amount.currency,
        "items": with_lines and _content(there) != _content(wanted),
    }
    fields = {name: problem for name, differs in differing.items() if differs}
    if fields:
        raise OrderExistsDifferent(fields=fields, order_id=there.order_id)


def _content(order: Order) -> list[tuple[str, int, int]]:
    return [(line.sku_id, line.quantity, line.unit_price.minor) for line in order.lines]

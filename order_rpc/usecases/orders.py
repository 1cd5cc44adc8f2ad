"""Orders of buyers: creating one takes its units off the shelf in the same transaction, at the prices that the catalogue has in that moment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh import outbox, receipts
from mesh.call import Caller, current_trace_id, mark_replayed
from mesh.clock import Clock
from mesh.db import Database
from mesh.failpoints import failpoint
from mesh.ids import Ids
from mesh.paging import PageTokens, page_size
from mesh.receipts import ReceiptKey
from order_rpc.domain.order import NewLine, Order, OrderState, Verb, price_lines
from order_rpc.store import catalog, orders, stock
from order_rpc.store.orders import AuditRow, OrderPage
from order_rpc.usecases.events import order_created, order_paid

CREATED = "CREATE"  # what the audit calls the birth of an order; its other events are verbs


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateOrder:
    """A buyer's wish. `user_id` and `merchant_id` were checked against the caller."""

    merchant_id: str
    user_id: str
    items: tuple[NewLine, ...]
    idempotency_key: str           # "" makes a new order with every call
    fingerprint: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListOrders:
    """Which orders to show: those of a merchant, newest first."""

    merchant_id: str
    user_id: str               # "" shows those of every buyer
    state: OrderState | None   # None shows every state
    page_size: int             # 0 means the default
    page_token: str            # "" means the first page


class Orders:
    """CreateOrder, GetOrder, ListOrders."""

    def __init__(self, *, db: Database, clock: Clock, ids: Ids, page_tokens: PageTokens, payment_window: timedelta) -> None:
        """`payment_window`: how long a buyer may take to pay."""
        self._db = db
        self._page_tokens = page_tokens
        self._clock = clock
        self._ids = ids
        self._payment_window = payment_window

    async def create(self, command: CreateOrder, caller: Caller) -> Order:
        """Makes an order and reserves its units; with an idempotency key at most once, later calls get the first answer.

        Raises:
            ProductNotFound, CurrencyMixed, PriceChanged, OutOfStock, TotalTooLarge, IdempotencyKeyReused: nothing was done.
        """
        order, is_replay = await self._db.run(self._create, command, caller)
        failpoint("order.create.after_commit")
        if is_replay:
            mark_replayed()
        return order

    async def get(self, *, merchant_id: str, order_id: str, caller: Caller) -> Order:
        """One order.

        Raises:
            OrderNotFound: there is none, or it is not the caller's.
        """
        return await self._db.read(orders.load_order, merchant_id=merchant_id, order_id=order_id, visible_to=caller)

    async def list(self, query: ListOrders, caller: Caller) -> tuple[tuple[Order, ...], str]:
        """One page of orders and the token of the next one, "" after the last. Orders that are not the caller's are not in it.

        Raises:
            PageTokenInvalid: the token was not made by us, or for another list or filter.
        """
        selection = {"merchant_id": query.merchant_id, "user_id": query.user_id, "state": query.state or ""}
        limit = page_size(query.page_size)
        after = self._page_tokens.decode(query.page_token, list_name="ListOrders", filter=selection, types=(int, str))
        page = OrderPage(merchant_id=query.merchant_id, user_id=query.user_id, state=query.state, limit=limit + 1,
                         after=None if after is None else (datetime.fromtimestamp(int(after[0]) / 1000, UTC), str(after[1])))
        found = await self._db.read(orders.list_orders, page, visible_to=caller)
        shown, rest = tuple(found[:limit]), found[limit:]
        if not rest:
            return shown, ""
        key = (round(shown[-1].created_at.timestamp() * 1000), shown[-1].order_id)
        return shown, self._page_tokens.encode(list_name="ListOrders", filter=selection, key=key)

    async def _create(self, tx: AsyncConnection, command: CreateOrder, caller: Caller) -> tuple[Order, bool]:
        now = self._clock.now()
        key = ReceiptKey(merchant_id=command.merchant_id, caller=operator(caller), method="CreateOrder", key=command.idempotency_key)
        if key.key:
            receipt = await receipts.find(tx, key, fingerprint=command.fingerprint)
            if receipt is not None:
                order = await orders.load_order(tx, merchant_id=command.merchant_id, order_id=receipt.resource_id, visible_to=caller)
                return _as_answered(order, receipt.answer or "{}"), True
        sku_ids = {item.sku_id for item in command.items}
        products = await catalog.find_products(tx, merchant_id=command.merchant_id, sku_ids=sku_ids)
        lines = price_lines(command.items, products)
        order = Order.place(merchant_id=command.merchant_id, order_id=self._ids.new("ORD"), user_id=command.user_id, lines=lines, at=now,
                            expires_at=now + self._payment_window)
        if order.amount.minor == 0:
            order = order.pay(payment_id="", at=now)
        if key.key:
            await receipts.claim(tx, key, fingerprint=command.fingerprint, resource_id=order.order_id, now=now,
                                 retention=receipts.OTHER_RETENTION, answer=_answer(order))
        await orders.insert_order(tx, order)
        await self._tell(tx, order, caller)
        await stock.hold(tx, order)  # last, because everybody who wants the same product waits from here until the commit
        failpoint("order.create.before_commit")
        return order, False

    async def _tell(self, tx: AsyncConnection, order: Order, caller: Caller) -> None:
        trace_id = current_trace_id()
        messages = [order_created(order, event_id=self._ids.new("EVT"), trace_id=trace_id)]
        steps = [("", OrderState.PENDING_PAYMENT, CREATED)]
        if order.state is OrderState.PAID:
            messages.append(order_paid(order, event_id=self._ids.new("EVT"), trace_id=trace_id))
            steps.append((OrderState.PENDING_PAYMENT, OrderState.PAID, Verb.PAY))
        rows = [AuditRow(from_state=before, to_state=after, event=event, event_id=message.event_id, operator=operator(caller), trace_id=trace_id)
                for (before, after, event), message in zip(steps, messages, strict=True)]
        await orders.append_audit(tx, order, *rows, at=order.created_at)
        await outbox.put(tx, *messages)


def operator(caller: Caller) -> str:
    """Who it was, in receipts and in the audit: no two callers share it, even when a service and a buyer have the same name."""
    return f"{caller.role}:{caller.subject}"


def _answer(order: Order) -> str:
    """What a replay cannot read from the row, because it may have changed since."""
    return json.dumps({"state": order.state, "version": order.version})


def _as_answered(order: Order, answer: str) -> Order:
    """The order as the first call saw it. Everything but these fields never changes."""
    first = json.loads(answer)
    state = OrderState(first["state"])
    return replace(order, state=state, version=first["version"], paid_payment_id="", updated_at=order.created_at,
                   paid_at=order.created_at if state is OrderState.PAID else None)

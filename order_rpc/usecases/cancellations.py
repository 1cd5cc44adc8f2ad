"""Cancels orders that nobody paid. CANCELLING is committed first, then payment_rpc is asked to
close the payments. Only its answer cancels the order and frees its units (`outbox_to_payment`), so
that a buyer who pays in that moment is never cancelled (docs/protocols.md 4).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.bad_rows import Quarantine, RowBatches
from mesh.call import Caller, Role
from mesh.clock import Clock, Seconds, seconds_until
from mesh.db import Database
from mesh.failpoints import failpoint
from mesh.ids import Ids
from mesh.outbox import Message
from order_rpc.domain.errors import MoneyHeld, OrderAlreadyPaid
from order_rpc.domain.order import Order, OrderState, Verb
from order_rpc.domain.statistics import Figure, entries_of_payment, entry
from order_rpc.store import orders, refunds, stock
from order_rpc.tables import ORDERS
from order_rpc.usecases.events import order_cancelled
from order_rpc.usecases.journal import ORDER_RPC, Cause, Journal
from order_rpc.usecases.outbox_to_payment import (
    RELAY_DELAY,
    close_message,
    deliver_at_once,
    return_stock_messages,
)

EXPIRED = "not paid in time"  # cancel_reason of an expired order


class Cancellations:
    """CancelOrder, and the orders whose time to pay is over."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        ids: Ids,
        journal: Journal,
        deliver: Callable[[Message], Awaitable[bool]],
        batch: int,
    ) -> None:
        """`batch`: how many orders one round of the expiry worker takes."""
        self._db = db
        self._clock = clock
        self._ids = ids
        self._journal = journal
        self._deliver = deliver
        self._quarantine = Quarantine("expire_orders", ORDERS.c.merchant_id, ORDERS.c.order_id)
        self._batches = RowBatches(
            db=db, quarantine=self._quarantine, most=batch, due=self._due, take=self._expire
        )

    async def cancel(
        self, *, merchant_id: str, order_id: str, reason: str, caller: Caller
    ) -> Order:
        """Cancels an order and returns it: CANCELLED, or CANCELLING while payment_rpc has not
        answered. An order that cost nothing can be cancelled until it is shipped. Money that is
        held for it is let go for everybody but the buyer.

        Raises:
            OrderNotFound: there is none, or it is somebody else's. OrderAlreadyPaid: it is paid,
                maybe in this very moment. MoneyHeld: the buyer's money is held for the shop.
        """
        order, message = await self._db.run(self._begin, merchant_id, order_id, reason, caller)
        failpoint("order.cancel.after_begin")
        if message is not None:
            await deliver_at_once(self._deliver, message)
            order = await self._db.read(
                orders.load_order, merchant_id=merchant_id, order_id=order_id, visible_to=caller
            )
        if order.state is OrderState.PENDING_PAYMENT:  # it came back, by a hold
            raise MoneyHeld(payment_id=order.held.payment_id if order.held else "")
        if order.state not in (OrderState.CANCELLING, OrderState.CANCELLED):
            raise OrderAlreadyPaid(payment_id=order.paid_payment_id)
        return order

    async def due_in(self) -> Seconds | None:
        """Seconds until the time to pay of the next order is over; None when none waits for
        money.
        """
        return seconds_until(
            await self._db.read(orders.next_expiry, self._quarantine), self._clock.now()
        )

    async def expire_once(self) -> int:
        """Begins to cancel orders whose time to pay is over; returns how many. Any number of
        processes may do so at once.
        """
        count = len(await self._batches.run())
        if count:
            failpoint("order.expire.after_commit")
        return count

    async def _begin(
        self, tx: AsyncConnection, merchant_id: str, order_id: str, reason: str, caller: Caller
    ) -> tuple[Order, Message | None]:
        now = self._clock.now()
        order = await orders.load_order(
            tx, merchant_id=merchant_id, order_id=order_id, visible_to=caller, for_update=True
        )
        if (
            order.is_free
            and order.state is OrderState.PAID
            and not await refunds.refunds_of(tx, order, limit=1)
        ):
            return await self._cancel_free(tx, order, reason=reason, caller=caller, at=now), None
        is_buyer = caller.role is Role.USER
        if order.state is not OrderState.PENDING_PAYMENT or (order.held is not None and is_buyer):
            return order, None
        return await self._close(
            tx,
            order,
            reason=reason,
            cause=self._journal.cause(caller),
            by_buyer=is_buyer,
            lets_go=not is_buyer,
            at=now,
            due_at=now + RELAY_DELAY,
        )

    def _due(self, limit: int) -> Select[Any]:
        return orders.expired_statement(self._clock.now(), limit)

    async def _expire(self, tx: AsyncConnection, expired: Sequence[Any]) -> list[str]:
        now = self._clock.now()
        for row in expired:
            order = await orders.load_order(
                tx, merchant_id=row.merchant_id, order_id=row.order_id, visible_to=ORDER_RPC
            )
            await self._close(
                tx,
                order,
                reason=EXPIRED,
                cause=self._journal.cause(ORDER_RPC),
                by_buyer=False,
                lets_go=False,
                at=now,
                due_at=now,
            )
        failpoint("order.expire.before_commit")
        return [row.order_id for row in expired]

    async def _cancel_free(
        self, tx: AsyncConnection, order: Order, *, reason: str, caller: Caller, at: datetime
    ) -> Order:
        """Nothing was paid, so payment_rpc is not asked. An order of which units came back already
        can only be refunded further.
        """
        cancelled = order.cancel_free(reason=reason, at=at)
        counts = [
            entry(cancelled, Figure.CANCELLED, at=at),
            *entries_of_payment(order, at=order.paid_at or at, count=-1),
        ]
        await self._journal.step(
            tx,
            order,
            cancelled,
            event=Verb.CANCEL_FREE,
            cause=self._journal.cause(caller),
            at=at,
            remark=reason,
            make_event=order_cancelled,
            messages=return_stock_messages(cancelled, ids=self._ids, at=at),
            counts=counts,
        )
        await stock.release_sold(tx, cancelled, at=at)
        return cancelled

    async def _close(
        self,
        tx: AsyncConnection,
        order: Order,
        *,
        reason: str,
        cause: Cause,
        by_buyer: bool,
        lets_go: bool,
        at: datetime,
        due_at: datetime,
    ) -> tuple[Order, Message]:
        closing = order.begin_cancel(reason=reason, at=at)
        message = close_message(
            closing, by_buyer=by_buyer, lets_go=lets_go, ids=self._ids, at=at, due_at=due_at
        )
        await self._journal.step(
            tx,
            order,
            closing,
            event=Verb.BEGIN_CANCEL,
            cause=cause,
            at=at,
            remark=reason,
            messages=[message],
        )
        return closing, message

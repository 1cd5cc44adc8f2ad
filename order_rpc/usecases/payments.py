"""What payment_rpc tells an order about its payments: any message may come late, twice or out of
order, and an order changes at most once by each payment (docs/protocols.md 3)."""

from __future__ import annotations

from dataclasses import dataclass

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh import inbox
from mesh.call import Caller
from mesh.clock import Clock
from mesh.db import Database
from mesh.errors import InvalidArgument
from mesh.failpoints import failpoint
from order_rpc.domain.order import OrderState
from order_rpc.domain.payment import Disposition, PaymentSnapshot
from order_rpc.store import orders, payments
from order_rpc.usecases.journal import Cause
from order_rpc.usecases.taking import Taken, Taking

CONSUMER = "payment_rpc"  # whose event ids these are

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateOrderStatus:
    """One message of payment_rpc."""

    merchant_id: str
    order_id: str
    event_id: str
    payment: PaymentSnapshot
    wanted: OrderState | None = None  # what payment_rpc asks for; the snapshot decides


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the order did with the payment, and where it stands now."""

    disposition: Disposition
    state: OrderState


class Payments:
    """UpdateOrderStatus."""

    def __init__(self, *, db: Database, clock: Clock, taking: Taking) -> None:
        self._db = db
        self._clock = clock
        self._taking = taking

    async def update_status(self, command: UpdateOrderStatus, caller: Caller) -> Answer:
        """Takes one message. The first snapshot of a payment with money decides what the order does
        with it; every other one is noted.

        Raises:
            OrderNotFound: there is no such order. InvalidArgument: it asks for a state that no
                payment brings.
        """
        if command.wanted not in {None, OrderState.PAID}:
            raise InvalidArgument.of("status", "a payment can only ask for PAID")
        taken = await self._db.run(self._update_status, command, caller)
        failpoint("order.update_status.after_commit")
        for problem in taken.alerts:
            log.error(
                "order_needs_attention",
                alert=True,
                merchant_id=command.merchant_id,
                order_id=command.order_id,
                payment_id=command.payment.payment_id,
                problem=problem,
            )
        return Answer(disposition=taken.disposition, state=taken.order.state)

    async def _update_status(
        self, tx: AsyncConnection, command: UpdateOrderStatus, caller: Caller
    ) -> Taken:
        now = self._clock.now()
        is_new = await inbox.first_time(tx, consumer=CONSUMER, event_id=command.event_id, now=now)
        order = await orders.load_order(
            tx,
            merchant_id=command.merchant_id,
            order_id=command.order_id,
            visible_to=caller,
            for_update=True,
        )
        if not is_new:
            known = await payments.find_payment(tx, order, payment_id=command.payment.payment_id)
            return Taken(
                order=order, disposition=Disposition.NOTED if known is None else known.answer
            )
        taken = await self._taking.take(
            tx,
            order,
            command.payment,
            cause=Cause(event_id=command.event_id, operator=CONSUMER),
            at=now,
        )
        failpoint("order.update_status.before_commit")
        return taken

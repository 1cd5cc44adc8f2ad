"""PayOrder starts a payment of an order; UpdateOrderStatus hears from payment_rpc what became of
it.

Messages of payment_rpc may come late, twice or out of order: an order changes at most once by each
payment (docs/protocols.md 3).
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh import inbox
from mesh.call import Caller
from mesh.clock import Clock
from mesh.db import Database
from mesh.errors import InvalidArgument, RemoteError
from mesh.failpoints import failpoint
from mesh.logs import get_logger
from order_rpc.domain.errors import OrderAlreadyPaid, OrderExpired, OrderStateInvalid
from order_rpc.domain.order import OrderState
from order_rpc.domain.payment import Disposition, PaymentSnapshot
from order_rpc.store import orders, payments
from order_rpc.usecases.apply_payment import AppliedPayment, PaymentApplier
from order_rpc.usecases.journal import Cause
from order_rpc.usecases.merchant_terms import TermsOfMerchants
from order_rpc.usecases.outbox_to_payment import PaymentService

CONSUMER = "payment_rpc"  # the sender of the event ids in the inbox
_NOT_PAID_ANY_MORE = frozenset({OrderState.CANCELLING, OrderState.CANCELLED})

log = get_logger()


TERMS_SECONDS_MAX = 0.2


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
    """What the order did with the payment, and its state now."""

    disposition: Disposition
    state: OrderState


class Payments:
    """PayOrder, UpdateOrderStatus."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        service: PaymentService,
        applier: PaymentApplier,
        terms: TermsOfMerchants,
    ) -> None:
        self._db = db
        self._clock = clock
        self._service = service
        self._terms = terms
        self._applier = applier

    async def pay(
        self, *, merchant_id: str, order_id: str, channel: str, return_url: str, caller: Caller
    ) -> Any:
        """Starts the payment of an order at a channel and returns it as payment_rpc answers it.

        payment_rpc gets the order's data with the call and does not call back while it serves it:
        no number of these calls can use up the servers that they wait for.

        Raises:
            OrderNotFound: there is none, or it is somebody else's. OrderAlreadyPaid,
                OrderStateInvalid, OrderExpired: it waits for no money. MerchantSuspended,
                MerchantNotLive: its shop takes none.
            RemoteError: what payment_rpc refused; UpstreamUnavailable: it did not answer, and
                nothing is known.
        """
        order = await self._db.read(
            orders.load_order, merchant_id=merchant_id, order_id=order_id, visible_to=caller
        )
        if order.state in _NOT_PAID_ANY_MORE:
            raise OrderStateInvalid(
                f"an order in state {order.state} is not paid any more",
                state=order.state,
                verb="PAY",
            )
        if order.state is not OrderState.PENDING_PAYMENT:
            raise OrderAlreadyPaid(payment_id=order.paid_payment_id)
        if order.expires_at <= self._clock.now():
            raise OrderExpired
        (await self._terms.of(merchant_id)).require_open()
        return await self._service.create_payment(order, channel=channel, return_url=return_url)

    async def update_order_status(self, command: UpdateOrderStatus, caller: Caller) -> Answer:
        """Applies one message. The first snapshot of a payment with money decides what the order
        does with it; every other one is noted.

        Raises:
            OrderNotFound: there is no such order. InvalidArgument: it asks for a state that no
                payment brings.
        """
        if command.wanted not in {None, OrderState.PAID}:
            raise InvalidArgument.of("status", "a payment can only ask for PAID")
        # Late money needs to know what its merchant does with it; no news waits long for that.
        with suppress(RemoteError, TimeoutError):
            async with asyncio.timeout(TERMS_SECONDS_MAX):
                await self._terms.of(command.merchant_id)
        applied = await self._db.run(self._update_order_status, command, caller)
        failpoint("order.update_status.after_commit")
        applied.log_alerts(command.payment.payment_id)
        return Answer(disposition=applied.disposition, state=applied.order.state)

    async def _update_order_status(
        self, tx: AsyncConnection, command: UpdateOrderStatus, caller: Caller
    ) -> AppliedPayment:
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
            return AppliedPayment(
                order=order, disposition=Disposition.NOTED if known is None else known.answer
            )
        applied = await self._applier.apply(
            tx,
            order,
            command.payment,
            cause=Cause(event_id=command.event_id, operator=CONSUMER),
            at=now,
        )
        failpoint("order.update_status.before_commit")
        return applied

"""Starting the payment of an order at a channel. payment_rpc gets the order's data along and does
not call back while it is served, so that any number of these calls at once never wait for
themselves."""

from __future__ import annotations

from typing import Any

from mesh.call import Caller
from mesh.clock import Clock
from mesh.db import Database
from order_rpc.domain.errors import OrderAlreadyPaid, OrderExpired, OrderStateInvalid
from order_rpc.domain.order import OrderState
from order_rpc.store import orders
from order_rpc.usecases.to_payment_rpc import PaymentService

_UNPAID = frozenset({OrderState.CANCELLING, OrderState.CANCELLED})


class Paying:
    """PayOrder."""

    def __init__(self, *, db: Database, clock: Clock, payments: PaymentService) -> None:
        self._db = db
        self._clock = clock
        self._payments = payments

    async def pay(
        self, *, merchant_id: str, order_id: str, channel: str, return_url: str, caller: Caller
    ) -> Any:
        """The live payment of an order at a channel, as payment_rpc answers it.

        Raises:
            OrderNotFound: there is none, or it is somebody else's. OrderAlreadyPaid,
                OrderStateInvalid, OrderExpired: it waits for no money.
            RemoteError: what payment_rpc refused; UpstreamUnavailable: it did not answer, and
                nothing is known.
        """
        order = await self._db.read(
            orders.load_order, merchant_id=merchant_id, order_id=order_id, visible_to=caller
        )
        if order.state in _UNPAID:
            raise OrderStateInvalid(
                f"an order in state {order.state} is not paid any more",
                state=order.state,
                verb="PAY",
            )
        if order.state is not OrderState.PENDING_PAYMENT:
            raise OrderAlreadyPaid(payment_id=order.paid_payment_id)
        if order.expires_at <= self._clock.now():
            raise OrderExpired
        return await self._payments.create_payment(order, channel=channel, return_url=return_url)

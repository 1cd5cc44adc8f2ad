"""What payments have to read from order_rpc."""

from __future__ import annotations

from typing import Protocol

from payment_rpc.domain.order import NewExternalOrder, OrderToPay


class OrderReader(Protocol):
    """The part of order_rpc that answers reads."""

    async def get(self, *, merchant_id: str, order_id: str, seckill_ticket: str = "") -> OrderToPay:
        """An order.

        Raises:
            OrderNotFound: there is none. OrderCreating: order_rpc still writes that of the ticket.
        """
        ...

    async def register(self, new: NewExternalOrder) -> OrderToPay:
        """A merchant's own order, new or as it is now.

        Raises:
            OrderExistsDifferent: its number names another order. InvalidArgument: order_rpc takes
                no such order.
        """
        ...

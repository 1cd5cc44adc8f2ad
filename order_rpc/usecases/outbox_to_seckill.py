"""What order_rpc needs of seckill_rpc: that it takes back units that nobody paid for, and whether
the order of a ticket is still to come.
"""

from __future__ import annotations

from typing import Protocol

from mesh.outbox import Message
from order_rpc.domain.ticket import TicketOrder
from order_rpc.usecases.outbox_to_payment import SECKILL_RPC


class SeckillService(Protocol):
    """seckill_rpc as order_rpc sees it."""

    async def return_stock(self, *, merchant_id: str, activity_id: str, order_id: str) -> None:
        """Gives the unit of an order back to its activity, or RemoteError. Idempotent by the order
        id.
        """
        ...

    async def ticket_order(self, ticket: str) -> TicketOrder:
        """Whose order a ticket is of, and whether it may still come, or RemoteError."""
        ...


class SeckillDestination:
    """Sends ReturnStock. Its answer changes nothing here: the order is cancelled already."""

    name = SECKILL_RPC

    def __init__(self, seckill: SeckillService) -> None:
        self._seckill = seckill

    async def send(self, message: Message) -> None:
        """Sends one message.

        Raises:
            RemoteError: not answered, or refused for good.
        """
        await self._seckill.return_stock(
            merchant_id=message.payload["merchant_id"],
            activity_id=message.payload["activity_id"],
            order_id=message.payload["order_id"],
        )

"""EraseCustomer: a merchant erased the customer of an order, so its payments forget him too."""

from __future__ import annotations

from mesh.db import Database
from payment_rpc.store import payments


class Customers:
    """What payments keep of the customers of merchants."""

    def __init__(self, *, db: Database) -> None:
        self._db = db

    async def erase(self, *, merchant_id: str, order_id: str) -> None:
        """Makes the payments of an order no longer found by an address. A repetition changes
        nothing.
        """
        await self._db.run(payments.erase_customer, merchant_id=merchant_id, order_id=order_id)

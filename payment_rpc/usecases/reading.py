"""Showing payments: through the cache for people, from the rows for sibling services."""

from __future__ import annotations

from collections.abc import Sequence

from mesh.call import Caller, Role
from mesh.db import Database
from payment_rpc.cache import PaymentCache
from payment_rpc.domain.errors import PaymentNotFound
from payment_rpc.domain.payment import Payment
from payment_rpc.store import payments


class Reading:
    """Reads payments."""

    def __init__(self, *, db: Database, cache: PaymentCache) -> None:
        self._db = db
        self._cache = cache

    async def get(self, payment_id: str, caller: Caller) -> Payment:
        """One payment.

        Raises:
            PaymentNotFound: there is none, or it is somebody else's.
        """
        if (
            caller.role is not Role.SERVICE
            and (cached := await self._cache.get(payment_id)) is not None
        ):
            return _owned(cached, caller)
        payment = await self._db.read(payments.get_payment, payment_id, visible_to=caller)
        await self._cache.put(payment)
        return payment

    async def get_of_order(self, *, merchant_id: str, order_id: str, caller: Caller) -> Payment:
        """The live or successful payment of an order, else its newest.

        Raises:
            PaymentNotFound: there is none, or it is somebody else's.
        """
        if (
            caller.role is not Role.SERVICE
            and (cached := await self._cache.get_of_order(merchant_id, order_id)) is not None
        ):
            return _owned(cached, caller)
        payment = await self._db.read(
            payments.get_of_order, merchant_id=merchant_id, order_id=order_id, visible_to=caller
        )
        await self._cache.put_of_order(payment)
        return payment

    async def list_of_order(
        self, *, merchant_id: str, order_id: str, before: str | None, limit: int, caller: Caller
    ) -> Sequence[Payment]:
        """Payments of an order, newest first, older than the payment id `before`."""
        return await self._db.read(
            payments.list_of_order,
            merchant_id=merchant_id,
            order_id=order_id,
            before=before,
            limit=limit,
            visible_to=caller,
        )


def _owned(payment: Payment, caller: Caller) -> Payment:
    if not payments.may_see(payment, caller):
        raise PaymentNotFound
    return payment

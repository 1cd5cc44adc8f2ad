"""Taking back a call by its idempotency key, for a client that never got an answer: what began is
closed, what never arrived never will (docs/protocols.md 2)."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh import idempotency
from mesh.call import Caller, Role
from mesh.clock import Clock
from mesh.db import Database
from mesh.idempotency import IdempotencyKey
from payment_rpc.domain.payment import UNDECIDED, Payment
from payment_rpc.store import payments
from payment_rpc.usecases.closing import Closing


class TakingBack:
    """Cancels by idempotency key."""

    def __init__(self, *, db: Database, clock: Clock, closing: Closing) -> None:
        self._db = db
        self._clock = clock
        self._closing = closing

    async def take_back(
        self, *, method: str, key: str, merchant_id: str, caller: Caller
    ) -> Payment | None:
        """The payment that the call began, closed if it could be; None when the call never came. It
        is refused when it comes after all.
        """
        idempotency_key = IdempotencyKey(
            merchant_id=merchant_id, caller=caller.key, method=method, key=key
        )
        payment_id = await self._db.run(self._find_or_tombstone, idempotency_key)
        if payment_id is None:
            return None
        payment = await self._db.read(payments.get_payment, payment_id, visible_to=caller)
        return (
            await self._closing.close(payment_id, by_buyer=caller.role is Role.USER)
            if payment.state in UNDECIDED
            else payment
        )

    async def _find_or_tombstone(
        self, tx: AsyncConnection, idempotency_key: IdempotencyKey
    ) -> str | None:
        return await idempotency.find_or_tombstone(tx, idempotency_key, now=self._clock.now())

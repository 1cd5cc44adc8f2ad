"""Closing payments: CLOSING is committed first, then the channel is asked to close, and its answer is applied like any other fact."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.clock import Clock
from mesh.db import Database
from mesh.failpoints import failpoint
from payment_rpc.domain.attempt import OPEN, Attempt
from payment_rpc.domain.payment import Payment, PaymentState
from payment_rpc.store import attempts, payments
from payment_rpc.usecases.asking import Asking

EXPIRY_BATCH = 100


class Closing:
    """Closes payments that nobody should pay any more."""

    def __init__(self, *, db: Database, clock: Clock, asking: Asking) -> None:
        self._db = db
        self._clock = clock
        self._asking = asking

    async def close(self, payment_id: str) -> Payment:
        """Closes one payment at its channel and returns it as it is then: CLOSED, paid after all, or CLOSING while the channel does not answer."""
        payment, open_attempts = await self._db.run(self._begin, payment_id)
        failpoint("payment.close.after_closing")
        for attempt in open_attempts:
            payment = (await self._asking.close(attempt)).payment
        return payment

    async def expire_once(self) -> int:
        """Moves payments past their deadline to CLOSING; their attempts are closed at the channel by the next round of questions."""
        return await self._db.run(self._expire)

    async def _begin(self, tx: AsyncConnection, payment_id: str) -> tuple[Payment, list[Attempt]]:
        payment = await payments.lock_payment(tx, payment_id)
        if payment.state is PaymentState.PAYING:
            payment = await self._to_closing(tx, payment)
        if payment.state is not PaymentState.CLOSING:
            return payment, []
        return payment, [attempt for attempt in await attempts.attempts_of(tx, payment_id) if attempt.state in OPEN]

    async def _expire(self, tx: AsyncConnection) -> int:
        expired = await payments.claim_expired(tx, now=self._clock.now(), limit=EXPIRY_BATCH)
        for payment in expired:
            await self._to_closing(tx, payment)
        return len(expired)

    async def _to_closing(self, tx: AsyncConnection, payment: Payment) -> Payment:
        now = self._clock.now()
        closing = payment.begin_closing(at=now)
        await payments.save_payment(tx, closing, read_version=payment.version)
        for attempt in await attempts.attempts_of(tx, payment.payment_id):
            if attempt.state in OPEN:
                await attempts.save_attempt(tx, attempt.ask_now(at=now), read_version=attempt.version)
        return closing

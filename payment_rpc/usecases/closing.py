"""The first half of closing a payment, which is committed before its channel is asked: by whoever
closes one, and by the scan for payments past their deadline.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import Select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.bad_rows import Quarantine, RowBatches
from mesh.clock import Clock, Seconds, seconds_until
from mesh.db import Database
from payment_rpc.domain.attempt import OPEN, AttemptState
from payment_rpc.domain.payment import Failure, Payment, PaymentState
from payment_rpc.domain.scan import ScanAction, ScanStep, ScanSubject, entries
from payment_rpc.store import attempts, payments, scan_actions
from payment_rpc.tables import PAYMENT

# How long the end of a hold waits for a capture that is under way.
CAPTURE_UNDER_WAY = timedelta(hours=1)


class Expiry:
    """Moves payments past their deadline to CLOSING. Their attempts are due at once: the next round
    of polling closes them at the channel.
    """

    def __init__(self, *, db: Database, clock: Clock, batch: int) -> None:
        self._db = db
        self._clock = clock
        self._quarantine = Quarantine("expire_payments", PAYMENT.c.payment_id)
        self._batches = [
            RowBatches(
                db=db,
                quarantine=self._quarantine,
                most=batch,
                due=partial(self._due, state),
                take=self._expire,
            )
            for state in payments.WITH_DEADLINE
        ]

    async def due_in(self) -> Seconds | None:
        """Seconds until the next deadline of a payment that is under way; None when there is
        none.
        """
        return seconds_until(
            await self._db.read(payments.next_expiry, self._quarantine), self._clock.now()
        )

    async def run_once(self) -> int:
        """Expires the payments that are due; returns how many."""
        return sum([len(await batches.run()) for batches in self._batches])

    def _due(self, state: PaymentState, limit: int) -> Select[Any]:
        return payments.expired_statement(self._clock.now(), limit, state)

    async def _expire(self, tx: AsyncConnection, expired: Sequence[Any]) -> list[str]:
        for row in expired:
            payment = payments.payment_of(row)
            now = self._clock.now()
            if await is_being_captured(tx, payment):
                # the capture has the last word, or the channel, when it let the money go
                later = payment.extend(CAPTURE_UNDER_WAY, at=now)
                await payments.save_payment(tx, later, read_version=payment.version)
                continue
            closing = await begin_closing(tx, payment, at=now)
            step = ScanStep(action=ScanAction.CLOSE, reason="DEADLINE", began_at=now, ended_at=now)
            await scan_actions.add(
                tx,
                entries(
                    [step],
                    ScanSubject(payment_id=payment.payment_id),
                    before=payment.state,
                    after=closing.state,
                ),
            )
        return [row.payment_id for row in expired]


async def is_being_captured(tx: AsyncConnection, payment: Payment) -> bool:
    """Whether a capture of the held money of a locked payment was begun and has no result."""
    return payment.state is PaymentState.AUTHORIZED and any(
        attempt.state is AttemptState.AUTHORIZED and attempt.capture_amount is not None
        for attempt in await attempts.attempts_of(tx, payment.payment_id)
    )


async def begin_closing(
    tx: AsyncConnection, payment: Payment, *, failure: Failure | None = None, at: datetime
) -> Payment:
    """Moves a locked payment to CLOSING and makes its open attempts due at once."""
    closing = payment.begin_closing(failure=failure, at=at)
    await payments.save_payment(tx, closing, read_version=payment.version)
    for attempt in await attempts.attempts_of(tx, payment.payment_id):
        if attempt.state in OPEN:
            await attempts.save_attempt(tx, attempt.query_now(at=at), read_version=attempt.version)
    return closing

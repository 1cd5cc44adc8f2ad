"""Rows that a process wrote whose clock was ahead. Their leases and due times lie too far in the
future; they are corrected by its error, so that a clock that is ten minutes wrong does not keep a
buyer waiting for ten minutes.

Only a process whose own clock agrees with the database's does this: to one that is behind, every
row looks as if it came from the future.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.bad_rows import Quarantine, RowBatches
from mesh.clock import Clock
from mesh.database_clock import database_now
from mesh.db import Database
from mesh.logs import get_logger
from payment_rpc.store import attempts, refunds
from payment_rpc.tables import ATTEMPT, REFUND

TOLERANCE = timedelta(seconds=30)  # clocks that are kept by NTP differ by less than one
ROWS_MAX = 200

log = get_logger()


class FutureRows:
    """Attempts and refunds that are still open."""

    def __init__(self, *, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock
        self._attempts = RowBatches(
            db=db,
            quarantine=Quarantine("correct_future_rows", ATTEMPT.c.attempt_id),
            most=ROWS_MAX,
            due=lambda limit: attempts.future_statement(clock.now(), TOLERANCE, limit),
            take=self._correct_attempts,
        )
        self._refunds = RowBatches(
            db=db,
            quarantine=Quarantine("correct_future_rows", REFUND.c.refund_id),
            most=ROWS_MAX,
            due=lambda limit: refunds.future_statement(clock.now(), TOLERANCE, limit),
            take=self._correct_refunds,
        )

    async def run_once(self) -> int:
        """Corrects some rows; returns how many."""
        theirs = await self._db.read(database_now)
        if theirs is not None and abs(theirs - self._clock.now()) > TOLERANCE:
            return 0
        corrected = len(await self._attempts.run()) + len(await self._refunds.run())
        if corrected:
            log.error("rows_from_the_future", alert=True, corrected=corrected)
        return corrected

    async def _correct_attempts(self, tx: AsyncConnection, found: Sequence[Any]) -> list[str]:
        return await attempts.correct_clock(
            tx, [row.attempt_id for row in found], now=self._clock.now(), tolerance=TOLERANCE
        )

    async def _correct_refunds(self, tx: AsyncConnection, found: Sequence[Any]) -> list[str]:
        return await refunds.correct_clock(
            tx, [row.refund_id for row in found], now=self._clock.now(), tolerance=TOLERANCE
        )

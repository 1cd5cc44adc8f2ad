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
from payment_rpc.store.versioned import PolledRows

TOLERANCE = timedelta(seconds=30)  # clocks that are kept by NTP differ by less than one
ROWS_MAX = 200

log = get_logger()


class FutureRows:
    """Attempts and refunds that are still open."""

    def __init__(self, *, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock
        self._batches = (self._batches_of(attempts.POLLED), self._batches_of(refunds.POLLED))

    async def run_once(self) -> int:
        """Corrects some rows; returns how many."""
        theirs = await self._db.read(database_now)
        if theirs is not None and abs(theirs - self._clock.now()) > TOLERANCE:
            return 0
        corrected = sum([len(await batches.run()) for batches in self._batches])
        if corrected:
            log.error("rows_from_the_future", alert=True, corrected=corrected)
        return corrected

    def _batches_of(self, rows: PolledRows[Any]) -> RowBatches[str]:
        async def correct(tx: AsyncConnection, found: Sequence[Any]) -> list[str]:
            keys = [row[0] for row in found]
            return await rows.correct_clock(tx, keys, now=self._clock.now(), tolerance=TOLERANCE)

        return RowBatches(
            db=self._db,
            quarantine=Quarantine("correct_future_rows", rows.key),
            most=ROWS_MAX,
            due=lambda limit: rows.future_statement(self._clock.now(), TOLERANCE, limit),
            take=correct,
        )

"""Rows that a process wrote whose clock was ahead. Their leases and due times lie too far in the future; they are
corrected by its error, so that a clock that is ten minutes wrong does not keep a buyer waiting for ten minutes.

Only a process whose own clock agrees with the database's does this: to one that is behind, every row looks as if it
came from the future.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.clock import Clock
from mesh.database_clock import database_now
from mesh.db import Database
from mesh.logs import get_logger
from payment_rpc.store import attempts, refunds

TOLERANCE = timedelta(seconds=30)  # clocks that are kept by NTP differ by less than one
ROWS_MAX = 200

log = get_logger()


class FutureRows:
    """Attempts and refunds that are still open."""

    def __init__(self, *, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    async def run_once(self) -> int:
        """Corrects some rows; returns how many."""
        corrected = await self._db.run(self._correct)
        if corrected:
            log.error("rows_from_the_future", alert=True, corrected=corrected)
        return corrected

    async def _correct(self, tx: AsyncConnection) -> int:
        now, theirs = self._clock.now(), await database_now(tx)
        if theirs is not None and abs(theirs - now) > TOLERANCE:
            return 0
        return (await attempts.bring_back(tx, now=now, tolerance=TOLERANCE, limit=ROWS_MAX)
                + await refunds.bring_back(tx, now=now, tolerance=TOLERANCE, limit=ROWS_MAX))

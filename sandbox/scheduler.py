"""Runs scheduled steps and computes when the next one is due. Later outcomes wait in the file; each
is applied in one transaction with its callback.
"""

from __future__ import annotations

from datetime import datetime

from mesh.clock import Clock, Seconds
from sandbox import store
from sandbox.outcomes import Outcomes
from sandbox.refunds import STEP, RefundDesk
from sandbox.store import Store, Tx

_BATCH = 50  # keeps one transaction short


class Scheduler:
    """Runs scheduled steps."""

    def __init__(
        self, channel_store: Store, outcomes: Outcomes, refunds: RefundDesk, *, clock: Clock
    ) -> None:
        self._store = channel_store
        self._outcomes = outcomes
        self._refunds = refunds
        self._clock = clock

    async def run_once(self) -> int:
        """Runs the due steps; returns how many."""
        return await self._store.run(self._take)

    def _take(self, tx: Tx) -> int:
        due = store.take_scheduled(tx, now=self._clock.now(), limit=_BATCH)
        for scheduled in due:
            if scheduled.what == STEP:
                self._refunds.take_step(tx, scheduled)
            else:
                self._outcomes.take_scheduled(tx, scheduled)
        return len(due)


def due_in(tx: Tx, *, now: datetime) -> Seconds | None:
    """Seconds until the next callback, scheduled event or deadline of a payer; None without any."""
    row = tx.execute(
        "SELECT min(due_ms) FROM (SELECT min(due_ms) AS due_ms FROM scheduled UNION ALL "
        "SELECT min(due_ms) FROM deliveries WHERE state = 'DUE' UNION ALL "
        "SELECT min(expires_ms) FROM transactions WHERE status = 'PENDING')"
    ).fetchone()
    return None if row[0] is None else row[0] / 1000 - now.timestamp()

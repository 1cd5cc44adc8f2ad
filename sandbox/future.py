"""What is going to happen: outcomes that come later wait in the file, and happen in one transaction
each with the callback that tells them.
"""

from __future__ import annotations

from datetime import datetime

from mesh.clock import Clock, Seconds
from sandbox import store
from sandbox.channel import SimulatedChannel
from sandbox.refunding import STEP, RefundDesk
from sandbox.store import Store, Tx

_BATCH = 50  # keeps one transaction short


class Future:
    """Lets scheduled things happen."""

    def __init__(
        self, channel_store: Store, channel: SimulatedChannel, refunds: RefundDesk, *, clock: Clock
    ) -> None:
        self._store = channel_store
        self._channel = channel
        self._refunds = refunds
        self._clock = clock

    async def run_once(self) -> int:
        """Does what is due; answers how many."""
        return await self._store.run(self._take)

    def _take(self, tx: Tx) -> int:
        due = store.take_scheduled(tx, now=self._clock.now(), limit=_BATCH)
        for scheduled in due:
            if scheduled.what == STEP:
                self._refunds.take_step(tx, scheduled)
            else:
                self._channel.take_scheduled(tx, scheduled)
        return len(due)


def due_in(tx: Tx, *, now: datetime) -> Seconds | None:
    """Seconds until something happens by itself: a callback, what was scheduled, or the end of a
    payer's time. None when nothing will.
    """
    row = tx.execute(
        "SELECT min(due_ms) FROM (SELECT min(due_ms) AS due_ms FROM scheduled UNION ALL "
        "SELECT min(due_ms) FROM deliveries WHERE state = 'DUE' UNION ALL "
        "SELECT min(expires_ms) FROM transactions WHERE status = 'PENDING')"
    ).fetchone()
    return None if row[0] is None else row[0] / 1000 - now.timestamp()

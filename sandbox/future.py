"""What is going to happen: outcomes that come later wait in the file, and happen in one transaction each with the callback that tells them."""

from __future__ import annotations

from mesh.clock import Clock
from sandbox import store
from sandbox.channel import SimulatedChannel
from sandbox.refunding import STEP, RefundDesk
from sandbox.store import Store, Tx

_BATCH = 50  # keeps one transaction short


class Future:
    """Lets scheduled things happen."""

    def __init__(self, channel_store: Store, channel: SimulatedChannel, refunds: RefundDesk, *, clock: Clock) -> None:
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

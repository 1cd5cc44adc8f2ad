"""Queues callbacks, in the transaction of the change that they report."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from mesh.clock import Clock
from mesh.ids import Ids
from sandbox import store
from sandbox.store import Tx


class CallbackQueue:
    """Enqueues callbacks."""

    def __init__(self, *, clock: Clock, ids: Ids, is_on: bool) -> None:
        """
        Args:
            is_on: False when no receiver is configured; then none are recorded.
        """
        self._clock = clock
        self._ids = ids
        self._is_on = is_on

    def enqueue(
        self, tx: Tx, body_of: Callable[[str], bytes], *, times: int = 1, delay_seconds: float = 0
    ) -> None:
        """Enqueues the callback that `body_of` writes for an event id, `times` times: the same
        bytes under the same event id.
        """
        if not self._is_on or times == 0:
            return
        event_id = self._ids.new("EVT")
        body, due_at = body_of(event_id), self._clock.now() + timedelta(seconds=delay_seconds)
        store.insert_delivery(tx, event_id=event_id, body=body, due_at=due_at)
        for number in range(2, times + 1):
            store.insert_delivery(tx, event_id=f"{event_id}#{number}", body=body, due_at=due_at)

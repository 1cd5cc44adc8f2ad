"""Forgetting what was delivered: rows of the outbox and the inbox are kept for a while, for replays
and questions, and not for ever.
"""

from __future__ import annotations

from datetime import timedelta

from mesh import inbox, outbox
from mesh.clock import Clock
from mesh.db import Database
from mesh.worker import Worker

PURGE_SECONDS = 600.0  # what is purged lives for days


def purge_worker(*, db: Database, clock: Clock, retention: timedelta) -> Worker:
    """Deletes messages that were delivered, once they are older than `retention`. What a receiver
    has done is remembered for twice as long: whoever sends a message once more that still is in an
    outbox meets a receiver that knows it."""

    async def purge() -> int:
        now = clock.now()
        return await db.run(outbox.purge, before=now - retention) + await db.run(
            inbox.purge, before=now - 2 * retention
        )

    return Worker("purge_delivered", purge, idle_seconds=PURGE_SECONDS)

"""Deletes old rows of the outbox and the inbox. They are kept for a while after delivery, for
replays and investigations.
"""

from __future__ import annotations

from datetime import timedelta

from mesh import inbox, outbox
from mesh.clock import Clock
from mesh.db import Database
from mesh.worker import Worker

PURGE_SECONDS = 600.0  # rows are kept for days, so purging need not be frequent


def purge_worker(*, db: Database, clock: Clock, retention: timedelta) -> Worker:
    """Deletes delivered messages that are older than `retention`. Inbox rows are kept for twice as
    long, so that a receiver still recognises a message that is sent again from an outbox."""

    async def purge() -> int:
        now = clock.now()
        return await db.run(outbox.purge, before=now - retention) + await db.run(
            inbox.purge, before=now - 2 * retention
        )

    return Worker("purge_delivered", purge, idle_seconds=PURGE_SECONDS)

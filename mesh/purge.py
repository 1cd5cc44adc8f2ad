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


def purge_worker(
    *, db: Database, clock: Clock, retention: timedelta, has_inbox: bool = True
) -> Worker:
    """Deletes delivered messages that are older than `retention`. Inbox rows are kept for twice as
    long, so that a receiver still recognises a message that is sent again from an outbox. A service
    that no other one sends messages to has no inbox."""

    async def purge() -> int:
        now = clock.now()
        done = await db.run(outbox.purge, before=now - retention)
        return done + (await db.run(inbox.purge, before=now - 2 * retention) if has_inbox else 0)

    return Worker("purge_delivered", purge, idle_seconds=PURGE_SECONDS)

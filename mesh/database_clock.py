"""Reads the database's clock, which all replicas of a service share."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.clock import Clock
from mesh.clock_skew import ClockWatch
from mesh.db import Database
from mesh.worker import Worker

COMPARE_SECONDS = 60.0
DATABASE: Final = "the database"


async def database_now(tx: AsyncConnection) -> datetime | None:
    """The time of the database's clock; None for a database without its own clock."""
    if tx.dialect.name == "sqlite":
        return None
    moment = (await tx.execute(text("SELECT UTC_TIMESTAMP(3)"))).scalar_one()
    return moment.replace(tzinfo=UTC) if isinstance(moment, datetime) else None


def clock_worker(db: Database, *, clock: Clock, watch: ClockWatch) -> Worker:
    """Compares our clock with the database's once a minute."""

    async def compare() -> int:
        theirs = await db.read(database_now)
        if theirs is not None:
            watch.heard(DATABASE, (theirs - clock.now()).total_seconds())
        return 0

    return Worker("compare_clocks", compare, idle_seconds=COMPARE_SECONDS)

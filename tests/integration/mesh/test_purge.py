"""Rows whose time is over are deleted, the oldest first, in pieces."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db import Database
from mesh.inbox import INBOX
from mesh.purge import ENDED_BATCH, delete_ended
from tests.support.databases import create_tables, open_patiently
from tests.support.fakes import EPOCH


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    opened = open_patiently(database_url, INBOX.metadata)
    await create_tables(opened.engine, INBOX.metadata)
    yield opened
    await opened.close()


async def test_what_ended_is_deleted_in_pieces_and_what_ends_now_stays(db: Database) -> None:
    async def fill(tx: AsyncConnection) -> None:
        rows = []
        for number in range(ENDED_BATCH + 3):
            at = EPOCH + timedelta(seconds=number)
            rows.append({"consumer": "c", "event_id": f"E{number}", "handled_at": at})
        await tx.execute(insert(INBOX), rows)

    async def purge(tx: AsyncConnection) -> int:
        before = EPOCH + timedelta(seconds=ENDED_BATCH + 1)
        return await delete_ended(tx, INBOX.c.event_id, INBOX.c.handled_at, before=before)

    await db.run(fill)
    assert [await db.run(purge) for _ in range(3)] == [ENDED_BATCH, 1, 0]
    async with db.engine.connect() as connection:
        left = await connection.execute(select(func.min(INBOX.c.handled_at), func.count()))
        assert tuple(left.one()) == (EPOCH + timedelta(seconds=ENDED_BATCH + 1), 2)

"""A chained log: whatever somebody changes in it is found, the last rows and all rows too; it may
be purged by age, and many write at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import BigInteger, Boolean, Column, Table, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh import log_chain
from mesh.audit import broken_chains as reading
from mesh.audit.broken_chains import broken_chains
from mesh.db import BigInt, Database, Identifier, UtcMillis, metadata_with_names
from mesh.log_chain import LOG_CHAIN, Log, chain_columns, chained
from tests.support.databases import create_tables, open_patiently

NOW = datetime(2026, 11, 20, 12, 0, 0, 999_999, tzinfo=UTC)
METADATA = metadata_with_names()
LOG_CHAIN.to_metadata(METADATA)
DIARY = Table(
    "diary",
    METADATA,
    Column("id", BigInt, primary_key=True, autoincrement=True),
    Column("tenant", Identifier(32), nullable=False),
    Column("thing", Identifier(64), nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("really", Boolean, nullable=False),
    Column("note", Identifier(64), nullable=True),
    Column("at", UtcMillis, nullable=False),
    *chain_columns(),
)
LOG = Log(
    table=DIARY,
    key="id",
    entity=("tenant", "thing"),
    said=("tenant", "thing", "amount", "really", "note", "at"),
)
D, H = DIARY.c, LOG_CHAIN.c


@dataclass
class World:
    db: Database

    async def write(self, thing: str, *amounts: int, begins: bool = False) -> None:
        async def run(tx: AsyncConnection) -> None:
            rows = [
                {
                    "tenant": "mall",
                    "thing": thing,
                    "amount": amount,
                    "really": True,
                    "note": None,
                    "at": NOW,
                }
                for amount in amounts
            ]
            await tx.execute(insert(DIARY), await chained(tx, LOG, rows, begins=begins))

        await self.db.run(run)

    async def execute(self, statement: Any) -> None:
        async def run(tx: AsyncConnection) -> None:
            await tx.execute(statement)

        await self.db.run(run)

    async def ids(self, thing: str) -> list[int]:
        async def read(tx: AsyncConnection) -> list[int]:
            return list(
                (await tx.execute(select(D.id).where(D.thing == thing).order_by(D.id))).scalars()
            )

        return await self.db.read(read)

    async def broken(self) -> dict[str, str]:
        return {found.entity: found.detail async for found in broken_chains(self.db, LOG)}


@pytest.fixture
async def world(database_url_factory: Callable[[], str]) -> AsyncIterator[World]:
    db = open_patiently(database_url_factory(), METADATA)
    await create_tables(db.engine, METADATA)
    world = World(db)
    await world.write("a/b", 1, begins=True)
    await world.write("a/b", 2, 3)
    await world.write("c", 10, 11)
    yield world
    await db.close()


async def test_what_was_written_holds(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await world.broken() == {}
    monkeypatch.setattr(reading, "PAGE", 1)
    assert await world.broken() == {}


LAST = D.chain_seq == 3
NEW = insert(DIARY).values(tenant="mall", really=True, at=NOW, chain_hash="0", amount=10)
TAMPERED = {
    "a value of the first row": (update(DIARY).where(D.amount == 1).values(amount=5), "mall/a/b"),
    "a value of the last row": (update(DIARY).where(LAST).values(amount=5), "mall/a/b"),
    "a truth": (update(DIARY).where(LAST).values(really=False), "mall/a/b"),
    "a moment": (update(DIARY).where(LAST).values(at=NOW.replace(hour=13)), "mall/a/b"),
    "nothing becomes something": (update(DIARY).where(LAST).values(note=""), "mall/a/b"),
    "the first row is gone": (delete(DIARY).where(D.amount == 1), "mall/a/b"),
    "a row in the middle is gone": (delete(DIARY).where(D.amount == 2), "mall/a/b"),
    "the last row is gone": (delete(DIARY).where(LAST), "mall/a/b"),
    "all of it is gone": (delete(DIARY).where(D.thing == "c"), "mall/c"),
    "a row is in no chain any more": (
        update(DIARY).where(LAST).values(chain_seq=None, chain_hash=None),
        "mall/a/b",
    ),
    "a row is of another thing": (
        update(DIARY).where(D.amount == 10).values(thing="other"),
        "mall/c",
    ),
    "a row was invented": (NEW.values(thing="c", chain_seq=3), "mall/c"),
    "a row stands there twice": (NEW.values(thing="c", chain_seq=1), "mall/c"),
    "a thing was invented": (NEW.values(thing="new", chain_seq=1), "mall/new"),
    "the head is gone": (delete(LOG_CHAIN).where(H.entity == "mall/c"), "mall/c"),
    "the head was set back": (
        update(LOG_CHAIN).where(H.entity == "mall/c").values(length=1),
        "mall/c",
    ),
    "the head says something else": (
        update(LOG_CHAIN).where(H.entity == "mall/c").values(hash="0"),
        "mall/c",
    ),
}


@pytest.mark.parametrize("damage", TAMPERED)
async def test_each_thing_that_somebody_changes_is_found(world: World, damage: str) -> None:
    statement, entity = TAMPERED[damage]
    await world.execute(statement)
    assert entity in await world.broken()


async def test_a_table_that_was_emptied_is_found(world: World) -> None:
    await world.execute(delete(DIARY))
    assert set(await world.broken()) == {"mall/a/b", "mall/c"}


async def test_old_rows_may_be_purged_and_what_is_left_is_still_watched(world: World) -> None:
    first, second, _third = await world.ids("a/b")
    await world.db.run(log_chain.purge, LOG, [second])
    assert (await world.ids("a/b")) == [_third], "what is older goes with it"
    assert first not in await world.ids("a/b")
    assert await world.broken() == {}
    await world.db.run(log_chain.purge, LOG, await world.ids("c"))
    assert await world.broken() == {}
    await world.write("c", 12)
    await world.write("a/b", 4)
    assert await world.broken() == {}
    await world.execute(delete(DIARY).where(D.id == _third))
    assert set(await world.broken()) == {"mall/a/b"}


async def test_rows_of_before_the_chain_and_of_older_processes_are_no_fault(world: World) -> None:
    await world.execute(
        insert(DIARY).values(tenant="mall", thing="c", amount=0, really=True, at=NOW)
    )
    await world.write("c", 12)
    assert await world.broken() == {}


async def test_many_write_at_once_about_one_thing_that_nobody_wrote_of_before(world: World) -> None:
    await asyncio.gather(*(world.write("crowd", number) for number in range(12)))
    assert len(await world.ids("crowd")) == 12
    assert await world.broken() == {}


async def test_a_log_that_grows_while_it_is_read_holds(world: World) -> None:
    async def grow() -> None:
        for number in range(30):
            await world.write("c", number)

    growing = asyncio.create_task(grow())
    while not growing.done():
        assert await world.broken() == {}
    await growing

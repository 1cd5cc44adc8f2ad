"""A small table of accounts: what tests of databases read and write."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import (
    CheckConstraint,
    Column,
    Integer,
    String,
    Table,
    UniqueConstraint,
    insert,
    select,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db import (
    Database,
    Identifier,
    UtcMillis,
    metadata_with_names,
    open_database,
)
from tests.support.databases import create_tables

metadata = metadata_with_names()


ACCOUNT = Table(
    "account",
    metadata,
    Column("account_id", Identifier(32), primary_key=True),
    Column("owner", Identifier(64), nullable=False),
    Column("balance", Integer, nullable=False),
    Column("version", Integer, nullable=False),
    Column("opened_at", UtcMillis, nullable=True),
    Column("note", String(10), nullable=False),
    UniqueConstraint("owner", name="uq_account_owner"),
    CheckConstraint("balance >= 0", name="balance"),
)


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[Database]:
    """A database with our tables."""
    db = open_database(url, metadata, **options)
    try:
        await create_tables(db.engine, metadata)
        yield db
    finally:
        await db.close()


async def open_account(tx: AsyncConnection, /, account_id: str = "a", **values: Any) -> None:
    await tx.execute(
        insert(ACCOUNT).values(
            **{
                "account_id": account_id,
                "owner": account_id,
                "balance": 0,
                "version": 1,
                "note": "",
                **values,
            }
        )
    )


async def accounts(db: Database) -> list[str]:
    async def read(tx: AsyncConnection) -> list[str]:
        return list(
            (
                await tx.execute(select(ACCOUNT.c.account_id).order_by(ACCOUNT.c.account_id))
            ).scalars()
        )

    return await db.read(read)

"""Database schemas, one Alembic history per service in `<service>/migrations`. A service starts only on the schema that its code was written for."""

from __future__ import annotations

import asyncio
from typing import Any

from alembic import command, context
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from mesh.errors import Unavailable


def upgrade(service: str, database_url: str) -> None:
    """Brings the database of a service to the newest schema; creates it on an empty one. Not for use inside an event loop."""
    asyncio.run(_upgrade(service, database_url))


async def _upgrade(service: str, database_url: str) -> None:
    engine = create_async_engine(database_url)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(lambda sync: command.upgrade(_config(service, sync), "head"))
    finally:
        await engine.dispose()


async def check_current(service: str, engine: AsyncEngine) -> None:
    """Raises Unavailable when the database is away, or with the command to run when its schema is not the one of this code."""
    expected = ScriptDirectory.from_config(_config(service, None)).get_current_head()
    try:
        async with engine.connect() as connection:
            present = await connection.run_sync(lambda sync: MigrationContext.configure(sync).get_current_revision())
    except DBAPIError as error:
        raise Unavailable(f"the database of {service} is unavailable: {error.orig}") from error
    if present != expected:
        raise Unavailable(f"the database of {service} is at revision {present}, this code needs {expected}: run `paymesh migrate`")


def run_migrations(metadata: MetaData) -> None:
    """What every `migrations/env.py` calls: runs the wanted steps on the connection that `upgrade` opened."""
    connection: Connection = context.config.attributes["connection"]
    # SQLite cannot change a table in place; Alembic then copies it.
    context.configure(connection=connection, target_metadata=metadata, render_as_batch=connection.dialect.name == "sqlite")
    with context.begin_transaction():
        context.run_migrations()


def _config(service: str, connection: Any) -> Config:
    config = Config()
    config.set_main_option("script_location", f"{service}:migrations")
    config.attributes["connection"] = connection
    return config

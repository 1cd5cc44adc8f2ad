"""Databases as tests open them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, MetaData, inspect
from sqlalchemy.engine.mock import MockConnection
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh.db import Database, open_database

# A busy machine is no outage. Tests of outages open their databases with the short limits of
# production.
PATIENT_SECONDS = 30.0
_DDL: dict[tuple[MetaData, str], list[str]] = {}  # by the name of the dialect


def open_patiently(url: str, metadata: MetaData, **options: Any) -> Database:
    """As `open_database`, but slow answers of a busy machine are waited for."""
    return open_database(
        url,
        metadata,
        unit_timeout_seconds=PATIENT_SECONDS,
        pool_timeout_seconds=PATIENT_SECONDS,
        **options,
    )


async def create_tables(engine: AsyncEngine, metadata: MetaData) -> None:
    """Creates the tables in an empty database, quicker than `metadata.create_all`: one is looked
    up, and DDL is compiled once per process.
    """
    async with engine.begin() as connection:
        await connection.run_sync(_execute_ddl, metadata)


def _execute_ddl(connection: Connection, metadata: MetaData) -> None:
    if inspect(connection).has_table(next(iter(metadata.tables))):
        return  # migrated before, by a user with more rights
    dialect = connection.dialect
    statements = _DDL.get((metadata, dialect.name))
    if statements is None:
        statements = _DDL[metadata, dialect.name] = []
        mock = MockConnection(
            dialect, lambda ddl, *_, **__: statements.append(str(ddl.compile(dialect=dialect)))
        )
        metadata.create_all(mock, checkfirst=False)
    if dialect.name == "sqlite":
        # one journey to the thread of the connection, not three for each table and index
        script = ";\n".join(["BEGIN IMMEDIATE", *statements, "COMMIT"])
        driver: Any = connection.connection.dbapi_connection
        driver.run_async(lambda raw: raw.executescript(script))
        return
    for statement in statements:
        connection.exec_driver_sql(statement)


async def plant(db: Database, *statements: str) -> None:
    """Writes what no code of ours writes, past the CHECKs of its table: somebody's hand, or a
    disk.
    """
    async with db.engine.connect() as connection:
        is_sqlite = connection.dialect.name == "sqlite"
        await connection.exec_driver_sql(
            "PRAGMA ignore_check_constraints = ON"
            if is_sqlite
            else "SET check_constraint_checks = 0"
        )
        for statement in statements:
            changed = await connection.exec_driver_sql(statement)
            assert changed.rowcount > 0, statement
        await connection.commit()
        await connection.exec_driver_sql(
            "PRAGMA ignore_check_constraints = OFF"
            if is_sqlite
            else "SET check_constraint_checks = 1"
        )
        await connection.commit()

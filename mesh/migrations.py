"""Migrates database schemas, with one Alembic history per service in `<service>/migrations`.

Invariants: one process at a time changes a schema, and a service starts only on a schema that its
code can run on. That is the schema it was written for, or a newer one whose migrations declare this
code compatible. A migration declares that by `code_before_runs = True` beside its `revision`; then
replicas of the previous version may run, and restart, until all of them are replaced. It promises
that this code neither fails nor omits anything that the new schema needs for correctness. `upgrade`
writes these promises into the table `schema_runs_code`, because old code cannot read new files.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from alembic import command, context
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, make_url, text
from sqlalchemy.exc import DBAPIError

from mesh.db import open_engine
from mesh.errors import Unavailable
from mesh.files import PRIVATE_FILE
from mesh.schema_versions import RUNS_CODE

LOCK_SECONDS_MAX = 600.0  # longest wait for another `paymesh migrate` on the same database
BOOKKEEPING_TABLES = ("alembic_version", RUNS_CODE.name)


class MigrationBusy(Unavailable):
    """Another process changes this schema, longer than we wait."""


def upgrade(service: str, database_url: str, *, lock_seconds: float = LOCK_SECONDS_MAX) -> None:
    """Upgrades the database of a service to the newest schema; creates it on an empty one. Must not
    be called inside an event loop.

    On SQLite all steps are one transaction. On MySQL each statement of a step commits by itself;
    docs/operations.md says what to do after a step that stopped half-way.

    Raises:
        MigrationBusy: another process migrates the database for longer than `lock_seconds`.
        SQLAlchemyError: the database refused a statement.
    """
    asyncio.run(_upgrade(service, database_url, lock_seconds))


async def _upgrade(service: str, database_url: str, lock_seconds: float) -> None:
    url = make_url(database_url)
    is_sqlite = url.get_backend_name() == "sqlite"
    if is_sqlite:
        _make_private(url.database)
    engine = open_engine(database_url, lock_seconds=lock_seconds)
    try:
        async with engine.connect() as connection:
            await (_upgrade_sqlite if is_sqlite else _upgrade_mysql)(
                service, connection, lock_seconds
            )
    finally:
        await engine.dispose()


def _make_private(path: str | None) -> None:
    """Creates a database file that only its owner can read. SQLite gives its -wal and -shm the same
    mode.
    """
    if not path or path == ":memory:":
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, PRIVATE_FILE))


async def _upgrade_sqlite(service: str, connection: Any, lock_seconds: float) -> None:
    try:
        # For the lock and for atomicity: the driver begins no transaction before CREATE TABLE.
        await connection.exec_driver_sql("BEGIN IMMEDIATE")
    except DBAPIError as error:
        if "locked" not in str(error.orig):
            raise
        raise MigrationBusy(f"another process has been writing for {lock_seconds:g} s") from error
    await connection.run_sync(lambda sync: _run(service, sync))
    await connection.commit()


async def _upgrade_mysql(service: str, connection: Any, lock_seconds: float) -> None:
    database = (await connection.execute(text("SELECT DATABASE()"))).scalar_one()
    name = lock_name(str(database))
    taken = (
        await connection.execute(
            text("SELECT GET_LOCK(:name, :seconds)"), {"name": name, "seconds": lock_seconds}
        )
    ).scalar_one()
    if taken != 1:
        raise MigrationBusy(f"another process has been migrating {database} for {lock_seconds:g} s")
    await connection.commit()  # the lock belongs to the connection, not to a transaction
    await connection.run_sync(lambda sync: _run(service, sync))
    await connection.commit()
    await connection.execute(text("SELECT RELEASE_LOCK(:name)"), {"name": name})


def lock_name(database: str) -> str:
    """The name of the migration lock of a MySQL database. Such names are global to the server and
    have at most 64 characters.
    """
    return "paymesh_migrate_" + hashlib.sha256(database.encode()).hexdigest()[:32]


def _run(service: str, connection: Connection) -> None:
    config = _config(service, connection)
    command.upgrade(config, "head")
    _write_promises(ScriptDirectory.from_config(config), connection)


def _write_promises(scripts: ScriptDirectory, connection: Connection) -> None:
    """Writes the revisions of older code that runs on the newest schema."""
    RUNS_CODE.create(connection, checkfirst=True)
    connection.execute(RUNS_CODE.delete())
    head = scripts.get_current_head()
    rows = [
        {"schema_revision": head, "code_revision": revision} for revision in _older_code(scripts)
    ]
    if rows:
        connection.execute(RUNS_CODE.insert(), rows)


def _older_code(scripts: ScriptDirectory) -> Iterator[str]:
    """The revisions whose code runs on the newest schema, newest first: all steps in between
    promise it.
    """
    for step in scripts.walk_revisions():
        if step.down_revision is None or not getattr(step.module, "code_before_runs", False):
            return
        yield str(step.down_revision)


def run_migrations(metadata: MetaData) -> None:
    """Runs the requested steps on the connection that `upgrade` opened. Called by every
    `migrations/env.py`.
    """
    connection: Connection = context.config.attributes["connection"]
    # SQLite cannot change a table in place; Alembic then copies it.
    context.configure(
        connection=connection,
        target_metadata=metadata,
        render_as_batch=connection.dialect.name == "sqlite",
    )
    with context.begin_transaction():
        context.run_migrations()


def _config(service: str, connection: Any) -> Config:
    config = Config()
    config.set_main_option("script_location", f"{service}:migrations")
    config.attributes["connection"] = connection
    return config

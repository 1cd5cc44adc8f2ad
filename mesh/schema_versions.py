"""Whether code runs on the schema of its database. Every process asks when it starts, so this reads
the history of migrations without Alembic, which takes longer to load than everything else here.
"""

from __future__ import annotations

import re
from importlib import resources

from sqlalchemy import Column, Connection, MetaData, String, Table, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh.errors import Unavailable

# Which older code runs on a schema; written by `migrations.upgrade`.
RUNS_CODE = Table(
    "schema_runs_code",
    MetaData(),
    Column("schema_revision", String(32), primary_key=True),
    Column("code_revision", String(32), primary_key=True),
    mysql_engine="InnoDB",
    mysql_charset="ascii",
    mysql_collate="ascii_bin",
)
_VERSION = Table("alembic_version", MetaData(), Column("version_num", String(32)))
_REVISION = re.compile(r'^revision = "(\w+)"$', re.MULTILINE)
_DOWN_REVISION = re.compile(r'^down_revision = "(\w+)"$', re.MULTILINE)


def newest_revision(service: str) -> str:
    """The schema that the code of a service was written for: the revision that none follows.

    Raises:
        ValueError: the history does not end in one revision.
    """
    texts = [
        file.read_text("utf-8")
        for file in (resources.files(service) / "migrations" / "versions").iterdir()
        if file.name.endswith(".py")
    ]
    revisions: set[str] = {found for text in texts for found in _REVISION.findall(text)}
    followed: set[str] = {found for text in texts for found in _DOWN_REVISION.findall(text)}
    heads = revisions - followed
    if len(heads) != 1:
        raise ValueError(f"the migrations of {service} end in {sorted(heads) or 'nothing'}")
    return heads.pop()


async def check_current(service: str, engine: AsyncEngine) -> None:
    """Raises Unavailable when the database cannot be reached, or when this code cannot run on its
    schema (with the command to run).
    """
    expected = newest_revision(service)
    try:
        async with engine.connect() as connection:
            present = await connection.run_sync(_present_revision)
            runs = present == expected or (
                present is not None
                and await connection.run_sync(_promises, schema=present, code=expected)
            )
    except DBAPIError as error:
        raise Unavailable(f"the database of {service} is unavailable: {error.orig}") from error
    if not runs:
        raise Unavailable(
            f"the database of {service} is at revision {present}, this code needs {expected}: "
            "run `paymesh migrate`, or start newer code if the database was migrated by it"
        )


def _present_revision(connection: Connection) -> str | None:
    if not connection.dialect.has_table(connection, _VERSION.name):
        return None
    revision: str | None = connection.execute(select(_VERSION.c.version_num)).scalar_one_or_none()
    return revision


def _promises(connection: Connection, *, schema: str, code: str) -> bool:
    if not connection.dialect.has_table(connection, RUNS_CODE.name):
        return False  # made by a version without promises
    promise = select(RUNS_CODE).where(
        RUNS_CODE.c.schema_revision == schema, RUNS_CODE.c.code_revision == code
    )
    return connection.execute(promise).first() is not None

"""Rights of the user that a service connects as, on MySQL and MariaDB: the least with which its use
cases work.

It reads and adds rows everywhere, changes and deletes them where the service does, and neither on
tables that are evidence (`APPEND_ONLY` in the service's tables) nor on the schema. The user that
migrates owns the schema and hands these rights on.
"""

from __future__ import annotations

import asyncio
import re

from sqlalchemy import Connection, inspect, make_url, text

from mesh.db import open_engine
from mesh.migrations import BOOKKEEPING_TABLES
from paymesh_cli.services import AUDITS

_NAME = re.compile(r"[A-Za-z0-9_]{1,32}", re.ASCII)


def grant(service: str, database_url: str, user: str) -> None:
    """Gives `user`@'%' what the service needs; what it had before is not taken away.

    Raises:
        ValueError: not a name of a user, or not MySQL. SQLAlchemyError: refused, e.g. without GRANT
            OPTION.
    """
    if _NAME.fullmatch(user) is None:
        raise ValueError(f"{user!r}: expected 1 to 32 letters, digits and _")
    if make_url(database_url).get_backend_name() not in {"mysql", "mariadb"}:
        raise ValueError("rights exist on MySQL and MariaDB only")
    asyncio.run(_grant(database_url, user, evidence_of(service)))


def evidence_of(service: str) -> frozenset[str]:
    """The tables of a service that are only ever added to."""
    return AUDITS[service].evidence


async def _grant(database_url: str, user: str, evidence: frozenset[str]) -> None:
    engine = open_engine(database_url)
    try:
        async with engine.begin() as connection:
            for statement in await connection.run_sync(statements, user, evidence):
                await connection.execute(text(statement))
    finally:
        await engine.dispose()


def statements(connection: Connection, user: str, evidence: frozenset[str]) -> list[str]:
    """What gives a user its rights on the tables that are there."""
    database = connection.dialect.identifier_preparer.quote_identifier(
        str(connection.engine.url.database)
    )
    tables = [
        name
        for name in inspect(connection).get_table_names()
        if name not in evidence and name not in BOOKKEEPING_TABLES
    ]
    return [
        f"GRANT SELECT, INSERT ON {database}.* TO '{user}'@'%'",
        *(f"GRANT UPDATE, DELETE ON {database}.`{name}` TO '{user}'@'%'" for name in tables),
    ]

"""Opens database engines and configures each connection before its first statement."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, MetaData, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from mesh.db.abandoned import IDLE_SECONDS_MAX, SESSION, SESSION_OF_SERVER, Session
from mesh.db.mysql import connect_arguments
from mesh.db.pooling import Pooling
from mesh.db.transactions import Database

# The server itself aborts a statement or a lock wait that takes longer than this. Otherwise a
# cancelled statement runs on and keeps its locks. MySQL limits only SELECT in this way;
# `mesh.db.abandoned` ends the rest.
STATEMENT_SECONDS_MAX = 5
LOCK_WAIT_SECONDS_MAX = 3
PACKED_BYTES_MAX = 16 * 2**20  # of rows that MariaDB packs into one text (mesh.db.packed)
RECYCLE_SECONDS = 1800  # connections are reopened, so a changed DNS entry takes effect
# Database.run ends every transaction itself: the pool's own ROLLBACK after each of them would be a
# needless round trip to the server.
_DATABASE_RUN_RESETS = None
_COM_SET_OPTION = 0x1B
_MULTI_STATEMENTS_OFF = struct.pack("<H", 1)


def open_database(
    url: str,
    metadata: MetaData,
    *,
    pool_size: int = 16,
    unit_timeout_seconds: float = 5.0,
    pool_timeout_seconds: float = 2.0,
    retry_constraints: Iterable[str] = (),
    statement_seconds: float = STATEMENT_SECONDS_MAX,
) -> Database:
    """Opens a database lazily: no connection is made before the first use.

    Args:
        url: `mysql+aiomysql://…` or `sqlite+aiosqlite:///path`.
        metadata: the tables of the service; names constraints in errors.
        pool_size: most connections, for writing and for reading each.
        unit_timeout_seconds: longest duration of one attempt of a transaction.
        pool_timeout_seconds: longest wait for a free connection of MySQL. SQLite's writer has one
            connection and its own limit.
        retry_constraints: unique constraints whose violation only means that another transaction
            was faster: the transaction runs again and finds the row.
        statement_seconds: longest duration of one statement on MySQL and MariaDB; the server itself
            aborts it.
    """
    parsed = make_url(url)
    pooling = None
    if parsed.get_backend_name() == "sqlite":
        writer, reader = _sqlite(parsed, pool_size)
    else:
        pooling = Pooling()
        limits = _Limits(
            unit_seconds=unit_timeout_seconds,
            statement_seconds=statement_seconds,
            pool_seconds=pool_timeout_seconds,
        )
        writer, reader = _mysql(parsed, pool_size, limits, pooling)
    return Database(
        writer=writer,
        reader=reader,
        metadata=metadata,
        unit_timeout_seconds=unit_timeout_seconds,
        retry_constraints=frozenset({"pk_receipt", "pk_inbox", "pk_log_chain", *retry_constraints}),
        pooling=pooling,
    )


def open_engine(url: str, *, lock_seconds: float = 5.0) -> AsyncEngine:
    """Opens an engine for a tool, with TLS and errors as in `open_database`, but without a time
    limit for statements.

    Args:
        lock_seconds: longest wait for another writer of a SQLite file.

    Raises:
        ValueError, ArgumentError: the URL, or a file that it names, is invalid.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return create_async_engine(parsed, connect_args={"timeout": lock_seconds})
    parsed, arguments = connect_arguments(parsed, silence_seconds=None)
    return create_async_engine(parsed, connect_args=arguments)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Limits:
    unit_seconds: float
    statement_seconds: float
    pool_seconds: float

    @property
    def silence_seconds(self) -> float:
        """Seconds of silence after which a server counts as dead: it aborts each statement before
        that.
        """
        return self.unit_seconds + self.statement_seconds


def _mysql(
    url: URL, pool_size: int, limits: _Limits, pooling: Pooling
) -> tuple[AsyncEngine, AsyncEngine]:
    url, arguments = connect_arguments(
        url.update_query_dict({"charset": "utf8mb4"}), silence_seconds=limits.silence_seconds
    )
    options: dict[str, Any] = {
        "pool_size": pool_size,
        "max_overflow": 0,
        "pool_timeout": limits.pool_seconds,
        "pool_recycle": RECYCLE_SECONDS,
        "connect_args": arguments,
    }
    writer = create_async_engine(
        url, isolation_level="READ COMMITTED", pool_reset_on_return=_DATABASE_RUN_RESETS, **options
    )
    # Reads are single statements: autocommit avoids the ROLLBACK that would end a transaction.
    reader = create_async_engine(
        url, isolation_level="AUTOCOMMIT", skip_autocommit_rollback=True, **options
    )
    # A writer whose client is silent keeps its locks until then. Only MariaDB has such a limit;
    # MySQL has wait_timeout.
    idle = f", idle_transaction_timeout={ceil(2 * limits.unit_seconds)}"
    for engine, more in ((writer, idle), (reader, "")):
        event.listen(
            engine.sync_engine, "connect", _prepare_mysql(limits.statement_seconds, of_mariadb=more)
        )
        pooling.listen(engine)
    return writer, reader


def _prepare_mysql(statement_seconds: float, *, of_mariadb: str) -> Callable[[Any, Any], None]:
    def prepare(connection: Any, record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute(SESSION_OF_SERVER)
        version, *server, number = cursor.fetchone()
        record.info[SESSION] = Session(tuple(server), number)
        limit = f"max_execution_time={round(statement_seconds * 1000)}"
        if "MariaDB" in version:
            limit = f"max_statement_time={statement_seconds}{of_mariadb}"
        cursor.execute(
            f"SET SESSION "
            f"sql_mode='STRICT_ALL_TABLES,NO_ZERO_DATE,NO_ENGINE_SUBSTITUTION,ERROR_FOR_DIVISION_BY_ZERO', "  # noqa: E501  one name
            f""
            f"innodb_lock_wait_timeout={LOCK_WAIT_SECONDS_MAX}, wait_timeout={IDLE_SECONDS_MAX}, "
            f"group_concat_max_len={PACKED_BYTES_MAX}, {limit}"
        )
        cursor.close()
        connection.run_async(_forbid_multi_statements)

    return prepare


async def _forbid_multi_statements(connection: Any) -> None:
    """aiomysql always asks for CLIENT.MULTI_STATEMENTS. This clears the flag, so that an injected
    `; DROP TABLE` never runs.
    """
    await connection._execute_command(_COM_SET_OPTION, _MULTI_STATEMENTS_OFF)  # noqa: SLF001  aiomysql has no public way; its version is pinned
    await connection._read_packet()  # noqa: SLF001


def _sqlite(url: URL, pool_size: int) -> tuple[AsyncEngine, AsyncEngine]:
    if url.database and url.database != ":memory:":
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    # SQLite allows one writer at a time; more connections would only wait for each other.
    writer = create_async_engine(
        url,
        pool_size=1,
        max_overflow=0,
        pool_timeout=10.0,
        pool_reset_on_return=_DATABASE_RUN_RESETS,
    )
    # Reads are single statements: BEGIN and ROLLBACK would each cost as much as the statement, in
    # switches to the driver's thread.
    reader = create_async_engine(
        url,
        isolation_level="AUTOCOMMIT",
        skip_autocommit_rollback=True,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=5.0,
    )
    for engine in (writer, reader):
        event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    event.listen(writer.sync_engine, "begin", _begin_immediate)
    return writer, reader


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # sqlite3's own transaction control begins lazily and loses updates (read, then upgrade), so
    # BEGIN is sent explicitly.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=5000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
    connection.run_async(_sum_without_overflow)


class _Sum:
    """SUM as on MySQL. SQLite's own SUM fails beyond 64 bits, so the amounts of one shop, or one
    wrong row, would fail every report. Exact up to 64 bits, in floating point beyond.
    """

    def __init__(self) -> None:
        self._sum: float | None = None

    def step(self, value: Any) -> None:
        if value is not None:
            self._sum = (self._sum or 0) + (value if isinstance(value, int | float) else 0)

    def finalize(self) -> float | None:
        is_too_large = isinstance(self._sum, int) and not -(2**63) <= self._sum < 2**63
        return float(self._sum) if is_too_large and self._sum is not None else self._sum


async def _sum_without_overflow(connection: Any) -> None:
    await connection._execute(connection._conn.create_aggregate, "sum", 1, _Sum)  # noqa: SLF001  aiosqlite has no public way; its version is pinned


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")

"""Runs units of work: atomically, within a time limit, again when the database requires it, and
without interruption by a cancelled call.
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar, assert_never

from sqlalchemy import CursorResult, Executable, MetaData, Table, text
from sqlalchemy.dialects import mysql, sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mesh.call import mark_effects
from mesh.db.abandoned import SESSION, Abandoned, Session
from mesh.db.pooling import Pooling
from mesh.db.violations import (
    ConstraintViolated,
    Fault,
    classify,
    nothing_committed,
    violated_constraint,
)
from mesh.errors import Conflict, OutcomeUnknown, Unavailable
from mesh.logs import get_logger
from mesh.traffic import Traffic

P = ParamSpec("P")
T = TypeVar("T")

# every deadlock has a winner; six losses in a row are an overload, which the caller must be told of
ATTEMPTS = 6
BACKOFF_SECONDS = 0.01  # first pause; doubled with jitter, so that two losers do not collide again
DRAIN_SECONDS = 10.0  # longest wait for running transactions at shutdown
RELEASE_SECONDS_MAX = 1.0  # longest time to close a connection that is given up

log = get_logger()
_jitter = random.Random()  # noqa: S311  spreads retries, protects nothing


class StaleRow(Exception):
    """A conditional UPDATE found its row changed. The transaction is rolled back and runs again."""


class DatabaseBusy(Unavailable):
    """The database is busy: no connection became free in time."""


class Database:
    """Runs transactions. Safe for any number of tasks of one event loop."""

    def __init__(
        self,
        *,
        writer: AsyncEngine,
        reader: AsyncEngine,
        metadata: MetaData,
        unit_timeout_seconds: float,
        retry_constraints: frozenset[str],
        pooling: Pooling | None,
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._metadata = metadata
        self._unit_timeout_seconds = unit_timeout_seconds
        self._retry_constraints = retry_constraints
        self._pooling = pooling
        self._abandoned = Abandoned(self.read)
        self._running: set[asyncio.Task[Any]] = set()
        self.traffic = Traffic()

    @property
    def engine(self) -> AsyncEngine:
        """The writing engine, for migrations and tests."""
        return self._writer

    async def run(
        self,
        work: Callable[Concatenate[AsyncConnection, P], Awaitable[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Runs `work(tx, …)` in one transaction (READ COMMITTED; BEGIN IMMEDIATE on SQLite) and
        returns what it returned.

        `work` may run several times, so it changes nothing but the database. A cancelled caller
        does not interrupt it: grpc.aio cancels handlers when clients disconnect, and the outcome of
        a transaction that is interrupted during its commit is unknown.

        Raises:
            ConstraintViolated: a named constraint refused a row; rolled back.
            Conflict: lost to other transactions `ATTEMPTS` times; nothing was done.
            OutcomeUnknown: no answer to the commit, or an inconclusive one; ask by id.
            Unavailable: no connection, or no answer before the commit; nothing was done.
        """
        task = asyncio.create_task(self._attempt_repeatedly(lambda tx: work(tx, *args, **kwargs)))
        self._running.add(task)
        task.add_done_callback(self._finished)
        try:
            result = await asyncio.shield(task)
        # any other error proves that nothing was committed
        except (asyncio.CancelledError, OutcomeUnknown):
            mark_effects()
            raise
        mark_effects()
        self.traffic.changed()
        return result

    async def read(
        self,
        work: Callable[Concatenate[AsyncConnection, P], Awaitable[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Runs `work(tx, …)` for reading only, outside any transaction: each statement sees what
        was committed when it started.

        Raises:
            Unavailable: no connection, or no answer in time.
        """
        for attempt in range(2):  # one retry when a pooled connection turns out to be dead
            try:
                async with self._borrowed(self._reader, self._unit_timeout_seconds) as connection:
                    return await work(connection, *args, **kwargs)
            except DBAPIError as error:
                fault = classify(error)
                if fault in {Fault.CONSTRAINT, Fault.UNEXPECTED}:
                    raise
                if attempt or fault is Fault.AWAY:
                    raise Unavailable("the database is unavailable") from error
            except (TimeoutError, PoolTimeoutError) as error:
                raise Unavailable("the database does not answer") from error
        raise AssertionError("unreachable")

    async def read_at_one_moment(
        self,
        work: Callable[Concatenate[AsyncConnection, P], Awaitable[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Runs `work(tx, …)` for reading only, as long as it takes: all of its statements see what
        was committed when the first one started. For reports; use `read` for a few rows. There is
        no limit for the whole, but each wait for an answer is limited, so a silent server ends it.

        Raises:
            Unavailable: no connection, or it broke.
        """
        try:
            async with self._borrowed(self._reader, None) as connection:
                is_sqlite = connection.dialect.name == "sqlite"
                await connection.execution_options(
                    isolation_level="SERIALIZABLE" if is_sqlite else "REPEATABLE READ"
                )
                async with connection.begin():
                    if is_sqlite:  # its driver begins a transaction only before a write
                        await connection.exec_driver_sql("BEGIN")
                    return await work(connection, *args, **kwargs)
        except (DBAPIError, PoolTimeoutError) as error:
            if isinstance(error, DBAPIError) and classify(error) in {
                Fault.CONSTRAINT,
                Fault.UNEXPECTED,
            }:
                raise
            raise Unavailable("the database is unavailable") from error

    async def check(self) -> None:
        """Proves that a transaction may write: on MySQL that the server is no replica, on SQLite
        that a page can be written to disk.

        Raises:
            DatabaseBusy: no connection was free for the check. Unavailable: it may not write, or
                there was no answer.
        """
        await self.run(_prove_writable)

    async def close(self) -> None:
        """Waits for running transactions (at most DRAIN_SECONDS), then closes all connections."""
        if self._running:
            await asyncio.wait(self._running, timeout=DRAIN_SECONDS)
        await self._abandoned.close()
        await self._writer.dispose()
        await self._reader.dispose()

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            # a cancelled caller never reads the exception; without this asyncio logs a warning
            task.exception()

    async def _attempt_repeatedly(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        fault = None
        for attempt in range(ATTEMPTS):
            before, fault = fault, None
            try:
                return await self._attempt(work)
            except StaleRow:
                pass
            except DBAPIError as error:
                fault = self._fault_to_repeat(error)
                log.info("transaction_retried", attempt=attempt + 1, cause=str(error.orig)[:200])
                # also on a new connection: no other server has taken over yet
                if fault is before is Fault.MOVED:
                    raise Unavailable("the database takes no writes") from error
            if attempt < ATTEMPTS - 1:
                await asyncio.sleep(BACKOFF_SECONDS * 2**attempt * _jitter.uniform(0.5, 1.5))
        raise (
            Unavailable("the database breaks every connection") if fault is Fault.LOST else Conflict
        )

    def _fault_to_repeat(self, error: DBAPIError) -> Fault:
        """The kind of an error after which the transaction runs again. For any other error, raises
        the one meant for the caller.
        """
        fault = classify(error)
        match fault:
            case Fault.CONSTRAINT:
                name = violated_constraint(error, self._metadata)
                if not name:
                    raise error
                if name not in self._retry_constraints:
                    raise ConstraintViolated(name) from error
            case Fault.AWAY:
                raise Unavailable("the database is unavailable") from error
            case Fault.UNEXPECTED:
                raise error
            case Fault.RETRY | Fault.LOST | Fault.MOVED:
                pass
            case _:
                assert_never(fault)
        return fault

    async def _attempt(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        committing = False
        try:
            async with self._borrowed(self._writer, self._unit_timeout_seconds) as connection:
                await connection.begin()
                result = await work(connection)
                committing = True
                await connection.commit()
                return result
        except PoolTimeoutError as error:
            raise DatabaseBusy from error
        except Exception as error:
            if committing and not (isinstance(error, DBAPIError) and nothing_committed(error)):
                # whatever the error was: only the server's own answer proves that nothing was
                # committed
                raise OutcomeUnknown from error
            if isinstance(error, TimeoutError):
                raise Unavailable("the database does not answer") from error
            raise

    @asynccontextmanager
    async def _borrowed(
        self, engine: AsyncEngine, seconds: float | None
    ) -> AsyncIterator[AsyncConnection]:
        """Lends a connection for a limited time (None: no limit but the driver's own). Afterwards
        it is rolled back unless it was committed.

        SQLAlchemy's own context manager cannot be interrupted while it rolls back, which never ends
        on a half-open connection. This one drops such a connection, and the server rolls back. An
        error during that never replaces the error of the block.
        """
        connection, session = None, None
        try:
            async with asyncio.timeout(seconds or self._unit_timeout_seconds) as limit:
                connection = await engine.connect().start()
                if connection.sync_connection is not None:
                    session = connection.sync_connection.info.get(SESSION)
                if seconds is None:
                    limit.reschedule(None)
                yield connection
        except TimeoutError:
            if connection is None:
                raise
            await self._give_up(connection)
            self._fell_silent(session if engine is self._writer else None)
            raise
        except Exception:
            if connection is not None:
                await self._give_back(connection)
            raise
        # cancelled: the pending answer of the server must not reach the next unit
        except BaseException:
            if connection is not None:
                await self._give_up(connection)
            raise
        await self._give_back(connection)

    def _fell_silent(self, session: Session | None) -> None:
        if self._pooling is not None:
            self._pooling.fell_silent()
        if session is not None:
            self._abandoned.end(session)

    async def _give_back(self, connection: AsyncConnection) -> None:
        try:
            async with asyncio.timeout(RELEASE_SECONDS_MAX):
                await connection.close()  # which rolls back what was not committed
        except Exception as error:  # noqa: BLE001  of a connection that is discarded
            log.warning("connection_given_up", cause=str(error)[:200])
            await self._give_up(connection)

    @staticmethod
    async def _give_up(connection: AsyncConnection) -> None:
        async def throw_away() -> None:
            try:
                async with asyncio.timeout(RELEASE_SECONDS_MAX):
                    await connection.invalidate()
                    await connection.close()
            except Exception as error:  # noqa: BLE001  as above
                log.warning("connection_not_closed", cause=str(error)[:200])

        # a second cancellation must not interrupt the discarding
        await asyncio.shield(asyncio.create_task(throw_away()))


async def _prove_writable(tx: AsyncConnection) -> None:
    if tx.dialect.name == "sqlite":
        # user_version is always 0, as nothing uses it, but SQLite still writes a page
        await tx.execute(text("PRAGMA user_version = 0"))
    else:
        # a read-only server refuses this, although no row is written
        await tx.execute(text("START TRANSACTION READ WRITE"))


def expect_one(result: CursorResult[Any]) -> None:
    """Checks that a conditional UPDATE changed its row.

    Raises:
        StaleRow: it did not; `Database.run` runs the transaction again.
    """
    if result.rowcount != 1:
        raise StaleRow


async def insert_if_absent(tx: AsyncConnection, table: Table, values: Mapping[str, Any]) -> None:
    """Inserts a row unless one with its primary key exists, which stays unchanged. On MySQL the row
    is locked either way.

    Not INSERT IGNORE: that also hides truncation and bad values.
    """
    await tx.execute(_insert_if_absent(table, tx.dialect.name), dict(values))


@functools.cache
def _insert_if_absent(table: Table, dialect: str) -> Executable:
    if dialect == "sqlite":
        return sqlite.insert(table).on_conflict_do_nothing()
    key = next(iter(table.primary_key))
    return mysql.insert(table).on_duplicate_key_update({key.name: table.c[key.name]})

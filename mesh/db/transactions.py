"""Running a unit of work: whole or not at all, at most so long, again when the database asks for it, and never cut by a cancelled call."""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar, assert_never

import structlog
from sqlalchemy import CursorResult, Executable, MetaData, Table
from sqlalchemy.dialects import mysql, sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mesh.call import mark_effects
from mesh.db.violations import ConstraintViolated, Fault, classify, nothing_committed, violated_constraint
from mesh.errors import Conflict, OutcomeUnknown, Unavailable

P = ParamSpec("P")
T = TypeVar("T")

ATTEMPTS = 6           # a deadlock has a winner each time; six losses in a row are an overload, which the caller should hear of
BACKOFF_SECONDS = 0.01  # first pause; doubled with jitter, so that two losers do not meet again
DRAIN_SECONDS = 10.0    # longest wait for running transactions at shutdown
RELEASE_SECONDS_MAX = 1.0  # longest goodbye to a connection that is given up

log = structlog.get_logger()
_jitter = random.Random()  # noqa: S311  spreads retries, protects nothing


class StaleRow(Exception):
    """A conditional UPDATE found its row changed. The transaction is rolled back and runs again."""


class Database:
    """Runs transactions. Safe for any number of tasks of one event loop."""

    def __init__(self, *, writer: AsyncEngine, reader: AsyncEngine, metadata: MetaData, unit_timeout_seconds: float,
                 retry_constraints: frozenset[str]) -> None:
        self._writer = writer
        self._reader = reader
        self._metadata = metadata
        self._unit_timeout_seconds = unit_timeout_seconds
        self._retry_constraints = retry_constraints
        self._running: set[asyncio.Task[Any]] = set()

    @property
    def engine(self) -> AsyncEngine:
        """The writing engine, for migrations and tests."""
        return self._writer

    async def run(self, work: Callable[Concatenate[AsyncConnection, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs `work(tx, …)` in one transaction (READ COMMITTED; BEGIN IMMEDIATE on SQLite) and returns what it returned.

        `work` may run several times, so it changes nothing but the database. A cancelled caller does not cut it: grpc.aio cancels handlers when
        clients go away, and a transaction that is cut during its commit leaves nobody who knows its outcome.

        Raises:
            ConstraintViolated: a named constraint refused a row; rolled back.
            Conflict: lost against other transactions `ATTEMPTS` times; nothing was done.
            OutcomeUnknown: no answer to the commit, or one that proves nothing; ask by id.
            Unavailable: no connection, or no answer before the commit; nothing was done.
        """
        task = asyncio.create_task(self._attempt_repeatedly(lambda tx: work(tx, *args, **kwargs)))
        self._running.add(task)
        task.add_done_callback(self._finished)
        try:
            result = await asyncio.shield(task)
        except (asyncio.CancelledError, OutcomeUnknown):  # whatever else it raises proves that nothing was committed
            mark_effects()
            raise
        mark_effects()
        return result

    async def read(self, work: Callable[Concatenate[AsyncConnection, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs `work(tx, …)` for reading only, outside any transaction: each statement sees what is committed when it starts.

        Raises:
            Unavailable: no connection, or no answer in time.
        """
        for attempt in range(2):  # once more when a pooled connection turns out to be dead
            try:
                async with asyncio.timeout(self._unit_timeout_seconds), self._reader.connect() as connection:
                    return await work(connection, *args, **kwargs)
            except DBAPIError as error:
                fault = classify(error)
                if fault not in (Fault.RETRY, Fault.LOST, Fault.AWAY):
                    raise
                if attempt or fault is Fault.AWAY:
                    raise Unavailable("the database is unavailable") from error
            except (TimeoutError, PoolTimeoutError) as error:
                raise Unavailable("the database does not answer") from error
        raise AssertionError("unreachable")

    async def read_at_one_moment(self, work: Callable[Concatenate[AsyncConnection, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs `work(tx, …)` for reading only, as long as it takes: all of its statements see what was committed when the first one started. For
        reports; a reader of a few rows wants `read`.

        Raises:
            Unavailable: no connection, or it broke.
        """
        try:
            async with self._reader.connect() as connection:
                if connection.dialect.name != "sqlite":  # where a transaction always sees one moment
                    await connection.execution_options(isolation_level="REPEATABLE READ")
                async with connection.begin():
                    return await work(connection, *args, **kwargs)
        except (DBAPIError, PoolTimeoutError) as error:
            if isinstance(error, DBAPIError) and classify(error) is Fault.UNEXPECTED:
                raise
            raise Unavailable("the database is unavailable") from error

    async def close(self) -> None:
        """Waits for running transactions (at most DRAIN_SECONDS), then closes all connections."""
        if self._running:
            await asyncio.wait(self._running, timeout=DRAIN_SECONDS)
        await self._writer.dispose()
        await self._reader.dispose()

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # a caller that was cancelled never looks; without this asyncio complains

    async def _attempt_repeatedly(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        for attempt in range(ATTEMPTS):
            is_lost = False
            try:
                return await self._attempt(work)
            except StaleRow:
                pass
            except DBAPIError as error:
                is_lost = self._fault_to_repeat(error) is Fault.LOST
                log.info("transaction_retried", attempt=attempt + 1, cause=str(error.orig)[:200])
            if attempt < ATTEMPTS - 1:
                await asyncio.sleep(BACKOFF_SECONDS * 2**attempt * _jitter.uniform(0.5, 1.5))
        raise Unavailable("the database breaks every connection") if is_lost else Conflict

    def _fault_to_repeat(self, error: DBAPIError) -> Fault:
        """The kind of an error after which the transaction runs again; raises what the caller has to hear of any other."""
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
            case Fault.RETRY | Fault.LOST:
                pass
            case _:
                assert_never(fault)
        return fault

    async def _attempt(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        committing = False
        try:
            async with asyncio.timeout(self._unit_timeout_seconds), self._connected() as connection:
                await connection.begin()
                result = await work(connection)
                committing = True
                await connection.commit()
                return result
        except DBAPIError as error:
            if committing and not nothing_committed(error):
                raise OutcomeUnknown from error
            raise
        except PoolTimeoutError as error:
            raise Unavailable("the database is busy") from error
        except TimeoutError as error:
            if committing:
                raise OutcomeUnknown from error
            raise Unavailable("the database does not answer") from error

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[AsyncConnection]:
        """A connection to write with, rolled back unless it was committed. SQLAlchemy's own context manager cannot be interrupted while it rolls
        back, and on a half-open connection that takes for ever; this one gives such a connection up, and the server undoes what it left."""
        connection = await self._writer.connect().start()
        is_clean = False
        try:
            try:
                yield connection
            except Exception:
                await connection.rollback()
                is_clean = True
                raise
            is_clean = not connection.in_transaction()
        finally:
            await self._release(connection, is_clean=is_clean)

    @staticmethod
    async def _release(connection: AsyncConnection, *, is_clean: bool) -> None:
        try:
            async with asyncio.timeout(RELEASE_SECONDS_MAX):
                if not is_clean:
                    await connection.invalidate()
                await connection.close()
        except (DBAPIError, TimeoutError) as error:
            log.warning("connection_given_up", cause=str(error)[:200])


def expect_one(result: CursorResult[Any]) -> None:
    """Checks that a conditional UPDATE changed its row.

    Raises:
        StaleRow: it did not; `Database.run` runs the transaction again.
    """
    if result.rowcount != 1:
        raise StaleRow


async def insert_if_absent(tx: AsyncConnection, table: Table, values: Mapping[str, Any]) -> None:
    """Inserts a row unless one with its primary key is there, and leaves that one as it is. On MySQL the row is locked either way.

    Not INSERT IGNORE: that one also swallows truncation and bad values.
    """
    await tx.execute(_insert_if_absent(table, tx.dialect.name), dict(values))


@functools.cache
def _insert_if_absent(table: Table, dialect: str) -> Executable:
    if dialect == "sqlite":
        return sqlite.insert(table).on_conflict_do_nothing()
    key = next(iter(table.primary_key))
    return mysql.insert(table).on_duplicate_key_update({key.name: table.c[key.name]})

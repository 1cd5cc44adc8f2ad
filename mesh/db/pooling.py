"""Keeps dead connections, and connections to a demoted server, from being taken out of a MySQL
pool.

A connection that this process knows to be closed is replaced at checkout, without a ping. When the
server refuses writes (a failover that left it alive), every connection of both pools is replaced
before its next use, because readers would otherwise read a stale replica. When a deadline passes
without an answer, the next connection is pinged first. If that fails too, all are replaced.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any

from pymysql.err import MySQLError
from sqlalchemy import event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh.db.violations import Fault, classify_driver_error

# of a ping of a connection that may be dead; far below the limit of a unit, so that the unit still
# gets another connection
ASK_SECONDS_MAX = 1.0
# in the info of a pooled connection, by the clock of `monotonic`
_OPENED, _HEARD = "opened", "heard"


class Pooling:
    """Shared by the pools of one database."""

    def __init__(self) -> None:
        self._replaced_before = 0.0  # connections opened earlier are not used again
        self._silent_at = 0.0

    def fell_silent(self) -> None:
        """Records that a deadline passed without an answer."""
        self._silent_at = monotonic()

    def listen(self, engine: AsyncEngine) -> None:
        """Attaches to the events of an engine's pool."""
        event.listen(engine.sync_engine, "connect", self._opened)
        event.listen(engine.sync_engine, "checkin", self._came_back)
        event.listen(engine.sync_engine, "checkout", self._is_taken)
        event.listen(engine.sync_engine, "handle_error", self._failed)

    @staticmethod
    def _opened(_connection: Any, record: Any) -> None:
        record.info[_OPENED] = record.info[_HEARD] = monotonic()

    @staticmethod
    def _came_back(connection: Any, record: Any) -> None:
        if connection is not None:  # None: it was given up
            record.info[_HEARD] = monotonic()

    def _is_taken(self, connection: Any, record: Any, _proxy: Any) -> None:
        if not connection.driver_connection.is_quiet:
            raise DisconnectionError("the connection was closed while it was idle")
        if record.info[_OPENED] < self._replaced_before:
            raise DisconnectionError(
                "its server takes no writes any more, or a network forgot its like"
            )
        if record.info[_HEARD] < self._silent_at:
            try:
                connection.run_async(_ask)
            except DisconnectionError:
                self._replaced_before = monotonic()
                raise
            record.info[_HEARD] = monotonic()

    def _failed(self, context: ExceptionContext) -> None:
        fault = classify_driver_error(context.original_exception)
        if fault is Fault.MOVED:
            self._replaced_before = monotonic()
        if fault in {Fault.MOVED, Fault.LOST}:
            context.is_disconnect = True  # SQLAlchemy knows only some of the numbers


async def _ask(driver: Any) -> None:
    try:
        async with asyncio.timeout(ASK_SECONDS_MAX):
            await driver.ping(reconnect=False)
    except (MySQLError, TimeoutError) as error:
        driver.close()
        raise DisconnectionError("the connection died while it was idle") from error

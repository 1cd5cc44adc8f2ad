"""Ends database sessions whose unit of work has timed out but which may still run on the server.

A unit that timed out drops its connection, but the server notices that only when it answers. Until
then a statement runs on (MySQL limits the time of SELECT only) and a transaction behind a dead
network holds its locks. Such sessions are killed from another connection. Where that fails too,
`wait_timeout`, set on every connection, ends idle sessions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db.violations import mysql_code
from mesh.errors import MeshError
from mesh.logs import get_logger

IDLE_SECONDS_MAX = 120  # of a session; the server then ends it, even if this process is gone
RETRY_SECONDS = 1.0
SESSION = "session"  # in the info of a pooled connection
SESSION_OF_SERVER = "SELECT VERSION(), @@hostname, @@port, @@server_id, CONNECTION_ID()"
_NO_SUCH_THREAD = 1094

log = get_logger()


class Session(NamedTuple):
    """A connection as identified by its server. `server` identifies the server, since another
    server may use the same connection number.
    """

    server: tuple[str, int, int]
    number: int


class Abandoned:
    """Ends sessions in the background; at most one task at a time."""

    def __init__(
        self, read: Callable[[Callable[[AsyncConnection], Awaitable[None]]], Awaitable[None]]
    ) -> None:
        """`read` runs a unit on another connection of the same database, e.g. `Database.read`."""
        self._read = read
        self._since: dict[Session, float] = {}
        self._task: asyncio.Task[None] | None = None

    def end(self, session: Session) -> None:
        """Schedules the session to be killed: its unit has given it up."""
        self._since[session] = asyncio.get_running_loop().time()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stops; the server's own limits end the remaining sessions."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _run(self) -> None:
        while self._since:
            try:
                await self._read(self._end_all)
            except (MeshError, DBAPIError) as error:
                log.info("abandoned_sessions_wait", count=len(self._since), cause=str(error)[:200])
                await asyncio.sleep(RETRY_SECONDS)
            oldest = asyncio.get_running_loop().time() - IDLE_SECONDS_MAX
            for session in [session for session, since in self._since.items() if since < oldest]:
                del self._since[session]

    async def _end_all(self, connection: AsyncConnection) -> None:
        _, *server, _ = (await connection.execute(text(SESSION_OF_SERVER))).one()
        rows: Any = (await connection.execute(text("SHOW PROCESSLIST"))).all()
        seconds = {int(row.Id): float(row.Time or 0) for row in rows}
        for session, since in list(self._since.items()):
            # Another server, or too short an idle time: the number now belongs to another session.
            elapsed = asyncio.get_running_loop().time() - since
            if session.server == tuple(server) and seconds.get(session.number, -1.0) + 1 >= elapsed:
                await self._kill(connection, session.number)
            self._since.pop(session, None)

    @staticmethod
    async def _kill(connection: AsyncConnection, number: int) -> None:
        try:
            await connection.execute(text(f"KILL {int(number)}"))
        except DBAPIError as error:
            if mysql_code(error.orig) != _NO_SUCH_THREAD:
                raise
        else:
            log.warning("abandoned_session_ended", session=number)

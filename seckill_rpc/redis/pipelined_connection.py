"""One connection to Redis on which many commands are under way at once, answered in order.

redis-py gives each command a connection of its own while it runs. Admission sends hundreds of
commands a second, and that was most of what a click cost.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import Any

from redis import exceptions
from redis.asyncio import Redis

from mesh.clock import Seconds
from seckill_rpc.redis.connection import COMMAND_SECONDS_MAX, RETRIES


class _Connection:
    """A connection of the pool, and its callers, in the order in which they asked."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.waiting: deque[asyncio.Future[Any]] = deque()
        self.reader: asyncio.Task[None] | None = None
        self.is_broken = False

    @property
    def is_open(self) -> bool:
        """False when it was closed by either end, or when Redis has failed over."""
        return not self.is_broken and bool(self.connection.is_usable)


class PipelinedConnection:
    """Sends commands over one connection of a client's pool; closing the client closes it."""

    def __init__(self, redis: Redis, *, command_seconds: Seconds = COMMAND_SECONDS_MAX) -> None:
        self._pool: Any = redis.connection_pool
        self._command_seconds = command_seconds
        self._wire: _Connection | None = None
        self._opening = asyncio.Lock()

    async def execute(self, *command: str | int) -> Any:
        """The answer to a command. It is sent once more if the connection breaks, so it must be
        safe to run twice.

        Raises:
            ResponseError: Redis refused it. Any other RedisError: whether it ran is unknown.
        """
        try:
            async with asyncio.timeout(self._command_seconds):
                for _ in range(RETRIES):
                    with suppress(exceptions.ConnectionError, ConnectionError):
                        return await self._ask(command)
                return await self._ask(command)
        except TimeoutError as error:
            if self._wire is not None:
                self._wire.connection.invalidate_all()
            raise exceptions.TimeoutError("redis did not answer in time") from error
        except OSError as error:
            raise exceptions.ConnectionError("the connection to redis broke") from error

    async def _ask(self, command: tuple[str | int, ...]) -> Any:
        wire = self._wire
        if wire is None or not wire.is_open:
            wire = await self._open()
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        # nothing is awaited between this and the write, so answers come in the order of commands
        wire.waiting.append(answer)
        try:
            await wire.connection.send_packed_command(
                wire.connection.pack_command(*command), check_health=False
            )
            if wire.reader is None:
                wire.reader = asyncio.create_task(self._read(wire))
            return await answer
        except exceptions.ResponseError:
            raise
        except BaseException:
            # The connection is closed: the answer that is still to come must not reach the next
            # caller.
            await self._break(wire)
            raise

    async def _read(self, wire: _Connection) -> None:
        """Hands out answers until no caller waits."""
        try:
            while wire.waiting:
                said: Any = None
                refusal: exceptions.ResponseError | None = None
                try:
                    said = await wire.connection.read_response()
                except exceptions.ResponseError as error:
                    refusal = error
                answer = wire.waiting.popleft()
                if answer.done():  # the caller has gone away
                    continue
                if refusal is None:
                    answer.set_result(said)
                else:
                    answer.set_exception(refusal)
        except (exceptions.RedisError, OSError):
            wire.reader = None
            await self._break(wire)
        finally:
            wire.reader = None

    async def _open(self) -> _Connection:
        async with self._opening:
            if self._wire is not None:
                if self._wire.is_open:  # another caller has opened it
                    return self._wire
                await self._break(self._wire)
            connection = await self._pool.get_connection()
            # the deadline of a command is ours; redis-py's costs a task and a timer for each
            connection.socket_timeout = None
            self._wire = _Connection(connection)
            return self._wire

    async def _break(self, wire: _Connection) -> None:
        """Gives a connection up: no caller gets an answer from it any more."""
        if wire.is_broken:
            return
        wire.is_broken = True
        while wire.waiting:
            answer = wire.waiting.popleft()
            if not answer.done():
                answer.set_exception(exceptions.ConnectionError("the connection to redis broke"))
                answer.exception()  # nobody may retrieve it
        if wire.reader is not None:
            wire.reader.cancel()
        wire.connection.socket_timeout = self._command_seconds
        try:
            await wire.connection.disconnect(nowait=True)
        finally:
            await self._pool.release(wire.connection)

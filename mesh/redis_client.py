"""Opens Redis clients whose every command has a deadline. Redis serves as cache, event stream and
admission of sales, never as the source of truth.

A dead connection, or one to a demoted server, is never used again. Dead connections are found
before a command is sent, without a ping. When a server reports that it is a replica, or is silent
past a deadline, the era of its pool ends: every connection opened before is replaced at its next
use. Errors of the driver and of the event loop are raised as `RedisError`, on every loop.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from redis.asyncio import (
    BlockingConnectionPool,
    Connection,
    Redis,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.connection import AbstractConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as ConnectionBroken
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeout

from mesh.clock import Seconds

COMMAND_SECONDS_MAX = 0.3  # a slower cache is useless
CONNECTIONS_MAX = 32
# A demoted primary, or a replica that lost its primary: the command was not executed. For a command
# inside a script Redis 6.2 has this in the middle of the text.
_CHANGED_SIDES = ("READONLY", "MASTERDOWN", "instance state changed")


class _Era:
    """State shared by the connections of one pool: connections of an earlier era are replaced
    before they are used again.
    """

    __slots__ = ("number",)

    def __init__(self) -> None:
        self.number = 0


class _Safe(AbstractConnection):
    """A connection that is replaced when it is dead or of an earlier era, and that raises only
    RedisError.
    """

    def __init__(self, *, era: _Era | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._era = era or _Era()
        self._opened_in = self._era.number
        self._is_opening = False

    @property
    def is_usable(self) -> bool:
        """Whether a command may be sent: the connection is open as far as this process knows, and
        of the present era.
        """
        reader, writer = self._reader, self._writer
        return (
            reader is not None
            and writer is not None
            and not writer.transport.is_closing()
            and not reader.at_eof()
            and self._opened_in == self._era.number
        )

    def invalidate_all(self) -> None:
        """Ends the era: after a deadline the other connections of the pool may be dead too, and
        each of them would cost another deadline.
        """
        self._era.number += 1

    async def connect_check_health(
        self,
        check_health: bool = True,  # noqa: FBT001, FBT002  the base's
        retry_socket_connect: bool = True,  # noqa: FBT001, FBT002  the base's
    ) -> None:
        """As in the base class; a connection that is not usable is reopened."""
        self._drop_unusable()
        if self.is_connected:
            return
        self._opened_in = self._era.number
        self._is_opening = True
        try:
            await super().connect_check_health(check_health, retry_socket_connect)
        finally:
            self._is_opening = False

    async def send_packed_command(
        self,
        command: bytes | str | Iterable[bytes],
        check_health: bool = True,  # noqa: FBT001, FBT002  the base's
    ) -> None:
        """As the base does."""
        if not self._is_opening:
            self._drop_unusable()
        try:
            await super().send_packed_command(command, check_health)
        except RedisTimeout:
            self.invalidate_all()
            raise
        except RuntimeError as error:  # raised by uvloop for a transport that was just closed
            raise ConnectionBroken(f"the connection to redis broke: {error}") from error

    async def read_response(self, *args: Any, **options: Any) -> Any:
        """As the base does."""
        try:
            return await super().read_response(*args, **options)
        except RedisTimeout:
            self.invalidate_all()
            raise
        except ResponseError as error:
            if not any(
                sign in f"{type(error).__name__.upper()} {error}" for sign in _CHANGED_SIDES
            ):
                raise
            self.invalidate_all()
            await self.disconnect(nowait=True)
            raise ConnectionBroken(f"redis takes no writes: {error}") from error
        except RuntimeError as error:
            await self.disconnect(nowait=True)
            raise ConnectionBroken(f"the connection to redis broke: {error}") from error

    def _drop_unusable(self) -> None:
        writer = self._writer
        if writer is not None and not self.is_usable:
            self._parser.on_disconnect()  # type: ignore[no-untyped-call]  # the base has no types
            writer.transport.abort()  # not close: unread data would keep it open
            self._reader = self._writer = None


class SafeConnection(_Safe, Connection):
    """Over TCP."""


class SafeTlsConnection(_Safe, SSLConnection):
    """Over TLS: `rediss://`, with `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile` and
    `ssl_check_hostname` in the URL's query.
    """


class _SafeUnixConnection(_Safe, UnixDomainSocketConnection):
    """Over a Unix socket."""


def open_pool(
    url: str,
    *,
    command_seconds: Seconds,
    connect_seconds: Seconds | None = None,
    retries: int = 0,
    plain: type[AbstractConnection] = SafeConnection,
    tls: type[AbstractConnection] = SafeTlsConnection,
    **options: Any,
) -> BlockingConnectionPool:
    """A pool of safe connections, opened lazily.

    Args:
        url: `redis://`, `rediss://` or `unix://`.
        command_seconds: of waiting for a free connection, of sending a command and of waiting for
            its answer, each.
        connect_seconds: of opening a connection; None: `command_seconds`.
        retries: how often a command is sent again after its connection broke. Never after a
            timeout, because its outcome is unknown.
        plain, tls: classes of connections, subclasses of the safe ones.

    Raises:
        ValueError: not a Redis URL.
    """
    parsed: dict[str, Any] = {**parse_url(url)}
    kind = parsed.pop("connection_class", None)
    connection_class = (
        tls
        if kind is SSLConnection
        else _SafeUnixConnection
        if kind is UnixDomainSocketConnection
        else plain
    )
    settings: dict[str, Any] = {
        "max_connections": CONNECTIONS_MAX,
        "timeout": command_seconds,
        "socket_timeout": command_seconds,
        "socket_connect_timeout": command_seconds if connect_seconds is None else connect_seconds,
        "retry": Retry(NoBackoff(), retries, supported_errors=(ConnectionBroken,)),
        "retry_on_timeout": False,
        **options,
        **parsed,
    }
    return BlockingConnectionPool(connection_class=connection_class, era=_Era(), **settings)


def open_redis(
    url: str,
    *,
    command_seconds: Seconds = COMMAND_SECONDS_MAX,
    connect_seconds: Seconds | None = None,
) -> Redis:
    """Opens a client lazily that sends a command once. By default redis-py sends it up to eleven
    times over a minute: one lost reply turned one DECR into four. Arguments and errors are those of
    `open_pool`; a check on a busy machine needs a longer timeout than a cache.
    """
    return Redis.from_pool(
        open_pool(url, command_seconds=command_seconds, connect_seconds=connect_seconds)
    )

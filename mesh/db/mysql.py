"""Hardens aiomysql for production. On every event loop a broken connection raises OperationalError,
TLS is enforced as configured, and every wait for a silent server is limited.

In aiomysql the loop decides what a write to a closed connection raises. uvloop raises RuntimeError,
which pools do not recognise as a lost connection. aiomysql upgrades to TLS on a copy of the socket,
which uvloop does not expose, and continues unencrypted when the server offers no TLS.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiomysql
from pymysql.charset import charset_by_name
from pymysql.constants import CLIENT, CR
from pymysql.err import InternalError, OperationalError
from sqlalchemy.engine import URL

CONNECT_SECONDS_MAX = 2.0
# TCP keepalive: idle time, interval and count of probes. A connection that a NAT has dropped is
# found within 45 s, and no load balancer treats the connection as idle.
_KEEPALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
_PACKET_BYTES_MAX = 2**24 - 1
_TLS_OPTIONS = ("ssl", "ssl_ca", "ssl_cert", "ssl_key", "ssl_check_hostname")


class MySQLConnection(aiomysql.Connection):  # type: ignore[misc]  # the package has no types
    """One connection.

    Args:
        silence_seconds: longest wait for any part of an answer; None: for ever.
    """

    _reader: Any
    _writer: Any

    def __init__(
        self, *, silence_seconds: float | None, password: str = "", **options: Any
    ) -> None:
        # Servers store the hash of UTF-8; aiomysql would encode as Latin-1 and fail on other
        # characters.
        super().__init__(password=password.encode().decode("latin1"), **options)
        self._silence_seconds = silence_seconds
        # start of the current wait for an answer, by the loop's clock
        self._asked_at: float | None = None
        self._silence_timer: asyncio.TimerHandle | None = None

    @property
    def is_alive(self) -> bool:
        """False when this process knows that the connection is closed, by either side."""
        writer, reader = self._writer, self._reader
        return writer is not None and not writer.transport.is_closing() and not reader._eof  # noqa: SLF001  at_eof waits for unread data

    @property
    def is_quiet(self) -> bool:
        """Alive, and without unsolicited data from the server, e.g. the reason for a coming
        close.
        """
        return self.is_alive and not self._reader._buffer  # noqa: SLF001  no public way to look without taking

    async def _connect(self) -> None:
        try:
            await super()._connect()
        except InternalError as error:
            if isinstance(error.args[0], int):  # the server's own refusal
                raise
            # Packets out of order: the peer is not MySQL, or it is shutting down.
            raise OperationalError(
                CR.CR_SERVER_LOST, f"no handshake with {self._host}: {error}"
            ) from error
        except (RuntimeError, OSError, EOFError, struct.error, IndexError) as error:
            raise OperationalError(
                CR.CR_SERVER_LOST,
                f"the connection to {self._host} broke while it was opened: {error}",
            ) from error
        except asyncio.CancelledError:
            if self._writer is not None:
                self._writer.transport.abort()
                self._writer = self._reader = None
            raise

    async def _request_authentication(self) -> None:
        if self._ssl_context is not None:
            await self._start_tls()
        await super()._request_authentication()

    async def _start_tls(self) -> None:
        if not self.server_capabilities & CLIENT.SSL:
            raise OperationalError(
                CR.CR_SSL_CONNECTION_ERROR,
                f"{self._host} offers no TLS, and the settings demand it",
            )
        self.client_flag |= CLIENT.MULTI_RESULTS
        charset = charset_by_name(self.charset).id
        self.write_packet(struct.pack("<iIB23s", self.client_flag, _PACKET_BYTES_MAX, charset, b""))
        try:
            async with asyncio.timeout(self._silence_seconds):
                await self._writer.start_tls(self._ssl_context, server_hostname=self._host)
        except ssl.SSLCertVerificationError as error:
            raise OperationalError(
                CR.CR_SSL_CONNECTION_ERROR,
                f"the certificate of {self._host} is not trusted: {error.verify_message}",
            ) from error
        except (ConnectionError, EOFError) as error:
            raise OperationalError(
                CR.CR_SERVER_LOST, f"the connection to {self._host} broke during its TLS handshake"
            ) from error
        self._secure = True
        self.server_capabilities &= ~CLIENT.SSL  # done: aiomysql must not do it again

    def _set_keep_alive(self) -> None:
        super()._set_keep_alive()
        raw = self._writer.transport.get_extra_info("socket")
        for name, value in _KEEPALIVE:
            if hasattr(socket, name):
                raw.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def _ensure_alive(self) -> None:
        if not self.is_alive:
            raise OperationalError(
                CR.CR_SERVER_GONE_ERROR, self._close_reason or "the connection is closed"
            )

    def _write_bytes(self, data: bytes) -> None:
        try:
            super()._write_bytes(data)
        # AttributeError: closed by another task, the writer is gone
        except (RuntimeError, OSError, AttributeError) as error:
            self.close()
            raise OperationalError(
                CR.CR_SERVER_LOST, f"the connection to {self._host} broke: {error}"
            ) from error

    async def _read_bytes(self, num_bytes: int) -> bytes:
        reader = self._reader
        if reader is None:
            raise OperationalError(CR.CR_SERVER_LOST, "the connection is closed")
        buffer = reader._buffer  # noqa: SLF001  most packets are here already; a timer and two coroutines for each would cost more than it
        if len(buffer) >= num_bytes and reader._exception is None:  # noqa: SLF001
            found = bytes(buffer[:num_bytes])
            del buffer[:num_bytes]
            reader._maybe_resume_transport()  # noqa: SLF001  as readexactly does
            return found
        self._asked_at = self._loop.time()
        if self._silence_timer is None and self._silence_seconds is not None:
            self._silence_timer = self._loop.call_later(self._silence_seconds, self._end_silence)
        try:
            return bytes(await super()._read_bytes(num_bytes))
        except RuntimeError as error:
            self.close()
            raise OperationalError(
                CR.CR_SERVER_LOST, f"the connection to {self._host} broke: {error}"
            ) from error
        finally:
            self._asked_at = None

    def _end_silence(self) -> None:
        """Fails a read that has waited too long. One timer serves all reads of a connection: a
        timer per read would cost more than the read.
        """
        self._silence_timer = None
        if self._asked_at is None or self._reader is None or self._silence_seconds is None:
            return
        left = self._asked_at + self._silence_seconds - self._loop.time()
        if left > 0:
            self._silence_timer = self._loop.call_later(left, self._end_silence)
        else:
            self._reader.set_exception(
                RuntimeError(f"nothing was said for {self._silence_seconds} s")
            )

    def close(self) -> None:
        """Closes at once, without COM_QUIT."""
        if self._silence_timer is not None:
            self._silence_timer.cancel()
            self._silence_timer = None
        super().close()

    async def ensure_closed(self) -> None:
        """Sends COM_QUIT and closes. Never waits, because a dead peer reads nothing."""
        if self._writer is None:
            return
        if self.is_alive:
            with suppress(RuntimeError, OSError):
                self._writer.write(b"\x01\x00\x00\x00\x01")  # COM_QUIT
        self.close()


async def open_connection(**options: Any) -> MySQLConnection:
    """Opens a connection; for SQLAlchemy's `async_creator_fn`."""
    connection = MySQLConnection(**options)
    await connection._connect()  # noqa: SLF001  aiomysql's own way to open one
    return connection


def connect_arguments(url: URL, *, silence_seconds: float | None) -> tuple[URL, dict[str, Any]]:
    """Splits the URL into the URL without TLS options and the arguments for opening connections.

    TLS options of the query, as SQLAlchemy documents them: `ssl_ca` (a file of authorities;
    default: the system's), `ssl_cert` and `ssl_key` (ours), `ssl_check_hostname` (false: a trusted
    certificate with any name is accepted), or `ssl=true` alone. With any of them a connection
    without verified TLS is refused.

    Raises:
        ValueError: an invalid file, or an invalid option.
    """
    arguments: dict[str, Any] = {
        "async_creator_fn": open_connection,
        "connect_timeout": CONNECT_SECONDS_MAX,
        "silence_seconds": silence_seconds,
    }
    query = {
        name: value if isinstance(value, str) else value[-1]
        for name, value in url.query.items()
        if name in _TLS_OPTIONS
    }
    if any(_is_on(value) if name == "ssl" else True for name, value in query.items()):
        arguments["ssl"] = _tls_context(query)
    return url.difference_update_query(_TLS_OPTIONS), arguments


def _tls_context(query: dict[str, str]) -> ssl.SSLContext:
    if ("ssl_cert" in query) != ("ssl_key" in query):
        raise ValueError("database_url: ssl_cert and ssl_key go together")
    try:
        context = ssl.create_default_context(cafile=query.get("ssl_ca"))
        if "ssl_cert" in query:
            context.load_cert_chain(Path(query["ssl_cert"]), Path(query["ssl_key"]))
    except OSError as error:
        raise ValueError(
            f"database_url: a file of its TLS options: {error.strerror or error}"
        ) from error
    context.check_hostname = _is_on(query.get("ssl_check_hostname", "true"))
    return context


def _is_on(value: str) -> bool:
    if value.lower() not in {"true", "1", "false", "0"}:
        raise ValueError("database_url: ssl and ssl_check_hostname are true or false")
    return value.lower() in {"true", "1"}

"""Accepts connections from a listening socket. A TLS handshake has a time limit, and their number
is limited: the oldest unfinished one is dropped for the next, so that a client that opens
connections and sends nothing only displaces itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final

from mesh.files import Reloaded

HANDSHAKES_MAX: Final = 500  # at once; each costs about 60 KB
_AT_ONCE: Final = 100  # connections that are taken before anything else runs
_EXHAUSTED_SECONDS: Final = 0.1  # when the process has no file descriptor left


class Acceptor:
    """Accepts on one socket until it is closed."""

    def __init__(
        self,
        listener: socket.socket,
        make: Callable[[], asyncio.Protocol],
        *,
        tls: Reloaded[ssl.SSLContext] | None,
        handshake_seconds: float,
        has_room: Callable[[], bool],
        handshakes_max: int = HANDSHAKES_MAX,
    ) -> None:
        """
        Args:
            make: the protocol of a new connection.
            has_room: whether one more connection may be held; one that may not is closed without a
                word.
        """
        self._listener = listener
        self._make = make
        self._tls = tls
        self._handshake_seconds = handshake_seconds
        self._has_room = has_room
        self._handshakes_max = handshakes_max
        self._shaking: dict[asyncio.Task[None], socket.socket] = {}  # oldest first
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        listener.settimeout(0)
        self._listen()

    @property
    def handshakes(self) -> int:
        """The number of unfinished handshakes."""
        return len(self._shaking)

    def _listen(self) -> None:
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        """Accepts the connections that wait, many at once: on a busy loop the last one must not
        wait one iteration for each before it.
        """
        for _ in range(_AT_ONCE):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:  # no file descriptor is left: those that end will free some
                self._loop.remove_reader(self._listener)
                self._pause = self._loop.call_later(_EXHAUSTED_SECONDS, self._listen)
                return
            if self._has_room():
                self._take(connection)
            else:
                connection.close()

    def _take(self, connection: socket.socket) -> None:
        if len(self._shaking) >= self._handshakes_max:
            _break(self._shaking.pop(next(iter(self._shaking))))
        task = self._loop.create_task(self._begin(connection))
        self._shaking[task] = connection
        task.add_done_callback(self._shaken)

    def _shaken(self, task: asyncio.Task[None]) -> None:
        self._shaking.pop(task, None)

    async def _begin(self, connection: socket.socket) -> None:
        connection.settimeout(0)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tls: dict[str, Any] = {}
        if self._tls is not None:
            tls = {"ssl": self._tls.get(), "ssl_handshake_timeout": self._handshake_seconds}
        try:
            await self._loop.connect_accepted_socket(self._make, connection, **tls)
        except (OSError, ssl.SSLError):  # strangers break handshakes as they like
            connection.close()

    async def close(self) -> None:
        """Stops accepting. Idempotent."""
        if self._pause is not None:
            self._pause.cancel()
        if self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener)
        self._listener.close()
        tasks = [*self._shaking]
        for connection in self._shaking.values():
            _break(connection)
        await asyncio.gather(*tasks, return_exceptions=True)


def _break(connection: socket.socket) -> None:
    """Ends a connection that a transport holds: its handshake fails, and the transport closes it.
    Cancelling the task would leave it open.
    """
    with contextlib.suppress(OSError):  # the client was faster
        connection.shutdown(socket.SHUT_RDWR)

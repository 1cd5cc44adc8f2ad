"""Takes connections from a listening socket. A TLS handshake has a time, and so have many of them a number: the oldest that has not ended makes room
for the next, so that whoever opens connections and says nothing pushes out himself and nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final

from mesh.files import Reloaded

HANDSHAKES_MAX: Final = 500    # at once; each costs about 60 KB
_EXHAUSTED_SECONDS: Final = 0.1  # when the process has no file descriptor left


class Acceptor:
    """Accepts on one socket until it is closed."""

    def __init__(self, listener: socket.socket, make: Callable[[], asyncio.Protocol], *, tls: Reloaded[ssl.SSLContext] | None,
                 handshake_seconds: float, has_room: Callable[[], bool], handshakes_max: int = HANDSHAKES_MAX) -> None:
        """
        Args:
            make: the protocol of a new connection.
            has_room: whether one more connection may be held; one that may not is closed without a word.
        """
        self._listener = listener
        self._make = make
        self._tls = tls
        self._handshake_seconds = handshake_seconds
        self._has_room = has_room
        self._handshakes_max = handshakes_max
        self._shaking: dict[asyncio.Task[None], socket.socket] = {}  # oldest first
        self._task = asyncio.create_task(self._accept())

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._listener)
            except OSError:
                await asyncio.sleep(_EXHAUSTED_SECONDS)
                continue
            if not self._has_room():
                connection.close()
                continue
            if len(self._shaking) >= self._handshakes_max:
                oldest = next(iter(self._shaking))
                oldest.cancel()
                self._shaking.pop(oldest).close()
            task = asyncio.create_task(self._begin(connection))
            self._shaking[task] = connection
            task.add_done_callback(self._shaken)

    def _shaken(self, task: asyncio.Task[None]) -> None:
        self._shaking.pop(task, None)

    async def _begin(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tls: dict[str, Any] = {}
        if self._tls is not None:
            tls = {"ssl": self._tls.get(), "ssl_handshake_timeout": self._handshake_seconds}
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._make, connection, **tls)
        except (OSError, ssl.SSLError, asyncio.CancelledError):  # strangers break handshakes as they like
            connection.close()

    async def close(self) -> None:
        """Accepts nothing any more. Idempotent."""
        tasks = [self._task, *self._shaking]
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
        self._listener.close()

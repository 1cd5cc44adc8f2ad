"""TCP links between processes that a test breaks: reset, closed, frozen half-open, or refused."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable

_CHUNK_BYTES = 65_536
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER with no time: close() sends RST


class Link:
    """Forwards a loopback port to another one.

    Attributes:
        target_port: where new connections go; another one leaves the old connections where they
            are, as a failover does.
    """

    def __init__(self, name: str, target_port: int) -> None:
        self.name = name
        self.port = 0
        self.target_port = target_port
        self._server: asyncio.Server | None = None
        # to the client: to the target, as soon as there is one
        self._connections: dict[asyncio.StreamWriter, asyncio.StreamWriter | None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._refuses = False

    async def open(self) -> None:
        """Listens on a free port."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Ends every connection."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def reset(self) -> None:
        """Every connection gets a TCP RST, in both directions; nothing that was on its way
        arrives.
        """
        for client, target in list(self._connections.items()):
            _reset(client)
            if target is not None:
                _reset(target)

    def finish(self, is_chosen: Callable[[], bool] = lambda: True) -> None:
        """Each connection that is chosen is closed in order, in both directions: FIN."""
        for client, target in list(self._connections.items()):
            if is_chosen():
                client.close()
                if target is not None:
                    target.close()

    def freeze(self) -> None:
        """From now on nothing passes and nobody is told: connections are half-open, new ones are
        taken and hang.
        """
        self._flows.clear()

    def thaw(self) -> None:
        """What was held back passes."""
        self._flows.set()

    def refuse(self, *, refuses: bool) -> None:
        """Breaks every connection, and new ones as soon as they are made."""
        self._refuses = refuses
        if refuses:
            self.reset()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._forward(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # a broken connection is what this is for; the end of the link is nobody's error
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections[writer] = None
        try:
            if self._refuses:
                _reset(writer)
                return
            target_reader, target_writer = await asyncio.open_connection(
                "127.0.0.1", self.target_port
            )
            self._connections[writer] = target_writer
            try:
                await asyncio.gather(
                    self._pump(reader, target_writer), self._pump(target_reader, writer)
                )
            finally:
                target_writer.transport.abort()
        finally:
            del self._connections[writer]

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK_BYTES):
            await self._flows.wait()
            writer.write(data)
            await writer.drain()
        writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    if connection is not None and connection.fileno() >= 0:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


@contextlib.asynccontextmanager
async def links_to(targets: dict[str, int]) -> AsyncIterator[dict[str, Link]]:
    """Links by name, each to a loopback port, open until the end of the block."""
    links = {name: Link(name, port) for name, port in targets.items()}
    try:
        for link in links.values():
            await link.open()
        yield links
    finally:
        for link in links.values():
            await link.close()

"""TCP links between processes that a test breaks: reset, closed, frozen half-open, or refused."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator

_CHUNK_BYTES = 65_536
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER with no time: close() sends RST


class Link:
    """Forwards a loopback port to another one."""

    def __init__(self, name: str, target_port: int) -> None:
        self.name = name
        self.port = 0
        self.resets = 0   # connections that were broken by RST
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
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
        """Every connection gets a TCP RST, in both directions; nothing that was on its way arrives."""
        for writer in list(self._writers):
            connection = writer.get_extra_info("socket")
            if connection is not None and connection.fileno() >= 0:
                with contextlib.suppress(OSError):
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    self.resets += 1
            writer.transport.abort()

    def finish(self) -> None:
        """Every connection is closed in order: FIN."""
        for writer in list(self._writers):
            writer.close()

    def freeze(self) -> None:
        """From now on nothing passes and nobody is told: connections are half-open, new ones are taken and hang."""
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
        self._writers.add(writer)
        try:
            if self._refuses:
                self.reset_one(writer)
                return
            target_reader, target_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
            self._writers.add(target_writer)
            try:
                await asyncio.gather(self._pump(reader, target_writer), self._pump(target_reader, writer))
            finally:
                self._writers.discard(target_writer)
                target_writer.transport.abort()
        finally:
            self._writers.discard(writer)

    def reset_one(self, writer: asyncio.StreamWriter) -> None:
        """RST for one connection."""
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK_BYTES):
            await self._flows.wait()
            writer.write(data)
            await writer.drain()
        writer.close()


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

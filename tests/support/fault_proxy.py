"""A TCP proxy on loopback that loses what a test tells it to: answers, requests, connections, or
everything without a word.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum

_CHUNK_BYTES = 65536


class Loss(StrEnum):
    """What happens to a request that matches."""

    ANSWER = "ANSWER"  # it arrives; then the connection breaks without an answer
    ANSWER_SILENTLY = "SILENTLY"  # it arrives; no answer ever comes and the connection stays open
    REQUEST = "REQUEST"  # it does not arrive; the connection breaks


@dataclass(slots=True)
class _Fault:
    pattern: bytes
    loss: Loss
    instead: bytes | None
    left: int


class _Line:
    """One connection of a client and the one to the server behind it."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server
        self.is_stranded = False  # nothing passes any more, and nobody is told
        self.is_deaf = False  # answers are read and thrown away
        # what the client gets for the next answer; b"" breaks the connection
        self.instead: bytes | None = None

    def cut(self, *, by_reset: bool) -> None:
        end(self.client, by_reset=by_reset)
        end(self.server, by_reset=False)


def end(writer: asyncio.StreamWriter, *, by_reset: bool) -> None:
    """Ends a connection at once: by a reset (RST), as a load balancer does with what was idle for
    too long, or in order (FIN).
    """
    if by_reset and not writer.transport.is_closing():
        writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
    writer.transport.abort()


class FaultProxy:
    """Stands before a server. Without faults it only passes on.

    Attributes:
        target_port: where new connections go; another one is a failover that leaves the old
            connections where they are.
        breaks_by_reset: what breaks is reset (RST) instead of being closed in order (FIN).
    """

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self.target_port = target_port
        self.breaks_by_reset = False
        self.connections_taken = 0
        self._lines: set[_Line] = set()
        self._faults: list[_Fault] = []
        self._flows = asyncio.Event()
        self._flows.set()
        self._refuses = False

    def lose(self, pattern: bytes, loss: Loss = Loss.ANSWER, *, times: int = 1) -> None:
        """The next `times` requests that contain `pattern` meet this loss."""
        self._faults.append(_Fault(pattern, loss, b"" if loss is Loss.ANSWER else None, times))

    def answer_instead(self, pattern: bytes, answer: bytes) -> None:
        """The next request that contains `pattern` arrives; its answer is replaced."""
        self._faults.append(_Fault(pattern, Loss.ANSWER, answer, 1))

    @property
    def has_struck(self) -> bool:
        """True when no fault waits any more."""
        return not self._faults

    def freeze(self) -> None:
        """From now on nothing passes in either direction and nobody is told: every connection is
        half-open. New ones are taken and hang.
        """
        self._flows.clear()

    def thaw(self) -> None:
        """What was held back passes."""
        self._flows.set()

    def strand(self) -> None:
        """Connections that are open now pass nothing any more, and nobody is told, as when a NAT
        has forgotten them; new ones work.
        """
        for line in self._lines:
            line.is_stranded = True

    def cut(self) -> None:
        """Breaks every connection; new ones are taken."""
        for line in list(self._lines):
            line.cut(by_reset=self.breaks_by_reset)

    def refuse(self, *, refuses: bool = True) -> None:
        """Breaks every connection, and new ones at once."""
        self._refuses = refuses
        self.cut()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client."""
        self.connections_taken += 1
        if self._refuses:
            end(writer, by_reset=self.breaks_by_reset)
            return
        try:
            server_reader, server_writer = await asyncio.open_connection(
                "127.0.0.1", self.target_port
            )
        except OSError:
            writer.transport.abort()
            return
        line = _Line(writer, server_writer)
        self._lines.add(line)
        try:
            await asyncio.gather(self._requests(line, reader), self._answers(line, server_reader))
        # RuntimeError: uvloop, of a closed connection
        except (ConnectionError, asyncio.IncompleteReadError, RuntimeError):
            pass
        finally:
            line.cut(by_reset=self.breaks_by_reset)
            self._lines.discard(line)

    async def _requests(self, line: _Line, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(_CHUNK_BYTES):
            await self._flows.wait()
            if line.is_stranded:
                continue
            fault = self._fault_of(data)
            if fault is not None and fault.loss is Loss.REQUEST:
                line.cut(by_reset=self.breaks_by_reset)
                return
            if fault is not None:
                line.is_deaf, line.instead = fault.loss is Loss.ANSWER_SILENTLY, fault.instead
            line.server.write(data)
            await line.server.drain()
        line.server.write_eof()

    async def _answers(self, line: _Line, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(_CHUNK_BYTES):
            await self._flows.wait()
            if line.is_deaf or line.is_stranded:
                continue
            answer, line.instead = data if line.instead is None else line.instead, None
            if not answer:  # the server has done it; nobody will hear of it
                line.cut(by_reset=self.breaks_by_reset)
                return
            line.client.write(answer)
            await line.client.drain()
        line.client.close()

    def _fault_of(self, data: bytes) -> _Fault | None:
        for fault in self._faults:
            if fault.pattern in data:
                fault.left -= 1
                if not fault.left:
                    self._faults.remove(fault)
                return fault
        return None


@asynccontextmanager
async def fault_proxy(target_port: int) -> AsyncIterator[FaultProxy]:
    """A proxy before a loopback port until the end of the block."""
    proxy = FaultProxy(target_port)
    tasks: set[asyncio.Task[None]] = set()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await proxy.serve(reader, writer)
        except asyncio.CancelledError:
            writer.transport.abort()  # not raised: the end of the proxy is nobody's error
        finally:
            tasks.discard(task)

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

"""TLS handshakes that never end: each has a time, and all of them have a number."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.acceptor import Acceptor
from mesh.clock import SystemClock
from mesh.files import Reloaded
from paymesh_cli.certificates import CertificateAuthority
from tests.support.echo import eventually

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop", "asyncio"])
HELLO = b"hello"


class Greeter(asyncio.Protocol):
    """Says hello to whoever got through."""

    def connection_made(self, transport: Any) -> None:
        transport.write(HELLO)
        transport.close()


class Port:
    """A port that speaks TLS, and its clients."""

    def __init__(self, acceptor: Acceptor, port: int, trust: ssl.SSLContext) -> None:
        self.acceptor = acceptor
        self.port = port
        self._trust = trust
        self._writers: list[asyncio.StreamWriter] = []  # they stay open

    async def silent(self) -> asyncio.StreamReader:
        """A client that never begins its handshake."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._writers.append(writer)
        return reader

    def leave(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def greeting(self) -> bytes:
        """What an honest client hears."""
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=self._trust, server_hostname="localhost"
        )
        try:
            return await reader.read()
        finally:
            writer.close()


@asynccontextmanager
async def tls_port(
    folder: Path,
    *,
    handshake_seconds: float = 30,
    handshakes_max: int = 500,
    room: list[bool] | None = None,
) -> AsyncIterator[Port]:
    authority = CertificateAuthority(folder, clock=SystemClock())
    ca, files = authority.ensure(), authority.issue("gateway")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.cert, files.key)
    listener = socket.create_server(("127.0.0.1", 0), backlog=100)
    port = listener.getsockname()[1]
    reloaded = Reloaded("certificate", lambda: context, lambda: [files.cert])
    acceptor = Acceptor(
        listener,
        Greeter,
        tls=reloaded,
        handshake_seconds=handshake_seconds,
        handshakes_max=handshakes_max,
        has_room=lambda: room is None or room[0],
    )
    made = Port(acceptor, port, ssl.create_default_context(cafile=str(ca)))
    try:
        yield made
    finally:
        made.leave()
        await acceptor.close()
        await acceptor.close()


async def ended(reader: asyncio.StreamReader) -> None:
    """Waits until the other side closes or resets the connection."""
    try:
        async with asyncio.timeout(20):
            assert await reader.read() == b""
    except ConnectionResetError:
        pass


async def test_a_handshake_that_never_begins_is_ended(tmp_path: Path) -> None:
    async with tls_port(tmp_path, handshake_seconds=0.2) as port:
        await ended(await port.silent())
        await eventually(lambda: port.acceptor.handshakes == 0)
        assert await port.greeting() == HELLO


async def test_the_oldest_of_too_many_handshakes_makes_room_for_the_next(tmp_path: Path) -> None:
    async with tls_port(tmp_path, handshakes_max=5) as port:
        silent = [await port.silent() for _ in range(5)]
        await eventually(lambda: port.acceptor.handshakes == 5)
        assert await port.greeting() == HELLO  # whoever shakes hands is served, however many do not
        await ended(silent[0])
        for _ in range(50):
            await port.silent()
        await eventually(lambda: port.acceptor.handshakes <= 5)
        assert await port.greeting() == HELLO
        for reader in silent[1:]:
            await ended(reader)


async def test_whoever_finds_no_room_is_closed_without_a_word(tmp_path: Path) -> None:
    room = [False]
    async with tls_port(tmp_path, room=room) as port:
        await ended(await port.silent())
        room[0] = True
        assert await port.greeting() == HELLO


async def test_a_broken_handshake_is_nobodys_error(tmp_path: Path) -> None:
    async with tls_port(tmp_path) as port:
        for nonsense in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff", b"\x00" * 100):
            reader, writer = await asyncio.open_connection("127.0.0.1", port.port)
            writer.write(nonsense)
            writer.write_eof()
            with contextlib.suppress(ConnectionResetError):
                await reader.read()
            writer.close()
        await eventually(lambda: port.acceptor.handshakes == 0)
        assert await port.greeting() == HELLO


async def test_closing_ends_handshakes_and_frees_the_port(tmp_path: Path) -> None:
    async with tls_port(tmp_path) as port:
        reader = await port.silent()
        await eventually(lambda: port.acceptor.handshakes == 1)
        await port.acceptor.close()
        await ended(reader)
        socket.create_server(("127.0.0.1", port.port)).close()

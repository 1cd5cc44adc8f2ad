"""A call to a URL of a merchant goes to the address that was judged, and to no other."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Sequence
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from mesh.clock import SystemClock
from mesh.outbound import connections
from mesh.outbound.connections import Address, Connections, NotSent
from mesh.outbound.guard import Blocked, Guard
from paymesh_cli.certificates import CertificateAuthority
from tests.support.sandbox_server import http_answer, raw_server

LOOPBACK = ip_address("127.0.0.1")
ANSWER = http_answer(b"{}")


class Receiver:
    """Answers each request on a kept connection, and keeps their heads."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(ANSWER)
        await writer.drain()


def to(url: str, *places: Address, path: str = "", asked: list[str] | None = None) -> Connections:
    async def addresses() -> Sequence[Address]:
        if asked is not None:
            asked.append(url)
        return places

    return Connections(url + path, headers={}, heard=lambda *_, **__: None, addresses=addresses)


async def get(pool: Connections, *, seconds: float = 5) -> int:
    try:
        answer = await pool.request("GET", "/hook", body=None, connect_seconds=seconds)
        return answer.status_code
    finally:
        await pool.aclose()


async def test_the_judged_address_is_called_and_host_is_the_name() -> None:
    receiver = Receiver()
    async with raw_server(receiver.serve) as url:
        port = url.rpartition(":")[2]
        # nothing but the given addresses says where this name is
        assert await get(to(f"http://hooks.invalid:{port}", LOOPBACK)) == 200
    assert f"\r\nhost: hooks.invalid:{port}\r\n".encode() in receiver.heads[0]


async def test_the_next_judged_address_is_called_when_one_takes_no_connection() -> None:
    receiver = Receiver()
    async with raw_server(receiver.serve) as url:
        port = url.rpartition(":")[2]
        pool = to(f"http://hooks.invalid:{port}", ip_address("127.0.0.2"), LOOPBACK)
        assert await get(pool) == 200


@pytest.mark.parametrize("places", [(), (ip_address("127.0.0.2"),)])
async def test_no_other_address_is_called_when_none_of_them_answers(
    places: tuple[Address, ...],
) -> None:
    receiver = Receiver()
    async with raw_server(receiver.serve) as url:
        pool = to(url, *places)
        with pytest.raises(NotSent):
            await get(pool)
    assert receiver.heads == []


async def test_a_connection_that_leads_elsewhere_is_closed_before_a_byte_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    receiver = Receiver()
    loop = asyncio.get_running_loop()
    real = loop.create_connection

    async def elsewhere(protocol: Any, _host: str, port: int, **options: Any) -> Any:
        return await real(protocol, "127.0.0.1", port, **options)

    monkeypatch.setattr(loop, "create_connection", elsewhere)
    async with raw_server(receiver.serve) as url:
        with pytest.raises(NotSent, match="another address"):
            await get(to(url, ip_address("8.8.8.8")))
    assert receiver.heads == []


async def test_each_new_connection_is_judged_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: the name answers with an open address first, and with a closed one then."""
    answers = ["127.0.0.1", "127.0.0.2"]
    loop = asyncio.get_running_loop()

    async def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        assert host == "hooks.example"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answers.pop(0), port))]

    receiver = Receiver()
    async with raw_server(receiver.serve) as url:
        port = int(url.rpartition(":")[2])
        guard = Guard(
            allow_http=True,
            ports=frozenset({port}),
            exact_hosts=frozenset({"hooks.example"}),
            own_addresses=frozenset({ip_address("127.0.0.2")}),
        )
        strict = Guard(allow_http=True, ports=frozenset({port}))
        target = guard.target(f"http://hooks.example:{port}/hook")
        with monkeypatch.context() as patched:
            patched.setattr(loop, "getaddrinfo", getaddrinfo)
            judged = partial(guard.addresses, target)
            pool = Connections(
                target.origin, headers={}, heard=lambda *_, **__: None, addresses=judged
            )
            assert await get(pool) == 200
            judged = partial(strict.addresses, target)
            pool = Connections(
                target.origin, headers={}, heard=lambda *_, **__: None, addresses=judged
            )
            with pytest.raises(Blocked):
                await get(pool)
    assert answers == []
    assert len(receiver.heads) == 1


async def test_tls_is_of_the_name_and_not_of_the_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = CertificateAuthority(tmp_path, clock=SystemClock())
    authority.ensure()
    files = authority.issue("sandbox")  # names localhost and 127.0.0.1
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.cert, files.key)
    named: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: named.append(name)
    receiver = Receiver()
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    monkeypatch.setattr(connections, "_tls", lambda: ssl.create_default_context(cafile=files.ca))
    assert await get(to(f"https://localhost:{port}", LOOPBACK)) == 200
    with pytest.raises(NotSent, match="SSLCertVerificationError"):
        await get(to(f"https://hooks.example:{port}", LOOPBACK))
    assert named == ["localhost", "hooks.example"]
    assert len(receiver.heads) == 1
    server.close()

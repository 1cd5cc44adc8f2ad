"""The gateway under bad manners: whoever is slow, silent, huge or broken is cut off, hears why
where it still listens, and costs nobody else.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from google.api import httpbody_pb2
from paymesh.payment.v1 import callback_pb2, payment_pb2

from gateway.connection_limits import PARTING_SECONDS
from tests.builders.gateway import World, gateway_world
from tests.support.echo import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module", loop_factories=["uvloop"])  # as in production

HEAD_SECONDS = BODY_SECONDS = 0.4
GET = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
POST = b"POST /api/v1/payments/charge HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nauthorization: Bearer %s\r\n"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with gateway_world(
        tmp_path_factory.mktemp("gateway"),
        request_head_seconds=HEAD_SECONDS,
        request_body_seconds=BODY_SECONDS,
        keep_alive_seconds=1,
        stalled_answer_seconds=0.5,
    ) as world:
        yield world


@asynccontextmanager
async def connection(
    world: World,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    try:
        async with asyncio.timeout(10):
            yield reader, writer
    finally:
        writer.transport.abort()


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, Any]]:
    """Status and body of the next answer on a connection."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1])
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length:")
    )
    return int(head.split(b" ", 2)[1]), json.loads(await reader.readexactly(length))


@asynccontextmanager
async def dripping(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    """Sends a byte now and then, as a slow client does."""

    async def drip() -> None:
        while True:
            # the manner of the client; nothing is awaited with it
            await asyncio.sleep(HEAD_SECONDS / 8)
            writer.write(b"a")

    task = asyncio.create_task(drip())
    try:
        yield
    finally:
        task.cancel()


def post(world: World) -> bytes:
    return POST % world.token().encode()


async def test_a_silent_connection_is_closed(world: World) -> None:
    async with connection(world) as (reader, _):
        assert await reader.read() == b""


@pytest.mark.parametrize(
    "start", [b"G", b"GET /healthz HTTP/1.1\r\n", b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-a: b"]
)
async def test_a_head_that_does_not_end_is_408(world: World, start: bytes) -> None:
    async with connection(world) as (reader, writer):
        writer.write(start)
        status, body = await answer(reader)
        assert (status, body["details"]["reason"]) == (408, "REQUEST_TIMEOUT")
        assert await reader.read() == b""


async def test_a_head_byte_by_byte_gets_no_more_time(world: World) -> None:
    async with connection(world) as (reader, writer):
        writer.write(b"GET /healthz HTTP/1.1\r\nx-a: ")
        async with dripping(writer):
            assert (await answer(reader))[0] == 408


async def test_the_second_head_of_a_connection_has_to_end_too(world: World) -> None:
    async with connection(world) as (reader, writer):
        writer.write(GET)
        assert (await answer(reader))[0] == 200
        writer.write(b"GET /healthz HT")
        assert (await answer(reader))[0] == 408


async def test_an_idle_connection_is_closed(world: World) -> None:
    async with connection(world) as (reader, writer):
        writer.write(GET)
        assert (await answer(reader))[0] == 200
        assert await reader.read() == b""


async def test_empty_lines_do_not_keep_a_connection(world: World) -> None:
    async with connection(world) as (reader, writer):
        writer.write(GET)
        assert (await answer(reader))[0] == 200
        writer.write(b"\r\n")
        assert await reader.read() == b""


async def test_a_body_that_does_not_end_is_408(world: World) -> None:
    async with connection(world) as (reader, writer):
        writer.write(post(world) + b"content-length: 100\r\n\r\n{")
        status, body = await answer(reader)
        assert (status, body["details"]["reason"]) == (408, "REQUEST_TIMEOUT")
        assert await reader.read() == b""


async def test_the_unread_rest_of_a_body_is_waited_for_and_not_for_ever(world: World) -> None:
    async with connection(world) as (reader, writer), dripping(writer):
        writer.write(b"POST /nothing HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n{")
        assert (await answer(reader))[0] == 404
        assert await reader.read() == b""


async def test_a_connection_is_good_again_after_the_unread_rest_came(world: World) -> None:
    async with connection(world) as (reader, writer):
        writer.write(b"POST /nothing HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\n{")
        assert (await answer(reader))[0] == 404
        writer.write(b"}}" + GET)
        assert (await answer(reader))[0] == 200
        assert await reader.read() == b""  # and idle again


async def test_an_endless_body_is_answered_while_it_still_comes(world: World) -> None:
    async with connection(world) as (reader, writer):
        writer.write(post(world) + b"transfer-encoding: chunked\r\n\r\n")
        chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
        for _ in range(17):
            writer.write(chunk)
        status, body = await answer(reader)
        assert (status, body["details"]["reason"]) == (413, "BODY_TOO_LARGE")


@pytest.mark.parametrize(
    "head",
    [
        b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-a: " + b"a" * 300_000 + b"\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: x\r\n"
        + b"".join(b"x-%d: a\r\n" % number for number in range(10_000))
        + b"\r\n",
        b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-a: " + b"a" * 33_000 + b"\r\n\r\n",
    ],
)
async def test_a_huge_head_is_431(world: World, head: bytes) -> None:
    async with connection(world) as (reader, writer):
        writer.write(head)
        status, body = await answer(reader)
        assert (status, body["code"], body["details"]["reason"]) == (
            431,
            "A0107",
            "HEADERS_TOO_LARGE",
        )


async def test_a_head_below_the_limit_is_taken(world: World) -> None:
    async with connection(world) as (reader, writer):
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-a: " + b"a" * 32_000 + b"\r\n\r\n")
        assert (await answer(reader))[0] == 200


@pytest.mark.parametrize(
    "bad",
    [
        b"GARBAGE\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        (
            b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: "
            b"chunked\r\n\r\n0\r\n\r\n"
        ),
        b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 9999999999999999999999\r\n\r\n",
        b"POST /x HTTP/1.1\r\nhost: x\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost : x\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nx-a: b\r\n c\r\n\r\n",
        b"GET / HTTP/1.1\r\nx-a: a\x00b\r\n\r\n",
        b"GET /caf\xc3\xa9 HTTP/1.1\r\nhost: x\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_400_and_closed(world: World, bad: bytes) -> None:
    async with connection(world) as (reader, writer):
        writer.write(bad)
        status, body = await answer(reader)
        assert status == 400
        assert body["details"]["reason"] in {"INVALID_ARGUMENT", "MALFORMED_BODY"}
        # our side is closed at once, the connection when the client has read
        async with asyncio.timeout(PARTING_SECONDS / 2):
            assert await reader.read() == b""


async def test_a_broken_chunk_is_400(world: World) -> None:
    async with connection(world) as (reader, writer):
        writer.write(post(world) + b"transfer-encoding: chunked\r\n\r\n")
        await writer.drain()
        writer.write(b"ZZ\r\n")
        assert (await answer(reader))[0] == 400
        assert await reader.read() == b""


@pytest.mark.parametrize("manner", [b"keep-alive", b"close"])
async def test_a_client_that_does_not_read_its_answer_is_cut_off(
    world: World, manner: bytes
) -> None:
    async def huge(_request: Any, _context: Any) -> Any:
        # more than the kernel takes
        return callback_pb2.HandleCallbackResponse(
            body=httpbody_pb2.HttpBody(data=bytes(12 * 1024 * 1024))
        )

    world.shop.does["HandleCallback"] = huge
    deaf = socket.socket()
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.connect(("127.0.0.1", world.port))
    with deaf:
        deaf.sendall(
            b"POST /api/v1/callbacks/x HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nconnection: "
            b"%s\r\n\r\n" % manner
        )
        await eventually(lambda: deaf.getsockname() in world.clients())
        await eventually(lambda: deaf.getsockname() not in world.clients())


async def test_an_early_refusal_asks_for_no_body(world: World) -> None:
    async with connection(world) as (reader, writer):
        writer.write(
            b"POST /api/v1/payments/charge HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\nexpect: "
            b"100-continue\r\n\r\n"
        )
        assert (await answer(reader))[0] == 401  # and not "100 Continue"


async def test_whoever_wants_websockets_gets_http(world: World) -> None:
    async with connection(world) as (reader, writer):
        writer.write(
            b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
        )
        assert (await answer(reader))[0] == 200


async def test_pipelined_requests_are_answered_in_order(world: World) -> None:
    async with connection(world) as (reader, writer):
        writer.write(GET + b"GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n" + GET)
        assert [(await answer(reader))[0] for _ in range(3)] == [200, 404, 200]


async def test_500_slow_clients_keep_nobody_waiting(world: World) -> None:
    slow = await asyncio.gather(
        *(asyncio.open_connection("127.0.0.1", world.port) for _ in range(500))
    )
    try:
        for _, writer in slow:
            writer.write(b"GET /healthz HTTP/1.1\r\n")
        answers = await asyncio.gather(*(world.client.get("/healthz") for _ in range(20)))
        assert {found.status_code for found in answers} == {200}
        async with asyncio.timeout(20):
            heads = [await reader.read() for reader, _ in slow]
        # On a busy machine the time of some is over before their first byte is read: they are cut
        # off without a word.
        assert all(head == b"" or head.startswith(b"HTTP/1.1 408 ") for head in heads)
        assert any(heads)
    finally:
        for _, writer in slow:
            writer.transport.abort()


async def test_too_many_connections_are_503(tmp_path: Path) -> None:
    async with (
        gateway_world(tmp_path, connections_max=2) as world,
        connection(world) as (one, first),
        connection(world) as (two, second),
    ):
        for reader, writer in ((one, first), (two, second)):
            writer.write(GET)
            assert (await answer(reader))[0] == 200
        refused = await world.client.get("/healthz")
        assert (
            refused.status_code,
            refused.json()["details"]["reason"],
            refused.headers["retry-after"],
        ) == (503, "UNAVAILABLE", "1")


async def test_a_running_request_ends_before_the_gateway_does(tmp_path: Path) -> None:
    arrived, finish = asyncio.Event(), asyncio.Event()

    async def slow(_request: Any, _context: Any) -> Any:
        arrived.set()
        await finish.wait()
        return payment_pb2.GetPaymentResponse(payment=payment_pb2.Payment(payment_id="PAY1"))

    async with gateway_world(tmp_path) as world:
        world.shop.does["GetPayment"] = slow
        running = asyncio.create_task(world.call("GET", "/payments/PAY1"))
        async with asyncio.timeout(10):
            await arrived.wait()
            stopping = asyncio.create_task(world.gateway.stop())
            while True:
                try:
                    async with connection(world):
                        pass
                except (ConnectionRefusedError, ConnectionResetError):
                    break  # the door is closed
            finish.set()
            assert (await running).json()["data"]["payment_id"] == "PAY1"
            await stopping


async def test_a_gateway_that_stops_says_that_it_is_not_ready(tmp_path: Path) -> None:
    async with gateway_world(tmp_path, drain_seconds=0.3) as world:
        stopping = asyncio.create_task(world.gateway.stop())
        await asyncio.sleep(0)  # lets it begin
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{world.port}", trust_env=False
        ) as client:
            answer_ = await client.get("/readyz")
        assert (answer_.status_code, answer_.json()["details"]["reason"]) == (503, "UNAVAILABLE")
        await stopping

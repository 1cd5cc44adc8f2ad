"""What all simulated providers share, over real connections: faults, notices, the clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from sandbox.providers.server import RunningProvider, running_provider
from sandbox.server import listen, make_server
from tests.support.fakes import FakeClock
from tests.support.toy_provider import TOY


class Shop:
    """Takes notices, or not."""

    def __init__(self) -> None:
        self.url = ""
        self.answers: list[int] = []  # statuses of the next answers; then 200
        self.taken: list[tuple[str, str, str]] = []  # body, secret, number of the try
        self.took = asyncio.Event()

    async def take(self, request: Request) -> Response:
        headers = request.headers
        self.taken.append(((await request.body()).decode(), headers["x-secret"], headers["x-try"]))
        self.took.set()
        status = self.answers.pop(0) if self.answers else 200
        return PlainTextResponse("success" if status == 200 else "no", status_code=status)

    @property
    def bodies(self) -> list[str]:
        return [body for body, _secret, _tries in self.taken]


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    it = Shop()
    listener = listen("127.0.0.1", 0)
    it.url = f"http://127.0.0.1:{listener.getsockname()[1]}/notices"
    server = make_server(Starlette(routes=[Route("/notices", it.take, methods=["POST"])]))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    yield it
    server.stop()
    await serving


@pytest.fixture
async def running(clock: FakeClock) -> AsyncIterator[RunningProvider[str]]:
    async with running_provider(TOY, clock=clock) as provider:
        yield provider


@pytest.fixture
async def client(running: RunningProvider[str]) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=running.url, trust_env=False, timeout=5) as it:
        yield it


async def fault(client: httpx.AsyncClient, kind: str, **more: Any) -> None:
    sent = {"kind": kind, "path": "/pay", **more}
    assert (await client.post("/_sim/faults", json=sent)).status_code == 201


async def moved(client: httpx.AsyncClient) -> list[str]:
    movements = (await client.get("/_sim/money")).json()["movements"]
    return [one["ref"] for one in movements]


@pytest.mark.parametrize(
    ("kind", "more", "count"),
    [("lost_answer", {}, 1), ("cut_at", {"bytes": 7}, 1), ("drop", {}, 0)],
)
async def test_a_cut_connection_tells_nothing_of_what_was_done(
    client: httpx.AsyncClient, kind: str, more: dict[str, Any], count: int
) -> None:
    await fault(client, kind, **more)
    with pytest.raises(httpx.RemoteProtocolError):
        await client.post("/pay")
    assert len(await moved(client)) == count
    assert (await client.post("/pay")).status_code == 200  # once, and only once


async def test_an_answer_can_be_cut_at_every_byte(
    running: RunningProvider[str], client: httpx.AsyncClient
) -> None:
    async def raw(cut: int) -> bytes:
        await fault(client, "cut_at", bytes=cut)
        host, port = running.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /pay HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")
        received = await reader.read()
        writer.close()
        return received

    whole = await raw(10_000)
    assert whole.startswith(b"HTTP/1.1 200 OK\r\n")
    assert whole.endswith(b'"count":1}}')
    answered = (await client.get("/_sim/faults")).json()["answered"]
    assert answered == [{"path": "/pay", "status": 200, "raw_bytes": len(whole)}]
    for cut in range(len(whole)):
        assert len(await raw(cut)) == cut
    assert len(await moved(client)) == len(whole) + 1


@pytest.mark.parametrize(
    ("kind", "more", "status", "body", "count"),
    [
        ("status", {"status": 429}, 429, b'{"error": 429}', 0),
        ("status_after", {"status": 500}, 500, b'{"error": 500}', 1),
        ("nonsense", {}, 200, b"<html><body>It works!</body></html>", 1),
        ("empty", {}, 200, b"", 1),
        ("delay", {"seconds": 0.01}, 200, b'{"payment":{"status":"DONE","count":1}}', 1),
        ("slow_body", {"seconds": 0.01}, 200, b'{"payment":{"status":"DONE","count":1}}', 1),
        (
            "wrong_word",
            {"field": "payment.status", "value": "ODD"},
            200,
            b'{"payment": {"status": "ODD", "count": 1}}',
            1,
        ),
    ],
)
async def test_a_fault_answers_as_it_says_once(
    client: httpx.AsyncClient,
    *,
    kind: str,
    more: dict[str, Any],
    status: int,
    body: bytes,
    count: int,
) -> None:
    await fault(client, kind, **more)
    answer = await client.post("/pay")
    assert (answer.status_code, answer.content) == (status, body)
    assert (answer.headers.get("x-signed") == "anew") == (kind == "wrong_word")
    assert len(await moved(client)) == count
    assert (await client.post("/pay")).json()["payment"]["status"] == "DONE"


async def test_a_fault_waits_for_the_request_that_it_is_about(client: httpx.AsyncClient) -> None:
    await fault(client, "status", status=503, contains="refund", skip=1, times=2, method="POST")
    statuses = [
        (await client.post("/pay?what=refund" if refund else "/pay")).status_code
        for refund in (False, True, True, False, True, True)
    ]
    assert statuses == [200, 200, 503, 200, 503, 200]


@pytest.mark.parametrize(
    "sent",
    [
        [],
        {"kind": "drop"},
        {"kind": "explode", "path": "/"},
        {"kind": "cut_at", "path": "/"},
        {"kind": "status", "path": "/", "status": "many"},
        {"kind": "drop", "path": "/", "times": -1},
        {"kind": "drop", "path": "/", "color": "red"},
    ],
)
async def test_what_is_no_fault_is_refused(client: httpx.AsyncClient, sent: Any) -> None:
    assert (await client.post("/_sim/faults", json=sent)).status_code == 400


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("webhooks", {"uri": "http://127.0.0.1"}),
        ("webhooks/mode", {"twice": True}),
        ("buyer", {"does": "pay"}),
        ("buyer", {"ref": "C1"}),
        ("clock", {"advance_seconds": -1}),
        ("clock", {"seconds": 1}),
    ],
)
async def test_a_control_that_is_malformed_is_refused(
    client: httpx.AsyncClient, path: str, sent: Any
) -> None:
    assert (await client.post(f"/_sim/{path}", json=sent)).status_code == 400


async def test_a_deed_that_is_impossible_now_is_a_conflict(client: httpx.AsyncClient) -> None:
    refused = await client.post("/_sim/buyer", json={"ref": "C1", "does": "dance"})
    assert (refused.status_code, refused.json()) == (409, {"error": "this buyer only pays"})
    assert (await client.post("/_sim/buyer", json={"own_id": "A", "does": "pay"})).is_success
    assert await moved(client) == ["C1"]


async def test_what_comes_later_comes_when_the_clock_says_so(client: httpx.AsyncClient) -> None:
    await client.post("/later")
    await client.post("/_sim/clock", json={"advance_seconds": 59})
    assert await moved(client) == []
    await client.post("/_sim/clock", json={"advance_seconds": 1})
    assert await moved(client) == ["C1"]


async def hold(client: httpx.AsyncClient, shop: Shop, **mode: Any) -> None:
    await client.post("/_sim/webhooks", json={"url": shop.url})
    await client.post("/_sim/webhooks/mode", json={"hold": True, **mode})


async def test_notices_come_twice_and_newest_first_on_demand(
    client: httpx.AsyncClient, shop: Shop
) -> None:
    await hold(client, shop, duplicate=1, reorder=True)
    await client.post("/pay")
    await client.post("/pay")
    assert shop.taken == []
    await client.post("/_sim/webhooks/flush")
    assert shop.bodies == ["C2", "C2", "C1", "C1"]


async def test_a_notice_that_is_not_taken_comes_again_by_the_rule(
    client: httpx.AsyncClient, shop: Shop
) -> None:
    await hold(client, shop)
    shop.answers = [500, 503, 500, 404]
    await client.post("/pay")
    for _ in range(4):
        await client.post("/_sim/webhooks/flush")
    assert shop.taken == [("C1", "s3cret", str(tries)) for tries in (1, 2, 3)]
    await client.post("/pay")
    for _ in range(2):
        await client.post("/_sim/webhooks/flush")
    assert shop.bodies == ["C1", "C1", "C1", "C2"]
    listed = (await client.get("/_sim/webhooks")).json()["deliveries"]
    assert [(one["statuses"], one["accepted"]) for one in listed] == [
        ([500, 503, 500], False),
        ([404], False),
    ]


async def test_notices_go_out_by_themselves(client: httpx.AsyncClient, shop: Shop) -> None:
    await client.post("/pay")  # nobody has said where to
    await client.post("/_sim/webhooks", json={"url": shop.url, "secret": "other"})
    await client.post("/pay")
    async with asyncio.timeout(5):
        await shop.took.wait()
    assert shop.taken == [("C2", "other", "1")]

"""Streams at the gateway, on a real port before a real server: what an EventSource sees, and what
becomes of the call behind it.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry

from mesh.errors import Conflict, NotFound
from tests.builders.gateway import World, gateway_world, refused
from tests.support.echo import eventually
from tests.support.ticker import Event, Gate, Tick, Ticker, events, ticker_world

pytestmark = pytest.mark.asyncio(loop_scope="module")

PUBLIC, MINE = "/api/v1/ticks/news", "/api/v1/my/ticks"
PING = Event(comment="ping")


class Streams:
    """A gateway, what it stands before, and how its streams are read."""

    def __init__(self, world: World, ticker: Ticker) -> None:
        self.world = world
        self.ticker = ticker

    def gate(self) -> Gate:
        """What the ticker sends from now on."""
        gate = Gate()
        self.ticker.does = gate.ticks
        self.ticker.ended.clear()
        return gate

    @asynccontextmanager
    async def open(
        self, path: str = PUBLIC, *, token: str | None = None, **options: Any
    ) -> AsyncIterator[tuple[Any, AsyncIterator[Event]]]:
        """The head of a stream and its events."""
        headers = options.pop("headers", {}) | (
            {} if token is None else {"authorization": f"Bearer {token}"}
        )
        async with (
            asyncio.timeout(20),
            self.world.client.stream("GET", path, headers=headers, **options) as answer,
        ):
            yield answer, events(answer)

    async def refusal(self, path: str = PUBLIC, *, token: str | None = None) -> Any:
        """The whole answer to a call that is refused. A stream that opens is an assertion at once:
        reading it would have no end.
        """
        async with self.open(path, token=token) as (answer, _):
            assert answer.status_code >= 400, answer
            await answer.aread()
        return answer

    def count(self) -> float:
        """Open streams as the metrics tell it."""
        registry = CollectorRegistry()
        registry.register(self.world.telemetry)
        return registry.get_sample_value("paymesh_gateway_open_streams") or 0


@asynccontextmanager
async def streams_of(folder: Path, **settings: Any) -> AsyncIterator[Streams]:
    ticker = Ticker()
    async with ticker_world(folder, ticker, **settings) as world:
        yield Streams(world, ticker)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Streams]:
    async with streams_of(
        tmp_path_factory.mktemp("gateway"), cors_origins=["https://shop.example"]
    ) as streams:
        yield streams


@pytest_asyncio.fixture(loop_scope="module")
async def streams(shared: Streams) -> AsyncIterator[Streams]:
    yield shared
    await eventually(lambda: shared.count() == 0)


def body(event: Event, reason: str = "") -> Any:
    """The envelope in an event, which has to be a success or have this reason."""
    envelope = json.loads(event.data)
    assert envelope.keys() == {
        "code",
        "message",
        "data",
        "trace_id",
        *(["details"] if reason else []),
    }
    assert len(envelope["trace_id"]) == 32
    assert (envelope["code"] == "00000") is not bool(reason)
    if reason:
        assert (envelope["data"], envelope["details"]["reason"]) == (None, reason)
    return envelope


# What an EventSource sees


async def test_each_answer_is_an_event_as_soon_as_it_is_made(streams: Streams) -> None:
    gate = streams.gate()
    gate.put("one")
    async with streams.open() as (answer, found):
        assert (
            answer.status_code,
            answer.headers["content-type"],
            answer.headers["cache-control"],
        ) == (200, "text/event-stream", "no-store")
        assert (answer.headers["x-accel-buffering"], "content-length" in answer.headers) == (
            "no",
            False,
        )
        first = await anext(found)  # the second is not made yet
        assert (first.name, first.id, body(first)["data"]) == (
            "",
            "1",
            {"text": "one", "user_id": ""},
        )
        assert body(first)["trace_id"] == answer.headers["traceparent"].split("-")[1]
        gate.put("two\nlines — 马克杯", None)
        second = await anext(found)
        assert (second.id, body(second)["data"]["text"]) == ("2", "two\nlines — 马克杯")
        end = await anext(found)
        assert (end.name, end.id, body(end)["data"]) == ("end", "", None)
        assert await anext(found, None) is None


async def test_a_stream_without_answers_is_an_end(streams: Streams) -> None:
    streams.gate().put(None)
    async with streams.open() as (answer, found):
        assert (answer.status_code, [event.name async for event in found]) == (200, ["end"])


async def test_a_connection_is_good_again_after_a_stream(streams: Streams) -> None:
    streams.gate().put("one", None)
    stream = b"GET %s HTTP/1.1\r\nhost: x\r\n\r\n" % PUBLIC.encode()
    found = await streams.world.raw(
        stream + b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    )
    assert found.count(b"HTTP/1.1 200 OK") == 2
    assert found.index(b"event: end") < found.index(b'"UP"')


async def test_silence_is_broken_by_comments(tmp_path: Path) -> None:
    async with streams_of(tmp_path, stream_heartbeat_seconds=0.02) as streams:
        gate = streams.gate()
        async with streams.open() as (answer, found):
            # the head waits no longer than that
            assert (answer.status_code, await anext(found), await anext(found)) == (200, PING, PING)
            gate.put("one")
            assert [event.id async for event in _before_ping(found)] == ["1"]
            gate.put(Conflict())
            error = await _after_pings(found)
            assert (error.name, body(error, "CONFLICT")["code"]) == ("error", "B0103")
            assert await anext(found, None) is None


async def _after_pings(found: AsyncIterator[Event]) -> Event:
    async for event in found:
        if event != PING:
            return event
    pytest.fail("nothing but silence")


async def _before_ping(found: AsyncIterator[Event]) -> AsyncIterator[Event]:
    yield await _after_pings(found)
    async for event in found:
        if event == PING:
            return
        yield event


async def test_what_arrived_and_who_asked_goes_to_the_server(streams: Streams) -> None:
    streams.gate().put("one", None)
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    token = streams.world.token()
    async with streams.open(
        f"{MINE}?merchant_id=mall",
        token=token,
        headers={
            "traceparent": f"00-{trace}-00f067aa0ba902b7-01",
            "x-request-id": "mine-1",
            "last-event-id": "7",
        },
    ) as (answer, found):
        first = await anext(found)
        assert (
            body(first)["data"]["user_id"],
            body(first)["trace_id"],
            answer.headers["x-request-id"],
        ) == ("alice", trace, "mine-1")
        assert first.id == "1"
    metadata = {
        name
        for name in streams.ticker.metadata
        if name not in {"user-agent", "grpc-accept-encoding", "accept-encoding"}
    }
    assert metadata == {"authorization", "traceparent", "x-request-id"}
    assert streams.ticker.metadata["authorization"] == f"Bearer {token}"


# Refusals


async def test_a_refusal_before_the_first_answer_is_an_ordinary_one(streams: Streams) -> None:
    streams.gate().put(NotFound())
    answer = await streams.world.call("GET", PUBLIC, token=None)
    assert answer.headers["content-type"] == "application/json"
    refused(answer, 404, "NOT_FOUND")


async def test_a_refusal_after_it_is_the_last_event(streams: Streams) -> None:
    streams.gate().put("one", Conflict("lost", retry_after_seconds=2))
    async with streams.open() as (_, found):
        one, error = [event async for event in found]
    assert (one.id, error.name, error.id) == ("1", "error", "")
    assert body(error, "CONFLICT")["details"]["retry_after_ms"] == 2000
    assert body(error, "CONFLICT")["details"]["explanation"] == "lost"
    line = streams.world.lines()[-1]
    assert (line["route"], line["status"], line["refusal"]) == (
        "/api/v1/ticks/{topic}",
        200,
        "CONFLICT",
    )


async def test_a_defect_after_it_tells_a_trace_and_nothing_else(streams: Streams) -> None:
    streams.gate().put("one", RuntimeError("mysql://root:hunter2@db/"))
    async with streams.open() as (_, found):
        _one, error = [event async for event in found]
    assert body(error, "INTERNAL")["details"] == {"reason": "INTERNAL"}
    assert "hunter2" not in error.data


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/api/v1/ticks/NEWS", "topic"),
        (f"{PUBLIC}?ticks=101", "ticks"),
        (f"{PUBLIC}?ticks=x", "ticks"),
        (f"{PUBLIC}?tocks=1", "tocks"),
        (f"{PUBLIC}?topic=other", "topic"),
    ],
)
async def test_a_parameter_that_breaks_a_rule_is_named(
    streams: Streams, path: str, field: str
) -> None:
    streams.gate().put(None)
    refused(await streams.world.call("GET", path, token=None), 400, "INVALID_ARGUMENT", field)


async def test_only_whom_the_rules_name_may_listen(streams: Streams) -> None:
    world = streams.world
    streams.gate().put("one", None)
    before = len(streams.ticker.requests)
    refused(await streams.refusal(MINE), 401, "UNAUTHENTICATED")
    refused(await streams.refusal(MINE, token="x.y.z"), 401, "TOKEN_INVALID")
    refused(await streams.refusal(PUBLIC, token="x.y.z"), 401, "TOKEN_INVALID")
    refused(
        await streams.refusal(MINE, token=world.token(roles=("merchant",))),
        403,
        "PERMISSION_DENIED",
    )
    refused(
        await streams.refusal(f"{MINE}?user_id=bob", token=world.token()),
        403,
        "PERMISSION_DENIED",
        "user_id",
    )
    assert len(streams.ticker.requests) == before
    assert (await world.call("GET", MINE)).text.count("event: end") == 1


async def test_a_stream_is_opened_by_get_without_a_body(streams: Streams) -> None:
    world = streams.world
    answer = await world.call("POST", PUBLIC, token=None)
    assert refused(answer, 405, "METHOD_NOT_ALLOWED")
    assert answer.headers["allow"] == "GET, HEAD, OPTIONS"
    refused(
        await world.call("GET", PUBLIC, token=None, json={"topic": "news"}),
        400,
        "MALFORMED_BODY",
        "body",
    )


async def test_head_is_the_head_of_a_stream(streams: Streams) -> None:
    streams.gate().put("one")
    async with asyncio.timeout(10):
        head = await streams.world.client.head(PUBLIC)
        assert (head.status_code, head.headers["content-type"], head.content) == (
            200,
            "text/event-stream",
            b"",
        )
        await streams.ticker.ended.wait()  # nobody listens
    streams.gate().put(NotFound())
    assert (await streams.world.client.head(PUBLIC)).status_code == 404


async def test_pages_on_the_list_may_listen(streams: Streams) -> None:
    origin = {"origin": "https://shop.example"}
    options = await streams.world.client.options(
        PUBLIC, headers=origin | {"access-control-request-method": "GET"}
    )
    assert (options.status_code, options.headers["access-control-allow-methods"]) == (
        204,
        "GET, HEAD, OPTIONS",
    )
    streams.gate().put(None, None)
    async with streams.open(headers=origin) as (answer, _):
        assert answer.headers["access-control-allow-origin"] == "https://shop.example"
    async with streams.open(headers={"origin": "https://evil.example"}) as (answer, _):
        assert "access-control-allow-origin" not in answer.headers


# Whoever goes away


@pytest.mark.parametrize("answers", [["one"], []], ids=["in the middle", "before the first answer"])
async def test_a_client_that_goes_away_cancels_the_call(
    streams: Streams, answers: list[str]
) -> None:
    streams.gate().put(*answers)
    before = len(streams.ticker.requests)
    reader, writer = await asyncio.open_connection("127.0.0.1", streams.world.port)
    writer.write(b"GET %s HTTP/1.1\r\nhost: x\r\n\r\n" % PUBLIC.encode())
    async with asyncio.timeout(10):
        if answers:
            await reader.readuntil(b"id: 1")
        await eventually(lambda: len(streams.ticker.requests) == before + 1)
        writer.close()
        await streams.ticker.ended.wait()
        await eventually(lambda: streams.count() == 0)
    assert streams.world.lines()[-1]["status"] == 499


async def test_a_client_that_does_not_read_stops_its_server_and_is_cut_off(tmp_path: Path) -> None:
    made = 0

    async def flood(_request: Any, _context: Any) -> AsyncIterator[Any]:
        nonlocal made
        while True:
            made += 1
            yield Tick(text="x" * 500_000)

    async with streams_of(tmp_path, stalled_answer_seconds=1) as streams:
        streams.ticker.does = flood
        deaf = socket.socket()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", streams.world.port))
        with deaf:
            deaf.sendall(b"GET %s HTTP/1.1\r\nhost: x\r\n\r\n" % PUBLIC.encode())
            await asyncio.wait_for(streams.ticker.ended.wait(), 20)
            await eventually(lambda: streams.count() == 0)
        assert 0 < made < 50  # what kernels and windows hold, and not what a second makes


async def test_the_end_of_the_gateway_is_the_end_of_its_streams(tmp_path: Path) -> None:
    async with streams_of(tmp_path, grace_seconds=60) as streams:
        streams.gate().put("one")
        async with streams.open() as (_, found):
            assert (await anext(found)).id == "1"
            stopping = asyncio.create_task(streams.world.gateway.stop())
            error = await anext(found)
            assert (error.name, body(error, "UNAVAILABLE")["details"]["explanation"]) == (
                "error",
                "The gateway is stopping.",
            )
            assert await anext(found, None) is None
            await stopping
        await asyncio.wait_for(streams.ticker.ended.wait(), 10)


async def test_a_gateway_that_stops_opens_no_stream(tmp_path: Path) -> None:
    async with streams_of(tmp_path) as streams:
        streams.gate().put(None)
        streams.world.gateway._gateway.streams.end()
        refused(await streams.refusal(), 503, "UNAVAILABLE")


async def test_the_end_of_the_server_is_an_event(tmp_path: Path) -> None:
    async with streams_of(tmp_path) as streams:
        streams.gate().put("one")
        async with streams.open() as (_, found):
            assert (await anext(found)).id == "1"
            await asyncio.wait_for(streams.world.server.stop(60), 10)
            error = await anext(found)
            assert (error.name, body(error, "UNAVAILABLE")["code"]) == ("error", "B0002")


# Limits


async def one_and_silence(_request: Any, _context: Any) -> AsyncIterator[Any]:
    yield Tick(text="one")
    await asyncio.Event().wait()


async def test_a_caller_has_so_many_streams_and_everybody_together_too(tmp_path: Path) -> None:
    async with streams_of(
        tmp_path, streams_per_user_max=1, streams_per_address_max=2, streams_max=4
    ) as streams:
        world, streams.ticker.does = streams.world, one_and_silence
        alice, acme, bob = (
            world.token("alice"),
            world.token("alice", merchant_id="acme"),
            world.token("bob"),
        )
        async with streams.open(PUBLIC, token=alice):
            late = await streams.refusal(MINE, token=alice)
            assert refused(late, 429, "RATE_LIMITED")["details"]["retry_after_ms"] == 1000
            # another user, and strangers on one address
            async with streams.open(MINE, token=acme), streams.open(), streams.open():
                refused(await streams.refusal(token=bob), 503, "UNAVAILABLE")
            await eventually(lambda: streams.count() == 1)
            async with streams.open(), streams.open():
                refused(await streams.refusal(), 429, "RATE_LIMITED")
                assert (await world.client.get("/healthz")).status_code == 200
        await eventually(lambda: streams.count() == 0)
        async with streams.open(PUBLIC, token=alice) as (answer, _):
            assert answer.status_code == 200
        assert world.gateway._gateway.streams._callers.keys() <= {"mall/alice"}


async def test_a_refused_stream_gives_its_place_back(tmp_path: Path) -> None:
    async with streams_of(tmp_path, streams_max=1) as streams:
        gate = streams.gate()
        for _ in range(3):
            gate.put(NotFound())
            refused(await streams.refusal(), 404, "NOT_FOUND")


async def test_a_server_that_is_away_is_503(tmp_path: Path) -> None:
    async with streams_of(tmp_path) as streams:
        await streams.world.server.stop(0)
        refused(await streams.refusal(), 503, "NEIGHBOUR_UNAVAILABLE")


async def test_methods_with_one_answer_are_served_beside_streams(tmp_path: Path) -> None:
    async with gateway_world(tmp_path, streams_max=0) as world:
        assert (await world.call("GET", "/payments/PAY1")).json()["data"]["payment_id"] == "PAY1"

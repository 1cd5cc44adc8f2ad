"""HTTP as RFC 9110 and RFC 9112 have it, line by line, against raw bytes and against the clients
that people use.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.builders.gateway import World, gateway_world, statuses
from tests.support.ticker import Tick, Ticker, ticker_world

pytestmark = pytest.mark.asyncio(loop_scope="module", loop_factories=["uvloop"])  # as in production

ORDER = b'{"items": [{"sku_id": "A", "quantity": 1}]}'
PUBLIC_TICKS = b"/api/v1/ticks/news"
CLOSING = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with gateway_world(tmp_path_factory.mktemp("gateway")) as world:
        yield world


@pytest_asyncio.fixture(loop_scope="module")
async def world(shared: World) -> World:
    shared.shop.requests.clear()
    shared.shop.does.clear()
    return shared


def head(line: bytes, *headers: bytes, host: bytes | None = b"x") -> bytes:
    fields = [line, *([] if host is None else [b"host: " + host]), *headers]
    return b"\r\n".join(fields) + b"\r\n\r\n"


def get(
    *headers: bytes, target: bytes = b"/healthz", version: bytes = b"1.1", host: bytes | None = b"x"
) -> bytes:
    return head(b"GET %s HTTP/%s" % (target, version), *headers, host=host)


def post(
    world: World,
    *headers: bytes,
    body: bytes = ORDER,
    framing: bytes | None = None,
    version: bytes = b"1.1",
) -> bytes:
    """A POST that makes an order when nothing is wrong with it."""
    announced = b"content-length: %d" % len(body) if framing is None else framing
    fields = [
        b"content-type: application/json",
        b"authorization: Bearer " + world.token().encode(),
        announced,
        *headers,
    ]
    return head(b"POST /api/v1/orders HTTP/" + version, *fields) + body


def chunked(body: bytes, *, trailers: bytes = b"", extension: bytes = b"") -> bytes:
    return b"%x%s\r\n%s\r\n0%s\r\n%s\r\n" % (len(body), extension, body, extension, trailers)


TE = b"transfer-encoding: chunked"

# What is sent -> the statuses of all answers. Every row ends with a request that is good and asks
# for the end of the connection, so that a second answer proves that the connection was left usable,
# and none that it was closed.
ROWS: list[tuple[str, bytes, list[int]]] = [
    # RFC 9112 2.2: empty lines before a request line are ignored; a bare CR, a bare LF, space
    # before the first field are not taken
    ("9112 2.2 an empty line before a request", b"\r\n" + get(), [200, 200]),
    ("9112 2.2 bare LF", b"GET /healthz HTTP/1.1\nhost: x\n\n", [400]),
    ("9112 2.2 space before the first field", b"GET /healthz HTTP/1.1\r\n host: x\r\n\r\n", [400]),
    # RFC 9112 2.3: versions
    ("9112 2.3 HTTP/1.0", get(version=b"1.0", host=None), [200]),
    ("9112 2.3 HTTP/1.0 with Host", get(version=b"1.0"), [200]),
    ("9112 2.3 HTTP/2.0 in a request line", get(version=b"2.0"), [505]),
    ("9112 2.3 HTTP/1.2", get(version=b"1.2"), [505]),
    ("9112 2.3 HTTP/9.9", get(version=b"9.9"), [505]),
    ("9112 2.3 HTTP/0.9", get(version=b"0.9"), [505]),
    ("9112 2.3 no version", b"GET /healthz\r\n\r\n", [505]),
    ("9113 3.4 a connection preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [505]),
    ("9112 2.3 http/1.1", b"GET /healthz http/1.1\r\nhost: x\r\n\r\n", [400]),
    # RFC 9110 9.1, 9.3.6, 9.3.7, 9.3.8: methods
    ("9110 9.1 methods are case-sensitive", b"get /healthz HTTP/1.1\r\nhost: x\r\n\r\n", [400]),
    ("9110 9.1 a method that nobody knows", b"BREW /healthz HTTP/1.1\r\nhost: x\r\n\r\n", [400]),
    ("9110 9.3.6 CONNECT", head(b"CONNECT x:80 HTTP/1.1", host=b"x:80"), [501]),
    ("9110 9.3.7 OPTIONS of a path", head(b"OPTIONS /healthz HTTP/1.1"), [204, 200]),
    ("9110 9.3.7 OPTIONS of the server", head(b"OPTIONS * HTTP/1.1"), [204, 200]),
    (
        "9110 9.3.7 OPTIONS of an address without path",
        head(b"OPTIONS http://x HTTP/1.1"),
        [204, 200],
    ),
    ("9110 9.3.8 TRACE", head(b"TRACE /healthz HTTP/1.1"), [405, 200]),
    ("9110 9.3.2 HEAD", head(b"HEAD /healthz HTTP/1.1"), [200, 200]),
    # RFC 9112 3.2: request target and Host
    ("9112 3.2 no Host", get(host=None), [400]),
    ("9112 3.2 two Hosts", get(b"host: x"), [400]),
    ("9112 3.2 two Hosts of HTTP/1.0", get(b"host: x", version=b"1.0"), [400]),
    ("9112 3.2 a Host that is none", get(host=b"a b"), [400]),
    ("9112 3.2 a Host with a path", get(host=b"x/y"), [400]),
    ("9112 3.2 a Host with user information", get(host=b"u@x"), [400]),
    ("9112 3.2 an empty Host", get(host=b""), [200, 200]),
    ("9112 3.2 a Host with port", get(host=b"shop.example:8080"), [200, 200]),
    ("9112 3.2 a Host in brackets", get(host=b"[::1]:8080"), [200, 200]),
    ("9112 3.2.1 a query", get(target=b"/healthz?a=b"), [200, 200]),
    ("9112 3.2.1 a fragment", get(target=b"/healthz#a"), [400]),
    ("9112 3.2.1 a fragment in a query", get(target=b"/healthz?a#b"), [400]),
    ("9112 3.2.2 absolute-form", get(target=b"http://x/healthz"), [200, 200]),
    (
        "9112 3.2.2 absolute-form of another host than Host",
        get(target=b"HTTP://other:80/healthz"),
        [200, 200],
    ),
    ("9112 3.2.2 absolute-form without path", get(target=b"http://x"), [200, 200]),
    (
        "9112 3.2.2 absolute-form with query and without path",
        get(target=b"http://x?a=b"),
        [200, 200],
    ),
    ("9112 3.2.2 absolute-form of another scheme", get(target=b"ftp://x/healthz"), [400]),
    ("9110 4.2.4 absolute-form with user information", get(target=b"http://u:p@x/healthz"), [400]),
    ("9110 4.2.1 absolute-form without host", get(target=b"http:///healthz"), [400]),
    ("9112 3.2.3 authority-form", get(target=b"x:80"), [400]),
    ("9112 3.2.4 asterisk-form of GET", get(target=b"*"), [400]),
    ("3986 6.2.2.3 dot segments are not resolved", get(target=b"/api/../healthz"), [404, 200]),
    ("3986 6.2.2.3 encoded dot segments", get(target=b"/api/v1/products/%2E."), [404, 200]),
    ("3986 6.2.2.3 dots in a segment", get(target=b"/api/v1/products/..a"), [200, 200]),
    ("3986 2.1 a path beyond ASCII", get(target=b"/caf\xc3\xa9"), [400]),
    # RFC 9112 5: fields
    (
        "9112 5.1 space before the colon",
        b"GET /healthz HTTP/1.1\r\nhost: x\r\na : b\r\n\r\n",
        [400],
    ),
    ("9112 5.2 obs-fold", b"GET /healthz HTTP/1.1\r\nhost: x\r\na: b\r\n c\r\n\r\n", [400]),
    ("9110 5.5 NUL in a field", get(b"a: b\x00c"), [400]),
    ("9110 5.5 CR in a field", get(b"a: b\rc"), [400]),
    ("9110 5.5 bytes above ASCII in a field that nobody reads", get(b"a: \xfc"), [200, 200]),
    ("9110 5.1 a field without name", get(b": b"), [400]),
    ("9110 5.6.2 a field name that is no token", get(b"a(b: c"), [400]),
    ("9110 5.3 an empty field", get(b"a:"), [200, 200]),
    # RFC 9110 10.1.1: Expect
    ("9110 10.1.1 100-continue without a body", get(b"expect: 100-continue"), [200, 200]),
    ("9110 10.1.1 another expectation", get(b"expect: 200-ok"), [417]),
    (
        "9110 10.1.1 an expectation of HTTP/1.0 is ignored",
        get(b"expect: 200-ok", version=b"1.0"),
        [200],
    ),
    ("9110 10.1.1 an expectation in capitals", get(b"Expect: 100-Continue"), [200, 200]),
    # RFC 9110 7.8: Upgrade
    ("9110 7.8 websocket", get(b"connection: upgrade", b"upgrade: websocket"), [200, 200]),
    (
        "9110 7.8 h2c",
        get(
            b"connection: Upgrade, HTTP2-Settings",
            b"upgrade: h2c",
            b"http2-settings: AAMAAABkAAQAAP__",
        ),
        [200, 200],
    ),
    ("9110 7.8 Upgrade without Connection", get(b"upgrade: h2c"), [200, 200]),
    ("9110 7.8 Connection without Upgrade", get(b"connection: upgrade"), [200, 200]),
    ("9112 9.6 close beside an offer", get(b"connection: close, upgrade", b"upgrade: h2c"), [200]),
    # RFC 9112 9: connections
    ("9112 9.3 keep-alive is the default", get(), [200, 200]),
    ("9112 9.6 Connection: close", get(b"connection: close"), [200]),
    ("9112 9.6 Connection: close in capitals", get(b"connection: Close"), [200]),
    ("9112 9.3.2 pipelined", get() + get(target=b"/nothing") + get(), [200, 404, 200, 200]),
    ("9112 9.3.2 a broken request behind a good one", get() + b"nonsense\r\n\r\n", [200, 400]),
    ("9112 9.3.2 a head that is refused behind a good one", get() + get(host=None), [200, 400]),
]


@pytest.mark.parametrize(
    ("sent", "expected"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS]
)
async def test_the_rules_of_http_one_by_one(world: World, sent: bytes, expected: list[int]) -> None:
    assert statuses(await world.raw(sent + CLOSING)) == expected


# name, headers, framing, body, statuses
Body = tuple[str, tuple[bytes, ...], bytes | None, bytes, list[int]]
UPGRADE = (
    b"connection: Upgrade, HTTP2-Settings",
    b"upgrade: h2c",
    b"http2-settings: AAMAAABkAAQAAP__",
)

# How a body is framed (RFC 9112 6 and 7) -> the statuses, and whether an order was made. A row
# sends its head and body in one piece and in two.
BODIES: list[Body] = [
    ("9112 6.2 Content-Length", (), None, ORDER, [201, 200]),
    (
        "9112 6.2 leading zeros",
        (),
        b"content-length: 0000000000000000%d" % len(ORDER),
        ORDER,
        [201, 200],
    ),
    ("9112 6.2 a sign", (), b"content-length: +%d" % len(ORDER), ORDER, [400]),
    ("9112 6.2 no digits", (), b"content-length: x", ORDER, [400]),
    ("9112 6.2 more than fits", (), b"content-length: 99999999999999999999999", ORDER, [400]),
    ("9112 6.3 two lengths", (b"content-length: 3",), None, ORDER, [400]),
    ("9112 6.3 one length twice", (b"content-length: %d" % len(ORDER),), None, ORDER, [400]),
    ("9112 6.3 a list of lengths", (), b"content-length: 5, 5", ORDER, [400]),
    ("9112 6.1 chunked", (), TE, chunked(ORDER), [201, 200]),
    ("9112 6.1 chunked in capitals", (), b"Transfer-Encoding: Chunked", chunked(ORDER), [201, 200]),
    ("9112 6.1 chunked beside a length", (TE,), None, chunked(ORDER), [400]),
    ("9112 6.1 a length beside chunked", (b"content-length: 5",), TE, chunked(ORDER), [400]),
    ("9112 6.1 gzip, chunked", (), b"transfer-encoding: gzip, chunked", chunked(ORDER), [501]),
    (
        "9112 6.1 gzip, then chunked, in two fields",
        (TE,),
        b"transfer-encoding: gzip",
        chunked(ORDER),
        [501],
    ),
    (
        "9112 6.3 chunked is not the last",
        (),
        b"transfer-encoding: chunked, gzip",
        chunked(ORDER),
        [400],
    ),
    ("9112 6.3 gzip alone", (), b"transfer-encoding: gzip", ORDER, [400]),
    (
        "9112 6.3 a word that ends in chunked",
        (),
        b"transfer-encoding: xchunked",
        chunked(ORDER),
        [400],
    ),
    ("9112 6.1 chunked twice", (), b"transfer-encoding: chunked, chunked", chunked(ORDER), [400]),
    ("9112 6.1 identity", (), b"transfer-encoding: identity", ORDER, [400]),
    ("9112 6.1 an empty coding", (), b"transfer-encoding:", ORDER, [400]),
    (
        "9112 7.1.1 chunk extensions are ignored",
        (),
        TE,
        chunked(ORDER, extension=b";a=b"),
        [201, 200],
    ),
    # The parser heeds it and takes nothing that follows: the answer has to say so too, or the next
    # request on the connection is never answered.
    (
        "9112 9.6 a trailer that closes",
        (),
        TE,
        chunked(ORDER, trailers=b"connection: close\r\n"),
        [201],
    ),
    ("9112 7.1.2 trailers are ignored", (), TE, chunked(ORDER, trailers=b"x-a: b\r\n"), [201, 200]),
    ("9112 7.1 a chunk size that is none", (), TE, b"zz\r\n" + ORDER, [400]),
    ("9112 7.1 a chunk longer than it says", (), TE, b"1\r\n" + ORDER + b"\r\n0\r\n\r\n", [400]),
    ("9112 7.1 a negative chunk", (), TE, b"-1\r\n" + ORDER, [400]),
    ("9112 7.1 0x in a chunk size", (), TE, b"0x1\r\n{\r\n0\r\n\r\n", [400]),
    ("9110 7.8 an offer of h2c keeps its body", UPGRADE, None, ORDER, [201, 200]),
    (
        "9110 7.8 an offer of something else keeps its body",
        (b"connection: upgrade", b"upgrade: foo/2"),
        None,
        ORDER,
        [201, 200],
    ),
    (
        "9110 7.8 an offer keeps its chunks",
        UPGRADE,
        TE,
        chunked(ORDER, trailers=b"a: b\r\n"),
        [201, 200],
    ),
    (
        "9110 7.8 an offer with Expect",
        (*UPGRADE, b"expect: 100-continue"),
        None,
        ORDER,
        [100, 201, 200],
    ),
    (
        "9110 7.8 an offer to close",
        (b"connection: close, upgrade", b"upgrade: h2c"),
        None,
        ORDER,
        [201],
    ),
    ("9110 10.1.1 100-continue", (b"expect: 100-continue",), None, ORDER, [100, 201, 200]),
]


@pytest.mark.parametrize("pieces", [1, 2], ids=["one_piece", "two_pieces"])
@pytest.mark.parametrize("row", BODIES, ids=[row[0] for row in BODIES])
async def test_the_rules_of_bodies_one_by_one(world: World, row: Body, pieces: int) -> None:
    _, headers, framing, body, expected = row
    sent = post(world, *headers, body=body, framing=framing)
    begin = sent.index(b"\r\n\r\n") + 4
    parts = [sent + CLOSING] if pieces == 1 else [sent[:begin], sent[begin:] + CLOSING]
    found = statuses(await world.raw(*parts))
    if 100 in found and pieces == 1:
        expected = [100, *[status for status in expected if status != 100]]
    elif 100 not in found and pieces == 1:
        # RFC 9110 10.1.1: may be left out when the body is there already
        expected = [status for status in expected if status != 100]
    assert found == expected
    assert len(world.shop.requests) == (201 in expected)


async def test_the_body_of_an_offer_is_no_request_of_its_own(world: World) -> None:
    inner = get(
        b"authorization: Bearer " + world.token("victim").encode(), target=b"/api/v1/orders"
    )
    for offer in (
        (b"connection: upgrade", b"upgrade: foo/2"),
        UPGRADE,
        (b"connection: upgrade", b"upgrade: websocket"),
    ):
        for parts in (
            [post(world, *offer, body=inner)],
            [post(world, *offer, body=b"", framing=b"content-length: %d" % len(inner)), inner],
        ):
            assert statuses(await world.raw(*parts, CLOSING)) == [400, 200]
    assert world.shop.requests == []


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize("pieces", [1, 2])
async def test_trailers_never_become_headers(world: World, version: bytes, pieces: int) -> None:
    trailers = (
        b"authorization: Bearer %s\r\nidempotency-key: t\r\nx-request-id: "
        b"trailer\r\nx-forwarded-for: 9.9.9.9\r\n" % world.token().encode()
    )
    start = head(
        b"POST /api/v1/orders HTTP/" + version,
        b"content-type: application/json",
        b"connection: close",
        TE,
    )
    rest = chunked(ORDER, trailers=trailers)
    answer = await world.raw(*([start + rest] if pieces == 1 else [start, rest]))
    assert statuses(answer) == [400 if version == b"1.0" else 401]
    assert b"trailer" not in answer
    assert world.shop.requests == []


async def test_chunks_are_no_part_of_http_1_0(world: World) -> None:
    assert statuses(
        await world.raw(post(world, framing=TE, body=chunked(ORDER), version=b"1.0") + CLOSING)
    ) == [400]
    assert statuses(await world.raw(post(world, version=b"1.0"))) == [201]


async def test_a_stream_for_http_1_0_has_no_chunks_and_ends_with_the_connection(
    tmp_path: Path,
) -> None:
    async def two(_request: Any, _context: Any) -> AsyncIterator[Tick]:
        for number in (1, 2):
            yield Tick(text=str(number))

    ticker = Ticker()
    ticker.does = two
    async with ticker_world(tmp_path, ticker) as world:
        old = await world.raw(get(target=PUBLIC_TICKS, version=b"1.0"))
        new = await world.raw(get(b"connection: close", target=PUBLIC_TICKS))
    start, _, events = old.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in start.lower()
    assert b"connection: close" in start.lower()
    assert events.startswith(b"id: 1\ndata: {")
    assert events.count(b"\n\n") == 3  # two answers, and the end
    assert b"transfer-encoding: chunked" in new.lower()


async def test_an_idle_connection_outlives_that_of_a_load_balancer(tmp_path: Path) -> None:
    async with gateway_world(tmp_path) as world:
        assert world.gateway.keep_alive_seconds > 60
    async with gateway_world(tmp_path, keep_alive_seconds=650) as world:
        assert world.gateway.keep_alive_seconds == 650


# The clients that people use


async def run(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()
    return out.decode()


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
@pytest.mark.parametrize("option", ["--http1.1", "--http1.0", "--http2"])
async def test_curl_is_served(world: World, option: str) -> None:
    answer = await run(
        "curl",
        "-s",
        option,
        f"http://127.0.0.1:{world.port}/api/v1/orders",
        "-H",
        f"authorization: Bearer {world.token()}",
        "-H",
        "content-type: application/json",
        "-d",
        ORDER.decode(),
    )
    assert json.loads(answer)["data"]["order_id"] == "ORD1"


@pytest.mark.skipif(shutil.which("node") is None, reason="no node")
async def test_node_is_served_on_one_connection(world: World) -> None:
    script = """
    const http = require("node:http");
    const [port, token, body] = process.argv.slice(1);
    const agent = new http.Agent({keepAlive: true, maxSockets: 1});
    const call = (headers, end) => new Promise((done, fail) => {
      const request = http.request({port, host: "127.0.0.1", agent, method: "POST", path: "/api/v1/orders", headers: {
        authorization: `Bearer ${token}`, "content-type": "application/json", ...headers}}, answer => {
          answer.resume(); answer.on("end", () => done([answer.statusCode, request.reusedSocket]))});
      request.on("error", fail);
      request.on("upgrade", fail);
      end(request);
    });
    (async () => {
      const plain = await call({}, request => request.end(body));
      const chunked = await call({}, request => { request.write(body.slice(0, 5)); request.addTrailers({"x-a": "b"}); request.end(body.slice(5)) });
      const offer = await call({connection: "Upgrade, HTTP2-Settings", upgrade: "h2c", "http2-settings": "AAMAAABk"}, request => request.end(body));
      const fetched = await fetch(`http://127.0.0.1:${port}/api/v1/orders`, {method: "POST", body,
        headers: {authorization: `Bearer ${token}`, "content-type": "application/json"}});
      console.log(JSON.stringify({plain, chunked, offer, fetched: fetched.status}));
      agent.destroy();
    })();
    """
    found = json.loads(
        await run("node", "-e", script, str(world.port), world.token(), ORDER.decode())
    )
    assert found == {
        "plain": [201, False],
        "chunked": [201, True],
        "offer": [201, True],
        "fetched": 201,
    }


async def test_bytes_of_the_clients_of_java_are_served(world: World) -> None:
    """java.net.http.HttpClient offers h2c with its first request of a connection and sends the body
    in a piece of its own.
    """
    start = (
        b"POST /api/v1/orders HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nContent-Length: "
        b"%d\r\nHost: 127.0.0.1:8080\r\n"
        b"HTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA\r\nUpgrade: "
        b"h2c\r\nUser-Agent: Java-http-client/17.0.13\r\n"
        b"Authorization: Bearer %s\r\nContent-Type: application/json\r\n\r\n"
        % (len(ORDER), world.token().encode())
    )
    for parts in ([start, ORDER], [start, ORDER[:7], ORDER[7:]], [start + ORDER]):
        assert statuses(await world.raw(*parts, CLOSING)) == [201, 200]
    assert len(world.shop.requests) == 3


async def test_httpx_is_served_with_a_length_and_with_chunks(world: World) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield ORDER[:9]
        yield ORDER[9:]

    headers = world.bearer() | {"content-type": "application/json"}
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{world.port}", trust_env=False
    ) as client:
        assert (
            await client.post("/api/v1/orders", content=ORDER, headers=headers)
        ).status_code == 201
        assert (
            await client.post("/api/v1/orders", content=pieces(), headers=headers)
        ).status_code == 201


async def test_an_answer_says_that_a_trailer_closes_its_connection(world: World) -> None:
    closing = chunked(ORDER, trailers=b"connection: close\r\n")
    answer = await world.raw(post(world, body=closing, framing=TE))
    assert statuses(answer) == [201]
    assert b"connection: close" in answer.lower()

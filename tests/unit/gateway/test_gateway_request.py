"""Reading requests without a socket: headers that count once, bodies with a size and a deadline,
origins, settings.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.cors import Cors
from gateway.errors import BodyTooLarge, MalformedBody, RequestTimeout, UnsupportedMediaType
from gateway.request import ClientGone, Request, read_body
from gateway.settings import GatewaySettings
from mesh.errors import InvalidArgument, TokenInvalid


def request(*headers: tuple[str, str], method: str = "POST") -> Request:
    return Request(
        {
            "type": "http",
            "method": method,
            "raw_path": b"/x",
            "query_string": b"",
            "client": ("10.1.2.3", 5),
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
        }
    )


class Body:
    """ASGI `receive` that gives pieces, then waits for ever or hangs up."""

    def __init__(self, *pieces: bytes, ends: bool = True, gone: bool = False) -> None:
        self.pieces = list(pieces)
        self.ends = ends
        self.gone = gone
        self.given = 0

    async def __call__(self) -> dict[str, Any]:
        if self.given < len(self.pieces):
            self.given += 1
            return {
                "type": "http.request",
                "body": self.pieces[self.given - 1],
                "more_body": not self.ends or self.given < len(self.pieces),
            }
        if not self.gone:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}


async def read(
    body: Body, *headers: tuple[str, str], bytes_max: int = 10, seconds_max: float = 5
) -> bytes:
    return await read_body(request(*headers), body, bytes_max=bytes_max, seconds_max=seconds_max)


async def test_a_body_in_pieces_is_put_together() -> None:
    assert await read(Body(b"abc", b"", b"def")) == b"abcdef"
    assert await read(Body(b"0123456789")) == b"0123456789"


async def test_an_announced_length_is_refused_before_anything_is_read() -> None:
    body = Body(b"x" * 11)
    with pytest.raises(BodyTooLarge) as refusal:
        await read(body, ("content-length", "11"))
    assert (body.given, refusal.value.fields) == (0, {"body": "must be at most 10 bytes"})
    with pytest.raises(BodyTooLarge):
        await read(body, ("content-length", "9" * 5000))


@pytest.mark.parametrize("pieces", [[b"x" * 11], [b"x" * 6, b"x" * 5], [b"x" * 6, b"x" * 5, b"x"]])
async def test_a_body_is_counted_as_it_comes(pieces: list[bytes]) -> None:
    with pytest.raises(BodyTooLarge):
        await read(Body(*pieces))


async def test_an_endless_body_is_read_no_further_than_its_limit() -> None:
    body = Body(*[b"x" * 4] * 100)
    with pytest.raises(BodyTooLarge):
        await read(body)
    assert body.given == 3


async def test_a_slow_body_is_given_up() -> None:
    with pytest.raises(RequestTimeout):
        await read(Body(b"a", ends=False), seconds_max=0.01)


async def test_a_client_that_hangs_up_gets_no_answer() -> None:
    with pytest.raises(ClientGone):
        await read(Body(b"a", ends=False, gone=True))


@pytest.mark.parametrize(
    "value",
    [
        "application/json",
        "Application/JSON",
        "application/json; charset=utf-8",
        'application/json;charset="UTF-8"',
        "application/json;",
        "application/json; profile=x; charset=utf-8",
        'application/json; boundary="a b"',
    ],
)
def test_json_is_taken(value: str) -> None:
    request(("content-type", value)).json_type()


@pytest.mark.parametrize(
    "value",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json; charset=gbk",
        "application/jsonx",
        "application/json, text/plain",
        "",
        "multipart/form-data; boundary=x",
        "application/json; q",
        "application/json; charset=gbk; q=1",
    ],
)
def test_other_types_are_not(value: str) -> None:
    with pytest.raises(UnsupportedMediaType):
        request(("content-type", value)).json_type()


def test_no_type_and_two_types_are_not_json() -> None:
    with pytest.raises(UnsupportedMediaType):
        request().json_type()
    with pytest.raises(InvalidArgument, match="content-type: is given twice"):
        request(
            ("content-type", "application/json"), ("content-type", "application/json")
        ).json_type()


def test_a_compressed_body_is_not_taken() -> None:
    with pytest.raises(UnsupportedMediaType, match="compressed"):
        request(("content-type", "application/json"), ("content-encoding", "gzip")).json_type()


@pytest.mark.parametrize("headers", [[("content-length", "5")], [("transfer-encoding", "chunked")]])
def test_a_path_without_body_refuses_one(headers: list[tuple[str, str]]) -> None:
    with pytest.raises(MalformedBody):
        request(*headers).no_body()
    request(("content-length", "0")).no_body()


def test_all_headers_are_those_without_credentials_that_a_message_may_hold() -> None:
    headers = request(
        ("stripe-signature", "t=1,v1=ab"),
        ("via", "one"),
        ("via", "two"),
        ("authorization", "Bearer secret"),
        ("cookie", "a=secret"),
        ("x-api-key", "secret"),
        ("x-long", "x" * 1001),
        ("x-other", "ü"),
        ("x" * 101, "1"),
        ("x-joined", "x" * 600),
        ("x-joined", "y" * 600),
        ("x-empty", ""),
    ).all_headers()
    assert headers == {
        "stripe-signature": "t=1,v1=ab",
        "via": "one, two",
        "x-joined": "x" * 600,
        "x-empty": "",
    }


def test_a_bearer_token_is_taken_from_one_header() -> None:
    assert request(("authorization", "bearer abc.def.ghi")).bearer() == "abc.def.ghi"
    assert request().bearer() is None


@pytest.mark.parametrize(
    "headers",
    [
        ["Basic abc"],
        ["Bearer"],
        ["Bearer "],
        ["Bearer a b"],
        ["abc"],
        [""],
        ["Bearer a", "Bearer a"],
        ["Bearer ü"],
    ],
)
def test_anything_else_is_an_invalid_token(headers: list[str]) -> None:
    with pytest.raises(TokenInvalid):
        request(*(("authorization", value) for value in headers)).bearer()


@pytest.mark.parametrize("value", ["abc-1.2:3_X", "A" * 64])
def test_a_request_id_is_honoured(value: str) -> None:
    assert request(("x-request-id", value)).request_id == value


@pytest.mark.parametrize("value", ["", "a b", "A" * 65, "a\x00", "ü", '"x"', "a\\n"])
def test_another_request_id_is_made_anew(value: str) -> None:
    made = request(("x-request-id", value)).request_id
    assert made.startswith("req-")
    assert made != request().request_id


def test_a_traceparent_is_continued_and_a_broken_one_is_not() -> None:
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    continued = request(("traceparent", f"00-{trace_id}-00f067aa0ba902b7-01")).trace
    assert (continued.trace_id, continued.sampled) == (trace_id, True)
    assert continued.span_id != "00f067aa0ba902b7"
    assert request(("traceparent", f"00-{'0' * 32}-00f067aa0ba902b7-01")).trace.trace_id != "0" * 32


class TestCors:
    CORS = Cors(["https://shop.example"])

    def test_a_page_on_the_list_may_read_the_answer(self) -> None:
        headers = dict(self.CORS.headers(request(("origin", "https://shop.example"))))
        assert headers[b"access-control-allow-origin"] == b"https://shop.example"
        assert headers[b"vary"] == b"Origin"
        assert b"access-control-allow-credentials" not in headers

    @pytest.mark.parametrize(
        "origin",
        [
            "https://evil.example",
            "null",
            "https://shop.example.evil",
            "http://shop.example",
            "*",
            "",
        ],
    )
    def test_no_other_page_may(self, origin: str) -> None:
        assert dict(self.CORS.headers(request(("origin", origin)))) == {b"vary": b"Origin"}

    def test_a_preflight_says_what_may_be_sent(self) -> None:
        asked = request(
            ("origin", "https://shop.example"),
            ("access-control-request-method", "POST"),
            method="OPTIONS",
        )
        answer = self.CORS.options(asked, "OPTIONS, POST")
        headers = dict(answer.headers)
        assert (answer.status, headers[b"allow"], headers[b"access-control-allow-methods"]) == (
            204,
            b"OPTIONS, POST",
            b"OPTIONS, POST",
        )
        assert b"idempotency-key" in headers[b"access-control-allow-headers"]

    def test_a_strangers_preflight_hears_nothing(self) -> None:
        asked = request(
            ("origin", "https://evil.example"),
            ("access-control-request-method", "POST"),
            method="OPTIONS",
        )
        assert [name for name, _ in self.CORS.options(asked, "GET").headers] == [b"allow"]

    def test_without_a_list_there_is_no_cors(self) -> None:
        assert Cors([]).headers(request(("origin", "https://shop.example"))) == []


class TestSettings:
    @pytest.mark.parametrize(
        "origin",
        [
            "*",
            "https://*.example",
            "https://shop.example/",
            "shop.example",
            "https://Shop.example",
            "ftp://shop.example",
        ],
    )
    def test_an_origin_is_exact(self, origin: str) -> None:
        with pytest.raises(ValidationError, match="an origin is"):
            GatewaySettings(cors_origins=[origin])

    def test_plaintext_beyond_loopback_is_asked_for(self) -> None:
        with pytest.raises(ValidationError, match="allow_plaintext"):
            GatewaySettings(host="0.0.0.0")
        assert GatewaySettings(host="0.0.0.0", allow_plaintext=True).port == 8080

    def test_settings_come_from_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GATEWAY_CORS_ORIGINS", '["https://shop.example:8443"]')
        monkeypatch.setenv("GATEWAY_PORT", "18080")
        monkeypatch.setenv("PAYMESH_PORT", "1")
        settings = GatewaySettings()
        assert (settings.cors_origins, settings.port) == (["https://shop.example:8443"], 18080)

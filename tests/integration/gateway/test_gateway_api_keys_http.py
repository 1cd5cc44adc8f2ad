"""API keys over HTTP: where a key may stand, what a refusal says, and where the key never goes.
merchant_rpc is a stand-in here; test_merchant_keys_at_gateways.py has the real one.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog

from gateway.api_keys import ExchangedKey, RevokedKeys
from gateway.errors import ApiKeyInvalid
from mesh.api_key_format import ApiKeyKind, key_sha256, new_key
from mesh.auth import UserTokenIssuer
from mesh.errors import Unavailable
from tests.builders.gateway import SECRET, World, gateway_world, refused
from tests.support.fakes import EPOCH, FakeClock, FakeIds

KEY, OTHER, UNKNOWN = (
    new_key(ApiKeyKind.SECRET, is_test=True, random_bytes=number.to_bytes) for number in (1, 2, 3)
)
PATH = "/api/v1/orders"
PURCHASE = {"order_id": "O", "amount": "1.00"}


class Merchants:
    """merchant_rpc: two keys, each of a merchant of its own."""

    def __init__(self) -> None:
        self.is_away = False
        self.addresses: list[str] = []

    async def exchange(
        self, *, key_sha256: bytes, prefix: str, client_address: str
    ) -> ExchangedKey:
        assert prefix == "pmsk_test_"
        if self.is_away:
            raise Unavailable("API keys cannot be looked at now.")
        merchants = {_sha256(KEY): "acme_test", _sha256(OTHER): "other_test"}
        if key_sha256 not in merchants:
            raise ApiKeyInvalid
        self.addresses.append(client_address)
        issuer = UserTokenIssuer(SECRET, clock=FakeClock(), ids=FakeIds())
        merchant_id = merchants[key_sha256]
        return ExchangedKey(
            token=issuer.issue(f"of.{merchant_id}", roles=("merchant",), merchant_id=merchant_id),
            expires_at_seconds=EPOCH.timestamp() + 30,
            subject=f"key:{merchant_id}",
            merchant_id=merchant_id,
            is_bound_to_address=False,
        )

    async def revoked(self) -> RevokedKeys:
        return RevokedKeys(subjects=frozenset(), merchant_ids=frozenset())


def _sha256(key: str) -> bytes:
    return key_sha256(key)


@pytest.fixture
def merchants() -> Merchants:
    return Merchants()


@pytest.fixture
async def world(tmp_path: Path, merchants: Merchants) -> AsyncIterator[World]:
    async with gateway_world(tmp_path, key_service=merchants) as world:
        yield world


@pytest.fixture
async def alone(tmp_path: Path) -> AsyncIterator[World]:
    """A gateway of a mesh without merchant_rpc."""
    async with gateway_world(tmp_path) as world:
        yield world


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer {KEY}"},
        {"x-api-key": KEY},
        {"X-API-Key": KEY, "authorization": f"Bearer {KEY}"},
    ],
)
async def test_a_key_calls_for_its_merchant(
    world: World, merchants: Merchants, headers: dict[str, str]
) -> None:
    answer = await world.client.get(PATH, headers=headers)
    assert answer.status_code == 200, answer.text
    assert world.shop.request.merchant_id == "acme_test"
    assert merchants.addresses == ["127.0.0.1"]


async def test_two_keys_call_for_two_merchants(world: World) -> None:
    for key, merchant_id in ((KEY, "acme_test"), (OTHER, "other_test"), (KEY, "acme_test")):
        await world.client.get(PATH, headers={"x-api-key": key})
        assert world.shop.request.merchant_id == merchant_id


@pytest.mark.parametrize(
    "headers",
    [
        {"x-api-key": UNKNOWN},
        {"authorization": f"Bearer {UNKNOWN}"},
        {"x-api-key": KEY[:-1] + "!"},
        {"x-api-key": KEY + "0"},
        {"x-api-key": ""},
        {"x-api-key": "nonsense"},
        {"x-api-key": KEY, "authorization": f"Bearer {OTHER}"},
    ],
)
async def test_a_key_that_is_none_is_401_and_nobody_is_told_why(
    world: World, headers: dict[str, str]
) -> None:
    answer = await world.client.get(PATH, headers=headers)
    body = refused(answer, 401, "API_KEY_INVALID")
    assert body["code"] == "A0214"
    assert answer.headers["www-authenticate"] == 'Bearer realm="paymesh", error="invalid_token"'
    assert not world.shop.requests


async def test_a_token_and_a_key_together_are_refused(world: World) -> None:
    answer = await world.call("GET", PATH, headers={"x-api-key": KEY})
    refused(answer, 401, "API_KEY_INVALID")


async def test_two_keys_in_one_request_are_refused(world: World) -> None:
    line = f"x-api-key: {KEY}\r\n".encode()
    answer = await world.raw(
        f"GET {PATH} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n".encode() + line * 2 + b"\r\n"
    )
    assert b"API_KEY_INVALID" in answer
    assert not world.shop.requests


async def test_a_wrong_key_is_refused_where_none_is_needed(world: World) -> None:
    answer = await world.client.get("/api/v1/products", headers={"x-api-key": UNKNOWN})
    refused(answer, 401, "API_KEY_INVALID")


async def test_the_refusal_is_told_in_chinese(world: World) -> None:
    answer = await world.client.get(PATH, headers={"x-api-key": UNKNOWN, "accept-language": "zh"})
    assert answer.json()["message"] == "密钥无效。"


async def test_a_key_in_the_address_is_no_key(world: World) -> None:
    answer = await world.client.get(f"{PATH}?x-api-key={KEY}")
    assert answer.status_code == 401
    assert answer.json()["details"]["reason"] == "UNAUTHENTICATED"


async def test_a_cold_key_is_503_without_merchant_rpc_and_moved_nothing(
    world: World, merchants: Merchants
) -> None:
    merchants.is_away = True
    answer = await world.client.post("/payment/charge", headers={"x-api-key": KEY}, json=PURCHASE)
    body = refused(answer, 503, "UNAVAILABLE")
    assert body["details"]["outcome"] == "NOT_ATTEMPTED"
    assert body["details"]["safe_to_retry"] is True
    assert not world.shop.requests


async def test_a_warm_key_works_without_merchant_rpc_until_its_token_ends(
    world: World, merchants: Merchants
) -> None:
    await world.client.get(PATH, headers={"x-api-key": KEY})
    merchants.is_away = True
    world.clock.advance(29)
    assert (await world.client.get(PATH, headers={"x-api-key": KEY})).status_code == 200
    world.clock.advance(1)
    refused(await world.client.get(PATH, headers={"x-api-key": KEY}), 503, "UNAVAILABLE")


async def test_a_client_that_tries_keys_is_held_up(world: World) -> None:
    answers = [
        await world.client.get(
            PATH,
            headers={
                "x-api-key": new_key(ApiKeyKind.SECRET, is_test=True, random_bytes=number.to_bytes)
            },
        )
        for number in range(100, 121)
    ]
    assert {answer.status_code for answer in answers[:20]} == {401}
    refused(answers[20], 429, "RATE_LIMITED")
    assert "retry-after" in answers[20].headers


async def test_a_web_page_may_send_a_key(tmp_path: Path, merchants: Merchants) -> None:
    async with gateway_world(
        tmp_path, key_service=merchants, cors_origins=["https://shop.example"]
    ) as world:
        answer = await world.client.options(
            PATH,
            headers={
                "origin": "https://shop.example",
                "access-control-request-method": "GET",
                "access-control-request-headers": "x-api-key",
            },
        )
        assert "x-api-key" in answer.headers["access-control-allow-headers"]


async def test_without_merchant_rpc_each_key_is_refused_and_all_else_works(alone: World) -> None:
    for headers in ({"x-api-key": KEY}, {"authorization": f"Bearer {KEY}"}):
        refused(await alone.client.get(PATH, headers=headers), 401, "API_KEY_INVALID")
    assert (await alone.call("GET", PATH)).status_code == 200
    assert (await alone.client.get("/api/v1/products")).status_code == 200


async def test_the_key_goes_nowhere(
    world: World, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither inward, nor into a log line, a trace, an answer or a metric."""
    caplog.set_level(logging.DEBUG)
    lines = io.StringIO()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(lines))
    answers, seen = [], []
    for key in (KEY, UNKNOWN, KEY[:-1] + "!"):
        for headers in (
            {"x-api-key": key},
            {"authorization": f"Bearer {key}"},
            {"x-api-key": key, "authorization": f"Bearer {OTHER}"},
        ):
            answers.append(await world.client.get(PATH, headers=headers))
            answers.append(
                await world.client.post("/payment/charge", headers=headers, json=PURCHASE)
            )
            seen.append(world.shop.metadata)
    world.telemetry.flush()
    metrics = [
        (sample.name, sample.labels)
        for metric in world.telemetry.collect()
        for sample in metric.samples
    ]
    everything = "\n".join(
        [
            json.dumps(seen),
            repr(world.shop.requests),
            repr(metrics),
            json.dumps(world.lines()),
            lines.getvalue(),
            caplog.text,
            *capsys.readouterr(),
            *(answer.text + repr(answer.headers) for answer in answers),
        ]
    )
    assert "of.acme_test" in everything  # the log was read
    for key in (KEY, OTHER, UNKNOWN):
        assert key[10:40] not in everything
        assert _sha256(key).hex() not in everything

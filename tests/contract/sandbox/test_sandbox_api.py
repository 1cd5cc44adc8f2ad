"""The sandbox's own door: the key, malformed requests, the list."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
import structlog

from mesh.money import Money
from payment_rpc.channels.sandbox.channel import SandboxChannel
from payment_rpc.domain.facts import ChannelStatus
from tests.support.sandbox_server import (
    API_KEY,
    PATIENCE,
    RunningSandbox,
    charge,
)


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer wrong",
        f"Bearer {API_KEY}x",
        f"bearer {API_KEY}",
        API_KEY,
        "Bearer ü",
    ],
)
async def test_nobody_gets_in_without_the_key(
    running: RunningSandbox, authorization: str | None
) -> None:
    headers = [] if authorization is None else [(b"authorization", authorization.encode())]
    async with httpx.AsyncClient(base_url=running.base_url, trust_env=False) as client:
        for method, path in (
            ("POST", "/v1/charges"),
            ("POST", "/v1/checkouts"),
            ("GET", "/v1/transactions"),
            ("GET", "/v1/transactions/ATT1"),
            ("POST", "/v1/transactions/ATT1/close"),
            ("POST", "/v1/transactions/ATT1/signature"),
        ):
            answer = await client.request(method, path, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")
    assert (await running.listed())["transactions"] == []


async def test_with_a_wrong_key_the_adapter_knows_that_nothing_was_charged(
    running: RunningSandbox,
) -> None:
    stranger = running.channel(api_key="another-key-another-key-another-key")
    try:
        fact = await charge(stranger)
        assert (fact.status, fact.reason) == (ChannelStatus.NOT_SENT, "CHANNEL_UNAVAILABLE")
        assert (
            await stranger.query("ATT1", timeout_seconds=PATIENCE)
        ).status is ChannelStatus.UNKNOWN
        assert (
            await stranger.close("ATT1", timeout_seconds=PATIENCE)
        ).status is ChannelStatus.UNKNOWN
    finally:
        await stranger.aclose()


GOOD_CARD = {
    "number": "4242424242424242",
    "cvv": "123",
    "expiration_year": 2030,
    "expiration_month": 12,
}
GOOD_CHARGE = {"attempt_id": "ATT1", "amount": "99.99", "currency": "CNY", "card": GOOD_CARD}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 10_000,
        *(
            json.dumps({**GOOD_CHARGE, **change}).encode()
            for change in (
                {"amount": 99.99},
                {"amount": "0"},
                {"amount": "-1"},
                {"amount": "1e3"},
                {"amount": "99.999"},
                {"amount": "NaN"},
                {"amount": ""},
                {"amount": "1" * 16},
                {"currency": "XXX"},
                {"currency": "cny"},
                {"currency": None},
                {"attempt_id": ""},
                {"attempt_id": "a/b"},
                {"attempt_id": "ATT1\n"},
                {"attempt_id": "A" * 65},
                {"extra": 1},
                {"expires_at": "2026-11-20T12:00:00"},
                {"card": None},
                {"card": {**GOOD_CARD, "number": "4242-4242"}},
                {"card": {**GOOD_CARD, "cvv": "12"}},
                {"card": {**GOOD_CARD, "expiration_month": 13}},
            )
        ),
    ],
)
async def test_a_malformed_charge_is_refused_and_recorded_nowhere(
    running: RunningSandbox, body: bytes
) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.post(
            f"{running.base_url}/v1/charges",
            content=body,
            headers={"authorization": f"Bearer {API_KEY}"},
        )
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
    assert "4242" not in answer.text
    assert (await running.listed())["transactions"] == []


async def test_a_body_that_is_too_large_is_refused(running: RunningSandbox) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.post(
            f"{running.base_url}/v1/charges",
            content=b" " * 20_000,
            headers={"authorization": f"Bearer {API_KEY}"},
        )
    assert answer.status_code == 413


async def test_the_list_counts_captures_page_by_page_newest_last(
    channel: SandboxChannel, running: RunningSandbox
) -> None:
    for number in range(5):
        await charge(
            channel, f"ATT{number}", "4242424242424242" if number % 2 == 0 else "4000000000000002"
        )
    first = await running.listed(limit=3)
    second = await running.listed(after=first["next_after"], limit=3)
    assert (await running.listed(after=second["next_after"]))["next_after"] is None
    rows = first["transactions"] + second["transactions"]
    assert [row["attempt_id"] for row in rows] == [f"ATT{number}" for number in range(5)]
    assert [row["status"] == "CAPTURED" for row in rows] == [True, False, True, False, True]
    assert rows[0]["card"] == {"brand": "visa", "last4": "4242"}


@pytest.mark.parametrize("query", ["limit=-1", "limit=x", "after=1e9", "limit=" + "9" * 30])
async def test_the_list_takes_whole_numbers_only(running: RunningSandbox, query: str) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(
            f"{running.base_url}/v1/transactions?{query}",
            headers={"authorization": f"Bearer {API_KEY}"},
        )
    assert answer.status_code == 400


async def test_health_is_open(running: RunningSandbox) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.get(f"{running.base_url}/healthz")).json() == {"status": "ok"}


def everything_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())


async def test_card_numbers_and_codes_are_kept_nowhere(
    channel: SandboxChannel, tmp_path: Path
) -> None:
    with structlog.testing.capture_logs() as lines:
        for attempt, number in enumerate(
            ("4242424242424242", "4000000000000002", "4242424242424241")
        ):
            await charge(channel, f"ATT{attempt}", number)
        await charge(channel, "ATT0", amount=Money(1, "CNY"))
    kept = everything_in(tmp_path) + repr(lines).encode()
    assert b"ATT2" in kept  # we look in the right place
    for secret in (
        b"4242424242424242",
        b"4000000000000002",
        b"4242424242424241",
        b"737",
        b"424242",
    ):
        assert secret not in kept

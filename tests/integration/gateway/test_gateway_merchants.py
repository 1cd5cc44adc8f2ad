"""What a merchant reads over HTTP when its token lacks a scope or its amount has two readings."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.builders.gateway import World, gateway_world, refused

PAYMENTS = "/api/v1/payments"
ORDER = {"order_id": "2026-1", "currency": "USD"}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with gateway_world(tmp_path) as world:
        yield world


def clerk(world: World, *scopes: str) -> str:
    return world.signed(world.claims(roles=["merchant"], merchant_id="acme", scopes=[*scopes]))


async def test_the_scope_that_a_token_lacks_is_named(world: World) -> None:
    answer = await world.call("POST", PAYMENTS, token=clerk(world, "payments:read"), json=ORDER)
    details = refused(answer, 403, "PERMISSION_DENIED")["details"]
    assert details["explanation"] == "The token lacks the scope payments:write."
    assert details["metadata"] == {"missing_scope": "payments:write"}
    assert details["outcome"] == "NOT_ATTEMPTED"
    assert world.shop.requests == []


async def test_a_right_to_write_reads_too(world: World) -> None:
    for scope in ("payments:read", "payments:write"):
        answer = await world.call("GET", f"{PAYMENTS}/PAY1", token=clerk(world, scope))
        assert answer.status_code == 200


@pytest.mark.parametrize(
    ("language", "words"),
    [
        (
            "en",
            '10000 could be 10000.00 or 100.00 USD: send "amount":"100.00" or "amount_minor":10000',
        ),
        (
            "zh",
            '10000 可能表示 10000.00 或 100.00 USD，请改传 "amount":"100.00" 或 "amount_minor":10000',
        ),
    ],
)
async def test_both_readings_of_a_bare_integer_are_told(
    world: World, language: str, words: str
) -> None:
    answer = await world.call(
        "POST",
        PAYMENTS,
        token=clerk(world, "payments:write"),
        json={**ORDER, "amount": 10000},
        headers={"accept-language": language},
    )
    details = refused(answer, 400, "MALFORMED_BODY", "amount")["details"]
    assert details["fields"] == [{"field": "amount", "description": words}]
    assert world.shop.requests == []


@pytest.mark.parametrize("path", ["/api/v1/payments/PAY1/refunds", "/api/v1/refunds"])
async def test_both_readings_of_a_bare_integer_are_told_for_a_refund(
    world: World, path: str
) -> None:
    answer = await world.call(
        "POST",
        path,
        token=clerk(world, "refunds:write"),
        json={"payment_id": "PAY1", "amount": 10000, "currency": "JPY"},
    )
    details = refused(answer, 400, "MALFORMED_BODY", "amount")["details"]
    assert details["fields"] == [
        {
            "field": "amount",
            "description": "a bare integer could be major or minor units: "
            'send "amount":"10000" or "amount_minor":10000',
        }
    ]
    assert world.shop.requests == []


async def test_text_and_minor_units_are_passed_on(world: World) -> None:
    token = clerk(world, "payments:write")
    for amount in ({"amount": "100.00"}, {"amount_minor": 10000}, {"amountMinor": "10000"}):
        answer = await world.call("POST", PAYMENTS, token=token, json={**ORDER, **amount})
        assert answer.status_code < 300, answer.text
    assert [(request.amount, request.amount_minor) for request in world.shop.requests] == [
        ("100.00", 0),
        ("", 10000),
        ("", 10000),
    ]

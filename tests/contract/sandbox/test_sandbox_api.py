"""The sandbox's own door: the cashier page, the key, malformed requests, the list."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog

from mesh.money import Money
from payment_rpc.channels.sandbox import SandboxChannel
from payment_rpc.domain.facts import ChannelStatus
from tests.support.fakes import FakeClock
from tests.support.sandbox_server import (
    API_KEY,
    PATIENCE,
    PRICE,
    RunningSandbox,
    cashier_url,
    charge,
    checkout,
)

# The cashier page


async def test_a_checkout_waits_for_a_person_who_pays(
    channel: SandboxChannel, person: httpx.AsyncClient, clock: FakeClock
) -> None:
    opened = await checkout(channel, clock)
    assert (opened.status, opened.amount, opened.reason, opened.occurred_at) == (
        ChannelStatus.PENDING,
        PRICE,
        "",
        None,
    )
    assert await checkout(channel, clock) == opened
    assert await channel.query("ATT1", timeout_seconds=PATIENCE) == opened

    page = await person.get(cashier_url(opened))
    assert page.status_code == 200
    for text in (
        "paymesh mall",
        "99.99 CNY",
        "<dt>Order</dt><dd>ORD1</dd>",
        "Pay 99.99 CNY",
        ">Fail<",
    ):
        assert text in page.text
    assert "<script" not in page.text

    clock.advance(7)
    paid = await person.post(f"{page.url}/pay")
    # back on the page, so that reloading presses nothing
    assert str(paid.url) == cashier_url(opened)
    assert "Paid. Thank you." in paid.text
    assert '<a href="http://shop.test/done"' in paid.text
    assert "<form" not in paid.text
    fact = await channel.query("ATT1", timeout_seconds=PATIENCE)
    assert (fact.status, fact.amount, fact.trade_no, fact.occurred_at) == (
        ChannelStatus.CAPTURED,
        PRICE,
        opened.trade_no,
        clock.now(),
    )
    assert fact.next_action is None


async def test_a_person_who_fails_declines_and_cannot_pay_afterwards(
    channel: SandboxChannel, person: httpx.AsyncClient, clock: FakeClock
) -> None:
    url = cashier_url(await checkout(channel, clock))
    assert "The payment failed" in (await person.post(f"{url}/fail")).text
    assert "The payment failed" in (await person.post(f"{url}/pay")).text
    fact = await channel.query("ATT1", timeout_seconds=PATIENCE)
    assert (fact.status, fact.reason) == (ChannelStatus.DECLINED, "CARD_DECLINED")


async def test_an_expired_page_says_so_and_takes_no_money(
    channel: SandboxChannel, person: httpx.AsyncClient, clock: FakeClock
) -> None:
    url = cashier_url(await checkout(channel, clock, lives_seconds=60))
    clock.advance(59)
    assert "<form" in (await person.get(url)).text
    clock.advance(1)
    assert "has expired" in (await person.post(f"{url}/pay")).text
    fact = await channel.query("ATT1", timeout_seconds=PATIENCE)
    assert (fact.status, fact.reason) == (ChannelStatus.CLOSED, "PAYMENT_CLOSED")


async def test_the_cashier_page_escapes_what_came_from_outside(
    channel: SandboxChannel, person: httpx.AsyncClient, clock: FakeClock
) -> None:
    evil = "<script>alert(1)</script>\"'$title {amount}"
    url = cashier_url(
        await checkout(
            channel, clock, subject=evil, return_url="http://shop.test/?a=1&b='\"><script>"
        )
    )
    for page in (await person.get(url), await person.post(f"{url}/pay")):
        assert "<script" not in page.text
        assert "&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#x27;$title {amount}" in page.text
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe-inline" not in policy
        assert page.headers["cache-control"] == "no-store"
        assert page.headers["referrer-policy"] == "no-referrer"


async def test_the_policy_allows_exactly_the_style_of_the_page(
    channel: SandboxChannel, person: httpx.AsyncClient, clock: FakeClock
) -> None:
    import base64
    import hashlib
    import re

    page = await person.get(cashier_url(await checkout(channel, clock)))
    styles = re.findall(r"<style>(.*?)</style>", page.text, re.DOTALL)
    assert [
        f"'sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}'"
        for style in styles
    ] == [re.search(r"style-src ([^;]+);", page.headers["content-security-policy"])[1]]  # type: ignore[index]


@pytest.mark.parametrize(
    "return_url",
    ["javascript:alert(1)", "data:text/html,x", "//evil.test", "http://a b", "ftp://x"],
)
async def test_a_return_url_is_a_web_address_or_nothing_is_opened(
    channel: SandboxChannel, clock: FakeClock, return_url: str
) -> None:
    assert (await checkout(channel, clock, return_url=return_url)).status is ChannelStatus.NOT_SENT
    assert (await channel.query("ATT1", timeout_seconds=PATIENCE)).status is ChannelStatus.NOT_FOUND


@pytest.mark.parametrize(
    "texts", [{"merchant_name": "m" * 101}, {"description": "d" * 501}, {"merchant_name": 1}]
)
async def test_a_name_or_description_that_is_too_long_opens_nothing(
    channel: SandboxChannel, clock: FakeClock, texts: dict[str, Any]
) -> None:
    assert (await checkout(channel, clock, **texts)).status is ChannelStatus.NOT_SENT
    assert (await channel.query("ATT1", timeout_seconds=PATIENCE)).status is ChannelStatus.NOT_FOUND


async def test_the_cashier_page_says_who_is_paid_and_what_for(
    channel: SandboxChannel, person: httpx.AsyncClient, clock: FakeClock
) -> None:
    opened = await checkout(
        channel, clock, merchant_name="北京 Lamps & Co", description="Two lamps, one <small>"
    )
    page = (await person.get(cashier_url(opened))).text
    assert "北京 Lamps &amp; Co" in page
    assert "Two lamps, one &lt;small&gt;" in page
    assert "paymesh mall" not in page


async def test_an_address_that_was_never_given_out_shows_no_payment(
    running: RunningSandbox, person: httpx.AsyncClient
) -> None:
    for answer in (
        await person.get(f"{running.base_url}/cashier/guess"),
        await person.post(f"{running.base_url}/cashier/guess/pay"),
    ):
        assert answer.status_code == 404
        assert "There is no such payment" in answer.text


# The door


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
    headers = {} if authorization is None else {"authorization": authorization.encode()}
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

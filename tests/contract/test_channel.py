"""The channel contract: payment_rpc's adapter against the real sandbox over a real socket, and against servers that misbehave."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog

from mesh.errors import InvalidArgument, PermissionDenied
from mesh.money import Money
from payment_rpc.channels import Channel, ChannelFact, ChannelStatus
from payment_rpc.channels.sandbox import SandboxChannel
from payment_rpc.domain.card import Card
from payment_rpc.domain.errors import ChannelUnavailable, PaymentNotFound, PaymentStateInvalid, SignatureInvalid
from sandbox.cards import SLOW_CARD
from sandbox.signatures import sign_callback
from tests.fakes import FakeClock
from tests.processes import Processes, free_port
from tests.sandbox_server import API_KEY, CALLBACK_SECRET, RunningSandbox, ShiftedIds, running_sandbox

PRICE = Money(9999, "CNY")
PATIENCE = 5.0
VECTOR = {"payment_id": "PAY202401011234567890", "timestamp": "1704067200000", "nonce": "abc123"}


def card(number: str = "4242424242424242") -> Card:
    return Card(number=number, cvv="737", expiration_year=2031, expiration_month=8)


async def charge(channel: Channel, attempt_id: str = "ATT1", number: str = "4242424242424242", *, amount: Money = PRICE,
                 timeout_seconds: float = PATIENCE, expires_at: Any = None) -> ChannelFact:
    return await channel.charge(attempt_id=attempt_id, amount=amount, card=card(number), expires_at=expires_at, timeout_seconds=timeout_seconds)


async def checkout(channel: Channel, clock: FakeClock, attempt_id: str = "ATT1", *, amount: Money = PRICE, subject: str = "Order ORD1",
                   return_url: str = "http://shop.test/done", lives_seconds: float = 1800) -> ChannelFact:
    return await channel.checkout(attempt_id=attempt_id, amount=amount, subject=subject, return_url=return_url, timeout_seconds=PATIENCE,
                                  expires_at=clock.now() + timedelta(seconds=lives_seconds))


def cashier_url(fact: ChannelFact) -> str:
    assert fact.next_action is not None
    assert fact.next_action.kind == "REDIRECT_URL"
    return fact.next_action.value


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def running(tmp_path: Path, clock: FakeClock) -> AsyncIterator[RunningSandbox]:
    async with running_sandbox(tmp_path, clock=clock) as server:
        yield server


@pytest.fixture
async def channel(running: RunningSandbox) -> AsyncIterator[SandboxChannel]:
    adapter = running.channel()
    yield adapter
    await adapter.aclose()


@pytest.fixture
async def person(running: RunningSandbox) -> AsyncIterator[httpx.AsyncClient]:
    """A buyer's browser."""
    async with httpx.AsyncClient(trust_env=False, follow_redirects=True, timeout=PATIENCE) as client:
        yield client


async def listed(running: RunningSandbox, *, after: int = 0, limit: int = 100) -> dict[str, Any]:
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"{running.base_url}/v1/transactions", params={"after": after, "limit": limit},
                                  headers={"authorization": f"Bearer {API_KEY}"})
    assert answer.status_code == 200
    page: dict[str, Any] = answer.json()
    return page


# Charges


async def test_a_good_card_captures_the_amount(channel: SandboxChannel, clock: FakeClock) -> None:
    fact = await charge(channel)
    assert fact == ChannelFact(attempt_id="ATT1", status=ChannelStatus.CAPTURED, amount=PRICE, trade_no=fact.trade_no, message="captured",
                               occurred_at=clock.now())
    assert fact.trade_no.startswith("SBX")
    assert len(fact.trade_no) <= 32
    assert await channel.query("ATT1", timeout_seconds=PATIENCE) == fact


@pytest.mark.parametrize(("number", "status", "reason"), [
    ("4000000000000002", ChannelStatus.DECLINED, "CARD_DECLINED"),
    ("4000000000009995", ChannelStatus.DECLINED, "INSUFFICIENT_FUNDS"),
    ("4000000000000069", ChannelStatus.DECLINED, "CARD_DECLINED"),
    ("4000000000000127", ChannelStatus.DECLINED, "CARD_DECLINED"),
    ("4242424242424241", ChannelStatus.DECLINED, "CARD_DECLINED"),
    ("4000000000000119", ChannelStatus.FAILED, "CHANNEL_FAILED"),
])
async def test_a_bad_card_moves_nothing_and_says_why(channel: SandboxChannel, number: str, status: ChannelStatus, reason: str) -> None:
    fact = await charge(channel, number=number)
    assert (fact.status, fact.reason, fact.amount) == (status, reason, PRICE)
    assert fact.message
    assert await channel.query("ATT1", timeout_seconds=PATIENCE) == fact


@pytest.mark.parametrize("amount", [Money(1, "JPY"), Money(12345, "KWD"), Money(10**15 - 1, "CNY")])
async def test_amounts_survive_the_wire_in_every_exponent(channel: SandboxChannel, amount: Money) -> None:
    assert (await charge(channel, amount=amount)).amount == amount


async def test_the_same_attempt_again_gives_the_first_answer_whatever_the_card(channel: SandboxChannel, running: RunningSandbox) -> None:
    first = await charge(channel)
    assert await charge(channel) == first
    assert await charge(channel, number="4000000000000002") == first
    assert len((await listed(running))["transactions"]) == 1


async def test_fifty_equal_charges_at_once_capture_once(channel: SandboxChannel, running: RunningSandbox) -> None:
    facts = await asyncio.gather(*(charge(channel) for _ in range(50)))
    assert len(set(facts)) == 1
    assert [row["status"] for row in (await listed(running))["transactions"]] == ["CAPTURED"]


@pytest.mark.parametrize("amount", [Money(9998, "CNY"), Money(9999, "USD")])
async def test_the_same_attempt_with_another_amount_is_unknown_and_changes_nothing(channel: SandboxChannel, amount: Money) -> None:
    first = await charge(channel)
    assert (await charge(channel, amount=amount)).status is ChannelStatus.UNKNOWN
    assert await channel.query("ATT1", timeout_seconds=PATIENCE) == first


async def test_a_charge_after_its_deadline_never_captures(channel: SandboxChannel, clock: FakeClock) -> None:
    fact = await charge(channel, expires_at=clock.now())
    assert (fact.status, fact.reason) == (ChannelStatus.CLOSED, "PAYMENT_CLOSED")


async def test_the_slow_card_has_captured_before_its_answer_comes(tmp_path: Path, clock: FakeClock) -> None:
    asked: list[float] = []
    released = asyncio.Event()

    async def sleep(seconds: float) -> None:
        asked.append(seconds)
        await released.wait()

    async with running_sandbox(tmp_path, clock=clock, sleep=sleep, slow_seconds=15) as running:
        channel = running.channel()
        fact = await charge(channel, number=SLOW_CARD, timeout_seconds=0.3)
        assert (fact.status, fact.amount, asked) == (ChannelStatus.UNKNOWN, None, [15])
        known = await channel.query("ATT1", timeout_seconds=PATIENCE)
        assert (known.status, known.amount) == (ChannelStatus.CAPTURED, PRICE)
        assert await charge(channel, number=SLOW_CARD) == known  # a repetition is not slow
        released.set()
        await channel.aclose()


async def test_an_id_that_the_channel_never_saw_is_not_found(channel: SandboxChannel) -> None:
    assert await channel.query("ATT1", timeout_seconds=PATIENCE) == ChannelFact(attempt_id="ATT1", status=ChannelStatus.NOT_FOUND)


# Closing


@pytest.mark.parametrize("is_checkout", [False, True])
async def test_a_tombstone_keeps_a_late_request_from_capturing(channel: SandboxChannel, running: RunningSandbox, clock: FakeClock,
                                                              is_checkout: bool) -> None:
    closed = await channel.close("ATT1", timeout_seconds=PATIENCE)
    assert (closed.status, closed.reason, closed.amount) == (ChannelStatus.CLOSED, "PAYMENT_CLOSED", None)
    late = await (checkout(channel, clock) if is_checkout else charge(channel))
    assert late == closed
    assert late.next_action is None
    assert await channel.query("ATT1", timeout_seconds=PATIENCE) == closed
    assert await channel.close("ATT1", timeout_seconds=PATIENCE) == closed
    assert [row["status"] for row in (await listed(running))["transactions"]] == ["CLOSED"]


@pytest.mark.parametrize("number", ["4242424242424242", "4000000000000002", "4000000000000119"])
async def test_closing_what_ended_before_tells_how_it_ended(channel: SandboxChannel, number: str) -> None:
    ended = await charge(channel, number=number)
    assert await channel.close("ATT1", timeout_seconds=PATIENCE) == ended


async def test_a_closed_checkout_cannot_be_paid(channel: SandboxChannel, person: httpx.AsyncClient, clock: FakeClock) -> None:
    url = cashier_url(await checkout(channel, clock))
    assert (await channel.close("ATT1", timeout_seconds=PATIENCE)).status is ChannelStatus.CLOSED
    assert "The shop closed this payment" in (await person.post(f"{url}/pay")).text
    assert (await channel.query("ATT1", timeout_seconds=PATIENCE)).status is ChannelStatus.CLOSED


async def test_pay_and_close_at_once_agree_on_one_end(channel: SandboxChannel, person: httpx.AsyncClient, clock: FakeClock) -> None:
    for number in range(20):
        attempt_id = f"ATT{number}"
        url = cashier_url(await checkout(channel, clock, attempt_id))
        closing, _ = await asyncio.gather(channel.close(attempt_id, timeout_seconds=PATIENCE), person.post(f"{url}/pay"))
        assert await channel.query(attempt_id, timeout_seconds=PATIENCE) == closing
        assert closing.status in {ChannelStatus.CLOSED, ChannelStatus.CAPTURED}


# Checkouts and the cashier page


async def test_a_checkout_waits_for_a_person_who_pays(channel: SandboxChannel, person: httpx.AsyncClient, clock: FakeClock) -> None:
    opened = await checkout(channel, clock)
    assert (opened.status, opened.amount, opened.reason, opened.occurred_at) == (ChannelStatus.PENDING, PRICE, "", None)
    assert await checkout(channel, clock) == opened
    assert await channel.query("ATT1", timeout_seconds=PATIENCE) == opened

    page = await person.get(cashier_url(opened))
    assert page.status_code == 200
    for text in ("paymesh mall", "99.99 CNY", "Order ORD1", "Pay 99.99 CNY", ">Fail<"):
        assert text in page.text
    assert "<script" not in page.text

    clock.advance(7)
    paid = await person.post(f"{page.url}/pay")
    assert str(paid.url) == cashier_url(opened)  # back on the page, so that reloading presses nothing
    assert "Paid. Thank you." in paid.text
    assert '<a href="http://shop.test/done"' in paid.text
    assert "<form" not in paid.text
    fact = await channel.query("ATT1", timeout_seconds=PATIENCE)
    assert (fact.status, fact.amount, fact.trade_no, fact.occurred_at) == (ChannelStatus.CAPTURED, PRICE, opened.trade_no, clock.now())
    assert fact.next_action is None


async def test_a_person_who_fails_declines_and_cannot_pay_afterwards(channel: SandboxChannel, person: httpx.AsyncClient, clock: FakeClock) -> None:
    url = cashier_url(await checkout(channel, clock))
    assert "The payment failed" in (await person.post(f"{url}/fail")).text
    assert "The payment failed" in (await person.post(f"{url}/pay")).text
    fact = await channel.query("ATT1", timeout_seconds=PATIENCE)
    assert (fact.status, fact.reason) == (ChannelStatus.DECLINED, "CARD_DECLINED")


async def test_an_expired_page_says_so_and_takes_no_money(channel: SandboxChannel, person: httpx.AsyncClient, clock: FakeClock) -> None:
    url = cashier_url(await checkout(channel, clock, lives_seconds=60))
    clock.advance(59)
    assert "<form" in (await person.get(url)).text
    clock.advance(1)
    assert "has expired" in (await person.post(f"{url}/pay")).text
    fact = await channel.query("ATT1", timeout_seconds=PATIENCE)
    assert (fact.status, fact.reason) == (ChannelStatus.CLOSED, "PAYMENT_CLOSED")


async def test_the_cashier_page_escapes_what_came_from_outside(channel: SandboxChannel, person: httpx.AsyncClient, clock: FakeClock) -> None:
    evil = '<script>alert(1)</script>"\'$title {amount}'
    url = cashier_url(await checkout(channel, clock, subject=evil, return_url="http://shop.test/?a=1&b='\"><script>"))
    for page in (await person.get(url), await person.post(f"{url}/pay")):
        assert "<script" not in page.text
        assert "&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#x27;$title {amount}" in page.text
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe-inline" not in policy
        assert page.headers["cache-control"] == "no-store"
        assert page.headers["referrer-policy"] == "no-referrer"


async def test_the_policy_allows_exactly_the_style_that_the_page_carries(channel: SandboxChannel, person: httpx.AsyncClient, clock: FakeClock) -> None:
    import base64
    import hashlib
    import re

    page = await person.get(cashier_url(await checkout(channel, clock)))
    styles = re.findall(r"<style>(.*?)</style>", page.text, re.DOTALL)
    assert [f"'sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}'" for style in styles] == [
        re.search(r"style-src ([^;]+);", page.headers["content-security-policy"])[1]]  # type: ignore[index]


@pytest.mark.parametrize("return_url", ["javascript:alert(1)", "data:text/html,x", "//evil.test", "http://a b", "ftp://x"])
async def test_a_return_url_is_a_web_address_or_nothing_is_opened(channel: SandboxChannel, clock: FakeClock, return_url: str) -> None:
    assert (await checkout(channel, clock, return_url=return_url)).status is ChannelStatus.NOT_SENT
    assert (await channel.query("ATT1", timeout_seconds=PATIENCE)).status is ChannelStatus.NOT_FOUND


async def test_an_address_that_was_never_given_out_shows_no_payment(running: RunningSandbox, person: httpx.AsyncClient) -> None:
    for answer in (await person.get(f"{running.base_url}/cashier/guess"), await person.post(f"{running.base_url}/cashier/guess/pay")):
        assert answer.status_code == 404
        assert "There is no such payment" in answer.text


# The door


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer wrong", f"Bearer {API_KEY}x", f"bearer {API_KEY}", API_KEY, "Bearer ü"])
async def test_nobody_gets_in_without_the_key(running: RunningSandbox, authorization: str | None) -> None:
    headers = {} if authorization is None else {"authorization": authorization.encode()}
    async with httpx.AsyncClient(base_url=running.base_url, trust_env=False) as client:
        for method, path in (("POST", "/v1/charges"), ("POST", "/v1/checkouts"), ("GET", "/v1/transactions"), ("GET", "/v1/transactions/ATT1"),
                             ("POST", "/v1/transactions/ATT1/close"), ("POST", "/v1/transactions/ATT1/signature")):
            answer = await client.request(method, path, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")
    assert (await listed(running))["transactions"] == []


async def test_with_a_wrong_key_the_adapter_knows_that_nothing_was_charged(running: RunningSandbox) -> None:
    stranger = running.channel(api_key="another-key-another-key-another-key")
    try:
        fact = await charge(stranger)
        assert (fact.status, fact.reason) == (ChannelStatus.NOT_SENT, "CHANNEL_UNAVAILABLE")
        assert (await stranger.query("ATT1", timeout_seconds=PATIENCE)).status is ChannelStatus.UNKNOWN
        assert (await stranger.close("ATT1", timeout_seconds=PATIENCE)).status is ChannelStatus.UNKNOWN
    finally:
        await stranger.aclose()


GOOD_CARD = {"number": "4242424242424242", "cvv": "123", "expiration_year": 2030, "expiration_month": 12}
GOOD_CHARGE = {"attempt_id": "ATT1", "amount": "99.99", "currency": "CNY", "card": GOOD_CARD}


@pytest.mark.parametrize("body", [
    b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 10_000,
    *(json.dumps({**GOOD_CHARGE, **change}).encode() for change in (
        {"amount": 99.99}, {"amount": "0"}, {"amount": "-1"}, {"amount": "1e3"}, {"amount": "99.999"}, {"amount": "NaN"}, {"amount": ""},
        {"amount": "1" * 16}, {"currency": "XXX"}, {"currency": "cny"}, {"currency": None}, {"attempt_id": ""}, {"attempt_id": "a/b"},
        {"attempt_id": "ATT1\n"}, {"attempt_id": "A" * 65}, {"extra": 1}, {"expires_at": "2026-11-20T12:00:00"}, {"card": None},
        {"card": {**GOOD_CARD, "number": "4242-4242"}}, {"card": {**GOOD_CARD, "cvv": "12"}}, {"card": {**GOOD_CARD, "expiration_month": 13}},
    )),
])
async def test_a_malformed_charge_is_refused_and_recorded_nowhere(running: RunningSandbox, body: bytes) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.post(f"{running.base_url}/v1/charges", content=body, headers={"authorization": f"Bearer {API_KEY}"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
    assert "4242" not in answer.text
    assert (await listed(running))["transactions"] == []


async def test_a_body_that_is_too_large_is_refused(running: RunningSandbox) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.post(f"{running.base_url}/v1/charges", content=b" " * 20_000, headers={"authorization": f"Bearer {API_KEY}"})
    assert answer.status_code == 413


async def test_the_list_counts_captures_page_by_page_newest_last(channel: SandboxChannel, running: RunningSandbox) -> None:
    for number in range(5):
        await charge(channel, f"ATT{number}", "4242424242424242" if number % 2 == 0 else "4000000000000002")
    first = await listed(running, limit=3)
    second = await listed(running, after=first["next_after"], limit=3)
    assert (await listed(running, after=second["next_after"]))["next_after"] is None
    rows = first["transactions"] + second["transactions"]
    assert [row["attempt_id"] for row in rows] == [f"ATT{number}" for number in range(5)]
    assert [row["status"] == "CAPTURED" for row in rows] == [True, False, True, False, True]
    assert rows[0]["card"] == {"brand": "visa", "last4": "4242"}


@pytest.mark.parametrize("query", ["limit=-1", "limit=x", "after=1e9", "limit=" + "9" * 30])
async def test_the_list_takes_whole_numbers_only(running: RunningSandbox, query: str) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"{running.base_url}/v1/transactions?{query}", headers={"authorization": f"Bearer {API_KEY}"})
    assert answer.status_code == 400


async def test_health_is_open(running: RunningSandbox) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.get(f"{running.base_url}/healthz")).json() == {"status": "ok"}


async def test_card_numbers_and_codes_are_kept_nowhere(channel: SandboxChannel, tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as lines:
        for attempt, number in enumerate(("4242424242424242", "4000000000000002", "4242424242424241")):
            await charge(channel, f"ATT{attempt}", number)
        await charge(channel, "ATT0", amount=Money(1, "CNY"))
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir()) + repr(lines).encode()
    assert b"ATT2" in kept  # we look in the right place
    for secret in (b"4242424242424242", b"4000000000000002", b"4242424242424241", b"737", b"424242"):
        assert secret not in kept


# Signatures on request, and the hint of source 001


@pytest.mark.parametrize(("callback_status", "signature", "status"), [
    ("SUCCESS", "3B69D03EC12E2DE9C77777CC45944C50", ChannelStatus.CAPTURED),
    ("FAILED", "CA819D5163EBF2441482804A39F7B642", ChannelStatus.DECLINED),
])
async def test_asking_for_a_signature_makes_the_outcome_true(channel: SandboxChannel, clock: FakeClock, callback_status: str, signature: str,
                                                             status: ChannelStatus) -> None:
    await checkout(channel, clock)
    for _ in range(2):  # asking twice is asking once
        assert await channel.sign(attempt_id="ATT1", callback_status=callback_status, timeout_seconds=PATIENCE, **VECTOR) == signature
    assert (await channel.query("ATT1", timeout_seconds=PATIENCE)).status is status
    channel.verify_hint(callback_status=callback_status, signature=signature, **VECTOR)
    other = "FAILED" if callback_status == "SUCCESS" else "SUCCESS"
    with pytest.raises(PaymentStateInvalid):
        await channel.sign(attempt_id="ATT1", callback_status=other, timeout_seconds=PATIENCE, **VECTOR)
    assert (await channel.query("ATT1", timeout_seconds=PATIENCE)).status is status


@pytest.mark.parametrize(("number", "signed", "refused"), [
    ("4242424242424242", "SUCCESS", "FAILED"), ("4000000000000002", "FAILED", "SUCCESS"), ("4000000000000119", "FAILED", "SUCCESS"),
])
async def test_what_ended_before_is_signed_as_it_ended_only(channel: SandboxChannel, number: str, signed: str, refused: str) -> None:
    ended = await charge(channel, number=number)
    await channel.sign(attempt_id="ATT1", callback_status=signed, timeout_seconds=PATIENCE, **VECTOR)
    with pytest.raises(PaymentStateInvalid):
        await channel.sign(attempt_id="ATT1", callback_status=refused, timeout_seconds=PATIENCE, **VECTOR)
    assert await channel.query("ATT1", timeout_seconds=PATIENCE) == ended


async def test_a_tombstone_is_signed_neither_way(channel: SandboxChannel) -> None:
    await channel.close("ATT1", timeout_seconds=PATIENCE)
    for callback_status in ("SUCCESS", "FAILED"):
        with pytest.raises(PaymentStateInvalid):
            await channel.sign(attempt_id="ATT1", callback_status=callback_status, timeout_seconds=PATIENCE, **VECTOR)


async def test_nothing_is_signed_for_an_unknown_attempt_or_a_malformed_request(channel: SandboxChannel, clock: FakeClock) -> None:
    with pytest.raises(PaymentNotFound):
        await channel.sign(attempt_id="ATT1", callback_status="SUCCESS", timeout_seconds=PATIENCE, **VECTOR)
    await checkout(channel, clock)
    for changes in ({"callback_status": "SUCCESSa"}, {"timestamp": "170406720000"}, {"nonce": "0abc123"}, {"payment_id": "a b"}):
        with pytest.raises(ChannelUnavailable):
            await channel.sign(attempt_id="ATT1", timeout_seconds=PATIENCE, **{"callback_status": "SUCCESS", **VECTOR, **changes})
    assert (await channel.query("ATT1", timeout_seconds=PATIENCE)).status is ChannelStatus.PENDING


async def test_signatures_on_request_can_be_switched_off(tmp_path: Path, clock: FakeClock) -> None:
    async with running_sandbox(tmp_path, clock=clock, allow_signatures=False) as running:
        channel = running.channel()
        await checkout(channel, clock)
        with pytest.raises(PermissionDenied):
            await channel.sign(attempt_id="ATT1", callback_status="SUCCESS", timeout_seconds=PATIENCE, **VECTOR)
        assert (await channel.query("ATT1", timeout_seconds=PATIENCE)).status is ChannelStatus.PENDING
        await channel.aclose()


@pytest.fixture
def adapter() -> SandboxChannel:
    """An adapter that calls nobody."""
    return SandboxChannel(base_url="http://127.0.0.1:1", api_key=API_KEY, callback_secret=CALLBACK_SECRET)


def test_the_shift_attack_has_the_same_digest_and_is_refused(adapter: SandboxChannel) -> None:
    signature = "3B69D03EC12E2DE9C77777CC45944C50"  # of SUCCESS + abc123, and of everything that runs together to the same text
    adapter.verify_hint(callback_status="SUCCESS", signature=signature, **VECTOR)
    for changes in ({"callback_status": "SUCCESSa", "nonce": "bc123"}, {"timestamp": "170406720000", "nonce": "abc123"},
                    {"callback_status": "SUCCES", "nonce": "Sabc123"}, {"nonce": "abc123P", "payment_id": "AY2024010112345678901"},
                    {"nonce": "", "callback_status": "SUCCESSabc123"}):
        with pytest.raises(SignatureInvalid):
            adapter.verify_hint(signature=signature, **{**VECTOR, "callback_status": "SUCCESS", **changes})


@pytest.mark.parametrize("signature", ["", "3b69d03ec12e2de9c77777cc45944c50", "CA819D5163EBF2441482804A39F7B642", "3B69", "Ü", "\ud800"])
def test_a_wrong_hint_signature_is_refused(adapter: SandboxChannel, signature: str) -> None:
    with pytest.raises(SignatureInvalid):
        adapter.verify_hint(callback_status="SUCCESS", signature=signature, **VECTOR)


# Callbacks


class Receiver:
    """The shop's callback address: keeps what came, answers what it is told to."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.url = ""

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers["content-length"]))
        self.requests.append((headers, body))
        writer.write(self.answers.pop(0) if self.answers else http_answer(b"success"))
        await writer.drain()
        writer.close()

    def bodies(self) -> list[bytes]:
        return [body for _, body in self.requests]


def http_answer(body: bytes, *, status: str = "200 OK", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n{headers}\r\n".encode() + body


@asynccontextmanager
async def raw_server(handler: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[str]:
    """A TCP server of a few lines on a free port; its address as a base URL."""
    tasks: set[asyncio.Task[None]] = set()

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(run, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    shop = Receiver()
    async with raw_server(shop.take) as base_url:
        shop.url = f"{base_url}/api/v1/callbacks/sandbox"
        yield shop


def verified(channel: SandboxChannel, request: tuple[dict[str, str], bytes], clock: FakeClock) -> ChannelFact:
    headers, body = request
    return channel.verify_callback(body=body, timestamp=headers["x-channel-timestamp"], signature=headers["x-channel-signature"], now=clock.now())


@pytest.mark.parametrize("number", ["4242424242424242", "4000000000009995", "4000000000000119"])
async def test_a_callback_tells_the_same_fact_as_the_answer(tmp_path: Path, clock: FakeClock, receiver: Receiver, number: str) -> None:
    async with running_sandbox(tmp_path, clock=clock, callback_url=receiver.url) as running:
        channel = running.channel()
        answered = await charge(channel, number=number)
        assert await running.sandbox.run_once() == 1
        assert await running.sandbox.run_once() == 0  # taken: never again
        assert [verified(channel, request, clock) for request in receiver.requests] == [answered]
        await channel.aclose()


@pytest.mark.parametrize(("button", "status"), [("pay", ChannelStatus.CAPTURED), ("fail", ChannelStatus.DECLINED)])
async def test_a_checkout_calls_back_once_when_the_person_has_decided(tmp_path: Path, clock: FakeClock, receiver: Receiver, button: str,
                                                                      status: ChannelStatus) -> None:
    async with running_sandbox(tmp_path, clock=clock, callback_url=receiver.url) as running, httpx.AsyncClient(trust_env=False) as person:
        channel = running.channel()
        url = cashier_url(await checkout(channel, clock))
        assert await running.sandbox.run_once() == 0
        for _ in range(3):
            await person.post(f"{url}/{button}")
        assert await running.sandbox.run_once() == 1
        assert [verified(channel, request, clock).status for request in receiver.requests] == [status]
        await channel.aclose()


async def test_an_expired_checkout_is_closed_and_told_without_anybody_asking(tmp_path: Path, clock: FakeClock, receiver: Receiver) -> None:
    async with running_sandbox(tmp_path, clock=clock, callback_url=receiver.url) as running:
        channel = running.channel()
        await checkout(channel, clock, lives_seconds=60)
        clock.advance(60)
        assert await running.sandbox.run_once() == 2  # closed, and told
        assert [verified(channel, request, clock).status for request in receiver.requests] == [ChannelStatus.CLOSED]
        await channel.aclose()


async def test_closing_calls_nobody_back(tmp_path: Path, clock: FakeClock, receiver: Receiver) -> None:
    async with running_sandbox(tmp_path, clock=clock, callback_url=receiver.url) as running:
        channel = running.channel()
        await checkout(channel, clock)
        await channel.close("ATT1", timeout_seconds=PATIENCE)
        await channel.close("ATT2", timeout_seconds=PATIENCE)
        assert await running.sandbox.run_once() == 0
        await channel.aclose()


async def test_a_signed_outcome_leaves_the_hint_the_first_word(tmp_path: Path, clock: FakeClock, receiver: Receiver) -> None:
    async with running_sandbox(tmp_path, clock=clock, callback_url=receiver.url, signed_callback_delay_seconds=60) as running:
        channel = running.channel()
        await checkout(channel, clock)
        await channel.sign(attempt_id="ATT1", callback_status="SUCCESS", timeout_seconds=PATIENCE, **VECTOR)
        assert await running.sandbox.run_once() == 0
        clock.advance(60)
        assert await running.sandbox.run_once() == 1
        await channel.aclose()


@pytest.mark.parametrize("refusal", [
    http_answer(b"SUCCESS"), http_answer(b"success\n"), http_answer(b""), http_answer(b'{"code":"00000"}'), http_answer(b"success", status="202 Accepted"),
    http_answer(b"success", status="500 Internal Server Error"), http_answer(b"success", status="302 Found", headers="location: /elsewhere\r\n"),
    b"garbage\r\n\r\n", b"",
])
async def test_only_success_ends_a_callback(tmp_path: Path, clock: FakeClock, receiver: Receiver, refusal: bytes) -> None:
    receiver.answers = [refusal]
    async with running_sandbox(tmp_path, clock=clock, callback_url=receiver.url, callback_retry_seconds=(1,)) as running:
        channel = running.channel()
        await charge(channel)
        assert await running.sandbox.run_once() == 1
        assert len(receiver.requests) == 1  # a redirect is not followed
        clock.advance(1)
        assert await running.sandbox.run_once() == 1
        assert await running.sandbox.run_once() == 0
        await channel.aclose()


async def test_callbacks_are_repeated_on_schedule_with_the_same_bytes_and_fresh_signatures(tmp_path: Path, clock: FakeClock,
                                                                                           receiver: Receiver) -> None:
    receiver.answers = [http_answer(b"busy", status="503 Service Unavailable")] * 9
    async with running_sandbox(tmp_path, clock=clock, callback_url=receiver.url, callback_retry_seconds=(1, 5, 600)) as running:
        channel = running.channel()
        answered = await charge(channel)
        assert await running.sandbox.run_once() == 1
        for pause in (1, 5, 600):
            clock.advance(pause - 0.001)
            assert await running.sandbox.run_once() == 0
            clock.advance(0.001)
            assert await running.sandbox.run_once() == 1
            assert verified(channel, receiver.requests[-1], clock) == answered  # 10 minutes later: fresh again
        clock.advance(10**6)
        assert await running.sandbox.run_once() == 0  # given up
        assert len(receiver.requests) == 4
        assert len(set(receiver.bodies())) == 1
        await channel.aclose()


async def test_one_receiver_that_hangs_costs_three_seconds_of_nobody_else(tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.deliveries.SEND_TIMEOUT_SECONDS", 0.2)
    hanging = asyncio.Event()
    came: list[bytes] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(await reader.readuntil(b"\r\n\r\n"))
        if len(came) == 1:
            await hanging.wait()
        writer.write(http_answer(b"success"))
        await writer.drain()

    async with raw_server(take) as url, running_sandbox(tmp_path, clock=clock, callback_url=url, callback_retry_seconds=(1,)) as running:
        channel = running.channel()
        await charge(channel, "ATT1")
        await charge(channel, "ATT2")
        assert await running.sandbox.run_once() == 2
        clock.advance(1)
        assert await running.sandbox.run_once() == 1  # only the one that hung
        await channel.aclose()


async def test_a_callback_wakes_the_worker_at_once(tmp_path: Path, clock: FakeClock, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.service.IDLE_SECONDS", 1000)
    taken = asyncio.Event()
    take = receiver.take

    async def take_and_tell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take(reader, writer)
        taken.set()

    async with raw_server(take_and_tell) as url, running_sandbox(tmp_path, clock=clock, callback_url=url) as running:
        background = asyncio.create_task(running.sandbox.run())
        channel = running.channel()
        await charge(channel)
        await asyncio.wait_for(taken.wait(), PATIENCE)
        background.cancel()
        await asyncio.gather(background, return_exceptions=True)
        await channel.aclose()


async def test_a_restart_keeps_the_truth_and_the_callbacks_that_are_owed(tmp_path: Path, clock: FakeClock, receiver: Receiver) -> None:
    receiver.answers = [http_answer(b"no", status="500 Internal Server Error")]
    async with running_sandbox(tmp_path, clock=clock, callback_url=receiver.url) as running:
        channel = running.channel()
        paid = await charge(channel, "ATT1")
        await running.sandbox.run_once()
        declined = await charge(channel, "ATT2", "4000000000000002")
        opened = await checkout(channel, clock, "ATT3")
        await channel.close("ATT4", timeout_seconds=PATIENCE)
        await channel.aclose()
    clock.advance(1)
    async with running_sandbox(tmp_path, clock=clock, callback_url=receiver.url, ids=ShiftedIds(1000)) as running:
        channel = running.channel()
        assert [await charge(channel, "ATT1"), await charge(channel, "ATT2", "4000000000000002")] == [paid, declined]
        again = await checkout(channel, clock, "ATT3")
        assert cashier_url(again).rpartition("/")[2] == cashier_url(opened).rpartition("/")[2]
        assert (await charge(channel, "ATT4")).status is ChannelStatus.CLOSED
        assert await running.sandbox.run_once() == 2
        assert {fact.attempt_id for fact in (verified(channel, request, clock) for request in receiver.requests[1:])} == {"ATT1", "ATT2"}
        await channel.aclose()


async def test_without_a_receiver_no_callbacks_pile_up(tmp_path: Path, clock: FakeClock, receiver: Receiver) -> None:
    async with running_sandbox(tmp_path, clock=clock) as running:
        channel = running.channel()
        await charge(channel)
        await channel.aclose()
    async with running_sandbox(tmp_path, clock=clock, callback_url=receiver.url) as running:
        assert await running.sandbox.run_once() == 0


def callback(clock: FakeClock, *, secret: str = CALLBACK_SECRET, body: bytes | None = None, **changes: Any) -> dict[str, Any]:
    values = {"event_id": "EVT1", "attempt_id": "ATT1", "trade_no": "SBX1", "status": "CAPTURED", "amount": "99.99", "currency": "CNY",
              "decline_code": "", "message": "captured", "occurred_at": "2026-11-20T12:00:00.000Z", **changes}
    raw = json.dumps(values).encode() if body is None else body
    timestamp = str(int(clock.now().timestamp() * 1000))
    return {"body": raw, "timestamp": timestamp, "signature": sign_callback(secret, timestamp=timestamp, body=raw), "now": clock.now()}


def test_a_genuine_callback_is_read(adapter: SandboxChannel, clock: FakeClock) -> None:
    fact = adapter.verify_callback(**callback(clock))
    assert (fact.attempt_id, fact.status, fact.amount, fact.trade_no, fact.occurred_at) == (
        "ATT1", ChannelStatus.CAPTURED, PRICE, "SBX1", clock.now())


@pytest.mark.parametrize("change", [
    {"body": b'{"attempt_id":"ATT1"}'}, {"signature": ""}, {"signature": "0" * 64}, {"signature": "Ü"}, {"signature": "\ud800"},
    {"timestamp": "1795176000001"}, {"timestamp": ""}, {"timestamp": "Ü"}, {"timestamp": "\ud800"},
])
def test_a_callback_that_was_altered_is_refused(adapter: SandboxChannel, clock: FakeClock, change: dict[str, Any]) -> None:
    with pytest.raises(SignatureInvalid):
        adapter.verify_callback(**{**callback(clock), **change})


def test_one_changed_byte_breaks_a_callback(adapter: SandboxChannel, clock: FakeClock) -> None:
    genuine = callback(clock)
    for body in (genuine["body"] + b" ", genuine["body"].replace(b"99.99", b"99.98"), json.dumps(json.loads(genuine["body"]), indent=1).encode()):
        with pytest.raises(SignatureInvalid):
            adapter.verify_callback(**{**genuine, "body": body})


def test_another_secret_signs_nothing_for_us(adapter: SandboxChannel, clock: FakeClock) -> None:
    with pytest.raises(SignatureInvalid):
        adapter.verify_callback(**callback(clock, secret=API_KEY))


@pytest.mark.parametrize(("seconds", "is_fresh"), [(300, True), (-300, True), (300.001, False), (-300.001, False), (10**8, False)])
def test_a_callback_is_good_for_five_minutes(adapter: SandboxChannel, clock: FakeClock, seconds: float, is_fresh: bool) -> None:
    genuine = callback(clock)
    clock.advance(seconds)
    genuine["now"] = clock.now()
    if is_fresh:
        adapter.verify_callback(**genuine)
    else:
        with pytest.raises(SignatureInvalid):
            adapter.verify_callback(**genuine)


@pytest.mark.parametrize("timestamp", ["0", "1" * 400, "-795176000000", "1795176000000 ", "١٧٩٥١٧٦٠٠٠٠٠٠"])
def test_a_signed_timestamp_that_is_no_timestamp_is_refused(adapter: SandboxChannel, clock: FakeClock, timestamp: str) -> None:
    genuine = callback(clock)
    signature = sign_callback(CALLBACK_SECRET, timestamp=timestamp, body=genuine["body"])
    with pytest.raises(SignatureInvalid):
        adapter.verify_callback(**{**genuine, "timestamp": timestamp, "signature": signature})


@pytest.mark.parametrize("change", [
    {"amount": "1e3"}, {"amount": 99.99}, {"amount": None}, {"currency": "XXX"}, {"currency": None}, {"status": "PAID"}, {"status": None},
    {"trade_no": ""}, {"trade_no": "x" * 65}, {"occurred_at": "yesterday"},
])
def test_a_genuine_callback_that_makes_no_sense_is_unknown(adapter: SandboxChannel, clock: FakeClock, change: dict[str, Any]) -> None:
    fact = adapter.verify_callback(**callback(clock, **change))
    assert (fact.attempt_id, fact.status, fact.amount) == ("ATT1", ChannelStatus.UNKNOWN, None)


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"\xff", b"[" * 100_000, b'{"attempt_id":"a/b"}', b'{"attempt_id":1}'])
def test_a_genuine_callback_about_nothing_is_refused_by_name(adapter: SandboxChannel, clock: FakeClock, body: bytes) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        adapter.verify_callback(**callback(clock, body=body))
    assert list(refusal.value.fields) == ["body"]


# Servers that misbehave


def adapter_to(base_url: str) -> SandboxChannel:
    return SandboxChannel(base_url=base_url, api_key=API_KEY, callback_secret=CALLBACK_SECRET)


async def assert_facts(base_url: str, clock: FakeClock, *, opening: ChannelStatus, timeout_seconds: float = PATIENCE) -> None:
    """What each call makes of a server: charge and checkout `opening`, query and close UNKNOWN, sign a refusal; nothing else raised."""
    channel = adapter_to(base_url)
    try:
        expires_at = clock.now() + timedelta(minutes=30)
        facts = [
            await channel.charge(attempt_id="ATT1", amount=PRICE, card=card(), expires_at=expires_at, timeout_seconds=timeout_seconds),
            await channel.checkout(attempt_id="ATT1", amount=PRICE, subject="x", return_url="", expires_at=expires_at, timeout_seconds=timeout_seconds),
            await channel.query("ATT1", timeout_seconds=timeout_seconds),
            await channel.close("ATT1", timeout_seconds=timeout_seconds),
        ]
        with pytest.raises(ChannelUnavailable):
            await channel.sign(attempt_id="ATT1", callback_status="SUCCESS", timeout_seconds=timeout_seconds, **VECTOR)
    finally:
        await channel.aclose()
    assert [fact.status for fact in facts] == [opening, opening, ChannelStatus.UNKNOWN, ChannelStatus.UNKNOWN]
    assert all(fact.attempt_id == "ATT1" and fact.amount is None and fact.trade_no == "" for fact in facts)
    assert [fact.reason for fact in facts[:2]] == ["CHANNEL_UNAVAILABLE" if opening is ChannelStatus.NOT_SENT else ""] * 2


async def test_a_refused_connection_proves_that_nothing_was_sent(clock: FakeClock) -> None:
    await assert_facts(f"http://127.0.0.1:{free_port()}", clock, opening=ChannelStatus.NOT_SENT)


async def test_a_name_that_does_not_resolve_proves_that_nothing_was_sent(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    await assert_facts("http://channel.invalid:8090", clock, opening=ChannelStatus.NOT_SENT)


async def test_a_failed_tls_handshake_proves_that_nothing_was_sent(clock: FakeClock) -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"this is not TLS")
        await writer.drain()

    async with raw_server(plain) as url:
        await assert_facts(url.replace("http:", "https:"), clock, opening=ChannelStatus.NOT_SENT)
    assert ssl.OPENSSL_VERSION  # the handshake was a real one


async def test_no_time_left_means_nothing_was_sent(running: RunningSandbox, clock: FakeClock) -> None:
    await assert_facts(running.base_url, clock, opening=ChannelStatus.NOT_SENT, timeout_seconds=0)
    assert (await listed(running))["transactions"] == []


async def swallow(reader: asyncio.StreamReader) -> None:
    """Reads a request to its end."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = head.partition(b"content-length: ")[2].partition(b"\r")[0]
    await reader.readexactly(int(length or b"0"))


async def test_a_connection_reset_after_the_request_leaves_doubt(clock: FakeClock) -> None:
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await swallow(reader)
        writer.transport.abort()

    async with raw_server(reset) as url:
        await assert_facts(url, clock, opening=ChannelStatus.UNKNOWN)


async def test_a_server_that_never_answers_leaves_doubt_in_time(clock: FakeClock) -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await swallow(reader)
        await asyncio.Event().wait()

    async with raw_server(hang) as url:
        await assert_facts(url, clock, opening=ChannelStatus.UNKNOWN, timeout_seconds=0.1)


async def test_a_server_that_drips_leaves_doubt_in_time(clock: FakeClock) -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await swallow(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
        for _ in range(1000):  # each byte is in time, all of them are not
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.01)

    async with raw_server(drip) as url:
        await assert_facts(url, clock, opening=ChannelStatus.UNKNOWN, timeout_seconds=0.15)


def transaction(**changes: Any) -> bytes:
    return json.dumps({"attempt_id": "ATT1", "trade_no": "SBX1", "status": "CAPTURED", "amount": "99.99", "currency": "CNY", "decline_code": "",
                       "message": "", "finished_at": "2026-11-20T12:00:00Z", "cashier_url": None, **changes}).encode()


GARBAGE = {
    "an empty answer": http_answer(b""),
    "HTML": http_answer(b"<html>welcome</html>"),
    "half a JSON object": http_answer(transaction()[:40]),
    "a JSON list": http_answer(b"[]"),
    "deep nesting": http_answer(b"[" * 60_000),
    "not UTF-8": http_answer(b'{"attempt_id":"\xff\xfe"}'),
    "not HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "a broken off answer": b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{",
    "an endless answer": http_answer(b" " * 70_000 + transaction()),
    "a compressed answer": http_answer(transaction(), headers="content-encoding: gzip\r\n")[:-200],
    "status 500": http_answer(transaction(), status="500 Internal Server Error"),
    "status 502": http_answer(b"<h1>Bad Gateway</h1>", status="502 Bad Gateway"),
    "status 201": http_answer(transaction(), status="201 Created"),
    "status 204": b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n",
    "status 302": http_answer(b"", status="302 Found", headers="location: http://127.0.0.1:1/\r\n"),
    "a 401 of somebody else": http_answer(b"<h1>proxy login</h1>", status="401 Unauthorized"),
    "a 400 of somebody else": http_answer(b'{"detail":"no"}', status="400 Bad Request"),
    "a 404 of somebody else": http_answer(b"404 page not found", status="404 Not Found"),
    "a conflict": http_answer(b'{"error":{"code":"conflict_x","message":""}}', status="409 Conflict"),
    "another attempt": http_answer(transaction(attempt_id="ATT2")),
    "no attempt": http_answer(transaction(attempt_id=None)),
    "an unknown status": http_answer(transaction(status="PAID")),
    "a lower-case status": http_answer(transaction(status="captured")),
    "our own word for doubt": http_answer(transaction(status="NOT_FOUND")),
    "a number as amount": http_answer(transaction(amount=99.99)),
    "an amount with exponent": http_answer(transaction(amount="1e3")),
    "a negative amount": http_answer(transaction(amount="-99.99")),
    "no amount": http_answer(transaction(amount=None, currency=None)),
    "an amount without currency": http_answer(transaction(currency=None)),
    "an unknown currency": http_answer(transaction(currency="XXX")),
    "too many digits": http_answer(transaction(amount="99.999")),
    "no trade number": http_answer(transaction(trade_no="")),
    "a trade number that does not fit": http_answer(transaction(trade_no="x" * 65)),
    "a cashier address that is not one": http_answer(transaction(status="PENDING", cashier_url="javascript:alert(1)")),
}


@pytest.mark.parametrize("answer", GARBAGE.values(), ids=GARBAGE.keys())
async def test_an_answer_that_cannot_be_believed_leaves_doubt(clock: FakeClock, answer: bytes) -> None:
    async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await swallow(reader)
        writer.write(answer)
        await writer.drain()

    async with raw_server(garbage) as url:
        await assert_facts(url, clock, opening=ChannelStatus.UNKNOWN)


async def test_another_amount_is_a_fact_and_not_hidden(clock: FakeClock) -> None:
    async def wrong(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await swallow(reader)
        writer.write(http_answer(transaction(amount="0.01", currency="USD", surprise=1)))
        await writer.drain()

    async with raw_server(wrong) as url:
        channel = adapter_to(url)
        fact = await charge(channel)
        await channel.aclose()
    assert (fact.status, fact.amount) == (ChannelStatus.CAPTURED, Money(1, "USD"))


async def test_a_cancelled_charge_is_cancelled_and_keeps_the_doubt(running: RunningSandbox, channel: SandboxChannel) -> None:
    task = asyncio.create_task(charge(channel))
    await asyncio.sleep(0)  # it has begun
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    settled = await channel.close("ATT1", timeout_seconds=PATIENCE)
    assert settled.status in {ChannelStatus.CLOSED, ChannelStatus.CAPTURED}


async def test_the_environment_does_not_choose_a_proxy(running: RunningSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    channel = running.channel()
    assert (await charge(channel)).status is ChannelStatus.CAPTURED
    await channel.aclose()


# As a process


async def test_kill_minus_nine_loses_neither_a_capture_nor_its_callback(processes: Processes, tmp_path: Path, receiver: Receiver) -> None:
    key_file, callback_file = tmp_path / "api.secret", tmp_path / "callback.secret"
    key_file.write_text(API_KEY)
    callback_file.write_text(CALLBACK_SECRET)
    port = free_port()
    env = {"SANDBOX_PORT": str(port), "SANDBOX_API_KEY_FILE": str(key_file), "SANDBOX_CALLBACK_SECRET_FILE": str(callback_file),
           "SANDBOX_VAR_DIR": str(tmp_path / "var"), "SANDBOX_CALLBACK_URL": receiver.url, "SANDBOX_CALLBACK_RETRY_SECONDS": "[0.2, 0.2]"}
    receiver.answers = [http_answer(b"not yet", status="503 Service Unavailable")]
    process = processes.module("sandbox", env=env)
    await asyncio.to_thread(process.wait_for_http, f"http://127.0.0.1:{port}/healthz")
    channel = adapter_to(f"http://127.0.0.1:{port}")
    paid = await charge(channel)
    assert paid.status is ChannelStatus.CAPTURED
    await asyncio.to_thread(process.kill)
    doubt = await channel.query("ATT1", timeout_seconds=PATIENCE)
    assert doubt.status is ChannelStatus.UNKNOWN

    again = processes.module("sandbox", env=env, name="sandbox-again")
    await asyncio.to_thread(again.wait_for_http, f"http://127.0.0.1:{port}/healthz")
    assert await charge(channel) == paid
    await asyncio.to_thread(again.wait_for, lambda: len(receiver.requests) >= 2, "callback after the restart")
    assert len(set(receiver.bodies())) == 1
    assert again.terminate() == 0
    assert "4242424242424242" not in process.log_text() + again.log_text()
    await channel.aclose()


def test_a_bad_setting_ends_the_process_with_its_name_and_without_its_value(processes: Processes, tmp_path: Path) -> None:
    process = processes.module("sandbox", env={"SANDBOX_SLOW_SECONDS": "hurry-4711", "SANDBOX_VAR_DIR": str(tmp_path)})
    assert process.wait() == 1
    assert "slow_seconds" in process.log_text()
    assert "api_key_file" in process.log_text()
    assert "hurry-4711" not in process.log_text()

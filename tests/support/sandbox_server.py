"""A sandbox inside a test: the real one, on a real socket, with the test's clock; and what tests of
channels say to it over and over.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from mesh.clock import Clock
from mesh.ids import Ids
from mesh.money import Money
from payment_rpc.channels import Channel
from payment_rpc.channels.inbound import Inbound
from payment_rpc.channels.requests import CapturedAttempt, Checkout
from payment_rpc.channels.sandbox.channel import (
    SIGNATURE_HEADER,
    TIMESTAMP_HEADER,
    SandboxChannel,
)
from payment_rpc.domain.card import Card
from payment_rpc.domain.facts import ChannelFact
from payment_rpc.domain.refund_facts import RefundFact
from sandbox.server import listen, make_server
from sandbox.service import Sandbox, SandboxConfig, open_sandbox
from tests.support.fakes import FakeClock, FakeIds

API_KEY = "test-api-key-0123456789abcdef0123"
CALLBACK_SECRET = "test-callback-secret-0123456789ab"
MD5_SECRET = "ymall-payment-secret-key-2024"
PRICE = Money(9999, "CNY")
PATIENCE = 5.0
# of source 001
VECTOR = {"payment_id": "PAY202401011234567890", "timestamp": "1704067200000", "nonce": "abc123"}
VECTOR_AT = datetime(2024, 1, 1, tzinfo=UTC)  # the vector's timestamp


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningSandbox:
    """A sandbox that answers at `base_url`. Callbacks go out when the test calls
    `sandbox.run_once()`.
    """

    base_url: str
    sandbox: Sandbox

    def channel(self, *, api_key: str = API_KEY) -> SandboxChannel:
        """An adapter to it; close it with `aclose`."""
        return adapter_to(self.base_url, api_key=api_key)

    async def listed(self, *, after: int = 0, limit: int = 100) -> dict[str, Any]:
        """A page of its transactions, newest last."""
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(
                f"{self.base_url}/v1/transactions",
                params={"after": after, "limit": limit},
                headers={"authorization": f"Bearer {API_KEY}"},
            )
        assert answer.status_code == 200
        page: dict[str, Any] = answer.json()
        return page


def adapter_to(base_url: str, *, api_key: str = API_KEY) -> SandboxChannel:
    """payment_rpc's adapter; close it with `aclose`."""
    return SandboxChannel(
        base_url=base_url, api_key=api_key, callback_secret=CALLBACK_SECRET, md5_secret=MD5_SECRET
    )


def card(number: str = "4242424242424242") -> Card:
    """A card; the number decides what happens."""
    return Card(number=number, cvv="737", expiration_year=2031, expiration_month=8)


async def charge(
    channel: Channel,
    attempt_id: str = "ATT1",
    number: str = "4242424242424242",
    *,
    amount: Money = PRICE,
    timeout_seconds: float = PATIENCE,
    expires_at: Any = None,
) -> ChannelFact:
    """Charges a card."""
    return await channel.charge(
        attempt_id=attempt_id,
        amount=amount,
        instrument=card(number),
        expires_at=expires_at,
        remember=nothing_to_remember,
        timeout_seconds=timeout_seconds,
    )


async def checkout(
    channel: Channel,
    clock: Clock,
    attempt_id: str = "ATT1",
    *,
    amount: Money = PRICE,
    subject: str = "Order ORD1",
    return_url: str = "http://shop.test/done",
    lives_seconds: float = 1800,
    merchant_name: str = "",
    description: str = "",
) -> ChannelFact:
    """Opens a cashier page."""
    return await channel.checkout(
        attempt_id=attempt_id,
        amount=amount,
        order=Checkout(
            subject=subject,
            return_url=return_url,
            merchant_name=merchant_name,
            description=description,
        ),
        timeout_seconds=PATIENCE,
        expires_at=clock.now() + timedelta(seconds=lives_seconds),
        remember=nothing_to_remember,
    )


async def refund(
    channel: Channel,
    refund_id: str = "RF1",
    attempt_id: str = "ATT1",
    *,
    amount: Money = PRICE,
    reason: str = "changed my mind",
    timeout_seconds: float = PATIENCE,
) -> RefundFact:
    """Asks for a refund."""
    return await channel.refund(
        refund_id=refund_id,
        of=CapturedAttempt(attempt_id=attempt_id, amount=amount),
        amount=amount,
        reason=reason,
        timeout_seconds=timeout_seconds,
    )


async def query_refund(
    channel: Channel, refund_id: str = "RF1", *, timeout_seconds: float = PATIENCE
) -> RefundFact:
    """Asks for a refund; the sandbox needs no more than its id."""
    return await channel.query_refund(
        refund_id,
        of=CapturedAttempt(attempt_id="ATT1", amount=PRICE),
        amount=PRICE,
        timeout_seconds=timeout_seconds,
    )


async def nothing_to_remember(ref: str) -> None:
    """The sandbox has no ids of its own."""
    raise AssertionError(f"the sandbox remembers {ref}")


def received(
    channel: Channel, *, body: bytes, timestamp: str, signature: str, now: datetime
) -> Any:
    """The fact in a callback of the sandbox."""
    (fact,) = channel.receive(
        inbound(body=body, timestamp=timestamp, signature=signature), now=now
    ).news
    return fact


def inbound(*, body: bytes, timestamp: str, signature: str) -> Inbound:
    """A callback of the sandbox as it arrives."""
    return Inbound(body=body, headers={TIMESTAMP_HEADER: timestamp, SIGNATURE_HEADER: signature})


def cashier_url(fact: ChannelFact) -> str:
    """Where a person goes on."""
    assert fact.next_action is not None
    assert fact.next_action.kind == "REDIRECT_URL"
    return fact.next_action.value


def http_answer(body: bytes, *, status: str = "200 OK", headers: str = "") -> bytes:
    """The bytes of an HTTP answer."""
    return (
        f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n{headers}\r\n".encode()
        + body
    )


@asynccontextmanager
async def raw_server(
    handler: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """A TCP server of a few lines on a free port; its address as a base URL."""
    tasks: set[asyncio.Task[None]] = set()

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client left, or the test has ended
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


def transaction(**changes: Any) -> bytes:
    """What a sandbox answers about a capture."""
    return json.dumps(
        {
            "attempt_id": "ATT1",
            "trade_no": "SBX1",
            "status": "CAPTURED",
            "amount": "99.99",
            "currency": "CNY",
            "decline_code": "",
            "message": "",
            "finished_at": "2026-11-20T12:00:00Z",
            "cashier_url": None,
            **changes,
        }
    ).encode()


async def swallow(reader: asyncio.StreamReader) -> None:
    """Reads a request to its end."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = head.partition(b"content-length: ")[2].partition(b"\r")[0]
    await reader.readexactly(int(length or b"0"))


class Receiver:
    """The shop's callback address: keeps what came, answers what it is told to, else `success`."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.url = ""

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One delivery."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value
            for name, _, value in (line.partition(": ") for line in head[1:] if line)
        }
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.requests.append((headers, body))
        writer.write(self.answers.pop(0) if self.answers else http_answer(b"success"))
        await writer.drain()

    def bodies(self) -> list[bytes]:
        """What came, byte for byte."""
        return [body for _, body in self.requests]


@asynccontextmanager
async def running_receiver() -> AsyncIterator[Receiver]:
    """A receiver that listens."""
    shop = Receiver()
    async with raw_server(shop.take) as base_url:
        shop.url = f"{base_url}/api/v1/callbacks/sandbox"
        yield shop


def config(folder: Path, **changes: Any) -> SandboxConfig:
    """What a sandbox in a test knows, unless the test says otherwise."""
    values: dict[str, Any] = {
        "database_file": folder / "sandbox.db",
        "api_key": API_KEY,
        "public_base_url": "http://cashier.test",
        "callback_secret": CALLBACK_SECRET,
        "md5_secret": MD5_SECRET,
        "allow_signatures": True,
        "allow_misbehaviour": True,
        **changes,
    }
    return SandboxConfig(**values)


class ShiftedIds:
    """FakeIds that begin elsewhere: two sandboxes on one file must not make the same ids."""

    def __init__(self, first: int) -> None:
        self._numbers = itertools.count(first)

    def new(self, prefix: str) -> str:
        return f"{prefix}{next(self._numbers):026d}"


@asynccontextmanager
async def running_sandbox(
    folder: Path,
    *,
    clock: Clock | None = None,
    ids: Ids | None = None,
    sleep: Any = asyncio.sleep,
    **changes: Any,
) -> AsyncIterator[RunningSandbox]:
    """Serves a sandbox on a free port until the end of the block; its file lies in `folder` and
    stays.
    """
    listener = listen("127.0.0.1", 0)
    base_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    changes = {"public_base_url": base_url, **changes}
    async with open_sandbox(
        config(folder, **changes),
        clock=clock or FakeClock(),
        ids=ids or FakeIds(),
        new_token=lambda: secrets.token_urlsafe(32),
        sleep=sleep,
    ) as sandbox:
        server = make_server(sandbox.app)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            async with httpx.AsyncClient(trust_env=False) as client:
                assert (await client.get(f"{base_url}/healthz")).status_code == 200
            yield RunningSandbox(base_url=base_url, sandbox=sandbox)
        finally:  # at once: uvicorn's own way takes 0.2 s, and every test would
            task.cancel()
            for listening in server.servers:
                listening.close()
            for connection in list(server.server_state.connections):
                connection.transport.abort()
            left = {task, *server.server_state.tasks}
            for handler in server.server_state.tasks:
                handler.cancel()
            await asyncio.gather(*left, return_exceptions=True)

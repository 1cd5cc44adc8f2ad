"""The simulated BTCPay Server over a real connection: notices and their repetitions, lost answers.
No client of BTCPay Server's own exists for Python; the vector of its signature judges notices.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox.providers.btcpay import PROVIDER
from sandbox.providers.btcpay.config import BTCPayConfig
from sandbox.providers.server import RunningProvider, running_provider
from sandbox.server import listen, make_server
from tests.support.fakes import FakeClock
from tests.support.simulated_btcpay import STORE, invoice_body

SECRET = "secret of the shop"


class Shop:
    """Takes notices, or not."""

    def __init__(self) -> None:
        self.url = ""
        self.answers: list[int] = []
        self.taken: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()

    async def take(self, request: Request) -> Response:
        await self.taken.put((request.headers["btcpay-sig"], await request.body()))
        return Response(status_code=self.answers.pop(0) if self.answers else 200)

    async def next(self) -> dict[str, Any]:
        """The next notice, whose signature holds."""
        signature, body = await self.taken.get()
        expected = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
        assert signature == f"sha256={expected}"
        got: dict[str, Any] = json.loads(body)
        return got


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    it = Shop()
    listener = listen("127.0.0.1", 0)
    it.url = f"http://127.0.0.1:{listener.getsockname()[1]}/hook"
    server = make_server(Starlette(routes=[Route("/hook", it.take, methods=["POST"])]))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    yield it
    server.stop()
    await serving


@pytest.fixture
async def running(clock: FakeClock) -> AsyncIterator[RunningProvider[BTCPayConfig]]:
    async with running_provider(PROVIDER, clock=clock) as provider:
        yield provider


@pytest.fixture
async def client(running: RunningProvider[BTCPayConfig]) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"authorization": f"token {running.simulation.config.api_key}"}
    async with httpx.AsyncClient(base_url=running.url, headers=headers, trust_env=False) as it:
        yield it


async def register(client: httpx.AsyncClient, shop: Shop) -> None:
    sent = {"url": shop.url, "secret": SECRET}
    assert (await client.post(f"{STORE}/webhooks", json=sent)).status_code == 200


async def test_a_notice_that_was_not_taken_comes_again_with_other_bytes(
    client: httpx.AsyncClient, shop: Shop
) -> None:
    await register(client, shop)
    shop.answers = [503]
    await client.post(f"{STORE}/invoices", json=invoice_body())
    first = await shop.next()
    assert (first["type"], first["isRedelivery"]) == ("InvoiceCreated", False)
    assert first["deliveryId"] == first["originalDeliveryId"]
    await client.post("/_sim/clock", json={"advance_seconds": 10})
    second = await shop.next()
    assert second["isRedelivery"] is True
    assert second["originalDeliveryId"] == first["deliveryId"] != second["deliveryId"]


async def test_a_notice_that_was_refused_is_gone(client: httpx.AsyncClient, shop: Shop) -> None:
    await register(client, shop)
    shop.answers = [404]
    await client.post(f"{STORE}/invoices", json=invoice_body())
    await shop.next()
    await client.post("/_sim/clock", json={"advance_seconds": 86_400})
    assert (await shop.next())["type"] == "InvoiceExpired"
    found = (await client.get("/_sim/webhooks")).json()["deliveries"]
    created = found[0]
    assert (created["kind"], created["accepted"]) == ("InvoiceCreated", False)
    assert created["due_at"] is None


async def test_an_invoice_whose_answer_was_lost_is_found_by_its_order_id(
    client: httpx.AsyncClient,
) -> None:
    fault = {"kind": "lost_answer", "path": f"{STORE}/invoices", "method": "POST"}
    await client.post("/_sim/faults", json=fault)
    with pytest.raises(httpx.RemoteProtocolError):
        await client.post(f"{STORE}/invoices", json=invoice_body())
    found = (await client.get(f"{STORE}/invoices", params={"orderId": "ATT0001"})).json()
    assert len(found) == 1


async def test_an_error_that_was_asked_for_has_the_form_of_the_server(
    client: httpx.AsyncClient,
) -> None:
    fault = {"kind": "status", "path": STORE, "status": 403}
    await client.post("/_sim/faults", json=fault)
    answer = await client.get(STORE)
    assert (answer.status_code, answer.json()["code"]) == (403, "missing-permission")

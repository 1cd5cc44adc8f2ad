"""A shop that talks to the simulated BTCPay Server without a socket, for tests of its rules."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from sandbox.providers.btcpay import PROVIDER
from sandbox.providers.btcpay.config import BTCPayConfig
from sandbox.providers.simulation import Simulation
from tests.support.fakes import FakeClock

Json = dict[str, Any]
BASE_URL = "http://btcpay.test"
STORE = "/api/v1/stores/STORE1"


def invoice_body(amount: str | None = "99.99", *, own_id: str = "ATT0001", **checkout: Any) -> Json:
    """What a shop sends to make an invoice."""
    return {
        "amount": amount,
        "currency": "USD",
        "metadata": {"orderId": own_id},
        "checkout": {"redirectURL": "https://shop.test/done", **checkout},
    }


class BTCPayShop:
    """Calls with the key of the store."""

    def __init__(self, client: httpx.AsyncClient, simulation: Simulation[BTCPayConfig]) -> None:
        self.client = client
        self.simulation = simulation

    async def create(self, body: Json | None = None, **more: Any) -> Json:
        """A new invoice."""
        sent = body or invoice_body(**more)
        answer = await self.client.post(f"{STORE}/invoices", json=sent)
        assert answer.status_code == 200, answer.text
        got: Json = answer.json()
        return got

    async def invoice(self, invoice_id: str) -> Json:
        """An invoice."""
        got: Json = (await self.client.get(f"/api/v1/invoices/{invoice_id}")).json()
        return got

    async def state(self, invoice_id: str) -> str:
        """Status and additional status of an invoice."""
        got = await self.invoice(invoice_id)
        return f"{got['status']}/{got['additionalStatus']}"

    async def deed(self, ref: str, does: str) -> httpx.Response:
        """What somebody else than the shop does."""
        return await self.client.post("/_sim/buyer", json={"ref": ref, "does": does})

    async def advance(self, seconds: float) -> None:
        """Moves the clock."""
        await self.client.post("/_sim/clock", json={"advance_seconds": seconds})

    async def refund(self, invoice_id: str, **sent: Any) -> httpx.Response:
        """Makes a claim link."""
        return await self.client.post(f"/api/v1/invoices/{invoice_id}/refund", json=sent)

    async def paid(self, amount: str = "99.99") -> str:
        """The id of an invoice that is settled."""
        invoice_id: str = (await self.create(amount=amount))["id"]
        await self.deed(invoice_id, "pay_full")
        await self.advance(60)
        return invoice_id

    def events(self) -> list[str]:
        """The types of all events so far."""
        return [one.notice.kind for one in self.simulation.deliveries.deliveries]

    def moved(self) -> list[tuple[str, str]]:
        """What money moved: kind and amount."""
        return [
            (str(one.kind.value), one.money.format()) for one in self.simulation.money.movements
        ]


@asynccontextmanager
async def btcpay_shop(clock: FakeClock) -> AsyncIterator[BTCPayShop]:
    """A shop before a fresh BTCPay Server."""
    simulation = PROVIDER.simulation(clock, base_url=BASE_URL)
    transport = httpx.ASGITransport(app=PROVIDER.create_app(simulation))
    headers = {"authorization": f"token {simulation.config.api_key}"}
    async with httpx.AsyncClient(transport=transport, base_url=BASE_URL, headers=headers) as client:
        yield BTCPayShop(client, simulation)

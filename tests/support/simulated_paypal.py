"""A shop that talks to the simulated PayPal without a socket, for tests of its rules."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from sandbox.providers.paypal import PROVIDER
from sandbox.providers.paypal.config import PayPalConfig
from sandbox.providers.simulation import Simulation
from tests.support.fakes import FakeClock

Json = dict[str, Any]
BASE_URL = "http://paypal.test"


def order_body(
    value: str = "99.99",
    currency: str = "USD",
    *,
    intent: str = "CAPTURE",
    own_id: str = "ATT0001",
    **unit: Any,
) -> Json:
    """What a shop sends to make an order."""
    return {
        "intent": intent,
        "purchase_units": [
            {
                "reference_id": "default",
                "custom_id": own_id,
                "invoice_id": own_id,
                "description": "Two mugs",
                "amount": {"currency_code": currency, "value": value},
                **unit,
            }
        ],
        "payment_source": {
            "paypal": {
                "experience_context": {
                    "return_url": "https://shop.test/done?order=1",
                    "cancel_url": "https://shop.test/cancelled",
                    "user_action": "PAY_NOW",
                    "shipping_preference": "NO_SHIPPING",
                    "brand_name": "paymesh mall",
                    "locale": "en-US",
                }
            }
        },
    }


class PayPalShop:
    """Calls with a token, and with a request id of their own unless one is given."""

    def __init__(self, client: httpx.AsyncClient, simulation: Simulation[PayPalConfig]) -> None:
        self.client = client
        self.simulation = simulation
        self.token = ""
        self._calls = 0

    async def fetch_token(self) -> Json:
        """A new token, used from now on."""
        config = self.simulation.config
        answer = await self.client.post(
            "/v1/oauth2/token",
            data={"grant_type": "client_credentials"},
            auth=(config.client_id, config.client_secret),
        )
        assert answer.status_code == 200, answer.text
        got: Json = answer.json()
        self.token = got["access_token"]
        return got

    async def post(
        self,
        path: str,
        body: Any = None,
        *,
        request_id: str | None = None,
        prefer: str = "return=representation",
        **headers: str,
    ) -> httpx.Response:
        """A POST; header names have underscores in place of hyphens."""
        self._calls += 1
        given = {
            "authorization": f"Bearer {self.token}",
            "paypal-request-id": f"call-{self._calls}" if request_id is None else request_id,
            "prefer": prefer,
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        return await self.client.post(path, json={} if body is None else body, headers=given)

    async def get(self, path: str, **parameters: str) -> httpx.Response:
        """A GET."""
        return await self.client.get(
            path, params=parameters, headers={"authorization": f"Bearer {self.token}"}
        )

    async def deed(self, ref: str, does: str) -> httpx.Response:
        """What somebody else does."""
        return await self.client.post("/_sim/buyer", json={"ref": ref, "does": does})

    async def advance(self, seconds: float) -> None:
        """Moves the clock."""
        await self.client.post("/_sim/clock", json={"advance_seconds": seconds})

    async def approved(self, body: Json | None = None) -> str:
        """The id of an order that the buyer has approved."""
        answer = await self.post("/v2/checkout/orders", body or order_body())
        assert answer.status_code == 201, answer.text
        order_id: str = answer.json()["id"]
        assert (await self.deed(order_id, "approve")).status_code == 200
        return order_id

    async def capture_order(self, order_id: str, **more: Any) -> httpx.Response:
        """Captures an order."""
        return await self.post(f"/v2/checkout/orders/{order_id}/capture", **more)

    async def captured(self, body: Json | None = None) -> Json:
        """The capture of an order that was approved and captured."""
        answer = await self.capture_order(await self.approved(body))
        assert answer.status_code == 201, answer.text
        got: Json = answer.json()["purchase_units"][0]["payments"]["captures"][0]
        return got

    async def authorized(self, value: str = "99.99", currency: str = "USD") -> Json:
        """The authorization of an order that was approved and authorized."""
        order_id = await self.approved(order_body(value, currency, intent="AUTHORIZE"))
        answer = await self.post(f"/v2/checkout/orders/{order_id}/authorize")
        assert answer.status_code == 201, answer.text
        got: Json = answer.json()["purchase_units"][0]["payments"]["authorizations"][0]
        return got

    async def refund(
        self, capture_id: str, value: str = "", currency: str = "USD", **more: Any
    ) -> httpx.Response:
        """Refunds a part of a capture, or all that is left."""
        body = {"amount": {"value": value, "currency_code": currency}} if value else {}
        return await self.post(f"/v2/payments/captures/{capture_id}/refund", body, **more)

    def events(self) -> list[str]:
        """The types of all events so far."""
        return [one.notice.kind for one in self.simulation.deliveries.deliveries]

    def moved(self) -> list[tuple[str, str]]:
        """What money moved: kind and amount."""
        return [
            (str(one.kind.value), one.money.format()) for one in self.simulation.money.movements
        ]


def issue_of(answer: httpx.Response) -> tuple[int, str]:
    """Status and issue of an error."""
    return answer.status_code, answer.json()["details"][0]["issue"]


@asynccontextmanager
async def paypal_shop(clock: FakeClock) -> AsyncIterator[PayPalShop]:
    """A shop with a token, before a fresh PayPal."""
    simulation = PROVIDER.simulation(clock, base_url=BASE_URL)
    transport = httpx.ASGITransport(app=PROVIDER.create_app(simulation))
    async with httpx.AsyncClient(transport=transport, base_url=BASE_URL) as client:
        shop = PayPalShop(client, simulation)
        await shop.fetch_token()
        yield shop

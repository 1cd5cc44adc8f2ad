"""A shop that talks to simulated Alipay in a test: signs requests and checks answers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast
from urllib.parse import parse_qsl, urlencode

import httpx
import msgspec

from mesh.clock import Clock
from sandbox.providers.alipay import PROVIDER as ALIPAY
from sandbox.providers.alipay.objects import AlipayConfig
from sandbox.providers.alipay.signing import notice_text, request_text
from sandbox.providers.china import china_text
from sandbox.providers.rsa_keys import is_signed, sign
from sandbox.providers.simulation import Simulation
from tests.support.provider_keys import MERCHANT, PROVIDER

APP_ID = "2021000000000001"
_PRODUCTS = {
    "alipay.trade.page.pay": "FAST_INSTANT_TRADE_PAY",
    "alipay.trade.wap.pay": "QUICK_WAP_WAY",
    "alipay.trade.precreate": "QR_CODE_OFFLINE",
}


class AlipayShop:
    """The shop. `client` reaches the simulator at its base URL."""

    def __init__(
        self, client: httpx.AsyncClient, clock: Clock, simulation: Simulation[AlipayConfig]
    ) -> None:
        self.client = client
        self.simulation = simulation
        self._clock = clock

    def parameters(self, method: str, content: Any, **common: str) -> dict[str, str]:
        """A signed request. A common parameter of "" is left out; `sign` replaces the signature."""
        fields = {
            "app_id": APP_ID,
            "method": method,
            "format": "JSON",
            "charset": "utf-8",
            "sign_type": "RSA2",
            "timestamp": china_text(self._clock.now()),
            "version": "1.0",
            "biz_content": content if isinstance(content, str) else json.dumps(content),
        }
        given = {
            name: value for name, value in (fields | common).items() if value or name == "sign"
        }
        return {"sign": sign(MERCHANT, request_text(given)), **given}

    async def send(self, parameters: dict[str, str]) -> dict[str, Any]:
        """The answer's fields and, as `signed`, whether it carries the right signature."""
        answer = await self.client.post("/gateway.do", data=parameters)
        assert answer.status_code == 200
        whole = msgspec.json.decode(answer.content, type=dict[str, msgspec.Raw])
        [name] = [one for one in whole if one.endswith("_response")]
        signature = msgspec.json.decode(whole.get("sign", b'""'), type=str)
        signed = is_signed(PROVIDER.public_key(), bytes(whole[name]), signature)
        fields = cast("dict[str, Any]", json.loads(bytes(whole[name])))
        return {**fields, "signed": signed}

    async def call(self, method: str, /, **content: Any) -> dict[str, Any]:
        """Calls a method such as `alipay.trade.query`."""
        return await self.send(self.parameters(method, content))

    def terms(self, method: str, number: str, amount: str, **more: str) -> dict[str, str]:
        """A signed request to pay; `more` may hold common parameters too."""
        common = {name: more.pop(name) for name in ("notify_url", "return_url") if name in more}
        content = {
            "out_trade_no": number,
            "total_amount": amount,
            "subject": "tea 茶",
            "product_code": _PRODUCTS[method],
        }
        return self.parameters(method, content | more, **common)

    async def precreate(self, number: str, amount: str, **more: str) -> dict[str, Any]:
        """Asks for a QR code."""
        return await self.send(self.terms("alipay.trade.precreate", number, amount, **more))

    async def open_page(self, number: str, amount: str, **more: str) -> httpx.Response:
        """The buyer's browser opens the page that the shop signed."""
        query = urlencode(self.terms("alipay.trade.page.pay", number, amount, **more))
        return await self.client.get(f"/gateway.do?{query}")

    async def buyer(self, number: str, does: str) -> httpx.Response:
        """The buyer's deed."""
        return await self.client.post("/_sim/buyer", json={"own_id": number, "does": does})

    async def buy(self, number: str, amount: str, **more: str) -> str:
        """A trade that the buyer has paid; returns its trade_no."""
        assert (await self.precreate(number, amount, **more))["code"] == "10000"
        done = await self.buyer(number, "pay")
        assert done.status_code == 200, done.text
        return cast("str", done.json()["trade_no"])

    def notices(self) -> list[dict[str, str]]:
        """The fields of all notices, before they are signed."""
        return [
            dict(parse_qsl(one.notice.body.decode(), keep_blank_values=True))
            for one in self.simulation.deliveries.deliveries
        ]

    async def money(self) -> list[tuple[str, str, str]]:
        """Kind, own id and amount of all that moved."""
        moved = (await self.client.get("/_sim/money")).json()["movements"]
        return [(one["kind"], one["own_id"], one["amount"]) for one in moved]


@asynccontextmanager
async def simulated_alipay(clock: Clock) -> AsyncIterator[AlipayShop]:
    """A shop before a fresh simulator, without a socket."""
    simulation = ALIPAY.simulation(clock, base_url="http://alipay.test")
    transport = httpx.ASGITransport(ALIPAY.create_app(simulation))
    async with httpx.AsyncClient(transport=transport, base_url=simulation.base_url) as client:
        yield AlipayShop(client, clock, simulation)


def is_notice_signed(body: bytes, *, keep_empty: bool = False) -> bool:
    """True when the form is signed by Alipay.

    Args:
        keep_empty: with its empty fields.
    """
    fields = dict(parse_qsl(body.decode(), keep_blank_values=True))
    text = notice_text(fields, keep_empty=keep_empty)
    return is_signed(PROVIDER.public_key(), text, fields["sign"])

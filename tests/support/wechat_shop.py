"""A shop that talks to simulated WeChat Pay in a test: signs requests, checks answers, decrypts."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import httpx
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mesh.clock import Clock
from sandbox.providers.rsa_keys import is_signed, sign
from sandbox.providers.simulation import Simulation
from sandbox.providers.webhooks import Target
from sandbox.providers.wechat import PROVIDER as WECHAT
from sandbox.providers.wechat.objects import WechatConfig
from sandbox.providers.wechat.signing import answer_text, request_text
from tests.support.provider_keys import MERCHANT, PROVIDER

MCHID, APPID = "1900000001", "wx0000000000000001"
API_KEY = "paymesh-test-apiv3-key-32-bytes!"
MERCHANT_SERIAL = "7132D72A03E93CDDF8C03BBD1F37EEDF00000001"
PROVIDER_SERIAL = "PUB_KEY_ID_0100000000012026100100000000000001"
NOTIFY = "https://shop.example/wechat"
_NONCE = "0123456789abcdef0123456789abcdef"
TRANSACTIONS = "/v3/pay/transactions"
REFUNDS = "/v3/refund/domestic/refunds"


class WechatShop:
    """The shop. `client` reaches the simulator at its base URL."""

    def __init__(
        self, client: httpx.AsyncClient, clock: Clock, simulation: Simulation[WechatConfig]
    ) -> None:
        self.client = client
        self.simulation = simulation
        self._clock = clock

    def authorization(self, method: str, target: str, body: bytes, **changed: str) -> str:
        """The header; `changed` replaces fields after signing, `stamp` the time before it."""
        stamp = changed.pop("stamp", str(int(self._clock.now().timestamp())))
        fields = {
            "mchid": MCHID,
            "nonce_str": _NONCE,
            "signature": sign(MERCHANT, request_text(method, target, stamp, _NONCE, body)),
            "timestamp": stamp,
            "serial_no": MERCHANT_SERIAL,
        } | changed
        listed = ",".join(f'{name}="{value}"' for name, value in fields.items())
        return f"WECHATPAY2-SHA256-RSA2048 {listed}"

    async def send(self, method: str, target: str, sent: Any = None) -> httpx.Response:
        """A signed request; the answer as it came."""
        body = b"" if sent is None else json.dumps(sent, ensure_ascii=False).encode()
        headers = {"accept": "application/json", "user-agent": "test"}
        headers["authorization"] = self.authorization(method, target, body)
        if body:
            headers["content-type"] = "application/json"
        return await self.client.request(method, target, content=body, headers=headers)

    async def call(self, method: str, target: str, sent: Any = None) -> dict[str, Any]:
        """The answer's fields and its `status_code`. A success must be signed, a refusal not."""
        answer = await self.send(method, target, sent)
        assert is_answer_signed(answer) is answer.is_success
        assert answer.is_success or "wechatpay-serial" not in answer.headers
        fields = answer.json() if answer.content else {}
        return {"status_code": answer.status_code, **fields}

    def terms(self, number: str, total: int, **more: Any) -> dict[str, Any]:
        """The body of a prepay."""
        return {
            "appid": APPID,
            "mchid": MCHID,
            "description": "tea, 茶",
            "out_trade_no": number,
            "notify_url": NOTIFY,
            "amount": {"total": total, "currency": "CNY"},
            **more,
        }

    async def prepay(self, number: str, total: int, **more: Any) -> dict[str, Any]:
        """Asks for a QR code."""
        return await self.call("POST", f"{TRANSACTIONS}/native", self.terms(number, total, **more))

    async def query(self, number: str) -> dict[str, Any]:
        """Asks for an order."""
        return await self.call("GET", f"{TRANSACTIONS}/out-trade-no/{number}?mchid={MCHID}")

    async def close(self, number: str) -> dict[str, Any]:
        """Closes an order."""
        return await self.call(
            "POST", f"{TRANSACTIONS}/out-trade-no/{number}/close", {"mchid": MCHID}
        )

    async def refund(
        self, number: str, request: str, amount: int, total: int, **more: Any
    ) -> dict[str, Any]:
        """Refunds a part."""
        amounts = {"refund": amount, "total": total, "currency": "CNY"}
        sent = {"out_trade_no": number, "out_refund_no": request, "amount": amounts, **more}
        return await self.call("POST", REFUNDS, sent)

    async def refund_query(self, request: str) -> dict[str, Any]:
        """Asks for a refund."""
        return await self.call("GET", f"{REFUNDS}/{request}")

    async def buyer(self, number: str, does: str, **more: Any) -> httpx.Response:
        """The buyer's deed."""
        sent = {"own_id": number, "does": does, **more}
        return await self.client.post("/_sim/buyer", json=sent)

    async def buy(self, number: str, total: int, **more: Any) -> str:
        """An order that the buyer has paid; returns its transaction_id."""
        assert (await self.prepay(number, total, **more))["status_code"] == 200
        done = await self.buyer(number, "pay")
        assert done.status_code == 200, done.text
        return cast("str", done.json()["transaction_id"])

    def notices(self) -> list[tuple[str, dict[str, Any]]]:
        """Kind and decrypted resource of all notices."""
        return [
            (one.notice.kind, decrypted(one.notice.body))
            for one in self.simulation.deliveries.deliveries
        ]

    def rendered(self, place: int, tries: int = 1) -> tuple[dict[str, str], bytes]:
        """Headers and body of a notice as it is sent."""
        rule = WECHAT.rule(self.simulation.config, self.simulation.clock)
        notice = self.simulation.deliveries.deliveries[place].notice
        outgoing = rule.render(notice, Target(url=notice.url), tries)
        return outgoing.headers, outgoing.body

    async def money(self) -> list[tuple[str, str, int]]:
        """Kind, own id and amount in fen of all that moved."""
        moved = (await self.client.get("/_sim/money")).json()["movements"]
        return [(one["kind"], one["own_id"], one["amount_minor"]) for one in moved]


@asynccontextmanager
async def simulated_wechat(clock: Clock) -> AsyncIterator[WechatShop]:
    """A shop before a fresh simulator, without a socket."""
    simulation = WECHAT.simulation(clock, base_url="http://wechat.test")
    transport = httpx.ASGITransport(WECHAT.create_app(simulation))
    async with httpx.AsyncClient(transport=transport, base_url=simulation.base_url) as client:
        yield WechatShop(client, clock, simulation)


def is_answer_signed(answer: httpx.Response) -> bool:
    """True when the answer carries WeChat Pay's signature."""
    return is_signed_by_wechat(dict(answer.headers), answer.content)


def is_signed_by_wechat(headers: dict[str, str], body: bytes) -> bool:
    """True when headers and body carry WeChat Pay's signature."""
    found = {name.lower(): value for name, value in headers.items()}
    text = answer_text(found.get("wechatpay-timestamp", ""), found.get("wechatpay-nonce", ""), body)
    return found.get("wechatpay-serial") == PROVIDER_SERIAL and is_signed(
        PROVIDER.public_key(), text, found.get("wechatpay-signature", "")
    )


def decrypted(body: bytes) -> dict[str, Any]:
    """What a notice encrypts.

    Raises:
        cryptography.exceptions.InvalidTag: another key, or a changed notice.
    """
    resource = json.loads(body)["resource"]
    plain = AESGCM(API_KEY.encode()).decrypt(
        resource["nonce"].encode(),
        base64.b64decode(resource["ciphertext"]),
        resource["associated_data"].encode(),
    )
    return cast("dict[str, Any]", json.loads(plain))

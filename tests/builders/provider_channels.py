"""The simulated providers as channels of ours."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, ClassVar

import httpx
import msgspec

from mesh.clock import Clock, SystemClock
from payment_rpc.channels import Channel
from payment_rpc.channels.alipay import channel as alipay
from payment_rpc.channels.alipay.credentials import parse as parse_alipay
from payment_rpc.channels.btcpay import channel as btcpay
from payment_rpc.channels.btcpay.credentials import parse as parse_btcpay
from payment_rpc.channels.inbound import Inbound
from payment_rpc.channels.paypal import channel as paypal
from payment_rpc.channels.paypal.credentials import parse as parse_paypal
from payment_rpc.channels.stripe import channel as stripe
from payment_rpc.channels.stripe.credentials import parse as parse_stripe
from payment_rpc.channels.wechat import channel as wechat
from payment_rpc.channels.wechat.credentials import parse as parse_wechat
from payment_rpc.domain.facts import ChannelFact
from payment_rpc.domain.refund_facts import RefundFact
from sandbox.providers.alipay import PROVIDER as ALIPAY
from sandbox.providers.btcpay import PROVIDER as BTCPAY
from sandbox.providers.paypal import PROVIDER as PAYPAL
from sandbox.providers.server import running_provider
from sandbox.providers.stripe import PROVIDER as STRIPE
from sandbox.providers.stripe.config import StripeConfig
from sandbox.providers.webhooks import Target
from sandbox.providers.wechat import PROVIDER as WECHAT
from tests.builders.simulated_channel import TIMEOUT_SECONDS, SimulatedChannel
from tests.support import china_credentials

__all__ = [
    "KINDS",
    "SimulatedBTCPay",
    "SimulatedChannel",
    "SimulatedPayPal",
    "simulated_channel",
]

STRIPE_CONFIG = StripeConfig()


class SimulatedAlipay(SimulatedChannel):
    """Alipay. QR codes, because Alipay makes them itself."""

    provider = ALIPAY
    steps: ClassVar = {
        name: ("POST", "/gateway.do", f"method=alipay.trade.{method}&")
        for name, method in {
            "checkout": "precreate",
            "query": "query",
            "close": "close",
            "refund": "refund",
            "query_refund": "fastpay.refund.query",
        }.items()
    }
    method = "qr"
    status_field = "alipay_trade_query_response.trade_status"

    def open(
        self, base_url: str, now: Callable[[], datetime] | None = None, **changed: Any
    ) -> alipay.AlipayChannel:
        """An application of the simulated merchant."""
        return alipay.open_channel(
            account="alipay_main",
            credentials=parse_alipay({**china_credentials.ALIPAY, **changed}),
            is_live=False,
            notify_url="https://shop.example/alipay",
            base_url=base_url,
            now=now or self.clock.now,
        )

    def secrets(self) -> list[str]:
        """A part of our key."""
        return [str(china_credentials.ALIPAY["private_key"]).splitlines()[3]]

    async def meet_buyer(self, fact: ChannelFact) -> None:
        """He opens the page, or scans the code."""
        assert fact.next_action is not None
        shown = await self.client.get(fact.next_action.value)
        assert shown.status_code == 200, shown.text


class SimulatedWechat(SimulatedChannel):
    """WeChat Pay with native codes."""

    provider = WECHAT
    steps: ClassVar = {
        "checkout": ("POST", "/v3/pay/transactions/native", ""),
        "query": ("GET", "/v3/pay/transactions/out-trade-no/", ""),
        "close": ("POST", "/v3/pay/transactions/out-trade-no/", ""),
        "refund": ("POST", "/v3/refund/domestic/refunds", ""),
        "query_refund": ("GET", "/v3/refund/domestic/refunds/", ""),
    }
    status_field = "trade_state"

    def open(
        self, base_url: str, now: Callable[[], datetime] | None = None, **changed: Any
    ) -> wechat.WechatChannel:
        """The simulated merchant."""
        return wechat.open_channel(
            account="wechat_main",
            credentials=parse_wechat({**china_credentials.WECHAT, **changed}),
            is_live=True,
            notify_url="https://shop.example/wechat",
            base_url=base_url,
            now=now or self.clock.now,
        )

    def secrets(self) -> list[str]:
        """A part of our key, and the key of notices."""
        key = str(china_credentials.WECHAT["private_key"]).splitlines()[3]
        return [key, str(china_credentials.WECHAT["api_v3_key"])]


class SimulatedStripe(SimulatedChannel):
    """Stripe, with the client secret."""

    provider = STRIPE
    steps: ClassVar = {
        "checkout": ("POST", "/v1/payment_intents", ""),
        "query": ("GET", "/v1/payment_intents/pi_", ""),
        "close": ("POST", "/v1/payment_intents/pi_", ""),
        "refund": ("POST", "/v1/refunds", ""),
        "query_refund": ("GET", "/v1/refunds", ""),
    }
    currency = "USD"
    status_field = "status"
    repeats_errors = True

    def open(
        self, base_url: str, now: Callable[[], datetime] | None = None, **changed: Any
    ) -> stripe.StripeChannel:
        """The simulated account."""
        return stripe.open_channel(
            account="stripe_eu",
            credentials=parse_stripe(
                {
                    "secret_key": STRIPE_CONFIG.secret_key,
                    "webhook_secrets": [STRIPE_CONFIG.webhook_secret],
                    **changed,
                }
            ),
            is_live=False,
            notify_url="https://shop.example/stripe",
            base_url=base_url,
            now=now or self.clock.now,
        )

    def secrets(self) -> list[str]:
        """Both keys."""
        return [STRIPE_CONFIG.secret_key, STRIPE_CONFIG.webhook_secret]

    def target(self, url: str) -> Target:
        """With the secret of the endpoint."""
        return Target(url=url, secret=STRIPE_CONFIG.webhook_secret)

    def notices(self) -> list[Inbound]:
        """Those that say that money was taken; Stripe tells every step."""
        found = [(msgspec.json.decode(one.body)["type"], one) for one in super().notices()]
        return [one for kind, one in found if kind == "payment_intent.succeeded"]


class SimulatedPayPal(SimulatedChannel):
    """PayPal. A query takes the step that is ours, as the core does."""

    provider = PAYPAL
    steps: ClassVar = {
        "checkout": ("POST", "/v2/checkout/orders", ""),
        "query": ("GET", "/v2/checkout/orders/", ""),
        "advance": ("POST", "/v2/checkout/orders/", ""),
        "refund": ("POST", "/v2/payments/captures/", ""),
        "query_refund": ("GET", "/v2/checkout/orders/", ""),
    }
    currency = "USD"
    status_field = "purchase_units.0.payments.captures.0.status"
    closes = False
    told_by = "PAYMENT."

    def open(
        self, base_url: str, now: Callable[[], datetime] | None = None, **changed: Any
    ) -> paypal.PayPalChannel:
        """An application of the simulated account."""
        config = self.running.simulation.config
        fields = {
            "client_id": config.client_id,
            "client_secret": config.client_secret,
            "webhook_id": config.webhook_id,
        }
        return paypal.open_channel(
            account="paypal_main",
            credentials=parse_paypal({**fields, **changed}),
            is_live=False,
            notify_url="https://shop.example/paypal",
            base_url=base_url,
            now=now or self.clock.now,
        )

    async def prepare(self) -> None:
        """It has the certificate of notices."""
        url = self.running.simulation.config.certificate_url
        await self.channel.learn_key(url, timeout_seconds=TIMEOUT_SECONDS)

    def secrets(self) -> list[str]:
        """Of the application."""
        return [self.running.simulation.config.client_secret]

    async def query(self, attempt_id: str, *, channel: Any = None) -> ChannelFact:
        """Asks, and captures what the buyer approved."""
        fact = await super().query(attempt_id, channel=channel)
        return await self.step(attempt_id, channel=channel) if fact.is_our_turn else fact

    async def step(self, attempt_id: str, *, channel: Any = None) -> ChannelFact:
        """Takes the step that is ours."""
        used: Channel = channel or self.channel
        ref = self.refs[attempt_id]
        return await used.advance(attempt_id, ref=ref, timeout_seconds=TIMEOUT_SECONDS)


class SimulatedBTCPay(SimulatedChannel):
    """BTCPay Server. Buyers claim their refunds, and blocks come.

    Attributes:
        claims: the buyer claims a refund at once.
    """

    provider = BTCPAY
    steps: ClassVar = {
        "checkout": ("POST", "/api/v1/stores/STORE1/invoices", ""),
        "query": ("GET", "/api/v1/stores/STORE1/invoices", ""),
        "refund": ("POST", "/api/v1/invoices/", ""),
        "query_refund": ("GET", "/api/v1/stores/STORE1/pull-payments", ""),
    }
    currency = "USD"
    status_field = "0.status"
    closes = False
    tells = False
    claims = True

    def open(
        self, base_url: str, now: Callable[[], datetime] | None = None, **changed: Any
    ) -> btcpay.BTCPayChannel:
        """The simulated store."""
        config = self.running.simulation.config
        fields = {
            "store_id": config.store_id,
            "api_key": config.api_key,
            "webhook_secrets": [config.webhook_secret],
        }
        return btcpay.open_channel(
            account="btcpay_main",
            credentials=parse_btcpay({**fields, **changed}),
            is_live=False,
            notify_url="https://shop.example/btcpay",
            base_url=base_url,
            now=now or self.clock.now,
        )

    def secrets(self) -> list[str]:
        """Of the store."""
        config = self.running.simulation.config
        return [config.api_key, config.webhook_secret]

    async def buy(self, attempt_id: str, minor: int) -> ChannelFact:
        """Paid, and confirmed by a block."""
        await self.open_attempt(attempt_id, minor)
        await self.buyer(attempt_id, "pay")
        await self.confirm()
        return await self.query(attempt_id)

    async def confirm(self) -> None:
        """A block comes."""
        await self.advance(120)

    async def refund(
        self, refund_id: str, attempt_id: str, minor: int, total: int, *, channel: Any = None
    ) -> RefundFact:
        """Gives back a part, and the buyer claims it."""
        fact = await super().refund(refund_id, attempt_id, minor, total, channel=channel)
        return await self._claimed(fact)

    async def query_refund(
        self, refund_id: str, attempt_id: str, minor: int, total: int, *, channel: Any = None
    ) -> RefundFact:
        """Asks for a refund, and the buyer claims it."""
        fact = await super().query_refund(refund_id, attempt_id, minor, total, channel=channel)
        return await self._claimed(fact)

    async def _claimed(self, fact: RefundFact) -> RefundFact:
        if fact.channel_refund_no and self.claims:
            sent = {"ref": fact.channel_refund_no, "does": "claim"}
            await self.client.post("/_sim/buyer", json=sent)  # a second claim is refused
        return fact

    async def advance(self, seconds: float) -> None:
        """Moves the provider's clock, at first in steps: what follows from a deed takes its time
        from there.
        """
        for _ in range(3):
            step = min(61.0, seconds)
            await super().advance(step)
            seconds -= step
        if seconds > 0:
            await super().advance(seconds)

    async def deed(self, ref: str, does: str) -> None:
        """A deed at one invoice."""
        answer = await self.client.post("/_sim/buyer", json={"ref": ref, "does": does})
        assert answer.status_code == 200, answer.text

    async def invoices(self, attempt_id: str) -> list[Any]:
        """All invoices of an attempt, as the server has them."""
        answer = await self.client.get(
            f"/api/v1/stores/STORE1/invoices?orderId={attempt_id}", headers=self._key()
        )
        found: list[Any] = answer.json()
        return found

    async def another_invoice(self, attempt_id: str, amount: str) -> str:
        """The id of one more invoice of an attempt, which somebody else made."""
        sent = {"amount": amount, "currency": "USD", "metadata": {"orderId": attempt_id}}
        answer = await self.client.post(
            "/api/v1/stores/STORE1/invoices", json=sent, headers=self._key()
        )
        return str(answer.json()["id"])

    async def archive(self, invoice_id: str) -> None:
        """Somebody puts an invoice away."""
        answer = await self.client.delete(f"/api/v1/invoices/{invoice_id}", headers=self._key())
        assert answer.is_success, answer.text

    def _key(self) -> dict[str, str]:
        return {"authorization": f"token {self.running.simulation.config.api_key}"}


KINDS: dict[str, type[SimulatedChannel]] = {
    "alipay": SimulatedAlipay,
    "btcpay": SimulatedBTCPay,
    "paypal": SimulatedPayPal,
    "stripe": SimulatedStripe,
    "wechat": SimulatedWechat,
}


@asynccontextmanager
async def simulated_channel(
    name: str, clock: Clock | None = None
) -> AsyncIterator[SimulatedChannel]:
    """A fresh simulator on a port of its own, and a channel to it."""
    kind, clock = KINDS[name], clock or SystemClock()
    async with (
        running_provider(kind.provider, clock=clock) as running,
        httpx.AsyncClient(base_url=running.url, trust_env=False) as client,
    ):
        await client.post("/_sim/webhooks/mode", json={"hold": True})  # tests fetch notices
        simulated = kind(running, clock, client)
        await simulated.prepare()
        try:
            yield simulated
        finally:
            await simulated.channel.aclose()

"""What `paymesh demo-channels` does at each simulated provider: with which credentials, and what
the buyer does there. The credentials are those that the simulators publish; they open nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qs, urljoin, urlsplit
from zoneinfo import ZoneInfo

import httpx

from paymesh_cli.demo_client import DemoFailed, forms_of
from sandbox.providers.alipay.objects import AlipayConfig
from sandbox.providers.btcpay.config import BTCPayConfig
from sandbox.providers.paypal.config import PayPalConfig
from sandbox.providers.rsa_keys import MERCHANT, PROVIDER, private_pem, public_pem
from sandbox.providers.stripe.config import StripeConfig
from sandbox.providers.wechat.objects import WechatConfig

_UTC: Final = ZoneInfo("UTC")
_CHINA: Final = ZoneInfo("Asia/Shanghai")
# the simulated BTCPay Server confirms a payment a minute later, and pays a claim within two
_CONFIRMED_SECONDS: Final = 61
_PAID_OUT_SECONDS: Final = 181


class Simulator:
    """One simulated provider, seen by a buyer and by whoever turns its knobs."""

    def __init__(
        self, name: str, url: str, client: httpx.Client, note: Callable[[str], None]
    ) -> None:
        """
        Args:
            note: shows a line to whoever watches.
        """
        self.name = name
        self.url = url
        self._client = client
        self._note = note

    def deed(self, does: str, **who: str) -> None:
        """Does what a buyer does, without his browser: `ref` or `own_id` say at what.

        Raises:
            DemoFailed: it cannot be done. httpx.HTTPError: no answer.
        """
        self._send("/_sim/buyer", {"does": does, **who})

    def later(self, seconds: int) -> None:
        """Moves the provider's clock."""
        self._send("/_sim/clock", {"advance_seconds": seconds})

    def notices_to(self, url: str) -> None:
        """Says where its notices go, as a merchant does at the provider's dashboard."""
        self._send("/_sim/webhooks", {"url": url})

    def early_bills(self) -> None:
        """Lets it give the bill of today, which the provider itself gives tomorrow."""
        self._send("/_sim/bills", {"early": True})

    def notices_accepted(self) -> int:
        """How many of its notices the mesh has accepted so far.

        Raises:
            httpx.HTTPError: no answer.
        """
        answer = self._client.get(f"{self.url}/_sim/webhooks").raise_for_status()
        return sum(one["accepted"] for one in answer.json()["deliveries"])

    def page(self, url: str) -> httpx.Response:
        """Opens a page as a browser does.

        Raises:
            DemoFailed: an error page.
        """
        answer = self._client.get(url, follow_redirects=True)
        self._note(f"GET {url} → {answer.status_code}, a page for the buyer")
        if answer.status_code != 200:
            raise DemoFailed(f"GET {url}: HTTP {answer.status_code}")
        return answer

    def press(self, page: httpx.Response, does: str) -> None:
        """Presses the button of the only form of a page that says `does`."""
        forms = set(forms_of(page.text).values())
        if len(forms) != 1:
            raise DemoFailed(f"{page.url}: expected one form, found {len(forms)}")
        [(_, action)] = forms
        target = urljoin(str(page.url), action)
        answer = self._client.post(target, data={"does": does})
        self._note(f"presses the button: POST {target} {does} → {answer.status_code}")
        if answer.is_error:
            raise DemoFailed(f"POST {target}: HTTP {answer.status_code}")

    def _send(self, path: str, body: Mapping[str, Any]) -> None:
        answer = self._client.post(f"{self.url}{path}", json=body)
        self._note(f"POST {self.url}{path} {json.dumps(body)} → {answer.status_code}")
        if answer.is_error:
            raise DemoFailed(f"{self.name}: {path} {body}: {answer.text}")


def _nothing(_simulator: Simulator, _refund: Mapping[str, Any]) -> None:
    """The provider gives money back by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """What the demo does at one provider.

    Attributes:
        credentials: of an account there, from the URL of the simulator.
        kind: of the next action.
        pay: what the buyer does with the value of the next action.
        give_back: what the buyer does for a refund (its JSON), when the provider waits for him.
        statement_zone: in which it counts the days of its statements; None where it has none.
        registers: where notices go is registered there; otherwise each request says it.
    """

    currency: str
    credentials: Callable[[str], Mapping[str, Any]]
    kind: str
    pay: Callable[[Simulator, str], None]
    statement_zone: ZoneInfo | None
    give_back: Callable[[Simulator, Mapping[str, Any]], None] = _nothing
    registers: bool = True


def _stripe_credentials(_url: str) -> Mapping[str, Any]:
    config = StripeConfig()
    return {"secret_key": config.secret_key, "webhook_secrets": [config.webhook_secret]}


def pay_at_stripe(simulator: Simulator, client_secret: str) -> None:
    """A browser confirms with the client secret; the simulator has a page for it."""
    payment_intent = client_secret.partition("_secret_")[0]
    simulator.page(f"{simulator.url}/_sim/pay/{payment_intent}")
    simulator.deed("pay", ref=payment_intent)


def _paypal_credentials(_url: str) -> Mapping[str, Any]:
    config = PayPalConfig()
    return {
        "client_id": config.client_id,
        "client_secret": config.client_secret,
        "webhook_id": config.webhook_id,
    }


def pay_at_paypal(simulator: Simulator, url: str) -> None:
    """The buyer approves on PayPal's page; we capture when PayPal tells us."""
    simulator.page(url)
    simulator.deed("approve", ref=parse_qs(urlsplit(url).query)["token"][0])


def _alipay_credentials(_url: str) -> Mapping[str, Any]:
    config = AlipayConfig()
    return {
        "app_id": config.app_id,
        "seller_id": config.seller_id,
        "private_key": private_pem(MERCHANT),
        "alipay_public_key": public_pem(PROVIDER),
    }


def pay_at_alipay(simulator: Simulator, url: str) -> None:
    """The buyer pays on Alipay's page."""
    simulator.press(simulator.page(url), "pay")


def _wechat_credentials(_url: str) -> Mapping[str, Any]:
    config = WechatConfig()
    return {
        "mchid": config.mchid,
        "appid": config.appid,
        "serial_no": config.merchant_serial,
        "private_key": private_pem(MERCHANT),
        "api_v3_key": config.api_key,
        "public_keys": {config.provider_serial: public_pem(PROVIDER)},
    }


def pay_at_wechat(simulator: Simulator, code: str) -> None:
    """The buyer scans the code; at the simulator its text is the address of a page."""
    simulator.press(simulator.page(code), "pay")


def _btcpay_credentials(url: str) -> Mapping[str, Any]:
    config = BTCPayConfig()
    return {
        "server_url": url,
        "api_key": config.api_key,
        "store_id": config.store_id,
        "webhook_secrets": [config.webhook_secret],
    }


def pay_at_btcpay(simulator: Simulator, url: str) -> None:
    """The buyer sends coins, which the chain confirms."""
    invoice = urlsplit(url).path.rpartition("/")[2]
    simulator.page(url)
    simulator.deed("pay", ref=invoice)
    simulator.later(_CONFIRMED_SECONDS)


def claim_at_btcpay(simulator: Simulator, refund: Mapping[str, Any]) -> None:
    """The buyer says where the coins shall go, and the store pays them out."""
    simulator.deed("claim", ref=str(refund["channel_refund_no"]))
    simulator.later(_PAID_OUT_SECONDS)


VISITS: Final[Mapping[str, Visit]] = {
    "stripe": Visit(
        currency="USD",
        credentials=_stripe_credentials,
        kind="CLIENT_SECRET",
        pay=pay_at_stripe,
        statement_zone=_UTC,
    ),
    "paypal": Visit(
        currency="USD",
        credentials=_paypal_credentials,
        kind="REDIRECT_URL",
        pay=pay_at_paypal,
        statement_zone=_UTC,
    ),
    "alipay": Visit(
        currency="CNY",
        credentials=_alipay_credentials,
        kind="REDIRECT_URL",
        pay=pay_at_alipay,
        statement_zone=_CHINA,
        registers=False,
    ),
    "wechat": Visit(
        currency="CNY",
        credentials=_wechat_credentials,
        kind="QR_CODE",
        pay=pay_at_wechat,
        statement_zone=_CHINA,
        registers=False,
    ),
    "btcpay": Visit(
        currency="USD",
        credentials=_btcpay_credentials,
        kind="REDIRECT_URL",
        pay=pay_at_btcpay,
        give_back=claim_at_btcpay,
        statement_zone=None,
    ),
}

"""The providers at which merchants can have accounts: how credentials are read, and how a channel
is opened with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol

from payment_rpc.channels import Channel
from payment_rpc.channels.alipay import channel as alipay
from payment_rpc.channels.alipay import credentials as alipay_credentials
from payment_rpc.channels.btcpay import channel as btcpay
from payment_rpc.channels.btcpay import credentials as btcpay_credentials
from payment_rpc.channels.paypal import channel as paypal
from payment_rpc.channels.paypal import credentials as paypal_credentials
from payment_rpc.channels.stripe import channel as stripe
from payment_rpc.channels.stripe import credentials as stripe_credentials
from payment_rpc.channels.wechat import channel as wechat
from payment_rpc.channels.wechat import credentials as wechat_credentials


class OpenChannel(Protocol):
    """Opens a channel in a running loop. It makes no call."""

    def __call__(
        self,
        *,
        account: str,
        credentials: Any,
        is_live: bool,
        notify_url: str,
        base_url: str | None,
        now: Callable[[], datetime],
    ) -> Channel:
        """
        Args:
            account: the id of the account, the name of the channel.
            credentials: what `Provider.parse` gave.
            notify_url: where the provider sends its notices.
            base_url: where the provider listens; None: its own host for the mode.

        Raises:
            InvalidArgument: the account cannot be used so, e.g. its key is of the other mode.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """A payment provider.

    Attributes:
        parse: reads credentials; raises InvalidArgument that names the field, never its content.
        summary: what it can do, for people; one line.
        shown: fields of the credentials that are not secret.
        ends_shown: secret fields of which people see the last four characters, to tell two keys
            apart.
        is_live: whether credentials move real money; None where they do not say so.
        mode_field: the field that says so.
        server_field: the field that names the server, where each merchant has his own; "": none.
    """

    name: str
    parse: Callable[[Mapping[str, object]], Any]
    open_channel: OpenChannel
    summary: str
    shown: tuple[str, ...] = ()
    ends_shown: tuple[str, ...] = ()
    is_live: Callable[[Any], bool | None] = lambda _: None
    mode_field: str = ""
    server_field: str = ""


_ALL: Final = (
    Provider(
        name="alipay",
        parse=alipay_credentials.parse,
        open_channel=alipay.open_channel,
        summary="Alipay pages and QR codes, in CNY",
        shown=("app_id", "seller_id"),
    ),
    Provider(
        name="btcpay",
        parse=btcpay_credentials.parse,
        open_channel=btcpay.open_channel,
        summary="Invoices of the merchant's own BTCPay Server, in coins; they can never be closed",
        shown=("server_url", "store_id", "speed_policy"),
        ends_shown=("api_key",),
        server_field="server_url",
    ),
    Provider(
        name="paypal",
        parse=paypal_credentials.parse,
        open_channel=paypal.open_channel,
        summary="PayPal's page, with capture after approval and holds, in 24 currencies",
        shown=("client_id", "webhook_id", "merchant_id"),
        ends_shown=("client_secret",),
    ),
    Provider(
        name="stripe",
        parse=stripe_credentials.parse,
        open_channel=stripe.open_channel,
        summary="Stripe payment methods, client secrets and hosted pages, in many currencies",
        shown=("account_id",),
        ends_shown=("secret_key",),
        is_live=lambda credentials: bool(credentials.is_live),
        mode_field="secret_key",
    ),
    Provider(
        name="wechat",
        parse=wechat_credentials.parse,
        open_channel=wechat.open_channel,
        summary="WeChat Pay QR codes, h5 and jsapi, in CNY; it has no test mode of its own",
        shown=("mchid", "appid", "serial_no"),
    ),
)
PROVIDERS: Final[Mapping[str, Provider]] = {provider.name: provider for provider in _ALL}

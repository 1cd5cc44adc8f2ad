"""Orders and refunds of simulated WeChat Pay. Amounts are integers of fen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import rsa

from sandbox.providers.rsa_keys import MERCHANT, PROVIDER

FEE_PER_MILLE: Final = 6
CURRENCY: Final = "CNY"


class TradeState(StrEnum):
    """WeChat Pay's words for an order."""

    NOTPAY = "NOTPAY"
    SUCCESS = "SUCCESS"
    REFUND = "REFUND"
    CLOSED = "CLOSED"
    REVOKED = "REVOKED"
    USERPAYING = "USERPAYING"
    ACCEPT = "ACCEPT"
    PAYERROR = "PAYERROR"


DESCRIPTIONS: Final = {
    TradeState.NOTPAY: "订单未支付",
    TradeState.SUCCESS: "支付成功",
    TradeState.REFUND: "订单发生过退款，退款详情请查询退款单",
    TradeState.CLOSED: "订单已关闭",
    TradeState.REVOKED: "订单已撤销",
    TradeState.USERPAYING: "用户支付中",
    TradeState.ACCEPT: "已接收，等待扣款",
    TradeState.PAYERROR: "支付失败",
}


class RefundStatus(StrEnum):
    """WeChat Pay's words for a refund."""

    PROCESSING = "PROCESSING"
    SUCCESS = "SUCCESS"
    CLOSED = "CLOSED"
    ABNORMAL = "ABNORMAL"


@dataclass(frozen=True, slots=True, kw_only=True)
class WechatConfig:
    """One merchant. The keys of the default are those of development.

    Attributes:
        merchant_key: checks requests. merchant_serial: names it.
        provider_key: signs answers and notices. provider_serial: names it.
        api_key: 32 bytes; encrypts notices.
        refund_seconds: how long an ordinary refund is PROCESSING.
    """

    mchid: str = "1900000001"
    appid: str = "wx0000000000000001"
    merchant_serial: str = "7132D72A03E93CDDF8C03BBD1F37EEDF00000001"
    merchant_key: rsa.RSAPublicKey = field(default_factory=MERCHANT.public_key)
    provider_serial: str = "PUB_KEY_ID_0100000000012026100100000000000001"
    provider_key: rsa.RSAPrivateKey = PROVIDER
    api_key: str = "paymesh-test-apiv3-key-32-bytes!"
    refund_seconds: float = 5.0


@dataclass(slots=True, kw_only=True)
class Switches:
    """How answers misbehave. `POST /_sim/wechat` sets them.

    Attributes:
        unsigned: answers carry no signature.
        unknown_serial: answers name a key that the shop does not know.
    """

    unsigned: bool = False
    unknown_serial: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Refund:
    """A refund; `out_refund_no` is its key.

    Attributes:
        sent: the request as it was sent; a repetition must be equal.
    """

    refund_id: str
    out_refund_no: str
    sent: Mapping[str, Any]
    amount: int
    status: RefundStatus
    created_at: datetime
    success_at: datetime | None = None

    @property
    def notify_url(self) -> str:
        """Where its end is told; "" when the request named no address."""
        return str(self.sent.get("notify_url", ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """An order, which exists since its prepay.

    Attributes:
        trade_type: NATIVE, JSAPI, MWEB or APP.
        sent: the request as it was sent; a repetition must be equal.
        expires_at: the buyer cannot pay any more from then on. The state stays NOTPAY.
    """

    trade_type: str
    sent: Mapping[str, Any]
    state: TradeState
    created_at: datetime
    expires_at: datetime
    token: str
    token_until: datetime
    transaction_id: str = ""
    payer_total: int = 0
    success_at: datetime | None = None
    refunds: tuple[Refund, ...] = ()

    @property
    def out_trade_no(self) -> str:
        """The shop's number."""
        return str(self.sent["out_trade_no"])

    @property
    def total(self) -> int:
        """The amount in fen."""
        return int(self.sent["amount"]["total"])

    @property
    def openid(self) -> str:
        """The buyer."""
        return str(self.sent.get("payer", {}).get("openid", "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o"))

    @property
    def claimed(self) -> int:
        """What has gone back or is about to, in fen; an abnormal refund still holds its money."""
        ended = RefundStatus.CLOSED
        return sum(one.amount for one in self.refunds if one.status is not ended)

"""Trades and refunds of simulated Alipay. Amounts are integers of fen."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from cryptography.hazmat.primitives.asymmetric import rsa

from sandbox.providers.rsa_keys import MERCHANT, PROVIDER

FEE_PER_MILLE: Final = 6


class TradeStatus(StrEnum):
    """Alipay's words."""

    WAIT_BUYER_PAY = "WAIT_BUYER_PAY"
    TRADE_SUCCESS = "TRADE_SUCCESS"
    TRADE_FINISHED = "TRADE_FINISHED"
    TRADE_CLOSED = "TRADE_CLOSED"


@dataclass(frozen=True, slots=True, kw_only=True)
class AlipayConfig:
    """One shop's app. The keys of the default are those of development.

    Attributes:
        merchant_key: checks requests. provider_key: signs answers and notices.
        signs_empty_fields: the signature of a notice covers empty fields too; Alipay's documents
            contradict each other.
    """

    app_id: str = "2021000000000001"
    seller_id: str = "2088000000000001"
    merchant_key: rsa.RSAPublicKey = field(default_factory=MERCHANT.public_key)
    provider_key: rsa.RSAPrivateKey = PROVIDER
    signs_empty_fields: bool = False


@dataclass(slots=True, kw_only=True)
class Switches:
    """What documents leave open, or differ in. `POST /_sim/alipay` sets them.

    Attributes:
        signs_errors: answers other than success carry a signature.
        refund_notices: a refund is told like a payment.
        empty_field: a notice has an empty field.
    """

    signs_errors: bool = True
    refund_notices: bool = True
    empty_field: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the shop asks for.

    Attributes:
        expires_at: the buyer cannot pay any more from then on.
    """

    out_trade_no: str
    total: int
    subject: str
    body: str
    passback_params: str
    method: str
    notify_url: str
    return_url: str
    expires_at: datetime

    def agrees(self, other: Terms) -> bool:
        """True when both mean the same trade."""
        return (self.total, self.subject) == (other.total, other.subject)


class RefundState(StrEnum):
    """Whether the money of a refund has moved."""

    NOT_MOVED = "NOT_MOVED"
    LATER = "LATER"
    MOVED = "MOVED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refund:
    """A refund; `out_request_no` is its key within the trade."""

    out_request_no: str
    amount: int
    reason: str
    state: RefundState
    asked_at: datetime
    moved_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trade:
    """A trade, which exists since the buyer opened or scanned it."""

    terms: Terms
    trade_no: str
    status: TradeStatus
    created_at: datetime
    paid_at: datetime | None = None
    closed_at: datetime | None = None
    refunds: tuple[Refund, ...] = ()

    @property
    def total(self) -> int:
        """The amount of the trade in fen."""
        return self.terms.total

    @property
    def refunded(self) -> int:
        """What has gone back, in fen."""
        return sum(one.amount for one in self.refunds if one.state is RefundState.MOVED)

    @property
    def claimed(self) -> int:
        """What has gone back or is about to, in fen."""
        return sum(one.amount for one in self.refunds if one.state is not RefundState.NOT_MOVED)

    def refund(self, out_request_no: str) -> Refund | None:
        """The refund of this number."""
        return next((one for one in self.refunds if one.out_request_no == out_request_no), None)

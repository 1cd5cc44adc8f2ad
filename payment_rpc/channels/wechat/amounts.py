"""Amounts at WeChat Pay: whole fen in its API, yuan in its bills. It takes CNY only."""

from __future__ import annotations

from typing import Final

import msgspec

from mesh.money import Money
from payment_rpc.channels.capabilities import Limits
from payment_rpc.channels.doubt import Unclear

LIMITS: Final = {"CNY": Limits(minimum_minor=1)}
_MINOR_MAX: Final = 10**15


class Total(msgspec.Struct, frozen=True, kw_only=True):
    """What an order costs. A buyer with coupons pays less (`payer_total`); we get the same."""

    total: int
    currency: str = "CNY"


def write_fen(amount: Money) -> int:
    """As requests spell it.

    Raises:
        ValueError: not CNY, which the capabilities refuse before.
    """
    if amount.currency not in LIMITS:
        raise ValueError(f"WeChat Pay takes no {amount.currency}")
    return amount.minor


def read_fen(minor: int, currency: str = "CNY") -> Money:
    """An amount in an answer.

    Raises:
        Unclear: no amount, or of another currency.
    """
    if currency not in LIMITS or not 0 < minor < _MINOR_MAX:
        raise Unclear("the amount cannot be read")
    return Money(minor, currency)

"""Amounts at Alipay: texts of yuan with two digits. Here it takes CNY only."""

from __future__ import annotations

from typing import Final

from mesh.money import Money
from payment_rpc.channels.capabilities import Limits
from payment_rpc.channels.china import yuan
from payment_rpc.channels.doubt import Unclear

# Alipay documents 0.01 to 100000000 yuan.
LIMITS: Final = {"CNY": Limits(minimum_minor=1, maximum_minor=10_000_000_000)}


def write_amount(amount: Money) -> str:
    """As requests spell it.

    Raises:
        ValueError: not CNY, which the capabilities refuse before.
    """
    if amount.currency not in LIMITS:
        raise ValueError(f"Alipay takes no {amount.currency}")
    return amount.format()


def read_amount(text: str) -> Money:
    """An amount in an answer; "99.9" happens.

    Raises:
        Unclear: it is none, negative, or has parts of a fen.
    """
    found = yuan(text)
    if found is None or found.minor < 0:
        raise Unclear("the amount cannot be read")
    return found

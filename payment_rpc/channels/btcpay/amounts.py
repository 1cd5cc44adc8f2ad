"""Amounts of a BTCPay Server: decimal strings, of money and of coins."""

from __future__ import annotations

import re
from typing import Final

from mesh.errors import InvalidArgument
from mesh.money import DIGITS_MAX, Money, currency_exponent

_DIGITS: Final = 18
_NUMBER: Final = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,18}))?", re.ASCII)


def read_amount(text: str, currency: str) -> Money:
    """An amount of money; zeros after its last digit mean nothing.

    Raises:
        ValueError: not an amount of that currency.
    """
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise ValueError("not an amount")
    fraction = (match[2] or "").rstrip("0")
    try:
        return Money.parse(
            f"{match[1]}.{fraction}" if fraction else match[1], currency, allow_zero=True
        )
    except InvalidArgument:
        raise ValueError("not an amount of its currency") from None


def worth(coins: list[str], rates: list[str], currency: str) -> Money:
    """What payments were worth at the rates of their invoice, rounded down.

    Args:
        coins, rates: of each payment.

    Raises:
        ValueError: not numbers, or an unknown currency.
    """
    if not all(map(_NUMBER.fullmatch, (*coins, *rates))):
        raise ValueError("not a number")
    try:
        exponent = currency_exponent(currency)
    except InvalidArgument:
        raise ValueError("not a currency") from None
    total = sum(_scaled(coin) * _scaled(rate) for coin, rate in zip(coins, rates, strict=True))
    minor = total * 10**exponent // 10 ** (2 * _DIGITS)
    if len(str(minor)) > DIGITS_MAX:
        raise ValueError("more money than there is")
    return Money(minor, currency)


def _scaled(text: str) -> int:
    """A number times 10 to the power of `_DIGITS`."""
    whole, _, fraction = text.partition(".")
    return int(whole + fraction.ljust(_DIGITS, "0"))

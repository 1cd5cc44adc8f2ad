"""Amounts as PayPal writes them: decimal strings with PayPal's own number of digits per currency.
PayPal documents that HUF, JPY and TWD have no decimals; ISO 4217 gives HUF and TWD two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mesh.errors import InvalidArgument
from mesh.money import Money, currency_exponent
from payment_rpc.channels.capabilities import Limits

_WHOLE: Final = frozenset({"HUF", "JPY", "TWD"})
_TAKEN: Final = [
    "AUD",
    "BRL",
    "CAD",
    "CHF",
    "CNY",
    "CZK",
    "DKK",
    "EUR",
    "GBP",
    "HKD",
    "HUF",
    "ILS",
    "JPY",
    "MXN",
    "MYR",
    "NOK",
    "NZD",
    "PHP",
    "PLN",
    "SEK",
    "SGD",
    "THB",
    "TWD",
    "USD",
]


def _step(currency: str) -> int:
    """PayPal's smallest unit in our minor units."""
    return 100 if currency in _WHOLE and currency_exponent(currency) == 2 else 1


# BRL, CNY and MYR only for accounts in those countries, which PayPal checks
CURRENCIES: Final[Mapping[str, Limits]] = {
    currency: Limits(minimum_minor=_step(currency), step_minor=_step(currency))
    for currency in _TAKEN
}


def write_amount(amount: Money) -> dict[str, str]:
    """An amount as a request has it.

    Raises:
        ValueError: PayPal cannot express it; `CURRENCIES` says so before.
    """
    limits = CURRENCIES.get(amount.currency)
    if limits is None or amount.minor % limits.step_minor:
        raise ValueError(f"PayPal cannot express {amount}")
    text = amount.format()
    return {
        "currency_code": amount.currency,
        "value": text.partition(".")[0] if amount.currency in _WHOLE else text,
    }


def read_amount(value: str, currency: str, *, is_signed: bool = False) -> Money:
    """An amount of PayPal's, zero too.

    Args:
        is_signed: a leading minus is read; otherwise refused.

    Raises:
        ValueError: not an amount, in a currency that PayPal does not take, or a part of its
            smallest unit.
    """
    if currency not in CURRENCIES:
        raise ValueError("not a currency of PayPal's")
    digits = value.removeprefix("-") if is_signed else value
    try:
        read = Money.parse(digits, currency, allow_zero=True)
    except InvalidArgument:
        raise ValueError("not an amount") from None
    if read.minor % CURRENCIES[currency].step_minor:
        raise ValueError("less than PayPal's smallest unit")
    return Money(-read.minor, currency) if value.startswith("-") else read

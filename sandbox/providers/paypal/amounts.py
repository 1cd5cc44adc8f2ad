"""Amounts as PayPal writes them: decimal strings, without decimals in HUF, JPY and TWD whatever
ISO 4217 says, with two in every other currency.
"""

from __future__ import annotations

import re

from mesh.money import Money, currency_exponent
from sandbox.providers.paypal.refusals import invalid, unprocessable

CURRENCIES = frozenset(
    {
        *("AUD", "BRL", "CAD", "CHF", "CNY", "CZK", "DKK", "EUR", "GBP", "HKD", "HUF", "ILS"),
        *("JPY", "MXN", "MYR", "NOK", "NZD", "PHP", "PLN", "SEK", "SGD", "THB", "TWD", "USD"),
    }
)
WHOLE_CURRENCIES = frozenset({"HUF", "JPY", "TWD"})

_VALUE = re.compile(r"[0-9]{1,10}(\.[0-9]{1,3})?", re.ASCII)
_FEE_PER_THOUSAND = 29
_FIXED_FEE = 30  # in hundredths; currencies without decimals have none


def read_amount(currency: str, value: str, *, field: str) -> Money:
    """An amount of a request.

    Args:
        field: where it stands in the request, as a JSON pointer.

    Raises:
        Refused: no decimal string (400); a currency that PayPal does not take, too many decimals
            or zero (422).
    """
    if not _VALUE.fullmatch(value):
        raise invalid("INVALID_PARAMETER_SYNTAX", f"{field}/value")
    if currency not in CURRENCIES:
        raise unprocessable("CURRENCY_NOT_SUPPORTED", field=f"{field}/currency_code")
    whole, _, decimals = value.partition(".")
    if decimals and currency in WHOLE_CURRENCIES:
        raise unprocessable("DECIMALS_NOT_SUPPORTED", field=f"{field}/value")
    if len(decimals) > 2:
        raise unprocessable("DECIMAL_PRECISION", field=f"{field}/value")
    minor = int(whole + decimals.ljust(currency_exponent(currency), "0"))
    if minor == 0:
        raise unprocessable("CANNOT_BE_ZERO_OR_NEGATIVE", field=f"{field}/value")
    return Money(minor, currency)


def written_value(money: Money) -> str:
    """The decimal string of an amount; a negative one has a leading minus."""
    text = money.format()
    return text.partition(".")[0] if money.currency in WHOLE_CURRENCIES else text


def amount_json(money: Money) -> dict[str, str]:
    """An amount as an object of an answer."""
    return {"currency_code": money.currency, "value": written_value(money)}


def last_two_digits(money: Money) -> int:
    """What the triggers look at: the last two digits that PayPal writes."""
    return int(written_value(money).replace(".", "")[-2:])


def fee_of(money: Money) -> Money:
    """What PayPal keeps of a payment: 2.9 %, half up, and 0.30 where there are decimals; at most
    the payment.
    """
    if money.currency not in WHOLE_CURRENCIES:
        share = (money.minor * _FEE_PER_THOUSAND + 500) // 1000 + _FIXED_FEE
        return Money(min(share, money.minor), money.currency)
    unit = 10 ** currency_exponent(money.currency)
    return Money((money.minor // unit * _FEE_PER_THOUSAND + 500) // 1000 * unit, money.currency)

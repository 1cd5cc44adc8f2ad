"""Amounts as Stripe writes them: integers, with Stripe's own number of digits per currency, which
is not always that of ISO 4217 (docs.stripe.com, "Supported currencies").
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from mesh.money import CURRENCIES as KNOWN
from mesh.money import Money, currency_exponent
from payment_rpc.channels.capabilities import Limits

_NO_DIGITS = frozenset(
    "BIF CLP DJF GNF JPY KMF KRW MGA PYG RWF VND VUV XAF XOF XPF".split()  # noqa: SIM905  # one word per code reads better
)
_THREE_DIGITS = frozenset({"BHD", "JOD", "KWD", "OMR", "TND"})
# in Stripe's units: the last digit of three is always 0; there are no parts of a króna or shilling
_STEPS = {**dict.fromkeys(_THREE_DIGITS, 10), "ISK": 100, "UGX": 100}
# not among the currencies that Stripe takes
_NOT_TAKEN = frozenset(
    "BTN CUP ERN GHS IQD IRR KPW LYD MRU SDG SSP STN SVC SYP TMT VED VES XCG ZWG".split()  # noqa: SIM905  # one word per code reads better
)
# Stripe's minimums in major units. They hold for the currency of the bank account; an amount that
# is converted has to reach the equivalent, which only Stripe knows.
_MINIMUMS = {
    **dict.fromkeys(
        "USD EUR ARS AUD BRL CAD CHF COP IDR ILS INR NZD PHP RUB SGD ZAR".split(),  # noqa: SIM905  # one word per code reads better
        "0.50",
    ),
    "AED": "2.00",
    "CZK": "15.00",
    "DKK": "2.50",
    "GBP": "0.30",
    "HKD": "4.00",
    "HUF": "175.00",
    "JPY": "50",
    "KRW": "50",
    "MXN": "10.00",
    "MYR": "2.00",
    "NOK": "3.00",
    "PLN": "2.00",
    "RON": "2.00",
    "SEK": "3.00",
    "THB": "10.00",
}
_MAXIMUM = 999_999_999_999  # in Stripe's units: 12 digits with most cards, fewer with other methods


def _digits(currency: str) -> int:
    if currency in _NO_DIGITS:
        return 0
    return 3 if currency in _THREE_DIGITS else 2


@cache
def _ratio(currency: str) -> tuple[int, int]:
    """Stripe's units per our minor units, as a fraction of which one side is 1."""
    more = _digits(currency) - currency_exponent(currency)
    return (10**more, 1) if more >= 0 else (1, 10**-more)


def to_stripe(amount: Money) -> int:
    """An amount in Stripe's units.

    Raises:
        ValueError: Stripe cannot express it; `CURRENCIES` says so before.
    """
    units, ours = _ratio(amount.currency)
    if amount.currency not in CURRENCIES or amount.minor % ours:
        raise ValueError(f"Stripe cannot express {amount}")
    return amount.minor * units // ours


def from_stripe(number: int, currency: str) -> Money:
    """An amount of Stripe's, zero or negative ones too.

    Args:
        currency: in lower case, as Stripe writes it.

    Raises:
        ValueError: a currency that Stripe does not take, or a part of our smallest unit.
    """
    code = currency.upper()
    if currency != code.lower() or code not in CURRENCIES:
        raise ValueError(f"not a currency of Stripe's: {currency[:8]!r}")
    units, ours = _ratio(code)
    if number % units:
        raise ValueError(f"{number} is less than the smallest unit of {code}")
    return Money(number // units * ours, code)


def _limits(currency: str) -> Limits:
    units, ours = _ratio(currency)
    step = max(_STEPS.get(currency, 1) * ours // units, ours)
    minimum = Money.parse(_MINIMUMS[currency], currency).minor if currency in _MINIMUMS else step
    return Limits(
        minimum_minor=minimum,
        maximum_minor=_MAXIMUM * ours // units // step * step,
        step_minor=step,
    )


# what is charged, with the amounts that Stripe takes
CURRENCIES: Mapping[str, Limits] = {
    currency: _limits(currency) for currency in KNOWN if currency not in _NOT_TAKEN
}

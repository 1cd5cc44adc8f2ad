"""The currencies of Stripe: its own digits, steps and minimum amounts, which are not those of ISO.

Amounts are integers of Stripe's smallest unit. ISK and UGX have no digits in ISO and are sent to
Stripe with two, which are 00; three-decimal amounts end in 0.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Final

from mesh.money import CURRENCIES, Money, currency_exponent
from sandbox.providers.stripe.errors import invalid

_ZERO_DECIMAL: Final = frozenset(
    (
        "bif",
        "clp",
        "djf",
        "gnf",
        "jpy",
        "kmf",
        "krw",
        "mga",
        "pyg",
        "rwf",
        "vnd",
        "vuv",
        "xaf",
        "xof",
        "xpf",
    )
)
_THREE_DECIMAL: Final = frozenset(("bhd", "jod", "kwd", "omr", "tnd"))
_WHOLE_UNITS: Final = frozenset({"isk", "ugx"})
_NOT_TAKEN: Final = frozenset(("cup", "iqd", "irr", "kpw", "lyd", "ssp", "sdg", "ved", "ves"))
SUPPORTED: Final = frozenset(code.lower() for code in CURRENCIES) - _NOT_TAKEN
# in the smallest unit
_MINIMUM: Final = {
    **dict.fromkeys(("usd", "eur", "aud", "cad", "chf", "brl", "inr", "nzd", "sgd"), 50),
    **dict.fromkeys(("jpy", "krw"), 50),
    **dict.fromkeys(("nok", "sek"), 300),
    **dict.fromkeys(("aed", "myr", "pln", "ron"), 200),
    "gbp": 30,
    "czk": 1500,
    "dkk": 250,
    "hkd": 400,
    "huf": 17_500,
    "mxn": 1000,
    "thb": 1000,
}
DIGITS_MAX: Final = 12
# How many US dollars a unit costs: made up, and steady, so that a test can compute with them.
_DOLLARS: Final = {
    "usd": Fraction(1),
    "eur": Fraction(110, 100),
    "gbp": Fraction(125, 100),
    "chf": Fraction(115, 100),
    "cny": Fraction(14, 100),
    "hkd": Fraction(125, 1000),
    "jpy": Fraction(1, 150),
    "krw": Fraction(1, 1400),
    "huf": Fraction(1, 400),
    "isk": Fraction(1, 140),
    "ugx": Fraction(1, 3700),
    "vnd": Fraction(1, 25_000),
    "kwd": Fraction(325, 100),
    "bhd": Fraction(265, 100),
}
_OTHER_DOLLARS: Final = Fraction(1, 5)


def digits(currency: str) -> int:
    """Digits of Stripe's smallest unit."""
    if currency in _ZERO_DECIMAL:
        return 0
    return 3 if currency in _THREE_DECIMAL else 2


def check_currency(currency: str) -> None:
    """Raises StripeError for a currency that Stripe does not take, or not in lower case."""
    if currency not in SUPPORTED:
        raise invalid(
            f"Invalid currency: {currency}. Stripe currently supports these currencies: "
            + ", ".join(sorted(SUPPORTED)),
            param="currency",
        )


def check_step(amount: int, currency: str, *, param: str = "amount") -> None:
    """Raises StripeError for an amount that has digits which the currency does not have."""
    step = 10 if currency in _THREE_DECIMAL else 100 if currency in _WHOLE_UNITS else 1
    if amount % step:
        raise invalid(
            f"Invalid amount: amounts in {currency} must be multiples of {step}.",
            param=param,
            code="parameter_invalid_integer",
        )


def check_charge(amount: int, currency: str, *, digits_max: int = DIGITS_MAX) -> None:
    """Raises StripeError for an amount below the minimum or above the maximum of a charge."""
    least = _MINIMUM.get(currency, 1)
    if amount < least:
        raise invalid(
            f"Amount must be at least {least} in the smallest unit of {currency}.",
            param="amount",
            code="amount_too_small",
        )
    if len(str(amount)) > digits_max:
        raise invalid(
            f"Amount must be no more than {digits_max} digits.",
            param="amount",
            code="amount_too_large",
        )


def money(amount: int, currency: str) -> Money:
    """An amount of Stripe's as money with ISO's digits."""
    iso = currency_exponent(currency.upper())
    stripe = digits(currency)
    if stripe >= iso:
        return Money(amount // 10 ** (stripe - iso), currency.upper())
    return Money(amount * 10 ** (iso - stripe), currency.upper())


def rate(source: str, target: str) -> Fraction:
    """How many units of `target` a unit of `source` gives."""
    return _DOLLARS.get(source, _OTHER_DOLLARS) / _DOLLARS.get(target, _OTHER_DOLLARS)


def exchanged(amount: int, source: str, target: str) -> int:
    """An amount in the smallest unit of another currency, half up."""
    exact = amount * rate(source, target) * Fraction(10) ** (digits(target) - digits(source))
    return int(exact + Fraction(1, 2)) if exact >= 0 else -int(-exact + Fraction(1, 2))

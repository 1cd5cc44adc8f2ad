"""Defines `Money`, integers of minor units, and `RequestedAmount`, an amount as a request spells
it. Boundaries use exact decimal strings in major units; only this module converts.

Digits per currency are those of ISO 4217. A number is refused by a pattern before any Decimal or
int is built from it: `int(Decimal("1e3000000"))` keeps a CPU busy for minutes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import total_ordering
from typing import Self

from mesh.errors import InvalidArgument

# Digits after the point of the currencies in use, ISO 4217. Others are refused: funds, metals, test
# codes, four digits.
_CODES = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF",
    3: "BHD IQD JOD KWD LYD OMR TND",
    2: (
        "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BRL BSD BTN BWP "
        "BYN BZD CAD CDF CHF CNY COP CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP "
        "GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT "
        "LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN "
        "NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP "
        "SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD UYU UZS VED "
        "VES WST XCD XCG YER ZAR ZMW ZWG"
    ),
}
_EXPONENTS = {code: digits for digits, codes in _CODES.items() for code in codes.split()}
CURRENCIES = tuple(sorted(_EXPONENTS))
DEFAULT_CURRENCY = "CNY"
# of a written amount: keeps every sum of a day far below 2**63 minor units
DIGITS_MAX = 15

_AMOUNT = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,3}))?", re.ASCII)


def currency_exponent(currency: str, *, field: str = "currency") -> int:
    """Digits after the point of a currency.

    Raises:
        InvalidArgument: the currency is unknown; names `field`.
    """
    try:
        return _EXPONENTS[currency]
    except KeyError:
        raise InvalidArgument.of(
            field, "unknown currency, expected an ISO 4217 code such as CNY"
        ) from None


def stored_currency(currency: str) -> str:
    """Checks the currency of a stored row. Our code writes only known ones, so a violation is not
    the fault of a request.

    Raises:
        ValueError: the currency is unknown.
    """
    if currency not in _EXPONENTS:
        raise ValueError(f"a row has the unknown currency {currency!r}")
    return currency


@total_ordering
@dataclass(frozen=True, slots=True)
class Money:
    """An amount of minor units of one currency. Comparing or adding two currencies is a programming
    error and raises ValueError.
    """

    minor: int
    currency: str

    @classmethod
    def zero(cls, currency: str) -> Money:
        """The zero amount in a currency."""
        return cls(0, currency)

    @classmethod
    def parse(
        cls,
        text: str,
        currency: str,
        *,
        field: str = "amount",
        currency_field: str = "currency",
        allow_zero: bool = False,
    ) -> Money:
        """Reads an amount in major units, e.g. "99.99".

        Raises:
            InvalidArgument: sign, exponent, NaN, more digits than the currency has, more than 15
                digits, zero unless allowed, unknown currency.
        """
        exponent = currency_exponent(currency, field=currency_field)
        match = _AMOUNT.fullmatch(text)
        if match is None:
            raise InvalidArgument.of(
                field, 'expected a decimal string in major units such as "99.99"'
            )
        whole, fraction = match[1], match[2] or ""
        if len(fraction) > exponent:
            raise InvalidArgument.of(field, f"{currency} has {exponent} digits after the point")
        if len(whole) + exponent > DIGITS_MAX:
            raise InvalidArgument.of(field, f"more than {DIGITS_MAX} digits")
        minor = int(whole + fraction.ljust(exponent, "0"))
        if minor == 0 and not allow_zero:
            raise InvalidArgument.of(field, "must be greater than zero")
        return cls(minor, currency)

    def format(self) -> str:
        """The amount in major units with the currency's digits, e.g. "99.90"; a negative amount has
        a leading minus.
        """
        exponent = currency_exponent(self.currency)
        sign = "-" if self.minor < 0 else ""
        digits = str(abs(self.minor)).rjust(exponent + 1, "0")
        return f"{sign}{digits[:-exponent]}.{digits[-exponent:]}" if exponent else f"{sign}{digits}"

    def times(self, count: int) -> Money:
        """This amount `count` times."""
        return Money(self.minor * count, self.currency)

    def __add__(self, other: Money) -> Money:
        return Money(self.minor + self._same_currency(other), self.currency)

    def __sub__(self, other: Money) -> Money:
        return Money(self.minor - self._same_currency(other), self.currency)

    def __lt__(self, other: Money) -> bool:
        return self.minor < self._same_currency(other)

    def __str__(self) -> str:
        if self.currency not in _EXPONENTS:  # str() must work for debugging
            return f"{self.minor} in minor units of {self.currency}"
        return f"{self.format()} {self.currency}"

    def _same_currency(self, other: Money) -> int:
        if other.currency != self.currency:
            raise ValueError(f"{self.currency} and {other.currency} do not mix")
        return other.minor


@dataclass(frozen=True, slots=True)
class RequestedAmount:
    """An amount as a request spells it. A request may omit the currency, or the whole amount, and
    then means those of an order, a payment or a product. The text becomes money only when that is
    known.

    The servicer makes it once; use cases and domain never parse a request's text themselves.

    Attributes:
        text: decimal string in major units; "" when the request names no amount.
        currency: ISO 4217 code; "" when the request names none.
        minor: the amount in minor units, where the request spells it so and `text` is "".
    """

    text: str
    currency: str = ""
    minor: int | None = None

    @classmethod
    def sent(
        cls, text: str, minor: int | None, currency: str = "", *, field: str = "amount"
    ) -> Self:
        """An amount that a request may spell in major units (`field`) or in minor ones
        (`<field>_minor`).

        Raises:
            InvalidArgument: both are given; names the fields.
        """
        _require_one_of(text, minor, field=field)
        return cls(text, currency, minor)

    def spelled_in(self, currency: str) -> RequestedAmount:
        """This amount as text, when the currency is known that its minor units are of."""
        if self.minor is None:
            return self
        return RequestedAmount(Money(self.minor, currency).format(), self.currency)

    @property
    def canonical(self) -> str:
        """The one spelling of "9.9", "09.90" and "9.900", so that a repeated request is recognised
        before its currency is known; "0" for no amount.
        """
        whole, _, fraction = self.text.partition(".")
        fraction = fraction.rstrip("0")
        return (whole.lstrip("0") or "0") + (f".{fraction}" if fraction else "")

    def positive(self, *, field: str = "amount") -> RequestedAmount:
        """This amount.

        Raises:
            InvalidArgument: it is zero; names `field`. A missing amount is not zero.
        """
        if self.text and self.canonical == "0":
            raise InvalidArgument.of(field, "must be greater than zero")
        return self

    def matches(self, money: Money, *, field: str = "amount", allow_zero: bool = False) -> bool:
        """True when the text, read in the currency of `money`, equals `money`, or is empty.

        Raises:
            InvalidArgument: the text is no amount of that currency; names `field`.
        """
        return (
            not self.text
            or self.in_currency(money.currency, field=field, allow_zero=allow_zero) == money
        )

    def in_currency(
        self, currency: str, *, field: str = "amount", allow_zero: bool = False
    ) -> Money:
        """The text as money of a currency, whatever currency the request names.

        Raises:
            InvalidArgument: the text is no amount of that currency, or empty; names `field`.
        """
        return Money.parse(self.text, currency, field=field, allow_zero=allow_zero)


def amount_sent(
    text: str, minor: int | None, currency: str, *, field: str, allow_zero: bool = False
) -> Money | None:
    """An amount that a request may spell in major units (`field`) or in minor ones
    (`<field>_minor`); None when it does neither.

    Raises:
        InvalidArgument: both are given, or it is no amount of that currency; names the field.
    """
    _require_one_of(text, minor, field=field)
    if minor is None:
        return Money.parse(text, currency, field=field, allow_zero=allow_zero) if text else None
    currency_exponent(currency)
    if not (0 if allow_zero else 1) <= minor < 10**DIGITS_MAX:
        raise InvalidArgument.of(f"{field}_minor", "must be greater than zero")
    return Money(minor, currency)


def required_amount(
    text: str, minor: int | None, currency: str, *, field: str, allow_zero: bool = False
) -> Money:
    """As `amount_sent`, of a request that has to name an amount.

    Raises:
        InvalidArgument: besides, neither is given.
    """
    amount = amount_sent(text, minor, currency, field=field, allow_zero=allow_zero)
    if amount is None:
        raise InvalidArgument.of(field, "is required")
    return amount


def _require_one_of(text: str, minor: int | None, *, field: str) -> None:
    if text and minor is not None:
        problem = "only one of major and minor units may be given"
        raise InvalidArgument(
            f"{field}: {problem}", fields={field: problem, f"{field}_minor": problem}
        )

"""A card as the buyer typed it. It lives in memory for one call; what is stored is its CardSummary.

The rule is that of source 002 (go-credit-card), with a real Luhn check: month, expiry, length of
the CVV, digits, length, Luhn.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import date

from payment_rpc.domain.errors import CardInvalid

_SEPARATORS = re.compile(r"[ -]")
_NUMBER = re.compile(r"[0-9]{13,19}", re.ASCII)
_CVV = re.compile(r"[0-9]{3,4}", re.ASCII)
_BRANDS = (
    ("amex", re.compile(r"3[47]")),
    ("diners", re.compile(r"3(?:0[0-5]|[689])")),
    ("discover", re.compile(r"6(?:011|4[4-9]|5)")),
    ("jcb", re.compile(r"35")),
    ("mastercard", re.compile(r"(?:5[1-5]|2(?:22[1-9]|2[3-9]|[3-6]|7[01]|720))")),
    ("unionpay", re.compile(r"62")),
    ("visa", re.compile(r"4")),
)
YEARS_AHEAD_MAX = 50  # a later expiry is a typing error


@dataclass(frozen=True, slots=True, kw_only=True)
class CardSummary:
    """What may be stored and shown of a card, and what makes two requests the same request."""

    brand: str
    last_four: str
    expiration_year: int
    expiration_month: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A checked card. Number and CVV never show in a repr."""

    number: str = field(repr=False)
    cvv: str = field(repr=False)
    expiration_year: int
    expiration_month: int

    @classmethod
    def parse(
        cls, *, number: str, cvv: str, expiration_year: int, expiration_month: int, today: date
    ) -> Card:
        """Checks what the buyer typed. A year below 100 means 20xx.

        Raises:
            CardInvalid: names the field, never its value.
        """
        given = {
            "credit_card_number": number,
            "credit_card_cvv": cvv,
            "credit_card_expiration_year": expiration_year,
            "credit_card_expiration_month": expiration_month,
        }
        missing = [name for name, value in given.items() if not value]
        if len(missing) == len(given):
            raise CardInvalid("credit_card: is required", fields={"credit_card": "is required"})
        if missing:
            raise _invalid(missing[0], "is required")
        digits = _SEPARATORS.sub("", number)
        if not _NUMBER.fullmatch(digits):
            raise _invalid("credit_card_number", "must be 13 to 19 digits")
        if not _luhn(digits):
            raise _invalid("credit_card_number", "fails the check digit")
        if not _CVV.fullmatch(cvv):
            raise _invalid("credit_card_cvv", "must be 3 or 4 digits")
        if not 1 <= expiration_month <= 12:
            raise _invalid("credit_card_expiration_month", "must be 1 to 12")
        year = (
            expiration_year + today.year // 100 * 100
            if 0 <= expiration_year < 100
            else expiration_year
        )
        if (year, expiration_month) < (today.year, today.month):
            raise _invalid("credit_card_expiration_year", "the card has expired")
        if year > today.year + YEARS_AHEAD_MAX:
            raise _invalid("credit_card_expiration_year", "is too far in the future")
        return cls(number=digits, cvv=cvv, expiration_year=year, expiration_month=expiration_month)

    def summary(self) -> CardSummary:
        """What may be stored."""
        brand = next((name for name, prefix in _BRANDS if prefix.match(self.number)), "unknown")
        return CardSummary(
            brand=brand,
            last_four=self.number[-4:],
            expiration_year=self.expiration_year,
            expiration_month=self.expiration_month,
        )


def _luhn(digits: str) -> bool:
    doubled = (int(digit) * 2 for digit in digits[-2::-2])
    return (
        sum(int(digit) for digit in digits[::-2])
        + sum(value - 9 if value > 9 else value for value in doubled)
    ) % 10 == 0


def _invalid(name: str, problem: str) -> CardInvalid:
    path = f"credit_card.{name}"
    return CardInvalid(f"{path}: {problem}", fields={path: problem})

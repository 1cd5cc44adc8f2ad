"""Maps card numbers to behaviour. The numbers are Stripe's public test numbers; any other valid
number captures.

A number lives in the memory of one request: only brand and last four digits leave this module.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from sandbox.domain import CAPTURED, Outcome, Status
from sandbox.misbehaviour import REFUND_CARDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """The behaviour of a charge by its card. Behaviour by amount is in misbehaviour.py.

    Attributes:
        outcome: committed before the response.
        is_slow: True when the response is delayed by `slow_seconds` after the commit.
        refund_card: the name of the behaviour of its refunds, or "".
    """

    outcome: Outcome
    is_slow: bool = False
    refund_card: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A card as the shop sent it."""

    number: str
    expiration_year: int
    expiration_month: int

    def __repr__(self) -> str:
        return "Card(hidden)"

    @property
    def last4(self) -> str:
        """The last four digits, which may be stored."""
        return self.number[-4:]

    @property
    def brand(self) -> str:
        """The card's scheme by its first digits, "unknown" for any other."""
        return next((name for name, pattern in _BRANDS if pattern.match(self.number)), "unknown")


SLOW_CARD = "4000000000008880"  # not one of Stripe's; Luhn-valid


def _declined(code: str, message: str) -> Behaviour:
    return Behaviour(outcome=Outcome(status=Status.DECLINED, decline_code=code, message=message))


_CAPTURED = Behaviour(outcome=CAPTURED)
_EXPIRED_CARD = _declined("expired_card", "the card has expired")
_INCORRECT_NUMBER = _declined("incorrect_number", "the card number is incorrect")
_BY_NUMBER: dict[str, Behaviour] = {
    "4000000000000002": _declined("card_declined", "the card was declined"),
    "4000000000009995": _declined("insufficient_funds", "the card has insufficient funds"),
    "4000000000000069": _EXPIRED_CARD,
    "4000000000000127": _declined("incorrect_cvc", "the security code is incorrect"),
    "4000000000000119": Behaviour(
        outcome=Outcome(
            status=Status.FAILED,
            decline_code="processing_error",
            message="the channel failed; no money moved",
        )
    ),
    SLOW_CARD: Behaviour(outcome=CAPTURED, is_slow=True),
    **{
        number: Behaviour(outcome=CAPTURED, refund_card=name)
        for number, name in REFUND_CARDS.items()
    },
}
_BRANDS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("visa", re.compile(r"4")),
    ("mastercard", re.compile(r"5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720")),
    ("amex", re.compile(r"3[47]")),
    ("diners", re.compile(r"30[0-5]|3[689]")),
    ("jcb", re.compile(r"35(2[89]|[3-8])")),
    ("unionpay", re.compile(r"62")),
    ("discover", re.compile(r"6011|64[4-9]|65")),
)


def behaviour_of(card: Card, *, now: datetime) -> Behaviour:
    """The behaviour of a charge of this card. A card is valid until the end of its month."""
    if not _is_luhn_valid(card.number):
        return _INCORRECT_NUMBER
    if (card.expiration_year, card.expiration_month) < (now.year, now.month):
        return _EXPIRED_CARD
    return _BY_NUMBER.get(card.number, _CAPTURED)


def _is_luhn_valid(number: str) -> bool:
    """Every second digit from the right counts double, with its digits added; the sum ends in 0."""
    digits = [int(digit) for digit in reversed(number)]
    return sum(digits[::2] + [sum(divmod(2 * digit, 10)) for digit in digits[1::2]]) % 10 == 0

"""Writes values of the cashier page for people: amounts in the way of a language, times, and texts
of merchants without the characters that disturb a page.
"""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime, timedelta, timezone
from typing import Final

from mesh.languages import Language
from mesh.money import Money

# As in CLDR: what stands for a currency in a text of the language.
_SYMBOLS: Final = {
    Language.EN: {
        "AUD": "A$",
        "CAD": "CA$",
        "CNY": "CN¥",
        "EUR": "€",
        "GBP": "£",
        "HKD": "HK$",
        "INR": "₹",
        "JPY": "¥",
        "KRW": "₩",
        "TWD": "NT$",
        "USD": "$",
    },
    Language.ZH: {
        "AUD": "AU$",
        "CAD": "CA$",
        "CNY": "¥",
        "EUR": "€",
        "GBP": "£",
        "HKD": "HK$",
        "INR": "₹",
        "JPY": "JP¥",
        "KRW": "₩",
        "TWD": "NT$",
        "USD": "US$",
    },
}
# The page cannot know the buyer's time zone without a script, so it names the one it uses.
_ZONES: Final = {
    Language.EN: (UTC, " UTC"),
    Language.ZH: (timezone(timedelta(hours=8)), " (UTC+8)"),
}
# Joiners and direction marks, which scripts need. All other characters of format are dropped: they
# turn the text around, or hide.
_KEPT_FORMATS: Final = frozenset("\u200c\u200d\u200e\u200f\u061c")


def amount_text(amount: Money, language: Language) -> str:
    """An amount with the symbol of its currency and grouped digits, e.g. "CN¥1,234.50"; with the
    code where the language has no symbol.
    """
    whole, point, fraction = amount.format().partition(".")
    digits = f"{int(whole):,}{point}{fraction}"
    symbol = _SYMBOLS[language].get(amount.currency)
    return f"{amount.currency}\N{NO-BREAK SPACE}{digits}" if symbol is None else f"{symbol}{digits}"


def needs_code(amount: Money, language: Language) -> bool:
    """True when `amount_text` says which currency it is by a bare sign such as "¥" only, which
    several currencies share.
    """
    return len(_SYMBOLS[language].get(amount.currency, amount.currency)) == 1


def time_text(moment: datetime, language: Language) -> str:
    """A time to the minute, rounded down, with its offset from UTC."""
    zone, name = _ZONES[language]
    return f"{moment.astimezone(zone):%Y-%m-%d %H:%M}{name}"


def plain_text(text: str) -> str:
    """A text of a merchant on one line, without control characters and invisible ones."""
    kept = (
        " " if unicodedata.category(character) == "Cc" else character
        for character in text
        if unicodedata.category(character) != "Cf" or character in _KEPT_FORMATS
    )
    return " ".join("".join(kept).split())

"""Lists the languages of texts for buyers and finds the one a caller prefers (RFC 9110, 12.5.4)."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

ACCEPT_LANGUAGE: Final = "accept-language"  # HTTP header and gRPC metadata

_HEADER_MAX: Final = 256  # characters that are read
_RANGES_MAX: Final = 16  # languages that are read


class Language(StrEnum):
    """The language of a text; values are BCP 47 tags."""

    EN = "en"
    ZH = "zh"


class Bilingual(NamedTuple):
    """One text in each language. `promised_in_chinese`: a source document promises the Chinese
    text, so it is used unless the caller prefers English.
    """

    en: str
    zh: str
    promised_in_chinese: bool = False

    def text(self, language: Language | None) -> str:
        """The text for a caller who prefers `language`; None when the caller states no
        preference.
        """
        if language is None:
            return self.zh if self.promised_in_chinese else self.en
        return self.zh if language is Language.ZH else self.en


def preferred(header: str) -> Language | None:
    """The supported language with the highest weight in an Accept-Language header; the first one of
    equals. None when it names neither, is `*` or cannot be parsed.
    """
    best: Language | None = None
    best_weight = 0.0
    for part in header[:_HEADER_MAX].split(",", _RANGES_MAX)[:_RANGES_MAX]:
        tag, _, parameter = part.partition(";")
        language = _LANGUAGES.get(tag.strip().lower().partition("-")[0])
        weight = _weight(parameter.strip().lower())
        if language is not None and weight > best_weight:
            best, best_weight = language, weight
    return best


_LANGUAGES: Final = {language.value: language for language in Language}


def _weight(parameter: str) -> float:
    """The q-value of a language, 1 without one, 0 for one that is not a number from 0 to 1."""
    if not parameter:
        return 1.0
    name, _, value = parameter.partition("=")
    digits = value.strip().replace(".", "", 1)
    if name.strip() != "q" or not digits.isascii() or not digits.isdigit() or len(digits) > 4:
        return 0.0
    weight = float(value)
    return weight if weight <= 1 else 0.0

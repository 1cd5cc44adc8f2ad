"""Checks text that people write freely: names, addresses, reasons. It is shown on screens,
terminals and statements, so it may not contain control characters. It is stored for years, so it
may not contain card numbers.

Text is checked where it enters the mesh only. Services pass on text that is older than these rules,
and a refund must not fail because of its reason.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from operator import attrgetter
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from paymesh.options.v1 import options_pb2

from mesh.bounds import options_of

# C0 and C1 controls including line breaks, and characters that change the writing direction or hide
# text.
_STEERING: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ufff9-\ufffb]"
)
# Groups of digits as people write long numbers. Digits with adjacent letters are another kind of
# identifier.
_RUN: Final = re.compile(r"(?<![A-Za-z\d])\d+(?:[ .\-\u00a0\u2009\u202f]{1,2}\d+)*(?![A-Za-z\d])")
_GROUP: Final = re.compile(r"\d+")
_DIGITS_MIN, _DIGITS_MAX = 13, 19
# First digits and lengths of the card networks. Other numbers are more often phone, order or
# tracking numbers than cards.
_CARD: Final = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})"  # Visa
    r"|(?:5[1-5]\d{2}|222[1-9]|22[3-9]\d|2[3-6]\d{2}|27[01]\d|2720)\d{12}"  # Mastercard
    r"|3[47]\d{13}"  # American Express
    r"|3(?:0[0-5]\d|[689]\d{2})\d{10,15}"  # Diners Club
    r"|35(?:2[89]|[3-8]\d)\d{12,15}"  # JCB
    r"|(?:6011|64[4-9]\d|65\d{2}|62\d{2}|60\d{2}|8[12]\d{2})\d{12,15}"  # Discover, UnionPay, RuPay
    r"|(?:50|5[6-8]|63|67|69)\d{11,17}"  # Maestro
)
_ODD_TWICE: Final = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)

STEERING_PROBLEM: Final = "must be one line without control characters"
CARD_PROBLEM: Final = "must not hold a card number"
_FILLERS: Final = frozenset("\u115f\u1160\u2800\u3164\uffa0")  # letters that are rendered as blanks
EMPTY_PROBLEM: Final = "must have a letter, a digit or a sign"


def card_numbers(text: str) -> Iterator[tuple[int, int]]:
    """Begin and end of each payment card number in a text, recognised by length, first digits and
    check digit."""
    for run in _RUN.finditer(text):
        groups = [group.span() for group in _GROUP.finditer(text, *run.span())]
        first = 0
        while first < len(groups):
            last = _card_in(text, groups, first)
            if last is None:
                first += 1
            else:
                yield groups[first][0], groups[last][1]
                first = last + 1


def _card_in(text: str, groups: list[tuple[int, int]], first: int) -> int | None:
    """The last group of a card number that begins with the group `first`. An expiry date may follow
    it directly.
    """
    digits = ""
    for last in range(first, len(groups)):
        # converts the digits of any script to ASCII
        digits += "".join(str(int(digit)) for digit in text[slice(*groups[last])])
        if len(digits) > _DIGITS_MAX:
            return None
        if len(digits) >= _DIGITS_MIN and _CARD.fullmatch(digits) and is_luhn(digits):
            return last
    return None


def is_luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of the others (ISO/IEC 7812-1)."""
    total = sum(
        _ODD_TWICE[int(digit)] if index % 2 else int(digit)
        for index, digit in enumerate(reversed(digits))
    )
    return total % 10 == 0


def masked(text: str) -> str:
    """Replaces all but the last four digits of card numbers by asterisks, in text that cannot be
    rejected."""
    for begin, end in list(card_numbers(text)):
        text = text[:begin] + re.sub(r"\d", "*", text[begin : end - 4]) + text[end - 4 :]
    return text


def plain(text: str) -> str:
    """Replaces control characters by U+FFFD and masks card numbers, in text that cannot be
    rejected."""
    return masked(_STEERING.sub("\ufffd", text))


def _is_seen(character: str) -> bool:
    """Whether a character is visible: no space, not of zero width, and no filler. Fillers have the
    category of letters.
    """
    return unicodedata.category(character)[0] not in "ZCM" and character not in _FILLERS


class FreeTexts:
    """The free-text fields of one message type, in its lists and maps too."""

    def __init__(self, descriptor: Descriptor) -> None:
        self._texts = tuple(_texts(descriptor, ""))
        self._lists = tuple(_lists(descriptor, ""))
        self._maps = tuple(_maps(descriptor, ""))

    def __bool__(self) -> bool:
        return bool(self._texts or self._lists or self._maps)

    def problems(self, message: Message) -> dict[str, str]:
        """Path -> what is wrong with the text there, without the text itself."""
        found: dict[str, str] = {}
        for path, get, is_line in self._texts:
            text = get(message)
            if text:
                _judge(found, path, text, is_line=is_line)
        for path, get, inner in self._lists:
            for number, item in enumerate(get(message)):
                for name, problem in inner.problems(item).items():
                    found[f"{path}[{number}].{name}"] = problem
        for path, get, is_line in self._maps:
            for key, text in get(message).items():
                _judge(found, f"{path}[{key}]", text, is_line=is_line)
        return found


def _judge(found: dict[str, str], path: str, text: str, *, is_line: bool) -> None:
    if _STEERING.search(text):
        found[path] = STEERING_PROBLEM
    elif not is_line and next(card_numbers(text), None) is not None:
        found[path] = CARD_PROBLEM
    elif text and not any(map(_is_seen, text)):
        found[path] = EMPTY_PROBLEM


def _singles(descriptor: Descriptor, path: str) -> Iterator[tuple[str, FieldDescriptor]]:
    """Every field of a message and of the single messages in it, by its path; no messages."""
    for field in descriptor.fields:
        if field.message_type is None or field.is_repeated:
            yield f"{path}{field.name}", field
        elif not field.message_type.full_name.startswith("google."):
            yield from _singles(field.message_type, f"{path}{field.name}.")


def _texts(descriptor: Descriptor, path: str) -> Iterator[tuple[str, Any, bool]]:
    for name, field in _singles(descriptor, path):
        kind = options_of(field).free_text
        if kind and field.type == FieldDescriptor.TYPE_STRING and not field.is_repeated:
            yield name, attrgetter(name), kind == options_pb2.FREE_TEXT_LINE


def _lists(descriptor: Descriptor, path: str) -> Iterator[tuple[str, Any, FreeTexts]]:
    for name, field in _singles(descriptor, path):
        item = field.message_type
        if (
            item is not None
            and not item.GetOptions().map_entry
            and not item.full_name.startswith("google.")
        ):
            inner = FreeTexts(item)
            if inner:
                yield name, attrgetter(name), inner


def _maps(descriptor: Descriptor, path: str) -> Iterator[tuple[str, Any, bool]]:
    """Maps whose values people write; the keys have a pattern."""
    for name, field in _singles(descriptor, path):
        kind = options_of(field).free_text
        if kind and field.message_type is not None:
            yield name, attrgetter(name), kind == options_pb2.FREE_TEXT_LINE

"""The form of an API key: `pmsk_live_`, 43 characters of base62 and a checksum of 6.

The beginning says kind and mode, so that people and scanners of leaked secrets know a key when they
see one. The checksum is the CRC32 of everything before it: a mistyped key is refused without asking
anybody. It proves nothing else, since anybody can compute it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable
from enum import StrEnum
from typing import Final
from zlib import crc32

_DIGITS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_BASE: Final = len(_DIGITS)
RANDOM_BYTES: Final = 32
_RANDOM_CHARACTERS: Final = 43  # 62 ** 43 > 2 ** 256
_CHECKSUM_CHARACTERS: Final = 6  # 62 ** 6 > 2 ** 32
PREFIX_CHARACTERS: Final = 10
KEY_CHARACTERS: Final = PREFIX_CHARACTERS + _RANDOM_CHARACTERS + _CHECKSUM_CHARACTERS
HEAD_CHARACTERS: Final = 16  # what is kept of a key to recognise it by, and its end
LAST_CHARACTERS: Final = 4
DIGEST_BYTES: Final = 32

_BEGINNING: Final = re.compile(r"pm[srp]k_", re.ASCII)
_KEY: Final = re.compile(r"pm[srp]k_(?:live|test)_[0-9A-Za-z]{49}", re.ASCII)


class ApiKeyKind(StrEnum):
    """What a key is for; the third letter of the key."""

    SECRET = "SECRET"  # noqa: S105  the server of a merchant: every scope but those of members
    RESTRICTED = "RESTRICTED"  # the scopes that it names
    PUBLISHABLE = "PUBLISHABLE"  # names the merchant in a browser; no scope


_LETTERS: Final = {
    ApiKeyKind.SECRET: "s",
    ApiKeyKind.RESTRICTED: "r",
    ApiKeyKind.PUBLISHABLE: "p",
}


def prefix_of(kind: ApiKeyKind, *, is_test: bool) -> str:
    """The beginning of keys of a kind and mode, e.g. "pmsk_test_"."""
    return f"pm{_LETTERS[kind]}k_{'test' if is_test else 'live'}_"


def new_key(kind: ApiKeyKind, *, is_test: bool, random_bytes: Callable[[int], bytes]) -> str:
    """A key that nobody can guess: 256 random bits, as `secrets.token_bytes` gives them."""
    number = int.from_bytes(random_bytes(RANDOM_BYTES))
    text = prefix_of(kind, is_test=is_test) + _base62(number, _RANDOM_CHARACTERS)
    return text + _checksum(text)


def begins_like_key(text: str) -> bool:
    """Whether a credential means to be an API key. No JWT begins like one."""
    return _BEGINNING.match(text) is not None


def is_well_formed(text: str) -> bool:
    """Whether a text has the form of a key and its checksum is right."""
    return (
        _KEY.fullmatch(text) is not None
        and _checksum(text[:-_CHECKSUM_CHARACTERS]) == text[-_CHECKSUM_CHARACTERS:]
    )


def key_sha256(key: str) -> bytes:
    """What travels inward in the place of a key."""
    return hashlib.sha256(key.encode()).digest()


def stored_digest(sha256: bytes, pepper: bytes) -> bytes:
    """What is stored of a key. Without the pepper, which is not in the database, nobody who reads
    the table can tell whether a key is in it."""
    return hmac.digest(pepper, sha256, "sha256")


def _checksum(text: str) -> str:
    return _base62(crc32(text.encode()), _CHECKSUM_CHARACTERS)


def _base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, _BASE)
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))

"""Makes identifiers: a prefix for the kind and a ULID, at most 32 characters, sortable by creation
time. The source of identifiers is a constructor argument.
"""

from __future__ import annotations

import os
from typing import Final, Protocol

from mesh.clock import Clock
from mesh.times import EPOCH, milliseconds

_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base 32
# 256 is a multiple of 32: every digit is as likely as any other
_BYTE_TO_DIGIT: Final = (_ALPHABET * 8).encode()
_DIGITS_OF_TIME = 10
_DIGITS_OF_CHANCE = 16  # 80 bits
# made by one system call, which costs more than the rest
_POOL_IDS = 256


class Ids(Protocol):
    """Makes identifiers."""

    def new(self, prefix: str) -> str:
        """A fresh identifier: `prefix` (at most 6 capitals) and 26 characters."""
        ...


class UlidIds:
    """ULIDs: 48 bits of time from the clock and 80 random bits. A forked child never repeats what
    its parent makes.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._moment = EPOCH
        self._time = "0" * _DIGITS_OF_TIME
        self._chance = ""
        self._used = 0
        os.register_at_fork(after_in_child=self._forget)

    def new(self, prefix: str) -> str:
        """A fresh identifier, e.g. `PAY01JD0T5V3Q9N8M7K6J5H4G3F2E`."""
        now = self._clock.now()
        if now != self._moment:
            self._moment, self._time = now, _digits(milliseconds(now))
        begin = self._used
        end = self._used = begin + _DIGITS_OF_CHANCE
        if end > len(self._chance):
            self._chance = (
                os.urandom(_POOL_IDS * _DIGITS_OF_CHANCE).translate(_BYTE_TO_DIGIT).decode()
            )
            begin, end = 0, _DIGITS_OF_CHANCE
            self._used = end
        return f"{prefix}{self._time}{self._chance[begin:end]}"

    def _forget(self) -> None:
        self._chance = ""


def _digits(milliseconds: int) -> str:
    return "".join(
        [_ALPHABET[milliseconds >> shift & 31] for shift in range(5 * _DIGITS_OF_TIME - 5, -1, -5)]
    )

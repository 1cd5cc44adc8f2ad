"""Identifiers as a constructor argument: a prefix that names the kind and a ULID, at most 32 characters, sortable by time of creation."""

from __future__ import annotations

from typing import Protocol

from ulid import ULID

from mesh.clock import Clock


class Ids(Protocol):
    """Makes identifiers."""

    def new(self, prefix: str) -> str:
        """A fresh identifier: `prefix` (at most 6 capitals) and 26 characters."""
        ...


class UlidIds:
    """ULIDs: 48 bits of time from the clock and 80 random bits."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def new(self, prefix: str) -> str:
        """A fresh identifier, e.g. `PAY01JD0T5V3Q9N8M7K6J5H4G3F2E`."""
        return prefix + str(ULID.from_datetime(self._clock.now()))

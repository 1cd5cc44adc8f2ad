"""Caches verified tokens for a short time, because a signature check costs 30 to 80 µs. Bounded in
bytes, because a token may have 700 bytes or 8 KiB.
"""

from __future__ import annotations

from typing import Generic, TypeVar

REMEMBERED_BYTES_MAX = 64 * 1024 * 1024  # some 25 000 tokens of 700 bytes
ENTRY_BYTES = 2048  # claims, callers and dictionary slots of one token, measured and rounded up

Claims = TypeVar("Claims")


class TokenCache(Generic[Claims]):
    """A cache of tokens by their text, each with an expiry, in two generations. When the younger
    one is full, entries that were not used since the older one was filled are dropped. A hit in the
    younger generation writes nothing, unlike a hit in an LRU cache.
    """

    __slots__ = ("_bytes", "_bytes_max", "_old", "_young")

    def __init__(self, bytes_max: int = REMEMBERED_BYTES_MAX) -> None:
        self._bytes_max = bytes_max // 2
        self._bytes = 0  # of the younger generation
        self._young: dict[str, tuple[float, Claims]] = {}
        self._old: dict[str, tuple[float, Claims]] = {}

    def get(self, token: str, now: float) -> Claims | None:
        """The cached value unless it has expired. `now`: monotonic seconds."""
        entry = self._young.get(token)
        if entry is None:
            entry = self._old.get(token)
            if entry is None:
                return None
            self._keep(token, entry)
        return entry[1] if now < entry[0] else None

    def put(self, token: str, claims: Claims, *, until: float) -> None:
        """Caches a value until a moment of the monotonic clock."""
        self._keep(token, (until, claims))

    def charge(self, size: int) -> None:
        """Counts bytes that other code keeps for an entry."""
        if self._bytes + size > self._bytes_max:
            self._old, self._young, self._bytes = self._young, {}, 0
        self._bytes += size

    def clear(self) -> None:
        """Drops all entries."""
        self._old, self._young, self._bytes = {}, {}, 0

    def _keep(self, token: str, entry: tuple[float, Claims]) -> None:
        if token not in self._young:
            self.charge(ENTRY_BYTES + len(token))
        self._young[token] = entry

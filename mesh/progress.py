"""How far long work is, for whoever waits for it at a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol


class Listener(Protocol):
    """Hears of work in its block of `progress_to`."""

    def begins(self, part: str) -> None:
        """The next part of it begins."""

    def looked_at(self, what: str, rows: int) -> None:
        """So many more rows of a part were looked at."""


_listener: ContextVar[Listener | None] = ContextVar("progress", default=None)


@contextmanager
def progress_to(listener: Listener) -> Iterator[None]:
    """Tells the listener of all work in this block."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def begins(part: str) -> None:
    """The next part of the work begins, e.g. that of another service."""
    listener = _listener.get()
    if listener is not None:
        listener.begins(part)


def looked_at(what: str, rows: int) -> None:
    """So many more rows were looked at. Those of a range count as a whole range; the last one of a
    table may have fewer.
    """
    listener = _listener.get()
    if listener is not None:
        listener.looked_at(what, rows)

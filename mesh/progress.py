"""Reports the progress of long work to a listener, e.g. at a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol


class Listener(Protocol):
    """Receives the progress of the work in a block of `progress_to`."""

    def begins(self, part: str) -> None:
        """Called when the next part of the work begins."""

    def looked_at(self, what: str, rows: int) -> None:
        """Called when so many more rows of a part were read."""


_listener: ContextVar[Listener | None] = ContextVar("progress", default=None)


@contextmanager
def progress_to(listener: Listener) -> Iterator[None]:
    """Reports all work in this block to the listener."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def begins(part: str) -> None:
    """Reports that the next part of the work begins, e.g. that of another service."""
    listener = _listener.get()
    if listener is not None:
        listener.begins(part)


def looked_at(what: str, rows: int) -> None:
    """Reports that so many more rows were read. A range of rows counts in full, although the last
    one of a table may have fewer.
    """
    listener = _listener.get()
    if listener is not None:
        listener.looked_at(what, rows)

"""The streams that a server is sending: how many there may be, and their end when the server stops.
An answer that may last for an hour must neither use up the room of short calls nor hold up a
restart."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from mesh.errors import RateLimited, Unavailable
from mesh.load import RETRY_SECONDS


class ServedStreams:
    """Open streams of one server."""

    def __init__(self, streams_max: int) -> None:
        self._streams_max = streams_max
        self._tasks: set[asyncio.Task[None]] = set()
        self._callers: Counter[str] = Counter()
        self._ended = False

    def __len__(self) -> int:
        return len(self._tasks)

    @contextmanager
    def one(
        self, task: asyncio.Task[None], *, caller: str = "", caller_max: int = 0
    ) -> Iterator[None]:
        """Runs a block, in its task, as a stream. A caller may have `caller_max` of them; 0 does
        not count them.

        Raises:
            RateLimited: the caller has as many as it may have.
            Unavailable: there is no room, or the server stops; before the block, or out of the
                middle of it. Another replica may take the call.
        """
        if self._ended:
            raise _stopping()
        if len(self._tasks) >= self._streams_max:
            raise Unavailable("Too many streams are open here.")
        if caller_max:
            if self._callers[caller] >= caller_max:
                raise RateLimited(
                    "Too many streams of one caller are open.", retry_after_seconds=RETRY_SECONDS
                )
            self._callers[caller] += 1
        self._tasks.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if self._ended and not task.uncancel():
                raise _stopping() from None
            raise  # its client went away besides, or its deadline passed
        else:
            if self._ended:  # a handler that takes a cancellation for the end of its work
                task.uncancel()
                raise _stopping()
        finally:
            self._tasks.discard(task)
            if caller_max:
                self._callers[caller] -= 1
                if not self._callers[caller]:
                    del self._callers[caller]

    def end(self) -> None:
        """Ends every stream with `Unavailable` and begins no more."""
        self._ended = True
        for task in self._tasks:
            task.cancel()


def _stopping() -> Unavailable:
    return Unavailable("The server is stopping.")

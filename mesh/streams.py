"""Limits the open streams of a server, and ends them when the server stops. A stream may last for
an hour. It must neither use up the limit of short calls nor delay a restart."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from mesh.errors import RateLimited, Unavailable
from mesh.load import RETRY_SECONDS


class ServedStreams:
    """The open streams of one server."""

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
        """Runs a block in `task` as a stream. `caller_max` is the limit per caller; 0 is no limit.

        Raises:
            RateLimited: the caller has reached its limit.
            Unavailable: too many streams are open, or the server stops, also in the middle of the
                block. Another replica may take the call.
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
            raise  # its client cancelled it too, or its deadline passed
        else:
            if self._ended:  # a handler returned normally when it was cancelled
                task.uncancel()
                raise _stopping()
        finally:
            self._tasks.discard(task)
            if caller_max:
                self._callers[caller] -= 1
                if not self._callers[caller]:
                    del self._callers[caller]

    def end(self) -> None:
        """Ends every stream with `Unavailable` and refuses new ones."""
        self._ended = True
        for task in self._tasks:
            task.cancel()


def _stopping() -> Unavailable:
    return Unavailable("The server is stopping.")

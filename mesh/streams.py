"""The streams that a server is sending: how many there may be, and their end when the server stops. An answer that may last for an hour must neither
use up the room of short calls nor hold up a restart."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from mesh.errors import Unavailable


class ServedStreams:
    """Open streams of one server."""

    def __init__(self, streams_max: int) -> None:
        self._streams_max = streams_max
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended = False

    def __len__(self) -> int:
        return len(self._tasks)

    @contextmanager
    def one(self, task: asyncio.Task[None]) -> Iterator[None]:
        """Runs a block, in its task, as a stream.

        Raises:
            Unavailable: there is no room, or the server stops; before the block, or out of the middle of it. Another replica may take the call.
        """
        if self._ended:
            raise _stopping()
        if len(self._tasks) >= self._streams_max:
            raise Unavailable("Too many streams are open here.")
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

    def end(self) -> None:
        """Ends every stream with `Unavailable` and begins no more."""
        self._ended = True
        for task in self._tasks:
            task.cancel()


def _stopping() -> Unavailable:
    return Unavailable("The server is stopping.")

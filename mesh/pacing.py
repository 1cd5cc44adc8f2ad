"""Paces work that takes seconds of CPU in a thread, so that calls beside it do not wait for it.

A thread that works without a pause takes the interpreter's lock from every call for 5 ms at a time,
as often as a call gives it up. A paced thread works for less than that and then sleeps.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from time import perf_counter
from typing import TypeVar

Item = TypeVar("Item")

WORK_SECONDS = 0.002
REST_SECONDS = 0.004


class Stopped(Exception):
    """The process ends: the work is left where it is."""


class Pace:
    """Works for `work_seconds`, then rests for `rest_seconds`. Never in the thread of the event
    loop, which would rest too.
    """

    def __init__(
        self,
        *,
        work_seconds: float = WORK_SECONDS,
        rest_seconds: float = REST_SECONDS,
        seconds: Callable[[], float] = perf_counter,
    ) -> None:
        self._work_seconds = work_seconds
        self._rest_seconds = rest_seconds
        self._seconds = seconds
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Ends all paced work at its next rest."""
        self._stopping.set()

    def paced(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items, with rests between them. An item should take far less than `work_seconds`.

        Raises:
            Stopped: `stop` was called.
        """
        begin = self._seconds()
        for item in items:
            yield item
            if self._seconds() - begin >= self._work_seconds:
                self.rest()
                begin = self._seconds()

    def rest(self) -> None:
        """Sleeps.

        Raises:
            Stopped: `stop` was called.
        """
        if self._stopping.wait(self._rest_seconds):
            raise Stopped

"""How many rows one unit of work takes. A unit has a fixed time; how many rows fit into it depends
on the database and on the hour.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from mesh.errors import Conflict, OutcomeUnknown, Unavailable
from mesh.logs import get_logger

T = TypeVar("T")

log = get_logger()


class BatchSize:
    """Half as many rows after a unit that did not fit, down to one; twice as many after one that
    did, up to `most`. Without it a worker whose batch is too large for a slow database rolls the
    same batch back for ever."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.rows = most

    async def run(self, work: Callable[[int], Awaitable[T]]) -> T:
        """One unit of work, told how many rows it may take.

        Raises:
            Whatever `work` raises.
        """
        try:
            done = await work(self.rows)
        except (Unavailable, OutcomeUnknown, Conflict):
            if self.rows > 1:
                self.rows = max(1, self.rows // 2)
                log.warning("batch_halved", rows=self.rows)
            raise
        self.rows = min(self._most, self.rows * 2)
        return done

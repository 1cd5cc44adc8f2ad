"""Adapts the number of rows of a unit of work. A unit has a fixed time limit; how many rows fit
into it depends on the database and its load.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from mesh.errors import Conflict, OutcomeUnknown, Unavailable
from mesh.logs import get_logger

T = TypeVar("T")

log = get_logger()


class BatchSize:
    """Halves the number of rows after a unit that timed out, down to one, and doubles it after a
    success, up to `most`. Without it a worker with too large a batch for a slow database would roll
    back the same batch for ever.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.rows = most

    async def run(self, work: Callable[[int], Awaitable[T]]) -> T:
        """Runs one unit of work with the number of rows it may take.

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

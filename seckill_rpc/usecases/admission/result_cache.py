"""Final results that this process has seen, for a few seconds each. A HOLDER becomes NEITHER only
when a unit goes back, and then a message says so.
"""

from __future__ import annotations

from collections import OrderedDict

from mesh.clock import Monotonic, Seconds
from seckill_rpc.domain.result import Result

KNOWN_SECONDS = 2.0
KNOWN_MAX = 100_000  # about 40 MB


class ResultCache:
    """Results by activity and buyer, bounded in number; the oldest goes first."""

    def __init__(self, *, monotonic: Monotonic) -> None:
        self._monotonic = monotonic
        self._results: OrderedDict[tuple[str, str], tuple[Seconds, Result]] = OrderedDict()

    def find(self, activity_id: str, user_id: str) -> Result | None:
        """A result of the last seconds."""
        until, result = self._results.get((activity_id, user_id), (0.0, None))
        return result if until > self._monotonic() else None

    def learn(self, activity_id: str, user_id: str, result: Result) -> None:
        """Keeps a final result."""
        self._results[activity_id, user_id] = (self._monotonic() + KNOWN_SECONDS, result)
        self._results.move_to_end((activity_id, user_id))
        if len(self._results) > KNOWN_MAX:
            self._results.popitem(last=False)

    def forget(self, activity_id: str, user_id: str) -> None:
        """Drops the result: the buyer has clicked again, or there is a newer one."""
        self._results.pop((activity_id, user_id), None)

"""The consumer: turns the line of an activity into orders (PROTOCOLS 5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mesh.clock import Clock
from mesh.db import Database
from mesh.ids import Ids
from seckill_rpc.domain.activity import Activity
from seckill_rpc.stock.line import Line
from seckill_rpc.stock.scripts import Scripts


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerChoices:
    """How the consumer works; what stands here is for tests and small machines to change.

    Attributes:
        name: of this consumer in the group, the same for the whole life of the process and nobody else's.
        batch_size: entries of one transaction, at most 500.
        take_over_seconds: pause between two looks for entries that somebody else took and did not finish.
        min_idle_ms: how long an entry must have been with somebody to be taken over: longer than a batch takes.
        deliveries_max: after so many deliveries an entry that fails alone by its own data is given up.
        line_max, queued_seconds: as for buyers.
    """

    name: str
    batch_size: int = 500
    take_over_seconds: float = 0.2
    min_idle_ms: int = 10_000
    deliveries_max: int = 5
    line_max: int = 200_000
    queued_seconds: int = 600


class Consuming:
    """Serves the lines of all activities that run."""

    def __init__(self, *, db: Database, line: Line, scripts: Scripts, clock: Clock, ids: Ids, running: Callable[[], Sequence[Activity]],
                 choices: ConsumerChoices) -> None:
        self._db = db
        self._line = line
        self._scripts = scripts
        self._clock = clock
        self._ids = ids
        self._running = running  # e.g. Registry.running
        self._choices = choices

    async def run_once(self) -> int:
        """One round over every activity that runs; returns how many entries were decided and published."""
        raise NotImplementedError

    async def serve(self, activity: Activity) -> int:
        """One round over the line of one activity."""
        raise NotImplementedError

"""Reads the admission queues for one consumer: new entries of all running activities in one call,
and entries that another consumer took and did not finish.

Every entry that Redis hands out is kept: a read that is still waiting when the set of activities
changes goes on beside the next one. A queue that does not exist is left out and stops no other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from mesh.clock import Clock
from mesh.failpoints import failpoint
from mesh.logs import get_logger
from seckill_rpc.domain.activity import Activity
from seckill_rpc.redis.admission_queue import AdmissionQueue, Entry, QueueLost
from seckill_rpc.redis.admit import QUEUED_SECONDS
from seckill_rpc.redis.connection import BLOCK_MS_MAX
from seckill_rpc.redis.keys import Keys, keys_of
from seckill_rpc.usecases.hot_set import HotSet

_START = "0-0"

log = get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerSettings:
    """How a consumer works.

    Attributes:
        name: of this consumer in the group; unique, and the same for the life of the process.
        batch_size: entries per transaction, at most 500.
        block_ms: how long a round waits for the first entry while an activity is hot.
        quiet_block_ms: the same while none is; an entry ends the wait at once.
        take_over_seconds: pause between two scans for unfinished entries of other consumers.
        min_idle_ms: how long an entry must be pending before it is taken over. Too short only
            costs work.
        deliveries_max: after so many deliveries an entry that fails by its own data is given up.
        activities_max: queues that are served at the same time.
        queued_seconds: how long Redis keeps the view of a queued buyer.
    """

    name: str
    batch_size: int = 500
    block_ms: int = 100
    quiet_block_ms: int = BLOCK_MS_MAX
    take_over_seconds: float = 0.2
    min_idle_ms: int = 2000
    deliveries_max: int = 5
    activities_max: int = 8
    queued_seconds: int = QUEUED_SECONDS


@dataclass(slots=True)
class ScanCursor:
    """Where the scan for unfinished entries of a queue goes on, and not before when."""

    cursor: str
    again_at: datetime


class QueueReader:
    """Hands out entries, pending with one consumer."""

    def __init__(
        self, *, queue: AdmissionQueue, clock: Clock, hot_set: HotSet, settings: ConsumerSettings
    ) -> None:
        self._queue = queue
        self._clock = clock
        self._hot_set = hot_set
        self._settings = settings
        self._changed = asyncio.Event()
        self._reads: set[asyncio.Task[dict[str, list[Entry]]]] = set()
        self._read_now: frozenset[str] = frozenset()
        self._scan_cursors: dict[str, ScanCursor] = {}
        self.lost: set[str] = set()  # activities whose queue did not exist at the last read

    def wake(self) -> None:
        """Ends a wait: the set of activities has changed, or the consumer stops."""
        self._changed.set()

    def begin_round(self, running: Collection[str], *, is_stopping: bool) -> None:
        """Forgets activities that no longer run. A consumer that stops does not wait any more."""
        if not is_stopping:
            self._changed.clear()
        for gone in self._scan_cursors.keys() - running:
            del self._scan_cursors[gone]
        self.lost.intersection_update(running)

    async def read_new(
        self, running: Collection[Activity], *, may_wait: bool
    ) -> dict[str, list[Entry]]:
        """New entries by activity. Waits for the first one if `may_wait`."""
        found: dict[str, list[Entry]] = {}
        for _ in range(len(running) + 1):
            queues = [
                keys_of(activity) for activity in running if not await self._is_lost(activity)
            ]
            names = frozenset(keys.activity_id for keys in queues)
            if names and (names != self._read_now or not self._reads or not may_wait):
                self._read_now = names
                self._begin_read(queues, block_ms=self._block_ms() if may_wait else 0)
            if not self._reads:
                break
            await self._first_of_reads()
            if not self._collect(found):
                break
        if found:
            failpoint("seckill.consume.after_read")
        return found

    async def read_unfinished(self, running: Collection[Activity]) -> dict[str, list[Entry]]:
        """Entries by activity that another consumer took and did not finish. Only of hot
        activities: unfinished entries keep the reconciler, and so the hot set, at work on theirs.
        """
        found: dict[str, list[Entry]] = {}
        for activity in running:
            if self._hot_set.is_hot(activity.activity_id) and (
                entries := await self.take_over(keys_of(activity))
            ):
                found[activity.activity_id] = entries
        return found

    async def take_over(self, keys: Keys) -> list[Entry]:
        """The next unfinished entries of one queue; none while its next scan is not due."""
        now = self._clock.now()
        scan = self._scan_cursors.setdefault(keys.activity_id, ScanCursor(_START, now))
        if now < scan.again_at:
            return []
        cursor, entries = await self._queue.take_over(
            keys,
            self._settings.name,
            min_idle_ms=self._settings.min_idle_ms,
            cursor=scan.cursor,
            count=self._settings.batch_size,
        )
        scan.cursor = cursor
        if cursor == _START:  # the end of the queue; otherwise the scan goes on at once
            scan.again_at = now + timedelta(seconds=self._settings.take_over_seconds)
        if entries:
            failpoint("seckill.consume.after_read")
        return entries

    def _collect(self, found: dict[str, list[Entry]]) -> bool:
        """Adds the entries of the reads that have ended. True when one of them met a lost queue
        and none returned entries: then the others are read again without it.
        """
        has_lost = False
        for read in [read for read in self._reads if read.done()]:
            self._reads.discard(read)
            try:
                for activity_id, entries in read.result().items():
                    found.setdefault(activity_id, []).extend(entries)
            except QueueLost as lost:
                has_lost = True
                self.lost.add(lost.activity_id)
                self._hot_set.suspect(lost.activity_id)
                log.warning("seckill_line_lost", activity_id=lost.activity_id)
        return has_lost and not found

    def _begin_read(self, queues: Sequence[Keys], *, block_ms: int) -> None:
        read = asyncio.create_task(
            self._queue.read_all(
                queues, self._settings.name, count=self._settings.batch_size, block_ms=block_ms
            )
        )
        read.add_done_callback(_retrieve_exception)
        self._reads.add(read)

    def _block_ms(self) -> int:
        return self._settings.block_ms if self._hot_set.has_any else self._settings.quiet_block_ms

    async def _first_of_reads(self) -> None:
        change = asyncio.create_task(self._changed.wait())
        try:
            await asyncio.wait({change, *self._reads}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            change.cancel()

    async def _is_lost(self, activity: Activity) -> bool:
        """Whether a queue that was lost still does not exist."""
        if activity.activity_id not in self.lost:
            return False
        if not await self._queue.has_group(keys_of(activity)):
            return True
        self.lost.discard(activity.activity_id)
        return False


def _retrieve_exception(read: asyncio.Task[dict[str, list[Entry]]]) -> None:
    """A read that ends after the last round has no reader; its entries are taken over later."""
    if not read.cancelled():
        read.exception()

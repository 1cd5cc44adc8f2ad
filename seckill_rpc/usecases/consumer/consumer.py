"""The consumer: turns the lines of activities into orders. Read or take over, decide in the
database, admit again who stood in the line of an older epoch, publish. Whatever a crash leaves is
delivered again, and the database answers the same; publishing happens once, by the scripts' own
gates."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import prometheus_client
import structlog

from mesh.bad_rows import Quarantine
from mesh.clock import Clock
from mesh.db import Database
from mesh.failpoints import failpoint
from mesh.ids import Ids
from mesh.worker import QUIET_SECONDS
from seckill_rpc.domain.activity import Activity
from seckill_rpc.redis.admission_queue import AdmissionQueue, Entry, FinishedEntry, QueueLost
from seckill_rpc.redis.admit import QUEUED_SECONDS, AdmitCode, Click, admit
from seckill_rpc.redis.connection import BLOCK_MS_MAX
from seckill_rpc.redis.keys import Keys, keys_of
from seckill_rpc.redis.scripts import Scripts
from seckill_rpc.store.batches import is_data_error
from seckill_rpc.store.orders import RowUnreadable
from seckill_rpc.tables import SECKILL_ORDER
from seckill_rpc.usecases.consumer.batch_decider import BatchDecider, BatchOutcome
from seckill_rpc.usecases.hot_set import HotSet

# An activity has that many rounds of its own before the others are looked at again.
ROUNDS_MAX = 20
FORGOTTEN_MS = 3_600_000  # a consumer that nobody has heard of for an hour is gone
LOST_SECONDS = 0.2  # between two looks whether a line that was lost is there again
# What the contract lets in. Anything else was not written by us; order_rpc would refuse the whole
# message in which it stands.
_PLAUSIBLE = re.compile(r"[A-Za-z0-9_-]{1,32} [A-Za-z0-9_.:@-]{1,64} [A-Za-z0-9_.:-]{1,64}")
_START = "0-0"

log = structlog.get_logger()
_DECIDED = prometheus_client.Counter(
    "paymesh_seckill_decided_total",
    "Entries of the line that were decided and published, by verdict.",
    ["verdict"],
)
_DEAD = prometheus_client.Counter(
    "paymesh_seckill_dead_entries_total",
    "Entries of the line that were given up; each needs a person.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerSettings:
    """How the consumer works.

    Attributes:
        name: of this consumer in the group, the same for the whole life of the process and nobody
            else's.
        batch_size: entries of one transaction, at most 500.
        block_ms: how long a round waits for the first entry while something happens.
        quiet_block_ms: the same while nothing does; an entry ends the wait at once.
        take_over_seconds: pause between two looks for entries that somebody took and did not
            finish.
        min_idle_ms: how long an entry must have been with somebody to be taken over. Too short only
            costs work.
        deliveries_max: after so many deliveries an entry that fails alone, by its own data, is
            given up.
        activities_max: lines that are served at once.
        queued_seconds: how long Redis keeps the view of a buyer who stands in the line.
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
    """Where the search for entries of others goes on, and when."""

    cursor: str
    again_at: datetime


class Consumer:
    """Serves the lines of all activities that run."""

    def __init__(
        self,
        *,
        db: Database,
        queue: AdmissionQueue,
        scripts: Scripts,
        clock: Clock,
        ids: Ids,
        running: Callable[[], Sequence[Activity]],
        hot_set: HotSet,
        settings: ConsumerSettings,
    ) -> None:
        """`running` answers the running activities, e.g. `ActivityRegistry.running`. Call `changed`
        when they change.
        """
        self._queue = queue
        self._scripts = scripts
        self._clock = clock
        self._running = running
        self._hot_set = hot_set
        self._settings = settings
        self._changed = asyncio.Event()
        self._reads: set[asyncio.Task[dict[str, list[Entry]]]] = set()
        self._read_now: frozenset[str] = frozenset()
        self._lost: set[str] = set()
        self._is_stopping = False
        self._decider = BatchDecider(db=db, clock=clock, ids=ids)
        self._quarantine = Quarantine("consume", SECKILL_ORDER.c.order_id)
        self._scan_cursors: dict[str, ScanCursor] = {}

    def changed(self) -> None:
        """Other activities run than before: who waits for entries looks again."""
        self._changed.set()

    def stop(self) -> None:
        """Ends the present round after the batch that is under way; a wait ends at once."""
        self._is_stopping = True
        self._changed.set()

    async def forget_others(self) -> int:
        """Removes the names that processes of long ago have left in the lines; how many."""
        return sum(
            [
                await self._queue.forget_consumers(keys_of(activity), idle_ms=FORGOTTEN_MS)
                for activity in self._running()
            ]
        )

    def pause_seconds(self) -> float:
        """After a round in which nothing was done: hardly any, because a round waits in Redis,
        unless there is no line to wait for.
        """
        running = {activity.activity_id for activity in self._running()}
        if not running:
            return QUIET_SECONDS
        return LOST_SECONDS if running <= self._lost else 0.01

    def has_lost_queue(self, activity_id: str) -> bool:
        """Whether the line of an activity was not there, or had no group, when it was read last."""
        return activity_id in self._lost

    async def run_once(self) -> int:
        """One round over every activity that runs; returns how many entries left their lines. Waits
        a while when all lines are empty.

        Raises:
            what kept the database or Redis from working, when nothing else was done: the pause that
                follows is the worker's.
        """
        if not self._is_stopping:
            self._changed.clear()
        running = {activity.activity_id: activity for activity in self._running()}
        for gone in self._scan_cursors.keys() - running.keys():
            del self._scan_cursors[gone]
        self._lost &= running.keys()
        left = await self._left_by_others(running.values())
        found = await self._read(running.values(), may_wait=not left)
        gate = asyncio.Semaphore(self._settings.activities_max)

        async def one(activity_id: str) -> int:
            self._hot_set.touch(activity_id)
            async with gate:
                return await self._serve(
                    keys_of(running[activity_id]),
                    [each for each in (left.get(activity_id), found.get(activity_id)) if each],
                )

        # One that has ended meanwhile: what was read of it is found by whoever learns that it goes
        # on, or was dropped with its line.
        results = await asyncio.gather(
            *(
                one(activity_id)
                for activity_id in running
                if activity_id in left or activity_id in found
            ),
            return_exceptions=True,
        )
        done = sum(result for result in results if isinstance(result, int))
        failures = [result for result in results if isinstance(result, BaseException)]
        for failure in failures:
            if not done or not isinstance(failure, Exception):
                raise failure
            log.error("seckill_line_failed", exc_info=failure)
        return done

    async def serve(self, activity: Activity) -> int:
        """Serves the line of one activity, for some rounds while it is long; returns how many
        entries left it.
        """
        return await self._serve(keys_of(activity), [])

    async def _serve(self, keys: Keys, portions: Sequence[list[Entry]]) -> int:
        done = 0
        for entries in portions:
            done += await self._handle(keys, entries)
        if portions and len(portions[-1]) < self._settings.batch_size:
            return done
        for _ in range(ROUNDS_MAX):
            if self._is_stopping:
                break
            entries = await self._take_over(keys)
            if not entries:
                entries = await self._queue.read(
                    keys, self._settings.name, count=self._settings.batch_size, block_ms=0
                )
            if not entries:
                break
            done += await self._handle(keys, entries)
            if len(entries) < self._settings.batch_size:
                break
        return done

    async def _left_by_others(self, running: Collection[Activity]) -> dict[str, list[Entry]]:
        """Entries that somebody took and did not finish. Only where something happens: what is left
        of an activity keeps the keeper looking at it.
        """
        found: dict[str, list[Entry]] = {}
        for activity in running:
            if self._hot_set.is_hot(activity.activity_id) and (
                entries := await self._take_over(keys_of(activity))
            ):
                found[activity.activity_id] = entries
        return found

    async def _read(
        self, running: Collection[Activity], *, may_wait: bool
    ) -> dict[str, list[Entry]]:
        """New entries, by activity. A wait that is under way when other activities begin to run
        goes on beside the next one: whatever Redis hands out is taken. A line that is lost is left
        out, and stops no other."""
        found: dict[str, list[Entry]] = {}
        for _ in range(len(running) + 1):
            lines = [keys_of(activity) for activity in running if not await self._is_lost(activity)]
            names = frozenset(keys.activity_id for keys in lines)
            if names and (names != self._read_now or not self._reads or not may_wait):
                self._read_now = names
                self._begin_read(lines, block_ms=self._block_ms() if may_wait else 0)
            if not self._reads:
                break
            await self._first_of_reads()
            if not self._collect(found):
                break
        if found:
            failpoint("seckill.consume.after_read")
        return found

    def _collect(self, found: dict[str, list[Entry]]) -> bool:
        """Adds what the reads that have ended were handed; True when one of them met a line that is
        lost and none was handed anything.
        """
        has_lost = False
        for read in [read for read in self._reads if read.done()]:
            self._reads.discard(read)
            try:
                for activity_id, entries in read.result().items():
                    found.setdefault(activity_id, []).extend(entries)
            except QueueLost as lost:
                has_lost = True
                self._lost.add(lost.activity_id)
                self._hot_set.suspect(lost.activity_id)
                log.warning("seckill_line_lost", activity_id=lost.activity_id)
        return has_lost and not found

    def _begin_read(self, lines: Sequence[Keys], *, block_ms: int) -> None:
        read = asyncio.create_task(
            self._queue.read_all(
                lines, self._settings.name, count=self._settings.batch_size, block_ms=block_ms
            )
        )
        read.add_done_callback(_seen)
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
        """Whether the line of an activity that was lost is still not there."""
        if activity.activity_id not in self._lost:
            return False
        if not await self._queue.has_group(keys_of(activity)):
            return True
        self._lost.discard(activity.activity_id)
        return False

    async def _take_over(self, keys: Keys) -> list[Entry]:
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
        if cursor == _START:  # the end of the line; otherwise it goes on at once
            scan.again_at = now + timedelta(seconds=self._settings.take_over_seconds)
        if entries:
            failpoint("seckill.consume.after_read")
        return entries

    async def _handle(self, keys: Keys, entries: Sequence[Entry]) -> int:
        entries = [entry for entry in entries if (entry.order_id,) not in self._quarantine]
        good = [
            entry
            for entry in entries
            if _PLAUSIBLE.fullmatch(f"{entry.order_id} {entry.user_id} {entry.request_id}")
            and entry.epoch > 0
        ]
        done = await self._settle(keys, good) if good else 0
        if len(good) < len(entries):
            known = {entry.entry_id for entry in good}
            for entry in entries:
                if entry.entry_id not in known:
                    done += await self._failed_alone(
                        keys, entry, "not what the admission writes", can_have_row=False
                    )
        return done

    async def _settle(self, keys: Keys, entries: Sequence[Entry]) -> int:
        """Decides and publishes. When the database refuses what one of them brings, or one meets a
        row that cannot be read, halves find out which."""
        try:
            decided = await self._decider.decide(keys.activity_id, entries)
        except Exception as error:
            if not isinstance(error, RowUnreadable) and not is_data_error(error):
                raise
            if len(entries) == 1:
                # it was decided once: who mends the row finds how, so it is not given up
                if isinstance(error, RowUnreadable):
                    self._quarantine.add((entries[0].order_id,), error)
                    return 0
                return await self._failed_alone(keys, entries[0], str(error), can_have_row=True)
            middle = len(entries) // 2
            return await self._settle(keys, entries[:middle]) + await self._settle(
                keys, entries[middle:]
            )
        failpoint("seckill.consume.after_commit")
        finished, dropped = decided.finished, 0
        if decided.older:
            refused, dropped = await self._admit_again(keys, decided)
            finished = finished + refused
        return dropped + await self._finish(keys, finished)

    async def _admit_again(
        self, keys: Keys, decided: BatchOutcome
    ) -> tuple[list[FinishedEntry], int]:
        """Entries of an older epoch: those whose copy stands in the present line leave it, those
        for whom there is no place are refused, the rest waits for the rebuild. Returns the
        refusals, and how many left."""
        older = decided.older
        if decided.is_closed:
            return await self._decider.refuse(keys.activity_id, older, epoch=decided.epoch), 0
        clicks = [
            Click(user_id=entry.user_id, request_id=entry.request_id, order_id=entry.order_id)
            for entry in older
        ]
        _, admissions = await admit(
            self._scripts,
            keys,
            clicks,
            min_epoch=decided.epoch,
            queued_seconds=self._settings.queued_seconds,
        )
        failpoint("seckill.consume.after_readmit")
        copied, hopeless = [], []
        for entry, admission in zip(older, admissions, strict=True):
            match admission.code:
                case AdmitCode.QUEUED | AdmitCode.REPLAY_QUEUED | AdmitCode.REPLAY_LIVE if (
                    admission.detail == entry.order_id
                ):
                    copied.append(entry.entry_id)
                case AdmitCode.NOT_READY | AdmitCode.BUSY:
                    pass
                case _:  # also when the same click has another order by now: this one never will be
                    hopeless.append(entry)
        await self._queue.drop(keys, copied)
        refused = (
            await self._decider.refuse(keys.activity_id, hopeless, epoch=decided.epoch)
            if hopeless
            else []
        )
        return refused, len(copied)

    async def _finish(self, keys: Keys, finished: Sequence[FinishedEntry]) -> int:
        if not finished:
            return 0
        done = await self._queue.finish(keys, finished)
        failpoint("seckill.consume.after_finish")
        for verdict, count in Counter(each.verdict for each in finished).items():
            _DECIDED.labels(verdict.name).inc(count)
        return done

    async def _failed_alone(
        self, keys: Keys, entry: Entry, reason: str, *, can_have_row: bool
    ) -> int:
        """An entry that nothing can be done with. It is tried a few times more: only then it is
        given up, and people are told.
        """
        deliveries = await self._queue.deliveries(keys, entry.entry_id)
        log.warning(
            "seckill_entry_failed",
            activity_id=keys.activity_id,
            entry_id=entry.entry_id,
            deliveries=deliveries,
            reason=reason[:200],
        )
        if deliveries < self._settings.deliveries_max:
            return 0
        finished = await self._give_up(
            keys, entry, reason, deliveries=deliveries, can_have_row=can_have_row
        )
        _DEAD.inc()
        log.error(
            "seckill_entry_dead",
            alert=True,
            activity_id=keys.activity_id,
            entry_id=entry.entry_id,
            order_id=entry.order_id,
            user_id=entry.user_id,
            reason=reason[:200],
        )
        if not entry.is_whole:
            await self._queue.drop(keys, [entry.entry_id])
            return 1
        return await self._finish(keys, [finished])

    async def _give_up(
        self, keys: Keys, entry: Entry, reason: str, *, deliveries: int, can_have_row: bool
    ) -> FinishedEntry:
        try:
            return await self._decider.give_up(
                keys.activity_id, entry, reason=reason, deliveries=deliveries, refuse=can_have_row
            )
        except Exception as error:
            if not can_have_row or not is_data_error(error):
                raise
        return await self._decider.give_up(
            keys.activity_id, entry, reason=reason, deliveries=deliveries, refuse=False
        )


def _seen(read: asyncio.Task[dict[str, list[Entry]]]) -> None:
    """One that ends after the last round is nobody's any more; what it was handed is taken over."""
    if not read.cancelled():
        read.exception()

"""The consumer turns the entries of admission queues into orders.

It reads entries, decides about them in the database, admits entries of an older epoch again, and
publishes the decisions. After a crash the entries are delivered again and the database gives the
same answer. The scripts see to it that each decision is published once.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Sequence

import prometheus_client

from mesh.bad_rows import Quarantine
from mesh.clock import Clock
from mesh.db import Database
from mesh.failpoints import failpoint
from mesh.ids import Ids
from mesh.logs import get_logger
from mesh.worker import QUIET_SECONDS
from seckill_rpc.domain.activity import Activity
from seckill_rpc.redis.admission_queue import AdmissionQueue, Entry, FinishedEntry
from seckill_rpc.redis.admit import AdmitCode, Click, admit
from seckill_rpc.redis.keys import Keys, keys_of
from seckill_rpc.redis.scripts import Scripts
from seckill_rpc.store.batches import is_data_error
from seckill_rpc.store.orders import RowUnreadable
from seckill_rpc.tables import SECKILL_ORDER
from seckill_rpc.usecases.consumer.batch_decider import BatchDecider, BatchOutcome
from seckill_rpc.usecases.consumer.queue_reader import ConsumerSettings, QueueReader
from seckill_rpc.usecases.hot_set import HotSet

# An activity has that many rounds of its own before the others are served again.
ROUNDS_MAX = 20
FORGOTTEN_MS = 3_600_000  # the name of a consumer that was idle for an hour is removed
LOST_SECONDS = 0.2  # between two checks whether a lost queue exists again
# What the contract lets in. Other entries were not written by admit.lua, and order_rpc would refuse
# the whole message that names one.
_PLAUSIBLE = re.compile(r"[A-Za-z0-9_-]{1,32} [A-Za-z0-9_.:@-]{1,64} [A-Za-z0-9_.:-]{1,64}")

log = get_logger()
_DECIDED = prometheus_client.Counter(
    "paymesh_seckill_decided_total",
    "Entries of the queue that were decided and published, by verdict.",
    ["verdict"],
)
_DEAD = prometheus_client.Counter(
    "paymesh_seckill_dead_entries_total",
    "Entries of the queue that were given up; each needs a person.",
)


class Consumer:
    """Serves the queues of all running activities."""

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
        self._running = running
        self._hot_set = hot_set
        self._settings = settings
        self._is_stopping = False
        self._reader = QueueReader(queue=queue, clock=clock, hot_set=hot_set, settings=settings)
        self._decider = BatchDecider(db=db, clock=clock, ids=ids)
        self._quarantine = Quarantine("consume", SECKILL_ORDER.c.order_id)

    def changed(self) -> None:
        """Other activities run than before: a read that waits is joined by one of theirs."""
        self._reader.wake()

    def stop(self) -> None:
        """Ends the present round after its present batch; a wait ends at once."""
        self._is_stopping = True
        self._reader.wake()

    async def forget_others(self) -> int:
        """Removes the names that old processes have left in the consumer groups; how many."""
        return sum(
            [
                await self._queue.forget_consumers(keys_of(activity), idle_ms=FORGOTTEN_MS)
                for activity in self._running()
            ]
        )

    def pause_seconds(self) -> float:
        """The pause after a round without work. Nearly none: a round waits in Redis, unless there
        is no queue to wait for.
        """
        running = {activity.activity_id for activity in self._running()}
        if not running:
            return QUIET_SECONDS
        return LOST_SECONDS if running <= self._reader.lost else 0.01

    def has_lost_queue(self, activity_id: str) -> bool:
        """Whether the queue of an activity, or its group, did not exist at the last read."""
        return activity_id in self._reader.lost

    async def run_once(self) -> int:
        """One round over every running activity; returns how many entries left their queues. Waits
        a while when all queues are empty.

        Raises:
            Whatever kept the database or Redis from working, when nothing else was done. The worker
                pauses then.
        """
        running = {activity.activity_id: activity for activity in self._running()}
        self._reader.begin_round(running.keys(), is_stopping=self._is_stopping)
        unfinished = await self._reader.read_unfinished(running.values())
        found = await self._reader.read_new(running.values(), may_wait=not unfinished)
        gate = asyncio.Semaphore(self._settings.activities_max)

        async def one(activity_id: str) -> int:
            self._hot_set.touch(activity_id)
            async with gate:
                return await self._serve(
                    keys_of(running[activity_id]),
                    [
                        each
                        for each in (unfinished.get(activity_id), found.get(activity_id))
                        if each
                    ],
                )

        # Entries of an activity that stopped running meanwhile are taken over if it runs on, else
        # they were dropped with its queue.
        results = await asyncio.gather(
            *(
                one(activity_id)
                for activity_id in running
                if activity_id in unfinished or activity_id in found
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
        """Serves the queue of one activity for some rounds; returns how many entries left it."""
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
            entries = await self._reader.take_over(keys)
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

    async def _handle(self, keys: Keys, entries: Sequence[Entry]) -> int:
        entries = [entry for entry in entries if (entry.order_id,) not in self._quarantine]
        good = [
            entry
            for entry in entries
            if _PLAUSIBLE.fullmatch(f"{entry.order_id} {entry.user_id} {entry.request_id}")
            and entry.epoch > 0
        ]
        done = await self.settle(keys, good) if good else 0
        if len(good) < len(entries):
            known = {entry.entry_id for entry in good}
            for entry in entries:
                if entry.entry_id not in known:
                    done += await self._failed_alone(
                        keys, entry, "not what the admission writes", can_have_row=False
                    )
        return done

    async def settle(self, keys: Keys, entries: Sequence[Entry]) -> int:
        """Decides about entries and publishes the decisions; returns how many entries left the
        queue. When one entry fails by its own data, or meets an unreadable row, halving the batch
        finds it.
        """
        try:
            decided = await self._decider.decide(keys.activity_id, entries)
        except Exception as error:
            if not isinstance(error, RowUnreadable) and not is_data_error(error):
                raise
            if len(entries) == 1:
                # It was decided once. The repaired row will say how, so it is not given up.
                if isinstance(error, RowUnreadable):
                    self._quarantine.add((entries[0].order_id,), error)
                    return 0
                return await self._failed_alone(keys, entries[0], str(error), can_have_row=True)
            middle = len(entries) // 2
            return await self.settle(keys, entries[:middle]) + await self.settle(
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
        """Entries of an older epoch. Those with a copy in the present epoch leave the queue, those
        that find no unit are refused, the rest wait for the rebuild. Returns the refusals, and how
        many entries left.
        """
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
                case _:  # also when the click has another order by now: this one will never be made
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
        """An entry that fails by itself. After `deliveries_max` tries it is given up, with an
        alert.
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

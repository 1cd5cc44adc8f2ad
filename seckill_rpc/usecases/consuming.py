"""The consumer: turns the lines of activities into orders. Read or take over, decide in the database, admit again who stood in the line of an older
epoch, publish. Whatever a crash leaves is delivered again, and the database answers the same; publishing happens once, by the scripts' own gates."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import prometheus_client
import structlog

from mesh.clock import Clock
from mesh.db import Database
from mesh.failpoints import failpoint
from mesh.ids import Ids
from seckill_rpc.domain.activity import Activity
from seckill_rpc.stock.admission import QUEUED_SECONDS, AdmitCode, Click, admit
from seckill_rpc.stock.keys import Keys, keys_of
from seckill_rpc.stock.line import Entry, Finished, Line
from seckill_rpc.stock.scripts import Scripts
from seckill_rpc.store.batches import is_data_error
from seckill_rpc.usecases.deciding import Decided, Deciding

# An activity has that many rounds of its own before the others are looked at again.
ROUNDS_MAX = 20
# What the contract lets in. Anything else was not written by us; order_rpc would refuse the whole message in which it stands.
_PLAUSIBLE = re.compile(r"[A-Za-z0-9_-]{1,32} [A-Za-z0-9_.:@-]{1,64} [A-Za-z0-9_.:-]{1,64}")
_START = "0-0"

log = structlog.get_logger()
_DECIDED = prometheus_client.Counter("paymesh_seckill_decided_total", "Entries of the line that were decided and published, by verdict.", ["verdict"])
_DEAD = prometheus_client.Counter("paymesh_seckill_dead_entries_total", "Entries of the line that were given up; each needs a person.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerChoices:
    """How the consumer works.

    Attributes:
        name: of this consumer in the group, the same for the whole life of the process and nobody else's.
        batch_size: entries of one transaction, at most 500.
        block_ms: how long a round waits for the first entry of a line, when it is the only one.
        take_over_seconds: pause between two looks for entries that somebody took and did not finish.
        min_idle_ms: how long an entry must have been with somebody to be taken over. Too short only costs work.
        deliveries_max: after so many deliveries an entry that fails alone, by its own data, is given up.
        activities_max: lines that are served at once.
        queued_seconds: how long Redis keeps the view of a buyer who stands in the line.
    """

    name: str
    batch_size: int = 500
    block_ms: int = 20
    take_over_seconds: float = 0.2
    min_idle_ms: int = 2000
    deliveries_max: int = 5
    activities_max: int = 8
    queued_seconds: int = QUEUED_SECONDS


@dataclass(slots=True)
class _Looked:
    """Where the search for entries of others goes on, and when."""

    cursor: str
    again_at: datetime


class Consuming:
    """Serves the lines of all activities that run."""

    def __init__(self, *, db: Database, line: Line, scripts: Scripts, clock: Clock, ids: Ids, running: Callable[[], Sequence[Activity]],
                 choices: ConsumerChoices) -> None:
        """`running`: the activities of this moment, e.g. `Registry.running`."""
        self._line = line
        self._scripts = scripts
        self._clock = clock
        self._running = running
        self._choices = choices
        self._deciding = Deciding(db=db, clock=clock, ids=ids)
        self._looked: dict[str, _Looked] = {}

    async def run_once(self) -> int:
        """One round over every activity that runs; returns how many entries left their lines.

        Raises:
            what kept the database or Redis from working, when nothing else was done: the pause that follows is the worker's.
        """
        running = self._running()
        for gone in self._looked.keys() - {activity.activity_id for activity in running}:
            del self._looked[gone]
        gate = asyncio.Semaphore(self._choices.activities_max)
        # The only line may be waited for; of several, one that is empty must not hold up the others.
        block_ms = self._choices.block_ms if len(running) == 1 else 0

        async def one(activity: Activity) -> int:
            async with gate:
                return await self.serve(activity, block_ms=block_ms)

        results = await asyncio.gather(*(one(activity) for activity in running), return_exceptions=True)
        done = sum(result for result in results if isinstance(result, int))
        failures = [result for result in results if isinstance(result, BaseException)]
        for failure in failures:
            if not done or not isinstance(failure, Exception):
                raise failure
            log.error("seckill_line_failed", exc_info=failure)
        return done

    async def serve(self, activity: Activity, *, block_ms: int = 0) -> int:
        """Serves the line of one activity, for some rounds while it is long; returns how many entries left it. Waits up to `block_ms` for the
        first."""
        keys = keys_of(activity)
        done = 0
        for _ in range(ROUNDS_MAX):
            entries = await self._take_over(keys)
            if not entries:
                entries = await self._line.read(keys, self._choices.name, count=self._choices.batch_size, block_ms=block_ms)
            if not entries:
                break
            failpoint("seckill.consume.after_read")
            done += await self._handle(keys, entries)
            if len(entries) < self._choices.batch_size:
                break
        return done

    async def _take_over(self, keys: Keys) -> list[Entry]:
        now = self._clock.now()
        looked = self._looked.setdefault(keys.activity_id, _Looked(_START, now))
        if now < looked.again_at:
            return []
        cursor, entries = await self._line.take_over(keys, self._choices.name, min_idle_ms=self._choices.min_idle_ms, cursor=looked.cursor,
                                                     count=self._choices.batch_size)
        looked.cursor = cursor
        if cursor == _START:  # the end of the line; otherwise it goes on at once
            looked.again_at = now + timedelta(seconds=self._choices.take_over_seconds)
        return entries

    async def _handle(self, keys: Keys, entries: Sequence[Entry]) -> int:
        good = [entry for entry in entries if _PLAUSIBLE.fullmatch(f"{entry.order_id} {entry.user_id} {entry.request_id}") and entry.epoch > 0]
        done = await self._settle(keys, good) if good else 0
        if len(good) < len(entries):
            known = {entry.entry_id for entry in good}
            for entry in entries:
                if entry.entry_id not in known:
                    done += await self._failed_alone(keys, entry, "not what the admission writes", can_have_row=False)
        return done

    async def _settle(self, keys: Keys, entries: Sequence[Entry]) -> int:
        """Decides and publishes. When the database refuses what one of them brings, halves find out which."""
        try:
            decided = await self._deciding.decide(keys.activity_id, entries)
        except Exception as error:
            if not is_data_error(error):
                raise
            if len(entries) == 1:
                return await self._failed_alone(keys, entries[0], str(error), can_have_row=True)
            middle = len(entries) // 2
            return await self._settle(keys, entries[:middle]) + await self._settle(keys, entries[middle:])
        failpoint("seckill.consume.after_commit")
        finished, dropped = decided.finished, 0
        if decided.older:
            refused, dropped = await self._admit_again(keys, decided)
            finished = finished + refused
        return dropped + await self._finish(keys, finished)

    async def _admit_again(self, keys: Keys, decided: Decided) -> tuple[list[Finished], int]:
        """Entries of an older epoch: those whose copy stands in the present line leave it, those for whom there is no place are refused, the rest
        waits for the rebuild. Returns the refusals, and how many left."""
        older = decided.older
        if decided.is_closed:
            return await self._deciding.refuse(keys.activity_id, older, epoch=decided.epoch), 0
        clicks = [Click(user_id=entry.user_id, request_id=entry.request_id, order_id=entry.order_id) for entry in older]
        _, admissions = await admit(self._scripts, keys, clicks, min_epoch=decided.epoch, queued_seconds=self._choices.queued_seconds)
        failpoint("seckill.consume.after_readmit")
        copied, hopeless = [], []
        for entry, admission in zip(older, admissions, strict=True):
            match admission.code:
                case AdmitCode.QUEUED | AdmitCode.REPLAY_QUEUED | AdmitCode.REPLAY_LIVE if admission.detail == entry.order_id:
                    copied.append(entry.entry_id)
                case AdmitCode.NOT_READY | AdmitCode.BUSY:
                    pass
                case _:  # also when the same click has another order by now: this one never will be
                    hopeless.append(entry)
        await self._line.drop(keys, copied)
        refused = await self._deciding.refuse(keys.activity_id, hopeless, epoch=decided.epoch) if hopeless else []
        return refused, len(copied)

    async def _finish(self, keys: Keys, finished: Sequence[Finished]) -> int:
        if not finished:
            return 0
        done = await self._line.finish(keys, finished)
        failpoint("seckill.consume.after_finish")
        for verdict, count in Counter(each.verdict for each in finished).items():
            _DECIDED.labels(verdict.name).inc(count)
        return done

    async def _failed_alone(self, keys: Keys, entry: Entry, reason: str, *, can_have_row: bool) -> int:
        """An entry that nothing can be done with. It is tried a few times more: only then it is given up, and people are told."""
        deliveries = await self._line.deliveries(keys, entry.entry_id)
        log.warning("seckill_entry_failed", activity_id=keys.activity_id, entry_id=entry.entry_id, deliveries=deliveries, reason=reason[:200])
        if deliveries < self._choices.deliveries_max:
            return 0
        finished = await self._give_up(keys, entry, reason, deliveries=deliveries, can_have_row=can_have_row)
        _DEAD.inc()
        log.error("seckill_entry_dead", alert=True, activity_id=keys.activity_id, entry_id=entry.entry_id, order_id=entry.order_id,
                  user_id=entry.user_id, reason=reason[:200])
        if not entry.is_whole:
            await self._line.drop(keys, [entry.entry_id])
            return 1
        return await self._finish(keys, [finished])

    async def _give_up(self, keys: Keys, entry: Entry, reason: str, *, deliveries: int, can_have_row: bool) -> Finished:
        try:
            return await self._deciding.give_up(keys.activity_id, entry, reason=reason, deliveries=deliveries, refuse=can_have_row)
        except Exception as error:
            if not can_have_row or not is_data_error(error):
                raise
        return await self._deciding.give_up(keys.activity_id, entry, reason=reason, deliveries=deliveries, refuse=False)

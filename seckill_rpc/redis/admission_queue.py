"""The admission queue of an activity: entries wait in it for the decision of the database.

An entry is only removed together with the publication of its decision, or once its copy in a newer
epoch is written. The stream is never trimmed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from seckill_rpc.domain.order import Verdict
from seckill_rpc.redis.keys import GROUP, Keys
from seckill_rpc.redis.scripts import ScriptName, Scripts

WRONG_TYPE = "WRONGTYPE"  # begins the refusal of a command on a key of another type
RESULT_SECONDS = 24 * 3600  # how long a final view lives; afterwards the database is asked


class QueueLost(Exception):
    """The queue of an activity does not exist, is no stream, or has no consumer group: it was never
    published, or somebody removed it.
    """

    def __init__(self, activity_id: str) -> None:
        super().__init__(activity_id)
        self.activity_id = activity_id


class Entry(NamedTuple):
    """One entry of the queue."""

    entry_id: str
    order_id: str
    user_id: str
    request_id: str
    epoch: int

    @property
    def is_whole(self) -> bool:
        """False for an entry that admit.lua did not write: drop it, it has no buyer to answer."""
        return bool(self.order_id and self.user_id and self.request_id and self.epoch > 0)


class FinishedEntry(NamedTuple):
    """The decision of the database about an entry.

    Attributes:
        other_order_id, other_request_id: with DUPLICATE, the live order that the buyer holds and
            the click it was made for.
    """

    entry: Entry
    verdict: Verdict
    other_order_id: str = ""
    other_request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReturnedUnit:
    """A unit that the database has taken back. `epoch`: the row's, read in that transaction."""

    user_id: str
    request_id: str
    order_id: str
    epoch: int


class GiveBack:
    """The answers of give_back."""

    DONE = 1  # it is sold again
    NOTHING = 0  # done earlier, or a rebuild or the close has counted it: nothing more to do
    # Redis lost the activity or has not published that epoch: try again (unless the row is CLOSED:
    # nothing more to do)
    NOT_YET = -1


class AdmissionQueue:
    """The admission queues of all activities on one Redis."""

    def __init__(self, redis: Redis, scripts: Scripts) -> None:
        self._redis = redis
        self._scripts = scripts

    async def read(self, keys: Keys, consumer: str, *, count: int, block_ms: int) -> list[Entry]:
        """New entries, which are pending with `consumer` from now on. Waits up to block_ms
        (0..BLOCK_MS_MAX; Redis rounds it up to 100) for the first. Empty also when the activity
        has no queue.

        Raises:
            RedisError: Redis did not answer; entries that it handed out are found by take_over.
        """
        try:
            found: Any = await self._redis.xreadgroup(
                GROUP, consumer, {keys.queue: ">"}, count=count, block=block_ms or None
            )
        except ResponseError as error:
            return _nothing_without_group(error)
        rows = (
            next(iter(found.values()))
            if isinstance(found, dict) and found
            else found[0][1]
            if found
            else []
        )
        return _entries(rows)

    async def read_all(
        self, queues: Sequence[Keys], consumer: str, *, count: int, block_ms: int
    ) -> dict[str, list[Entry]]:
        """New entries of many queues by activity, up to `count` of each, like `read`. Waits up to
        block_ms until one queue has any.

        Raises:
            QueueLost: one of them does not exist, or has no consumer group. Nothing was read.
            RedisError: Redis did not answer; entries that it handed out are found by take_over.
        """
        by_key = {keys.queue: keys for keys in queues}
        try:
            found: Any = await self._redis.xreadgroup(
                GROUP, consumer, dict.fromkeys(by_key, ">"), count=count, block=block_ms or None
            )
        except ResponseError as error:
            if str(error).startswith(("NOGROUP", WRONG_TYPE)):
                for keys in queues:
                    if not await self.has_group(keys):
                        raise QueueLost(keys.activity_id) from error
            _nothing_without_group(error)
            return {}
        rows = found.items() if isinstance(found, dict) else found
        return {
            by_key[name].activity_id: _entries(
                rows_of_one[0] if isinstance(found, dict) and rows_of_one else rows_of_one
            )
            for name, rows_of_one in rows
        }

    async def has_group(self, keys: Keys) -> bool:
        """Whether the queue exists and has its consumer group."""
        try:
            await self._redis.xpending(keys.queue, GROUP)
        except ResponseError as error:
            if not str(error).startswith(WRONG_TYPE):
                _nothing_without_group(error)
            return False
        return True

    async def take_over(
        self, keys: Keys, consumer: str, *, min_idle_ms: int, cursor: str, count: int
    ) -> tuple[str, list[Entry]]:
        """Entries that were pending for min_idle_ms with any consumer, from `cursor` ("0-0" first)
        on, and the next cursor. Pass that on: a scan that always starts at "0-0" never reaches
        the tail.
        """
        try:
            reply: Any = await self._redis.xautoclaim(
                keys.queue, GROUP, consumer, min_idle_ms, cursor, count=count
            )
        except ResponseError as error:
            # `read_all` says which queue is lost
            return "0-0", [] if str(error).startswith(WRONG_TYPE) else _nothing_without_group(error)
        return str(reply[0]), _entries(reply[1])

    async def deliveries(self, keys: Keys, entry_id: str) -> int:
        """How often a pending entry was handed out; 0 if it is not pending."""
        try:
            pending: Any = await self._redis.xpending_range(
                keys.queue, GROUP, entry_id, entry_id, 1
            )
        except ResponseError as error:
            pending = _nothing_without_group(error)
        return int(pending[0]["times_delivered"]) if pending else 0

    async def drop(self, keys: Keys, entry_ids: Sequence[str]) -> None:
        """Removes entries whose copies are in a newer epoch, or that are not whole. All others are
        removed by finish.
        """
        if entry_ids:
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.xack(keys.queue, GROUP, *entry_ids)
                pipe.xdel(keys.queue, *entry_ids)
                await pipe.execute()

    async def waiting(self, keys: Keys) -> tuple[int, int]:
        """The length of the queue, and how many of its entries are pending with a consumer."""
        length = int(await self._redis.xlen(keys.queue))
        try:
            pending: Any = await self._redis.xpending(keys.queue, GROUP)
        except ResponseError as error:
            pending = _nothing_without_group(error)
        return length, int(pending["pending"]) if pending else 0

    async def forget_consumers(self, keys: Keys, *, idle_ms: int) -> int:
        """Removes consumers that were idle for idle_ms and have no pending entry; how many."""
        return int(await self._scripts.run(ScriptName.SWEEP, [keys.queue], [GROUP, idle_ms]))

    async def finish(self, keys: Keys, finished: Sequence[FinishedEntry]) -> int:
        """Publishes decisions, removes the entries and wakes the buyers that wait; how many entries
        this call finished. May be repeated.

        Raises:
            RedisError: unknown; the entries are delivered again, and the database gives the same
                answer.
        """
        args: list[str | int] = [GROUP, len(finished), RESULT_SECONDS, keys.wakeups]
        before, after = keys.view_affixes
        views: list[str] = []
        for done in finished:
            entry = done.entry
            args += (
                entry.entry_id,
                entry.user_id,
                entry.request_id,
                entry.order_id,
                done.verdict.value,
                done.other_order_id,
                done.other_request_id,
            )
            views.append(f"{before}{entry.user_id}{after}")
        return int(
            await self._scripts.run(
                ScriptName.FINISH, [keys.meta, keys.users, keys.queue, *views], args
            )
        )

    async def give_back(self, keys: Keys, units: Sequence[ReturnedUnit]) -> list[int]:
        """Sells units again that the database has taken back; one GiveBack answer per unit. May be
        repeated.

        Raises:
            RedisError: unknown; repeat it.
        """
        args: list[str | int] = [len(units), RESULT_SECONDS, keys.wakeups]
        for unit in units:
            args += (unit.user_id, unit.request_id, unit.order_id, unit.epoch)
        views = [keys.view(unit.user_id) for unit in units]
        return [
            int(answer)
            for answer in await self._scripts.run(
                ScriptName.GIVE_BACK, [keys.meta, keys.users, *views], args
            )
        ]


def _nothing_without_group(error: ResponseError) -> list[Entry]:
    """No entries: there is no queue. UNBLOCKED: it was dropped while we waited, as every close
    does.
    """
    if not str(error).startswith(("NOGROUP", "UNBLOCKED")):
        raise error
    return []


def _entries(rows: Sequence[tuple[str, Mapping[str, str] | None]]) -> list[Entry]:
    # Redis 6.2 hands out nothing for an entry that was deleted while it was pending.
    return [_entry(entry_id, fields) for entry_id, fields in rows if entry_id and fields]


def _entry(entry_id: str, fields: Mapping[str, str]) -> Entry:
    get = fields.get
    epoch = get("e", "")
    return Entry(
        entry_id,
        get("o", ""),
        get("u", ""),
        get("r", ""),
        int(epoch) if epoch.isascii() and epoch.isdigit() else 0,
    )

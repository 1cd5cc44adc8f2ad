"""Warm-up and rebuild, which are one thing, and the state that the row wants. What is published is
what the row said when its epoch was raised, and only if nothing newer stands there; `hold` keeps
everybody out from before the fence until the last queued entry has moved into the new epoch."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from redis.exceptions import ResponseError

from seckill_rpc.domain.activity import Activity
from seckill_rpc.domain.order import View
from seckill_rpc.redis.admission_queue import RESULT_SECONDS, WRONG_TYPE
from seckill_rpc.redis.keys import GROUP, Keys
from seckill_rpc.redis.scripts import ScriptName, Scripts

CLOSED = "CLOSED"  # state of a tombstone
# without one of them nobody can be admitted
_NEEDED = frozenset({"epoch", "rev", "state", "stock", "out", "start", "end", "limit"})
# fields, views or entries per call: a few ms of Redis, which serves buyers of other activities
# meanwhile
CHUNK = 1000
SCAN_COUNT = 2000  # keys that Redis looks at per step
TOMBSTONE_SECONDS = 7 * 24 * 3600  # longer than any rebuilder sleeps
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveUnit:
    """A live order, as the fenced row's transaction read it."""

    user_id: str
    request_id: str
    order_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """What Redis knows of an activity.

    Attributes:
        state: of `rev`; CLOSED is the tombstone, whose numbers are 0.
        is_held: a rebuild is at work, or died.
        stock: units that may still be admitted.
        out: units of entries in the line.
        has_drawn: a draw has begun.
    """

    epoch: int
    rev: int
    run_id: str
    state: str
    is_held: bool
    stock: int
    out: int
    has_drawn: bool


class ActivityLoader:
    """Loads activities into the Redis of `scripts`. Every method may be repeated; each raises
    RedisError when Redis does not answer.
    """

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts
        self._redis = scripts.redis

    async def hold(self, keys: Keys) -> None:
        """Nobody is admitted until the next publish and its carry. Comes before the database's
        fence.
        """
        await self._load(keys, "hold")

    async def load_holders(self, keys: Keys, *, epoch: int, units: Iterable[LiveUnit]) -> bool:
        """Builds the users of an epoch: all live orders that the fenced transaction read, and the
        views of who holds them. False: somebody has published this epoch or a newer one."""
        held: Counter[str] = Counter()
        for unit_chunk in _chunks(units, CHUNK):
            held.update(unit.user_id for unit in unit_chunk)
            records = [
                text
                for unit in unit_chunk
                for text in (f"{unit.user_id}#{unit.request_id}", f"1{unit.order_id}")
            ]
            if not await self._load(keys, "part", epoch, RESULT_SECONDS, *records, building=epoch):
                return False
        for users in _chunks(held, CHUNK):
            counts = [
                text
                for user in users
                for text in (user, str(held[user]), f"{user}+", str(held[user]))
            ]
            if not await self._load(
                keys, "part", epoch, RESULT_SECONDS, *counts, building=epoch, views=users
            ):
                return False
        return True

    async def clear_stale_views(self, keys: Keys, *, epoch: int, users: Iterable[str]) -> bool:
        """Makes 2 of the 1 that these buyers are told, who hold no live order (a failover brings
        such ones back). False: as with part.
        """
        for chunk in _chunks(users, CHUNK):
            if not await self._load(
                keys, "stale", epoch, RESULT_SECONDS, building=epoch, views=chunk
            ):
                return False
        return True

    async def publish(self, keys: Keys, activity: Activity, *, run_id: str) -> bool:
        """Publishes an epoch: `activity` as its fenced transaction read it, so that `left` belongs
        to the units of part. `hold` stays until carry has come to its end. False: somebody has
        published this epoch or a newer one."""
        return bool(
            await self._load(
                keys,
                "publish",
                activity.epoch,
                activity.rev,
                activity.state,
                activity.left,
                _ms(activity.starts_at),
                _ms(activity.ends_at),
                activity.limit_per_user,
                run_id,
                GROUP,
                activity.mode,
                building=activity.epoch,
            )
        )

    async def carry(
        self, keys: Keys, *, epoch: int, cursor: str = "", count: int = CHUNK
    ) -> str | None:
        """Moves up to `count` queued entries of older epochs into this one: same order, same
        request, same place, before anybody new. The next cursor; "" at the end, and then `hold` is
        lifted. None: another epoch has been published. What it leaves (no unit left, live already)
        the consumer finishes, admits again or refuses."""
        reply = await self._load(keys, "carry", epoch, cursor, count, GROUP)
        return None if reply == 0 else str(reply)

    async def write_state(self, keys: Keys, activity: Activity) -> bool:
        """The row's state, window and limit, if its rev is newer. False: Redis has this rev or a
        newer one.
        """
        return bool(
            await self._load(
                keys,
                "state",
                activity.rev,
                activity.state,
                _ms(activity.starts_at),
                _ms(activity.ends_at),
                activity.limit_per_user,
            )
        )

    async def write_tombstone(self, keys: Keys, activity: Activity) -> bool:
        """The activity is CLOSED: nothing but its epoch stays, so that no slow rebuilder opens it
        again. False: this was done already.
        """
        return bool(await self._load(keys, "drop", activity.epoch, activity.rev, TOMBSTONE_SECONDS))

    async def clear_views(self, keys: Keys) -> int:
        """Removes every view of the product, left by earlier activities; how many. Nothing once
        something is published: they are buyers' results.
        """
        removed = 0
        async for found in self._scan(keys):
            for views in _chunks(found, CHUNK):
                names = [keys.meta, keys.users, keys.building(0), keys.queue, keys.entries, *views]
                removed += int(await self._scripts.run(ScriptName.LOAD, names, ["clear"]))
        return removed

    async def viewed_holders(self, keys: Keys) -> set[str]:
        """The buyers who are told that they hold an order. Asked before the fence, so that nobody
        who becomes one meanwhile is among them.
        """
        found: set[str] = set()
        async for views in self._scan(keys):
            said = await self._redis.mget(views)
            found |= {
                user
                for view, value in zip(views, said, strict=True)
                if value == View.HOLDER and (user := keys.user_of(view)) is not None
            }
        return found

    async def meta(self, keys: Keys) -> Meta | None:
        """What Redis knows; None when it has lost the activity, or never had it, or when what
        stands there is not what a publication writes.
        """
        try:
            fields: Any = await self._redis.hgetall(keys.meta)
        except ResponseError as error:
            if str(error).startswith(WRONG_TYPE):
                return None
            raise
        if fields.get("state") != CLOSED and not fields.keys() >= _NEEDED:
            return None
        try:
            return Meta(
                epoch=int(fields["epoch"]),
                rev=int(fields["rev"]),
                run_id=fields.get("run", ""),
                state=fields["state"],
                is_held="hold" in fields,
                stock=int(fields.get("stock", 0)),
                out=int(fields.get("out", 0)),
                has_drawn="drawn" in fields,
            )
        except (KeyError, ValueError):
            return None

    async def published_epoch(self, keys: Keys) -> int:
        """The epoch that stands in Redis, also in a meta that lacks everything else; 0 when there
        is none.
        """
        try:
            epoch: Any = await self._redis.hget(keys.meta, "epoch")
        except ResponseError as error:
            if str(error).startswith(WRONG_TYPE):
                return 0
            raise
        return int(epoch) if epoch and epoch.isascii() and epoch.isdigit() else 0

    async def has_whole_keys(self, keys: Keys) -> bool:
        """Whether each key of the activity is absent or of the kind that we write."""
        kinds = {keys.meta: "hash", keys.users: "hash", keys.queue: "stream", keys.entries: "hash"}
        async with self._redis.pipeline(transaction=False) as pipe:
            for key in kinds:
                pipe.type(key)
            found: list[str] = await pipe.execute()
        return all(
            kind in {"none", wanted} for kind, wanted in zip(found, kinds.values(), strict=True)
        )

    async def entries(self, keys: Keys) -> int:
        """Entries of a draw that are neither winners nor losers yet."""
        return int(await self._redis.hlen(keys.entries))

    async def run_id(self) -> str:
        """Changes with every start of Redis and with every failover: what it holds may be old
        then.
        """
        info = await self._redis.info("server")
        return str(info["run_id"])

    async def now_ms(self) -> int:
        """The clock that admits: milliseconds since 1970."""
        seconds, microseconds = await self._redis.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    async def _scan(self, keys: Keys) -> AsyncIterator[list[str]]:
        """The product's views, in portions that are never empty; one may come twice."""
        cursor = 0
        while True:
            found: Any
            cursor, found = await self._redis.scan(cursor, match=keys.views, count=SCAN_COUNT)
            if views := [view for view in found if keys.user_of(view) is not None]:
                yield views
            if not cursor:
                return

    async def _load(
        self, keys: Keys, step: str, *args: str | int, building: int = 0, views: Sequence[str] = ()
    ) -> int | str:
        names = [
            keys.meta,
            keys.users,
            keys.building(building),
            keys.queue,
            keys.entries,
            *(keys.view(user) for user in views),
        ]
        reply: int | str = await self._scripts.run(ScriptName.LOAD, names, [step, *args])
        return reply


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def _chunks(things: Iterable[_T], size: int) -> Iterator[list[_T]]:
    rest = iter(things)
    while chunk := list(itertools.islice(rest, size)):
        yield chunk

"""Loads an activity into Redis: warm-up, rebuild, and changes of its state.

A publication shows what the row said when its epoch was raised, and only if Redis has nothing
newer. `hold` stops admission from before the fence until the last queued entry has moved into the
new epoch.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from redis.exceptions import ResponseError

from seckill_rpc.domain.activity import Activity
from seckill_rpc.domain.order import BuyerStatus
from seckill_rpc.redis.admission_queue import RESULT_SECONDS, WRONG_TYPE
from seckill_rpc.redis.keys import GROUP, Keys
from seckill_rpc.redis.scripts import ScriptName, Scripts

CLOSED = "CLOSED"  # state of a tombstone
# without one of them no click can be admitted
_NEEDED = frozenset({"epoch", "rev", "state", "stock", "out", "start", "end", "limit"})
# fields, views or entries per call: a few ms, in which Redis serves no other activity
CHUNK = 1000
SCAN_COUNT = 2000  # keys that Redis looks at per step
TOMBSTONE_SECONDS = 7 * 24 * 3600  # longer than any rebuilder sleeps
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveUnit:
    """A live order, as the transaction after the fence read it."""

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
        out: units of entries in the admission queue.
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
    """Loads activities into the Redis of `scripts`. Every method may be repeated, and raises
    RedisError when Redis does not answer.
    """

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts
        self._redis = scripts.redis

    async def hold(self, keys: Keys) -> None:
        """Stops admission until the next publication and its carry. It comes before the fence in
        the database.
        """
        await self._load(keys, "hold")

    async def load_holders(self, keys: Keys, *, epoch: int, units: Iterable[LiveUnit]) -> bool:
        """Builds the users of an epoch from all live orders after the fence, and the views of their
        holders. False: this epoch or a newer one is published already.
        """
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
        """Changes HOLDER to NEITHER in the views of these buyers, who hold no live order; a
        failover revives such views. False: as with load_holders.
        """
        for chunk in _chunks(users, CHUNK):
            if not await self._load(
                keys, "stale", epoch, RESULT_SECONDS, building=epoch, views=chunk
            ):
                return False
        return True

    async def publish(self, keys: Keys, activity: Activity, *, run_id: str) -> bool:
        """Publishes an epoch: `activity` as the transaction after the fence read it, so that `left`
        fits the loaded holders. `hold` stays until carry has ended. False: this epoch or a newer
        one is published already.
        """
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
        """Moves up to `count` queued entries of older epochs into this one, before any new click:
        same order, same request, same queue position. It leaves entries without a unit and
        entries that are live already to the consumer.

        Returns the next cursor; "" at the end, and then `hold` is lifted. None: another epoch is
        published.
        """
        reply = await self._load(keys, "carry", epoch, cursor, count, GROUP)
        return None if reply == 0 else str(reply)

    async def write_state(self, keys: Keys, activity: Activity) -> bool:
        """The state, window and limit of the row, if its rev is newer. False: Redis has this rev or
        a newer one.
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
        """The activity is CLOSED: only its epoch stays, so that no slow rebuild opens it again.
        False: this was done already.
        """
        return bool(await self._load(keys, "drop", activity.epoch, activity.rev, TOMBSTONE_SECONDS))

    async def clear_views(self, keys: Keys) -> int:
        """Removes the views of the product that earlier activities left; how many. Nothing once an
        activity is published: they are results of buyers then.
        """
        removed = 0
        async for found in self._scan(keys):
            for views in _chunks(found, CHUNK):
                names = [keys.meta, keys.users, keys.building(0), keys.queue, keys.entries, *views]
                removed += int(await self._scripts.run(ScriptName.LOAD, names, ["clear"]))
        return removed

    async def viewed_holders(self, keys: Keys) -> set[str]:
        """The buyers whose view is HOLDER. Read before the fence, so that nobody who becomes a
        holder meanwhile is among them.
        """
        found: set[str] = set()
        async for views in self._scan(keys):
            said = await self._redis.mget(views)
            found |= {
                user
                for view, value in zip(views, said, strict=True)
                if value == BuyerStatus.HOLDER and (user := keys.user_of(view)) is not None
            }
        return found

    async def meta(self, keys: Keys) -> Meta | None:
        """What Redis knows; None when it has lost the activity, never had it, or has something that
        no publication writes.
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
        """The epoch in Redis, even if the rest of meta is missing; 0 if there is none."""
        try:
            epoch: Any = await self._redis.hget(keys.meta, "epoch")
        except ResponseError as error:
            if str(error).startswith(WRONG_TYPE):
                return 0
            raise
        return int(epoch) if epoch and epoch.isascii() and epoch.isdigit() else 0

    async def has_whole_keys(self, keys: Keys) -> bool:
        """Whether each key of the activity is absent or of the type that we write."""
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
        """Changes with every start of Redis and every failover: its data may be old then."""
        info = await self._redis.info("server")
        return str(info["run_id"])

    async def now_ms(self) -> int:
        """The clock of admission: milliseconds since 1970."""
        seconds, microseconds = await self._redis.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    async def _scan(self, keys: Keys) -> AsyncIterator[list[str]]:
        """The views of the product, in portions that are never empty; a view may come twice."""
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

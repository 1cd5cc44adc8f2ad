"""What Redis says of running activities against their rows. While a sale goes on the two differ by
what is under way; at rest they are equal.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from redis.exceptions import RedisError

from mesh.audit import OVERDUE, AuditTolerance, Violation
from mesh.db import Database
from mesh.errors import Unavailable
from seckill_rpc.domain.activity import Activity
from seckill_rpc.domain.order import BuyerStatus
from seckill_rpc.redis.admission_queue import AdmissionQueue
from seckill_rpc.redis.connection import open_admission_redis
from seckill_rpc.redis.keys import Keys, keys_of
from seckill_rpc.redis.loader import ActivityLoader, Meta
from seckill_rpc.redis.scripts import Scripts
from seckill_rpc.redis.views import Views
from seckill_rpc.store import activities, orders
from seckill_rpc.store.orders import Holder


async def stock_violations(
    db: Database, tolerance: AuditTolerance, *, redis_url: str
) -> AsyncIterator[Violation]:
    """Everything that does not hold. What may be under way is only looked at when the tolerance is
    strict.

    Raises:
        Unavailable: Redis does not answer.
    """
    redis = open_admission_redis(redis_url)
    try:
        auditor = _Auditor(redis, tolerance)
        for activity in await db.read(activities.running):
            for check, detail in await auditor.of(db, activity):
                yield Violation(check=check, subject=activity.activity_id, detail=detail)
    except RedisError as error:
        raise Unavailable(f"redis does not answer: {error}") from error
    finally:
        await redis.aclose()


class _Auditor:
    def __init__(self, redis: Any, tolerance: AuditTolerance) -> None:
        scripts = Scripts(redis)
        self._redis = redis
        self._tolerance = tolerance
        self._line, self._loading = AdmissionQueue(redis, scripts), ActivityLoader(scripts)
        self._views = Views(redis)

    async def of(self, db: Database, activity: Activity) -> list[tuple[str, str]]:
        """(check, what does not hold) of one activity."""
        keys = keys_of(activity)
        meta = await self._loading.meta(keys)
        if meta is None:
            return [("published", "redis does not know it")] if self._tolerance.strict else []
        found = await self._late(keys)
        if self._tolerance.strict:
            found += self._numbers(activity, meta)
            found += await self._empty(keys)
            found += await self._holders(
                keys, await db.read(orders.all_holders, activity_id=activity.activity_id)
            )
        return found

    def _numbers(self, activity: Activity, meta: Meta) -> list[tuple[str, str]]:
        problems = []
        if (meta.epoch, meta.state, meta.is_held) != (activity.epoch, activity.state, False):
            held = ", held" if meta.is_held else ""
            published = (
                f"redis has {meta.state} of epoch {meta.epoch}{held}, the row "
                f"{activity.state} of {activity.epoch}"
            )
            problems.append(("published", published))
        if meta.stock + meta.out + activity.sold != activity.total or meta.out:
            units = (
                f"{meta.stock} may be admitted, {meta.out} stand in the queue, {activity.sold} "
                f"are sold, of {activity.total}"
            )
            problems.append(("units_conserved", units))
        return problems

    async def _late(self, keys: Keys) -> list[tuple[str, str]]:
        """The first one in the queue has waited for too long."""
        first: Any = await self._redis.xrange(keys.queue, count=1)
        since_ms = self._tolerance.before(OVERDUE).timestamp() * 1000
        if self._tolerance.strict or not first or int(first[0][0].partition("-")[0]) >= since_ms:
            return []
        return [
            ("line_late", f"{first[0][1].get('u')} has waited in the queue for more than {OVERDUE}")
        ]

    async def _empty(self, keys: Keys) -> list[tuple[str, str]]:
        length, pending = await self._line.waiting(keys)
        return (
            [("line_empty", f"{length} entries are in the queue, {pending} of them taken")]
            if length or pending
            else []
        )

    async def _holders(self, keys: Keys, holders: list[Holder]) -> list[tuple[str, str]]:
        users: dict[str, str] = await self._redis.hgetall(keys.users)
        records = {
            f"{holder.user_id}#{holder.request_id}": f"1{holder.order_id}" for holder in holders
        }
        found = {name: value for name, value in users.items() if "#" in name}
        problems = []
        if found != records:
            wrong = sorted(
                name
                for name in found.keys() | records.keys()
                if found.get(name) != records.get(name)
            )
            known = f"redis and the rows differ in {len(wrong)} holders, e.g. {wrong[0]}"
            problems.append(("holders_known", known))
        owners = {holder.user_id for holder in holders}
        told = await self._loading.viewed_holders(keys)
        # a view may have run out
        untold = [
            user_id
            for user_id in sorted(owners - told)
            if await self._views.view(keys, user_id) is not None
        ]
        problems += [
            ("views_right", f"{user_id} holds an order and is not told {BuyerStatus.HOLDER}")
            for user_id in untold[:3]
        ]
        problems += [
            ("views_right", f"{user_id} holds no order and is told {BuyerStatus.HOLDER}")
            for user_id in sorted(told - owners)[:3]
        ]
        return problems

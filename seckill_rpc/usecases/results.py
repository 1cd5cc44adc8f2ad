"""What became of a buyer's clicks. Redis is asked first. A click that Redis has lost is refused by
a row in the database, for ever, so an answer "queued" always ends (docs/protocols.md 5).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta

from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.clock import Clock, Monotonic, Seconds
from mesh.db import Database
from seckill_rpc.domain.activity import Activity, ActivityState, AdmissionMode
from seckill_rpc.domain.errors import SeckillBusy, TicketInvalid
from seckill_rpc.domain.order import BuyerStatus, UnitOrder, UnitState
from seckill_rpc.domain.result import Result, ResultCode
from seckill_rpc.domain.ticket import Ticket, Tickets
from seckill_rpc.redis.keys import keys_of
from seckill_rpc.redis.views import ClickLookup, Record, Views
from seckill_rpc.redis.wakeups import Waiters
from seckill_rpc.store import activities, batches, orders
from seckill_rpc.store.batches import Batch, NewOrder
from seckill_rpc.usecases.admission.gate import Jitter
from seckill_rpc.usecases.admission.registry import ActivityRegistry
from seckill_rpc.usecases.admission.result_cache import ResultCache
from seckill_rpc.usecases.circuit_breaker import CircuitBreaker

# for a queued buyer; a batch takes milliseconds, an outage seconds
ASK_AGAIN_MS = 500
# pause before the second look at a click of a buyer whose view is final by another click
LOOK_AGAIN_SECONDS = 0.1
LOOK_AGAIN_SECONDS_MAX = 2.0  # the pause doubles until then
FULL_SECONDS = 2.0  # when to come back where too many calls wait
# of one stream: it ends with an answer before its deadline ends it without
WATCH_SECONDS = 110.0
DECIDED_BY_TICKET = 0  # batch_id of a refusal that no consumer wrote


class Results:
    """SeckillResult, WatchSeckillResult, GetTicketOrder."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        registry: ActivityRegistry,
        views: Views,
        waiters: Waiters,
        cache: ResultCache,
        tickets: Tickets,
        grace: timedelta,
        monotonic: Monotonic,
        jitter: Jitter,
    ) -> None:
        """`grace`: how long Redis may not know a queued click before the database refuses it, from
        the click or from the end of the last rebuild, whichever was later.
        """
        self._db = db
        self._clock = clock
        self._registry = registry
        self._views = views
        self._waiters = waiters
        self._cache = cache
        self._tickets = tickets
        self._grace = grace
        self._monotonic = monotonic
        self._breaker = CircuitBreaker(monotonic=monotonic, jitter=jitter)
        # since when Redis lacks an activity, as far as this process knows
        self._missing_since: dict[str, datetime] = {}

    async def seckill_result(
        self, *, merchant_id: str, user_id: str, sku_id: str, ticket: str, wait_seconds: Seconds
    ) -> Result:
        """The result of a buyer for a product, after waiting up to `wait_seconds` for a final one;
        with a ticket, of that click.

        Raises:
            TicketInvalid: not ours, or not of this buyer and product. ActivityNotFound: the product
                has no activity. SeckillNotReady: Redis does not answer, or is being rebuilt, and
                the database knows nothing final.
        """
        if ticket:
            read = self._tickets.read(ticket)
            if (read.merchant_id, read.user_id, read.sku_id) != (merchant_id, user_id, sku_id):
                raise TicketInvalid
            return await self.of_click(read, wait_seconds=wait_seconds)
        activity = await self._registry.current(merchant_id, sku_id)
        # the view may be of an earlier activity then
        if activity.state is ActivityState.CLOSED:
            return await self._by_rows(activity, user_id) or _neither(activity, ResultCode.NO_CLICK)
        known = self._cache.find(activity.activity_id, user_id)
        if known is not None:
            return known
        if self._breaker.is_open:
            return await self._without_redis(activity, user_id)
        try:
            result = await self._by_view(activity, user_id, wait_seconds)
            found = result or await self._by_rows(activity, user_id)
            is_steady = found is not None or await self._views.is_steady(keys_of(activity))
        except RedisError:
            self._breaker.failed()
            return await self._without_redis(activity, user_id)
        self._breaker.answered()
        if found is None and not is_steady:  # a rebuild may still find a queued click
            raise self._breaker.not_ready()
        return found or _neither(activity, ResultCode.NO_CLICK)

    async def present(self, activity: Activity, user_id: str) -> Result:
        """The result now of a buyer who takes part in a running activity."""
        try:
            result = self._cache.find(activity.activity_id, user_id) or await self._by_view(
                activity, user_id, 0
            )
        except RedisError:
            result = None
        result = result or await self._by_rows(activity, user_id)
        return result or _queued(activity)

    async def of_request(
        self, activity: Activity, *, user_id: str, request_id: str
    ) -> Result | None:
        """The live order that a click of a closed activity became, if any."""
        mine = await self._db.read(
            orders.order_of_request,
            activity_id=activity.activity_id,
            user_id=user_id,
            request_id=request_id,
        )
        return None if mine is None else _bought(activity, mine.order_id)

    async def of_click(self, ticket: Ticket, *, wait_seconds: Seconds) -> Result:
        """The result of one click, after waiting up to `wait_seconds` for a final one.

        Raises:
            SeckillNotReady: Redis does not answer and the database knows nothing final.
                ActivityNotFound: a ticket of another installation.
        """
        activity = await self._registry.get(ticket.activity_id)
        end = self._monotonic() + wait_seconds
        pause = LOOK_AGAIN_SECONDS
        while True:
            result = await self._look_up_click(activity, ticket)
            rest = end - self._monotonic()
            # the buyer asks again, which costs less than waiting here
            if result.is_final or rest <= 0 or self._waiters.is_full:
                return result
            try:
                update = await self._waiters.wait(keys_of(activity), ticket.user_id, rest)
            except RedisError:
                update = None
            # the view is of another click, or lost: look up this click itself
            if update is None or update.order_id != ticket.order_id:
                await asyncio.sleep(min(pause, max(end - self._monotonic(), 0)))
                pause = min(pause * 2, LOOK_AGAIN_SECONDS_MAX)

    async def watch_seckill_result(self, ticket: str) -> AsyncIterator[Result]:
        """The result now, and the final one when it comes; for WATCH_SECONDS at most.

        Raises:
            SeckillBusy: too many calls wait; the first answer was given. TicketInvalid and what
                `of_click` raises.
        """
        read = self._tickets.read(ticket)
        result = await self.of_click(read, wait_seconds=0)
        yield result
        if not result.is_final:
            if self._waiters.is_full:
                raise SeckillBusy("too many wait for results", retry_after_seconds=FULL_SECONDS)
            yield await self.of_click(read, wait_seconds=WATCH_SECONDS)

    async def get_ticket_order(self, ticket: str) -> tuple[Ticket, bool]:
        """The ticket, and whether its order exists or may still come.

        Raises:
            TicketInvalid and what `of_click` raises.
        """
        read = self._tickets.read(ticket)
        return read, (await self.of_click(read, wait_seconds=0)).status is not BuyerStatus.NEITHER

    async def _by_view(
        self, activity: Activity, user_id: str, wait_seconds: Seconds
    ) -> Result | None:
        """The result by the view in Redis; None if there is none, or if a HOLDER's order has to be
        looked up.
        """
        update = await self._waiters.wait(keys_of(activity), user_id, wait_seconds)
        if update is None:
            return None
        match update.view:
            case BuyerStatus.QUEUED:
                return _queued(activity)
            case BuyerStatus.NEITHER:
                return _refused(activity)
            case BuyerStatus.HOLDER if update.order_id:
                return _bought(activity, update.order_id)
            case _:
                return None

    async def _without_redis(self, activity: Activity, user_id: str) -> Result:
        async with self._breaker.instead():
            found = await self._by_rows(activity, user_id)
        if found is None:
            raise self._breaker.not_ready()
        return found

    async def _by_rows(self, activity: Activity, user_id: str) -> Result | None:
        row = await self._db.read(
            orders.order_of_user, activity_id=activity.activity_id, user_id=user_id
        )
        if row is None:
            return None
        if row.state is not UnitState.LIVE:
            return _refused(activity)
        result = _bought(activity, row.order_id)
        self._cache.learn(activity.activity_id, user_id, result)
        return result

    async def _look_up_click(self, activity: Activity, ticket: Ticket) -> Result:
        if self._breaker.is_open:
            return await self._of_click_without_redis(activity, ticket)
        try:
            lookup = await self._views.look_up(keys_of(activity), ticket.user_id, ticket.request_id)
        except RedisError:
            self._breaker.failed()
            return await self._of_click_without_redis(activity, ticket)
        self._breaker.answered()
        if lookup.record is not None and lookup.record.order_id == ticket.order_id:
            return self._of_record(activity, lookup.record)
        row = await self._db.read(orders.find_order, ticket.order_id)
        if row is None and self._is_lost(activity, ticket, lookup):
            row = await self._db.run(self._refuse, activity, ticket)
        if row is None:
            return _queued(activity, ticket.order_id)
        return await self._of_row(activity, row)

    async def _of_click_without_redis(self, activity: Activity, ticket: Ticket) -> Result:
        async with self._breaker.instead():
            row = await self._db.read(orders.find_order, ticket.order_id)
            if row is None:
                raise self._breaker.not_ready()
            return await self._of_row(activity, row)

    async def _of_row(self, activity: Activity, row: UnitOrder) -> Result:
        if row.state is UnitState.LIVE:
            return _bought(activity, row.order_id)
        # perhaps because Redis had lost the order that the same click had become before
        if row.state is UnitState.REFUSED:
            same = await self.of_request(activity, user_id=row.user_id, request_id=row.request_id)
            # An order that the click became later has its own ticket: a refused ticket stays
            # refused.
            if same is not None and same.order_id < row.order_id:
                return same
        return _refused(activity)

    def _is_lost(self, activity: Activity, ticket: Ticket, lookup: ClickLookup) -> bool:
        """Whether a click that Redis does not know is lost: the activity is not being rebuilt, and
        has not been for the grace.
        """
        if activity.state is not ActivityState.CLOSED and lookup.is_held:
            return False
        now = self._clock.now()
        since_ms = max(ticket.clicked_at_ms, lookup.since_ms)
        if lookup.is_published or activity.state is ActivityState.CLOSED:
            self._missing_since.pop(activity.activity_id, None)
        else:
            since_ms = max(since_ms, _ms(self._missing_since.setdefault(activity.activity_id, now)))
        return _ms(now) - since_ms > self._grace.total_seconds() * 1000

    @staticmethod
    def _of_record(activity: Activity, record: Record) -> Result:
        if record.view is BuyerStatus.HOLDER:
            return _bought(activity, record.order_id)
        return _queued(activity, record.order_id)

    async def _refuse(self, tx: AsyncConnection, activity: Activity, ticket: Ticket) -> UnitOrder:
        """Refuses a lost click, unless it was decided before. The first commit decides; a consumer
        that finds the click in the queue after all finds this row too.
        """
        present = await activities.get(tx, activity_id=activity.activity_id)
        lost = NewOrder(ticket.order_id, ticket.user_id, ticket.request_id, slot=None)
        batch = Batch(activity.activity_id, DECIDED_BY_TICKET, present.epoch, self._clock.now())
        rows = await batches.insert_refused(tx, [lost], batch)
        return rows[ticket.order_id]


def _bought(activity: Activity, order_id: str) -> Result:
    return Result(
        BuyerStatus.HOLDER, ResultCode.BOUGHT, activity.activity_id, activity.sku_id, order_id
    )


def _queued(activity: Activity, order_id: str = "") -> Result:
    return Result(
        BuyerStatus.QUEUED,
        ResultCode.QUEUED,
        activity.activity_id,
        activity.sku_id,
        order_id,
        retry_after_ms=ASK_AGAIN_MS,
    )


def _refused(activity: Activity) -> Result:
    is_draw = activity.mode is AdmissionMode.DRAW
    return _neither(activity, ResultCode.NOT_DRAWN if is_draw else ResultCode.NOT_SERVED)


def _neither(activity: Activity, code: ResultCode) -> Result:
    return Result(BuyerStatus.NEITHER, code, activity.activity_id, activity.sku_id)


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)

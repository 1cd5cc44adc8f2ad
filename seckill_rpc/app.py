"""The use cases of seckill_rpc, put together. `__main__` gives it what is real, tests give it
clocks and neighbours of their own.
"""

from __future__ import annotations

from datetime import timedelta

from paymesh.seckill.v1 import activity_pb2_grpc, seckill_pb2_grpc
from redis.asyncio import Redis

from mesh.clock import Clock, Monotonic
from mesh.db import Database
from mesh.events import StreamDestination
from mesh.ids import Ids
from mesh.outbox import Relay
from mesh.paging import PageTokens
from mesh.server import MeshServer, Runs
from mesh.token_buckets import TokenBuckets
from mesh.worker import QUIET_SECONDS, Worker
from seckill_rpc.domain.activity import Activity
from seckill_rpc.domain.ticket import Tickets
from seckill_rpc.neighbours import Allocations
from seckill_rpc.servicer.activities import ActivityServicer
from seckill_rpc.servicer.seckill import SeckillServicer
from seckill_rpc.settings import SeckillSettings
from seckill_rpc.stock.lane import Lane
from seckill_rpc.stock.lease import Lease
from seckill_rpc.stock.line import Line
from seckill_rpc.stock.loading import Loading
from seckill_rpc.stock.scripts import Scripts
from seckill_rpc.stock.views import Views
from seckill_rpc.stock.wakeups import Notices, Waiters, Wakeups
from seckill_rpc.usecases.activities import Activities
from seckill_rpc.usecases.attention import Attention
from seckill_rpc.usecases.audience import Audience
from seckill_rpc.usecases.clicking import Clicking, DoorSettings
from seckill_rpc.usecases.closing import Closing, DropDestination
from seckill_rpc.usecases.consuming import ConsumerChoices, Consuming
from seckill_rpc.usecases.door import Jitter
from seckill_rpc.usecases.drawing import Drawing
from seckill_rpc.usecases.events import TOPIC
from seckill_rpc.usecases.keeping import Keeping
from seckill_rpc.usecases.known import Known
from seckill_rpc.usecases.publishing import Publishing
from seckill_rpc.usecases.rebuilding import Rebuilding
from seckill_rpc.usecases.registry import Registry
from seckill_rpc.usecases.results import Results
from seckill_rpc.usecases.returning import Returning
from seckill_rpc.usecases.stepping import Stepping
from seckill_rpc.usecases.to_order_rpc import OrderRpcDestination
from seckill_rpc.usecases.to_redis import RedisDestination
from seckill_rpc.workers import make_back_workers, make_front_workers

# Somebody was quicker with the same batch: the transaction runs again and finds it.
RETRY_CONSTRAINTS = ("pk_seckill_order", "uq_seckill_order_slot", "uq_seckill_order_live_request")


class SeckillApp:
    """Use cases and workers over one database and one Redis."""

    def __init__(
        self,
        *,
        db: Database,
        redis: Redis,
        clock: Clock,
        monotonic: Monotonic,
        jitter: Jitter,
        ids: Ids,
        page_tokens: PageTokens,
        tickets: Tickets,
        allocations: Allocations,
        settings: SeckillSettings,
        events: Redis | None = None,
    ) -> None:
        """`redis`: of `open_stock`. `events`: of event streams; None: the same. `monotonic` and
        `jitter` (draws from 0 to 1): for waits and for spreading them."""
        self.scripts = Scripts(redis)
        self.line, self.loading, self.lease, self.views = (
            Line(redis, self.scripts),
            Loading(self.scripts),
            Lease(self.scripts),
            Views(redis),
        )
        self.registry = Registry(db=db, monotonic=monotonic)
        self.attention = Attention(monotonic=monotonic)
        self.registry.on_change(self.attention.look_at)
        self.notices = Notices(redis)
        self.consumers = [
            self.make_consumer(db=db, clock=clock, ids=ids, settings=settings)
            for _ in range(settings.consumers)
        ]
        self._make_life(
            db=db,
            clock=clock,
            ids=ids,
            page_tokens=page_tokens,
            allocations=allocations,
            settings=settings,
        )
        self._make_front(
            db=db,
            redis=redis,
            clock=clock,
            monotonic=monotonic,
            jitter=jitter,
            ids=ids,
            tickets=tickets,
            settings=settings,
        )
        self.returning = Returning(db=db, clock=clock, ids=ids)
        self.relays = [
            Relay(
                db=db,
                clock=clock,
                destination=OrderRpcDestination(
                    db=db, allocations=allocations, returning=self.returning, clock=clock
                ),
            ),
            Relay(db=db, clock=clock, destination=RedisDestination(db=db, line=self.line)),
            Relay(db=db, clock=clock, destination=DropDestination(db=db, loading=self.loading)),
            Relay(
                db=db,
                clock=clock,
                destination=StreamDestination(events or redis, TOPIC),
                shares_fate=True,
            ),
        ]
        self._refresher = Worker(
            "refresh_activities",
            self.registry.refresh,
            idle_seconds=settings.scan_interval_seconds,
            traffic=db.traffic,
        )
        self._catcher = Worker("catch_up", self.catch_up, idle_seconds=QUIET_SECONDS)
        self.registry.on_change(lambda _: self._catcher.wake())
        self.workers: list[Runs] = [
            self.wakeups,
            self._refresher,
            self._catcher,
            *make_front_workers(db=db, clock=clock),
        ]
        if self.consumers:
            self.workers += make_back_workers(
                db=db,
                consumers=self.consumers,
                registry=self.registry,
                keeping=self.keeping,
                attention=self.attention,
                publishing=self.publishing,
                closing=self.closing,
                drawing=self.drawing,
                relays=self.relays,
                idle_seconds=settings.scan_interval_seconds,
                keeper_seconds=settings.keeper_interval_seconds,
            )

    def make_consumer(
        self, *, db: Database, clock: Clock, ids: Ids, settings: SeckillSettings
    ) -> Consuming:
        """One more consumer of the lines, under a name of its own."""
        return Consuming(
            db=db,
            line=self.line,
            scripts=self.scripts,
            clock=clock,
            ids=ids,
            running=self.registry.running,
            attention=self.attention,
            choices=ConsumerChoices(
                name=ids.new("CON"),
                batch_size=settings.consumer_batch_size,
                queued_seconds=settings.queued_seconds,
            ),
        )

    async def catch_up(self) -> int:
        """One round of learning who takes part in activities."""
        return await self.audience.run_once(self.wakeups)

    def _changed_here(self, activity: Activity) -> None:
        self.registry.learn(activity)
        self.notices.tell(activity.activity_id)

    def _troubled(self, activity_id: str) -> None:
        if not self.attention.is_on(activity_id):
            self.notices.tell(activity_id)
        self.attention.suspect(activity_id)

    def _noticed(self, activity_id: str) -> None:
        self.attention.look_at(activity_id)
        self._refresher.wake()

    def _listens(self) -> None:
        """The subscription is there, perhaps because Redis started anew: whatever was said before
        was not heard.
        """
        for activity in self.registry.running():
            self.attention.look_at(activity.activity_id)
        self._catcher.wake()

    def add_to(self, server: MeshServer) -> None:
        """Puts the services of seckill_rpc behind a server's pipeline."""
        server.add(
            activity_pb2_grpc.add_ActivityServiceServicer_to_server,
            ActivityServicer(activities=self.activities, rebuilding=self.rebuilding),
        )
        server.add(
            seckill_pb2_grpc.add_SeckillServiceServicer_to_server,
            SeckillServicer(clicking=self.clicking, results=self.results, returning=self.returning),
        )

    def _make_life(
        self,
        *,
        db: Database,
        clock: Clock,
        ids: Ids,
        page_tokens: PageTokens,
        allocations: Allocations,
        settings: SeckillSettings,
    ) -> None:
        """What opens, keeps and ends activities."""
        loading, line = self.loading, self.line
        self.stepping = Stepping(db=db, clock=clock, ids=ids, on_change=self._changed_here)
        self.rebuilding = Rebuilding(db=db, clock=clock, ids=ids, loading=loading, lease=self.lease)
        self.drawing = Drawing(
            db=db,
            clock=clock,
            scripts=self.scripts,
            loading=loading,
            queued_seconds=settings.queued_seconds,
        )
        self.publishing = Publishing(
            db=db,
            clock=clock,
            stepping=self.stepping,
            shelf=allocations,
            loading=loading,
            rebuilding=self.rebuilding,
        )
        self.closing = Closing(
            db=db,
            clock=clock,
            ids=ids,
            stepping=self.stepping,
            loading=loading,
            line=line,
            rebuilding=self.rebuilding,
            drawing=self.drawing,
        )
        self.keeping = Keeping(
            db=db,
            clock=clock,
            loading=loading,
            lease=self.lease,
            rebuilding=self.rebuilding,
            closing=self.closing,
            close_after_end=timedelta(seconds=settings.close_after_end_seconds),
            attention=self.attention,
            line=line,
            has_lost_line=lambda activity_id: any(
                each.has_lost_line(activity_id) for each in self.consumers
            ),
        )
        self.activities = Activities(
            db=db,
            clock=clock,
            ids=ids,
            page_tokens=page_tokens,
            stepping=self.stepping,
            publishing=self.publishing,
            closing=self.closing,
            loading=loading,
            line=line,
        )

    def _make_front(
        self,
        *,
        db: Database,
        redis: Redis,
        clock: Clock,
        monotonic: Monotonic,
        jitter: Jitter,
        ids: Ids,
        tickets: Tickets,
        settings: SeckillSettings,
    ) -> None:
        """What buyers meet."""
        known = Known(monotonic=monotonic)
        waiters = Waiters(self.views, waiters_max=settings.waiters_max)
        self.results = Results(
            db=db,
            clock=clock,
            registry=self.registry,
            views=self.views,
            waiters=waiters,
            known=known,
            tickets=tickets,
            grace=timedelta(seconds=settings.result_grace_seconds),
            monotonic=monotonic,
            jitter=jitter,
        )
        self.clicking = Clicking(
            registry=self.registry,
            scripts=Scripts(
                redis, execute=Lane(redis, command_seconds=settings.redis_timeout_seconds).execute
            ),
            results=self.results,
            known=known,
            tickets=tickets,
            ids=ids,
            clock=clock,
            buckets=TokenBuckets(
                per_second=settings.clicks_per_second, burst=settings.clicks_burst, now=monotonic
            ),
            doors=DoorSettings(
                line_max=settings.line_max,
                draw_max=settings.draw_max,
                queued_seconds=settings.queued_seconds,
                batch_max=settings.coalescer_batch_max,
                calls_max=settings.coalescer_calls_max,
            ),
            monotonic=monotonic,
            jitter=jitter,
            troubled=self._troubled,
        )
        self.audience = Audience(
            db=db,
            registry=self.registry,
            clicking=self.clicking,
            known=known,
            waiters=waiters,
            attention=self.attention,
        )
        self.wakeups = Wakeups(
            redis,
            hear=self.audience.hear,
            deafened=self.audience.deafened,
            subscribed=self._listens,
            noticed=self._noticed,
        )

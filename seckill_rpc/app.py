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
from seckill_rpc.clients import Allocations
from seckill_rpc.domain.activity import Activity
from seckill_rpc.domain.ticket import Tickets
from seckill_rpc.redis.admission_queue import AdmissionQueue
from seckill_rpc.redis.lease import Lease
from seckill_rpc.redis.loader import ActivityLoader
from seckill_rpc.redis.pipelined_connection import PipelinedConnection
from seckill_rpc.redis.scripts import Scripts
from seckill_rpc.redis.views import Views
from seckill_rpc.redis.wakeups import Notices, Waiters, Wakeups
from seckill_rpc.servicer.activities import ActivityServicer
from seckill_rpc.servicer.seckill import SeckillServicer
from seckill_rpc.settings import SeckillSettings
from seckill_rpc.usecases.activity_lifecycle.activities import Activities
from seckill_rpc.usecases.activity_lifecycle.closer import Closer, DropDestination
from seckill_rpc.usecases.activity_lifecycle.publisher import Publisher
from seckill_rpc.usecases.activity_lifecycle.transitions import ActivityTransitions
from seckill_rpc.usecases.admission.gate import Jitter
from seckill_rpc.usecases.admission.registry import ActivityRegistry
from seckill_rpc.usecases.admission.result_cache import ResultCache
from seckill_rpc.usecases.admission.seckill_action import Admission, AdmissionSettings
from seckill_rpc.usecases.consumer.consumer import Consumer, ConsumerSettings
from seckill_rpc.usecases.draw import Draws
from seckill_rpc.usecases.events import TOPIC
from seckill_rpc.usecases.hot_set import HotSet
from seckill_rpc.usecases.outbox_to_order import OrderRpcDestination
from seckill_rpc.usecases.outbox_to_redis import RedisDestination
from seckill_rpc.usecases.rebuild import Rebuilder
from seckill_rpc.usecases.reconciler import Reconciler
from seckill_rpc.usecases.result_listener import ResultListener
from seckill_rpc.usecases.results import Results
from seckill_rpc.usecases.returns import Returns
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
        """`redis`: of `open_admission_redis`. `events`: the Redis of event streams; None: the same.
        `monotonic` and `jitter` (draws from 0 to 1) time waits and spread them."""
        self.scripts = Scripts(redis)
        self.queue, self.loader, self.lease, self.views = (
            AdmissionQueue(redis, self.scripts),
            ActivityLoader(self.scripts),
            Lease(self.scripts),
            Views(redis),
        )
        self.registry = ActivityRegistry(db=db, monotonic=monotonic)
        self.hot_set = HotSet(monotonic=monotonic)
        self.registry.on_change(self.hot_set.touch)
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
        self.returns = Returns(db=db, clock=clock, ids=ids)
        self.relays = [
            Relay(
                db=db,
                clock=clock,
                destination=OrderRpcDestination(
                    db=db, allocations=allocations, returns=self.returns, clock=clock
                ),
            ),
            Relay(db=db, clock=clock, destination=RedisDestination(db=db, queue=self.queue)),
            Relay(db=db, clock=clock, destination=DropDestination(db=db, loader=self.loader)),
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
                reconciler=self.reconciler,
                hot_set=self.hot_set,
                publisher=self.publisher,
                closer=self.closer,
                draws=self.draws,
                relays=self.relays,
                idle_seconds=settings.scan_interval_seconds,
                keeper_seconds=settings.keeper_interval_seconds,
            )

    def make_consumer(
        self, *, db: Database, clock: Clock, ids: Ids, settings: SeckillSettings
    ) -> Consumer:
        """One more consumer of the lines, under a name of its own."""
        return Consumer(
            db=db,
            queue=self.queue,
            scripts=self.scripts,
            clock=clock,
            ids=ids,
            running=self.registry.running,
            hot_set=self.hot_set,
            settings=ConsumerSettings(
                name=ids.new("CON"),
                batch_size=settings.consumer_batch_size,
                queued_seconds=settings.queued_seconds,
            ),
        )

    async def catch_up(self) -> int:
        """One round of learning who takes part in activities."""
        return await self.listener.run_once(self.wakeups)

    def _changed_here(self, activity: Activity) -> None:
        self.registry.learn(activity)
        self.notices.tell(activity.activity_id)

    def _troubled(self, activity_id: str) -> None:
        if not self.hot_set.is_hot(activity_id):
            self.notices.tell(activity_id)
        self.hot_set.suspect(activity_id)

    def _noticed(self, activity_id: str) -> None:
        self.hot_set.touch(activity_id)
        self._refresher.wake()

    def _listens(self) -> None:
        """The subscription is there, perhaps because Redis started anew: whatever was said before
        was not heard.
        """
        for activity in self.registry.running():
            self.hot_set.touch(activity.activity_id)
        self._catcher.wake()

    def add_to(self, server: MeshServer) -> None:
        """Puts the services of seckill_rpc behind a server's pipeline."""
        server.add(
            activity_pb2_grpc.add_ActivityServiceServicer_to_server,
            ActivityServicer(activities=self.activities, rebuilder=self.rebuilder),
        )
        server.add(
            seckill_pb2_grpc.add_SeckillServiceServicer_to_server,
            SeckillServicer(admission=self.admission, results=self.results, returns=self.returns),
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
        loader, queue = self.loader, self.queue
        self.transitions = ActivityTransitions(
            db=db, clock=clock, ids=ids, on_change=self._changed_here
        )
        self.rebuilder = Rebuilder(db=db, clock=clock, ids=ids, loader=loader, lease=self.lease)
        self.draws = Draws(
            db=db,
            clock=clock,
            scripts=self.scripts,
            loader=loader,
            queued_seconds=settings.queued_seconds,
        )
        self.publisher = Publisher(
            db=db,
            clock=clock,
            transitions=self.transitions,
            catalog=allocations,
            loader=loader,
            rebuilder=self.rebuilder,
        )
        self.closer = Closer(
            db=db,
            clock=clock,
            ids=ids,
            transitions=self.transitions,
            loader=loader,
            queue=queue,
            rebuilder=self.rebuilder,
            draws=self.draws,
        )
        self.reconciler = Reconciler(
            db=db,
            clock=clock,
            loader=loader,
            lease=self.lease,
            rebuilder=self.rebuilder,
            closer=self.closer,
            close_after_end=timedelta(seconds=settings.close_after_end_seconds),
            hot_set=self.hot_set,
            queue=queue,
            has_lost_queue=lambda activity_id: any(
                each.has_lost_queue(activity_id) for each in self.consumers
            ),
        )
        self.activities = Activities(
            db=db,
            clock=clock,
            ids=ids,
            page_tokens=page_tokens,
            transitions=self.transitions,
            publisher=self.publisher,
            closer=self.closer,
            loader=loader,
            queue=queue,
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
        known = ResultCache(monotonic=monotonic)
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
        self.admission = Admission(
            registry=self.registry,
            scripts=Scripts(
                redis,
                execute=PipelinedConnection(
                    redis, command_seconds=settings.redis_timeout_seconds
                ).execute,
            ),
            results=self.results,
            known=known,
            tickets=tickets,
            ids=ids,
            clock=clock,
            buckets=TokenBuckets(
                per_second=settings.clicks_per_second, burst=settings.clicks_burst, now=monotonic
            ),
            settings=AdmissionSettings(
                queue_max=settings.line_max,
                draw_max=settings.draw_max,
                queued_seconds=settings.queued_seconds,
                batch_max=settings.coalescer_batch_max,
                calls_max=settings.coalescer_calls_max,
            ),
            monotonic=monotonic,
            jitter=jitter,
            troubled=self._troubled,
        )
        self.listener = ResultListener(
            db=db,
            registry=self.registry,
            admission=self.admission,
            known=known,
            waiters=waiters,
            hot_set=self.hot_set,
        )
        self.wakeups = Wakeups(
            redis,
            hear=self.listener.hear,
            on_disconnect=self.listener.on_disconnect,
            subscribed=self._listens,
            noticed=self._noticed,
        )

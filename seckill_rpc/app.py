"""The use cases of seckill_rpc, put together. `__main__` passes the real clock and clients, tests
pass their own.
"""

from __future__ import annotations

from datetime import timedelta

from paymesh.seckill.v1 import activity_pb2_grpc, seckill_pb2_grpc
from redis.asyncio import Redis

from mesh.clock import Clock, Monotonic
from mesh.db import Database
from mesh.events import StreamDestination
from mesh.ids import Ids
from mesh.paging import PageTokens
from mesh.rate_limit import RateLimiter
from mesh.relay import Relay
from mesh.server import MeshServer, Runs
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
from seckill_rpc.usecases.consumer.consumer import Consumer
from seckill_rpc.usecases.consumer.queue_reader import ConsumerSettings
from seckill_rpc.usecases.draw import Draws
from seckill_rpc.usecases.events import TOPIC
from seckill_rpc.usecases.hot_set import HotSet
from seckill_rpc.usecases.merchant_statuses import AllOpen, MerchantStatuses
from seckill_rpc.usecases.outbox_to_order import OrderRpcDestination
from seckill_rpc.usecases.outbox_to_redis import RedisDestination
from seckill_rpc.usecases.rebuild import Rebuilder
from seckill_rpc.usecases.reconciler import Reconciler
from seckill_rpc.usecases.result_listener import ResultListener
from seckill_rpc.usecases.results import Results
from seckill_rpc.usecases.returns import Returns
from seckill_rpc.workers import (
    consumer_workers,
    idempotency_purge_worker,
    lifecycle_workers,
    reconciler_worker,
)

# Another consumer has written the same batch: the transaction runs again and finds its rows.
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
        statuses: MerchantStatuses | None = None,
        events: Redis | None = None,
    ) -> None:
        """`redis`: of `open_admission_redis`. `events`: the Redis of event streams; None: the same.
        `statuses`: which merchants may sell; None: all of them.
        `monotonic` and `jitter` (draws from 0 to 1) time waits and spread them."""
        self._db, self._redis, self._clock, self._ids = db, redis, clock, ids
        self._monotonic, self._jitter = monotonic, jitter
        self._settings = settings
        self._statuses = statuses or AllOpen()
        self.scripts = Scripts(redis)
        self.queue = AdmissionQueue(redis, self.scripts)
        self.loader = ActivityLoader(self.scripts)
        self.lease = Lease(self.scripts)
        self.views = Views(redis)
        self.notices = Notices(redis)
        self.registry = ActivityRegistry(db=db, monotonic=monotonic)
        self.hot_set = HotSet(monotonic=monotonic)
        self.registry.on_change(self.hot_set.touch)
        self.consumers = [self._make_consumer() for _ in range(settings.consumers)]
        self.returns = Returns(db=db, clock=clock, ids=ids)
        self.rebuilder = Rebuilder(
            db=db, clock=clock, ids=ids, loader=self.loader, lease=self.lease
        )
        self.draws = Draws(
            db=db,
            clock=clock,
            scripts=self.scripts,
            loader=self.loader,
            queued_seconds=settings.queued_seconds,
        )
        self._make_lifecycle(page_tokens, allocations)
        self._make_reconciler()
        self._make_results(tickets)
        self._make_admission(tickets)
        self._make_listener()
        self._make_relays(allocations, events or redis)
        self._make_workers()

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

    async def catch_up(self) -> int:
        """Loads who takes part in activities that are new to this process; how many activities."""
        return await self.listener.run_once(self.wakeups)

    def _make_consumer(self) -> Consumer:
        """A consumer of the admission queues, under a name of its own."""
        return Consumer(
            db=self._db,
            queue=self.queue,
            scripts=self.scripts,
            clock=self._clock,
            ids=self._ids,
            running=self.registry.running,
            hot_set=self.hot_set,
            settings=ConsumerSettings(
                name=self._ids.new("CON"),
                batch_size=self._settings.consumer_batch_size,
                queued_seconds=self._settings.queued_seconds,
            ),
        )

    def _make_lifecycle(self, page_tokens: PageTokens, allocations: Allocations) -> None:
        db, clock, ids = self._db, self._clock, self._ids
        self.transitions = ActivityTransitions(
            db=db, clock=clock, ids=ids, on_change=self._on_transition
        )
        self.publisher = Publisher(
            db=db,
            clock=clock,
            transitions=self.transitions,
            catalog=allocations,
            loader=self.loader,
            rebuilder=self.rebuilder,
        )
        self.closer = Closer(
            db=db,
            clock=clock,
            ids=ids,
            transitions=self.transitions,
            loader=self.loader,
            queue=self.queue,
            rebuilder=self.rebuilder,
            draws=self.draws,
        )
        self.activities = Activities(
            db=db,
            clock=clock,
            ids=ids,
            page_tokens=page_tokens,
            transitions=self.transitions,
            publisher=self.publisher,
            closer=self.closer,
            loader=self.loader,
            queue=self.queue,
        )

    def _make_reconciler(self) -> None:
        self.reconciler = Reconciler(
            db=self._db,
            clock=self._clock,
            loader=self.loader,
            lease=self.lease,
            rebuilder=self.rebuilder,
            closer=self.closer,
            close_after_end=timedelta(seconds=self._settings.close_after_end_seconds),
            hot_set=self.hot_set,
            queue=self.queue,
            has_lost_queue=lambda activity_id: any(
                each.has_lost_queue(activity_id) for each in self.consumers
            ),
        )

    def _make_results(self, tickets: Tickets) -> None:
        self._cache = ResultCache(monotonic=self._monotonic)
        self._waiters = Waiters(self.views, waiters_max=self._settings.waiters_max)
        self.results = Results(
            db=self._db,
            clock=self._clock,
            registry=self.registry,
            views=self.views,
            waiters=self._waiters,
            cache=self._cache,
            tickets=tickets,
            grace=timedelta(seconds=self._settings.result_grace_seconds),
            monotonic=self._monotonic,
            jitter=self._jitter,
        )

    def _make_admission(self, tickets: Tickets) -> None:
        settings = self._settings
        connection = PipelinedConnection(
            self._redis, command_seconds=settings.redis_timeout_seconds
        )
        self.admission = Admission(
            registry=self.registry,
            scripts=Scripts(self._redis, execute=connection.execute),
            results=self.results,
            cache=self._cache,
            tickets=tickets,
            ids=self._ids,
            clock=self._clock,
            buckets=RateLimiter(
                per_second=settings.clicks_per_second,
                burst=settings.clicks_burst,
                now=self._monotonic,
            ),
            settings=AdmissionSettings(
                queue_max=settings.line_max,
                draw_max=settings.draw_max,
                queued_seconds=settings.queued_seconds,
                batch_max=settings.coalescer_batch_max,
                calls_max=settings.coalescer_calls_max,
            ),
            monotonic=self._monotonic,
            jitter=self._jitter,
            statuses=self._statuses,
            on_trouble=self._on_trouble,
        )

    def _make_listener(self) -> None:
        self.listener = ResultListener(
            db=self._db,
            registry=self.registry,
            admission=self.admission,
            cache=self._cache,
            waiters=self._waiters,
            hot_set=self.hot_set,
        )
        self.wakeups = Wakeups(
            self._redis,
            on_message=self.listener.on_message,
            on_disconnect=self.listener.on_disconnect,
            on_subscribed=self._on_subscribed,
            on_notice=self._on_notice,
        )

    def _make_relays(self, allocations: Allocations, events: Redis) -> None:
        db, clock = self._db, self._clock
        to_order_rpc = OrderRpcDestination(
            db=db, allocations=allocations, returns=self.returns, clock=clock
        )
        to_redis = RedisDestination(db=db, queue=self.queue)
        tombstones = DropDestination(db=db, loader=self.loader)
        to_streams = StreamDestination(events, TOPIC)
        self.relays = [
            Relay(db=db, clock=clock, destination=to_order_rpc),
            Relay(db=db, clock=clock, destination=to_redis),
            Relay(db=db, clock=clock, destination=tombstones),
            Relay(db=db, clock=clock, destination=to_streams, shares_fate=True),
        ]

    def _make_workers(self) -> None:
        settings, traffic = self._settings, self._db.traffic
        self._refresh_worker = Worker(
            "refresh_activities",
            self.registry.refresh,
            idle_seconds=settings.scan_interval_seconds,
            traffic=traffic,
        )
        self._catch_up_worker = Worker("catch_up", self.catch_up, idle_seconds=QUIET_SECONDS)
        self.registry.on_change(lambda _: self._catch_up_worker.wake())
        self.workers: list[Runs] = [
            self.wakeups,
            self._refresh_worker,
            self._catch_up_worker,
            idempotency_purge_worker(db=self._db, clock=self._clock),
        ]
        if not self.consumers:
            return
        self.workers += [
            *consumer_workers(self.consumers, registry=self.registry, traffic=traffic),
            reconciler_worker(
                self.reconciler,
                hot_set=self.hot_set,
                interval_seconds=settings.keeper_interval_seconds,
                traffic=traffic,
            ),
            *lifecycle_workers(
                publisher=self.publisher,
                closer=self.closer,
                draws=self.draws,
                relays=self.relays,
                idle_seconds=settings.scan_interval_seconds,
                traffic=traffic,
            ),
        ]

    def _on_transition(self, activity: Activity) -> None:
        """This process has changed an activity."""
        self.registry.learn(activity)
        self.notices.send_soon(activity.activity_id)

    def _on_trouble(self, activity_id: str) -> None:
        """Redis refuses clicks that it should admit."""
        if not self.hot_set.is_hot(activity_id):
            self.notices.send_soon(activity_id)
        self.hot_set.suspect(activity_id)

    def _on_notice(self, activity_id: str) -> None:
        """Another process has changed an activity, or met trouble with it."""
        self.hot_set.touch(activity_id)
        self._refresh_worker.wake()

    def _on_subscribed(self) -> None:
        """The subscription is made, perhaps again. Messages of the time before may be lost."""
        for activity in self.registry.running():
            self.hot_set.touch(activity.activity_id)
        self._catch_up_worker.wake()

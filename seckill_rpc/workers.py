"""The background work of seckill_rpc: it serves the admission queues, keeps Redis right, and
finishes what a call or a crash has left.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from mesh import idempotency
from mesh.clock import Clock
from mesh.db import Database
from mesh.relay import Relay
from mesh.traffic import Traffic
from mesh.worker import Worker
from seckill_rpc.usecases.activity_lifecycle.closer import Closer
from seckill_rpc.usecases.activity_lifecycle.publisher import Publisher
from seckill_rpc.usecases.admission.registry import ActivityRegistry
from seckill_rpc.usecases.consumer.consumer import Consumer
from seckill_rpc.usecases.draw import Draws
from seckill_rpc.usecases.hot_set import HotSet
from seckill_rpc.usecases.reconciler import Reconciler

BUYERS_WAIT_SECONDS = 1.0  # longest pause after a failure where queued buyers wait for the work
PURGE_SECONDS = 600.0  # idempotency records live for a day, names of consumers for an hour


def idempotency_purge_worker(*, db: Database, clock: Clock) -> Worker:
    """Removes idempotency records that have expired; for every process."""

    async def purge() -> int:
        return await db.run(idempotency.purge, now=clock.now())

    return Worker("purge_receipts", purge, idle_seconds=PURGE_SECONDS)


def consumer_workers(
    consumers: Sequence[Consumer], *, registry: ActivityRegistry, traffic: Traffic
) -> list[Worker]:
    """One worker per consumer, which a change of the running activities wakes; and one that
    removes old names.
    """
    serving = [
        Worker(
            f"consume_{number}",
            _counted(each.run_once, traffic),
            idle_seconds=each.pause_seconds,
            on_stop=each.stop,
            failure_seconds_max=BUYERS_WAIT_SECONDS,
        )
        for number, each in enumerate(consumers)
    ]

    def wake_all(_: str) -> None:
        for consumer, worker in zip(consumers, serving, strict=True):
            consumer.changed()
            worker.wake()

    registry.on_change(wake_all)
    return [
        *serving,
        Worker("forget_consumers", consumers[0].forget_others, idle_seconds=PURGE_SECONDS),
    ]


def reconciler_worker(
    reconciler: Reconciler, *, hot_set: HotSet, interval_seconds: float, traffic: Traffic
) -> Worker:
    """Compares Redis with the database; the first hot activity wakes it."""
    worker = Worker(
        "keep",
        _counted(reconciler.run_once, traffic),
        idle_seconds=lambda: reconciler.pause_seconds(interval_seconds),
        failure_seconds_max=BUYERS_WAIT_SECONDS,
    )
    hot_set.on_first_touch(worker.wake)
    return worker


def lifecycle_workers(
    *,
    publisher: Publisher,
    closer: Closer,
    draws: Draws,
    relays: Sequence[Relay],
    idle_seconds: float,
    traffic: Traffic,
) -> list[Worker]:
    """Finish publications, closes and draws, and deliver the outbox."""
    return [
        Worker("publish", publisher.run_once, idle_seconds=idle_seconds, traffic=traffic),
        Worker("close", closer.run_once, idle_seconds=idle_seconds, traffic=traffic),
        Worker(
            "draw", draws.run_once, idle_seconds=idle_seconds, traffic=traffic, due_in=draws.due_in
        ),
        *(
            Worker(
                f"relay_{relay.name}",
                relay.run_once,
                idle_seconds=idle_seconds,
                traffic=traffic,
                due_in=relay.due_in,
            )
            for relay in relays
        ),
    ]


def _counted(
    run_once: Callable[[], Awaitable[int]], traffic: Traffic
) -> Callable[[], Awaitable[int]]:
    """Work found counts as traffic; the pauses of this worker do not depend on traffic."""

    async def run() -> int:
        if done := await run_once():
            traffic.found_work()
        return done

    return run

"""The background work of seckill_rpc: what finishes what a call or a crash has left, what serves
the lines, and what keeps Redis right.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from mesh import idempotency
from mesh.clock import Clock
from mesh.db import Database
from mesh.outbox import Relay
from mesh.worker import Worker
from seckill_rpc.usecases.activity_lifecycle.closer import Closer
from seckill_rpc.usecases.activity_lifecycle.publisher import Publisher
from seckill_rpc.usecases.admission.registry import ActivityRegistry
from seckill_rpc.usecases.consumer.consumer import Consumer
from seckill_rpc.usecases.draw import Draws
from seckill_rpc.usecases.hot_set import HotSet
from seckill_rpc.usecases.reconciler import Reconciler

BUYERS_WAIT_SECONDS = 1.0  # longest pause after a failure, of whatever buyers in the line wait for
PURGE_SECONDS = 600.0  # idempotency records live for a day, names of consumers for an hour


def make_front_workers(*, db: Database, clock: Clock) -> list[Worker]:
    """What every process needs besides the two that keep its memory right."""

    async def purge() -> int:
        return await db.run(idempotency.purge, now=clock.now())

    return [Worker("purge_receipts", purge, idle_seconds=PURGE_SECONDS)]


def make_back_workers(
    *,
    db: Database,
    consumers: Sequence[Consumer],
    registry: ActivityRegistry,
    reconciler: Reconciler,
    hot_set: HotSet,
    publisher: Publisher,
    closer: Closer,
    draws: Draws,
    relays: Sequence[Relay],
    idle_seconds: float,
    keeper_seconds: float,
) -> list[Worker]:
    """What at least one process needs."""
    traffic = db.traffic

    def noted(run_once: Callable[[], Awaitable[int]]) -> Callable[[], Awaitable[int]]:
        """What it does is traffic, though its pauses have nothing to do with traffic."""

        async def run() -> int:
            if done := await run_once():
                traffic.found_work()
            return done

        return run

    serving = [
        Worker(
            f"consume_{number}",
            noted(each.run_once),
            idle_seconds=each.pause_seconds,
            on_stop=each.stop,
            failure_seconds_max=BUYERS_WAIT_SECONDS,
        )
        for number, each in enumerate(consumers)
    ]
    keeper = Worker(
        "keep",
        noted(reconciler.run_once),
        idle_seconds=lambda: reconciler.pause_seconds(keeper_seconds),
        failure_seconds_max=BUYERS_WAIT_SECONDS,
    )
    hot_set.on_first_touch(keeper.wake)

    def others_run(_: str) -> None:
        for consumer, worker in zip(consumers, serving, strict=True):
            consumer.changed()
            worker.wake()

    registry.on_change(others_run)
    return [
        *serving,
        keeper,
        *(
            Worker("forget_consumers", each.forget_others, idle_seconds=PURGE_SECONDS)
            for each in consumers[:1]
        ),
        Worker("publish", publisher.run_once, idle_seconds=idle_seconds, traffic=traffic),
        Worker("close", closer.run_once, idle_seconds=idle_seconds, traffic=traffic),
        Worker(
            "draw",
            draws.run_once,
            idle_seconds=idle_seconds,
            traffic=traffic,
            due_in=draws.due_in,
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

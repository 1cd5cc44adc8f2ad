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
from seckill_rpc.usecases.attention import Attention
from seckill_rpc.usecases.closing import Closing
from seckill_rpc.usecases.consuming import Consuming
from seckill_rpc.usecases.drawing import Drawing
from seckill_rpc.usecases.keeping import Keeping
from seckill_rpc.usecases.publishing import Publishing
from seckill_rpc.usecases.registry import Registry

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
    consumers: Sequence[Consuming],
    registry: Registry,
    keeping: Keeping,
    attention: Attention,
    publishing: Publishing,
    closing: Closing,
    drawing: Drawing,
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
        noted(keeping.run_once),
        idle_seconds=lambda: keeping.pause_seconds(keeper_seconds),
        failure_seconds_max=BUYERS_WAIT_SECONDS,
    )
    attention.on_first(keeper.wake)

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
        Worker("publish", publishing.run_once, idle_seconds=idle_seconds, traffic=traffic),
        Worker("close", closing.run_once, idle_seconds=idle_seconds, traffic=traffic),
        Worker(
            "draw",
            drawing.run_once,
            idle_seconds=idle_seconds,
            traffic=traffic,
            due_in=drawing.due_in,
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

"""The background work of seckill_rpc: what finishes what a call or a crash has left, what serves the lines, and what keeps Redis right."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from mesh import receipts
from mesh.clock import Clock
from mesh.db import Database
from mesh.outbox import Relay
from mesh.worker import Worker
from seckill_rpc.usecases.closing import Closing
from seckill_rpc.usecases.consuming import Consuming
from seckill_rpc.usecases.drawing import Drawing
from seckill_rpc.usecases.keeping import Keeping
from seckill_rpc.usecases.publishing import Publishing

PURGE_SECONDS = 600.0    # receipts live for a day
CONSUMER_SECONDS = 0.01  # a consumer waits in Redis; this only lets others run between two rounds


def make_front_workers(*, db: Database, clock: Clock, refresh: Callable[[], Awaitable[int]], catch_up: Callable[[], Awaitable[int]],
                       idle_seconds: float) -> list[Worker]:
    """What every process needs: to know which activities run and who takes part in them."""
    async def purge() -> int:
        return await db.run(receipts.purge, now=clock.now())

    return [
        Worker("purge_receipts", purge, idle_seconds=PURGE_SECONDS),
        Worker("refresh_activities", refresh, idle_seconds=idle_seconds),
        Worker("catch_up", catch_up, idle_seconds=idle_seconds),
    ]


def make_back_workers(*, consumers: Sequence[Consuming], keeping: Keeping, publishing: Publishing, closing: Closing, drawing: Drawing,
                      relays: Sequence[Relay], idle_seconds: float, keeper_seconds: float) -> list[Worker]:
    """What at least one process needs."""
    return [
        *(Worker(f"consume_{number}", each.run_once, idle_seconds=CONSUMER_SECONDS) for number, each in enumerate(consumers)),
        Worker("keep", keeping.run_once, idle_seconds=keeper_seconds),
        Worker("publish", publishing.run_once, idle_seconds=idle_seconds),
        Worker("close", closing.run_once, idle_seconds=idle_seconds),
        Worker("draw", drawing.run_once, idle_seconds=idle_seconds),
        *(Worker(f"relay_{relay.name}", relay.run_once, idle_seconds=idle_seconds) for relay in relays),
    ]

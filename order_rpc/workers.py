"""The background work of order_rpc: telling whoever wants to know, and forgetting receipts whose time is over."""

from __future__ import annotations

from redis.asyncio import Redis

from mesh import receipts
from mesh.clock import Clock
from mesh.db import Database
from mesh.events import StreamDestination
from mesh.outbox import Relay
from mesh.worker import Worker
from order_rpc.usecases.events import TOPIC

PURGE_SECONDS = 600.0  # receipts live for a day


def make_workers(*, db: Database, clock: Clock, redis: Redis | None, idle_seconds: float) -> list[Worker]:
    """One worker per kind of work. Without Redis events wait in the outbox."""

    async def purge() -> int:
        return await db.run(receipts.purge, now=clock.now())

    workers = [Worker("purge_receipts", purge, idle_seconds=PURGE_SECONDS)]
    if redis is not None:
        relay = Relay(db=db, destination=StreamDestination(redis, TOPIC), clock=clock)
        workers.append(Worker(f"relay_{TOPIC.lower()}", relay.run_once, idle_seconds=idle_seconds))
    return workers

"""The workers of order_rpc: they finish what a call began, and do what no call asks for."""

from __future__ import annotations

from collections.abc import Sequence

from mesh import idempotency
from mesh.clock import Clock
from mesh.db import Database
from mesh.relay import Relay
from mesh.worker import Worker
from order_rpc.usecases.cancellations import Cancellations
from order_rpc.usecases.statistics import Statistics

PURGE_SECONDS = 600.0  # idempotency records live for a day
FOLD_SECONDS = 5.0  # readers add what is not folded yet; folding keeps them fast


def make_workers(
    *,
    db: Database,
    clock: Clock,
    cancellations: Cancellations,
    statistics: Statistics,
    relays: Sequence[Relay],
    idle_seconds: float,
) -> list[Worker]:
    """One worker per kind of work. Without Redis there is no relay for events: they wait in the
    outbox.
    """

    async def purge() -> int:
        return await db.run(idempotency.purge, now=clock.now())

    return [
        Worker("purge_receipts", purge, idle_seconds=PURGE_SECONDS),
        Worker(
            "expire_orders",
            cancellations.expire_once,
            idle_seconds=idle_seconds,
            traffic=db.traffic,
            due_in=cancellations.due_in,
        ),
        Worker(
            "fold_statistics", statistics.fold_once, idle_seconds=FOLD_SECONDS, traffic=db.traffic
        ),
        *(
            Worker(
                f"relay_{relay.name}",
                relay.run_once,
                idle_seconds=idle_seconds,
                traffic=db.traffic,
                due_in=relay.due_in,
            )
            for relay in relays
        ),
    ]

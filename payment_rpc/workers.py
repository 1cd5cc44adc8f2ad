"""The background work of payment_rpc: everything that finishes what a call began."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from mesh import idempotency
from mesh.clock import Clock
from mesh.db import Database
from mesh.outbox import Relay
from mesh.worker import Worker
from payment_rpc.store import callbacks as callback_log
from payment_rpc.store import scan_actions
from payment_rpc.usecases.asking import Asking
from payment_rpc.usecases.callbacks import Callbacks
from payment_rpc.usecases.closing import Closing
from payment_rpc.usecases.future_rows import FutureRows
from payment_rpc.usecases.reconciliation import Reconciliation
from payment_rpc.usecases.refunds import Refunds

IMPORT_WORKER = "import_statements"
FUTURE_SECONDS = 60.0  # how long a clock that was ahead may hold a row
PURGE_SECONDS = 600.0  # what is purged lives for days


def make_workers(
    *,
    db: Database,
    clock: Clock,
    asking: Asking,
    closing: Closing,
    refunds: Refunds,
    callbacks: Callbacks,
    reconciliation: Reconciliation,
    relays: Sequence[Relay],
    idle_seconds: float,
    scan_action_retention: timedelta,
) -> list[Worker]:
    """One worker per kind of work. The scan's diary is deleted after `scan_action_retention`."""

    async def purge() -> int:
        return await db.run(idempotency.purge, now=clock.now()) + await db.run(
            callback_log.purge, now=clock.now()
        )

    async def purge_scan_actions() -> int:
        return await db.run(scan_actions.purge, before=clock.now() - scan_action_retention)

    traffic = db.traffic
    return [
        Worker(
            "ask_channels",
            asking.run_once,
            idle_seconds=idle_seconds,
            traffic=traffic,
            due_in=asking.due_in,
        ),
        Worker(
            "advance_refunds",
            refunds.run_once,
            idle_seconds=idle_seconds,
            traffic=traffic,
            due_in=refunds.due_in,
        ),
        Worker(
            "expire_payments",
            closing.expire_once,
            idle_seconds=idle_seconds,
            traffic=traffic,
            due_in=closing.due_in,
        ),
        Worker(IMPORT_WORKER, reconciliation.run_once, idle_seconds=idle_seconds, traffic=traffic),
        Worker("finish_callbacks", callbacks.run_once, idle_seconds=idle_seconds, traffic=traffic),
        Worker(
            "correct_future_rows",
            FutureRows(db=db, clock=clock).run_once,
            idle_seconds=FUTURE_SECONDS,
        ),
        Worker("purge_receipts", purge, idle_seconds=PURGE_SECONDS),
        Worker("purge_scan_actions", purge_scan_actions, idle_seconds=PURGE_SECONDS),
        *(
            Worker(
                relay_worker(relay),
                relay.run_once,
                idle_seconds=idle_seconds,
                traffic=traffic,
                due_in=relay.due_in,
            )
            for relay in relays
        ),
    ]


def relay_worker(relay: Relay) -> str:
    """Name of the worker that runs a relay."""
    return f"relay_{relay.name}"

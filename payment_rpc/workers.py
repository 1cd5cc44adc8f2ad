"""The workers of payment_rpc. They complete what a call began."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import partial

from mesh import idempotency
from mesh.clock import Clock
from mesh.db import Database
from mesh.relay import Relay
from mesh.worker import Worker
from payment_rpc.store import callbacks as callback_log
from payment_rpc.store import scan_actions
from payment_rpc.usecases.callback_questions import CallbackQuestions
from payment_rpc.usecases.closing import Expiry
from payment_rpc.usecases.future_rows import FutureRows
from payment_rpc.usecases.polling import Polling
from payment_rpc.usecases.refunds import Refunds
from payment_rpc.usecases.statement_imports import StatementImports

IMPORT_WORKER = "import_statements"
FUTURE_SECONDS = 60.0  # how long the row of a clock that was ahead may wait
PURGE_SECONDS = 600.0  # what is purged lives for days


def make_workers(
    *,
    db: Database,
    clock: Clock,
    polling: Polling,
    expiry: Expiry,
    refunds: Refunds,
    callback_questions: CallbackQuestions,
    statement_imports: StatementImports,
    relays: Sequence[Relay],
    idle_seconds: float,
    scan_action_retention: timedelta,
) -> list[Worker]:
    """One worker per kind of work. The log of the scan is deleted after `scan_action_retention`."""

    async def purge() -> int:
        return await db.run(idempotency.purge, now=clock.now()) + await db.run(
            callback_log.purge, now=clock.now()
        )

    async def purge_scan_actions() -> int:
        return await db.run(scan_actions.purge, before=clock.now() - scan_action_retention)

    polled = partial(Worker, idle_seconds=idle_seconds, traffic=db.traffic)

    def worker(name: str, work: Polling | Expiry | Refunds | Relay) -> Worker:
        return polled(name, work.run_once, due_in=work.due_in)

    return [
        worker("ask_channels", polling),
        worker("advance_refunds", refunds),
        worker("expire_payments", expiry),
        polled(IMPORT_WORKER, statement_imports.run_once, on_stop=statement_imports.stop),
        polled("finish_callbacks", callback_questions.run_once),
        Worker(
            "correct_future_rows",
            FutureRows(db=db, clock=clock).run_once,
            idle_seconds=FUTURE_SECONDS,
        ),
        Worker("purge_receipts", purge, idle_seconds=PURGE_SECONDS),
        Worker("purge_scan_actions", purge_scan_actions, idle_seconds=PURGE_SECONDS),
        *(worker(relay_worker(relay), relay) for relay in relays),
    ]


def relay_worker(relay: Relay) -> str:
    """Name of the worker that runs a relay."""
    return f"relay_{relay.name}"

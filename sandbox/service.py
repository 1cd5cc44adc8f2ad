"""Builds the sandbox from plain values: file, channel, callbacks and HTTP. Used by `__main__` and
tests.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import time
from pathlib import Path
from zoneinfo import ZoneInfo

import httpx
from starlette.applications import Starlette

from mesh.clock import Clock, Seconds
from mesh.ids import Ids
from mesh.worker import Worker
from sandbox.app import Api, Sleep
from sandbox.callback_queue import CallbackQueue
from sandbox.cashier_endpoints import CashierPages
from sandbox.channel import SimulatedChannel
from sandbox.deliveries import Deliveries
from sandbox.outcomes import ChannelRules, Outcomes
from sandbox.refunds import RefundDesk
from sandbox.scheduler import Scheduler, due_in
from sandbox.statements import StatementRules, Statements
from sandbox.store import Store

# longest delay of a retry or an expiry; new callbacks wake the worker at once
IDLE_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxConfig:
    """The configuration of a sandbox, with resolved secrets.

    Attributes:
        api_key: of /v1/*.
        callback_url: receiver of callbacks; None: none are recorded.
        callback_secret: HMAC key of callbacks.
        callback_retry_seconds: pauses between deliveries; one delivery more than pauses, then it is
            given up.
        md5_secret: of source 001's rule.
        public_base_url: the start of cashier links.
        allow_misbehaviour: amounts and cards may choose misbehaviour, and differences may be
            injected into statements.
        fee_basis_points: the fee of each capture, in hundredths of a per cent.
        statement_time_zone: whose days statements are of. statement_cut_off: when such a day begins
            there.
    """

    database_file: Path
    api_key: str
    public_base_url: str
    callback_secret: str
    md5_secret: str
    callback_url: str | None = None
    callback_retry_seconds: tuple[float, ...] = (1, 5, 30, 120, 600, 3600)
    signed_callback_delay_seconds: float = 60
    allow_signatures: bool = False
    allow_misbehaviour: bool = False
    fee_basis_points: int = 60
    statement_time_zone: str = "Asia/Shanghai"
    statement_cut_off: time = time(0)
    slow_seconds: float = 15
    shop_name: str = "paymesh mall"

    def __repr__(self) -> str:
        return "SandboxConfig(hidden)"


class Sandbox:
    """A running sandbox. `app` serves it; `run_once` does the due background work; `run` repeats
    that until it is cancelled.
    """

    def __init__(
        self,
        *,
        app: Starlette,
        channel: SimulatedChannel,
        scheduler: Scheduler,
        deliveries: Deliveries,
        store: Store,
        clock: Clock,
    ) -> None:
        self.app = app
        self._scheduler = scheduler
        self._channel = channel
        self._deliveries = deliveries
        self._store = store
        self._clock = clock
        self._worker = Worker(
            "sandbox",
            self.run_once,
            idle_seconds=IDLE_SECONDS,
            traffic=store.traffic,
            due_in=self._due_in,
        )

    def wake(self) -> None:
        """Wakes the worker, because a callback is due."""
        self._worker.wake()

    async def run_once(self) -> int:
        """Closes unpaid transactions past their deadline, runs scheduled steps and sends due
        callbacks; returns the total count.
        """
        return (
            await self._channel.expire_due()
            + await self._scheduler.run_once()
            + await self._deliveries.run_once()
        )

    async def run(self) -> None:
        """Repeats `run_once`. A failure is logged and retried: a full disk must not stop it."""
        await self._worker.run()

    async def _due_in(self) -> Seconds | None:
        return await self._store.run(due_in, now=self._clock.now())


@asynccontextmanager
async def open_sandbox(
    config: SandboxConfig,
    *,
    clock: Clock,
    ids: Ids,
    new_token: Callable[[], str],
    sleep: Sleep = asyncio.sleep,
) -> AsyncIterator[Sandbox]:
    """Opens the file and builds the parts; closes them afterwards.

    Args:
        new_token: makes the unguessable part of a cashier address.
        sleep: waits for a number of seconds; delays the response of the slow card.
    """
    store = Store(config.database_file)
    await store.open()
    try:
        # Never through a proxy of the environment, and never follows redirects.
        async with httpx.AsyncClient(
            trust_env=False,
            follow_redirects=False,
            timeout=None,  # noqa: S113  # Deliveries sets one deadline over all of it
            limits=httpx.Limits(max_connections=32, max_keepalive_connections=4),
        ) as client:
            deliveries = Deliveries(
                store,
                client,
                clock=clock,
                url=config.callback_url,
                secret=config.callback_secret,
                retry_seconds=config.callback_retry_seconds,
            )
            yield _put_together(
                config, store, deliveries, clock=clock, ids=ids, new_token=new_token, sleep=sleep
            )
    finally:
        await store.close()


def _put_together(
    config: SandboxConfig,
    store: Store,
    deliveries: Deliveries,
    *,
    clock: Clock,
    ids: Ids,
    new_token: Callable[[], str],
    sleep: Sleep,
) -> Sandbox:
    def wake() -> None:
        sandbox.wake()

    callbacks = CallbackQueue(clock=clock, ids=ids, is_on=config.callback_url is not None)
    rules = ChannelRules(
        misbehaves=config.allow_misbehaviour,
        fee_basis_points=config.fee_basis_points,
        allow_signatures=config.allow_signatures,
        md5_secret=config.md5_secret,
        signed_callback_delay_seconds=config.signed_callback_delay_seconds,
    )
    outcomes = Outcomes(clock=clock, ids=ids, rules=rules, callbacks=callbacks)
    channel = SimulatedChannel(
        store,
        clock=clock,
        ids=ids,
        new_token=new_token,
        rules=rules,
        outcomes=outcomes,
        wake_deliveries=wake,
    )
    refunds = RefundDesk(
        store,
        clock=clock,
        ids=ids,
        callbacks=callbacks,
        misbehaves=config.allow_misbehaviour,
        wake_deliveries=wake,
    )
    api = Api(
        channel,
        refunds,
        Statements(store, clock=clock, rules=_statement_rules(config)),
        CashierPages(channel, clock=clock, shop_name=config.shop_name),
        api_key=config.api_key,
        public_base_url=config.public_base_url,
        slow_seconds=config.slow_seconds,
        sleep=sleep,
        deliver=deliveries.run_once,
    )
    sandbox = Sandbox(
        app=api.app(),
        channel=channel,
        scheduler=Scheduler(store, outcomes, refunds, clock=clock),
        deliveries=deliveries,
        store=store,
        clock=clock,
    )
    return sandbox


def _statement_rules(config: SandboxConfig) -> StatementRules:
    return StatementRules(
        time_zone=ZoneInfo(config.statement_time_zone),
        cut_off=config.statement_cut_off,
        may_be_spoiled=config.allow_misbehaviour,
    )

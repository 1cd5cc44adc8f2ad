"""The use cases of payment_rpc, put together. `__main__` gives it what is real, tests give it
clocks, channels and neighbours of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import time, timedelta
from typing import Protocol
from zoneinfo import ZoneInfo

from paymesh.payment.v1 import (
    callback_pb2_grpc,
    ledger_pb2_grpc,
    payment_pb2_grpc,
    reconciliation_pb2_grpc,
    refund_pb2_grpc,
)
from redis.asyncio import Redis

from mesh.clock import Clock
from mesh.db import Database
from mesh.events import StreamDestination
from mesh.ids import Ids
from mesh.outbox import Relay
from mesh.paging import PageTokens
from mesh.server import MeshServer
from mesh.worker import Worker
from payment_rpc.cache import PaymentCache
from payment_rpc.channels import Channel
from payment_rpc.domain.attempt import Schedule
from payment_rpc.domain.statement import ChannelDay
from payment_rpc.servicer.callbacks import CallbackServicer
from payment_rpc.servicer.ledger import LedgerServicer
from payment_rpc.servicer.payments import PaymentServicer
from payment_rpc.servicer.reconciliation import ReconciliationServicer
from payment_rpc.servicer.refunds import RefundServicer
from payment_rpc.servicer.wallets import WalletServicer
from payment_rpc.usecases.asking import Asking
from payment_rpc.usecases.callbacks import Callbacks
from payment_rpc.usecases.charging import Charging, ChargingLimits, OrderReader
from payment_rpc.usecases.closing import Closing
from payment_rpc.usecases.conflicts import Conflicts
from payment_rpc.usecases.dispositions import OrderDestination, OrderUpdates
from payment_rpc.usecases.events import EventDestination
from payment_rpc.usecases.facts import Facts
from payment_rpc.usecases.messages import PAYMENT_TOPIC
from payment_rpc.usecases.reading import Reading
from payment_rpc.usecases.reconciliation import Reconciliation
from payment_rpc.usecases.refunds import Refunds
from payment_rpc.usecases.starting import Starting
from payment_rpc.usecases.taking_back import TakingBack
from payment_rpc.usecases.verifying import Verifying
from payment_rpc.usecases.wallets import Wallets
from payment_rpc.workers import IMPORT_WORKER, make_workers, relay_worker

SHANGHAI_DAY = ChannelDay(time_zone=ZoneInfo("Asia/Shanghai"), cut_off=time(0))


class OrderService(OrderReader, OrderUpdates, Protocol):
    """order_rpc as payment_rpc sees it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """The times that a deployment chooses; see PaymentSettings."""

    channel_timeout_seconds: float
    attempt_lease_seconds: float
    scan_interval_seconds: float
    scan_batch_size: int
    scan_threshold_seconds: float = 0
    close_grace_seconds: float = 300
    scan_action_retention_days: int = 30


class PaymentApp:
    """Use cases and workers over one database."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        ids: Ids,
        orders: OrderService,
        channels: Mapping[str, Channel],
        redis: Redis | None,
        times: Times,
        page_tokens: PageTokens,
        return_urls: Mapping[str, tuple[str, ...]],
        statement_day: ChannelDay = SHANGHAI_DAY,
        events: Redis | None = None,
    ) -> None:
        """`redis`: of the cache. `events`: of event streams; None: the same."""
        events = events or redis
        self._clock = clock
        self._page_tokens = page_tokens
        cache = PaymentCache(redis, clock)
        batch = times.scan_batch_size
        schedule = Schedule(
            threshold=timedelta(seconds=times.scan_threshold_seconds),
            close_grace=timedelta(seconds=times.close_grace_seconds),
        )
        self.order_relay = Relay(
            db=db, destination=OrderDestination(orders=orders, clock=clock, ids=ids), clock=clock
        )
        relays = [self.order_relay]
        if events is not None:
            relays.append(
                Relay(
                    db=db,
                    clock=clock,
                    shares_fate=True,
                    destination=EventDestination(
                        stream=StreamDestination(events, PAYMENT_TOPIC), db=db, cache=cache
                    ),
                )
            )
        self.facts = Facts(
            db=db, clock=clock, ids=ids, cache=cache, wake_relay=self._wake_order_relay
        )
        self.asking = Asking(
            db=db,
            clock=clock,
            facts=self.facts,
            channels=channels,
            schedule=schedule,
            batch=batch,
            timeout_seconds=times.channel_timeout_seconds,
        )
        self.closing = Closing(db=db, clock=clock, asking=self.asking, batch=batch)
        self.charging = Charging(
            db=db,
            clock=clock,
            orders=orders,
            facts=self.facts,
            asking=self.asking,
            closing=self.closing,
            channels=channels,
            starting=Starting(
                db=db, clock=clock, ids=ids, lease=timedelta(seconds=times.attempt_lease_seconds)
            ),
            tell_order=self.order_relay.deliver,
            cache=cache,
            limits=ChargingLimits(
                channel_timeout_seconds=times.channel_timeout_seconds, return_urls=return_urls
            ),
        )
        self.refunds = Refunds(
            db=db,
            clock=clock,
            ids=ids,
            cache=cache,
            channels=channels,
            lease=timedelta(seconds=times.attempt_lease_seconds),
            batch=batch,
            timeout_seconds=times.channel_timeout_seconds,
        )
        self.taking_back = TakingBack(db=db, clock=clock, closing=self.closing)
        self.conflicts = Conflicts(db=db, clock=clock, ids=ids)
        self.reading = Reading(db=db, cache=cache)
        self.wallets = Wallets(db=db)
        self.verifying = Verifying(db=db)
        self.reconciliation = Reconciliation(
            db=db,
            clock=clock,
            ids=ids,
            cache=cache,
            channels=channels,
            facts=self.facts,
            refunds=self.refunds,
            day=statement_day,
            timeout_seconds=times.channel_timeout_seconds,
            wake_worker=lambda: self._wake(IMPORT_WORKER),
        )
        self.callbacks = Callbacks(
            db=db,
            clock=clock,
            ids=ids,
            facts=self.facts,
            refunds=self.refunds,
            asking=self.asking,
            channels=channels,
            timeout_seconds=times.channel_timeout_seconds,
        )
        self.workers: list[Worker] = make_workers(
            db=db,
            clock=clock,
            asking=self.asking,
            closing=self.closing,
            refunds=self.refunds,
            callbacks=self.callbacks,
            reconciliation=self.reconciliation,
            relays=relays,
            idle_seconds=times.scan_interval_seconds,
            scan_action_retention=timedelta(days=times.scan_action_retention_days),
        )

    def add_to(self, server: MeshServer) -> None:
        """Puts the services of payment_rpc behind a server's pipeline."""
        server.add(
            payment_pb2_grpc.add_PaymentServiceServicer_to_server,
            PaymentServicer(
                charging=self.charging,
                closing=self.closing,
                taking_back=self.taking_back,
                conflicts=self.conflicts,
                reading=self.reading,
                page_tokens=self._page_tokens,
            ),
        )
        server.add(
            refund_pb2_grpc.add_RefundServiceServicer_to_server,
            RefundServicer(refunds=self.refunds, page_tokens=self._page_tokens),
        )
        server.add(
            ledger_pb2_grpc.add_WalletServiceServicer_to_server,
            WalletServicer(
                charging=self.charging,
                wallets=self.wallets,
                clock=self._clock,
                page_tokens=self._page_tokens,
            ),
        )
        server.add(
            ledger_pb2_grpc.add_LedgerServiceServicer_to_server, LedgerServicer(self.verifying)
        )
        server.add(
            reconciliation_pb2_grpc.add_ReconciliationServiceServicer_to_server,
            ReconciliationServicer(
                reconciliation=self.reconciliation, page_tokens=self._page_tokens
            ),
        )
        server.add(
            callback_pb2_grpc.add_CallbackServiceServicer_to_server,
            CallbackServicer(self.callbacks),
        )

    def _wake_order_relay(self) -> None:
        self._wake(relay_worker(self.order_relay))

    def _wake(self, name: str) -> None:
        for worker in self.workers:
            if worker.name == name:
                worker.wake()

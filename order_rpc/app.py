"""The use cases of order_rpc, put together. `__main__` gives it what is real, tests give it clocks
and neighbours of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from paymesh.order.v1 import (
    allocation_pb2_grpc,
    catalog_pb2_grpc,
    order_pb2_grpc,
    statistics_pb2_grpc,
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
from order_rpc.domain.policy import MerchantPolicy
from order_rpc.servicer.allocations import AllocationServicer
from order_rpc.servicer.catalog import CatalogServicer
from order_rpc.servicer.orders import OrderServicer
from order_rpc.servicer.statistics import StatisticsServicer
from order_rpc.usecases.allocating import Allocating
from order_rpc.usecases.cancelling import Cancelling
from order_rpc.usecases.catalog import Catalog
from order_rpc.usecases.events import TOPIC
from order_rpc.usecases.journal import Journal
from order_rpc.usecases.orders import Orders
from order_rpc.usecases.paying import Paying
from order_rpc.usecases.payments import Payments
from order_rpc.usecases.refund_news import RefundNews
from order_rpc.usecases.refunding import Refunding
from order_rpc.usecases.shipping import Shipping
from order_rpc.usecases.statistics import Statistics
from order_rpc.usecases.taking import Taking
from order_rpc.usecases.to_payment_rpc import PaymentDestination, PaymentService
from order_rpc.usecases.to_seckill_rpc import SeckillDestination, SeckillService
from order_rpc.workers import make_workers

# Somebody was quicker to create the same thing: the transaction runs again and finds it.
RETRY_CONSTRAINTS = (
    "pk_product",
    "uq_orders_client_request_id",
    "pk_orders",
    "pk_allocation_step",
    "pk_statistic",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What a deployment chooses; see OrderSettings."""

    payment_window: timedelta
    scan_interval_seconds: float
    expiry_batch_size: int = 100
    hot_sku_group_size: int = 1
    policies: Mapping[str, MerchantPolicy] = field(default_factory=dict)


class OrderApp:
    """Use cases and workers over one database."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        ids: Ids,
        page_tokens: PageTokens,
        redis: Redis | None,
        payments: PaymentService,
        seckill: SeckillService,
        choices: Choices,
    ) -> None:
        journal = Journal(ids)
        refund_news = RefundNews(journal)
        taking = Taking(journal=journal, refund_news=refund_news, policies=choices.policies)
        self.payment_relay = Relay(
            db=db,
            clock=clock,
            destination=PaymentDestination(
                payments=payments, taking=taking, journal=journal, clock=clock, ids=ids
            ),
        )
        relays = [
            self.payment_relay,
            Relay(db=db, clock=clock, destination=SeckillDestination(seckill)),
        ]
        if redis is not None:
            relays.append(
                Relay(
                    db=db,
                    destination=StreamDestination(redis, TOPIC),
                    clock=clock,
                    shares_fate=True,
                )
            )
        deliver = self.payment_relay.deliver
        self.catalog = Catalog(db=db, clock=clock, page_tokens=page_tokens)
        self.orders = Orders(
            db=db,
            clock=clock,
            ids=ids,
            page_tokens=page_tokens,
            payment_window=choices.payment_window,
            policies=choices.policies,
            group_max=choices.hot_sku_group_size,
            seckill=seckill,
        )
        self.payments = Payments(db=db, clock=clock, taking=taking)
        self.paying = Paying(db=db, clock=clock, payments=payments)
        self.cancelling = Cancelling(
            db=db,
            clock=clock,
            ids=ids,
            journal=journal,
            deliver=deliver,
            batch=choices.expiry_batch_size,
        )
        self.refunding = Refunding(
            db=db,
            clock=clock,
            ids=ids,
            journal=journal,
            refund_news=refund_news,
            page_tokens=page_tokens,
            deliver=deliver,
        )
        self.shipping = Shipping(db=db, clock=clock, journal=journal, page_tokens=page_tokens)
        self.statistics = Statistics(db=db, clock=clock)
        self.allocating = Allocating(
            db=db, clock=clock, orders=self.orders, payment_window=choices.payment_window
        )
        self.workers: list[Worker] = make_workers(
            db=db,
            clock=clock,
            cancelling=self.cancelling,
            statistics=self.statistics,
            relays=relays,
            idle_seconds=choices.scan_interval_seconds,
        )

    def add_to(self, server: MeshServer) -> None:
        """Puts the services of order_rpc behind a server's pipeline."""
        server.add(
            order_pb2_grpc.add_OrderServiceServicer_to_server,
            OrderServicer(
                orders=self.orders,
                payments=self.payments,
                cancelling=self.cancelling,
                paying=self.paying,
                refunding=self.refunding,
                shipping=self.shipping,
            ),
        )
        server.add(
            catalog_pb2_grpc.add_CatalogServiceServicer_to_server, CatalogServicer(self.catalog)
        )
        server.add(
            allocation_pb2_grpc.add_AllocationServiceServicer_to_server,
            AllocationServicer(self.allocating),
        )
        server.add(
            statistics_pb2_grpc.add_StatisticsServiceServicer_to_server,
            StatisticsServicer(self.statistics),
        )

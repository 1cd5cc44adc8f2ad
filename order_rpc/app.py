"""The use cases of order_rpc, put together. `__main__` passes the real clock and clients, tests
pass their own.
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
from mesh.paging import PageTokens
from mesh.relay import Relay
from mesh.server import MeshServer
from mesh.worker import Worker
from order_rpc.domain.policy import MerchantPolicy
from order_rpc.servicer.allocations import AllocationServicer
from order_rpc.servicer.catalog import CatalogServicer
from order_rpc.servicer.orders import OrderServicer
from order_rpc.servicer.statistics import StatisticsServicer
from order_rpc.usecases.allocations import Allocations
from order_rpc.usecases.apply_payment import PaymentApplier
from order_rpc.usecases.apply_refunds import RefundApplier
from order_rpc.usecases.cancellations import Cancellations
from order_rpc.usecases.catalog import Catalog
from order_rpc.usecases.catalog_stock import CatalogStock
from order_rpc.usecases.events import TOPIC
from order_rpc.usecases.external_orders import ExternalOrders
from order_rpc.usecases.journal import Journal
from order_rpc.usecases.merchant_terms import EnvironmentTerms, TermsOfMerchants
from order_rpc.usecases.orders import Orders
from order_rpc.usecases.outbox_to_payment import PaymentDestination, PaymentService
from order_rpc.usecases.outbox_to_seckill import SeckillDestination, SeckillService
from order_rpc.usecases.payments import Payments
from order_rpc.usecases.refunds import Refunds
from order_rpc.usecases.shipments import Shipments
from order_rpc.usecases.statistics import Statistics
from order_rpc.workers import make_workers

# Another transaction created the same thing first: this one runs again and finds it.
RETRY_CONSTRAINTS = (
    "pk_product",
    "uq_orders_client_request_id",
    "uq_external_order_order_no",
    "pk_orders",
    "pk_allocation_step",
    "pk_statistic",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderConfig:
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
        config: OrderConfig,
        terms: TermsOfMerchants | None = None,
    ) -> None:
        """`terms`: of merchants; None: all have those of the configuration."""
        terms = terms or EnvironmentTerms(
            payment_window=config.payment_window, policies=config.policies
        )
        journal = Journal(ids)
        refund_applier = RefundApplier(journal)
        payment_applier = PaymentApplier(journal=journal, refunds=refund_applier, terms=terms)
        self.payment_relay = Relay(
            db=db,
            clock=clock,
            destination=PaymentDestination(
                payments=payments, applier=payment_applier, journal=journal, clock=clock, ids=ids
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
        self.catalog_stock = CatalogStock(db=db, clock=clock, page_tokens=page_tokens)
        self.orders = Orders(
            db=db,
            clock=clock,
            ids=ids,
            journal=journal,
            page_tokens=page_tokens,
            terms=terms,
            group_max=config.hot_sku_group_size,
            seckill=seckill,
        )
        self.external_orders = ExternalOrders(
            db=db, clock=clock, ids=ids, journal=journal, terms=terms
        )
        self.payments = Payments(
            db=db, clock=clock, service=payments, applier=payment_applier, terms=terms
        )
        self.cancellations = Cancellations(
            db=db,
            clock=clock,
            ids=ids,
            journal=journal,
            deliver=deliver,
            batch=config.expiry_batch_size,
        )
        self.refunds = Refunds(
            db=db,
            clock=clock,
            ids=ids,
            journal=journal,
            applier=refund_applier,
            page_tokens=page_tokens,
            deliver=deliver,
        )
        self.shipments = Shipments(
            db=db,
            clock=clock,
            journal=journal,
            page_tokens=page_tokens,
            service=payments,
            applier=payment_applier,
            terms=terms,
        )
        self.statistics = Statistics(db=db, clock=clock)
        self.allocations = Allocations(
            db=db,
            clock=clock,
            journal=journal,
            payment_window=config.payment_window,
            terms=terms,
        )
        self.workers: list[Worker] = make_workers(
            db=db,
            clock=clock,
            cancellations=self.cancellations,
            statistics=self.statistics,
            relays=relays,
            idle_seconds=config.scan_interval_seconds,
        )

    def add_to(self, server: MeshServer) -> None:
        """Puts the services of order_rpc behind a server's pipeline."""
        server.add(
            order_pb2_grpc.add_OrderServiceServicer_to_server,
            OrderServicer(
                orders=self.orders,
                payments=self.payments,
                cancellations=self.cancellations,
                refunds=self.refunds,
                shipments=self.shipments,
                external=self.external_orders,
            ),
        )
        server.add(
            catalog_pb2_grpc.add_CatalogServiceServicer_to_server,
            CatalogServicer(self.catalog, self.catalog_stock),
        )
        server.add(
            allocation_pb2_grpc.add_AllocationServiceServicer_to_server,
            AllocationServicer(self.allocations),
        )
        server.add(
            statistics_pb2_grpc.add_StatisticsServiceServicer_to_server,
            StatisticsServicer(self.statistics),
        )

"""The use cases of order_rpc, put together. `__main__` gives it what is real, tests give it a clock of their own."""

from __future__ import annotations

from datetime import timedelta

from paymesh.order.v1 import catalog_pb2_grpc, order_pb2_grpc
from redis.asyncio import Redis

from mesh.clock import Clock
from mesh.db import Database
from mesh.ids import Ids
from mesh.paging import PageTokens
from mesh.server import MeshServer
from mesh.worker import Worker
from order_rpc.servicer.catalog import CatalogServicer
from order_rpc.servicer.orders import OrderServicer
from order_rpc.usecases.catalog import Catalog
from order_rpc.usecases.orders import Orders
from order_rpc.usecases.payments import Payments
from order_rpc.workers import make_workers

# Somebody was quicker to create the same product: the transaction runs again and finds it.
RETRY_CONSTRAINTS = ("pk_product",)


class OrderApp:
    """Use cases and workers over one database."""

    def __init__(self, *, db: Database, clock: Clock, ids: Ids, page_tokens: PageTokens, redis: Redis | None, payment_window: timedelta,
                 scan_interval_seconds: float) -> None:
        self.catalog = Catalog(db=db, clock=clock, page_tokens=page_tokens)
        self.orders = Orders(db=db, clock=clock, ids=ids, page_tokens=page_tokens, payment_window=payment_window)
        self.payments = Payments(db=db, clock=clock, ids=ids)
        self.workers: list[Worker] = make_workers(db=db, clock=clock, redis=redis, idle_seconds=scan_interval_seconds)

    def add_to(self, server: MeshServer) -> None:
        """Puts the services of order_rpc behind a server's pipeline."""
        server.add(order_pb2_grpc.add_OrderServiceServicer_to_server, OrderServicer(orders=self.orders, payments=self.payments))
        server.add(catalog_pb2_grpc.add_CatalogServiceServicer_to_server, CatalogServicer(self.catalog))

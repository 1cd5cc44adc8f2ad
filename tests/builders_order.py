"""order_rpc for tests: its use cases on a database of the test, and things to put into it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Table, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

import order_rpc.app
from mesh.auth import CallerTokens, UserTokenIssuer, UserTokens
from mesh.call import Caller, Role
from mesh.client import MeshChannel
from mesh.db import Database, open_database
from mesh.discovery.static import StaticDiscovery
from mesh.money import Money
from mesh.paging import PageTokens
from mesh.server import MeshServer
from mesh.settings import MeshSettings
from order_rpc.app import RETRY_CONSTRAINTS
from order_rpc.domain.order import NewLine, Order, OrderState
from order_rpc.domain.payment import PaymentSnapshot
from order_rpc.domain.product import Product
from order_rpc.settings import OrderSettings
from order_rpc.tables import ORDERS, STOCK, metadata
from order_rpc.usecases.catalog import CreateProduct
from order_rpc.usecases.orders import CreateOrder
from order_rpc.usecases.payments import Answer, UpdateOrderStatus
from tests.fakes import FakeClock, FakeIds

T = TypeVar("T")

PAGE_TOKEN_SECRET = b"page tokens of order_rpc in tests"
USER_SECRET = b"user tokens of order_rpc in tests"
PAYMENT_WINDOW = timedelta(minutes=30)
PAYMENT_RPC = Caller(role=Role.SERVICE, subject="payment_rpc", service="payment_rpc")
ADMIN = Caller(role=Role.ADMIN, subject="root", merchant_id="mall")


def buyer(user_id: str = "u1", merchant_id: str = "mall") -> Caller:
    return Caller(role=Role.USER, subject=user_id, merchant_id=merchant_id)


def merchant(merchant_id: str = "mall", subject: str = "clerk") -> Caller:
    return Caller(role=Role.MERCHANT, subject=subject, merchant_id=merchant_id)


def snapshot(payment_id: str = "PAY1", *, version: int = 3, state: str = "SUCCESS", captured: str = "10.00", refunded: str = "0",
             refund_reserved: str = "0", currency: str = "CNY") -> PaymentSnapshot:
    return PaymentSnapshot.parse(payment_id=payment_id, version=version, state=state, captured=captured, refunded=refunded,
                                 refund_reserved=refund_reserved, currency=currency)


@dataclass
class OrderApp:
    """The use cases of order_rpc and short ways to call them."""

    db: Database
    clock: FakeClock = field(default_factory=FakeClock)
    ids: FakeIds = field(default_factory=FakeIds)

    def __post_init__(self) -> None:
        self.real = order_rpc.app.OrderApp(db=self.db, clock=self.clock, ids=self.ids, page_tokens=PageTokens(PAGE_TOKEN_SECRET), redis=None,
                                           payment_window=PAYMENT_WINDOW, scan_interval_seconds=1)
        self.catalog, self.orders, self.payments = self.real.catalog, self.real.orders, self.real.payments

    async def at_once(self, *calls: Awaitable[T]) -> list[T]:
        """Runs calls side by side, on connections that are open already: otherwise the first is done before the second has connected."""
        async with AsyncExitStack() as stack:
            for _ in range(self.db.engine.pool.size()):
                await stack.enter_async_context(self.db.engine.begin())
        return await asyncio.gather(*calls)

    async def product(self, sku_id: str = "mug", price: str = "10.00", *, currency: str = "CNY", available: int = 100, merchant_id: str = "mall",
                      name: str = "A mug", key: str = "", caller: Caller | None = None) -> Product:
        fingerprint = {"sku_id": sku_id, "name": name, "price": price, "currency": currency, "available": str(available)}
        command = CreateProduct(merchant_id=merchant_id, sku_id=sku_id, name=name, price=Money.parse(price, currency, allow_zero=True),
                                available=available, idempotency_key=key, fingerprint=fingerprint)
        return await self.catalog.create_product(command, caller or merchant(merchant_id))

    async def order(self, *items: tuple[str, int] | tuple[str, int, str], caller: Caller | None = None, key: str = "") -> Order:
        """Orders `(sku_id, quantity[, unit_price])`; one mug when nothing is said."""
        caller = caller or buyer()
        lines = tuple(NewLine(sku_id=item[0], quantity=item[1], unit_price=item[2] if len(item) > 2 else "") for item in items or [("mug", 1)])
        names = ("sku_id", "quantity", "unit_price")
        fingerprint = {f"items[{at}].{name}": str(getattr(line, name)) for at, line in enumerate(lines) for name in names}
        command = CreateOrder(merchant_id=caller.merchant_id, user_id=caller.subject, items=lines, idempotency_key=key, fingerprint=fingerprint)
        return await self.orders.create(command, caller)

    async def tell(self, order: Order, payment: PaymentSnapshot, *, event_id: str = "") -> Answer:
        """What payment_rpc does; every call is a new event unless it has an id."""
        command = UpdateOrderStatus(merchant_id=order.merchant_id, order_id=order.order_id, payment=payment,
                                    event_id=event_id or self.ids.new("EVT"))
        return await self.payments.update_status(command, PAYMENT_RPC)

    async def force_state(self, order: Order, state: OrderState, *, paid_by: str = "") -> None:
        """Puts an order where no use case of today brings it."""
        paid_at = None if state in (OrderState.PENDING_PAYMENT, OrderState.CANCELLING, OrderState.CANCELLED) else self.clock.now()
        this = (ORDERS.c.merchant_id == order.merchant_id) & (ORDERS.c.order_id == order.order_id)
        await self.execute(update(ORDERS).where(this).values(state=state, paid_at=paid_at, paid_payment_id=paid_by))

    async def rows(self, table: Table) -> list[dict[str, Any]]:
        """Every row of a table, by primary key."""
        return [dict(row._mapping) for row in await self.execute(select(table).order_by(*table.primary_key.columns))]

    async def stock(self, sku_id: str = "mug", merchant_id: str = "mall") -> tuple[int, int, int]:
        """(available, reserved, sold)."""
        columns = select(STOCK.c.available, STOCK.c.reserved, STOCK.c.sold)
        found = await self.execute(columns.where(STOCK.c.merchant_id == merchant_id, STOCK.c.sku_id == sku_id))
        available, reserved, sold = found[0]
        return available, reserved, sold

    async def insert(self, table: Table, rows: Iterable[dict[str, Any]]) -> None:
        await self.execute(insert(table), list(rows))

    async def execute(self, statement: Any, parameters: Any = None) -> list[Any]:
        """One statement in a transaction of its own."""
        async def run(tx: AsyncConnection) -> list[Any]:
            result = await tx.execute(statement, parameters)
            return list(result.all()) if result.returns_rows else []
        return await self.db.run(run)


@asynccontextmanager
async def order_app(database_url: str) -> AsyncIterator[OrderApp]:
    """The use cases on a database that is created here."""
    db = open_database(database_url, metadata, retry_constraints=RETRY_CONSTRAINTS)
    try:
        async with db.engine.begin() as connection:
            await connection.run_sync(metadata.create_all)
        yield OrderApp(db)
    finally:
        await db.close()


class RunningOrderRpc:
    """order_rpc behind a real port, and what a caller needs to reach it."""

    def __init__(self, app: OrderApp, server: MeshServer, payment_rpc: CallerTokens) -> None:
        self.app = app
        self.address = f"127.0.0.1:{server.port}"
        self.payment_rpc = payment_rpc  # caller tokens of payment_rpc that this server accepts
        self._users = UserTokenIssuer(USER_SECRET, clock=app.clock, ids=app.ids)

    def bearer(self, subject: str = "u1", *roles: str, merchant_id: str = "mall") -> tuple[str, str]:
        """Metadata of a person: a buyer unless roles are named."""
        return "authorization", f"Bearer {self._users.issue(subject, roles=roles or ('user',), merchant_id=merchant_id)}"

    @asynccontextmanager
    async def channel(self, caller_tokens: CallerTokens | None = None) -> AsyncIterator[MeshChannel]:
        """A channel for generated stubs; with caller tokens it is that service's."""
        settings = MeshSettings(service="tests", environment="test")
        discovery = StaticDiscovery({"order_rpc": [self.address]})
        channel = MeshChannel("order_rpc", settings=settings, discovery=discovery, caller_tokens=caller_tokens)
        try:
            await channel.channel_ready()
            yield channel
        finally:
            await channel.close()
            await discovery.close()


@asynccontextmanager
async def running_order_rpc(database_url: str) -> AsyncIterator[RunningOrderRpc]:
    """order_rpc in this process, on a free port. Its clock stands still until a test moves `app.clock`."""
    async with order_app(database_url) as app:
        key = Ed25519PrivateKey.generate()
        payment_rpc = CallerTokens("payment_rpc", clock=app.clock, ids=app.ids, private_key=key)
        known = CallerTokens("order_rpc", clock=app.clock, ids=app.ids, public_keys={"payment_rpc": key.public_key()})
        users = UserTokens.from_secret(USER_SECRET, clock=app.clock)
        server = MeshServer(OrderSettings(environment="test", port=0), clock=app.clock, ids=app.ids, user_tokens=users, caller_tokens=known)
        app.real.add_to(server)
        await server.start()
        try:
            yield RunningOrderRpc(app, server, payment_rpc)
        finally:
            await server.stop(0)

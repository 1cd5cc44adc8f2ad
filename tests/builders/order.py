"""order_rpc for tests: its use cases on a database of the test, and things to put into it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from paymesh.payment.v1 import payment_pb2
from sqlalchemy import Table, event, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.util import await_only

import order_rpc.app
from mesh.auth import CallerTokens, UserTokenIssuer, UserTokens
from mesh.call import Caller, Role
from mesh.client import MeshChannel
from mesh.db import Database
from mesh.discovery.static import StaticDiscovery
from mesh.errors import RemoteError, UpstreamUnavailable
from mesh.money import Money, RequestedAmount
from mesh.paging import PageTokens
from mesh.server import MeshServer
from mesh.settings import MeshSettings
from order_rpc.app import RETRY_CONSTRAINTS, OrderConfig
from order_rpc.domain.address import Address
from order_rpc.domain.order import Order, OrderState
from order_rpc.domain.order_line import NewLine
from order_rpc.domain.payment import CloseAnswer, CloseResult, PaymentSnapshot
from order_rpc.domain.policy import MerchantPolicy
from order_rpc.domain.product import Product
from order_rpc.domain.refund import RefundLine, RefundRequest
from order_rpc.domain.ticket import TicketOrder
from order_rpc.settings import OrderSettings
from order_rpc.tables import (
    ORDER_AUDIT,
    ORDERS,
    RESERVATION,
    STOCK,
    STOCK_MOVEMENT,
    STOCK_RETURN,
    metadata,
)
from order_rpc.usecases.allocations import SeckillOrder
from order_rpc.usecases.catalog import CreateProduct
from order_rpc.usecases.merchant_terms import TermsOfMerchants
from order_rpc.usecases.orders import CreateOrder
from order_rpc.usecases.payments import Answer, UpdateOrderStatus
from order_rpc.usecases.refunds import RefundKey, RefundOrder
from tests.support.databases import create_tables, open_patiently
from tests.support.fakes import FakeClock, FakeIds

T = TypeVar("T")

PAGE_TOKEN_SECRET = b"page tokens of order_rpc in tests"
USER_SECRET = b"user tokens of order_rpc in tests"
PAYMENT_WINDOW = timedelta(minutes=30)
PAYMENT_RPC = Caller(role=Role.SERVICE, subject="payment_rpc", service="payment_rpc")
SECKILL_RPC = Caller(role=Role.SERVICE, subject="seckill_rpc", service="seckill_rpc")
ADMIN = Caller(role=Role.ADMIN, subject="root", merchant_id="mall")


def buyer(user_id: str = "u1", merchant_id: str = "mall") -> Caller:
    return Caller(role=Role.USER, subject=user_id, merchant_id=merchant_id)


def merchant(merchant_id: str = "mall", subject: str = "clerk") -> Caller:
    return Caller(role=Role.MERCHANT, subject=subject, merchant_id=merchant_id)


def snapshot(
    payment_id: str = "PAY1",
    *,
    version: int = 3,
    state: str = "SUCCESS",
    captured: str = "10.00",
    refunded: str = "0",
    refund_reserved: str = "0",
    currency: str = "CNY",
    refunds: Iterable[tuple[str, str, str, str, str]] = (),
    held_amount: str = "",
    held_until: datetime | None = None,
) -> PaymentSnapshot:
    return PaymentSnapshot.parse(
        payment_id=payment_id,
        version=version,
        state=state,
        captured=captured,
        refunded=refunded,
        refund_reserved=refund_reserved,
        currency=currency,
        refunds=refunds,
        held_amount=held_amount,
        held_until=held_until,
    )


def held_snapshot(
    payment_id: str = "PAY1", *, until: datetime, version: int = 2, amount: str = "10.00"
) -> PaymentSnapshot:
    """A payment whose money the channel holds."""
    return snapshot(
        payment_id,
        version=version,
        state="AUTHORIZED",
        captured="0",
        held_amount=amount,
        held_until=until,
    )


def refusal(reason: str) -> RemoteError:
    """A definite refusal of payment_rpc."""
    return RemoteError(reason, remote_reason=reason, domain="paymesh.payment.v1", grpc_code=9)


HOME = Address(
    recipient="王小明",
    phone="+86 138 0000 0000",
    country="CN",
    region="上海",
    city="上海",
    street="南京路 1",
    postal_code="200000",
)
CLOSED = CloseAnswer(result=CloseResult.CLOSED, payment=None, retry_after_seconds=0)
CLOSING = CloseAnswer(result=CloseResult.CLOSING, payment=None, retry_after_seconds=2)
CONFLICTED = CloseAnswer(result=CloseResult.CONFLICTED, payment=None, retry_after_seconds=0)


def still_held(payment: PaymentSnapshot) -> CloseAnswer:
    return CloseAnswer(result=CloseResult.HELD, payment=payment, retry_after_seconds=0)


def already_paid(payment: PaymentSnapshot) -> CloseAnswer:
    return CloseAnswer(result=CloseResult.ALREADY_PAID, payment=payment, retry_after_seconds=0)


@dataclass
class ScriptedPayments:
    """payment_rpc as a test wants it: what it answers, and what it was asked."""

    away: bool = False
    close_answer: CloseAnswer = CLOSED
    refund_refusal: RemoteError | None = None
    closes: list[tuple[str, str]] = field(default_factory=list)  # (order_id, op_id)
    # of held money; None: it moves
    capture_answer: PaymentSnapshot | RemoteError | None = None
    captures: list[tuple[str, str]] = field(default_factory=list)  # (payment_id, key)
    let_go: list[bool] = field(default_factory=list)  # of each close, whether held money too
    forgotten: list[tuple[str, str]] = field(default_factory=list)  # (merchant_id, order_id)
    # what it took, by request_id
    refunds: dict[str, dict[str, str]] = field(default_factory=dict)
    # Each is (order, channel, return_url).
    payments: list[tuple[Order, str, str]] = field(default_factory=list)

    async def close_payment(
        self, *, merchant_id: str, order_id: str, op_id: str, by_buyer: bool, lets_go: bool
    ) -> CloseAnswer:
        del merchant_id
        self._reach()
        self.let_go.append(lets_go)
        self.closes.append((order_id, op_id))
        return self.close_answer

    async def create_refund(
        self, *, payment_id: str, amount: str, currency: str, reason: str, request_id: str
    ) -> str:
        self._reach()
        if self.refund_refusal is not None:
            raise self.refund_refusal
        self.refunds[request_id] = {
            "payment_id": payment_id,
            "amount": amount,
            "currency": currency,
            "reason": reason,
        }
        return self.refund_id(request_id)

    async def capture_payment(self, *, payment_id: str, key: str) -> PaymentSnapshot:
        self._reach()
        self.captures.append((payment_id, key))
        if isinstance(self.capture_answer, RemoteError):
            raise self.capture_answer
        return self.capture_answer or snapshot(payment_id)

    async def erase_customer(self, *, merchant_id: str, order_id: str) -> None:
        self._reach()
        self.forgotten.append((merchant_id, order_id))

    async def create_payment(self, order: Order, *, channel: str, return_url: str) -> Any:
        self._reach()
        self.payments.append((order, channel, return_url))
        return payment_pb2.Payment(
            payment_id="PAY1",
            order_id=order.order_id,
            amount=order.amount.format(),
            state=payment_pb2.PAYMENT_STATE_PAYING,
        )

    @staticmethod
    def refund_id(request_id: str) -> str:
        return f"RF{request_id[-20:]}"

    def _reach(self) -> None:
        if self.away:
            raise UpstreamUnavailable("payment_rpc is away")


@dataclass
class ScriptedSeckill:
    """seckill_rpc as a test wants it: what it knows of tickets, and which units came back."""

    away: bool = False
    refusal: RemoteError | None = None
    tickets: dict[str, TicketOrder] = field(default_factory=dict)
    # Each is (merchant_id, activity_id, order_id).
    returned: list[tuple[str, str, str]] = field(default_factory=list)

    async def return_stock(self, *, merchant_id: str, activity_id: str, order_id: str) -> None:
        self._reach()
        if self.refusal is not None:
            raise self.refusal
        self.returned.append((merchant_id, activity_id, order_id))

    async def ticket_order(self, ticket: str) -> TicketOrder:
        self._reach()
        if ticket not in self.tickets:
            raise RemoteError(
                "invalid ticket",
                remote_reason="TICKET_INVALID",
                domain="paymesh.seckill.v1",
                grpc_code=3,
            )
        return self.tickets[ticket]

    def _reach(self) -> None:
        if self.away:
            raise UpstreamUnavailable("seckill_rpc is away")


@dataclass
class OrderApp:
    """The use cases of order_rpc and short ways to call them."""

    db: Database
    clock: FakeClock = field(default_factory=FakeClock)
    ids: FakeIds = field(default_factory=FakeIds)
    payment_rpc: ScriptedPayments = field(default_factory=ScriptedPayments)
    seckill_rpc: ScriptedSeckill = field(default_factory=ScriptedSeckill)
    policies: dict[str, MerchantPolicy] = field(default_factory=dict)
    terms: TermsOfMerchants | None = None  # None: all merchants have the policies above

    def __post_init__(self) -> None:
        self.build()

    def build(self) -> None:
        """Makes the use cases, again when something that they are made of has changed."""
        self.real = self.make()
        self.catalog, self.orders, self.payments = (
            self.real.catalog,
            self.real.orders,
            self.real.payments,
        )
        self.cancellations, self.shipments, self.statistics = (
            self.real.cancellations,
            self.real.shipments,
            self.real.statistics,
        )
        self.catalog_stock, self.allocations = self.real.catalog_stock, self.real.allocations

    def make(self, *, redis: Any = None, **choices: Any) -> order_rpc.app.OrderApp:
        """Another order_rpc on the same database."""
        values: dict[str, Any] = {
            "payment_window": PAYMENT_WINDOW,
            "scan_interval_seconds": 1,
            "policies": self.policies,
            **choices,
        }
        return order_rpc.app.OrderApp(
            db=self.db,
            clock=self.clock,
            ids=self.ids,
            page_tokens=PageTokens(PAGE_TOKEN_SECRET),
            redis=redis,
            payments=self.payment_rpc,
            seckill=self.seckill_rpc,
            config=OrderConfig(**values),
            terms=self.terms,
        )

    async def at_once(self, *calls: Awaitable[T]) -> list[T]:
        """Runs calls side by side, on connections that are open already: otherwise the first is
        done before the second has connected.
        """
        async with AsyncExitStack() as stack:
            pool: Any = self.db.engine.pool
            for _ in range(pool.size()):
                await stack.enter_async_context(self.db.engine.begin())
        return await asyncio.gather(*calls)

    @contextmanager
    def overtaken(self, by: Callable[[], Awaitable[object]], *, before: str) -> Iterator[None]:
        """The first transaction that comes to a statement with this text is overtaken there: `by`
        runs and commits on another connection.
        """
        waiting = [by]

        def overtake(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
            if before in statement and waiting:
                await_only(waiting.pop()())

        event.listen(self.db.engine.sync_engine, "before_cursor_execute", overtake)
        try:
            yield
        finally:
            event.remove(self.db.engine.sync_engine, "before_cursor_execute", overtake)
        assert not waiting, f"no statement with {before!r}"

    async def product(
        self,
        sku_id: str = "mug",
        price: str = "10.00",
        *,
        currency: str = "CNY",
        available: int = 100,
        merchant_id: str = "mall",
        name: str = "A mug",
        key: str = "",
        caller: Caller | None = None,
    ) -> Product:
        fingerprint = {
            "sku_id": sku_id,
            "name": name,
            "price": price,
            "currency": currency,
            "available": str(available),
        }
        command = CreateProduct(
            merchant_id=merchant_id,
            sku_id=sku_id,
            name=name,
            price=Money.parse(price, currency, allow_zero=True),
            available=available,
            idempotency_key=key,
            fingerprint=fingerprint,
        )
        return await self.catalog.create_product(command, caller or merchant(merchant_id))

    async def order(
        self,
        *items: tuple[str, int] | tuple[str, int, str],
        caller: Caller | None = None,
        key: str = "",
        client_request_id: str = "",
        address: Address | None = None,
        app: order_rpc.app.OrderApp | None = None,
    ) -> Order:
        """Orders `(sku_id, quantity[, unit_price])`; one mug when nothing is said."""
        caller = caller or buyer()
        lines = tuple(
            NewLine(
                sku_id=item[0],
                quantity=item[1],
                unit_price=RequestedAmount(item[2] if len(item) > 2 else ""),
            )
            for item in items or [("mug", 1)]
        )
        names = ("sku_id", "quantity", "unit_price")
        fingerprint = {
            f"items[{at}].{name}": str(getattr(line, name))
            for at, line in enumerate(lines)
            for name in names
        }
        command = CreateOrder(
            merchant_id=caller.merchant_id,
            user_id=caller.subject,
            items=lines,
            idempotency_key=key,
            fingerprint=fingerprint,
            client_request_id=client_request_id,
            address=address,
        )
        return await (app or self.real).orders.create(command, caller)

    async def paid_order(
        self,
        *items: tuple[str, int] | tuple[str, int, str],
        payment_id: str = "PAY1",
        caller: Caller | None = None,
    ) -> Order:
        """An order that was paid by a payment, which is at version 3 then."""
        order = await self.order(*items, caller=caller)
        await self.tell(
            order,
            snapshot(payment_id, captured=order.amount.format(), currency=order.amount.currency),
        )
        return await self.load(order)

    async def seckill_order(
        self, order_id: str, *, sku_id: str = "mug", price: str = "5.00", user_id: str = "u1"
    ) -> Order:
        """An order of a flash sale, as seckill_rpc sends it."""
        [reason] = await self.allocations.create_seckill_orders(
            [
                SeckillOrder(
                    order_id=order_id,
                    merchant_id="mall",
                    user_id=user_id,
                    activity_id="ACT1",
                    sku_id=sku_id,
                    price=Money.parse(price, "CNY", allow_zero=True),
                )
            ],
            SECKILL_RPC,
        )
        assert reason == ""
        return await self.orders.get(merchant_id="mall", order_id=order_id, caller=PAYMENT_RPC)

    async def load(self, order: Order) -> Order:
        """An order as it is now."""
        return await self.orders.get(
            merchant_id=order.merchant_id, order_id=order.order_id, caller=PAYMENT_RPC
        )

    async def cancel(
        self,
        order: Order,
        *,
        caller: Caller | None = None,
        reason: str = "changed my mind",
        app: order_rpc.app.OrderApp | None = None,
    ) -> Order:
        """Cancels an order, as its buyer unless somebody else is named."""
        return await (app or self.real).cancellations.cancel(
            merchant_id=order.merchant_id,
            order_id=order.order_id,
            reason=reason,
            caller=caller or buyer(order.user_id, order.merchant_id),
        )

    async def expire(self, *, app: order_rpc.app.OrderApp | None = None) -> int:
        """One round of the expiry worker."""
        return await (app or self.real).cancellations.expire_once()

    async def relay(self) -> int:
        """One round of the deliveries to payment_rpc."""
        return await self.real.payment_relay.run_once()

    async def ship(
        self,
        order: Order,
        *,
        caller: Caller | None = None,
        carrier: str = "SF",
        tracking_number: str = "T1",
    ) -> Order:
        return await self.shipments.ship(
            merchant_id=order.merchant_id,
            order_id=order.order_id,
            carrier=carrier,
            tracking_number=tracking_number,
            caller=caller or merchant(order.merchant_id),
        )

    async def complete(self, order: Order, *, caller: Caller | None = None) -> Order:
        return await self.shipments.complete(
            merchant_id=order.merchant_id,
            order_id=order.order_id,
            caller=caller or buyer(order.user_id),
        )

    async def refund(
        self,
        order: Order,
        *lines: tuple[str, int],
        amount: str = "",
        caller: Caller | None = None,
        key: str = "",
        reason: str = "broken",
    ) -> RefundRequest:
        """Asks for a refund, as the buyer unless somebody else is named."""
        command = RefundOrder(
            merchant_id=order.merchant_id,
            order_id=order.order_id,
            amount=RequestedAmount(amount),
            reason=reason,
            idempotency_key=key,
            lines=tuple(RefundLine(sku_id=sku_id, quantity=quantity) for sku_id, quantity in lines),
            fingerprint={"items": str(lines)},
        )
        return await self.real.refunds.refund(
            command, caller or buyer(order.user_id, order.merchant_id)
        )

    async def approve(
        self, refund: RefundRequest, *, caller: Caller | None = None
    ) -> RefundRequest:
        key = RefundKey(
            merchant_id=refund.merchant_id, order_id=refund.order_id, request_id=refund.request_id
        )
        return await self.real.refunds.approve(
            key, remark="", caller=caller or merchant(refund.merchant_id)
        )

    async def reject(self, refund: RefundRequest, *, caller: Caller | None = None) -> RefundRequest:
        key = RefundKey(
            merchant_id=refund.merchant_id, order_id=refund.order_id, request_id=refund.request_id
        )
        return await self.real.refunds.reject(
            key, reason="it is used", caller=caller or merchant(refund.merchant_id)
        )

    async def refunds(self, order: Order) -> list[RefundRequest]:
        """Every refund of an order, oldest first."""
        found, _ = await self.real.refunds.list_order_refunds(
            merchant_id=order.merchant_id,
            order_id=order.order_id,
            requested_size=100,
            page_token="",
            caller=PAYMENT_RPC,
        )
        return list(found)

    async def tell_refund(
        self,
        order: Order,
        *refunds: tuple[RefundRequest, str],
        version: int,
        refunded: str,
        captured: str = "",
        payment_id: str = "PAY1",
        state: str = "SUCCESS",
        event_id: str = "",
    ) -> Answer:
        """What payment_rpc tells of refunds: (refund, its state there)."""
        told = [
            (
                self.payment_rpc.refund_id(refund.request_id),
                refund.request_id,
                name,
                refund.amount.format(),
                "why" if name != "SUCCESS" else "",
            )
            for refund, name in refunds
        ]
        return await self.tell(
            order,
            snapshot(
                payment_id,
                version=version,
                state=state,
                captured=captured or order.amount.format(),
                refunded=refunded,
                refunds=told,
            ),
            event_id=event_id,
        )

    async def steps(self, order: Order) -> list[str]:
        """What happened to an order, in its order."""
        return [
            row["event"]
            for row in await self.rows(ORDER_AUDIT)
            if row["order_id"] == order.order_id
        ]

    async def stock_problems(self) -> list[str]:
        """Units that are not accounted for: every shelf holds what people put there, reservations
        and returns explain what orders hold.
        """
        problems = []
        reservations, returns, moves = (
            await self.rows(RESERVATION),
            await self.rows(STOCK_RETURN),
            await self.rows(STOCK_MOVEMENT),
        )
        for shelf in await self.rows(STOCK):

            def units(
                rows: list[dict[str, Any]], shelf: dict[str, Any] = shelf, **wanted: str
            ) -> int:
                key = ("merchant_id", "sku_id")
                return sum(
                    row["quantity"]
                    for row in rows
                    if all(row[name] == shelf[name] for name in key)
                    and all(row[name] == value for name, value in wanted.items())
                )

            put_there = sum(units(moves, kind=kind) for kind in ("INITIAL", "SET", "ADJUST"))
            expected = {
                "reserved": units(reservations, state="RESERVED"),
                "sold": units(reservations, state="COMMITTED") - units(returns),
            }
            problems += [
                f"{shelf['sku_id']}: {shelf[name]} {name}, not {count}"
                for name, count in expected.items()
                if shelf[name] != count
            ]
            if (
                shelf["available"] + shelf["reserved"] + shelf["sold"] + shelf["allocated"]
                != put_there
            ):
                problems.append(
                    f"{shelf['sku_id']}: {put_there} units were put there, the shelf has {shelf}"
                )
        return problems

    async def tell(self, order: Order, payment: PaymentSnapshot, *, event_id: str = "") -> Answer:
        """What payment_rpc does; every call is a new event unless it has an id."""
        command = UpdateOrderStatus(
            merchant_id=order.merchant_id,
            order_id=order.order_id,
            payment=payment,
            event_id=event_id or self.ids.new("EVT"),
        )
        return await self.payments.update_order_status(command, PAYMENT_RPC)

    async def force_state(self, order: Order, state: OrderState, *, paid_by: str = "") -> None:
        """Puts an order where no use case of today brings it."""
        paid_at = (
            None
            if state in (OrderState.PENDING_PAYMENT, OrderState.CANCELLING, OrderState.CANCELLED)
            else self.clock.now()
        )
        this = (ORDERS.c.merchant_id == order.merchant_id) & (ORDERS.c.order_id == order.order_id)
        await self.execute(
            update(ORDERS).where(this).values(state=state, paid_at=paid_at, paid_payment_id=paid_by)
        )

    async def rows(self, table: Table) -> list[dict[str, Any]]:
        """Every row of a table, by primary key."""
        return [
            dict(row._mapping)
            for row in await self.execute(select(table).order_by(*table.primary_key.columns))
        ]

    async def stock(self, sku_id: str = "mug", merchant_id: str = "mall") -> tuple[int, int, int]:
        """(available, reserved, sold)."""
        columns = select(STOCK.c.available, STOCK.c.reserved, STOCK.c.sold)
        found = await self.execute(
            columns.where(STOCK.c.merchant_id == merchant_id, STOCK.c.sku_id == sku_id)
        )
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
async def order_app(
    database_url: str, *, policies: dict[str, MerchantPolicy] | None = None
) -> AsyncIterator[OrderApp]:
    """The use cases on a database that is created here."""
    db = open_patiently(database_url, metadata, retry_constraints=RETRY_CONSTRAINTS)
    try:
        await create_tables(db.engine, metadata)
        yield OrderApp(db, policies=policies or {})
    finally:
        await db.close()


class RunningOrderRpc:
    """order_rpc behind a real port, and what a caller needs to reach it."""

    def __init__(
        self,
        app: OrderApp,
        server: MeshServer,
        payment_rpc: CallerTokens,
        seckill_rpc: CallerTokens,
    ) -> None:
        self.app = app
        self.address = f"127.0.0.1:{server.port}"
        self.payment_rpc = payment_rpc  # caller tokens of payment_rpc that this server accepts
        self.seckill_rpc = seckill_rpc
        self._users = UserTokenIssuer(USER_SECRET, clock=app.clock, ids=app.ids)

    def bearer(
        self, subject: str = "u1", *roles: str, merchant_id: str = "mall"
    ) -> tuple[str, str]:
        """Metadata of a person: a buyer unless roles are named."""
        return (
            "authorization",
            (
                f"Bearer "
                f"{self._users.issue(subject, roles=roles or ('user',), merchant_id=merchant_id)}"
            ),
        )

    @asynccontextmanager
    async def channel(
        self, caller_tokens: CallerTokens | None = None
    ) -> AsyncIterator[MeshChannel]:
        """A channel for generated stubs; with caller tokens it is that service's."""
        settings = MeshSettings(service="tests", environment="test")
        discovery = StaticDiscovery({"order_rpc": [self.address]})
        channel = MeshChannel(
            "order_rpc", settings=settings, discovery=discovery, caller_tokens=caller_tokens
        )
        try:
            await channel.channel_ready()
            yield channel
        finally:
            await channel.close()
            await discovery.close()


@asynccontextmanager
async def running_order_rpc(database_url: str) -> AsyncIterator[RunningOrderRpc]:
    """order_rpc in this process, on a free port. Its clock stands still until a test moves
    `app.clock`.
    """
    async with order_app(database_url) as app:
        keys = {service: Ed25519PrivateKey.generate() for service in ("payment_rpc", "seckill_rpc")}
        callers = {
            service: CallerTokens(service, clock=app.clock, ids=app.ids, private_key=key)
            for service, key in keys.items()
        }
        known = CallerTokens(
            "order_rpc",
            clock=app.clock,
            ids=app.ids,
            public_keys={service: key.public_key() for service, key in keys.items()},
        )
        users = UserTokens.from_secret(USER_SECRET, clock=app.clock)
        server = MeshServer(
            OrderSettings(environment="test", port=0),
            clock=app.clock,
            ids=app.ids,
            user_tokens=users,
            caller_tokens=known,
        )
        app.real.add_to(server)
        await server.start()
        try:
            yield RunningOrderRpc(app, server, **callers)
        finally:
            await server.stop(0)

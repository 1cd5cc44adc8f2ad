"""payment_rpc for tests: its use cases on a database of the test, the real order_rpc use cases beside it, the real sandbox on a socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import Table, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.call import Caller
from mesh.db import Database, open_database
from mesh.errors import NeighbourUnavailable
from mesh.money import Money
from order_rpc.domain.errors import OrderNotFound as NoSuchOrder
from order_rpc.domain.order import Order
from order_rpc.domain.payment import PaymentSnapshot
from order_rpc.usecases.payments import UpdateOrderStatus
from payment_rpc.app import PaymentApp, Times
from payment_rpc.channels import ChannelFact, ChannelStatus
from payment_rpc.channels.sandbox import SandboxChannel
from payment_rpc.domain.errors import OrderNotFound
from payment_rpc.domain.order import OrderToPay
from payment_rpc.domain.payment import Disposition, Payment
from payment_rpc.tables import metadata
from payment_rpc.usecases.charging import Charge, CreatePayment
from tests.builders_order import PAYMENT_RPC, OrderApp, buyer, order_app
from tests.fakes import FakeClock, FakeIds
from tests.sandbox_server import API_KEY, RunningSandbox, running_sandbox

VISA = "4242424242424242"
DECLINED = "4000000000000002"
INSUFFICIENT = "4000000000009995"
PROCESSING_ERROR = "4000000000000119"
LEASE_SECONDS = 20.0
TIMES = Times(channel_timeout_seconds=2.0, attempt_lease_seconds=LEASE_SECONDS, scan_interval_seconds=1.0, scan_batch_size=100)


class OrdersInProcess:
    """order_rpc without the wire; `away` makes it unreachable."""

    def __init__(self, app: OrderApp) -> None:
        self._app = app
        self.away = False
        self.updates = 0

    async def get(self, *, merchant_id: str, order_id: str) -> OrderToPay:
        self._reach()
        try:
            order = await self._app.orders.get(merchant_id=merchant_id, order_id=order_id, caller=PAYMENT_RPC)
        except NoSuchOrder as error:
            raise OrderNotFound from error
        return OrderToPay(order_id=order.order_id, merchant_id=order.merchant_id, user_id=order.user_id, amount=order.amount, state=order.state.value,
                          expires_at=order.expires_at)

    async def update_status(self, snapshot: dict[str, Any], *, event_id: str) -> Disposition | None:
        self._reach()
        self.updates += 1
        payment = PaymentSnapshot.parse(**{name: snapshot[name] for name in (
            "payment_id", "version", "state", "captured", "refunded", "refund_reserved", "currency")})
        answer = await self._app.payments.update_status(UpdateOrderStatus(
            merchant_id=snapshot["merchant_id"], order_id=snapshot["order_id"], payment=payment, event_id=event_id), PAYMENT_RPC)
        return None if answer.disposition.value == "NOTED" else Disposition(answer.disposition.value)

    def _reach(self) -> None:
        if self.away:
            raise NeighbourUnavailable("order_rpc is away")


class UnreliableChannel(SandboxChannel):
    """The adapter to the sandbox with a bad line: `lose_answers` lets calls arrive and forgets what came back, `unreachable` lets none leave,
    `before_charge` runs before each charge."""

    lose_answers = False
    unreachable = False
    before_charge: Callable[[], Awaitable[None]] | None = None

    async def charge(self, *, attempt_id: str, amount: Money, card: Any, expires_at: Any, timeout_seconds: float) -> ChannelFact:
        if self.before_charge is not None:
            await self.before_charge()
        if self.unreachable:
            return ChannelFact(attempt_id=attempt_id, status=ChannelStatus.NOT_SENT, reason="CHANNEL_UNAVAILABLE")
        fact = await super().charge(attempt_id=attempt_id, amount=amount, card=card, expires_at=expires_at, timeout_seconds=timeout_seconds)
        return ChannelFact(attempt_id=attempt_id, status=ChannelStatus.UNKNOWN) if self.lose_answers else fact

    async def query(self, attempt_id: str, *, timeout_seconds: float) -> ChannelFact:
        if self.unreachable:
            return ChannelFact(attempt_id=attempt_id, status=ChannelStatus.UNKNOWN)
        return await super().query(attempt_id, timeout_seconds=timeout_seconds)


@dataclass
class PaymentWorld:
    """One shop: orders, payments, channel, a clock that all of them share."""

    db: Database
    app: PaymentApp
    order_side: OrderApp
    orders: OrdersInProcess
    channel: UnreliableChannel
    sandbox: RunningSandbox
    clock: FakeClock
    ids: FakeIds

    async def order(self, price: str = "100.00", *, quantity: int = 1, caller: Caller | None = None, currency: str = "CNY") -> Order:
        """An order for one fresh SKU."""
        sku_id = self.ids.new("SKU")
        merchant_id = (caller or buyer()).merchant_id
        await self.order_side.product(sku_id, price, available=1000, merchant_id=merchant_id, currency=currency)
        return await self.order_side.order((sku_id, quantity), caller=caller)

    async def charge(self, order: Order, *, number: str = VISA, key: str = "", caller: Caller | None = None, **changes: Any) -> Payment:
        caller = caller or buyer(order.user_id, order.merchant_id)
        values: dict[str, Any] = {
            "merchant_id": order.merchant_id, "order_id": order.order_id, "user_id": caller.subject, "amount": order.amount.format(), "currency": "",
            "payment_method": "", "number": number, "cvv": "123", "expiration_year": 2030, "expiration_month": 12, "key": key, **changes}
        return await self.app.charging.charge(Charge(**values), caller)

    async def cashier(self, order: Order, *, key: str = "", caller: Caller | None = None, **changes: Any) -> Payment:
        caller = caller or buyer(order.user_id, order.merchant_id)
        values: dict[str, Any] = {
            "merchant_id": order.merchant_id, "order_id": order.order_id, "user_id": caller.subject, "amount": "", "currency": "", "channel": "",
            "return_url": "", "key": key, **changes}
        return await self.app.charging.create_payment(CreatePayment(**values), caller)

    async def press(self, payment: Payment, button: str = "pay") -> None:
        """The buyer presses a button of the cashier page."""
        assert payment.next_action is not None
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.post(f"{payment.next_action.value}/{button}")
            assert answer.status_code < 400, answer.text

    async def at_sandbox(self) -> list[dict[str, Any]]:
        """Everything that the sandbox knows."""
        async with httpx.AsyncClient(trust_env=False, headers={"authorization": f"Bearer {API_KEY}"}) as client:
            answer = await client.get(f"{self.sandbox.base_url}/v1/transactions", params={"limit": 100})
            return list(answer.json()["transactions"])

    async def rows(self, table: Table) -> list[dict[str, Any]]:
        """Every row of a table of payment_rpc, by primary key."""
        async def read(tx: AsyncConnection) -> list[dict[str, Any]]:
            return [dict(row._mapping) for row in await tx.execute(select(table).order_by(*table.primary_key.columns))]
        return await self.db.read(read)

    async def payment(self, payment_id: str) -> Payment:
        from payment_rpc.store import payments

        return await self.db.read(payments.read_payment, payment_id)


@asynccontextmanager
async def payment_world(payment_url: str, order_url: str, folder: Path, *, redis: Any = None) -> AsyncIterator[PaymentWorld]:
    """Builds the shop on two fresh databases; the sandbox's file lies in `folder`."""
    async with AsyncExitStack() as stack:
        order_side = await stack.enter_async_context(order_app(order_url))
        clock, ids = order_side.clock, order_side.ids
        sandbox = await stack.enter_async_context(running_sandbox(folder, clock=clock, ids=FakeIds()))
        db = open_database(payment_url, metadata, retry_constraints=("uq_payment_live_slot",))
        stack.push_async_callback(db.close)
        async with db.engine.begin() as connection:
            await connection.run_sync(metadata.create_all)
        channel = UnreliableChannel(base_url=sandbox.base_url, api_key=API_KEY, callback_secret="test-callback-secret-0123456789ab")
        stack.push_async_callback(channel.aclose)
        orders = OrdersInProcess(order_side)
        app = PaymentApp(db=db, clock=clock, ids=ids, orders=orders, channels={"sandbox": channel}, redis=redis, times=TIMES,
                         return_urls={"mall": ("https://shop.test/",)})
        yield PaymentWorld(db=db, app=app, order_side=order_side, orders=orders, channel=channel, sandbox=sandbox, clock=clock, ids=ids)

"""payment_rpc for tests: its use cases on a database of the test, the real order_rpc use cases
beside it, the real sandbox on a socket.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import Table, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.call import Caller
from mesh.customers import email_digest
from mesh.db import Database, insert_if_absent
from mesh.errors import Outcome, UpstreamUnavailable
from mesh.money import Money, RequestedAmount
from mesh.paging import PageTokens
from order_rpc.domain.errors import OrderExistsDifferent as OrderDiffers
from order_rpc.domain.errors import OrderNotFound as NoSuchOrder
from order_rpc.domain.external_order import ExternalDetails
from order_rpc.domain.order import Order, OrderState
from order_rpc.domain.payment import PaymentSnapshot
from order_rpc.usecases.external_orders import RegisterExternalOrder
from order_rpc.usecases.payments import UpdateOrderStatus
from payment_rpc.app import PaymentApp, PaymentConfig
from payment_rpc.channels.capabilities import Close
from payment_rpc.channels.inbound import Inbound
from payment_rpc.channels.sandbox.channel import SandboxChannel
from payment_rpc.domain.attempt import OPEN, Attempt, AttemptState
from payment_rpc.domain.card import CardSummary
from payment_rpc.domain.errors import OrderExistsDifferent, OrderNotFound
from payment_rpc.domain.facts import ChannelFact, ChannelStatus
from payment_rpc.domain.hold import CaptureMode
from payment_rpc.domain.ledger import Posting, Side, first_key
from payment_rpc.domain.order import NewExternalOrder, OrderToPay
from payment_rpc.domain.payment import (
    CREDIT_CARD,
    LIVE,
    MONEY,
    Disposition,
    Payment,
    PaymentState,
)
from payment_rpc.store import payment_pages, payments
from payment_rpc.store.payment_pages import PaymentPage
from payment_rpc.tables import (
    ATTEMPT,
    LEDGER_POSTING,
    LEDGER_TRANSACTION,
    MANUAL_REVIEW,
    ORDER_GATE,
    RETRY_CONSTRAINTS,
    metadata,
)
from payment_rpc.usecases.merchant_terms import EnvironmentTerms
from payment_rpc.usecases.payment_requests import Charge, CreatePayment
from tests.builders.order import PAGE_TOKEN_SECRET, PAYMENT_RPC, OrderApp, buyer, order_app
from tests.support.databases import PATIENT_SECONDS, create_tables, open_patiently
from tests.support.fakes import EPOCH, FakeClock, FakeIds
from tests.support.sandbox_server import (
    API_KEY,
    CALLBACK_SECRET,
    RunningSandbox,
    http_answer,
    raw_server,
    running_sandbox,
)

VISA = "4242424242424242"
MASTERCARD = "5555555555554444"
DECLINED = "4000000000000002"
INSUFFICIENT = "4000000000009995"
PROCESSING_ERROR = "4000000000000119"
LEASE_SECONDS = 20.0
RELAY_DELAY_SECONDS = 5.0  # before a message for order_rpc is due
CONFIG = PaymentConfig(
    order_wait_seconds=PATIENT_SECONDS,  # a busy machine informs orders at once too
    channel_timeout_seconds=2.0,
    attempt_lease_seconds=LEASE_SECONDS,
    scan_interval_seconds=1.0,
    scan_batch_size=100,
)
PRICE = Money(10000, "CNY")

Hook = Callable[[], Awaitable[None]]


def a_payment(state: PaymentState = PaymentState.PAYING, **changes: Any) -> Payment:
    """A payment of 100.00 CNY in a state, as it would lie in its row."""
    started = Payment.start(
        payment_id="PAY1",
        merchant_id="mall",
        order_id="ORD1",
        user_id="u1",
        amount=PRICE,
        payment_method=CREDIT_CARD,
        channel="sandbox",
        expires_at=EPOCH + timedelta(minutes=30),
        at=EPOCH,
        card=CardSummary(brand="visa", last_four="4242", expiration_year=2030, expiration_month=12),
    )
    money = (
        {"captured": PRICE, "outcome": Outcome.CAPTURED, "paid_at": EPOCH, "channel_trade_no": "T0"}
        if state in MONEY
        else {}
    )
    if state is PaymentState.LATE_REFUNDED:
        money = {
            "captured": PRICE,
            "refunded": PRICE,
            "outcome": Outcome.CAPTURED,
            "paid_at": EPOCH,
        }
    mode = CaptureMode.MANUAL if state is PaymentState.AUTHORIZED else CaptureMode.AUTOMATIC
    own = {"state": state, "holds_slot": state in LIVE, "capture_mode": mode}
    return replace(started, **{**own, **money, **changes})


def an_attempt(state: AttemptState = AttemptState.SENT, **changes: Any) -> Attempt:
    """An attempt of `a_payment` in a state, as it would lie in its row."""
    started = Attempt.start(
        attempt_id="ATT1",
        payment_id="PAY1",
        merchant_id="mall",
        channel="sandbox",
        amount=PRICE,
        lease=timedelta(seconds=LEASE_SECONDS),
        at=EPOCH,
    )
    rest: dict[str, Any] = {} if state in OPEN else {"next_query_at": None}
    if state is AttemptState.CAPTURED:
        rest |= {"captured": PRICE, "channel_trade_no": "T0"}
    return replace(started, **{"state": state, **rest, **changes})


def balance_of(postings: list[dict[str, Any]] | tuple[Posting, ...]) -> dict[str, int]:
    """Debit minus credit per currency."""
    balance: dict[str, int] = {}
    for posting in postings:
        if isinstance(posting, Posting):
            side, minor, currency = posting.side, posting.amount.minor, posting.amount.currency
        else:
            side, minor, currency = posting["side"], posting["amount_minor"], posting["currency"]
        balance[currency] = balance.get(currency, 0) + (minor if side == Side.DEBIT else -minor)
    return balance


class OrdersInProcess:
    """order_rpc without the wire; `away` makes it unreachable, `answer` replaces what it says.

    `before_get` runs once before an order is read, `before_update` before each news of a payment.
    """

    def __init__(self, app: OrderApp) -> None:
        self._app = app
        self.away = False
        self.gets = 0
        self.registrations = 0
        self.updates: list[dict[str, Any]] = []
        self.before_get: Hook | None = None
        self.before_update: Hook | None = None
        self.answer: Disposition | None = None

    async def get(self, *, merchant_id: str, order_id: str, seckill_ticket: str = "") -> OrderToPay:
        self._reach()
        self.gets += 1
        if self.before_get is not None:
            hook, self.before_get = self.before_get, None
            await hook()
        try:
            order = await self._app.orders.get(
                merchant_id=merchant_id, order_id=order_id, caller=PAYMENT_RPC
            )
        except NoSuchOrder as error:
            raise OrderNotFound from error
        return _order_to_pay(order)

    async def register(self, new: NewExternalOrder) -> OrderToPay:
        self._reach()
        self.registrations += 1
        try:
            order, _ = await self._app.real.external_orders.register(
                RegisterExternalOrder(
                    merchant_id=new.merchant_id,
                    details=ExternalDetails(
                        order_no=new.order_no,
                        customer_email=new.customer_email,
                        customer_name=new.customer_name,
                        description=new.description,
                        metadata=new.metadata,
                        notify_url=new.notify_url,
                    ),
                    amount=new.amount,
                    expires_at=new.expires_at,
                    operator=new.operator,
                )
            )
        except OrderDiffers as error:
            raise OrderExistsDifferent(fields=error.fields) from error
        return _order_to_pay(order)

    async def update_status(self, snapshot: dict[str, Any], *, event_id: str) -> Disposition | None:
        if self.before_update is not None:
            await self.before_update()
        self._reach()
        self.updates.append(snapshot)
        if self.answer is not None:
            return self.answer
        payment = PaymentSnapshot.parse(
            **{
                name: snapshot[name]
                for name in (
                    "payment_id",
                    "version",
                    "state",
                    "captured",
                    "refunded",
                    "refund_reserved",
                    "currency",
                )
            },
            refunds=[
                tuple(
                    refund[name]
                    for name in ("refund_id", "request_id", "state", "amount", "reason")
                )
                for refund in snapshot["refunds"]
            ],
            captured_in_part=snapshot["captured_in_part"],
            held_amount=snapshot["held_amount"],
            held_until=datetime.fromisoformat(snapshot["held_until"])
            if snapshot["held_until"]
            else None,
        )
        answer = await self._app.payments.update_order_status(
            UpdateOrderStatus(
                merchant_id=snapshot["merchant_id"],
                order_id=snapshot["order_id"],
                payment=payment,
                event_id=event_id,
            ),
            PAYMENT_RPC,
        )
        return (
            None if answer.disposition.value == "NOTED" else Disposition(answer.disposition.value)
        )

    def _reach(self) -> None:
        if self.away:
            raise UpstreamUnavailable("order_rpc is away")


def _order_to_pay(order: Order) -> OrderToPay:
    email = "" if order.external is None else order.external.customer_email
    return OrderToPay(
        order_id=order.order_id,
        merchant_id=order.merchant_id,
        user_id=order.user_id,
        amount=order.amount,
        state=order.state.value,
        expires_at=order.expires_at,
        order_no=order.order_no,
        customer_digest=email_digest(order.merchant_id, email),
        is_of_activity=order.is_of_activity,
    )


class UnreliableChannel(SandboxChannel):
    """The adapter to the sandbox with a bad line.

    `lose_answers` lets calls arrive and forgets what came back, `unreachable` lets none leave.
    `before_charge` runs before each charge or checkout, `after_charge` between its arrival and its
    answer, `after_query` between a question's answer and its use.
    """

    lose_answers = False
    unreachable = False
    before_charge: Hook | None = None
    after_charge: Hook | None = None
    after_query: Hook | None = None
    charges = 0
    queries = 0
    closes = 0

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.timeouts_seconds: list[float] = []  # of charges and checkouts

    async def charge(self, *, attempt_id: str, timeout_seconds: float, **call: Any) -> ChannelFact:
        self.timeouts_seconds.append(timeout_seconds)
        return await self._open_badly(
            attempt_id,
            super().charge(attempt_id=attempt_id, timeout_seconds=timeout_seconds, **call),
        )

    async def checkout(
        self, *, attempt_id: str, timeout_seconds: float, **call: Any
    ) -> ChannelFact:
        self.timeouts_seconds.append(timeout_seconds)
        return await self._open_badly(
            attempt_id,
            super().checkout(attempt_id=attempt_id, timeout_seconds=timeout_seconds, **call),
        )

    async def query(self, attempt_id: str, *, timeout_seconds: float, ref: str = "") -> ChannelFact:
        self.queries += 1
        if self.unreachable:
            return ChannelFact(attempt_id=attempt_id, status=ChannelStatus.UNKNOWN)
        fact = await super().query(attempt_id, ref=ref, timeout_seconds=timeout_seconds)
        if self.after_query is not None:
            hook, self.after_query = self.after_query, None
            await hook()
        return fact

    async def close(self, attempt_id: str, *, timeout_seconds: float, ref: str = "") -> ChannelFact:
        self.closes += 1
        if self.unreachable:
            return ChannelFact(attempt_id=attempt_id, status=ChannelStatus.UNKNOWN)
        return await super().close(attempt_id, ref=ref, timeout_seconds=timeout_seconds)

    async def _open_badly(self, attempt_id: str, call: Any) -> ChannelFact:
        try:
            if self.before_charge is not None:
                await self.before_charge()
            if self.unreachable:
                return ChannelFact(
                    attempt_id=attempt_id,
                    status=ChannelStatus.NOT_SENT,
                    reason="CHANNEL_UNAVAILABLE",
                )
            self.charges += 1
            fact = await call
        finally:
            call.close()
        if self.after_charge is not None:
            await self.after_charge()
        return (
            ChannelFact(attempt_id=attempt_id, status=ChannelStatus.UNKNOWN)
            if self.lose_answers
            else fact
        )


def closes_by(channel: SandboxChannel, close: Close) -> None:
    """Lets the core believe that the channel closes attempts in another way."""
    channel._capabilities = replace(channel.capabilities, close=close)


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
    folder: Path
    make_app: Callable[..., PaymentApp]

    async def order(
        self,
        price: str = "100.00",
        *,
        quantity: int = 1,
        caller: Caller | None = None,
        currency: str = "CNY",
    ) -> Order:
        """An order for one fresh SKU."""
        sku_id = self.ids.new("SKU")
        merchant_id = (caller or buyer()).merchant_id
        await self.order_side.product(
            sku_id, price, available=1000, merchant_id=merchant_id, currency=currency
        )
        return await self.order_side.order((sku_id, quantity), caller=caller)

    async def charge(
        self,
        order: Order,
        *,
        number: str = VISA,
        key: str = "",
        caller: Caller | None = None,
        app: PaymentApp | None = None,
        **changes: Any,
    ) -> Payment:
        """Charges a card for an order, as its buyer unless somebody else is named."""
        caller = caller or buyer(order.user_id, order.merchant_id)
        values: dict[str, Any] = {
            "merchant_id": order.merchant_id,
            "order_id": order.order_id,
            "user_id": caller.subject,
            "amount": order.amount.format(),
            "currency": "",
            "payment_method": "",
            "number": number,
            "cvv": "123",
            "expiration_year": 2030,
            "expiration_month": 12,
            "key": key,
            **changes,
        }
        return await (app or self.app).payments.charge(Charge(**with_amount(values)), caller)

    async def cashier(
        self, order: Order, *, key: str = "", caller: Caller | None = None, **changes: Any
    ) -> Payment:
        """Opens a cashier for an order."""
        caller = caller or buyer(order.user_id, order.merchant_id)
        values: dict[str, Any] = {
            "merchant_id": order.merchant_id,
            "order_id": order.order_id,
            "user_id": caller.subject,
            "amount": "",
            "currency": "",
            "channel": "",
            "return_url": "",
            "key": key,
            **changes,
        }
        return await self.app.payments.create_payment(CreatePayment(**with_amount(values)), caller)

    async def press(self, payment: Payment, button: str = "pay") -> str:
        """The buyer presses a button of the cashier page; what he reads then."""
        assert payment.next_action is not None
        async with httpx.AsyncClient(trust_env=False, follow_redirects=True) as client:
            answer = await client.post(f"{payment.next_action.value}/{button}")
            assert answer.status_code < 400, answer.text
            return answer.text

    async def callbacks(self) -> int:
        """The sandbox sends the callbacks that it owes; how many."""
        return await self.sandbox.sandbox.run_once()

    async def finish(self, *, rounds: int = 4) -> None:
        """Time passes and the workers do what there is to do."""
        for _ in range(rounds):
            self.clock.advance(LEASE_SECONDS + 1)
            await self.app.expiry.run_once()
            await self.app.polling.run_once()
            self.clock.advance(RELAY_DELAY_SECONDS + 1)
            await self.app.order_relay.run_once()

    async def at_sandbox(self) -> list[dict[str, Any]]:
        """Everything that the sandbox knows."""
        async with httpx.AsyncClient(
            trust_env=False, headers={"authorization": f"Bearer {API_KEY}"}
        ) as client:
            answer = await client.get(
                f"{self.sandbox.base_url}/v1/transactions", params={"limit": 1000}
            )
            return list(answer.json()["transactions"])

    async def captured_at_sandbox(self) -> list[str]:
        """Attempts for which the sandbox took money."""
        return [
            transaction["attempt_id"]
            for transaction in await self.at_sandbox()
            if transaction["status"] == "CAPTURED"
        ]

    async def rows(self, table: Table) -> list[dict[str, Any]]:
        """Every row of a table of payment_rpc, by primary key."""

        async def read(tx: AsyncConnection) -> list[dict[str, Any]]:
            return [
                dict(row._mapping)
                for row in await tx.execute(select(table).order_by(*table.primary_key.columns))
            ]

        return await self.db.read(read)

    async def debit_balance(self, account: str) -> int:
        """Debit minus credit of an account and of those below it (`loss`, `loss:mall`): what is
        ours, and expenses."""
        return sum(
            row["amount_minor"] if row["side"] == "D" else -row["amount_minor"]
            for row in await self.rows(LEDGER_POSTING)
            if f"{row['account']}:".startswith(f"{account}:")
        )

    async def credit_balance(self, account: str) -> int:
        """The other way round: what we owe."""
        return -await self.debit_balance(account)

    async def payment(self, payment_id: str) -> Payment:
        """A payment as its row is now."""
        return await self.db.read(payments.read_payment, payment_id)

    async def order_state(self, order: Order) -> OrderState:
        """The state of an order now."""
        return (
            await self.order_side.orders.get(
                merchant_id=order.merchant_id, order_id=order.order_id, caller=PAYMENT_RPC
            )
        ).state

    async def execute(self, statement: Any) -> None:
        """One statement in a transaction of its own."""

        async def run(tx: AsyncConnection) -> None:
            await tx.execute(statement)

        await self.db.run(run)

    async def close_gate(self, order: Order) -> list[Payment]:
        """What ClosePayment does first: the gate is CLOSED from the commit on. Returns the payments
        that the order has in that moment.
        """

        async def close(tx: AsyncConnection) -> list[Payment]:
            key = {"merchant_id": order.merchant_id, "order_id": order.order_id}
            await insert_if_absent(
                tx, ORDER_GATE, {**key, "state": "OPEN", "updated_at": self.clock.now()}
            )
            await tx.execute(
                update(ORDER_GATE)
                .where(
                    ORDER_GATE.c.merchant_id == order.merchant_id,
                    ORDER_GATE.c.order_id == order.order_id,
                )
                .values(state="CLOSED")
            )
            return list(
                await payment_pages.list_payments(
                    tx,
                    PaymentPage(merchant_id=order.merchant_id, order_id=order.order_id, limit=100),
                    visible_to=PAYMENT_RPC,
                )
            )

        return await self.db.run(close)

    async def ledger_problems(self) -> list[str]:
        """What is wrong with the books: unbalanced or broken chains, captures that are not booked
        exactly once, money that no row has.
        """
        problems = []
        transactions, postings = (
            await self.rows(LEDGER_TRANSACTION),
            await self.rows(LEDGER_POSTING),
        )
        heads: dict[str, str] = {}
        for transaction in transactions:
            own = [
                posting
                for posting in postings
                if posting["business_key"] == transaction["business_key"]
            ]
            if not own or any(balance_of(own).values()):
                problems.append(f"{transaction['business_key']} does not balance")
            if transaction["previous_hash"] != heads.get(transaction["payment_id"], ""):
                problems.append(f"{transaction['business_key']} is not the next of its chain")
            heads[transaction["payment_id"]] = transaction["hash"]
        for payment_id, head in heads.items():
            if (await self.payment(payment_id)).ledger_head != head:
                problems.append(f"{payment_id} has another head")
        captured = {
            f"attempt:{row['attempt_id']}:captured": row["captured_minor"]
            for row in await self.rows(ATTEMPT)
            if row["captured_minor"] is not None
        }
        kinds = {row["business_key"]: row["kind"] for row in transactions}
        booked: Counter[str] = Counter()
        for posting in postings:
            if (
                kinds[posting["business_key"]].startswith("CAPTURED")
                and posting["side"] == Side.DEBIT
            ):
                booked[first_key(posting["business_key"])] += posting["amount_minor"]
        if captured != booked:
            problems.append(f"captured {captured}, booked {booked}")
        return problems

    async def attention(self) -> list[tuple[str, str]]:
        """(kind, subject) of what waits for a person."""
        return [
            (row["kind"], row["attention_key"].partition(":")[2])
            for row in await self.rows(MANUAL_REVIEW)
        ]


@asynccontextmanager
async def payment_world(
    payment_url: str,
    order_url: str,
    folder: Path,
    *,
    redis: Any = None,
    channel_timeout_seconds: float = 0,
    fee_basis_points: int = 0,
) -> AsyncIterator[PaymentWorld]:
    """Builds the shop on two fresh databases; the sandbox's file lies in `folder`. Its callbacks
    arrive when the test calls `callbacks()`.
    """
    async with AsyncExitStack() as stack:
        order_side = await stack.enter_async_context(order_app(order_url))
        clock, ids = order_side.clock, order_side.ids
        apps: list[PaymentApp] = []

        async def take_callback(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await _callback(apps[0], reader))
            await writer.drain()

        shop_url = await stack.enter_async_context(raw_server(take_callback))
        sandbox = await stack.enter_async_context(
            running_sandbox(
                folder,
                clock=clock,
                ids=FakeIds(),
                callback_url=f"{shop_url}/callbacks",
                fee_basis_points=fee_basis_points,
            )
        )
        db = open_patiently(payment_url, metadata, retry_constraints=RETRY_CONSTRAINTS)
        stack.push_async_callback(db.close)
        await create_tables(db.engine, metadata)
        channel = UnreliableChannel(
            base_url=sandbox.base_url, api_key=API_KEY, callback_secret=CALLBACK_SECRET
        )
        stack.push_async_callback(channel.aclose)
        orders = OrdersInProcess(order_side)
        config = replace(
            CONFIG,
            channel_timeout_seconds=channel_timeout_seconds or CONFIG.channel_timeout_seconds,
        )

        def make_app(**changes: Any) -> PaymentApp:
            values: dict[str, Any] = {
                "db": db,
                "clock": clock,
                "ids": ids,
                "orders": orders,
                "channels": {"sandbox": channel},
                "hints": channel,
                "redis": redis,
                "config": config,
                "page_tokens": PageTokens(PAGE_TOKEN_SECRET),
                "return_urls": {},
                "terms": EnvironmentTerms(
                    {"mall": ("https://shop.test/",)}, buyers_may_hold={"mall"}
                ),
                **changes,
            }
            return PaymentApp(**values)

        apps.append(make_app())
        yield PaymentWorld(
            db=db,
            app=apps[0],
            order_side=order_side,
            orders=orders,
            channel=channel,
            sandbox=sandbox,
            clock=clock,
            ids=ids,
            folder=folder,
            make_app=make_app,
        )


async def _callback(app: PaymentApp, reader: asyncio.StreamReader) -> bytes:
    """What the gateway and the servicer do with a callback."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {
        name.lower(): value
        for name, _, value in (line.partition(": ") for line in head[1:] if line)
    }
    body = await reader.readexactly(int(headers["content-length"]))
    answer = await app.callbacks.handle_callback(
        channel="sandbox", inbound=Inbound(body=body, headers=headers)
    )
    return http_answer(answer.ack.body)


def with_amount(values: dict[str, Any]) -> dict[str, Any]:
    """Fields of a command, with amount and currency as the servicer makes them."""
    rest = {name: value for name, value in values.items() if name not in ("amount", "currency")}
    return {**rest, "amount": RequestedAmount(values["amount"], values["currency"])}

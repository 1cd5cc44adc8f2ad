"""Orders on MariaDB: one hot product with and without shared transactions, and whether the
thousandth page of a million orders costs what the first does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from time import perf_counter
from typing import Any

from sqlalchemy import text

from bench.machine import median
from mesh.call import Caller, Role
from mesh.clock import SystemClock
from mesh.db import Database, open_database
from mesh.ids import UlidIds
from mesh.money import Money, RequestedAmount
from mesh.paging import PageTokens
from order_rpc.app import RETRY_CONSTRAINTS, OrderApp, OrderConfig
from order_rpc.domain.order import OrderState
from order_rpc.domain.order_line import NewLine
from order_rpc.domain.ticket import TicketOrder
from order_rpc.tables import metadata
from order_rpc.usecases.catalog import CreateProduct
from order_rpc.usecases.orders import CreateOrder, ListOrders

CONNECTIONS = 16
BUYERS = 64  # calls under way at once
GROUPS = (1, 10, 50)  # orders that share a transaction at most; 1: none do
ROUNDS = 5
ROUND_SECONDS = 2.0
ORDERS = 1_000_000
PAGE_SIZE = 20
PAGES = (1, 1000, 40_000)
PAGE_CALLS = 200
_FIRST = datetime(2026, 1, 1, tzinfo=UTC)
_STEP = timedelta(seconds=10)
_SHOP = Caller(role=Role.MERCHANT, subject="clerk", merchant_id="mall")
_TOKENS = PageTokens(b"page tokens of the bench, 32 bytes")

# MariaDB's sequence tables write a million rows in one statement.
_FILL_ORDERS = (
    "INSERT INTO orders (merchant_id, order_id, user_id, state, amount_minor, shipping_minor, "
    "discount_minor, captured_minor, refunded_minor, "
    "currency, refund_status, carrier, tracking_number, cancel_reason, paid_payment_id, version, "
    "created_at, expires_at, cancelled_at, updated_at) "
    "SELECT 'mall', CONCAT('ORD', LPAD(seq, 26, '0')), CONCAT('u', seq MOD 1000), IF(seq MOD 10, "
    "'CANCELLED', 'PENDING_PAYMENT'), 1, 0, 0, 0, 0, "
    "'CNY', 'NONE', '', '', '', '', 1, {first} + seq * {step}, {first} + seq * {step}, IF(seq MOD "
    "10, {first} + seq * {step}, NULL), "
    "{first} + seq * {step} FROM seq_{begin}_to_{end}"
)
_FILL_ITEMS = (
    "INSERT INTO order_item (merchant_id, order_id, sku_id, name, unit_price_minor, quantity, "
    "amount_minor, stock_source, activity_id) "
    "SELECT 'mall', CONCAT('ORD', LPAD(seq, 26, '0')), 'mug', 'A mug', 1, 1, 1, 'CATALOG', '' "
    "FROM seq_{begin}_to_{end}"
)


class _Nobody:
    """payment_rpc and seckill_rpc; the bench never asks them."""

    async def close_payment(self, **_: Any) -> Any:
        raise NotImplementedError

    async def capture_payment(self, **_: Any) -> Any:
        raise NotImplementedError

    async def create_refund(self, **_: Any) -> str:
        raise NotImplementedError

    async def erase_customer(self, **_: Any) -> None:
        raise NotImplementedError

    async def create_payment(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError

    async def return_stock(self, **_: Any) -> None:
        raise NotImplementedError

    async def ticket_order(self, ticket: str) -> TicketOrder:
        raise NotImplementedError


async def measure_hot_product(database_url: str) -> dict[int, float]:
    """Orders per second of one product that everybody wants, by how many may share a transaction;
    in turn, medians of rounds.
    """
    db = await _open(database_url)
    try:
        apps = {group: _app(db, group) for group in GROUPS}
        await apps[1].catalog.create_product(
            CreateProduct(
                merchant_id="mall",
                sku_id="mug",
                name="A mug",
                price=Money(990, "CNY"),
                available=1_000_000_000,
                idempotency_key="",
                fingerprint={},
            ),
            _SHOP,
        )
        rates: dict[int, list[float]] = {group: [] for group in GROUPS}
        for _ in range(ROUNDS):
            for group, app in apps.items():
                rates[group].append(await _rate(app))
        return {group: median(found) for group, found in rates.items()}
    finally:
        await db.close()


async def measure_pages(database_url: str) -> dict[str, dict[int, float]]:
    """Milliseconds of a page of a million orders, by filter and number of the page; in turn,
    medians of calls.
    """
    db = await _open(database_url)
    try:
        await _fill(db)
        app = _app(db, 1)
        filters = {"all": {}, "one state": {"state": OrderState.PENDING_PAYMENT}}
        return {name: await _pages(app, wanted) for name, wanted in filters.items()}
    finally:
        await db.close()


async def _open(database_url: str) -> Database:
    db = open_database(
        database_url,
        metadata,
        pool_size=CONNECTIONS,
        unit_timeout_seconds=60,
        retry_constraints=RETRY_CONSTRAINTS,
    )
    async with db.engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    return db


def _app(db: Database, group: int) -> OrderApp:
    clock = SystemClock()
    return OrderApp(
        db=db,
        clock=clock,
        ids=UlidIds(clock),
        page_tokens=_TOKENS,
        redis=None,
        payments=_Nobody(),
        seckill=_Nobody(),
        config=OrderConfig(
            payment_window=timedelta(minutes=30), scan_interval_seconds=1, hot_sku_group_size=group
        ),
    )


async def _rate(app: OrderApp) -> float:
    count = 0
    begin = perf_counter()
    end = begin + ROUND_SECONDS

    async def buyer(number: int) -> None:
        nonlocal count
        caller = Caller(role=Role.USER, subject=f"u{number}", merchant_id="mall")
        command = CreateOrder(
            merchant_id="mall",
            user_id=caller.subject,
            items=(NewLine(sku_id="mug", quantity=1, unit_price=RequestedAmount("")),),
            idempotency_key="",
            fingerprint={},
        )
        while perf_counter() < end:
            await app.orders.create(command, caller)
            count += 1

    await asyncio.gather(*(buyer(number) for number in range(BUYERS)))
    return count / (perf_counter() - begin)


async def _fill(db: Database) -> None:
    first, step = round(_FIRST.timestamp() * 1000), round(_STEP.total_seconds() * 1000)
    for begin in range(1, ORDERS, 50_000):  # below the statement's time limit
        for statement in (_FILL_ORDERS, _FILL_ITEMS):
            async with db.engine.begin() as connection:
                await connection.execute(
                    text(statement.format(first=first, step=step, begin=begin, end=begin + 49_999))
                )
    async with db.engine.begin() as connection:
        await connection.execute(text("SET SESSION max_statement_time=0"))
        await connection.execute(text("ANALYZE TABLE orders, order_item"))


async def _pages(app: OrderApp, wanted: dict[str, Any]) -> dict[int, float]:
    step = 1 if not wanted else 10  # one order in ten waits for its money
    queries = {}
    for page in PAGES:
        number = ORDERS - (page - 1) * PAGE_SIZE * step
        if number <= 0:
            continue
        state = wanted.get("state")
        token = (
            ""
            if page == 1
            else _TOKENS.encode(
                list_name="ListOrders",
                key=(round((_FIRST + number * _STEP).timestamp() * 1000), f"ORD{number:026d}"),
                filter={
                    "merchant_id": "mall",
                    "user_id": "",
                    "state": state or "",
                    "created_from": "",
                    "created_before": "",
                },
            )
        )
        queries[page] = ListOrders(
            merchant_id="mall", user_id="", state=state, page_size=PAGE_SIZE, page_token=token
        )

    async def show(query: ListOrders) -> None:
        shown, _ = await app.orders.list(query, _SHOP)
        if len(shown) != PAGE_SIZE:
            raise AssertionError(f"{len(shown)} orders")

    times: dict[int, list[float]] = {page: [] for page in queries}
    for _ in range(PAGE_CALLS):
        for page, query in queries.items():
            times[page].append(await _seconds(partial(show, query)))
    return {page: median(found) * 1000 for page, found in times.items()}


async def _seconds(call: Callable[[], Awaitable[None]]) -> float:
    begin = perf_counter()
    await call()
    return perf_counter() - begin

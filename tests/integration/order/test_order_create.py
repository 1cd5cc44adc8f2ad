"""CreateOrder on real databases: an order and its units exist together or not at all, once per key,
for any number of buyers at once.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from datetime import timedelta

import pytest
from google.protobuf import json_format
from paymesh.events.v1 import events_pb2
from sqlalchemy import event, update
from sqlalchemy.ext.asyncio import AsyncConnection
from structlog.testing import capture_logs

from mesh import failpoints
from mesh.call import Caller, calling
from mesh.errors import IdempotencyKeyReused, MeshError
from mesh.failpoints import FailpointRaised
from mesh.idempotency import RECEIPT
from mesh.outbox import OUTBOX
from order_rpc.domain.errors import (
    CurrencyMixed,
    OrderNotFound,
    OutOfStock,
    PriceChanged,
    ProductNotFound,
    TotalTooLarge,
)
from order_rpc.domain.order import Order, OrderState
from order_rpc.domain.order_line import OrderLine
from order_rpc.store import orders, stock
from order_rpc.tables import ORDER_AUDIT, ORDER_ITEM, ORDERS, RESERVATION
from order_rpc.usecases.catalog import UpdateProduct
from tests.builders.order import (
    ADMIN,
    PAYMENT_RPC,
    PAYMENT_WINDOW,
    OrderApp,
    buyer,
    merchant,
    snapshot,
)
from tests.support.fakes import EPOCH


async def test_an_order_has_prices_of_the_catalogue_a_deadline_and_its_units(app: OrderApp) -> None:
    await app.product("pen", "0.05", available=10, name="笔")
    await app.product("mug", "9.90", available=5)
    order = await app.order(("pen", 2), ("mug", 1, "9.9"), ("pen", 1))
    assert (order.state, order.amount.format(), order.amount.currency, order.version) == (
        OrderState.PENDING_PAYMENT,
        "10.05",
        "CNY",
        1,
    )
    assert [
        (line.sku_id, line.name, line.quantity, line.amount.format()) for line in order.lines
    ] == [("mug", "A mug", 1, "9.90"), ("pen", "笔", 3, "0.15")]
    assert order.created_at == app.clock.now()
    assert order.expires_at - order.created_at == PAYMENT_WINDOW == timedelta(minutes=30)
    assert (await app.stock("pen"), await app.stock("mug")) == ((7, 3, 0), (4, 1, 0))
    assert [
        (row["sku_id"], row["generation"], row["quantity"], row["state"])
        for row in await app.rows(RESERVATION)
    ] == [("mug", 1, 1, "RESERVED"), ("pen", 1, 3, "RESERVED")]
    assert (
        await app.orders.get(merchant_id="mall", order_id=order.order_id, caller=buyer()) == order
    )


async def test_later_changes_of_a_product_do_not_reach_an_order(app: OrderApp) -> None:
    await app.product()
    order = await app.order()
    await app.execute(
        update(ORDERS.metadata.tables["product"]).values(name="Another", price_minor=1)
    )
    assert (
        await app.orders.get(merchant_id="mall", order_id=order.order_id, caller=buyer()) == order
    )


async def test_the_creation_is_audited_and_announced(app: OrderApp) -> None:
    await app.product()
    with calling(caller=buyer(), timeout_seconds=5) as call:
        order = await app.order()
    [row] = await app.rows(ORDER_AUDIT)
    trace_id = call.trace.trace_id
    assert (row["from_state"], row["to_state"], row["event"], row["operator"], row["trace_id"]) == (
        "",
        "PENDING_PAYMENT",
        "CREATE",
        "user:u1",
        trace_id,
    )
    [message] = await app.rows(OUTBOX)
    assert (
        message["destination"],
        message["tag"],
        message["aggregate_id"],
        message["trace_id"],
    ) == ("stream:ORDER_TOPIC", "ORDER_CREATED", order.order_id, trace_id)
    created = json_format.Parse(message["payload"], events_pb2.OrderCreatedEvent())
    assert created.expires_at.ToMilliseconds() == int(order.expires_at.timestamp() * 1000)
    assert (
        created.event_id,
        created.order_id,
        created.merchant_id,
        created.user_id,
        created.amount,
        created.currency,
        created.trace_id,
        created.version,
    ) == (message["event_id"], order.order_id, "mall", "u1", "10.00", "CNY", trace_id, "1.0")


async def test_an_order_of_nothing_to_pay_is_paid_at_once_and_its_units_are_sold(
    app: OrderApp,
) -> None:
    await app.product("gift", "0", available=5)
    order = await app.order(("gift", 2))
    assert (order.state, order.paid_payment_id, order.paid_at, order.amount.minor) == (
        OrderState.PAID,
        "",
        app.clock.now(),
        0,
    )
    assert await app.stock("gift") == (3, 0, 2)
    assert [row["state"] for row in await app.rows(RESERVATION)] == ["COMMITTED"]
    assert [(row["from_state"], row["to_state"]) for row in await app.rows(ORDER_AUDIT)] == [
        ("", "PENDING_PAYMENT"),
        ("PENDING_PAYMENT", "PAID"),
    ]
    messages = await app.rows(OUTBOX)
    assert [message["tag"] for message in messages] == ["ORDER_CREATED", "ORDER_PAID"]
    paid = json_format.Parse(messages[1]["payload"], events_pb2.OrderPaidEvent())
    assert (paid.amount, paid.payment_id, paid.order_id) == ("0.00", "", order.order_id)


REFUSALS = [
    ([("mug", 1), ("cup", 1)], ProductNotFound),
    ([("mug", 1), ("yen", 1)], CurrencyMixed),
    ([("mug", 1, "9.99")], PriceChanged),
    ([("mug", 1), ("pen", 4)], OutOfStock),
    ([("gold", 2)], TotalTooLarge),
]


@pytest.mark.parametrize(
    ("items", "refusal"), REFUSALS, ids=[each[1].__name__ for each in REFUSALS]
)
async def test_a_refused_order_leaves_nothing_and_its_key_may_be_used_again(
    app: OrderApp, items: list, refusal: type[MeshError]
) -> None:
    await app.product("mug", available=5)
    await app.product("pen", available=3)
    await app.product("yen", "100", currency="JPY")
    await app.product("gold", "9999999999999.99")
    with pytest.raises(refusal):
        await app.order(*items, key="k")
    for table in (ORDERS, ORDER_ITEM, RESERVATION, ORDER_AUDIT, OUTBOX, RECEIPT):
        assert await app.rows(table) == []
    assert [await app.stock(sku_id) for sku_id in ("mug", "pen")] == [(5, 0, 0), (3, 0, 0)]
    assert (await app.order(("mug", 1), key="k")).state is OrderState.PENDING_PAYMENT


@pytest.mark.parametrize("price", ["10.00", "0"])  # reserved; sold at once
async def test_a_second_product_that_is_gone_when_its_units_are_taken_gives_back_the_first(
    app: OrderApp, price: str
) -> None:
    a, b = await app.product("a", price, available=5), await app.product("b", price, available=2)
    lines = tuple(
        OrderLine(sku_id=each.sku_id, name=each.name, unit_price=each.price, quantity=3)
        for each in (a, b)
    )
    order = Order.place(
        merchant_id="mall", order_id="ORD1", user_id="u1", lines=lines, at=EPOCH, expires_at=EPOCH
    )
    if price == "0":
        order = order.pay(payment_id="", at=EPOCH)

    # what CreateOrder does after its look at the shelf
    async def write(tx: AsyncConnection) -> None:
        await orders.insert_orders(tx, order)
        await stock.reserve(tx, order)

    with pytest.raises(OutOfStock) as refusal:
        await app.db.run(write)
    assert refusal.value.metadata == {"sku_id": "b", "available": "2"}
    assert [await app.stock("a"), await app.stock("b")] == [(5, 0, 0), (2, 0, 0)]
    assert await app.rows(ORDERS) == await app.rows(RESERVATION) == []


async def test_an_order_of_something_sold_out_is_refused_before_anything_is_written(
    app: OrderApp,
) -> None:
    await app.product(available=2)
    written = []
    event.listen(
        app.db.engine.sync_engine,
        "before_cursor_execute",
        lambda *arguments: (
            written.append(arguments[2]) if not arguments[2].startswith("SELECT") else None
        ),
    )
    with pytest.raises(OutOfStock):
        await app.order(("mug", 3))
    assert [statement for statement in written if not statement.startswith("BEGIN")] == []


async def test_fifty_buyers_of_twenty_units_make_twenty_orders(app: OrderApp) -> None:
    await app.product(available=20)

    async def buy(number: int) -> str:
        try:
            return (await app.order(caller=buyer(f"u{number}"))).state
        except OutOfStock as refusal:
            return refusal.reason

    results = Counter(await app.at_once(*(buy(number) for number in range(50))))
    assert results == {"PENDING_PAYMENT": 20, "OUT_OF_STOCK": 30}
    assert await app.stock() == (0, 20, 0)
    assert (
        len(await app.rows(ORDERS))
        == len(await app.rows(RESERVATION))
        == len(await app.rows(OUTBOX))
        == 20
    )


async def test_mixed_baskets_in_any_order_meet_no_deadlock_and_every_unit_is_accounted_for(
    app: OrderApp, rounds
) -> None:
    skus = ["a", "b", "c", "d"]
    for sku_id in skus:
        await app.product(sku_id, available=12)
    chance = random.Random(7)

    async def buy(number: int) -> str:
        basket = chance.sample(skus, chance.randint(1, 4))
        try:
            await app.order(
                *[(sku_id, chance.randint(1, 2)) for sku_id in basket], caller=buyer(f"u{number}")
            )
        except OutOfStock as refusal:
            return refusal.reason
        return "ORDERED"

    with capture_logs() as logs:
        results = Counter(await app.at_once(*(buy(number) for number in range(rounds(60, 200)))))
    # two who wait for each other are a deadlock
    assert [entry for entry in logs if entry["event"] == "transaction_retried"] == []
    assert set(results) == {"ORDERED", "OUT_OF_STOCK"}
    reserved: Counter[str] = Counter()
    for row in await app.rows(RESERVATION):
        reserved[row["sku_id"]] += row["quantity"]
    assert {sku_id: await app.stock(sku_id) for sku_id in skus} == {
        sku_id: (12 - reserved[sku_id], reserved[sku_id], 0) for sku_id in skus
    }


async def test_one_key_fifty_times_in_parallel_makes_one_order_and_equal_answers(
    app: OrderApp,
) -> None:
    await app.product()
    answers = await app.at_once(*(app.order(("mug", 2), key="k") for _ in range(50)))
    assert all(answer == answers[0] for answer in answers)
    assert len(await app.rows(ORDERS)) == len(await app.rows(RECEIPT)) == 1
    assert await app.stock() == (98, 2, 0)


@pytest.mark.parametrize("dialect", ["mariadb"])  # on SQLite one transaction runs at a time
async def test_an_order_that_another_with_its_key_overtakes_is_that_one_though_the_product_left_the_shop(
    app: OrderApp,
) -> None:
    await app.product()
    made: list[Order] = []

    async def order_and_close() -> None:
        made.append(await app.order(key="k"))
        await app.catalog.update_product(
            UpdateProduct(merchant_id="mall", sku_id="mug", on_sale=False), merchant()
        )

    with app.overtaken(order_and_close, before="FROM product"):
        assert [await app.order(key="k")] == made


async def test_without_a_key_every_call_makes_a_new_order(app: OrderApp) -> None:
    await app.product()
    first, second = await app.order(), await app.order()
    assert first.order_id != second.order_id
    assert await app.stock() == (98, 2, 0)


async def test_a_replay_gets_the_first_answer_even_after_the_order_went_on_and_is_marked(
    app: OrderApp,
) -> None:
    await app.product(name="茶杯")
    with calling(timeout_seconds=5) as call:
        first = await app.order(key="k")
    assert list(call.trailing) == []
    app.clock.advance(60)
    await app.force_state(first, OrderState.PAID, paid_by="PAY1")
    with calling(timeout_seconds=5) as call:
        assert await app.order(key="k") == first
    assert list(call.trailing) == [("x-paymesh-idempotent-replayed", "true")]


async def test_a_replay_after_a_refund_shows_nothing_of_it(app: OrderApp) -> None:
    await app.product()
    first = await app.order(("mug", 2), key="k")
    await app.tell(first, snapshot(captured="20.00"))
    refund = await app.refund(first, ("mug", 1))
    await app.tell_refund(first, (refund, "SUCCESS"), version=5, refunded="10.00")
    assert (await app.load(first)).refunded.format() == "10.00"
    assert await app.order(("mug", 2), key="k") == first


async def test_a_replay_of_an_order_of_nothing_to_pay_is_paid(app: OrderApp) -> None:
    await app.product("gift", "0")
    first = await app.order(("gift", 1), key="k")
    await app.force_state(first, OrderState.REFUNDED)
    assert await app.order(("gift", 1), key="k") == first


async def test_a_key_with_another_basket_is_refused_by_field_and_changes_nothing(
    app: OrderApp,
) -> None:
    await app.product()
    await app.order(("mug", 1), key="k")
    with pytest.raises(IdempotencyKeyReused) as refusal:
        await app.order(("mug", 2), key="k")
    assert list(refusal.value.fields) == ["items[0].quantity"]
    assert await app.stock() == (99, 1, 0)


async def test_two_buyers_with_one_key_never_meet(app: OrderApp) -> None:
    await app.product()
    first, second = (
        await app.order(key="k", caller=buyer("u1")),
        await app.order(key="k", caller=buyer("u2")),
    )
    assert first.order_id != second.order_id
    assert (first.user_id, second.user_id) == ("u1", "u2")


async def test_a_crash_before_the_commit_leaves_nothing(app: OrderApp) -> None:
    await app.product()
    failpoints.arm("order.create.before_commit=raise", environment="test")
    with pytest.raises(FailpointRaised):
        await app.order(key="k")
    assert await app.rows(ORDERS) == await app.rows(RECEIPT) == await app.rows(OUTBOX) == []
    assert await app.stock() == (100, 0, 0)


async def test_a_crash_after_the_commit_is_repaired_by_the_same_key(app: OrderApp) -> None:
    await app.product()
    failpoints.arm("order.create.after_commit=raise", environment="test")
    with pytest.raises(FailpointRaised):
        await app.order(key="k")
    order = await app.order(key="k")
    assert [row["order_id"] for row in await app.rows(ORDERS)] == [order.order_id]
    assert await app.stock() == (99, 1, 0)


async def test_a_caller_that_goes_away_does_not_cut_the_transaction(app: OrderApp) -> None:
    await app.product()
    call = asyncio.create_task(app.order(key="k"))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.wait(app.db._running)
    order = await app.order(key="k")
    assert [row["order_id"] for row in await app.rows(ORDERS)] == [order.order_id]


@pytest.mark.parametrize(
    "caller",
    [buyer(), merchant(), ADMIN, PAYMENT_RPC],
    ids=["buyer", "merchant", "admin", "payment_rpc"],
)
async def test_an_order_is_shown_to_those_whom_it_concerns(app: OrderApp, caller: Caller) -> None:
    await app.product()
    order = await app.order()
    assert await app.orders.get(merchant_id="mall", order_id=order.order_id, caller=caller) == order


@pytest.mark.parametrize(
    "caller",
    [buyer("u2"), buyer("u1", "tea_house"), buyer("U1"), merchant("tea_house")],
    ids=["another buyer", "same name elsewhere", "other case", "another shop"],
)
async def test_an_order_of_somebody_else_is_not_found(app: OrderApp, caller: Caller) -> None:
    await app.product()
    order = await app.order()
    with pytest.raises(OrderNotFound):
        await app.orders.get(merchant_id="mall", order_id=order.order_id, caller=caller)


async def test_an_order_id_belongs_to_its_tenant(app: OrderApp) -> None:
    await app.product()
    order = await app.order()
    with pytest.raises(OrderNotFound):
        await app.orders.get(merchant_id="tea_house", order_id=order.order_id, caller=ADMIN)

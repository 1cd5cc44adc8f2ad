"""Shelves on real databases: what people and flash sales do to them is kept for ever, what orders
hold is accounted for, nothing is sold twice.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncConnection
from structlog.testing import capture_logs

from mesh.call import calling
from mesh.db import ConstraintViolated
from mesh.errors import IdempotencyKeyReused, PageTokenInvalid
from mesh.money import Money, RequestedAmount
from order_rpc.domain.errors import (
    AllocationExceeded,
    AllocationMismatch,
    OutOfStock,
    PriceChanged,
    ProductNotFound,
    ProductNotOnSale,
    StockStateInvalid,
)
from order_rpc.domain.order import OrderState
from order_rpc.domain.order_line import StockSource
from order_rpc.domain.product import Movement, MovementKind
from order_rpc.store import orders, stock
from order_rpc.tables import ALLOCATION, ORDERS, RESERVATION, STOCK, STOCK_MOVEMENT
from order_rpc.usecases.allocations import AllocateStock, ReturnAllocation, SeckillOrder
from order_rpc.usecases.catalog import UpdateProduct
from order_rpc.usecases.catalog_stock import AdjustStock
from tests.builders.order import (
    PAYMENT_WINDOW,
    SECKILL_RPC,
    OrderApp,
    buyer,
    merchant,
    snapshot,
)

S = OrderState


async def adjust(
    app: OrderApp,
    quantity: int,
    *,
    sku_id: str = "mug",
    reason: str = "counted",
    key: str = "",
    merchant_id: str = "mall",
) -> Movement:
    command = AdjustStock(
        merchant_id="mall",
        sku_id=sku_id,
        quantity=quantity,
        reason=reason,
        idempotency_key=key,
        fingerprint={"sku_id": sku_id, "quantity": str(quantity), "reason": reason},
    )
    return await app.catalog_stock.adjust_stock(command, merchant(merchant_id))


async def moves(app: OrderApp) -> list[tuple[str, int, int]]:
    return [
        (row["kind"], row["quantity"], row["available_after"])
        for row in await app.rows(STOCK_MOVEMENT)
    ]


async def test_every_change_by_people_is_kept_with_its_reason(app: OrderApp) -> None:
    await app.product(available=10)
    with calling(caller=merchant(), timeout_seconds=5) as call:
        moved = await adjust(app, -3, reason="broken ☕")
    assert (moved.kind, moved.quantity, moved.available_after, moved.reason, moved.operator) == (
        MovementKind.ADJUST,
        -3,
        7,
        "broken ☕",
        "merchant:clerk",
    )
    await app.catalog_stock.set_stock(
        merchant_id="mall", sku_id="mug", available=20, caller=merchant()
    )
    # it is so already
    await app.catalog_stock.set_stock(
        merchant_id="mall", sku_id="mug", available=20, caller=merchant()
    )
    assert await moves(app) == [("INITIAL", 10, 10), ("ADJUST", -3, 7), ("SET", 13, 20)]
    assert (await app.rows(STOCK_MOVEMENT))[1]["trace_id"] == call.trace.trace_id
    shown, token = await app.catalog_stock.list_stock_movements(
        merchant_id="mall", sku_id="mug", requested_size=2, page_token=""
    )
    rest, end = await app.catalog_stock.list_stock_movements(
        merchant_id="mall", sku_id="mug", requested_size=2, page_token=token
    )
    assert ([movement.kind for movement in (*shown, *rest)], end) == (
        ["SET", "ADJUST", "INITIAL"],
        "",
    )
    with pytest.raises(PageTokenInvalid):
        await app.catalog_stock.list_stock_movements(
            merchant_id="mall", sku_id="pen", requested_size=2, page_token=token
        )


async def test_more_than_is_there_is_not_taken_away(app: OrderApp) -> None:
    await app.product(available=3)
    await app.order(("mug", 2))
    with pytest.raises(StockStateInvalid) as refused:
        await adjust(app, -2)
    assert refused.value.metadata == {"sku_id": "mug", "available": "1"}
    assert await app.stock() == (1, 2, 0)


async def test_an_adjustment_with_a_key_happens_once(app: OrderApp) -> None:
    await app.product(available=10)
    answers = await app.at_once(*(adjust(app, 5, key="k") for _ in range(20)))
    assert all(answer == answers[0] for answer in answers)
    assert await app.stock() == (15, 0, 0)
    with pytest.raises(IdempotencyKeyReused):
        await adjust(app, 6, key="k")


async def test_all_units_taken_away_with_one_key_at_once_are_one_answer(
    app: OrderApp, rounds: Callable[[int, int], int]
) -> None:
    for number in range(rounds(5, 100)):
        await app.product(f"mug{number}", available=3)
        answers = await app.at_once(
            *(adjust(app, -3, sku_id=f"mug{number}", key=f"k{number}") for _ in range(8))
        )
        assert answers == [answers[0]] * 8


async def test_adjustments_at_once_all_count(app: OrderApp) -> None:
    await app.product(available=0)
    await app.at_once(*(adjust(app, 1) for _ in range(30)))
    assert await app.stock() == (30, 0, 0)
    assert sorted(after for _, _, after in await moves(app)) == list(range(31))


async def test_another_shops_shelf_is_not_touched(app: OrderApp) -> None:
    await app.product()
    with pytest.raises(ProductNotFound):
        await adjust(app, 1, merchant_id="tea_house")
    with pytest.raises(ProductNotFound):
        await app.catalog.update_product(
            UpdateProduct(merchant_id="mall", sku_id="mug", name="x"), merchant("tea_house")
        )


async def test_a_product_changes_for_new_orders_only(app: OrderApp) -> None:
    await app.product("mug", "10.00")
    before = await app.order(("mug", 1))
    changed = await app.catalog.update_product(
        UpdateProduct(merchant_id="mall", sku_id="mug", name="茶杯", price=RequestedAmount("12.5")),
        merchant(),
    )
    assert (changed.name, changed.price.format(), changed.on_sale) == ("茶杯", "12.50", True)
    with pytest.raises(PriceChanged):
        await app.order(("mug", 1, "10.00"))
    after = await app.order(("mug", 1))
    assert [
        (order.lines[0].name, order.amount.format()) for order in (await app.load(before), after)
    ] == [("A mug", "10.00"), ("茶杯", "12.50")]


async def test_what_is_not_on_sale_is_not_ordered(app: OrderApp) -> None:
    await app.product()
    await app.catalog.update_product(
        UpdateProduct(merchant_id="mall", sku_id="mug", on_sale=False), merchant()
    )
    with pytest.raises(ProductNotOnSale) as refused:
        await app.order()
    assert (refused.value.metadata, list(refused.value.fields)) == (
        {"sku_id": "mug"},
        ["items[0].sku_id"],
    )
    await app.catalog.update_product(
        UpdateProduct(merchant_id="mall", sku_id="mug", on_sale=True), merchant()
    )
    assert (await app.order()).state is S.PENDING_PAYMENT


async def test_a_product_is_created_again_with_its_key_after_everything_changed(
    app: OrderApp,
) -> None:
    first = await app.product(key="k")
    await app.catalog.update_product(
        UpdateProduct(merchant_id="mall", sku_id="mug", price=RequestedAmount("99")), merchant()
    )
    assert await app.product(key="k") == first


# The client's own id of an order.


async def test_a_client_request_id_makes_one_order_for_ever(app: OrderApp) -> None:
    await app.product()
    orders = await app.at_once(*(app.order(("mug", 2), client_request_id="c1") for _ in range(20)))
    assert len({order.order_id for order in orders}) == len(await app.rows(ORDERS)) == 1
    await app.tell(orders[0], snapshot(captured="20.00"))
    app.clock.advance(3600 * 24 * 400)
    assert (await app.order(("mug", 2), client_request_id="c1")).state is S.PAID  # as it is now
    with pytest.raises(IdempotencyKeyReused) as refused:
        await app.order(("mug", 1), client_request_id="c1")
    assert list(refused.value.fields) == ["items"]
    other = await app.order(("mug", 2), client_request_id="c1", caller=buyer("u2"))
    assert other.order_id != orders[0].order_id


# Everybody wants the same.


@pytest.mark.parametrize("group", [1, 20])
async def test_two_hundred_buyers_race_for_fifty_units_in_mixed_baskets(
    app: OrderApp, rounds: Callable[[int, int], int], group: int
) -> None:
    await app.product("hot", "10.00", available=50)
    others = ["a", "b", "c", "z"]
    for sku_id in others:
        await app.product(sku_id, "1.00", available=1000)
    chance = random.Random(7)
    served = app.make(hot_sku_group_size=group)

    async def buy(number: int) -> str:
        basket = [
            ("hot", 1),
            *(
                (sku_id, chance.randint(1, 3))
                for sku_id in chance.sample(others, chance.randint(0, 3))
            ),
        ]
        chance.shuffle(basket)
        try:
            order = await app.order(*basket, caller=buyer(f"u{number}"), app=served)
        except OutOfStock as refused:
            return f"{refused.metadata['sku_id']} {refused.reason}"
        if number % 3 == 0:
            await app.tell(order, snapshot(f"PAY{number}", captured=order.amount.format()))
        elif number % 3 == 1:
            await app.cancel(order)
            return "CANCELLED"
        return "HELD"

    with capture_logs() as logs:
        results = Counter(await app.at_once(*(buy(number) for number in range(rounds(120, 200)))))
    # two who wait for each other are a deadlock
    assert [entry for entry in logs if entry["event"] == "transaction_retried"] == []
    assert set(results) <= {"HELD", "CANCELLED", "hot OUT_OF_STOCK"}
    available, reserved, sold = await app.stock("hot")
    assert (available + reserved + sold, reserved + sold) == (50, results["HELD"])
    # what was cancelled after the last buyer came is on the shelf again
    assert results["HELD"] == 50 or available > 0
    assert await app.stock_problems() == []


async def test_without_cancels_exactly_what_is_there_is_reserved(
    app: OrderApp, rounds: Callable[[int, int], int]
) -> None:
    await app.product("hot", available=50)
    await app.product("pen", "1.00", available=1000)

    async def buy(number: int) -> str:
        try:
            await app.order(
                *([("hot", 1)] if number % 2 else [("pen", 1), ("hot", 1)]),
                caller=buyer(f"u{number}"),
            )
        except OutOfStock:
            return "OUT_OF_STOCK"
        return "HELD"

    results = Counter(await app.at_once(*(buy(number) for number in range(rounds(100, 200)))))
    assert results["HELD"] == 50
    assert await app.stock("hot") == (0, 50, 0)
    assert await app.stock_problems() == []


# Orders of one product that share a transaction.


async def test_orders_that_arrive_while_one_is_written_share_the_next_transaction(
    app: OrderApp,
) -> None:
    await app.product(available=100)
    served = app.make(hot_sku_group_size=50)
    sizes = []
    write = served.orders._create

    async def counted(tx, wishes):
        sizes.append(len(wishes))
        return await write(tx, wishes)

    served.orders._create = counted  # type: ignore[method-assign]
    orders = await app.at_once(
        *(
            app.order(("mug", 1 + number % 2), caller=buyer(f"u{number}"), app=served)
            for number in range(60)
        )
    )
    assert (len({order.order_id for order in orders}), {order.user_id for order in orders}) == (
        60,
        {f"u{number}" for number in range(60)},
    )
    assert sum(sizes) == 60
    assert max(sizes) > 1
    assert await app.stock() == (10, 90, 0)
    assert await app.stock_problems() == []


async def test_in_a_group_each_hears_his_own_refusal(app: OrderApp) -> None:
    await app.product("mug", "10.00", available=100)
    served = app.make(hot_sku_group_size=50)

    async def buy(number: int) -> str:
        try:
            return (
                await app.order(
                    ("mug", 1, "9.00" if number % 5 == 0 else "10.00"),
                    caller=buyer(f"u{number}"),
                    app=served,
                )
            ).user_id
        except PriceChanged as refused:
            return refused.reason

    results = await app.at_once(*(buy(number) for number in range(20)))
    assert results == [
        ("PRICE_CHANGED" if number % 5 == 0 else f"u{number}") for number in range(20)
    ]


async def test_the_last_units_go_to_those_who_came_first_although_the_group_wants_more(
    app: OrderApp,
) -> None:
    await app.product(available=7)
    served = app.make(hot_sku_group_size=50)

    async def buy(number: int) -> bool:
        try:
            await app.order(("mug", 2), caller=buyer(f"u{number}"), app=served)
        except OutOfStock:
            return False
        return True

    assert await app.at_once(*(buy(number) for number in range(10))) == [True] * 3 + [False] * 7
    assert await app.stock() == (1, 6, 0)


async def test_one_key_many_times_in_groups_makes_one_order(app: OrderApp) -> None:
    await app.product()
    served = app.make(hot_sku_group_size=50)
    orders = await app.at_once(
        *(
            app.order(
                key="k" if number % 2 else "",
                client_request_id="" if number % 2 else "c",
                app=served,
            )
            for number in range(20)
        )
    )
    assert len({order.order_id for order in orders}) == 2
    assert await app.stock() == (98, 2, 0)


async def test_a_caller_that_goes_away_takes_nobody_elses_order_along(app: OrderApp) -> None:
    await app.product()
    served = app.make(hot_sku_group_size=50)
    calls = [
        asyncio.create_task(app.order(caller=buyer(f"u{number}"), app=served))
        for number in range(5)
    ]
    await asyncio.sleep(0)
    calls[0].cancel()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [isinstance(result, asyncio.CancelledError) for result in results] == [
        True,
        False,
        False,
        False,
        False,
    ]
    # his turn had not come
    assert sorted(row["user_id"] for row in await app.rows(ORDERS)) == ["u1", "u2", "u3", "u4"]


# Flash sales.


async def allocate(
    app: OrderApp,
    quantity: int,
    *,
    op_id: str = "OP1",
    activity_id: str = "ACT1",
    sku_id: str = "mug",
) -> int:
    command = AllocateStock(
        op_id=op_id, merchant_id="mall", activity_id=activity_id, sku_id=sku_id, quantity=quantity
    )
    return await app.allocations.allocate_stock(command, SECKILL_RPC)


async def give_back(
    app: OrderApp, quantity: int, *, op_id: str = "OP9", activity_id: str = "ACT1"
) -> int:
    return await app.allocations.return_allocation(
        ReturnAllocation(
            op_id=op_id, merchant_id="mall", activity_id=activity_id, quantity=quantity
        ),
        SECKILL_RPC,
    )


async def allocated(app: OrderApp) -> int:
    return (await app.catalog.get_product(merchant_id="mall", sku_id="mug")).stock.allocated


async def test_units_leave_the_shelf_for_a_sale_and_come_back_once_each(app: OrderApp) -> None:
    await app.product(available=10)
    assert await app.at_once(*(allocate(app, 6) for _ in range(10))) == [6] * 10
    assert (await app.stock(), await allocated(app)) == ((4, 0, 0), 6)
    assert await allocate(app, 2, op_id="OP2") == 8
    assert await app.at_once(*(give_back(app, 5) for _ in range(10))) == [5] * 10
    assert await give_back(app, 0, op_id="OP10") == 5
    assert (await app.stock(), await allocated(app)) == ((7, 0, 0), 3)
    assert await moves(app) == [
        ("INITIAL", 10, 10),
        ("ALLOCATE", -6, 4),
        ("ALLOCATE", -2, 2),
        ("RETURN_ALLOCATION", 5, 7),
    ]
    assert await app.stock_problems() == []


async def test_a_sale_takes_and_gives_back_no_more_than_there_is(app: OrderApp) -> None:
    await app.product(available=10)
    with pytest.raises(OutOfStock):
        await allocate(app, 11)
    assert await app.rows(ALLOCATION) == []
    await allocate(app, 6)
    with pytest.raises(AllocationExceeded) as refused:
        await give_back(app, 7)
    assert refused.value.metadata == {"held": "6"}
    with pytest.raises(AllocationExceeded):
        await give_back(app, 1, activity_id="ACT2")
    assert await app.stock_problems() == []


@pytest.mark.parametrize("other", [{"quantity": 7}, {"quantity": 6, "activity_id": "ACT2"}])
async def test_an_id_is_good_for_one_step(app: OrderApp, other: dict) -> None:
    await app.product(available=10)
    await allocate(app, 6)
    with pytest.raises(AllocationMismatch):
        await allocate(app, **other)
    with pytest.raises(AllocationMismatch):
        await give_back(app, 6, op_id="OP1")


async def test_an_activity_is_of_one_product(app: OrderApp) -> None:
    await app.product(available=10)
    await app.product("pen", available=10)
    await allocate(app, 6)
    with pytest.raises(AllocationMismatch):
        await allocate(app, 1, op_id="OP2", sku_id="pen")
    with pytest.raises(ProductNotFound):
        await allocate(app, 1, op_id="OP3", activity_id="ACT3", sku_id="cup")


async def test_an_order_of_a_sale_has_the_sales_price_and_takes_nothing_from_the_shelf(
    app: OrderApp,
) -> None:
    await app.product("mug", "10.00", available=10)
    await allocate(app, 6)
    app.clock.advance(600)
    order = await app.seckill_order("ORDS1", price="0.99")
    assert (
        order.state,
        order.amount.format(),
        order.lines[0].stock_source,
        order.lines[0].activity_id,
    ) == (S.PENDING_PAYMENT, "0.99", StockSource.ACTIVITY, "ACT1")
    assert order.expires_at - app.clock.now() == PAYMENT_WINDOW
    await app.tell(order, snapshot(captured="0.99"))
    assert ((await app.load(order)).state, await app.stock(), await app.rows(RESERVATION)) == (
        S.PAID,
        (4, 0, 0),
        [],
    )
    refund = await app.refund(order)
    await app.tell_refund(order, (refund, "SUCCESS"), version=5, refunded="0.99")
    # the goods are on the shelf again, the sale has one unit less to return
    assert (await app.stock(), await allocated(app)) == ((5, 0, 0), 5)


async def test_orders_of_a_sale_are_written_once_however_often_they_are_sent(app: OrderApp) -> None:
    await app.product("mug", "10.00")
    wanted = [
        SeckillOrder(
            order_id=f"ORDS{number}",
            merchant_id="mall",
            user_id=f"u{number}",
            activity_id="ACT1",
            sku_id="mug",
            price=Money(99, "CNY"),
        )
        for number in range(200)
    ]
    results = await app.at_once(
        *(
            app.allocations.create_seckill_orders(batch, SECKILL_RPC)
            for batch in (wanted[:150], wanted[50:], wanted, wanted[::-1])
        )
    )
    assert [set(result) for result in results] == [{""}] * 4
    assert len(await app.rows(ORDERS)) == 200
    free = SeckillOrder(
        order_id="ORDF",
        merchant_id="mall",
        user_id="u1",
        activity_id="ACT1",
        sku_id="mug",
        price=Money(0, "CNY"),
    )
    assert await app.allocations.create_seckill_orders([free], SECKILL_RPC) == [""]
    assert [row["state"] for row in await app.rows(ORDERS) if row["order_id"] == "ORDF"] == ["PAID"]


async def test_an_order_of_a_sale_that_can_never_be_written_does_not_keep_the_others_from_it(
    app: OrderApp,
) -> None:
    await app.product("mug", "10.00")
    await app.seckill_order("ORDS1", user_id="u1")

    def wanted(
        order_id: str, *, sku_id: str = "mug", user_id: str = "u1", currency: str = "CNY"
    ) -> SeckillOrder:
        return SeckillOrder(
            order_id=order_id,
            merchant_id="mall",
            user_id=user_id,
            activity_id="ACT1",
            sku_id=sku_id,
            price=Money(99, currency),
        )

    batch = [
        wanted("ORDS2"),
        wanted("ORDS3", sku_id="gone"),
        wanted("ORDS1", user_id="u2"),
        wanted("ORDS4", currency="USD"),
        wanted("ORDS2"),
    ]
    assert await app.allocations.create_seckill_orders(batch, SECKILL_RPC) == [
        "",
        "PRODUCT_NOT_FOUND",
        "ALLOCATION_MISMATCH",
        "CURRENCY_MIXED",
        "",
    ]
    assert [row["order_id"] for row in await app.rows(ORDERS)] == ["ORDS1", "ORDS2"]


async def test_a_shelf_never_goes_below_zero_whatever_is_written_by_hand(app: OrderApp) -> None:
    """What reads the shelf before it takes from it may be wrong: the condition of the statement
    decides, and a CHECK stands behind it.
    """
    await app.product(available=1)
    order = await app.order()

    async def hold(tx: AsyncConnection) -> None:
        other = replace(order, order_id="ORDother")
        await orders.insert_orders(tx, other)
        await stock.reserve(tx, other)

    with pytest.raises(OutOfStock):
        await app.db.run(hold)
    with pytest.raises(ConstraintViolated):
        await app.execute(update(STOCK).values(available=STOCK.c.available - 1))
    assert await app.stock() == (0, 1, 0)


@pytest.mark.parametrize("dialect", ["mariadb"], indirect=True)  # SQLite has one writer
async def test_units_that_come_back_while_they_are_refused_are_taken(app: OrderApp) -> None:
    """Between the statement that finds too few and the one that looks how many there are."""
    await app.product(available=1)
    first = await app.order()

    async def hold(tx: AsyncConnection) -> None:
        other = replace(first, order_id="ORDother")
        await orders.insert_orders(tx, other)
        await stock.reserve(tx, other)

    with app.overtaken(lambda: app.cancel(first), before="SELECT stock.available"):
        await app.db.run(hold)
    assert await app.stock() == (0, 1, 0)

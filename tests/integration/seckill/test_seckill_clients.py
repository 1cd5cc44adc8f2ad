"""seckill_rpc and a real order_rpc over a real port: units leave the shelf, orders are written with
the price of the sale, refusals come back one by one, and everything may be sent twice."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from mesh.errors import RemoteError
from mesh.outbox import OUTBOX
from mesh.relay import Relay
from order_rpc.tables import ORDER_ITEM
from seckill_rpc.clients import Allocations
from seckill_rpc.usecases.outbox_to_order import OrderRpcDestination
from tests.builders.order import RunningOrderRpc, running_order_rpc
from tests.builders.seckill import SeckillWorld, seckill_world

pytestmark = pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)  # it is about the wire


@dataclass
class Both:
    world: SeckillWorld
    order_rpc: RunningOrderRpc
    allocations: Allocations


@asynccontextmanager
async def _both(database_url_factory: Callable[[], str], redis_url: str) -> AsyncIterator[Both]:
    async with (
        seckill_world(database_url_factory(), redis_url) as world,
        running_order_rpc(database_url_factory()) as order_rpc,
        order_rpc.channel(order_rpc.seckill_rpc) as channel,
    ):
        allocations = Allocations(channel)
        world.to_order_rpc = Relay(
            db=world.db,
            clock=world.clock,
            destination=OrderRpcDestination(
                db=world.db, allocations=allocations, returns=world.returns, clock=world.clock
            ),
        )
        await order_rpc.app.product("1001", "20.00", available=100)
        yield Both(world, order_rpc, allocations)


@pytest.fixture
async def both(database_url_factory: Callable[[], str], redis_url: str) -> AsyncIterator[Both]:
    async with _both(database_url_factory, redis_url) as made:
        yield made


async def test_units_leave_the_shelf_once_per_step_and_come_back_once_per_step(both: Both) -> None:
    activity = await both.world.open(total=30)
    for _ in range(2):
        assert await both.allocations.allocate(activity, op_id="alloc:1") == 30
    assert await both.allocations.currency_of(activity) == "CNY"
    for op_id, returned in (("late:O1", 1), ("late:O1", 1), ("close:1", 5)):
        quantity = 1 if op_id == "late:O1" else 4
        assert (
            await both.allocations.give_back(
                op_id=op_id, merchant_id="mall", activity_id=activity.activity_id, quantity=quantity
            )
            == returned
        )
    with pytest.raises(RemoteError) as refusal:
        await both.allocations.give_back(
            op_id="close:2", merchant_id="mall", activity_id=activity.activity_id, quantity=26
        )
    assert (refusal.value.reason, refusal.value.is_definite) == ("ALLOCATION_EXCEEDED", True)


async def test_what_order_rpc_has_not_got_is_refused_for_good(both: Both) -> None:
    for plan, reason in (
        ({"total": 101}, "OUT_OF_STOCK"),
        ({"sku_id": "none"}, "PRODUCT_NOT_FOUND"),
    ):
        activity = both.world.plan(**plan)
        with pytest.raises(RemoteError) as refusal:
            await both.allocations.allocate(activity, op_id=f"alloc:{reason}")
        assert (refusal.value.reason, refusal.value.is_definite) == (reason, True)


async def test_orders_are_written_with_the_price_of_the_activity_and_sent_twice_are_there_once(
    both: Both,
) -> None:
    world = both.world
    activity = await world.open(total=30, price="8.80")
    await both.allocations.allocate(activity, op_id="alloc:1")
    admitted = await world.clicks(*((f"u{user}", "a") for user in range(5)))
    await world.consume()
    await world.relay()
    assert await both.allocations.create_orders(activity, [(admitted[0].detail, "u0")]) == {
        admitted[0].detail: ""
    }
    found = [row async for row in _items(both)]
    assert sorted(found) == sorted(
        (each.detail, "1001", 880, "ACTIVITY", activity.activity_id) for each in admitted
    )
    assert all(row["order_ready"] for row in await world.rows())
    await world.check_rest()


async def test_orders_that_order_rpc_refuses_come_back_one_by_one(both: Both) -> None:
    world = both.world
    foreign = await world.open(total=3, sku_id="none")
    order_id = await world.buy("u1")
    assert await both.allocations.create_orders(foreign, [(order_id, "u1")]) == {
        order_id: "PRODUCT_NOT_FOUND"
    }
    await world.relay()
    assert await world.states() == {order_id: "REFUSED"}
    # the orders, and the unit back to Redis
    assert [row["state"] for row in await world.rows(OUTBOX)] == ["DONE", "DONE"]
    await world.check_rest()


async def test_a_full_batch_of_the_longest_ids_goes_over_the_wire(both: Both) -> None:
    world = both.world
    activity = await world.open(total=500)
    orders = [(f"{number:03}" + "O" * 29, f"{number:03}" + "u" * 61) for number in range(500)]
    assert await both.allocations.create_orders(activity, orders) == dict.fromkeys(
        (order_id for order_id, _ in orders), ""
    )


async def _items(both: Both) -> AsyncIterator[tuple[str, str, int, str, str]]:
    async with both.order_rpc.app.db.engine.connect() as connection:
        for row in (await connection.execute(ORDER_ITEM.select())).mappings():
            yield (
                row["order_id"],
                row["sku_id"],
                row["unit_price_minor"],
                row["stock_source"],
                row["activity_id"],
            )

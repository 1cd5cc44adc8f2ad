"""`paymesh audit` and `paymesh explain` over a flash sale: silent when everything holds, and each
thing that does not hold has its line.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta

import pytest
from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.audit import AuditTolerance
from order_rpc.domain.order import OrderState
from order_rpc.tables import ALLOCATION, ORDERS
from order_rpc.tables import metadata as order_metadata
from payment_rpc.tables import ORDER_GATE
from payment_rpc.tables import metadata as payment_metadata
from paymesh_cli.audit.parts import audit_databases
from paymesh_cli.explain import read_explanations
from seckill_rpc.audit.checks import violations
from seckill_rpc.domain.activity import Activity, ActivityState
from seckill_rpc.redis.keys import keys_of
from seckill_rpc.tables import DEAD_ENTRY, SECKILL_ORDER
from tests.builders.order import SECKILL_RPC
from tests.builders.seckill_order import SeckillOrderWorld, on_one_database, seckill_order_world
from tests.support.databases import create_tables, open_patiently, plant

Tamper = Callable[[SeckillOrderWorld, Activity], Awaitable[object]]


@pytest.fixture
async def world(
    database_url_factory: Callable[[], str], redis_url: str
) -> AsyncIterator[SeckillOrderWorld]:
    async with seckill_order_world(
        database_url_factory(), database_url_factory(), redis_url
    ) as world:
        payments = open_patiently(database_url_factory(), payment_metadata)
        await create_tables(payments.engine, payment_metadata)
        world.databases |= {
            "payment_rpc": payments,
            "order_rpc": world.orders.db,
            "seckill_rpc": world.db,
        }
        yield world
        await payments.close()


async def audit(world: SeckillOrderWorld, *, strict: bool = True) -> set[tuple[str, str]]:
    """(where, check) of everything that does not hold."""
    await close_gates(world)
    return {
        (where, found.check)
        async for where, found in audit_databases(
            world.databases,
            AuditTolerance(now=world.clock.now(), strict=strict),
            sandbox_url="",
            api_key="",
            redis_url=world.redis_url,
        )
    }


async def close_gates(world: SeckillOrderWorld) -> None:
    """What payment_rpc, which is not there, wrote before orders were cancelled."""
    cancelled = await world.orders.execute(
        select(ORDERS.c.merchant_id, ORDERS.c.order_id).where(
            ORDERS.c.state == OrderState.CANCELLED
        )
    )

    async def write(tx: AsyncConnection) -> None:
        await tx.execute(delete(ORDER_GATE))
        for row in cancelled:
            await tx.execute(
                insert(ORDER_GATE).values(
                    **row._mapping, state="CLOSED", updated_at=world.clock.now()
                )
            )

    await world.databases["payment_rpc"].run(write)


async def sold_in_part(world: SeckillOrderWorld) -> Activity:
    """Two hold units, one gave his back; everybody was told."""
    activity = await world.opened(total=3)
    orders = await world.buy(activity, "u1", "u2", "u3")
    await world.relay()
    await world.cancel(orders[2])
    return activity


def row(**values: object) -> Tamper:
    async def tamper(world: SeckillOrderWorld, activity: Activity) -> None:
        await world.change(activity, **values)

    return tamper


def order(of: str, **values: object) -> Tamper:
    async def tamper(world: SeckillOrderWorld, activity: Activity) -> None:
        await world.execute(
            update(SECKILL_ORDER)
            .where(
                SECKILL_ORDER.c.activity_id == activity.activity_id, SECKILL_ORDER.c.user_id == of
            )
            .values(**values)
        )

    return tamper


def theirs(of: str, **values: object) -> Tamper:
    async def tamper(world: SeckillOrderWorld, activity: Activity) -> None:
        await world.orders.execute(update(ORDERS).where(ORDERS.c.user_id == of).values(**values))

    return tamper


def stock(field: str, value: int | str) -> Tamper:
    async def tamper(world: SeckillOrderWorld, activity: Activity) -> None:
        await world.redis.hset(keys_of(activity).meta, field, value)

    return tamper


async def a_foreign_order(world: SeckillOrderWorld, activity: Activity) -> None:
    await world.orders.seckill_order("ORD-FOREIGN")


async def units_vanish(world: SeckillOrderWorld, activity: Activity) -> None:
    await world.orders.execute(update(ALLOCATION).values(returned=1))


async def a_dead_entry(world: SeckillOrderWorld, activity: Activity) -> None:
    await world.execute(
        insert(DEAD_ENTRY).values(
            activity_id=activity.activity_id,
            entry_id="1-1",
            order_id="ORD1",
            fields="{}",
            reason="why",
            deliveries=5,
            created_at=world.clock.now(),
        )
    )


async def a_place_is_left(world: SeckillOrderWorld, activity: Activity) -> None:
    await world.redis.xadd(keys_of(activity).queue, {"o": "ORD9", "u": "u9", "r": "a", "e": "1"})


async def a_holder_is_forgotten(world: SeckillOrderWorld, activity: Activity) -> None:
    await world.redis.hdel(keys_of(activity).users, "u1#a")


async def a_stranger_is_told_one(world: SeckillOrderWorld, activity: Activity) -> None:
    await world.redis.set(keys_of(activity).view("nobody"), "1")


async def redis_forgets(world: SeckillOrderWorld, activity: Activity) -> None:
    await world.redis.delete(keys_of(activity).meta)


TAMPERED: dict[str, tuple[Tamper, set[tuple[str, str]]]] = {
    "a unit more is sold than live": (
        row(sold=3),
        {("seckill_rpc", "units_sold"), ("redis", "units_conserved")},
    ),
    "a place above the limit": (order("u1", slot=2), {("seckill_rpc", "buyer_within_limit")}),
    "an order that order_rpc never answered": (
        order("u1", order_ready=False),
        {("seckill_rpc", "order_written")},
    ),
    "a dead entry": (a_dead_entry, {("seckill_rpc", "dead_entry")}),
    "another buyer over there": (theirs("u1", user_id="thief"), {("across", "same_sale")}),
    "a cancelled order that keeps its unit": (
        theirs("u1", state=OrderState.CANCELLED),
        {("across", "unit_returned")},
    ),
    "a unit that came back from a live order": (
        theirs("u3", state=OrderState.PENDING_PAYMENT, cancelled_at=None),
        {("across", "unit_returned")},
    ),
    "an order that no sale decided": (a_foreign_order, {("across", "order_has_unit")}),
    "units that the shelf has back": (units_vanish, {("across", "units_allocated")}),
    "units that do not exist": (stock("stock", 5), {("redis", "units_conserved")}),
    "another epoch": (stock("epoch", 99), {("redis", "published")}),
    "somebody is left in the line": (a_place_is_left, {("redis", "line_empty")}),
    "a holder is forgotten": (a_holder_is_forgotten, {("redis", "holders_known")}),
    "a stranger is told that he bought": (a_stranger_is_told_one, {("redis", "views_right")}),
    "redis forgot all of it": (redis_forgets, {("redis", "published")}),
}


async def test_a_sale_of_which_everything_holds(world: SeckillOrderWorld) -> None:
    activity = await sold_in_part(world)
    assert await audit(world) == await audit(world, strict=False) == set()
    await world.verb("close", activity)
    await world.relay()
    assert await audit(world) == set()


@pytest.mark.drawn(6)
@on_one_database
@pytest.mark.parametrize("damage", TAMPERED)
async def test_each_thing_that_does_not_hold_is_found(
    world: SeckillOrderWorld, damage: str
) -> None:
    tamper, expected = TAMPERED[damage]
    activity = await sold_in_part(world)
    world.clock.advance(1)
    await tamper(world, activity)
    # What order_rpc alone says of its own tables is tested with order_rpc.
    assert {
        (where, check) for where, check in await audit(world) if where != "order_rpc"
    } == expected


async def an_order_over_there_is_gone(world: SeckillOrderWorld, activity: Activity) -> None:
    [row] = await world.orders.execute(select(ORDERS.c.order_id).where(ORDERS.c.user_id == "u1"))
    for table in (
        order_metadata.tables[name]
        for name in ("order_audit", "order_item", "payment_disposition", "reservation", "orders")
    ):
        await world.orders.execute(delete(table).where(table.c.order_id == row.order_id))


async def of_no_mode(world: SeckillOrderWorld, activity: Activity) -> None:
    await plant(
        world.db,
        f"UPDATE activity SET mode = 'NONSENSE' WHERE activity_id = '{activity.activity_id}'",
    )


# What of these is found elsewhere too is of no interest.
KIN: dict[str, tuple[Tamper, tuple[str, str]]] = {
    "more orders live than there are units": (
        row(total=1, sold=1),
        ("seckill_rpc", "never_oversold"),
    ),
    "a closed sale that keeps units": (
        row(state=ActivityState.CLOSED, open_slot=None),
        ("seckill_rpc", "units_of_closed"),
    ),
    "a sale of a mode that no code knows": (of_no_mode, ("seckill_rpc", "row_readable")),
    "an order of no sale": (
        order("u1", activity_id="ACTnone"),
        ("seckill_rpc", "order_of_activity"),
    ),
    "an order that is not there any more": (
        an_order_over_there_is_gone,
        ("across", "unit_has_order"),
    ),
    "an order that never came over": (
        an_order_over_there_is_gone,
        ("order_rpc", "statistics_right"),
    ),
}


@on_one_database
@pytest.mark.parametrize("damage", KIN)
async def test_each_of_their_kin_is_found(world: SeckillOrderWorld, damage: str) -> None:
    tamper, expected = KIN[damage]
    activity = await sold_in_part(world)
    world.clock.advance(1)
    await tamper(world, activity)
    assert expected in await audit(world)


@on_one_database
async def test_an_end_that_may_be_closed_days_later_is_no_fault(world: SeckillOrderWorld) -> None:
    activity = await sold_in_part(world)
    await world.change(
        activity,
        starts_at=world.clock.now() - timedelta(days=3),
        ends_at=world.clock.now() - timedelta(days=2),
    )
    tolerance = AuditTolerance(now=world.clock.now(), strict=False)
    found = [
        violation
        async for violation in violations(world.db, tolerance, close_after=timedelta(days=7))
    ]
    assert found == []


@on_one_database
async def test_an_end_that_nobody_saw_is_found(world: SeckillOrderWorld) -> None:
    activity = await sold_in_part(world)
    await world.change(activity, ends_at=world.clock.now() - timedelta(minutes=11))
    assert await audit(world) == {("seckill_rpc", "activity_late")}


async def test_what_is_under_way_is_no_fault_of_a_sale_that_goes_on(
    world: SeckillOrderWorld,
) -> None:
    activity = await world.opened(total=5)
    [order_id] = await world.buy(activity, "u1")
    await world.click(activity, "u2")
    assert await audit(world, strict=False) == set()
    await world.relay()
    await world.orders.cancel(
        await world.orders.orders.get(merchant_id="mall", order_id=order_id, caller=SECKILL_RPC)
    )
    assert await audit(world, strict=False) == set(), "the sale is still being told"
    await world.return_stock(activity, order_id)
    assert await audit(world, strict=False) == set(), "Redis is still being told"
    found = await audit(world)
    assert {
        ("redis", "line_empty"),
        ("redis", "units_conserved"),
        ("seckill_rpc", "outbox_late"),
        ("order_rpc", "outbox_late"),
    } <= found
    await world.verb("close", activity)
    assert (await world.load(activity)).state is ActivityState.CLOSING
    assert await audit(world, strict=False) == set()


@on_one_database
async def test_a_place_in_the_line_that_nobody_serves_is_late(world: SeckillOrderWorld) -> None:
    activity = await world.opened()
    await world.click(activity, "u1")
    await world.relay()
    world.clock.advance(11 * 60)
    assert await audit(world, strict=False) == {("redis", "line_late")}


async def test_an_order_of_a_sale_is_explained_with_its_click(world: SeckillOrderWorld) -> None:
    activity = await world.opened()
    [order_id] = await world.buy(activity, "u1")
    [told] = (await read_explanations(world.databases, order_id)).values()
    assert any(activity.activity_id in headline for headline in told.headlines)
    assert any("ORDER_CREATING" in then.text for then in told.pending)
    await world.relay()
    await world.return_stock(activity, order_id)
    [told] = (await read_explanations(world.databases, order_id)).values()
    assert any("gave its unit back" in line.text for line in told.timeline)
    assert any("clicked (a) for mug" in line.text for line in told.timeline)


async def test_a_sale_has_a_story_of_its_own(world: SeckillOrderWorld) -> None:
    activity = await sold_in_part(world)
    [told] = (await read_explanations(world.databases, activity.activity_id)).values()
    assert "2 of 3 units are sold" in told.headlines[0]
    assert any("2 LIVE, 1 RETURNED" in line.text for line in told.timeline)
    assert await read_explanations(world.databases, activity.activity_id, merchant="other") == {}

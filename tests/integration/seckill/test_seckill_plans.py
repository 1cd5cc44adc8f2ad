"""How MariaDB finds activities and their orders: through an index and in its order, whether there
are a hundred rows or a hundred thousand.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.dialects import mysql
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh import outbox
from mesh.call import Caller, Role
from seckill_rpc.domain.activity import ActivityState
from seckill_rpc.domain.order import UnitState
from seckill_rpc.store import activities, batches, orders
from seckill_rpc.store.activities import ActivityPage
from seckill_rpc.store.batches import Batch, NewOrder
from seckill_rpc.usecases.outbox_to_redis import give_back_message
from tests.builders.seckill import SeckillWorld, seckill_world

pytestmark = pytest.mark.parametrize("dialect", ["mariadb"], indirect=True)
ADMIN = Caller(role=Role.ADMIN, subject="root")


@pytest.fixture
async def world(database_url: str, redis_url: str) -> AsyncIterator[SeckillWorld]:
    """Enough rows for the optimizer to mean it."""
    async with seckill_world(database_url, redis_url) as world:
        for number in range(60):
            world.clock.advance(1)
            activity = world.plan(
                sku_id=f"sku-{number}",
                total=1000,
                limit=2,
                merchant_id=("mall", "shop")[number % 2],
            )
            await world.db.run(activities.insert, activity)
        world.opened.append(activity)
        for number in range(6):
            rows = [
                NewOrder(
                    f"O{number}-{row:03}",
                    f"u{row // 2:03}",
                    f"r{row}",
                    None if number == 5 else row % 2 + 1,
                )
                for row in range(500)
            ]
            await world.db.run(
                batches.insert_orders,
                rows,
                Batch(f"{activity.activity_id[:-2]}{number:02}", number, 1, world.clock.now()),
            )
        [order] = (await world.db.read(orders.find_orders, ["O1-007"])).values()
        messages = [
            give_back_message(order, activity, ids=world.ids, at=world.clock.now())
            for _ in range(500)
        ]
        await world.db.run(outbox.put, *messages)
        async with world.db.engine.begin() as connection:
            await connection.exec_driver_sql("UPDATE outbox SET state = 'DONE' WHERE id > 20")
            await connection.exec_driver_sql("ANALYZE TABLE activity, seckill_order, outbox")
        yield world


async def plans(world: SeckillWorld, work: Any, *args: Any, **kwargs: Any) -> list[Any]:
    """EXPLAIN of every SELECT and UPDATE that a piece of work sends."""
    seen: list[tuple[str, Any]] = []

    def note(
        _connection: Any, _cursor: Any, sql: str, parameters: Any, _context: Any, _many: bool
    ) -> None:
        if sql.lstrip().startswith(("SELECT", "UPDATE")):
            seen.append((sql, parameters))

    event.listen(world.db.engine.sync_engine, "before_cursor_execute", note)
    try:
        await world.db.run(work, *args, **kwargs)
    finally:
        event.remove(world.db.engine.sync_engine, "before_cursor_execute", note)

    async def explain(tx: AsyncConnection, sql: str, parameters: Any) -> list[Any]:
        return list((await tx.exec_driver_sql(f"EXPLAIN {sql}", parameters)).all())

    return [row for sql, parameters in seen for row in await world.db.run(explain, sql, parameters)]


async def explained(world: SeckillWorld, statement: Any) -> Any:
    async def run(tx: AsyncConnection) -> Any:
        sql = str(
            statement.compile(dialect=mysql.dialect(), compile_kwargs={"literal_binds": True})
        ).replace("%%", "%")
        return (await tx.exec_driver_sql(f"EXPLAIN {sql}")).one()

    return await world.db.run(run)


async def test_what_batches_and_returns_do_reads_its_own_rows_only(world: SeckillWorld) -> None:
    activity_id, now = (
        (await world.db.read(orders.find_orders, ["O1-007"]))["O1-007"].activity_id,
        world.clock.now(),
    )
    for work, arguments, most in (
        (activities.get, {"activity_id": activity_id}, 1),
        (activities.sell, {"activity_id": activity_id, "epoch": 1, "units": 1}, 1),
        (activities.open_of, {"merchant_id": "mall", "sku_id": "sku-2"}, 1),
        (activities.newest_of, {"merchant_id": "mall", "sku_id": "sku-2"}, 1),
        (activities.in_states, (), 1),
        (orders.find_order, ("O1-007",), 1),
        (orders.find_orders, (["O1-007", "O2-100", "none"],), 3),
        (orders.order_of_user, {"activity_id": activity_id, "user_id": "u003"}, 2),
        (
            orders.order_of_request,
            {"activity_id": activity_id, "user_id": "u003", "request_id": "a"},
            1,
        ),
        (orders.lock_live_orders, {"activity_id": activity_id, "user_ids": ["u003", "u004"]}, 4),
        (orders.leave_live, {"order_id": "O1-009", "to": UnitState.RETURNED, "at": now}, 1),
        (orders.mark_ready, {"order_ids": ["O1-007", "O2-100"], "at": now}, 2),
        (batches.turn_into_refusals, (["O1-007", "O2-100"],), 2),
        # counts entries that wait to be purged
        (orders.count_give_backs, {"activity_id": world.opened[0].activity_id}, 500),
    ):
        if work is activities.in_states:
            found = await plans(world, work, ActivityState.CLOSING)
        else:
            found = await (
                plans(world, work, **arguments)
                if isinstance(arguments, dict)
                else plans(world, work, *arguments)
            )
        for row in found:
            assert (
                row.key is not None or "const table" in (row.Extra or "") or row.type == "const"
            ), (work.__name__, row)
            assert int(row.rows or 0) <= most, (work.__name__, row)
            assert work is not orders.count_give_backs or row.ref == "const,const", row


async def test_a_rebuild_reads_live_orders_in_the_order_of_the_index(world: SeckillWorld) -> None:
    activity_id = (await world.db.read(orders.find_orders, ["O1-007"]))["O1-007"].activity_id
    for after in (None, ("u100", 1)):
        row = await explained(
            world, orders.holders_statement(activity_id=activity_id, after=after, limit=50)
        )
        assert row.key == "uq_seckill_order_slot", row
        assert "filesort" not in (row.Extra or ""), row


async def test_a_page_of_activities_is_read_in_the_order_of_its_index(world: SeckillWorld) -> None:
    first = await world.db.read(
        activities.list_page,
        ActivityPage(merchant_id="mall", state=None, after=None, limit=10),
        visible_to=ADMIN,
    )
    for state, key in (
        (None, "ix_activity_merchant"),
        (ActivityState.DRAFT, "ix_activity_merchant_state"),
    ):
        for after in (None, (first[-1].created_at, first[-1].activity_id)):
            row = await explained(
                world,
                activities.page_statement(
                    ActivityPage(merchant_id="mall", state=state, after=after, limit=10),
                    visible_to=ADMIN,
                ),
            )
            assert row.key == key, row
            assert "filesort" not in (row.Extra or ""), row


async def test_pages_of_activities_are_complete_and_each_merchant_sees_its_own(
    world: SeckillWorld,
) -> None:
    page = ActivityPage(merchant_id="mall", state=None, after=None, limit=7)
    seen: list[str] = []
    while found := await world.db.read(activities.list_page, page, visible_to=ADMIN):
        seen += [each.sku_id for each in found]
        page = ActivityPage(
            merchant_id="mall",
            state=None,
            after=(found[-1].created_at, found[-1].activity_id),
            limit=7,
        )
    assert seen == [f"sku-{number}" for number in range(58, -1, -2)]
    shop = Caller(role=Role.MERCHANT, subject="clerk", merchant_id="shop")
    assert (
        await world.db.read(
            activities.list_page,
            ActivityPage(merchant_id="mall", state=None, after=None, limit=7),
            visible_to=shop,
        )
        == []
    )

"""One row that cannot be read is missing from its list, and people are told; the list goes on
behind it, and the sales beside it are served.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from mesh import bad_rows
from mesh.bad_rows import PAUSE_MAX_SECONDS, readable_rows
from mesh.money import RequestedAmount
from order_rpc.tables import STATISTIC_ENTRY
from order_rpc.usecases.catalog import ListProducts
from payment_rpc.store import wallets
from payment_rpc.usecases.queries import ListPayments
from payment_rpc.usecases.refund_start import CreateRefund
from seckill_rpc.domain.activity import Activity, ActivityState, AdmissionMode
from seckill_rpc.redis.keys import keys_of
from tests.builders.order import ADMIN, OrderApp
from tests.builders.order_steps import pages, query
from tests.builders.payment import PaymentWorld
from tests.builders.payment_steps import top_up
from tests.builders.seckill_order import SeckillOrderWorld, seckill_order_world
from tests.support.bad_rows import CLERK, left_out
from tests.support.databases import plant


@pytest.fixture(autouse=True)
def untold() -> None:
    bad_rows._told.clear()


@pytest.fixture
async def sales(
    database_url_factory: Callable[[], str], redis_url: str
) -> AsyncIterator[SeckillOrderWorld]:
    async with seckill_order_world(
        database_url_factory(), database_url_factory(), redis_url
    ) as world:
        yield world


def told(logs: Any) -> list[tuple[str, str, bool]]:
    """What people are told: table, row, whether it is an alert."""
    return [
        (line["table"], line["row"], line["alert"])
        for line in logs
        if line["event"] == "row_unreadable"
    ]


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM order_item WHERE order_id = '{}'",
        "UPDATE orders SET currency = 'ZZZ' WHERE order_id = '{}'",
        "UPDATE orders SET address = '[' WHERE order_id = '{}'",
    ],
)
async def test_a_list_of_orders_goes_on_behind_one_that_cannot_be_read(
    app: OrderApp, damage: str
) -> None:
    made = []
    for _ in range(6):
        made.append((await app.order()).order_id)
        app.clock.advance(1)
    newest = made[::-1]
    await plant(app.db, damage.format(newest[0]), damage.format(newest[2]))
    for size in range(1, 6):
        found = await pages(app, query(page_size=size), ADMIN)
        assert [order_id for page in found for order_id in page] == [newest[1], *newest[3:]]
        assert all(len(page) == size for page in found[:-1])


async def test_the_catalogue_goes_on_behind_a_product_that_cannot_be_read(app: OrderApp) -> None:
    for sku_id in ("cup", "pen"):
        await app.product(sku_id, "1.00")
    await plant(app.db, "UPDATE product SET currency = 'ZZZ' WHERE sku_id = 'mug'")
    with capture_logs() as logs:
        shown, token = await app.catalog.list_products(
            ListProducts(merchant_id="mall", page_size=1, page_token="", with_hidden=True)
        )
        rest, _ = await app.catalog.list_products(
            ListProducts(merchant_id="mall", page_size=5, page_token=token, with_hidden=True)
        )
    assert [product.sku_id for product in (*shown, *rest)] == ["cup", "pen"]
    assert told(logs) == [("product", "mug", True)]


async def test_lists_of_payments_refunds_and_entries_go_on_behind_one_that_cannot_be_read(
    world: PaymentWorld,
) -> None:
    order = await world.order()
    payment = await world.charge(order)
    refunds = [
        (
            await world.app.refunds.create_refund(
                CreateRefund(
                    payment_id=payment.payment_id,
                    amount=RequestedAmount("1.00"),
                    reason="",
                    request_id="",
                    key="",
                ),
                CLERK,
            )
        ).refund_id
        for _ in range(3)
    ]
    await plant(world.db, f"UPDATE refund SET currency = 'ZZZ' WHERE refund_id = '{refunds[1]}'")
    shown = await world.app.refunds.list_refunds(
        payment_id=payment.payment_id,
        merchant_id="",
        order_id="",
        before=None,
        limit=2,
        caller=ADMIN,
    )
    assert [refund.refund_id for refund in shown] == [refunds[2], refunds[0]]
    await plant(
        world.db,
        f"UPDATE payment SET outcome = 'NONSENSE' WHERE payment_id = '{payment.payment_id}'",
    )
    query = ListPayments(merchant_id="mall", order=order.order_id)
    assert await world.app.payment_queries.list_payments(query, ADMIN) == ((), "")
    for _ in range(3):
        await top_up(world, "5.00")
    await plant(world.db, "UPDATE wallet_entry SET kind = 'NONSENSE' WHERE seq = 2")
    entries = await world.db.read(
        wallets.list_entries, merchant_id="mall", user_id="u1", currency="CNY", before=None, limit=2
    )
    assert [entry.seq for entry in entries] == [3, 1]


async def test_a_figure_that_cannot_be_read_is_left_out_of_its_day(app: OrderApp) -> None:
    await app.order()
    await app.order()
    bad = (await app.rows(STATISTIC_ENTRY))[0]["id"]
    await plant(app.db, f"UPDATE statistic_entry SET currency = 'ZZZ' WHERE id = {bad}")
    day = app.clock.now().date().isoformat()
    with capture_logs() as logs:
        [shown] = await app.statistics.list_order_statistics(
            merchant_id="mall", first=day, last=day, time_zone="", currency=""
        )
    assert shown.currency == "CNY"
    assert [(table, alert) for table, _, alert in told(logs)] == [("statistic", True)]


async def two(sales: SeckillOrderWorld, **choices: Any) -> tuple[Activity, Activity]:
    """Two activities that are open."""
    await sales.orders.product("pen", "10.00")
    return await sales.opened(total=3, **choices), await sales.opened(
        total=3, sku_id="pen", **choices
    )


@pytest.mark.parametrize("damage", ["currency = 'ZZZ'", "mode = 'NONSENSE'"])
async def test_a_sale_that_cannot_be_read_stops_no_other(
    sales: SeckillOrderWorld, damage: str
) -> None:
    bad, good = await two(sales)
    await plant(sales.db, f"UPDATE activity SET {damage} WHERE activity_id = '{bad.activity_id}'")
    sales.restart()
    with capture_logs() as logs:
        await sales.app.registry.refresh()
        await sales.app.reconciler.run_once()
    assert [each.activity_id for each in sales.app.registry.running()] == [good.activity_id]
    assert told(logs) == [("activity", bad.activity_id, True)]
    assert len(await sales.buy(good, "u1")) == 1


async def test_a_sale_that_cannot_be_looked_at_keeps_no_other_from_being_repaired(
    sales: SeckillOrderWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = await two(sales)
    await sales.redis.delete(keys_of(good).meta)
    look = sales.app.reconciler._published

    async def broken(activity: Any) -> Any:
        if activity.activity_id == bad.activity_id:
            raise ZeroDivisionError
        return await look(activity)

    monkeypatch.setattr(sales.app.reconciler, "_published", broken)
    with capture_logs() as logs:
        assert await sales.keep(rounds=3) == 1
    assert left_out(logs) == [("keep", bad.activity_id, True)]
    assert await sales.redis.exists(keys_of(good).meta)


async def test_a_draw_that_breaks_keeps_no_other_from_being_held(
    sales: SeckillOrderWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = await two(sales, mode=AdmissionMode.DRAW)
    for each in (bad, good):
        await sales.change(each, state=ActivityState.CLOSING)
    drawing, drawn = sales.app.draws, []

    async def draw(activity: Any) -> Any:
        if activity.activity_id == bad.activity_id:
            raise ZeroDivisionError
        drawn.append(activity.activity_id)
        return activity

    monkeypatch.setattr(drawing, "draw", draw)
    with capture_logs() as logs:
        await drawing.run_once()
    assert drawn == [good.activity_id]
    assert [line["activity_id"] for line in logs if line["event"] == "seckill_draw_broke"] == [
        bad.activity_id
    ]


def test_people_are_told_of_a_row_every_ten_minutes_and_what_is_remembered_has_an_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with capture_logs() as logs:
        for _ in range(3):
            assert readable_rows([1, 0, 2], lambda row: 2 // row, of="t", key=str) == [2, 1]
        now[0] += PAUSE_MAX_SECONDS
        readable_rows([0], lambda row: 2 // row, of="t", key=str)
        readable_rows(range(5000), lambda row: row // 0, of="t", key=lambda row: f"row {row}")
    assert [line for line in told(logs) if line[1] == "0"] == [("t", "0", True)] * 2
    assert len(bad_rows._told) == bad_rows.TOLD_MAX

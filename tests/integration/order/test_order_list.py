"""ListOrders on real databases: newest first, every order once, only the caller's, and no page
costs a sort.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from itertools import product
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.dialects import mysql

from mesh import relay
from mesh.call import NOBODY, Caller, Role
from mesh.errors import PageTokenInvalid, PermissionDenied
from mesh.paging import PageTokens
from order_rpc.domain.order import Order, OrderState
from order_rpc.store import catalog, order_pages, orders, statistics
from order_rpc.store.order_pages import OrderPage
from order_rpc.tables import EXTERNAL_ORDER, ORDERS, PRODUCT, STOCK, STOCK_MOVEMENT
from order_rpc.usecases.orders import ListOrders
from tests.builders.order import ADMIN, PAGE_TOKEN_SECRET, OrderApp, buyer, merchant, order_app
from tests.builders.order_steps import pages, query
from tests.support.fakes import EPOCH

S = OrderState


@pytest.fixture
async def app(database_url: str) -> AsyncIterator[OrderApp]:
    async with order_app(database_url) as app:
        await app.product("mug", "10.00")
        await app.product("pen", "1.00")
        yield app


async def some_orders(app: OrderApp) -> list[Order]:
    """Seven orders, oldest first: three share a millisecond; u1 has five, u2 two; one of u1 is
    PAID.
    """
    made = []
    for user_id, pause in (
        ("u1", 1),
        ("u2", 1),
        ("u1", 0),
        ("u1", 0),
        ("u2", 1),
        ("u1", 1),
        ("u1", 1),
    ):
        made.append(await app.order(("pen", 2), ("mug", 1), caller=buyer(user_id)))
        app.clock.advance(pause)
    await app.force_state(made[3], S.PAID, paid_by="PAY1")
    return made


async def test_pages_show_every_order_once_newest_first(app: OrderApp) -> None:
    ids = [order.order_id for order in reversed(await some_orders(app))]
    for size in range(1, 9):
        found = await pages(app, query(page_size=size), ADMIN)
        assert [order_id for page in found for order_id in page] == ids
        assert all(len(page) == size for page in found[:-1])


async def test_an_order_in_a_list_is_whole(app: OrderApp) -> None:
    made = await some_orders(app)
    shown, _ = await app.orders.list(query(page_size=1), ADMIN)
    assert shown == (made[-1],)
    assert [line.sku_id for line in shown[0].lines] == ["mug", "pen"]


async def test_filters_choose_by_buyer_and_state(app: OrderApp) -> None:
    made = await some_orders(app)
    ids = [order.order_id for order in made]
    assert await pages(app, query(user_id="u2"), merchant()) == [[ids[4], ids[1]]]
    assert await pages(app, query(state=S.PAID), merchant()) == [[ids[3]]]
    assert await pages(
        app, query(user_id="u1", state=S.PENDING_PAYMENT, page_size=3), merchant()
    ) == [[ids[6], ids[5], ids[2]], [ids[0]]]
    assert await pages(app, query(user_id="u2", state=S.PAID), merchant()) == [[]]


async def test_filters_choose_by_time_from_the_first_moment_to_before_the_last(
    app: OrderApp,
) -> None:
    # created at seconds 0, 1, 2, 2, 2, 3, 4
    ids = [order.order_id for order in await some_orders(app)]

    def at(seconds: int) -> datetime:
        return EPOCH + timedelta(seconds=seconds)

    assert await pages(app, query(created_from=at(2), page_size=2), ADMIN) == [
        [ids[6], ids[5]],
        [ids[4], ids[3]],
        [ids[2]],
    ]
    assert await pages(app, query(created_before=at(2)), ADMIN) == [[ids[1], ids[0]]]
    assert await pages(
        app, query(created_from=at(2), created_before=at(3), user_id="u1"), ADMIN
    ) == [[ids[3], ids[2]]]
    assert await pages(
        app, query(created_from=at(2), created_before=at(3), state=S.PAID), ADMIN
    ) == [[ids[3]]]
    _, token = await app.orders.list(query(created_from=at(2), page_size=1), ADMIN)
    with pytest.raises(PageTokenInvalid):
        await app.orders.list(query(created_from=at(1), page_size=1, page_token=token), ADMIN)


async def test_new_orders_do_not_move_the_pages_that_follow(app: OrderApp) -> None:
    ids = [order.order_id for order in reversed(await some_orders(app))]
    _, token = await app.orders.list(query(page_size=3), ADMIN)
    app.clock.advance(60)
    await app.order()
    second, _ = await app.orders.list(query(page_size=3, page_token=token), ADMIN)
    assert [order.order_id for order in second] == ids[3:6]


async def test_a_page_has_twenty_orders_unless_asked_and_never_more_than_a_hundred(
    app: OrderApp,
) -> None:
    for _ in range(22):
        await app.order()
    assert [len(page) for page in await pages(app, query(), ADMIN)] == [20, 2]
    assert [len(page) for page in await pages(app, query(page_size=10_000), ADMIN)] == [22]


@pytest.mark.parametrize(
    ("caller", "wanted", "count"),
    [
        (buyer("u1"), query(user_id="u1"), 5),
        # nobody but the store stands behind an empty filter
        (buyer("u1"), query(), 5),
        (buyer("u1"), query(user_id="u2"), 0),
        (buyer("u1", "tea_house"), query(user_id="u1"), 0),
        (merchant(), query(), 7),
        (merchant("tea_house"), query(), 0),
        (ADMIN, query(), 7),
    ],
)
async def test_a_list_shows_only_what_is_the_callers(
    app: OrderApp, caller: Caller, wanted: ListOrders, count: int
) -> None:
    await some_orders(app)
    assert sum(map(len, await pages(app, wanted, caller))) == count


async def test_nobody_sees_no_list(app: OrderApp) -> None:
    with pytest.raises(PermissionDenied):
        await app.orders.list(query(), NOBODY)


async def test_a_page_token_is_good_for_its_own_list_only(app: OrderApp) -> None:
    await some_orders(app)
    _, token = await app.orders.list(query(user_id="u1", page_size=1), ADMIN)
    selection = {
        "merchant_id": "mall",
        "user_id": "u1",
        "state": "",
        "created_from": "",
        "created_before": "",
    }
    forged = PageTokens(b"another secret of thirty-two bytes").encode(
        list_name="ListOrders", filter=selection, key=[0, "ORD"]
    )
    other_list = PageTokens(PAGE_TOKEN_SECRET).encode(
        list_name="ListPayments", filter=selection, key=[0, "ORD"]
    )
    other_key = PageTokens(PAGE_TOKEN_SECRET).encode(
        list_name="ListOrders", filter=selection, key=["0", "ORD"]
    )
    for wanted in (
        query(user_id="u2", page_token=token),
        query(page_token=token),
        query(user_id="u1", state=S.PAID, page_token=token),
        query("tea_house", user_id="u1", page_token=token),
        *(
            query(user_id="u1", page_token=bad)
            for bad in (
                token[:-1] + ("A" if token[-1] != "A" else "B"),
                forged,
                other_list,
                other_key,
                "1",
                "..",
                "' OR 1=1",
            )
        ),
    ):
        with pytest.raises(PageTokenInvalid):
            await app.orders.list(wanted, ADMIN)
    assert await app.orders.list(query(user_id="u1", page_token=token), ADMIN)


# What MariaDB does for each combination of filters, on enough rows that it has a choice.

ROWS = 3000
POSITION = (EPOCH + timedelta(seconds=500), f"ORD{1500:026d}")


@pytest.fixture
async def full(mariadb_url_factory: Callable[[], str]) -> AsyncIterator[OrderApp]:
    async with order_app(mariadb_url_factory()) as app:
        states = [S.PENDING_PAYMENT, S.CANCELLING, S.CANCELLED]
        await app.insert(
            ORDERS,
            [
                {
                    "merchant_id": ("mall", "tea_house")[number % 2],
                    "order_id": f"ORD{number:026d}",
                    "user_id": f"u{number % 31}",
                    "state": states[number % 7 % 3],
                    "amount_minor": 1,
                    "shipping_minor": 0,
                    "discount_minor": 0,
                    "captured_minor": 0,
                    "refunded_minor": 0,
                    "currency": "CNY",
                    "refund_status": "NONE",
                    "carrier": "",
                    "tracking_number": "",
                    "cancel_reason": "",
                    "paid_payment_id": "",
                    "version": 1,
                    "created_at": EPOCH + timedelta(seconds=number // 3),
                    "expires_at": EPOCH,
                    "paid_at": None,
                    "updated_at": EPOCH,
                }
                for number in range(ROWS)
            ],
        )
        await app.insert(
            PRODUCT,
            [
                {
                    "merchant_id": ("mall", "tea_house")[number % 2],
                    "sku_id": f"sku-{number}",
                    "name": "A mug",
                    "price_minor": 1,
                    "currency": "CNY",
                    "first_available": 1,
                    "on_sale": True,
                    "created_at": EPOCH,
                    "updated_at": EPOCH,
                }
                for number in range(ROWS)
            ],
        )
        await app.insert(
            STOCK,
            [
                {
                    "merchant_id": ("mall", "tea_house")[number % 2],
                    "sku_id": f"sku-{number}",
                    "available": 1,
                    "reserved": 0,
                    "sold": 0,
                    "allocated": 0,
                }
                for number in range(ROWS)
            ],
        )
        await app.insert(
            STOCK_MOVEMENT,
            [
                {
                    "merchant_id": "mall",
                    "sku_id": f"sku-{number % 50}",
                    "kind": "ADJUST",
                    "quantity": 1,
                    "available_after": 1,
                    "reason": "",
                    "operator": "",
                    "reference": "",
                    "trace_id": "",
                    "created_at": EPOCH,
                }
                for number in range(ROWS)
            ],
        )
        async with app.db.engine.begin() as connection:
            await connection.execute(text("ANALYZE TABLE orders, product, stock, stock_movement"))
        yield app


async def explain(app: OrderApp, statement: Any) -> list[dict[str, Any]]:
    compiled = statement.compile(dialect=mysql.dialect(), compile_kwargs={"literal_binds": True})
    async with app.db.engine.begin() as connection:
        return [
            dict(row._mapping)
            for row in await connection.execute(
                text(f"EXPLAIN {str(compiled).replace(':', chr(92) + ':')}")
            )
        ]


COMBINATIONS = list(
    product(("", "u7"), (None, S.CANCELLED), (None, POSITION), (ADMIN, merchant(), buyer("u7")))
)


async def test_every_page_of_orders_is_read_from_an_index_in_its_order(full: OrderApp) -> None:
    for user_id, state, after, caller in COMBINATIONS:
        page = OrderPage(merchant_id="mall", user_id=user_id, state=state, after=after, limit=21)
        [step] = await explain(full, order_pages.page_statement(page, visible_to=caller))
        assert "filesort" not in step["Extra"], (page, step)
        by_user = "_user" if user_id or caller.role is Role.USER else ""
        by_state = "_state" if state else ""
        assert step["key"] == "ix_orders" + (by_user + by_state or "_merchant"), (page, step)
        # A range begins at the position; a ref would read everything that is newer.
        assert step["type"] == ("ref" if after is None else "range"), (page, step)


async def test_every_page_of_a_period_is_read_from_an_index_in_its_order(full: OrderApp) -> None:
    for user_id, state, after, caller in COMBINATIONS:
        page = OrderPage(
            merchant_id="mall",
            user_id=user_id,
            state=state,
            after=after,
            limit=21,
            created_from=EPOCH + timedelta(seconds=100),
            created_before=EPOCH + timedelta(seconds=600),
        )
        [step] = await explain(full, order_pages.page_statement(page, visible_to=caller))
        assert "filesort" not in step["Extra"], (page, step)
        assert step["type"] == "range", (page, step)


async def test_every_search_for_a_number_or_a_customer_is_read_from_its_index(
    full: OrderApp,
) -> None:
    await full.insert(
        EXTERNAL_ORDER,
        [
            {
                "merchant_id": ("mall", "tea_house")[number % 2],
                "order_id": f"ORD{number:026d}",
                "order_no": f"A-{number}",
                "customer_digest": f"{number % 9:064d}",
                "customer": "{}",
                "notify_url": "",
                "created_at": EPOCH + timedelta(seconds=number // 3),
                "erased_at": None,
            }
            for number in range(ROWS)
        ],
    )
    async with full.db.engine.begin() as connection:
        await connection.execute(text("ANALYZE TABLE external_order"))
    wanted = [
        ({"order_no": "A-8"}, "uq_external_order_order_no"),
        ({"customer_digest": f"{4:064d}"}, "ix_external_order_customer"),
        ({"customer_digest": f"{4:064d}", "state": S.CANCELLED}, "ix_external_order_customer"),
    ]
    for (search, index), after in product(wanted, (None, POSITION)):
        values: dict[str, Any] = {"state": None, **search}
        page = OrderPage(merchant_id="mall", user_id="", after=after, limit=21, **values)
        external, order = await explain(
            full, order_pages.page_statement(page, visible_to=merchant())
        )
        assert "filesort" not in external["Extra"], (page, external)
        assert (external["key"], order["key"], order["type"]) == (index, "PRIMARY", "eq_ref") or (
            "const" in (external["type"], order["type"])
        ), (page, external, order)


async def test_what_workers_claim_is_read_from_an_index_in_its_order(full: OrderApp) -> None:
    [expired] = await explain(full, orders.expired_statement(EPOCH + timedelta(seconds=5), 100))
    assert (expired["key"], "filesort" in expired["Extra"]) == ("ix_orders_expiry", False), expired
    [entries] = await explain(full, statistics.fold_statement())
    assert (entries["key"], "filesort" in entries["Extra"]) == ("PRIMARY", False), entries
    for statement in (
        relay.claim_statement("payment_rpc", EPOCH),
        relay.next_due_statement("payment_rpc"),
    ):
        [sent] = await explain(full, statement)
        assert (sent["key"], "filesort" in sent["Extra"]) == ("ix_outbox_claim", False), sent
    [next_one] = await explain(full, orders.next_expiry_statement())
    assert (next_one["key"], "filesort" in next_one["Extra"]) == ("ix_orders_expiry", False), (
        next_one
    )


async def test_histories_and_movements_are_read_from_an_index_in_their_order(
    full: OrderApp,
) -> None:
    for before in (None, 1500):
        [step] = await explain(
            full,
            catalog.movements_statement(
                merchant_id="mall", sku_id="sku-0", before=before, limit=21
            ),
        )
        assert (step["key"], "filesort" in step["Extra"]) == ("ix_stock_movement_sku_id", False), (
            step
        )


async def test_every_page_of_products_is_read_from_the_key_in_its_order(full: OrderApp) -> None:
    for after_sku_id in ("", "sku-2000"):
        steps = await explain(
            full, catalog.page_statement(merchant_id="mall", after_sku_id=after_sku_id, limit=21)
        )
        assert all(
            "filesort" not in step["Extra"] and "temporary" not in step["Extra"] for step in steps
        ), steps
        assert [step["key"] for step in steps] == ["PRIMARY", "PRIMARY"]

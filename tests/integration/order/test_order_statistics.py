"""Statistics on real databases: exact at every commit, in any time zone, and equal to a recount
after whatever happened.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import delete, update

from mesh.errors import InvalidArgument
from mesh.money import Money
from order_rpc.domain.errors import OutOfStock
from order_rpc.domain.order import Order, OrderState
from order_rpc.domain.policy import MerchantPolicy
from order_rpc.domain.statistics import DayStatistics, by_day, quarter_of, zone
from order_rpc.tables import STATISTIC, STATISTIC_ENTRY
from tests.builders.order import PAYMENT_WINDOW, OrderApp, buyer, merchant, order_app, snapshot
from tests.builders.order_steps import rebuild

S = OrderState


@pytest.fixture
async def app(database_url: str) -> AsyncIterator[OrderApp]:
    async with order_app(
        database_url, policies={"mall": MerchantPolicy(revives_if_stock=True)}
    ) as app:
        await app.product("mug", "10.00")
        await app.product("yen", "100", currency="JPY")
        yield app


async def day(
    app: OrderApp, date: str = "2026-11-20", *, time_zone: str = "", currency: str = "CNY"
) -> DayStatistics | None:
    summary = await app.statistics.get_daily_summary(
        merchant_id="mall", day=date, time_zone=time_zone
    )
    return next((each for each in summary.days if each.currency == currency), None)


async def test_a_day_counts_what_happened_in_it(app: OrderApp) -> None:
    paid, left, refunded = (
        await app.order(("mug", 2)),
        await app.order(),
        await app.order(("mug", 3), caller=buyer("u2")),
    )
    await app.order(("yen", 1))
    await app.tell(paid, snapshot("PAY1", captured="20.00"))
    await app.cancel(left)
    await app.tell(refunded, snapshot("PAY2", captured="30.00"))
    refund = await app.refund(refunded, ("mug", 1))
    await app.tell_refund(
        refunded, (refund, "SUCCESS"), version=5, refunded="10.00", payment_id="PAY2"
    )
    found = await day(app)
    assert found is not None
    assert (
        found.created[0],
        found.created[1].format(),
        found.paid[0],
        found.paid[1].format(),
        found.average_paid.format(),
    ) == (3, "60.00", 2, "50.00", "25.00")
    assert (
        found.cancelled,
        found.refunded[0],
        found.refunded[1].format(),
        found.converted,
        found.conversion,
    ) == (1, 1, "10.00", 2, "0.6667")
    yen = await day(app, currency="JPY")
    assert yen is not None
    assert (yen.created[1].format(), yen.paid, yen.average_paid.format(), yen.conversion) == (
        "100",
        (0, Money(0, "JPY")),
        "0",
        "0.0000",
    )


async def test_a_refund_that_failed_counts_nothing_and_brings_nothing_back(app: OrderApp) -> None:
    order = await app.paid_order(("mug", 2))
    refund = await app.refund(order, ("mug", 1))
    await app.tell_refund(order, (refund, "FAILED"), version=5, refunded="0")
    found = await day(app)
    assert found is not None
    assert (found.refunded, await app.stock()) == ((0, Money(0, "CNY")), (98, 0, 2))
    assert await rebuild(app) == 0


async def test_a_refund_of_another_payment_counts_nothing(app: OrderApp) -> None:
    order = await app.paid_order()
    told = [("RF7", "auto:PAY2", "SUCCESS", "10.00", "")]
    await app.tell(
        order,
        snapshot(
            "PAY2",
            version=5,
            captured="10.00",
            refunded="10.00",
            state="LATE_SUCCESS",
            refunds=told,
        ),
    )
    found = await day(app)
    assert found is not None
    assert found.refunded == (0, Money(0, "CNY"))
    assert await rebuild(app) == 0


async def test_a_tenant_whose_sums_outgrow_64_bits_stops_nobodys_figures(app: OrderApp) -> None:
    most = 2**63 - 1
    await app.product("gold", "999999999999999", currency="JPY", merchant_id="evil")
    await app.order(("gold", 1), caller=buyer("u9", "evil"))
    await app.statistics.fold_once()
    await app.execute(
        update(STATISTIC).where(STATISTIC.c.merchant_id == "evil").values(amount_minor=most)
    )
    await app.order(("gold", 1), caller=buyer("u9", "evil"))
    await app.order()
    while await app.statistics.fold_once():
        pass
    assert await app.rows(STATISTIC_ENTRY) == []
    ours = await day(app)
    assert ours is not None
    assert (ours.created[0], ours.created[1].format()) == (1, "10.00")
    summary = await app.statistics.get_daily_summary(
        merchant_id="evil", day="2026-11-20", time_zone=""
    )
    [theirs] = summary.days
    assert theirs.created[0] == 2
    if app.db.engine.dialect.name != "sqlite":  # which goes on in floating point
        assert theirs.created[1].minor == most + 999999999999999
        await rebuild(app)  # takes it down again, by more than 64 bits hold
        [theirs] = (
            await app.statistics.get_daily_summary(
                merchant_id="evil", day="2026-11-20", time_zone=""
            )
        ).days
        assert theirs.created[1].minor == 2 * 999999999999999


async def test_folding_changes_no_figure(app: OrderApp) -> None:
    for _ in range(5):
        await app.paid_order()
    before = await day(app)
    assert await app.statistics.fold_once() > 0
    assert await app.rows(STATISTIC_ENTRY) == []
    assert await day(app) == before
    await app.order()
    after = await day(app)
    assert before is not None
    assert after is not None
    assert after.created[0] == before.created[0] + 1
    assert await app.statistics.fold_once() == 1
    assert await app.statistics.fold_once() == 0
    assert await day(app) == after


async def test_folders_at_once_count_everything_once(app: OrderApp) -> None:
    for _ in range(30):
        await app.order()
    before = await day(app)
    await app.at_once(
        *(app.statistics.fold_once() for _ in range(8)), *(app.order() for _ in range(10))
    )
    while await app.statistics.fold_once():
        pass
    after = await day(app)
    assert before is not None
    assert after is not None
    assert after.created[0] == before.created[0] + 10
    assert await rebuild(app) == 0


@pytest.mark.parametrize(
    ("moment", "time_zone", "date"),
    [
        ("2026-11-20T15:59:59", "Asia/Shanghai", "2026-11-20"),
        ("2026-11-20T16:00:00", "Asia/Shanghai", "2026-11-21"),
        ("2026-11-20T18:14:59", "Asia/Kathmandu", "2026-11-20"),
        ("2026-11-20T18:15:00", "Asia/Kathmandu", "2026-11-21"),
        ("2026-11-20T04:59:59", "America/New_York", "2026-11-19"),
        ("2026-11-20T05:00:00", "America/New_York", "2026-11-20"),
        ("2026-11-20T23:59:59", "", "2026-11-20"),
        ("2026-11-01T05:30:00", "America/New_York", "2026-11-01"),  # the day with 25 hours
        ("2026-11-02T04:59:00", "America/New_York", "2026-11-01"),
    ],
)
async def test_a_day_is_a_day_of_its_time_zone(
    app: OrderApp, moment: str, time_zone: str, date: str
) -> None:
    app.clock.set(datetime.fromisoformat(moment).replace(tzinfo=UTC))
    await app.order()
    found = await day(app, date, time_zone=time_zone)
    assert found is not None
    assert found.created[0] == 1
    for other in (-1, 1):
        beside = (datetime.fromisoformat(date) + timedelta(days=other)).date().isoformat()
        assert await day(app, beside, time_zone=time_zone) is None


async def test_today_is_the_day_of_the_clock_in_the_time_zone(app: OrderApp) -> None:
    app.clock.set(datetime(2026, 11, 20, 20, 0, tzinfo=UTC))
    summary = await app.statistics.get_daily_summary(
        merchant_id="mall", day="", time_zone="Asia/Shanghai"
    )
    assert (summary.day.isoformat(), summary.time_zone, summary.days) == (
        "2026-11-21",
        "Asia/Shanghai",
        (),
    )


async def test_a_period_shows_its_days_of_one_shop_and_one_currency(app: OrderApp) -> None:
    await app.product("tea", "1.00", merchant_id="tea_house")
    for _ in range(3):
        await app.order()
        await app.order(("yen", 1))
        await app.order(("tea", 1), caller=buyer("u1", "tea_house"))
        app.clock.advance(24 * 3600)
    days = await app.statistics.list_order_statistics(
        merchant_id="mall", first="2026-11-21", last="2026-11-30", time_zone="", currency=""
    )
    assert [(each.day.isoformat(), each.currency) for each in days] == [
        ("2026-11-21", "CNY"),
        ("2026-11-21", "JPY"),
        ("2026-11-22", "CNY"),
        ("2026-11-22", "JPY"),
    ]
    days = await app.statistics.list_order_statistics(
        merchant_id="mall", first="2026-11-20", last="2026-11-22", time_zone="", currency="JPY"
    )
    assert [each.created[1].format() for each in days] == ["100", "100", "100"]


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ({"first": "2026-11-31"}, "from_date"),
        ({"last": "2026-13-01"}, "to_date"),
        ({"last": "2026-11-01"}, "to_date"),
        ({"first": "2025-11-01"}, "to_date"),
        ({"time_zone": "Mars/Olympus"}, "time_zone"),
        ({"time_zone": "../etc/passwd"}, "time_zone"),
        ({"first": "0001-01-01", "last": "0001-01-02"}, "from_date"),
    ],
)
async def test_what_is_no_period_is_refused_with_its_field(
    app: OrderApp, wanted: dict[str, str], field: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await app.statistics.list_order_statistics(
            **{
                "merchant_id": "mall",
                "first": "2026-11-20",
                "last": "2026-11-21",
                "time_zone": "",
                "currency": "",
                **wanted,
            }
        )
    assert list(refused.value.fields) == [field]


async def test_a_recount_finds_and_repairs_what_is_wrong_while_orders_go_on(app: OrderApp) -> None:
    for _ in range(4):
        await app.paid_order()
    right = await day(app)
    await app.statistics.fold_once()
    assert await rebuild(app) == 0
    await app.execute(
        update(STATISTIC).where(STATISTIC.c.figure == "PAID").values(count=7, amount_minor=1)
    )
    await app.execute(delete(STATISTIC).where(STATISTIC.c.figure == "CREATED"))
    heard = []

    def progress(done: int, total: int) -> None:
        heard.append((done, total))

    assert await app.statistics.rebuild(progress=progress) == 2
    assert (await day(app), heard) == (right, [(4, 4)])
    assert await rebuild(app) == 0


async def test_the_daily_summary_equals_a_recount_after_random_operations(
    app: OrderApp, rounds: Callable[[int, int], int]
) -> None:
    chance = random.Random(11)
    shop = Shop(app, chance)
    for number in range(rounds(250, 10_000)):
        await shop.act()
        app.clock.advance(chance.choice([1, 30, 300, 3600]))
        if number % 50 == 49:
            await app.statistics.fold_once()
    assert await rebuild(app) == 0
    assert await app.stock_problems() == []
    assert shop.done >= {"order", "pay", "cancel", "expire", "late", "refund", "fail", "bounce"}
    # The figures, counted a second time from what the orders say.
    tz = zone("Asia/Kathmandu")
    orders = [await app.load(order) for order in shop.orders]
    days = await app.statistics.list_order_statistics(
        merchant_id="mall",
        first="2026-11-20",
        last="2027-11-19",
        time_zone="Asia/Kathmandu",
        currency="CNY",
    )
    for found in days:
        created = [
            order
            for order in orders
            if quarter_of(order.created_at).astimezone(tz).date() == found.day
        ]
        paid = [
            order
            for order in orders
            if order.paid_at and quarter_of(order.paid_at).astimezone(tz).date() == found.day
        ]
        assert (found.created[0], found.created[1].minor) == (
            len(created),
            sum(order.amount.minor for order in created),
        )
        assert (found.paid[0], found.paid[1].minor) == (
            len(paid),
            sum(order.amount.minor for order in paid),
        )
        assert found.converted == sum(order.paid_at is not None for order in created)
    assert sum(found.refunded[1].minor for found in days) == sum(
        order.refunded.minor for order in orders
    )
    assert by_day([], tz) == []


class Shop:
    """Random things that happen to orders of one shop."""

    def __init__(self, app: OrderApp, chance: random.Random) -> None:
        self.app, self.chance = app, chance
        self.orders: list[Order] = []
        self.versions: dict[str, int] = {}
        self.done: set[str] = set()

    async def act(self) -> None:
        name = self.chance.choice(
            [
                "order",
                "order",
                "order",
                "pay",
                "pay",
                "cancel",
                "expire",
                "late",
                "refund",
                "refund",
                "fail",
                "bounce",
                "ship",
            ]
        )
        await getattr(self, f"_{name}")()

    async def _pick(self, *states: OrderState) -> Order | None:
        for order in self.chance.sample(self.orders, min(len(self.orders), 5)):
            present = await self.app.load(order)
            if present.state in states:
                return present
        return None

    async def _order(self) -> None:
        self.done.add("order")
        try:
            self.orders.append(
                await self.app.order(
                    ("mug", self.chance.randint(1, 3)),
                    caller=buyer(f"u{self.chance.randint(1, 5)}"),
                )
            )
        except OutOfStock:
            await self.app.catalog_stock.set_stock(
                merchant_id="mall", sku_id="mug", available=100, caller=merchant()
            )

    def _version(self, order: Order) -> int:
        self.versions[order.order_id] = self.versions.get(order.order_id, 2) + 1
        return self.versions[order.order_id]

    async def _pay(self) -> None:
        if order := await self._pick(S.PENDING_PAYMENT):
            self.done.add("pay")
            await self.app.tell(
                order,
                snapshot(
                    f"P{order.order_id[-20:]}",
                    captured=order.amount.format(),
                    version=self._version(order),
                ),
            )

    async def _late(self) -> None:
        if order := await self._pick(S.CANCELLED):
            self.done.add("late")
            await self.app.tell(
                order,
                snapshot(
                    f"P{order.order_id[-20:]}",
                    captured=order.amount.format(),
                    version=self._version(order),
                    state="LATE_SUCCESS",
                ),
            )

    async def _cancel(self) -> None:
        if order := await self._pick(S.PENDING_PAYMENT):
            self.done.add("cancel")
            await self.app.cancel(order)

    async def _expire(self) -> None:
        self.done.add("expire")
        self.app.clock.advance(PAYMENT_WINDOW.total_seconds() / 2)
        await self.app.expire()
        await self.app.relay()

    async def _ship(self) -> None:
        if order := await self._pick(S.PAID):
            await self.app.ship(order)

    async def _refund(self) -> None:
        await self._ask_back("refund", "SUCCESS")

    async def _fail(self) -> None:
        await self._ask_back("fail", "FAILED")

    async def _ask_back(self, name: str, end: str) -> None:
        order = await self._pick(S.PAID, S.SHIPPED)
        if order is None or order.refunded.minor:
            return
        self.done.add(name)
        refund = await self.app.refund(
            order, *self.chance.choice([(), (("mug", 1),)]), caller=merchant()
        )
        await self.app.tell_refund(
            order,
            (refund, end),
            version=self._version(order),
            refunded=refund.amount.format() if end == "SUCCESS" else "0",
            payment_id=order.paid_payment_id,
        )

    async def _bounce(self) -> None:
        order = await self._pick(S.REFUNDED)
        refunds = await self.app.refunds(order) if order else []
        if order and refunds and refunds[0].state == "SUCCEEDED":
            self.done.add("bounce")
            await self.app.tell_refund(
                order,
                (refunds[0], "REVERSED"),
                version=self._version(order),
                refunded="0",
                payment_id=order.paid_payment_id,
            )

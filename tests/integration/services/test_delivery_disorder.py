"""Both services come to the same end however their messages travel: straight, each three times and
in disorder (the refund's news before the payment's), or after a day without order_rpc. The stories
run side by side in one world, so that their messages mix.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import BigInteger, Column, ColumnElement, Row, String, Table, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh import inbox
from mesh.db import Database, insert_if_absent, metadata_with_names
from mesh.errors import UpstreamUnavailable
from mesh.idempotency import RECEIPT
from mesh.money import Money, RequestedAmount
from mesh.outbox import OUTBOX, Message
from mesh.relay import Relay, _message
from order_rpc import tables as order_tables
from order_rpc.domain.order import Order, OrderState
from payment_rpc import tables as payment_tables
from payment_rpc.domain.errors import CardDeclined
from payment_rpc.domain.payment import Disposition
from payment_rpc.usecases.refund_start import CreateRefund
from tests.builders.audit import audited, nobody_listens
from tests.builders.order import merchant
from tests.builders.order_payment import JoinedWorld, joined_world
from tests.builders.payment import DECLINED
from tests.support.databases import create_tables, open_patiently

Factory = Callable[[], str]
DAY_HOURS = 24
COPIES = 3
# What says when, how often and under which number, not what became of money and goods. A gate is
# closed when its order expired before it heard that it is paid, and stays so.
TECHNICAL = {
    "id",
    "version",
    "payment_version",
    "created_at",
    "updated_at",
    "handled_at",
    "paid_at",
    "expires_at",
    "captured_at",
    "refunded_at",
    "cancelled_at",
    "succeeded_at",
    "bounced_at",
    "booked_at",
    "lease_until",
    "next_query_at",
    "queries",
    "sends",
    "channel_trade_no",
    "channel_refund_no",
    "ledger_head",
    "previous_hash",
    "hash",
    "trace_id",
    "next_action_value",
    "answer",
    "seal",
    "receipt_digest",
    "chain_seq",
    "chain_hash",
}
PAYMENT_TABLES = (
    payment_tables.PAYMENT,
    payment_tables.ATTEMPT,
    payment_tables.REFUND,
    payment_tables.LEDGER_TRANSACTION,
    payment_tables.LEDGER_POSTING,
    payment_tables.MANUAL_REVIEW,
    RECEIPT,
)
ORDER_TABLES = (
    order_tables.ORDERS,
    order_tables.ORDER_ITEM,
    order_tables.RESERVATION,
    order_tables.STOCK,
    order_tables.PAYMENT_DISPOSITION,
    order_tables.REFUND_REQUEST,
    order_tables.REFUND_LINE,
    order_tables.STOCK_RETURN,
)
# Amounts choose what the sandbox does: 77.04 is called back three times, 77.06 is captured a minute
# after it was closed; a refund of 77.42 goes and comes back an hour later, one of 77.44 is accepted
# and refused a minute later.
PRICES = {"PAID": "77.04", "LATE": "77.06"}
REFUNDS_BY_SHOP = {"TWICE_REFUNDED": ("60.00", "40.00"), "REFUNDED_BY_SHOP": ("30.00",)}


class Post:
    """The line from payment_rpc to order_rpc. While it is `closed` nothing arrives; what arrived
    stands in `arrived`.
    """

    def __init__(self, world: JoinedWorld) -> None:
        self._deliver = world.money.orders.update_status
        self.closed = False
        self.arrived: list[tuple[str, dict[str, Any]]] = []
        world.money.orders.update_status = self.update_status  # type: ignore[method-assign]  # the neighbour stays the same, its line does not

    async def update_status(self, snapshot: dict[str, Any], *, event_id: str) -> Disposition | None:
        if self.closed:
            raise UpstreamUnavailable("the line is cut")
        self.arrived.append((event_id, snapshot))
        return await self._deliver(snapshot, event_id=event_id)

    def first_of(self, order_id: str) -> dict[str, Any]:
        return next(snapshot for _, snapshot in self.arrived if snapshot["order_id"] == order_id)


class Shop:
    """The stories: what people do, in two acts. Time and messages move between the acts."""

    def __init__(self, world: JoinedWorld) -> None:
        self.world = world
        self.post = Post(world)
        self.orders: dict[str, Order] = {}

    async def order(self, story: str) -> Order:
        self.orders[story] = await self.world.money.order(
            PRICES.get(story, "100.00"), quantity=2 if story == "PARTLY_REFUNDED" else 1
        )
        return self.orders[story]

    async def first_act(self) -> None:
        """Those who will ask order_rpc for their money pay: it must know of the payment before it
        gives anything back.
        """
        for story in ("PARTLY_REFUNDED", "WHOLLY_REFUNDED", "BOUNCED", "REFUSED"):
            await self.world.money.charge(await self.order(story), key=f"key-{story}")

    async def second_act(self) -> None:
        """All the rest."""
        money, side = self.world.money, self.world.orders
        await money.charge(await self.order("PAID"), key="key-PAID")
        for story, amounts in REFUNDS_BY_SHOP.items():
            payment = await money.charge(await self.order(story), key=f"key-{story}")
            for amount in amounts:
                await self._refund_as_shop(payment.payment_id, amount)
        [line] = self.orders["PARTLY_REFUNDED"].lines
        await side.refund(self.orders["PARTLY_REFUNDED"], (line.sku_id, 1))
        await side.refund(self.orders["WHOLLY_REFUNDED"])
        await side.refund(self.orders["BOUNCED"], amount="77.42")
        await side.refund(self.orders["REFUSED"], amount="77.44")
        await money.cashier(await self.order("LATE"))
        await side.cancel(self.orders["LATE"])
        with pytest.raises(CardDeclined):
            await money.charge(await self.order("SECOND_METHOD"), number=DECLINED)
        await money.press(await money.cashier(self.orders["SECOND_METHOD"]))

    async def _refund_as_shop(self, payment_id: str, amount: str) -> None:
        """The shop asks payment_rpc itself; its order may not even know that it is paid."""
        await self.world.money.app.refunds.create_refund(
            CreateRefund(
                payment_id=payment_id,
                amount=RequestedAmount(amount),
                reason="broken",
                request_id="",
                key=f"refund-{payment_id}-{amount}",
            ),
            merchant(),
        )

    async def work(self, *, seconds: float, order_rpc: bool = True) -> None:
        """Everything that works in the background, once; deliveries between the two only while
        `order_rpc` is there.
        """
        money = self.world.money
        money.clock.advance(seconds)
        await money.callbacks()
        await money.app.expiry.run_once()
        await money.app.polling.run_once()
        await money.app.refunds.run_once()
        if order_rpc:
            await self.world.orders.expire()

    async def settle(self) -> None:
        """Messages arrive once and in their order; an hour and more passes."""
        for seconds in (6, 70, 70, 4000, 70, 70, 400, 400):
            await self.work(seconds=seconds)
            await self.world.orders.relay()
            await self.world.money.app.order_relay.run_once()

    async def settle_in_disorder(self, chance: random.Random | None) -> None:
        """Messages wait for each other and arrive COPIES times: shuffled by `chance`, the last one
        first without it. At the end all of them come once more. The lines are cut in between."""
        for seconds in (1, 70, 4000):
            await self.deliver(chance, "payment_rpc")
            await self.work(seconds=seconds)
        for seconds in (70, 400, 400):
            await self.deliver(chance, "payment_rpc", "order_rpc")
            await self.work(seconds=seconds)
        await self.deliver(chance, "payment_rpc", "order_rpc", states=("NEW", "DONE"), copies=1)

    async def deliver(
        self,
        chance: random.Random | None,
        *destinations: str,
        states: Sequence[str] = ("NEW",),
        copies: int = COPIES,
    ) -> None:
        """Every message that waits, several times."""
        relays: dict[str, tuple[Database, Relay]] = {
            "payment_rpc": (self.world.orders.db, self.world.orders.real.payment_relay),
            "order_rpc": (self.world.money.db, self.world.money.app.order_relay),
        }
        letters = [
            (relays[destination][1], message)
            for destination in destinations
            for message in await messages(relays[destination][0], destination, states)
        ] * copies
        if chance is None:
            letters.reverse()
        else:
            chance.shuffle(letters)
        self.cut(closed=False)
        for relay, message in letters:
            await relay.deliver(message)
        self.cut(closed=True)

    def cut(self, *, closed: bool) -> None:
        """Both lines between the services; what order_rpc is asked about its orders is answered all
        the same.
        """
        self.post.closed = self.world.payment_rpc.away = closed

    async def day_without_order_rpc(self) -> None:
        """order_rpc is not there, and does nothing itself."""
        self.world.money.orders.away = True
        for _ in range(DAY_HOURS):
            await self.work(seconds=3600, order_rpc=False)
            await self.world.money.app.order_relay.run_once()
        self.world.money.orders.away = False

    async def end(self) -> dict[str, list[str]]:
        """What money, orders and goods are now, in words that do not depend on the way there."""
        names = await self._names()
        world = self.world
        ends = {
            table.name: await _spelled(await world.money.rows(table), names)
            for table in PAYMENT_TABLES
        }
        ends |= {
            f"{table.name} of orders": await _spelled(await world.orders.rows(table), names)
            for table in ORDER_TABLES
        }
        figures: Counter[tuple[str, str]] = Counter()
        for row in await world.orders.rows(order_tables.STATISTIC_ENTRY):
            figures[row["figure"], "count"] += row["count"]
            figures[row["figure"], "minor"] += int(row["amount_minor"])
        ends["figures"] = sorted(map(str, figures.items()))
        ends["events"] = await _spelled(
            [
                {"tag": row.tag, "of": row.aggregate_id}
                for db in (world.money.db, world.orders.db)
                for row in await rows_of(db, OUTBOX.c.destination.startswith("stream:"))
            ],
            names,
        )
        return ends

    async def _names(self) -> dict[str, str]:
        """Ids of this world -> what they are called in every world."""
        names = {order.order_id: story for story, order in self.orders.items()}
        names |= {
            order.lines[0].sku_id: f"goods of {story}" for story, order in self.orders.items()
        }
        for table, key, owner in (
            (payment_tables.PAYMENT, "payment_id", "order_id"),
            (payment_tables.ATTEMPT, "attempt_id", "payment_id"),
            (payment_tables.REFUND, "refund_id", "payment_id"),
        ):
            number: Counter[str] = Counter()
            for row in sorted(
                await self.world.money.rows(table),
                key=lambda row: (row.get("amount_minor"), row[key]),
            ):
                whose = names[row[owner]]
                number[whose] += 1
                names[row[key]] = f"{whose}/{table.name}{number[whose]}"
        for row in await self.world.orders.rows(order_tables.REFUND_REQUEST):
            names.setdefault(row["request_id"], f"{names[row['order_id']]}/request")
        return names


async def rows_of(db: Database, *conditions: ColumnElement[bool]) -> list[Row[Any]]:
    """Messages of an outbox, oldest first."""

    async def read(tx: AsyncConnection) -> list[Row[Any]]:
        return list(
            (await tx.execute(select(OUTBOX).where(*conditions).order_by(OUTBOX.c.id))).all()
        )

    return await db.read(read)


async def messages(db: Database, destination: str, states: Sequence[str]) -> list[Message]:
    return [
        _message(row)
        for row in await rows_of(
            db, OUTBOX.c.destination == destination, OUTBOX.c.state.in_(states)
        )
    ]


async def _spelled(rows: list[dict[str, Any]], names: dict[str, str]) -> list[str]:
    found = []
    for row in rows:
        text = str({name: value for name, value in row.items() if name not in TECHNICAL})
        for own, known in names.items():
            text = text.replace(own, known)
        found.append(text)
    return sorted(found)


@asynccontextmanager
async def opened_shop(factory: Factory, folder: Path) -> AsyncIterator[Shop]:
    folder.mkdir()  # noqa: ASYNC240  nothing else runs yet
    async with joined_world(factory(), factory(), folder) as world:
        yield Shop(world)


async def assert_at_rest(shop: Shop) -> None:
    """Nothing waits, nothing is wrong."""
    for db in (shop.world.money.db, shop.world.orders.db):
        assert [
            row.tag
            for row in await rows_of(
                db, ~OUTBOX.c.destination.startswith("stream:"), OUTBOX.c.state != "DONE"
            )
        ] == []
    await nobody_listens(shop.world.money)
    assert await audited(shop.world.money, strict=True) == []
    assert await shop.world.orders.stock_problems() == []
    assert await shop.world.money.ledger_problems() == []
    states = {
        story: (await shop.world.orders.load(order)).state for story, order in shop.orders.items()
    }
    refunded, cancelled = ("TWICE_REFUNDED", "WHOLLY_REFUNDED"), ("LATE",)
    assert states == {
        story: OrderState.REFUNDED
        if story in refunded
        else OrderState.CANCELLED
        if story in cancelled
        else OrderState.PAID
        for story in shop.orders
    }


async def straight(shop: Shop) -> dict[str, list[str]]:
    await shop.first_act()
    await shop.settle()
    await shop.second_act()
    await shop.settle()
    await assert_at_rest(shop)
    return await shop.end()


async def in_disorder(
    shop: Shop, first: random.Random | None, second: random.Random | None
) -> dict[str, list[str]]:
    for act, chance in ((shop.first_act, first), (shop.second_act, second)):
        shop.cut(closed=True)
        await act()
        await shop.settle_in_disorder(chance)
    await assert_at_rest(shop)
    return await shop.end()


async def after_a_day(shop: Shop) -> dict[str, list[str]]:
    await shop.first_act()
    await shop.settle()
    shop.post.closed = True  # order_rpc decides and sends what it owes, and hears nothing any more
    await shop.second_act()
    await shop.day_without_order_rpc()
    shop.post.closed = False
    await shop.settle()
    await assert_at_rest(shop)
    return await shop.end()


_METADATA = metadata_with_names()
_INBOX = inbox.INBOX.to_metadata(_METADATA)
TILL = Table(
    "till",
    _METADATA,
    Column("order_id", String(32), primary_key=True),
    Column("received", BigInteger, nullable=False),
    Column("returned", BigInteger, nullable=False),
)
# What an event adds to (received, returned).
EFFECTS = {"PAYMENT_SUCCEEDED": (1, 0), "REFUND_SUCCEEDED": (0, 1), "REFUND_REVERSED": (0, -1)}


class Till:
    """Somebody who listens to PAYMENT_TOPIC and adds up, each event once, in whatever order they
    come.
    """

    def __init__(self, db: Database) -> None:
        self._db = db

    async def read(self, shop: Shop, chance: random.Random) -> None:
        """Every event COPIES times, in disorder."""
        entries = (
            await rows_of(shop.world.money.db, OUTBOX.c.destination.startswith("stream:")) * COPIES
        )
        chance.shuffle(entries)
        for entry in entries:
            await self._db.run(self._handle, entry)

    async def totals(self) -> set[tuple[str, int, int]]:
        async def read(tx: AsyncConnection) -> set[tuple[str, int, int]]:
            return {
                (row.order_id, row.received, row.returned) for row in await tx.execute(select(TILL))
            }

        return await self._db.read(read)

    async def _handle(self, tx: AsyncConnection, entry: Row[Any]) -> None:
        if entry.tag not in EFFECTS or not await inbox.first_time(
            tx, consumer="till", event_id=entry.event_id, now=entry.created_at
        ):
            return
        payload = json.loads(entry.payload)
        minor = Money.parse(payload["amount"], payload["currency"]).minor
        received, returned = EFFECTS[entry.tag]
        await insert_if_absent(
            tx, TILL, {"order_id": payload["order_id"], "received": 0, "returned": 0}
        )
        await tx.execute(
            update(TILL)
            .where(TILL.c.order_id == payload["order_id"])
            .values(
                received=TILL.c.received + received * minor,
                returned=TILL.c.returned + returned * minor,
            )
        )


@asynccontextmanager
async def opened_till(url: str) -> AsyncIterator[Till]:
    db = open_patiently(url, _METADATA)
    try:
        await create_tables(db.engine, _METADATA)
        yield Till(db)
    finally:
        await db.close()


def differences(expected: dict[str, list[str]], end: dict[str, list[str]]) -> list[str]:
    """Rows that only one of two worlds has."""
    found = []
    for what, rows in expected.items():
        missing, surplus = Counter(rows) - Counter(end[what]), Counter(end[what]) - Counter(rows)
        found += [f"{what} lacks {row}" for row in missing.elements()] + [
            f"{what} has {row}" for row in surplus.elements()
        ]
    return found


@pytest.fixture
async def expected(tmp_path: Path) -> dict[str, list[str]]:
    """The end that all messages come to when each travels once and at once. It is the same on every
    database.
    """
    if not _EXPECTED:
        numbers = iter(range(2))
        async with opened_shop(
            lambda: f"sqlite+aiosqlite:///{tmp_path / f'expected-{next(numbers)}.db'}",
            tmp_path / "straight",
        ) as shop:
            _EXPECTED.update(await straight(shop))
    return _EXPECTED


_EXPECTED: dict[str, list[str]] = {}


@pytest.mark.one_database
async def test_every_message_three_times_and_in_disorder_comes_to_the_same_end(
    expected: dict[str, list[str]],
    database_url_factory: Factory,
    tmp_path: Path,
    rounds: Callable[[int, int], int],
) -> None:
    for seed in range(rounds(1, 20)):
        chance = random.Random(seed)
        backwards = seed == 0
        async with opened_shop(database_url_factory, tmp_path / f"disorder-{seed}") as shop:
            assert (
                differences(
                    expected, await in_disorder(shop, chance, None if backwards else chance)
                )
                == []
            ), f"seed {seed}"
            assert min(Counter(event_id for event_id, _ in shop.post.arrived).values()) > COPIES
            if backwards:  # the refund's news came before the payment's, else this proves nothing
                assert (
                    shop.post.first_of(shop.orders["REFUNDED_BY_SHOP"].order_id)["refunded"]
                    == "30.00"
                )
            async with opened_till(database_url_factory()) as till:
                await till.read(shop, chance)
                assert await till.totals() == {
                    (row["order_id"], row["captured_minor"], row["refunded_minor"])
                    for row in await shop.world.money.rows(payment_tables.PAYMENT)
                    if row["captured_minor"]
                }


@pytest.mark.one_database
async def test_a_day_without_order_rpc_comes_to_the_same_end(
    expected: dict[str, list[str]], database_url_factory: Factory, tmp_path: Path
) -> None:
    async with opened_shop(database_url_factory, tmp_path / "day") as shop:
        assert differences(expected, await after_a_day(shop)) == []

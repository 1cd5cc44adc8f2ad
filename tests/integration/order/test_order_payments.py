"""UpdateOrderStatus on real databases: messages of payment_rpc in any order and number change an
order once, and money that is not its price never does."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.protobuf import json_format
from paymesh.events.v1 import events_pb2
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from structlog.testing import capture_logs

from mesh import failpoints
from mesh.call import calling
from mesh.db import ConstraintViolated
from mesh.errors import Conflict
from mesh.failpoints import FailpointRaised
from mesh.inbox import INBOX
from mesh.outbox import OUTBOX
from order_rpc.domain.errors import OrderNotFound
from order_rpc.domain.order import Order, OrderState
from order_rpc.domain.payment import Disposition
from order_rpc.store import orders, payments, stock
from order_rpc.tables import ORDER_AUDIT, ORDERS, PAYMENT_DISPOSITION, RESERVATION, STOCK
from order_rpc.usecases.payments import Answer
from tests.builders.order import PAYMENT_RPC, OrderApp, buyer, order_app, snapshot

D, S = Disposition, OrderState


@pytest.fixture
async def app(database_url: str) -> AsyncIterator[OrderApp]:
    async with order_app(database_url) as app:
        await app.product("mug", "10.00")
        yield app


@pytest.fixture
async def order(app: OrderApp) -> Order:
    return await app.order()


async def load(app: OrderApp, order: Order) -> Order:
    return await app.orders.get(
        merchant_id=order.merchant_id, order_id=order.order_id, caller=PAYMENT_RPC
    )


async def decided(app: OrderApp) -> list[tuple[str, int, str, str | None]]:
    return [
        (row["payment_id"], row["payment_version"], row["payment_state"], row["disposition"])
        for row in await app.rows(PAYMENT_DISPOSITION)
    ]


async def test_a_success_pays_the_order_sells_its_units_and_says_so(app: OrderApp) -> None:
    await app.product("pen", "1.00", available=5)
    order = await app.order(("mug", 2), ("pen", 1))
    app.clock.advance(60)
    with calling(caller=PAYMENT_RPC, timeout_seconds=5) as call:
        answer = await app.tell(order, snapshot(captured="21.00"), event_id="EVT-1")
    assert answer == Answer(disposition=D.APPLIED, state=S.PAID)
    paid = await load(app, order)
    assert (paid.state, paid.paid_payment_id, paid.paid_at, paid.updated_at, paid.version) == (
        S.PAID,
        "PAY1",
        app.clock.now(),
        app.clock.now(),
        2,
    )
    assert [row["state"] for row in await app.rows(RESERVATION)] == ["COMMITTED", "COMMITTED"]
    assert [await app.stock("mug"), await app.stock("pen")] == [(98, 0, 2), (4, 0, 1)]
    step = (await app.rows(ORDER_AUDIT))[-1]
    trace_id = call.trace.trace_id
    assert (
        step["from_state"],
        step["to_state"],
        step["event"],
        step["event_id"],
        step["operator"],
        step["remark"],
        step["trace_id"],
        step["needs_attention"],
    ) == ("PENDING_PAYMENT", "PAID", "PAY", "EVT-1", "payment_rpc", "PAY1", trace_id, False)
    message = (await app.rows(OUTBOX))[-1]
    event = json_format.Parse(message["payload"], events_pb2.OrderPaidEvent())
    assert (
        message["tag"],
        event.order_id,
        event.payment_id,
        event.amount,
        event.user_id,
        event.event_time.ToJsonString(),
        event.trace_id,
    ) == ("ORDER_PAID", order.order_id, "PAY1", "21.00", "u1", "2026-11-20T12:01:00Z", trace_id)
    assert [(row["consumer"], row["event_id"]) for row in await app.rows(INBOX)] == [
        ("payment_rpc", "EVT-1")
    ]


# What a payment with money gets, by where the order stands and by whom it was paid.
TABLE = [
    (S.PENDING_PAYMENT, "", D.APPLIED),
    (S.CANCELLING, "", D.APPLIED),
    (S.CANCELLED, "", D.REFUSED_CANCELLED),
    *[(state, "PAY1", D.ALREADY) for state in (S.PAID, S.SHIPPED, S.COMPLETED, S.REFUNDED)],
    *[
        (state, "PAY2", D.REFUSED_PAID_BY_OTHER)
        for state in (S.PAID, S.SHIPPED, S.COMPLETED, S.REFUNDED)
    ],
]


@pytest.mark.parametrize("payment_state", ["SUCCESS", "LATE_SUCCESS"])
@pytest.mark.parametrize(("state", "paid_by", "disposition"), TABLE)
async def test_each_state_has_its_disposition_and_keeps_it(
    app: OrderApp,
    order: Order,
    *,
    state: OrderState,
    paid_by: str,
    disposition: Disposition,
    payment_state: str,
) -> None:
    await app.force_state(order, state, paid_by=paid_by)
    after = S.PAID if disposition is D.APPLIED else state
    assert await app.tell(order, snapshot(state=payment_state)) == Answer(
        disposition=disposition, state=after
    )
    assert await decided(app) == [("PAY1", 3, payment_state, disposition)]
    changed = await load(app, order)
    assert (changed.state, changed.paid_payment_id) == (
        after,
        "PAY1" if disposition is D.APPLIED else paid_by,
    )
    assert await app.stock() == ((99, 0, 1) if disposition is D.APPLIED else (99, 1, 0))
    for again in (
        snapshot(state=payment_state),
        snapshot(version=9, state="LATE_REFUNDED"),
        snapshot(version=10, state="SUCCESS"),
    ):
        assert await app.tell(order, again) == Answer(disposition=disposition, state=after)
    assert await load(app, order) == changed


@pytest.mark.parametrize(
    "state", ["INIT", "PAYING", "FAILED", "CLOSING", "CLOSED", "CONFLICTED", "LATE_REFUNDED"]
)
async def test_a_snapshot_without_money_is_noted_and_decides_nothing(
    app: OrderApp, order: Order, state: str
) -> None:
    assert await app.tell(order, snapshot(state=state, version=2)) == Answer(
        disposition=D.NOTED, state=S.PENDING_PAYMENT
    )
    assert await decided(app) == [("PAY1", 2, state, None)]
    assert await load(app, order) == order
    assert (await app.tell(order, snapshot(version=3))).disposition is D.APPLIED


async def test_an_older_or_equal_version_changes_nothing_and_hears_what_was_decided(
    app: OrderApp, order: Order
) -> None:
    await app.tell(order, snapshot(state="FAILED", version=5))
    for version in (4, 5):
        assert (
            await app.tell(order, snapshot(state="SUCCESS", version=version))
        ).disposition is D.NOTED
    assert await decided(app) == [("PAY1", 5, "FAILED", None)]
    assert (
        await app.tell(order, snapshot(state="LATE_SUCCESS", version=6))
    ).disposition is D.APPLIED
    for version in (1, 6):
        assert (
            await app.tell(order, snapshot(state="PAYING", version=version))
        ).disposition is D.APPLIED
    assert await decided(app) == [("PAY1", 6, "LATE_SUCCESS", "APPLIED")]


async def test_a_newer_version_after_the_decision_is_kept_and_answered_with_it(
    app: OrderApp, order: Order
) -> None:
    await app.tell(order, snapshot(version=3))
    paid = await load(app, order)
    assert (
        await app.tell(order, snapshot(version=4, state="SUCCESS", refund_reserved="10.00"))
    ).disposition is D.APPLIED
    assert await decided(app) == [("PAY1", 4, "SUCCESS", "APPLIED")]
    assert await load(app, order) == paid


async def test_the_same_event_with_other_content_changes_nothing(
    app: OrderApp, order: Order
) -> None:
    await app.tell(order, snapshot(state="PAYING", version=1), event_id="EVT-1")
    assert (
        await app.tell(order, snapshot(state="SUCCESS", version=2), event_id="EVT-1")
    ).disposition is D.NOTED
    assert (await load(app, order)).state is S.PENDING_PAYMENT


async def test_one_event_fifty_times_in_parallel_changes_the_order_once(
    app: OrderApp, order: Order
) -> None:
    answers = await app.at_once(*(app.tell(order, snapshot(), event_id="EVT-1") for _ in range(50)))
    assert set(answers) == {Answer(disposition=D.APPLIED, state=S.PAID)}
    assert (await load(app, order)).version == 2
    assert await app.stock() == (99, 0, 1)
    assert [row["tag"] for row in await app.rows(OUTBOX)] == ["ORDER_CREATED", "ORDER_PAID"]
    assert len(await app.rows(ORDER_AUDIT)) == 2


async def test_one_payment_by_fifty_events_in_parallel_changes_the_order_once(
    app: OrderApp, order: Order
) -> None:
    answers = await app.at_once(*(app.tell(order, snapshot()) for _ in range(50)))
    assert set(answers) == {Answer(disposition=D.APPLIED, state=S.PAID)}
    assert (await load(app, order)).version == 2
    assert await app.stock() == (99, 0, 1)


async def test_of_many_payments_at_once_one_pays_the_order_and_the_others_are_refused(
    app: OrderApp, order: Order
) -> None:
    answers = await app.at_once(
        *(app.tell(order, snapshot(f"PAY{number}")) for number in range(20))
    )
    assert Counter(answer.disposition for answer in answers) == {
        D.APPLIED: 1,
        D.REFUSED_PAID_BY_OTHER: 19,
    }
    [winner] = [number for number, answer in enumerate(answers) if answer.disposition is D.APPLIED]
    assert (await load(app, order)).paid_payment_id == f"PAY{winner}"
    assert await app.stock() == (99, 0, 1)


async def test_a_second_payment_is_refused_and_both_keep_their_dispositions(
    app: OrderApp, order: Order
) -> None:
    assert (await app.tell(order, snapshot("PAY1"))).disposition is D.APPLIED
    assert (await app.tell(order, snapshot("PAY2"))).disposition is D.REFUSED_PAID_BY_OTHER
    assert (
        await app.tell(order, snapshot("PAY2", version=4, state="LATE_SUCCESS"))
    ).disposition is D.REFUSED_PAID_BY_OTHER
    assert (await app.tell(order, snapshot("PAY1", version=4))).disposition is D.APPLIED


@pytest.mark.parametrize("state", [S.PENDING_PAYMENT, S.CANCELLING])
@pytest.mark.parametrize("money", [{"captured": "9.99"}, {"currency": "USD"}, {"captured": "0"}])
async def test_money_that_is_not_the_price_pays_nothing_and_calls_a_person(
    app: OrderApp, order: Order, state: OrderState, money: dict[str, Any]
) -> None:
    await app.force_state(order, state)
    before = await load(app, order)
    with capture_logs() as logs:
        assert await app.tell(order, snapshot(**money), event_id="EVT-1") == Answer(
            disposition=D.NOTED, state=state
        )
    assert await load(app, order) == before
    assert await app.stock() == (99, 1, 0)
    assert await decided(app) == [("PAY1", 3, "SUCCESS", None)]
    item = (await app.rows(ORDER_AUDIT))[-1]
    assert (item["event"], item["needs_attention"], item["from_state"], item["to_state"]) == (
        "PAYMENT_SHORTFALL",
        True,
        state,
        state,
    )
    assert "PAY1" in item["remark"]
    assert "10.00 CNY" in item["remark"]
    assert [
        (entry["event"], entry["alert"], entry["order_id"])
        for entry in logs
        if entry["log_level"] == "error"
    ] == [("order_needs_attention", True, order.order_id)]
    # the rest of the money came
    assert (await app.tell(order, snapshot(version=4))).disposition is D.APPLIED


async def test_an_unknown_order_is_refused_for_good_and_leaves_nothing(
    app: OrderApp, order: Order
) -> None:
    for merchant_id, order_id in (("mall", "ORD-none"), ("tea_house", order.order_id)):
        other = Order.place(
            merchant_id=merchant_id,
            order_id=order_id,
            user_id="u1",
            lines=order.lines,
            at=order.created_at,
            expires_at=order.expires_at,
        )
        with pytest.raises(OrderNotFound):
            await app.tell(other, snapshot())
    assert await app.rows(INBOX) == await app.rows(PAYMENT_DISPOSITION) == []


async def test_a_crash_before_the_commit_leaves_nothing_and_the_next_delivery_decides(
    app: OrderApp, order: Order
) -> None:
    failpoints.arm("order.update_status.before_commit=raise", environment="test")
    with pytest.raises(FailpointRaised):
        await app.tell(order, snapshot(), event_id="EVT-1")
    assert await app.rows(INBOX) == await app.rows(PAYMENT_DISPOSITION) == []
    assert await load(app, order) == order
    assert await app.stock() == (99, 1, 0)
    assert (await app.tell(order, snapshot(), event_id="EVT-1")).disposition is D.APPLIED


async def test_a_crash_after_the_commit_is_answered_by_the_next_delivery(
    app: OrderApp, order: Order
) -> None:
    failpoints.arm("order.update_status.after_commit=raise", environment="test")
    with pytest.raises(FailpointRaised):
        await app.tell(order, snapshot(), event_id="EVT-1")
    paid = await load(app, order)
    assert (await app.tell(order, snapshot(), event_id="EVT-1")).disposition is D.APPLIED
    assert await load(app, order) == paid


async def test_payments_and_new_orders_of_one_product_do_not_block_each_other(
    app: OrderApp,
) -> None:
    waiting = [await app.order(("mug", 1), caller=buyer(f"u{number}")) for number in range(20)]
    with capture_logs() as logs:
        await app.at_once(
            *(app.tell(each, snapshot(f"PAY{number}")) for number, each in enumerate(waiting)),
            *(app.order(("mug", 1), caller=buyer(f"v{number}")) for number in range(20)),
        )
    assert [entry for entry in logs if entry["event"] == "transaction_retried"] == []
    assert await app.stock() == (60, 20, 20)


async def test_an_order_that_changed_since_it_was_read_is_not_overwritten(
    app: OrderApp, order: Order
) -> None:
    paid = order.pay(payment_id="PAY1", at=app.clock.now())
    attempts = []

    async def save(tx) -> None:
        attempts.append(1)
        await orders.save_order(tx, paid, read_version=order.version + 5)

    with pytest.raises(Conflict):
        await app.db.run(save)
    assert len(attempts) > 1
    assert await load(app, order) == order


async def test_units_that_are_not_reserved_cannot_be_sold(app: OrderApp, order: Order) -> None:
    async def commit(tx: AsyncConnection) -> None:
        await stock.commit(tx, order, at=app.clock.now())

    await app.execute(update(STOCK).values(reserved=0, sold=1))  # the reservation says otherwise
    with pytest.raises(Conflict):
        await app.db.run(commit)
    assert [row["state"] for row in await app.rows(RESERVATION)] == ["RESERVED"]
    await app.execute(update(STOCK).values(reserved=1, sold=0))
    await app.execute(update(RESERVATION).values(state="RELEASED"))  # the stock says otherwise
    with pytest.raises(Conflict):
        await app.db.run(commit)
    assert await app.stock() == (99, 1, 0)


async def test_a_payment_that_changed_since_it_was_read_is_not_overwritten(
    app: OrderApp, order: Order
) -> None:
    await app.tell(order, snapshot(state="PAYING", version=4))

    async def save(tx: AsyncConnection) -> None:
        known = await payments.find_payment(tx, order, payment_id="PAY1")
        assert known is not None
        await payments.save_payment(
            tx, order, known.seen_again(snapshot(version=9), at=app.clock.now()), read_version=3
        )

    with pytest.raises(Conflict):
        await app.db.run(save)
    assert await decided(app) == [("PAY1", 4, "PAYING", None)]


@pytest.mark.parametrize(
    "broken",
    [
        {"state": "LOST"},
        {"amount_minor": -1},
        {"state": "PAID"},
        {"paid_at": 5},
        {"paid_payment_id": "PAY1"},
    ],
)
async def test_the_database_refuses_orders_that_cannot_be(
    app: OrderApp, order: Order, broken: dict
) -> None:
    if "paid_at" in broken:
        broken = {"paid_at": app.clock.now()}
    with pytest.raises(ConstraintViolated) as violation:
        await app.execute(update(ORDERS).values(**broken))
    assert violation.value.name.startswith("ck_orders_")
    assert (await app.execute(select(ORDERS.c.state))) == [("PENDING_PAYMENT",)]


@pytest.mark.parametrize("column", ["available", "reserved", "sold"])
async def test_the_database_refuses_stock_below_zero(app: OrderApp, column: str) -> None:
    with pytest.raises(ConstraintViolated) as violation:
        await app.execute(update(STOCK).values({column: -1}))
    assert violation.value.name == f"ck_stock_{column}"

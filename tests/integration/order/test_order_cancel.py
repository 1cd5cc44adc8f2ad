"""Cancelling and expiry on real databases, with a scripted payment_rpc: nothing is freed before it
says that nobody can pay, and whoever pays in that moment is never cancelled."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from google.protobuf import json_format
from paymesh.events.v1 import events_pb2
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh import failpoints
from mesh.call import Caller, calling
from mesh.failpoints import FailpointRaised
from mesh.outbox import OUTBOX
from order_rpc.domain.errors import OrderAlreadyPaid, OrderExpired, OrderNotFound, OrderStateInvalid
from order_rpc.domain.order import Order, OrderState
from order_rpc.domain.payment import Disposition
from order_rpc.domain.policy import MerchantPolicy
from order_rpc.tables import ORDER_AUDIT, RESERVATION
from order_rpc.usecases.cancellations import EXPIRED
from order_rpc.usecases.outbox_to_payment import PaymentDestination, StillClosing
from tests.builders.order import (
    ADMIN,
    CLOSED,
    CLOSING,
    CONFLICTED,
    PAYMENT_WINDOW,
    OrderApp,
    already_paid,
    buyer,
    merchant,
    order_app,
    refusal,
    snapshot,
)

D, S = Disposition, OrderState


@pytest.fixture
async def app(database_url: str) -> AsyncIterator[OrderApp]:
    async with order_app(database_url) as app:
        await app.product("mug", "10.00")
        await app.product("pen", "1.00")
        yield app


@pytest.fixture
async def reviving(database_url: str) -> AsyncIterator[OrderApp]:
    async with order_app(
        database_url, policies={"mall": MerchantPolicy(revives_if_stock=True)}
    ) as app:
        await app.product("mug", "10.00", available=2)
        await app.product("pen", "1.00")
        yield app


async def to_payment_rpc(app: OrderApp) -> list[tuple[str, str]]:
    return [
        (row["tag"], row["state"])
        for row in await app.rows(OUTBOX)
        if row["destination"] == "payment_rpc"
    ]


async def test_a_cancelled_order_gives_its_units_back_and_says_so(app: OrderApp) -> None:
    order = await app.order(("mug", 2), ("pen", 1))
    app.clock.advance(60)
    with calling(caller=buyer(), timeout_seconds=5) as call:
        cancelled = await app.cancel(order, reason="too dear")
    assert (
        cancelled.state,
        cancelled.cancelled_at,
        cancelled.cancel_reason,
        cancelled.version,
    ) == (S.CANCELLED, app.clock.now(), "too dear", 3)
    assert [await app.stock("mug"), await app.stock("pen")] == [(100, 0, 0), (100, 0, 0)]
    assert {row["state"] for row in await app.rows(RESERVATION)} == {"RELEASED"}
    assert await to_payment_rpc(app) == [("ClosePayment", "DONE")]
    begun, ended = (await app.rows(ORDER_AUDIT))[1:]
    assert (
        begun["event"],
        begun["from_state"],
        begun["to_state"],
        begun["operator"],
        begun["remark"],
        begun["trace_id"],
    ) == (
        "BEGIN_CANCEL",
        "PENDING_PAYMENT",
        "CANCELLING",
        "user:u1",
        "too dear",
        call.trace.trace_id,
    )
    assert (ended["event"], ended["from_state"], ended["to_state"], ended["operator"]) == (
        "CANCEL",
        "CANCELLING",
        "CANCELLED",
        "payment_rpc",
    )
    [told] = [row for row in await app.rows(OUTBOX) if row["tag"] == "ORDER_CANCELLED"]
    event = json_format.Parse(told["payload"], events_pb2.OrderCancelledEvent())
    assert (event.order_id, event.reason, event.amount) == (order.order_id, "too dear", "21.00")
    assert app.payment_rpc.closes == [(order.order_id, ended["event_id"])]


async def test_nothing_is_freed_while_a_channel_has_not_answered(app: OrderApp) -> None:
    order = await app.order()
    app.payment_rpc.close_answer = CLOSING
    assert (await app.cancel(order)).state is S.CANCELLING
    assert await app.stock() == (99, 1, 0)
    assert (await app.cancel(order)).state is S.CANCELLING  # asked again, it is no second cancel
    assert await app.steps(order) == ["CREATE", "BEGIN_CANCEL"]
    app.payment_rpc.close_answer = CLOSED
    app.clock.advance(60)
    assert await app.relay() == 1
    assert (await app.load(order)).state is S.CANCELLED
    assert await app.stock() == (100, 0, 0)
    assert len({op_id for _, op_id in app.payment_rpc.closes}) == 1  # always the same decision


async def test_money_that_is_not_ours_does_not_keep_an_order_from_being_cancelled(
    app: OrderApp,
) -> None:
    app.payment_rpc.close_answer = CONFLICTED
    order = await app.order()
    assert (await app.cancel(order)).state is S.CANCELLED
    assert (await app.rows(ORDER_AUDIT))[-1]["remark"] == "CONFLICTED"


async def test_an_order_that_turns_out_to_be_paid_is_paid_and_the_cancel_is_refused(
    app: OrderApp,
) -> None:
    order = await app.order(("mug", 2))
    app.payment_rpc.close_answer = already_paid(snapshot(captured="20.00", version=7))
    with pytest.raises(OrderAlreadyPaid) as refused:
        await app.cancel(order)
    assert refused.value.metadata == {"payment_id": "PAY1"}
    paid = await app.load(order)
    assert (paid.state, paid.paid_payment_id, await app.stock()) == (S.PAID, "PAY1", (98, 0, 2))
    # it was not cancelled: nobody may read that it was not paid in time
    assert paid.cancel_reason == ""
    # The message of that version comes later and finds it decided.
    assert (await app.tell(order, snapshot(captured="20.00", version=7))).disposition is D.APPLIED
    assert await app.steps(order) == ["CREATE", "BEGIN_CANCEL", "PAY"]


async def test_a_paid_order_is_not_cancelled(app: OrderApp) -> None:
    order = await app.paid_order()
    with pytest.raises(OrderAlreadyPaid):
        await app.cancel(order)
    assert await to_payment_rpc(app) == []


async def test_cancelling_a_cancelled_order_answers_it(app: OrderApp) -> None:
    order = await app.order()
    first = await app.cancel(order)
    assert await app.cancel(order, reason="again") == first
    assert len(app.payment_rpc.closes) == 1


@pytest.mark.parametrize("caller", [buyer("u2"), buyer("u1", "tea_house"), merchant("tea_house")])
async def test_an_order_of_somebody_else_is_not_cancelled(app: OrderApp, caller: Caller) -> None:
    order = await app.order()
    with pytest.raises(OrderNotFound):
        await app.cancel(order, caller=caller)
    assert (await app.load(order)).state is S.PENDING_PAYMENT


@pytest.mark.parametrize("caller", [ADMIN, merchant()])
async def test_staff_and_the_shop_may_cancel(app: OrderApp, caller: Caller) -> None:
    order = await app.order()
    assert (await app.cancel(order, caller=caller)).state is S.CANCELLED
    assert (await app.rows(ORDER_AUDIT))[1]["operator"] == f"{caller.role}:{caller.subject}"


async def test_an_unpaid_order_expires_at_its_deadline_and_not_before(app: OrderApp) -> None:
    order = await app.order()
    app.clock.advance(PAYMENT_WINDOW.total_seconds() - 0.001)
    assert await app.expire() == 0
    app.clock.advance(0.001)
    assert await app.expire() == 1
    assert (await app.load(order)).state is S.CANCELLING
    assert await app.relay() == 1
    expired = await app.load(order)
    assert (expired.state, expired.cancel_reason, await app.stock()) == (
        S.CANCELLED,
        EXPIRED,
        (100, 0, 0),
    )
    assert (await app.rows(ORDER_AUDIT))[1]["operator"] == "service:order_rpc"
    assert await app.expire() == 0


async def test_paid_and_cancelled_orders_do_not_expire(app: OrderApp) -> None:
    await app.paid_order()
    await app.cancel(await app.order())
    app.clock.advance(PAYMENT_WINDOW.total_seconds() * 2)
    assert await app.expire() == 0


async def test_expired_orders_are_taken_in_batches_the_oldest_first(app: OrderApp) -> None:
    made = []
    for _ in range(5):
        made.append(await app.order())
        app.clock.advance(1)
    app.clock.advance(PAYMENT_WINDOW.total_seconds())
    small = app.make(expiry_batch_size=2)
    assert await app.expire(app=small) == 2
    assert [(await app.load(order)).state for order in made] == [S.CANCELLING] * 2 + [
        S.PENDING_PAYMENT
    ] * 3
    assert [await app.expire(app=small) for _ in range(3)] == [2, 1, 0]


async def test_many_expiry_workers_at_once_cancel_each_order_once(app: OrderApp) -> None:
    made = [await app.order() for _ in range(20)]
    app.clock.advance(PAYMENT_WINDOW.total_seconds())
    apps = [app.make(expiry_batch_size=3) for _ in range(8)]
    counts = await app.at_once(*(app.expire(app=each) for each in apps))
    while await app.expire():
        pass
    assert sum(counts) <= 20
    assert Counter(await app.steps(made[0])) == {"CREATE": 1, "BEGIN_CANCEL": 1}
    assert len(await to_payment_rpc(app)) == 20


async def test_while_payment_rpc_is_away_expired_orders_wait_and_finish_after_it_returns(
    app: OrderApp,
) -> None:
    made = [await app.order() for _ in range(3)]
    app.payment_rpc.away = True
    app.clock.advance(PAYMENT_WINDOW.total_seconds())
    await app.expire()
    for _ in range(20):  # an hour and a half
        await app.relay()
        app.clock.advance(300)
    assert {(await app.load(order)).state for order in made} == {S.CANCELLING}
    assert await app.stock() == (97, 3, 0)
    # never given up
    assert {
        row["state"] for row in await app.rows(OUTBOX) if row["destination"] == "payment_rpc"
    } == {"NEW"}
    app.payment_rpc.away = False
    assert await app.relay() == 3
    assert {(await app.load(order)).state for order in made} == {S.CANCELLED}
    assert await app.stock() == (100, 0, 0)
    assert await app.stock_problems() == []


async def test_a_payment_in_the_moment_of_expiry_wins_whoever_tells_of_it(app: OrderApp) -> None:
    by_message, by_answer = await app.order(), await app.order()
    app.clock.advance(PAYMENT_WINDOW.total_seconds())
    await app.expire()
    await app.tell(by_message, snapshot("PAY1"))
    app.payment_rpc.close_answer = already_paid(snapshot("PAY2"))
    await app.relay()
    assert [
        ((await app.load(order)).state, (await app.load(order)).paid_payment_id)
        for order in (by_message, by_answer)
    ] == [(S.PAID, "PAY1"), (S.PAID, "PAY2")]
    assert await app.stock() == (98, 0, 2)
    assert {state for _, state in await to_payment_rpc(app)} == {"DONE"}


async def test_a_close_that_was_answered_late_does_not_cancel_what_was_paid_meanwhile(
    app: OrderApp,
) -> None:
    order = await app.order()
    app.payment_rpc.close_answer = CLOSING
    await app.cancel(order)
    await app.tell(order, snapshot())
    # it cannot say so any more; if it did, the order stays paid
    app.payment_rpc.close_answer = CLOSED
    app.clock.advance(60)
    await app.relay()
    assert (await app.load(order)).state is S.PAID
    assert await app.stock() == (99, 0, 1)
    assert await to_payment_rpc(app) == [("ClosePayment", "DONE")]  # answered: nobody asks for ever


async def test_a_settlement_of_a_close_that_is_under_way_cancels_nothing(app: OrderApp) -> None:
    """The second guard, for an answer that came so far."""
    order = await app.order()
    app.payment_rpc.away = True
    assert (await app.cancel(order)).state is S.CANCELLING
    destination = app.real.payment_relay._destination
    assert isinstance(destination, PaymentDestination)
    told: Any = SimpleNamespace(
        event_id="OP1", payload={"merchant_id": order.merchant_id, "order_id": order.order_id}
    )

    async def settle(tx: AsyncConnection) -> None:
        await destination._settle_close(tx, told, CLOSING)

    with pytest.raises(StillClosing):
        await app.db.run(settle)
    assert (await app.load(order)).state is S.CANCELLING
    assert await app.stock() == (99, 1, 0)


async def test_units_that_are_not_reserved_are_not_freed(app: OrderApp) -> None:
    order = await app.order(("mug", 1), ("pen", 1))
    app.payment_rpc.close_answer = CLOSING
    await app.cancel(order)
    # the stock says otherwise
    await app.execute(
        update(RESERVATION).where(RESERVATION.c.sku_id == "pen").values(state="RELEASED")
    )
    app.payment_rpc.close_answer = CLOSED
    app.clock.advance(60)
    await app.relay()
    assert (await app.load(order)).state is S.CANCELLING
    assert (await app.stock("mug"), await app.stock("pen")) == ((99, 1, 0), (99, 1, 0))


async def test_money_that_does_not_pay_the_order_leaves_it_cancelling_for_a_person(
    app: OrderApp,
) -> None:
    order = await app.order()
    app.payment_rpc.close_answer = already_paid(snapshot(captured="9.99"))
    assert (await app.cancel(order)).state is S.CANCELLING
    assert [row["event"] for row in await app.rows(ORDER_AUDIT) if row["needs_attention"]] == [
        "PAYMENT_SHORTFALL"
    ]
    assert await app.stock() == (99, 1, 0)


async def test_a_close_that_is_refused_for_good_is_dead_and_frees_nothing(app: OrderApp) -> None:
    order = await app.order()

    async def refuse(**_: Any) -> NoReturn:
        raise refusal("ORDER_NOT_FOUND")

    app.payment_rpc.close_payment = refuse  # type: ignore[method-assign]
    assert (await app.cancel(order)).state is S.CANCELLING
    assert await to_payment_rpc(app) == [("ClosePayment", "DEAD")]
    assert await app.stock() == (99, 1, 0)


# Late money.


async def test_late_money_on_a_cancelled_order_is_refused_by_default(app: OrderApp) -> None:
    order = await app.order()
    await app.cancel(order)
    assert (
        await app.tell(order, snapshot(state="LATE_SUCCESS"))
    ).disposition is D.REFUSED_CANCELLED
    late = await app.load(order)
    assert (late.state, late.paid_payment_id) == (S.CANCELLED, "")
    # The refund that payment_rpc makes by itself is recorded, and that is all.
    await app.tell(
        order,
        snapshot(
            version=4,
            state="LATE_REFUNDED",
            refunded="10.00",
            refunds=[("RF9", "auto:PAY1", "SUCCESS", "10.00", "")],
        ),
    )
    assert [(each.request_id, each.state, each.of_sale) for each in await app.refunds(order)] == [
        ("RF9", "SUCCEEDED", False)
    ]
    assert await app.load(order) == late
    assert await app.stock() == (100, 0, 0)


async def test_late_money_revives_a_cancelled_order_while_its_units_are_there(
    reviving: OrderApp,
) -> None:
    app = reviving
    order = await app.order(("mug", 2), ("pen", 1))
    await app.cancel(order)
    answer = await app.tell(order, snapshot(state="LATE_SUCCESS", captured="21.00"))
    assert (answer.disposition, answer.state) == (D.REVIVED, S.PAID)
    revived = await app.load(order)
    assert (revived.paid_payment_id, revived.paid_at, revived.captured.format()) == (
        "PAY1",
        app.clock.now(),
        "21.00",
    )
    assert [await app.stock("mug"), await app.stock("pen")] == [(0, 0, 2), (99, 0, 1)]
    assert [
        (row["sku_id"], row["generation"], row["state"]) for row in await app.rows(RESERVATION)
    ] == [
        ("mug", 1, "RELEASED"),
        ("mug", 2, "COMMITTED"),
        ("pen", 1, "RELEASED"),
        ("pen", 2, "COMMITTED"),
    ]
    assert (
        await app.tell(order, snapshot(state="SUCCESS", version=9, captured="21.00"))
    ).disposition is D.REVIVED
    assert await app.steps(order) == ["CREATE", "BEGIN_CANCEL", "CANCEL", "REVIVE"]
    assert await app.stock_problems() == []


async def test_late_money_is_refused_when_one_of_the_units_is_gone(reviving: OrderApp) -> None:
    app = reviving
    order = await app.order(("mug", 2), ("pen", 1))
    await app.cancel(order)
    await app.order(("mug", 1), caller=buyer("u2"))
    assert (
        await app.tell(order, snapshot(state="LATE_SUCCESS", captured="21.00"))
    ).disposition is D.REFUSED_CANCELLED
    assert [await app.stock("mug"), await app.stock("pen")] == [(1, 1, 0), (100, 0, 0)]


@pytest.mark.parametrize(
    "money",
    [{"refunded": "0.01"}, {"refund_reserved": "0.01"}, {"captured": "9.99"}, {"currency": "USD"}],
)
async def test_money_that_is_partly_gone_revives_nothing(
    reviving: OrderApp, money: dict[str, Any]
) -> None:
    order = await reviving.order()
    await reviving.cancel(order)
    assert (
        await reviving.tell(order, snapshot(**{"state": "LATE_SUCCESS", **money}))
    ).disposition is D.REFUSED_CANCELLED


async def test_two_buyers_are_revived_by_the_last_unit_once(reviving: OrderApp) -> None:
    app = reviving
    orders = [await app.order(("mug", 2), caller=buyer("u1"))]
    await app.cancel(orders[0])
    orders.append(await app.order(("mug", 2), caller=buyer("u2")))
    await app.cancel(orders[1], caller=buyer("u2"))
    answers = await app.at_once(
        *(
            app.tell(order, snapshot(f"PAY{number}", state="LATE_SUCCESS", captured="20.00"))
            for number, order in enumerate(orders)
        )
    )
    assert sorted(answer.disposition for answer in answers) == [D.REFUSED_CANCELLED, D.REVIVED]
    assert await app.stock() == (0, 0, 2)


# Crashes.


@pytest.mark.parametrize(
    ("point", "state_after", "then"),
    [
        ("order.cancel.after_begin", S.CANCELLING, S.CANCELLED),
        ("order.cancel.before_commit", S.CANCELLING, S.CANCELLED),
        ("outbox.relay.after_send", S.CANCELLING, S.CANCELLED),
        ("outbox.relay.after_settle", S.CANCELLED, S.CANCELLED),
    ],
)
async def test_a_cancel_that_was_cut_is_finished_by_the_relay(
    app: OrderApp, point: str, state_after: OrderState, then: OrderState
) -> None:
    order = await app.order()
    failpoints.arm(f"{point}=raise", environment="test")
    with contextlib.suppress(FailpointRaised):
        await app.cancel(order)
    assert (await app.load(order)).state is state_after
    app.clock.advance(60)
    await app.relay()
    assert ((await app.load(order)).state, await app.stock()) == (then, (100, 0, 0))
    assert await app.stock_problems() == []


@pytest.mark.parametrize("point", ["order.expire.before_commit", "order.expire.after_commit"])
async def test_an_expiry_that_was_cut_is_finished_by_the_next_round(
    app: OrderApp, point: str
) -> None:
    order = await app.order()
    app.clock.advance(PAYMENT_WINDOW.total_seconds())
    failpoints.arm(f"{point}=raise", environment="test")
    with pytest.raises(FailpointRaised):
        await app.expire()
    await app.expire()
    await app.relay()
    assert (await app.load(order)).state is S.CANCELLED
    assert Counter(await app.steps(order)) == {"CREATE": 1, "BEGIN_CANCEL": 1, "CANCEL": 1}
    assert await app.stock() == (100, 0, 0)


# Paying.


async def test_the_payment_of_an_order_is_started_with_the_orders_own_data(app: OrderApp) -> None:
    order = await app.order(("mug", 2))
    payment = await app.payments.pay(
        merchant_id="mall",
        order_id=order.order_id,
        channel="sandbox",
        return_url="https://shop.test/",
        caller=buyer(),
    )
    assert payment.payment_id == "PAY1"
    assert app.payment_rpc.payments == [(order, "sandbox", "https://shop.test/")]


@pytest.mark.parametrize(
    ("state", "refused"),
    [
        (S.PAID, OrderAlreadyPaid),
        (S.SHIPPED, OrderAlreadyPaid),
        (S.COMPLETED, OrderAlreadyPaid),
        (S.REFUNDED, OrderAlreadyPaid),
        (S.CANCELLING, OrderStateInvalid),
        (S.CANCELLED, OrderStateInvalid),
    ],
)
async def test_an_order_that_waits_for_no_money_starts_no_payment(
    app: OrderApp, state: OrderState, refused: type[Exception]
) -> None:
    order = await app.order()
    await app.force_state(order, state)
    with pytest.raises(refused):
        await app.payments.pay(
            merchant_id="mall", order_id=order.order_id, channel="", return_url="", caller=buyer()
        )
    assert app.payment_rpc.payments == []


async def test_an_expired_order_starts_no_payment_even_before_the_worker_came(
    app: OrderApp,
) -> None:
    order = await app.order()
    app.clock.advance(PAYMENT_WINDOW.total_seconds())
    with pytest.raises(OrderExpired):
        await app.payments.pay(
            merchant_id="mall", order_id=order.order_id, channel="", return_url="", caller=buyer()
        )


async def test_somebody_elses_order_is_not_paid(app: OrderApp) -> None:
    order = await app.order()
    with pytest.raises(OrderNotFound):
        await app.payments.pay(
            merchant_id="mall",
            order_id=order.order_id,
            channel="",
            return_url="",
            caller=buyer("u2"),
        )


async def test_a_cancelled_order_of_a_flash_sale_gives_its_unit_back_to_the_sale(
    app: OrderApp,
) -> None:
    order = await app.seckill_order("ORDS1")
    await app.cancel(order, caller=buyer(order.user_id))
    [back] = [row for row in await app.rows(OUTBOX) if row["destination"] == "seckill_rpc"]
    assert (back["tag"], json.loads(back["payload"])) == (
        "ReturnStock",
        {"merchant_id": "mall", "order_id": "ORDS1", "activity_id": "ACT1"},
    )
    assert await app.stock() == (100, 0, 0)


async def test_late_money_never_revives_an_order_of_a_flash_sale(reviving: OrderApp) -> None:
    order: Order = await reviving.seckill_order("ORDS1")
    await reviving.cancel(order, caller=buyer(order.user_id))
    assert (
        await reviving.tell(order, snapshot(state="LATE_SUCCESS", captured="5.00"))
    ).disposition is D.REFUSED_CANCELLED

"""Money that a channel holds for an order: the order waits for its shop as long, comes back from a
cancel that came too late, and closes by itself when the hold ends. payment_rpc is scripted.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from mesh.errors import UpstreamUnavailable
from order_rpc.audit.explain import explain_order
from order_rpc.domain.errors import (
    CaptureFirst,
    CaptureInProgress,
    CaptureRefused,
    MoneyHeld,
    OrderAlreadyPaid,
    OrderStateInvalid,
)
from order_rpc.domain.order import Order, OrderState
from order_rpc.domain.payment import Disposition
from order_rpc.domain.policy import MerchantPolicy
from tests.builders.order import (
    ADMIN,
    CLOSED,
    CLOSING,
    PAYMENT_WINDOW,
    OrderApp,
    already_paid,
    held_snapshot,
    merchant,
    refusal,
    snapshot,
    still_held,
)
from tests.support.fakes import EPOCH

S = OrderState
UNTIL = EPOCH + timedelta(days=7)


@pytest.fixture
async def order(app: OrderApp) -> Order:
    await app.product("mug", "10.00")
    return await app.order()


async def hold(app: OrderApp, order: Order, *, until: datetime = UNTIL) -> Order:
    answer = await app.tell(order, held_snapshot(until=until))
    assert answer.disposition is Disposition.NOTED
    return await app.load(order)


# --- told -----------------------------------------------------------------------------------------


async def test_an_order_does_not_expire_while_its_money_is_held(
    app: OrderApp, order: Order
) -> None:
    held = await hold(app, order)
    assert held.held is not None
    assert (held.state, held.held.payment_id, held.held.money.amount) == (
        S.PENDING_PAYMENT,
        "PAY1",
        order.amount,
    )
    assert held.expires_at == held.held.money.until == UNTIL
    explained = await explain_order(app.db, (order.merchant_id, order.order_id))
    assert explained is not None
    assert "Payment PAY1 holds 10.00 CNY" in explained.pending[0].text
    app.clock.advance(PAYMENT_WINDOW.total_seconds())
    assert await app.expire() == 0
    assert await app.stock() == (99, 1, 0)
    app.clock.advance((UNTIL - app.clock.now()).total_seconds())
    assert await app.expire() == 1
    assert (app.payment_rpc.let_go, await app.steps(order)) == (
        [],
        ["CREATE", "HOLD", "BEGIN_CANCEL"],
    )


@pytest.mark.parametrize("state", ["CLOSED", "FAILED", "CONFLICTED"])
async def test_when_the_hold_ends_the_deadline_of_the_buyer_counts_again(
    app: OrderApp, order: Order, state: str
) -> None:
    await hold(app, order)
    app.clock.advance(3600)
    await app.tell(order, snapshot(version=3, state=state, captured="0"))
    after = await app.load(order)
    assert (after.held, after.expires_at) == (None, order.expires_at)
    assert await app.expire() == 1
    await app.relay()
    assert (await app.load(order)).state is S.CANCELLED
    assert await app.steps(order) == ["CREATE", "HOLD", "END_HOLD", "BEGIN_CANCEL", "CANCEL"]
    assert await app.stock() == (100, 0, 0)


async def test_captured_money_pays_a_held_order(app: OrderApp, order: Order) -> None:
    await hold(app, order)
    app.clock.advance(3600)
    await app.tell(order, snapshot(version=3))
    paid = await app.load(order)
    assert (paid.state, paid.paid_payment_id, paid.held) == (S.PAID, "PAY1", None)
    assert await app.stock() == (99, 0, 1)


async def test_a_hold_that_moves_moves_the_deadline(app: OrderApp, order: Order) -> None:
    await hold(app, order)
    later = UNTIL + timedelta(days=1)
    await app.tell(order, held_snapshot(version=3, until=later))
    moved = await app.load(order)
    assert moved.held is not None
    assert (moved.expires_at, moved.held.pay_until) == (later, order.expires_at)


# News in every order that they may come in, and what is held when all of them came.
DISORDER: list[tuple[list[str], str]] = [
    (["end 1", "hold 1"], ""),
    (["hold 1", "hold 1"], "PAY1"),
    (["hold 2", "hold 1"], "PAY2"),
    (["hold 2", "hold 1", "end 1"], "PAY2"),
    (["hold 1", "hold 2", "end 1"], "PAY2"),
    (["hold 2", "end 2", "hold 1", "end 1"], ""),
    (["hold 1", "paid 1", "hold 1"], ""),
    (["paid 1", "hold 1"], ""),
    (["hold 1", "paid 2", "end 1"], ""),
]


@pytest.mark.parametrize(("news", "held_by"), DISORDER)
async def test_news_of_holds_may_come_in_any_order(
    app: OrderApp, order: Order, news: list[str], held_by: str
) -> None:
    for each in news:
        what, number = each.split()
        payment_id = f"PAY{number}"
        match what:
            case "hold":
                await app.tell(order, held_snapshot(payment_id, until=UNTIL))
            case "end":
                await app.tell(order, snapshot(payment_id, version=3, state="CLOSED", captured="0"))
            case _:
                await app.tell(order, snapshot(payment_id, version=3))
    after = await app.load(order)
    assert (after.held.payment_id if after.held else "") == held_by
    assert after.expires_at == (UNTIL if held_by else order.expires_at)
    assert (after.state is S.PAID) == any(each.startswith("paid") for each in news)


# --- cancelling -----------------------------------------------------------------------------------


async def test_a_buyer_cannot_cancel_an_order_whose_money_is_held(
    app: OrderApp, order: Order
) -> None:
    await hold(app, order)
    with pytest.raises(MoneyHeld) as refused:
        await app.cancel(order)
    assert refused.value.metadata == {"payment_id": "PAY1"}
    assert (app.payment_rpc.closes, (await app.load(order)).state) == ([], S.PENDING_PAYMENT)


@pytest.mark.parametrize("caller", [merchant(), ADMIN], ids=["shop", "admin"])
async def test_the_shop_cancels_a_held_order_and_lets_the_money_go(
    app: OrderApp, order: Order, caller: object
) -> None:
    await hold(app, order)
    app.payment_rpc.close_answer = CLOSING
    cancelling = await app.cancel(order, caller=caller)  # type: ignore[arg-type]
    assert (cancelling.state, app.payment_rpc.let_go) == (S.CANCELLING, [True])
    app.payment_rpc.close_answer = CLOSED
    app.clock.advance(60)
    await app.relay()
    cancelled = await app.load(order)
    assert (cancelled.state, cancelled.held, app.payment_rpc.let_go[-1]) == (
        S.CANCELLED,
        None,
        True,
    )
    assert cancelled.expires_at == order.expires_at
    assert await app.stock() == (100, 0, 0)


async def test_a_capture_that_comes_before_the_cancel_of_the_shop_pays_the_order(
    app: OrderApp, order: Order
) -> None:
    await hold(app, order)
    app.payment_rpc.close_answer = already_paid(snapshot(version=3))
    with pytest.raises(OrderAlreadyPaid):
        await app.cancel(order, caller=merchant())
    paid = await app.load(order)
    assert (paid.state, paid.held) == (S.PAID, None)


# --- told too late --------------------------------------------------------------------------------


async def test_an_order_whose_hold_is_learnt_by_closing_comes_back_and_waits_for_its_shop(
    app: OrderApp, order: Order
) -> None:
    app.payment_rpc.close_answer = still_held(held_snapshot(until=UNTIL))
    app.clock.advance(60)
    with pytest.raises(MoneyHeld):
        await app.cancel(order)
    back = await app.load(order)
    assert back.held is not None
    assert (back.state, back.expires_at, back.cancel_reason) == (S.PENDING_PAYMENT, UNTIL, "")
    assert await app.steps(order) == ["CREATE", "BEGIN_CANCEL", "HOLD"]
    # the gate is closed: nobody can pay it after that hold
    assert back.held.pay_until == app.clock.now()
    await app.tell(order, held_snapshot(until=UNTIL))  # the message arrives at last
    assert await app.steps(order) == ["CREATE", "BEGIN_CANCEL", "HOLD"]
    await app.tell(order, snapshot(version=3, state="CLOSED", captured="0"))
    app.payment_rpc.close_answer = CLOSED
    assert await app.expire() == 1
    await app.relay()
    assert (await app.load(order)).state is S.CANCELLED


async def test_an_expired_order_whose_money_is_held_comes_back_and_can_be_paid(
    app: OrderApp, order: Order
) -> None:
    app.clock.advance(PAYMENT_WINDOW.total_seconds())
    assert await app.expire() == 1
    await app.tell(order, held_snapshot(until=UNTIL))  # ClosePayment decides, not the message
    assert (await app.load(order)).state is S.CANCELLING
    app.payment_rpc.close_answer = still_held(held_snapshot(until=UNTIL))
    await app.relay()
    assert (await app.load(order)).state is S.PENDING_PAYMENT
    assert app.payment_rpc.let_go == [False]
    await app.tell(order, snapshot(version=3))
    assert (await app.load(order)).state is S.PAID
    assert await app.stock() == (99, 0, 1)


@pytest.mark.parametrize("case", ["newer news", "the hold is over"])
async def test_an_answer_of_a_hold_that_has_ended_brings_nothing_back(
    app: OrderApp, order: Order, case: str
) -> None:
    app.clock.advance(PAYMENT_WINDOW.total_seconds())
    await app.expire()
    until = UNTIL
    if case == "newer news":
        await app.tell(order, snapshot(version=3, state="CLOSED", captured="0"))
    else:
        until = app.clock.now()
    app.payment_rpc.close_answer = still_held(held_snapshot(until=until))
    await app.relay()
    assert (await app.load(order)).state is S.CANCELLING
    app.payment_rpc.close_answer = CLOSED
    app.clock.advance(60)
    await app.relay()
    assert (await app.load(order)).state is S.CANCELLED


async def test_a_repeated_createorder_answers_the_deadline_of_the_first(
    app: OrderApp, order: Order
) -> None:
    first = await app.order(key="key-1")
    await hold(app, first)
    again = await app.order(key="key-1")
    assert (again.order_id, again.expires_at, again.held) == (
        first.order_id,
        first.expires_at,
        None,
    )


# --- shipping -------------------------------------------------------------------------------------


@pytest.fixture
async def trusting(app: OrderApp, order: Order) -> OrderApp:
    """A shop that ships on held money, with an order whose money is held."""
    app.policies["mall"] = MerchantPolicy(ships_on_authorized=True)
    await hold(app, order)
    return app


async def test_a_held_order_is_not_shipped_before_its_shop_has_captured(
    app: OrderApp, order: Order
) -> None:
    await hold(app, order)
    with pytest.raises(CaptureFirst) as refused:
        await app.ship(order)
    assert refused.value.metadata == {"payment_id": "PAY1"}
    assert (app.payment_rpc.captures, (await app.load(order)).state) == ([], S.PENDING_PAYMENT)
    await app.tell(order, snapshot(version=3))
    assert (await app.ship(order)).state is S.SHIPPED


async def test_a_shop_that_ships_on_held_money_has_it_captured_first(
    trusting: OrderApp, order: Order
) -> None:
    shipped = await trusting.ship(order)
    assert (shipped.state, shipped.paid_payment_id, shipped.held) == (S.SHIPPED, "PAY1", None)
    assert await trusting.steps(order) == ["CREATE", "HOLD", "PAY", "SHIP"]
    assert await trusting.stock() == (99, 0, 1)
    assert await trusting.ship(order) == shipped  # the same parcel again
    assert trusting.payment_rpc.captures == [("PAY1", "ship:PAY1")]
    told = await trusting.tell(order, snapshot(version=3))  # the message arrives after it
    assert told.disposition is Disposition.APPLIED


@pytest.mark.parametrize(
    "answer",
    [
        snapshot(version=2, state="AUTHORIZED", captured="0"),
        refusal("PAYMENT_IN_PROGRESS"),
        UpstreamUnavailable("no answer"),
    ],
    ids=["unknown", "another capture", "no answer"],
)
async def test_nothing_is_shipped_while_the_outcome_of_the_capture_is_unknown(
    trusting: OrderApp, order: Order, answer: Any
) -> None:
    trusting.payment_rpc.capture_answer = answer
    with pytest.raises(CaptureInProgress) as refused:
        await trusting.ship(order)
    assert refused.value.retry_after_seconds
    assert (await trusting.load(order)).state is S.PENDING_PAYMENT
    trusting.payment_rpc.capture_answer = None
    assert (await trusting.ship(order)).state is S.SHIPPED
    assert len({key for _, key in trusting.payment_rpc.captures}) == 1


async def test_what_a_person_must_see_of_a_captured_payment_is_told_when_it_ships(
    trusting: OrderApp, order: Order
) -> None:
    bounced = ("RF1", "", "REVERSED", "1.00", "why")
    trusting.payment_rpc.capture_answer = snapshot(version=3, refunds=[bounced])
    with capture_logs() as logs:
        assert (await trusting.ship(order)).state is S.SHIPPED
    assert [
        (entry["event"], entry["order_id"], entry["payment_id"])
        for entry in logs
        if entry.get("alert")
    ] == [("order_needs_attention", order.order_id, "PAY1")]


async def test_nothing_is_shipped_when_the_capture_is_refused(
    trusting: OrderApp, order: Order
) -> None:
    trusting.payment_rpc.capture_answer = refusal("CARD_DECLINED")
    with pytest.raises(CaptureRefused) as refused:
        await trusting.ship(order)
    assert refused.value.metadata == {"payment_id": "PAY1", "refusal": "CARD_DECLINED"}
    assert (await trusting.load(order)).state is S.PENDING_PAYMENT


async def test_an_order_that_is_being_cancelled_is_not_captured_for_shipping(
    trusting: OrderApp, order: Order
) -> None:
    trusting.payment_rpc.close_answer = CLOSING
    await trusting.cancel(order, caller=merchant())
    with pytest.raises(OrderStateInvalid):
        await trusting.ship(order)
    assert trusting.payment_rpc.captures == []

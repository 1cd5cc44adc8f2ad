"""Orders and units that cost nothing can be undone like any other: cancelled before they are
shipped, returned unit by unit after that.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import update

from mesh.audit import AuditTolerance
from mesh.errors import Conflict
from mesh.outbox import OUTBOX
from order_rpc.audit.checks import violations
from order_rpc.domain.errors import OrderAlreadyPaid, RefundExceedsRefundable
from order_rpc.domain.order import Order, OrderState, PayStatus
from order_rpc.domain.refund import RefundState, RefundStatus
from order_rpc.tables import RESERVATION
from tests.builders.order import OrderApp, merchant, order_app
from tests.builders.order_steps import rebuild

S = OrderState


@pytest.fixture
async def app(database_url: str) -> AsyncIterator[OrderApp]:
    async with order_app(database_url) as app:
        await app.product("flyer", "0.00")
        await app.product("pen", "0.00")
        await app.product("mug", "10.00")
        yield app
        assert await app.stock_problems() == []
        assert [
            each
            async for each in violations(app.db, AuditTolerance(now=app.clock.now(), strict=False))
        ] == []
        while await app.statistics.fold_once():
            pass
        assert await rebuild(app) == 0


async def tags(app: OrderApp) -> list[str]:
    return [row["tag"] for row in await app.rows(OUTBOX)]


@pytest.mark.parametrize("by_shop", [False, True])
async def test_a_free_order_is_cancelled_at_once_and_its_units_come_back(
    app: OrderApp, by_shop: bool
) -> None:
    order = await app.order(("flyer", 2), ("pen", 1))
    assert (order.state, await app.stock("flyer")) == (S.PAID, (98, 0, 2))
    cancelled = await app.cancel(order, caller=merchant() if by_shop else None)
    assert (cancelled.state, cancelled.pay_status, cancelled.cancel_reason) == (
        S.CANCELLED,
        PayStatus.UNPAID,
        "changed my mind",
    )
    assert (await app.stock("flyer"), await app.stock("pen")) == ((100, 0, 0), (100, 0, 0))
    assert (await app.cancel(order)).state is S.CANCELLED  # again: nothing more happens
    assert await app.stock("flyer") == (100, 0, 0)
    assert app.payment_rpc.closes == []
    assert (await app.steps(order))[-1] == "CANCEL_FREE"
    assert (await tags(app)).count("ORDER_CANCELLED") == 1


async def test_units_that_were_not_sold_to_a_free_order_do_not_come_back(app: OrderApp) -> None:
    order = await app.order(("flyer", 2))
    await app.execute(update(RESERVATION).values(state="RELEASED"))  # the stock says otherwise
    with pytest.raises(Conflict):
        await app.cancel(order)
    assert ((await app.load(order)).state, await app.stock("flyer")) == (S.PAID, (98, 0, 2))
    await app.execute(update(RESERVATION).values(state="COMMITTED"))


async def test_a_free_order_that_was_shipped_is_returned_and_not_cancelled(app: OrderApp) -> None:
    order = await app.order(("flyer", 2))
    await app.ship(order)
    with pytest.raises(OrderAlreadyPaid):
        await app.cancel(order)
    asked = await app.refund(order)
    assert (asked.state, asked.amount.format()) == (RefundState.REQUESTED, "0.00")
    assert await app.stock("flyer") == (98, 0, 2)
    assert (await app.approve(asked)).state is RefundState.SUCCEEDED
    done = await app.load(order)
    assert (done.state, done.refund_status, await app.stock("flyer")) == (
        S.REFUNDED,
        RefundStatus.REFUNDED,
        (100, 0, 0),
    )
    assert (await tags(app)).count("ORDER_REFUNDED") == 1
    assert "CreateRefund" not in await tags(app)


async def test_units_of_a_free_order_come_back_one_by_one_and_once(app: OrderApp) -> None:
    order = await app.order(("flyer", 3))
    assert (await app.refund(order, ("flyer", 1))).state is RefundState.SUCCEEDED
    assert ((await app.load(order)).state, await app.stock("flyer")) == (S.PAID, (98, 0, 2))
    with pytest.raises(OrderAlreadyPaid):  # a part is back: the rest is returned too
        await app.cancel(order)
    with pytest.raises(RefundExceedsRefundable):
        await app.refund(order, ("flyer", 3))
    with pytest.raises(RefundExceedsRefundable):
        await app.refund(order, amount="0.01")
    assert (await app.refund(order, ("flyer", 2))).state is RefundState.SUCCEEDED
    assert ((await app.load(order)).state, await app.stock("flyer")) == (S.REFUNDED, (100, 0, 0))


async def test_a_free_unit_of_a_paid_order_comes_back_without_money(app: OrderApp) -> None:
    order = await app.paid_order(("mug", 1), ("pen", 2))
    back = await app.refund(order, ("pen", 2))
    assert (back.state, back.amount.format(), await app.stock("pen")) == (
        RefundState.SUCCEEDED,
        "0.00",
        (100, 0, 0),
    )
    there = await app.load(order)
    assert (there.state, there.refunded.format(), there.refund_status) == (
        S.PAID,
        "0.00",
        RefundStatus.NONE,
    )
    assert app.payment_rpc.refunds == {}
    with pytest.raises(RefundExceedsRefundable):
        await app.refund(order, ("pen", 1))
    rest = await app.refund(order)
    await app.tell_refund(order, (rest, "SUCCESS"), version=5, refunded="10.00")
    assert ((await app.load(order)).state, await app.stock("mug")) == (S.REFUNDED, (100, 0, 0))


async def test_two_cancels_of_a_free_order_at_once_bring_its_units_back_once(app: OrderApp) -> None:
    order = await app.order(("flyer", 2))
    done: list[Order] = await app.at_once(*(app.cancel(order) for _ in range(6)))
    assert {each.state for each in done} == {S.CANCELLED}
    assert await app.stock("flyer") == (100, 0, 0)

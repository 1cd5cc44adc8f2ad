"""Addresses, parcels and histories of orders on real databases."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from mesh import failpoints
from mesh.call import Caller
from mesh.errors import PageTokenInvalid
from mesh.failpoints import FailpointRaised
from mesh.outbox import OUTBOX
from order_rpc.domain.errors import OrderNotFound, OrderStateInvalid
from order_rpc.domain.order import OrderState, ShippingStatus
from order_rpc.servicer.messages import step_message
from order_rpc.tables import ORDER_AUDIT
from tests.builders.order import ADMIN, HOME, OrderApp, buyer, merchant, order_app

S = OrderState


@pytest.fixture
async def app(database_url: str) -> AsyncIterator[OrderApp]:
    async with order_app(database_url) as app:
        await app.product("mug", "10.00")
        yield app


async def test_a_paid_order_goes_to_the_buyer_step_by_step(app: OrderApp) -> None:
    order = await app.paid_order()
    app.clock.advance(60)
    shipped = await app.ship(order, carrier="顺丰", tracking_number="SF-1")
    assert (
        shipped.state,
        shipped.shipping_status,
        shipped.carrier,
        shipped.tracking_number,
        shipped.shipped_at,
    ) == (S.SHIPPED, ShippingStatus.SHIPPED, "顺丰", "SF-1", app.clock.now())
    arrived = await app.complete(order)
    assert (arrived.state, arrived.shipping_status, arrived.completed_at) == (
        S.COMPLETED,
        ShippingStatus.DELIVERED,
        app.clock.now(),
    )
    assert await app.load(order) == arrived
    assert await app.steps(order) == ["CREATE", "PAY", "SHIP", "COMPLETE"]
    tags = [row["tag"] for row in await app.rows(OUTBOX) if row["aggregate_id"] == order.order_id]
    assert tags == ["ORDER_CREATED", "ORDER_PAID", "ORDER_SHIPPED", "ORDER_COMPLETED"]


async def test_the_same_parcel_again_is_no_second_step_and_another_one_is_refused(
    app: OrderApp,
) -> None:
    order = await app.paid_order()
    first = await app.ship(order)
    assert await app.ship(order) == first
    with pytest.raises(OrderStateInvalid):
        await app.ship(order, tracking_number="T2")
    await app.complete(order)
    assert (await app.complete(order)).state is S.COMPLETED
    assert await app.steps(order) == ["CREATE", "PAY", "SHIP", "COMPLETE"]


async def test_twenty_clerks_ship_an_order_once(app: OrderApp) -> None:
    order = await app.paid_order()
    await app.at_once(
        *(app.ship(order, caller=merchant(subject=f"clerk{number}")) for number in range(20))
    )
    assert (await app.steps(order)).count("SHIP") == 1


@pytest.mark.parametrize(
    "state", [S.PENDING_PAYMENT, S.CANCELLING, S.CANCELLED, S.COMPLETED, S.REFUNDED]
)
async def test_what_is_not_paid_is_not_shipped(app: OrderApp, state: OrderState) -> None:
    order = await app.order()
    await app.force_state(order, state)
    with pytest.raises(OrderStateInvalid):
        await app.ship(order)


@pytest.mark.parametrize("state", [S.PENDING_PAYMENT, S.PAID, S.CANCELLED, S.REFUNDED])
async def test_what_is_not_on_its_way_does_not_arrive(app: OrderApp, state: OrderState) -> None:
    order = await app.order()
    await app.force_state(order, state)
    with pytest.raises(OrderStateInvalid):
        await app.complete(order)


async def test_another_shop_and_another_buyer_find_nothing(app: OrderApp) -> None:
    order = await app.paid_order()
    with pytest.raises(OrderNotFound):
        await app.ship(order, caller=merchant("tea_house"))
    await app.ship(order)
    with pytest.raises(OrderNotFound):
        await app.complete(order, caller=buyer("u2"))


@pytest.mark.parametrize(
    ("point", "state"),
    [("order.ship.before_commit", S.PAID), ("order.ship.after_commit", S.SHIPPED)],
)
async def test_a_ship_that_was_cut_happened_or_did_not_and_may_be_repeated(
    app: OrderApp, point: str, state: OrderState
) -> None:
    order = await app.paid_order()
    failpoints.arm(f"{point}=raise", environment="test")
    with pytest.raises(FailpointRaised):
        await app.ship(order)
    assert (await app.load(order)).state is state
    assert (await app.ship(order)).state is S.SHIPPED
    assert (await app.steps(order)).count("SHIP") == 1


# Addresses.


async def test_an_order_goes_where_its_buyer_said(app: OrderApp) -> None:
    order = await app.order(address=HOME)
    assert (await app.load(order)).address == HOME
    elsewhere = replace(HOME, street="北京路 2", city="广州 ☕")
    moved = await app.shipments.set_shipping_address(
        merchant_id="mall", order_id=order.order_id, address=elsewhere, caller=buyer()
    )
    assert (moved.address, moved.version) == (elsewhere, 2)
    assert (await app.load(order)).address == elsewhere
    again = await app.shipments.set_shipping_address(
        merchant_id="mall", order_id=order.order_id, address=elsewhere, caller=buyer()
    )
    assert (again.version, await app.steps(order)) == (2, ["CREATE", "SET_SHIPPING_ADDRESS"])


async def test_a_replay_answers_the_address_of_the_first_call(app: OrderApp) -> None:
    first = await app.order(key="k", address=HOME)
    await app.shipments.set_shipping_address(
        merchant_id="mall",
        order_id=first.order_id,
        address=replace(HOME, city="广州"),
        caller=buyer(),
    )
    assert await app.order(key="k", address=HOME) == first


@pytest.mark.parametrize("state", [each for each in S if each is not S.PENDING_PAYMENT])
async def test_an_address_is_fixed_once_the_order_does_not_wait_for_money(
    app: OrderApp, state: OrderState
) -> None:
    order = await app.order()
    await app.force_state(order, state)
    with pytest.raises(OrderStateInvalid):
        await app.shipments.set_shipping_address(
            merchant_id="mall", order_id=order.order_id, address=HOME, caller=ADMIN
        )


async def test_somebody_elses_address_is_not_set(app: OrderApp) -> None:
    order = await app.order()
    with pytest.raises(OrderNotFound):
        await app.shipments.set_shipping_address(
            merchant_id="mall", order_id=order.order_id, address=HOME, caller=buyer("u2")
        )


async def test_an_address_is_in_no_event_and_no_line_of_the_history(app: OrderApp) -> None:
    order = await app.order(address=HOME)
    await app.shipments.set_shipping_address(
        merchant_id="mall",
        order_id=order.order_id,
        address=replace(HOME, phone="123456"),
        caller=buyer(),
    )
    written = (
        str(await app.rows(OUTBOX)) + str(await app.rows(ORDER_AUDIT)) + repr(await app.load(order))
    )
    for secret in (HOME.recipient, HOME.phone, HOME.street, "123456"):
        assert secret not in written


# Histories.


async def test_a_history_comes_in_pages_oldest_first(app: OrderApp) -> None:
    order = await app.paid_order()
    await app.ship(order)
    pages, token = [], ""
    while True:
        steps, token = await app.shipments.get_timeline(
            merchant_id="mall",
            order_id=order.order_id,
            requested_size=2,
            page_token=token,
            caller=buyer(),
        )
        pages.append([step.row.event for step in steps])
        if not token:
            break
    assert pages == [["CREATE", "PAY"], ["SHIP"]]
    other = await app.order()
    _, token = await app.shipments.get_timeline(
        merchant_id="mall", order_id=order.order_id, requested_size=1, page_token="", caller=ADMIN
    )
    with pytest.raises(PageTokenInvalid):
        await app.shipments.get_timeline(
            merchant_id="mall",
            order_id=other.order_id,
            requested_size=1,
            page_token=token,
            caller=ADMIN,
        )
    with pytest.raises(OrderNotFound):
        await app.shipments.get_timeline(
            merchant_id="mall",
            order_id=order.order_id,
            requested_size=1,
            page_token="",
            caller=buyer("u2"),
        )


@pytest.mark.parametrize(
    ("caller", "operators"),
    [
        (buyer(), ["user:u1", "payment_rpc", "merchant"]),
        (merchant(), ["user:u1", "payment_rpc", "merchant:clerk"]),
    ],
)
async def test_a_buyer_does_not_learn_who_works_for_a_shop(
    app: OrderApp, caller: Caller, operators: list[str]
) -> None:
    order = await app.paid_order()
    await app.ship(order)
    steps, _ = await app.shipments.get_timeline(
        merchant_id="mall", order_id=order.order_id, requested_size=0, page_token="", caller=caller
    )
    assert [step_message(step, caller).operator for step in steps] == operators

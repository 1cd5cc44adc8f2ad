"""Merchants' own orders on real databases: one order per number for ever, at the merchant's prices,
and everything that an order of the catalogue can do.
"""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from mesh import failpoints
from mesh.call import calling
from mesh.errors import IdempotencyKeyReused, InvalidArgument, PermissionDenied
from mesh.failpoints import FailpointRaised
from mesh.idempotency import RECEIPT
from mesh.money import Money
from order_rpc.domain.errors import (
    OrderAlreadyPaid,
    OrderExistsDifferent,
    OrderNotFound,
    OrderStateInvalid,
    OutOfStock,
    ProductNotFound,
    TotalTooLarge,
)
from order_rpc.domain.external_order import ExternalLine, OrderKind
from order_rpc.domain.order import Order, OrderState
from order_rpc.domain.order_line import StockSource
from order_rpc.domain.payment import Disposition
from order_rpc.domain.policy import MerchantPolicy
from order_rpc.tables import EXTERNAL_ORDER, ORDERS, RESERVATION, STOCK_RETURN
from order_rpc.usecases.orders import ListOrders
from tests.builders.external_order import create, line, money, register
from tests.builders.order import HOME, PAYMENT_RPC, PAYMENT_WINDOW, OrderApp, buyer, merchant
from tests.builders.order import snapshot as of_payment


def usd(**changes: str) -> dict[str, Any]:
    return {"captured": "100.00", "currency": "USD", **changes}


async def test_an_order_of_a_merchant_has_its_prices_and_takes_no_stock(app: OrderApp) -> None:
    order = await create(
        app, line(quantity=2), line("B", "0.50"), shipping="5.00", discount="10.00", amount="195.50"
    )
    assert (order.kind, order.order_no, order.state, order.amount, order.items_amount) == (
        OrderKind.EXTERNAL,
        "A-1",
        OrderState.PENDING_PAYMENT,
        money("195.50"),
        money("200.50"),
    )
    assert order.user_id == f"ext:{order.order_id}"
    assert {each.stock_source for each in order.lines} == {StockSource.MERCHANT}
    assert order.expires_at - order.created_at == PAYMENT_WINDOW
    assert await app.rows(RESERVATION) == []
    assert await app.load(order) == order


async def test_the_same_product_twice_is_added_up(app: OrderApp) -> None:
    order = await create(app, line(), line(quantity=2))
    assert [(each.sku_id, each.quantity) for each in order.lines] == [("A-BIKE", 3)]


@pytest.mark.parametrize(
    ("second", "field"),
    [
        (line(price="99.00"), "items[1]"),
        (line(name="Another bike"), "items[1]"),
        (line(quantity=10_000), "items[1].quantity"),
    ],
)
async def test_one_product_has_one_price_one_name_and_so_many_units(
    app: OrderApp, second: ExternalLine, field: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await create(app, line(), second)
    assert list(refused.value.fields) == [field]
    assert await app.rows(ORDERS) == []


async def test_a_sum_that_is_not_ours_is_refused(app: OrderApp) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await create(app, line(), shipping="5.00", amount="100.00")
    assert refused.value.fields == {"amount": "the lines, shipping and discount make 105.00 USD"}


async def test_more_cannot_be_taken_off_than_the_order_costs(app: OrderApp) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await create(app, line(), discount="100.01")
    assert list(refused.value.fields) == ["discount"]


async def test_a_total_has_at_most_fifteen_digits(app: OrderApp) -> None:
    with pytest.raises(TotalTooLarge):
        await create(app, line(price="9999999999999.99", quantity=2))
    with pytest.raises(TotalTooLarge):
        await create(app, line(price="9999999999999.99"), shipping="0.01")


async def test_a_total_of_nothing_is_paid_at_once(app: OrderApp) -> None:
    assert (await create(app, line(), discount="100.00")).state is OrderState.PAID


async def test_fifty_equal_orders_at_once_are_one(app: OrderApp) -> None:
    orders = await app.at_once(*(create(app) for _ in range(50)))
    assert len({order.order_id for order in orders}) == 1
    assert len(await app.rows(ORDERS)) == len(await app.rows(EXTERNAL_ORDER)) == 1


async def test_the_same_number_again_is_the_same_order_and_marked_for_ever(app: OrderApp) -> None:
    first = await create(app, expires_at=app.clock.now() + timedelta(hours=1))
    app.clock.advance(timedelta(days=400).total_seconds())
    with calling(caller=merchant(), timeout_seconds=5) as call:
        again = await create(app, expires_at=first.expires_at)
    assert again == first
    assert ("x-paymesh-idempotent-replayed", "true") in call.trailing


@pytest.mark.parametrize(
    ("item", "shipping", "fields"),
    [
        (line(), "1.00", {"amount"}),
        (line("B"), "0", {"items"}),
        (line(quantity=2), "0", {"amount", "items"}),
    ],
)
async def test_the_same_number_for_another_order_is_refused_and_named(
    app: OrderApp, item: ExternalLine, shipping: str, fields: set[str]
) -> None:
    await create(app)
    with pytest.raises(OrderExistsDifferent) as refused:
        await create(app, item, shipping=shipping)
    assert set(refused.value.fields) == fields
    assert len(await app.rows(ORDERS)) == 1


async def test_another_currency_is_another_order(app: OrderApp) -> None:
    await register(app)
    with pytest.raises(OrderExistsDifferent) as refused:
        await register(app, amount=Money(10_000, "EUR"))
    assert set(refused.value.fields) == {"currency"}
    with pytest.raises(OrderExistsDifferent) as refused:
        await register(app, amount=money("99.99"))
    assert set(refused.value.fields) == {"amount"}


async def test_two_merchants_may_use_one_number(app: OrderApp) -> None:
    ours = await create(app)
    theirs = await create(app, caller=merchant("tea_house"))
    assert ours.order_id != theirs.order_id
    for order, shop in ((ours, "mall"), (theirs, "tea_house")):
        found = await app.orders.get(merchant_id=shop, order_id="A-1", caller=merchant(shop))
        assert found == order


async def test_orders_without_a_number_are_one_each(app: OrderApp) -> None:
    first, second = await create(app, order_no=""), await create(app, order_no="")
    assert first.order_id != second.order_id


async def test_a_number_may_not_look_like_one_of_our_ids(app: OrderApp) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await create(app, order_no=f"ORD{1:026d}")
    assert list(refused.value.fields) == ["order_no"]


@pytest.mark.parametrize("email", ["li", "li@", "@example.com", "l i@example.com", "a@b@c"])
async def test_an_address_is_an_address(app: OrderApp, email: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await create(app, customer_email=email)
    assert list(refused.value.fields) == ["customer_email"]


async def test_a_key_works_beside_the_number(app: OrderApp) -> None:
    first = await create(app, order_no="", key="k1")
    assert (await create(app, order_no="", key="k1")).order_id == first.order_id
    with pytest.raises(IdempotencyKeyReused):
        await create(app, order_no="A-2", key="k1")


@pytest.mark.parametrize("days", [-1, 0, 7.1])
async def test_a_deadline_is_in_the_future_and_at_most_a_week_away(
    app: OrderApp, days: float
) -> None:
    moment = app.clock.now() + timedelta(days=days)
    for call in (create(app, expires_at=moment), register(app, expires_at=moment)):
        with pytest.raises(InvalidArgument) as refused:
            await call
        assert list(refused.value.fields) == ["expires_at"]
    at_last = app.clock.now() + timedelta(days=7)
    assert (await create(app, expires_at=at_last)).expires_at == at_last


async def test_our_stock_is_taken_at_the_price_of_the_merchant_when_it_asks(app: OrderApp) -> None:
    await app.product("mug", "10.00", available=3)
    order = await create(app, line("mug", "7.00", 2, name="Mug"), reserve_stock=True)
    assert (order.amount, await app.stock()) == (money("14.00"), (1, 2, 0))
    assert (await create(app, line("mug", "7.00", 2, name="Mug"), reserve_stock=True)) == order
    with pytest.raises(OutOfStock):
        await create(app, line("mug", "7.00", 2), order_no="A-2", reserve_stock=True)
    with pytest.raises(ProductNotFound):
        await create(app, line("cup"), order_no="A-2", reserve_stock=True)
    await app.tell(order, of_payment(**usd(captured="14.00")))
    assert (await app.stock(), await app.stock_problems()) == ((1, 0, 2), [])


async def test_a_registered_order_is_one_line_of_what_it_costs(app: OrderApp) -> None:
    order, existed = await register(app)
    assert (existed, order.amount, [each.sku_id for each in order.lines]) == (
        False,
        money("100.00"),
        ["A-1"],
    )
    assert await register(app) == (order, True)
    assert (await app.steps(order)) == ["CREATE"]


async def test_fifty_equal_registrations_at_once_are_one_order(app: OrderApp) -> None:
    registered = await app.at_once(*(register(app) for _ in range(50)))
    assert len({order.order_id for order, _ in registered}) == 1
    assert [existed for _, existed in registered].count(False) == 1


@pytest.mark.parametrize("point", ["before_commit", "after_commit"])
async def test_a_crash_of_a_registration_leaves_all_or_nothing_and_it_is_repeated(
    app: OrderApp, point: str
) -> None:
    failpoints.arm(f"order.external.{point}=raise", environment="test")
    with pytest.raises(FailpointRaised):
        await register(app)
    failpoints.arm("", environment="test")
    assert len(await app.rows(ORDERS)) == (1 if point == "after_commit" else 0)
    order, existed = await register(app)
    assert existed is (point == "after_commit")
    assert [row["order_id"] for row in await app.rows(EXTERNAL_ORDER)] == [order.order_id]


async def test_an_order_that_nobody_pays_expires_by_itself(app: OrderApp) -> None:
    order, _ = await register(app)
    app.clock.advance(PAYMENT_WINDOW.total_seconds() + 1)
    assert await app.expire() == 1
    await app.relay()
    assert (await app.load(order)).state is OrderState.CANCELLED
    closed, existed = await register(app)
    assert (existed, closed.state) == (True, OrderState.CANCELLED)


async def test_every_method_takes_the_number_of_the_merchant(app: OrderApp) -> None:
    order = await create(app)
    caller = merchant()
    number = {"merchant_id": "mall", "order_id": "A-1"}
    assert await app.orders.get(**number, caller=caller) == order
    assert (
        await app.shipments.set_shipping_address(**number, address=HOME, caller=caller)
    ).address == HOME
    await app.tell(order, of_payment(**usd()))
    shipped = await app.shipments.ship(**number, carrier="SF", tracking_number="1", caller=caller)
    assert shipped.order_id == order.order_id
    assert (await app.shipments.complete(**number, caller=caller)).state is OrderState.COMPLETED
    steps, _ = await app.shipments.get_timeline(
        **number, requested_size=10, page_token="", caller=caller
    )
    assert [step.row.event for step in steps][-1] == "COMPLETE"
    with pytest.raises(OrderAlreadyPaid):
        await app.real.cancellations.cancel(**number, reason="no", caller=caller)
    with pytest.raises(OrderNotFound):
        await app.orders.get(**number, caller=buyer())
    with pytest.raises(OrderNotFound):
        await app.orders.get(merchant_id="tea_house", order_id="A-1", caller=merchant("tea_house"))


async def test_the_merchants_number_cancels_its_order(app: OrderApp) -> None:
    order = await create(app)
    cancelled = await app.real.cancellations.cancel(
        merchant_id="mall", order_id="A-1", reason="no", caller=merchant()
    )
    assert (cancelled.order_id, cancelled.state) == (order.order_id, OrderState.CANCELLED)
    assert app.payment_rpc.closes[0][0] == order.order_id


async def test_a_refund_of_units_that_we_do_not_hold_brings_none_back(app: OrderApp) -> None:
    order = await create(app, line(quantity=2, price="50.00"))
    await app.tell(order, of_payment(**usd()))
    refund = await app.refund(order, ("A-BIKE", 1), caller=merchant())
    assert refund.amount == money("50.00")
    told = (app.payment_rpc.refund_id(refund.request_id), refund.request_id, "SUCCESS", "50.00", "")
    await app.tell(order, of_payment(version=4, refunded="50.00", refunds=[told], **usd()))
    assert (await app.load(order)).refunded == money("50.00")
    assert await app.rows(STOCK_RETURN) == []


async def late(app: OrderApp) -> tuple[Order, Disposition]:
    """Money for an order that was cancelled."""
    order = await create(app)
    await app.cancel(order, caller=merchant())
    answer = await app.tell(order, of_payment(**usd()))
    return await app.load(order), answer.disposition


async def test_late_money_of_an_external_order_goes_back_whatever_the_shop_does_else(
    app: OrderApp,
) -> None:
    app.policies["mall"] = MerchantPolicy(revives_if_stock=True)
    order, disposition = await late(app)
    assert (order.state, disposition) == (OrderState.CANCELLED, Disposition.REFUSED_CANCELLED)


async def test_erasing_removes_what_is_said_of_people_and_no_money(app: OrderApp) -> None:
    order = await create(app)
    await app.shipments.set_shipping_address(
        merchant_id="mall", order_id="A-1", address=HOME, caller=merchant()
    )
    await app.tell(order, of_payment(**usd()))
    before = await app.load(order)
    assert before.external is not None
    erase = app.real.external_orders.erase_personal_data
    erased = await erase(
        merchant_id="mall", order_id="A-1", reason="asked by letter", caller=merchant()
    )
    assert await app.load(order) == erased
    assert erased.external is not None
    assert erased.external.order_no == "A-1"
    said = erased.external
    assert (said.customer_email, said.customer_name, said.description, dict(said.metadata)) == (
        "",
        "",
        "",
        {},
    )
    assert erased.address is None
    assert (erased.amount, erased.captured, erased.state) == (
        before.amount,
        before.captured,
        before.state,
    )
    [row] = await app.rows(EXTERNAL_ORDER)
    assert (json.loads(row["customer"]), row["customer_digest"]) == ({}, None)
    steps, _ = await app.shipments.get_timeline(
        merchant_id="mall", order_id="A-1", requested_size=10, page_token="", caller=merchant()
    )
    assert (steps[-1].row.event, steps[-1].row.remark, steps[-1].row.operator) == (
        "ERASE_PERSONAL_DATA",
        "asked by letter",
        "merchant:clerk",
    )
    assert (
        await erase(merchant_id="mall", order_id="A-1", reason="once more", caller=merchant())
        == erased
    )
    assert await find(app, customer_email="li@example.com") == []


async def test_the_first_answer_of_an_erased_order_says_nothing_of_people(app: OrderApp) -> None:
    order = await create(app, key="K1", address=HOME)
    await create(app, order_no="A-2", key="K2", address=HOME)
    assert (await create(app, key="K1", address=HOME)).address == HOME
    await app.real.external_orders.erase_personal_data(
        merchant_id="mall", order_id="A-1", reason="asked by letter", caller=merchant()
    )
    again = await create(app, key="K1", address=HOME)
    assert (again.order_id, again.state, again.version, again.address) == (
        order.order_id,
        order.state,
        order.version,
        None,
    )
    answers = {row["resource_id"]: json.loads(row["answer"]) for row in await app.rows(RECEIPT)}
    assert answers.pop(order.order_id)["address"] is None
    [other] = answers.values()
    assert other["address"] is not None


async def test_payments_of_an_erased_order_forget_its_customer_a_minute_later(
    app: OrderApp,
) -> None:
    order = await create(app)
    erase = app.real.external_orders.erase_personal_data
    for _ in range(2):
        await erase(merchant_id="mall", order_id="A-1", reason="a letter", caller=merchant())
    app.clock.advance(59)
    await app.real.payment_relay.run_once()
    assert app.payment_rpc.forgotten == []
    app.clock.advance(1)
    app.payment_rpc.away = True
    await app.real.payment_relay.run_once()
    app.payment_rpc.away = False
    app.clock.advance(600)
    await app.real.payment_relay.run_once()
    assert app.payment_rpc.forgotten == [("mall", order.order_id)]


async def test_only_an_external_order_of_the_callers_can_be_erased(app: OrderApp) -> None:
    await app.product()
    order = await app.order()
    erase = app.real.external_orders.erase_personal_data
    with pytest.raises(OrderStateInvalid):
        await erase(merchant_id="mall", order_id=order.order_id, reason="no", caller=merchant())
    await create(app)
    with pytest.raises(OrderNotFound):
        await erase(merchant_id="mall", order_id="A-1", reason="no", caller=merchant("tea_house"))


async def find(app: OrderApp, *, state: OrderState | None = None, **wanted: Any) -> list[str]:
    """The numbers of the orders that a search finds, page by page."""
    found: list[str] = []
    token = ""
    while True:
        page, token = await app.orders.list(
            ListOrders(
                merchant_id="mall", user_id="", state=state, page_size=2, page_token=token, **wanted
            ),
            merchant(),
        )
        found += [order.order_no for order in page]
        if not token:
            return found


async def test_orders_are_found_by_number_and_by_customer_newest_first(app: OrderApp) -> None:
    for number in range(5):
        await create(app, order_no=f"A-{number}", customer_email="Li@Example.com")
        app.clock.advance(1)
    await create(app, order_no="B-1", customer_email="wu@example.com")
    await create(app, order_no="A-9", caller=merchant("tea_house"))
    paid = await app.orders.get(merchant_id="mall", order_id="A-3", caller=PAYMENT_RPC)
    await app.tell(paid, of_payment(**usd()))
    assert await find(app, order_no="A-2") == ["A-2"]
    assert await find(app, order_no="A-9") == []
    assert await find(app, customer_email="li@example.com ") == ["A-4", "A-3", "A-2", "A-1", "A-0"]
    assert await find(app, customer_email="li@example.com", state=OrderState.PAID) == ["A-3"]
    assert await find(app, customer_email="wu@example.com") == ["B-1"]
    assert await find(app, order_no="A-2", customer_email="wu@example.com") == []


async def test_a_buyer_does_not_search_for_customers(app: OrderApp) -> None:
    with pytest.raises(PermissionDenied) as refused:
        await app.orders.list(
            ListOrders(
                merchant_id="mall",
                user_id="u1",
                state=None,
                page_size=1,
                page_token="",
                customer_email="li@example.com",
            ),
            buyer(),
        )
    assert list(refused.value.fields) == ["customer_email"]

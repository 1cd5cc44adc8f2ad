"""Orders and products without a database: every step that an order may take and every one that it
may not, prices, totals, and what payments do.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from mesh.errors import InvalidArgument
from mesh.money import Money, RequestedAmount
from order_rpc.domain.errors import (
    CurrencyMixed,
    OrderStateInvalid,
    OutOfStock,
    PriceChanged,
    ProductAlreadyExists,
    ProductNotFound,
    TotalTooLarge,
)
from order_rpc.domain.hold import HeldMoney
from order_rpc.domain.order import Order, OrderState, Verb, next_state
from order_rpc.domain.order_line import NewLine, OrderLine, price_lines
from order_rpc.domain.payment import Disposition, KnownPayment, PaymentSnapshot, decide
from order_rpc.domain.product import Product
from tests.support.fakes import EPOCH

S, V = OrderState, Verb

# docs/protocols.md 4, written down a second time on purpose.
STEPS = {
    (S.PENDING_PAYMENT, V.PAY): S.PAID,
    (S.PENDING_PAYMENT, V.BEGIN_CANCEL): S.CANCELLING,
    (S.CANCELLING, V.CANCEL): S.CANCELLED,
    (S.CANCELLING, V.PAY): S.PAID,
    (S.CANCELLING, V.HOLD): S.PENDING_PAYMENT,
    (S.CANCELLED, V.REVIVE): S.PAID,
    (S.PAID, V.CANCEL_FREE): S.CANCELLED,
    (S.PAID, V.SHIP): S.SHIPPED,
    (S.PAID, V.REFUND): S.REFUNDED,
    (S.SHIPPED, V.COMPLETE): S.COMPLETED,
    (S.SHIPPED, V.REFUND): S.REFUNDED,
    (S.COMPLETED, V.REFUND): S.REFUNDED,
}


def product(
    sku_id: str = "mug", price: str = "9.90", *, currency: str = "CNY", available: int = 10
) -> Product:
    return Product.create(
        merchant_id="mall",
        sku_id=sku_id,
        name=f"A {sku_id}",
        price=Money.parse(price, currency, allow_zero=True),
        available=available,
        at=EPOCH,
    )


def shelf(*products: Product) -> dict[str, Product]:
    return {each.sku_id: each for each in products}


def line(sku_id: str = "mug", quantity: int = 1, unit_price: str = "") -> NewLine:
    return NewLine(sku_id=sku_id, quantity=quantity, unit_price=RequestedAmount(unit_price))


def order(
    state: OrderState = S.PENDING_PAYMENT, *, amount: str = "99.99", paid_by: str = ""
) -> Order:
    placed = Order.place(
        merchant_id="mall",
        order_id="ORD1",
        user_id="u1",
        at=EPOCH,
        expires_at=EPOCH + timedelta(minutes=30),
        lines=(
            OrderLine(
                sku_id="mug",
                name="A mug",
                unit_price=Money.parse(amount, "CNY", allow_zero=True),
                quantity=1,
            ),
        ),
    )
    return replace(placed, state=state, paid_payment_id=paid_by)


def snapshot(
    *,
    state: str = "SUCCESS",
    captured: str = "99.99",
    refunded: str = "0",
    currency: str = "CNY",
    version: int = 3,
) -> PaymentSnapshot:
    return PaymentSnapshot.parse(
        payment_id="PAY1",
        version=version,
        state=state,
        captured=captured,
        refunded=refunded,
        refund_reserved="0",
        currency=currency,
    )


@pytest.mark.parametrize("verb", Verb)
@pytest.mark.parametrize("state", OrderState)
def test_a_step_is_possible_exactly_where_the_protocol_has_it(
    state: OrderState, verb: Verb
) -> None:
    if (state, verb) in STEPS:
        assert next_state(state, verb) is STEPS[state, verb]
        return
    with pytest.raises(OrderStateInvalid) as refusal:
        next_state(state, verb)
    assert refusal.value.metadata == {"state": state, "verb": verb}
    assert refusal.value.reason == "ORDER_STATE_INVALID"


def test_every_state_can_be_reached_and_only_refunded_is_final() -> None:
    assert {S.PENDING_PAYMENT, *STEPS.values()} == set(S)
    assert set(S) - {state for state, _ in STEPS} == {S.REFUNDED}


def test_paying_raises_the_version_and_names_the_payment() -> None:
    later = EPOCH + timedelta(minutes=1)
    paid = order().pay(payment_id="PAY1", at=later)
    assert (paid.state, paid.paid_payment_id, paid.paid_at, paid.updated_at, paid.version) == (
        S.PAID,
        "PAY1",
        later,
        later,
        2,
    )


@pytest.mark.parametrize("state", [S.PAID, S.CANCELLED, S.SHIPPED, S.COMPLETED, S.REFUNDED])
def test_an_order_that_waits_for_no_money_cannot_be_paid(state: OrderState) -> None:
    with pytest.raises(OrderStateInvalid):
        order(state).pay(payment_id="PAY1", at=EPOCH)


def test_lines_are_priced_by_the_catalogue_added_up_per_sku_and_sorted() -> None:
    lines = price_lines(
        [line("pen", 2), line("mug", 1), line("pen", 3)],
        shelf(product("mug", "9.90"), product("pen", "0.05")),
    )
    assert [
        (each.sku_id, each.name, each.quantity, each.unit_price.format(), each.amount.format())
        for each in lines
    ] == [("mug", "A mug", 1, "9.90", "9.90"), ("pen", "A pen", 5, "0.05", "0.25")]


def test_an_unknown_product_is_named_with_its_place() -> None:
    with pytest.raises(ProductNotFound) as refusal:
        price_lines([line("mug"), line("cup")], shelf(product("mug")))
    assert refusal.value.fields == {"items[1].sku_id": "no such product"}
    assert refusal.value.metadata == {"sku_id": "cup"}


def test_two_currencies_do_not_mix_in_one_order() -> None:
    with pytest.raises(CurrencyMixed) as refusal:
        price_lines(
            [line("mug"), line("pen")], shelf(product("mug"), product("pen", "1", currency="JPY"))
        )
    assert list(refusal.value.fields) == ["items[1].sku_id"]


@pytest.mark.parametrize("seen", ["9.9", "9.90", "09.90"])
def test_the_price_that_the_client_saw_may_be_written_in_any_way(seen: str) -> None:
    assert price_lines([line(unit_price=seen)], shelf(product()))


def test_another_price_than_the_client_saw_is_refused_with_the_price_now() -> None:
    with pytest.raises(PriceChanged) as refusal:
        price_lines(
            [line("pen"), line("mug", 1, "9.89")], shelf(product("mug"), product("pen", "1"))
        )
    assert refusal.value.metadata == {"sku_id": "mug", "price": "9.90", "currency": "CNY"}
    assert list(refusal.value.fields) == ["items[1].unit_price"]


def test_a_price_that_is_no_amount_of_the_currency_is_refused_with_its_field() -> None:
    with pytest.raises(InvalidArgument) as refusal:
        price_lines([line("mug", 1, "9.900")], shelf(product()))
    assert list(refusal.value.fields) == ["items[0].unit_price"]


def test_the_stock_is_asked_for_the_sum_of_all_lines_of_a_product() -> None:
    with pytest.raises(OutOfStock) as refusal:
        price_lines([line("mug", 2), line("mug", 2)], shelf(product(available=3)))
    assert refusal.value.metadata == {"sku_id": "mug", "available": "3"}
    assert "3 units of mug" in refusal.value.message
    assert list(refusal.value.fields) == ["items"]


@pytest.mark.parametrize(
    ("price", "quantity", "fits"), [("9999999999999.99", 1, True), ("5000000000000.00", 2, False)]
)
def test_a_total_has_at_most_fifteen_digits(price: str, quantity: int, *, fits: bool) -> None:
    lines = price_lines([line("mug", quantity)], shelf(product(price=price)))

    def place() -> Order:
        return Order.place(
            merchant_id="mall",
            order_id="ORD1",
            user_id="u1",
            lines=lines,
            at=EPOCH,
            expires_at=EPOCH,
        )

    if fits:
        assert place().amount.format() == price
    else:
        with pytest.raises(TotalTooLarge) as refusal:
            place()
        assert list(refusal.value.fields) == ["items"]


def test_the_same_content_of_a_product_is_recognised_after_sales() -> None:
    there = product()
    sold = replace(
        there, stock=replace(there.stock, available=1, sold=9), updated_at=EPOCH + timedelta(days=1)
    )
    sold.require_same_content(product())


@pytest.mark.parametrize(
    ("other", "fields"),
    [
        ({"name": "Cup"}, ["name"]),
        ({"price": Money(1, "CNY")}, ["price"]),
        ({"price": Money(990, "USD")}, ["currency"]),
        ({"first_available": 11}, ["available"]),
        (
            {"name": "Cup", "price": Money(1, "USD"), "first_available": 0},
            ["available", "currency", "name", "price"],
        ),
    ],
)
def test_other_content_of_a_product_is_named_field_by_field(other: dict, fields: list[str]) -> None:
    with pytest.raises(ProductAlreadyExists) as refusal:
        product().require_same_content(replace(product(), **other))
    assert list(refusal.value.fields) == fields


# What becomes of an order by a payment with money. One line per state and cause.
DECISIONS = [
    (order(S.PENDING_PAYMENT), Disposition.APPLIED, S.PAID),
    (order(S.CANCELLING), Disposition.APPLIED, S.PAID),
    (order(S.CANCELLED), Disposition.REFUSED_CANCELLED, S.CANCELLED),
    *[
        (order(state, paid_by="PAY1"), Disposition.ALREADY, state)
        for state in (S.PAID, S.SHIPPED, S.COMPLETED, S.REFUNDED)
    ],
    *[
        (order(state, paid_by="PAY2"), Disposition.REFUSED_PAID_BY_OTHER, state)
        for state in (S.PAID, S.SHIPPED, S.COMPLETED, S.REFUNDED)
    ],
    # nothing was owed, so nobody's money is taken
    (order(S.PAID, paid_by="", amount="0"), Disposition.REFUSED_PAID_BY_OTHER, S.PAID),
]


@pytest.mark.parametrize(
    ("before", "disposition", "state"),
    DECISIONS,
    ids=[f"{each[0].state}-{each[1]}" for each in DECISIONS],
)
def test_money_is_taken_once_and_refused_everywhere_else(
    before: Order, disposition: Disposition, state: OrderState
) -> None:
    decision = decide(before, snapshot(), at=EPOCH)
    assert (decision.disposition, decision.order.state, decision.shortfall) == (
        disposition,
        state,
        "",
    )
    if disposition is Disposition.APPLIED:
        assert decision.order.paid_payment_id == "PAY1"
    else:
        assert decision.order == before


def test_every_state_has_a_decision() -> None:
    assert {each[0].state for each in DECISIONS} == set(S)


@pytest.mark.parametrize("state", [S.PENDING_PAYMENT, S.CANCELLING])
@pytest.mark.parametrize("money", [{"captured": "99.98"}, {"captured": "0"}, {"currency": "USD"}])
def test_money_that_is_not_the_price_of_the_order_pays_nothing_and_is_shown_to_a_person(
    state: OrderState, money: dict[str, Any]
) -> None:
    before = order(state)
    decision = decide(before, snapshot(**money), at=EPOCH)
    assert (decision.order, decision.disposition) == (before, None)
    assert "99.99 CNY" in decision.shortfall


@pytest.mark.parametrize("state", [S.PENDING_PAYMENT, S.CANCELLING])
def test_less_money_pays_an_order_whose_shop_captured_a_part_on_purpose(state: OrderState) -> None:
    part = replace(snapshot(captured="50"), captured_in_part=True)
    decision = decide(order(state), part, at=EPOCH)
    assert (decision.disposition, decision.order.state) == (Disposition.APPLIED, S.PAID)
    assert decision.order.captured == part.captured


@pytest.mark.parametrize("money", [{"captured": "0"}, {"captured": "50", "currency": "USD"}])
def test_a_part_that_is_nothing_or_of_another_currency_pays_nothing(money: dict[str, Any]) -> None:
    part = replace(snapshot(**money), captured_in_part=True)
    assert decide(order(), part, at=EPOCH).disposition is None


def test_more_money_than_the_order_costs_pays_it() -> None:
    assert decide(order(), snapshot(captured="100"), at=EPOCH).disposition is Disposition.APPLIED


@pytest.mark.parametrize(
    ("state", "decides"),
    [
        ("SUCCESS", True),
        ("LATE_SUCCESS", True),
        ("PAYING", False),
        ("FAILED", False),
        ("CLOSED", False),
        ("CLOSING", False),
        ("INIT", False),
        ("LATE_REFUNDED", False),
        ("CONFLICTED", False),
        ("SOMETHING_NEW", False),
    ],
)
def test_only_success_and_late_success_decide(state: str, *, decides: bool) -> None:
    assert snapshot(state=state).has_money is decides


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("payment.captured", {"captured": "99.999"}),
        ("payment.refunded", {"refunded": "100"}),
        ("payment.currency", {"currency": "XXX"}),
        ("payment.state", {"state": "success"}),
        ("payment.state", {"state": "支付成功"}),
    ],
)
def test_a_snapshot_that_makes_no_sense_is_refused_with_its_field(
    field: str, change: dict[str, Any]
) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        snapshot(**change)
    assert list(refusal.value.fields) == [field]


def test_a_newer_snapshot_keeps_the_disposition() -> None:
    known = replace(KnownPayment.first_seen(snapshot(), at=EPOCH), disposition=Disposition.APPLIED)
    heard = known.seen_again(
        snapshot(state="LATE_SUCCESS", version=9), at=EPOCH + timedelta(seconds=1)
    )
    assert (heard.answer, heard.version, heard.state) == (Disposition.APPLIED, 9, "LATE_SUCCESS")


def test_an_undecided_payment_is_answered_noted() -> None:
    assert KnownPayment.first_seen(snapshot(state="PAYING"), at=EPOCH).answer is Disposition.NOTED


def test_an_order_comes_back_for_the_very_hold_that_it_was_cancelled_with() -> None:
    placed = order()
    money = HeldMoney(amount=placed.amount, until=EPOCH + timedelta(days=7))
    held = placed.hold("PAY1", money, at=EPOCH)
    assert held.hold("PAY1", money, at=EPOCH) is held
    cancelling = held.begin_cancel(reason="not paid in time", at=EPOCH)
    back = cancelling.hold("PAY1", money, at=EPOCH)  # by a clock that was ahead
    assert (back.state, back.cancel_reason) == (OrderState.PENDING_PAYMENT, "")
    assert back.version == cancelling.version + 1


def test_an_order_that_cost_something_is_not_cancelled_as_a_free_one() -> None:
    with pytest.raises(OrderStateInvalid):
        order(S.PAID, paid_by="PAY1").cancel_free(reason="", at=EPOCH)
    assert order(S.PAID, amount="0").cancel_free(reason="", at=EPOCH).state is S.CANCELLED

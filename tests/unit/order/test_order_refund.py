"""Refunds without a database: every step that one may take, what a refund of lines is worth to the
last minor unit, and what all of them mean together."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import InvalidArgument
from mesh.money import Money, RequestedAmount
from order_rpc.domain.errors import RefundExceedsRefundable, RefundNotAllowed, RefundStateInvalid
from order_rpc.domain.order import Order, OrderState, PayStatus, ShippingStatus
from order_rpc.domain.order_line import OrderLine
from order_rpc.domain.policy import MerchantPolicy, PriceRule
from order_rpc.domain.refund import (
    RefundLine,
    RefundRequest,
    RefundSnapshot,
    RefundState,
    RefundStatus,
    status_of,
    unknown_refund,
)
from order_rpc.domain.refund_plan import is_full_refund_open, plan_refund
from tests.support.fakes import EPOCH

R, S = RefundState, OrderState
LATER = EPOCH + timedelta(minutes=1)


def cny(text: str) -> Money:
    return Money.parse(text, "CNY", allow_zero=True)


def order(
    *prices: tuple[str, str, int],
    discount: str = "0",
    shipping: str = "0",
    state: OrderState = S.PAID,
) -> Order:
    """A paid order of (sku, price, quantity)."""
    policy = MerchantPolicy(
        shipping={"CNY": PriceRule(amount=cny(shipping), threshold=None)},
        discount={"CNY": PriceRule(amount=cny(discount), threshold=None)},
    )
    lines = tuple(
        OrderLine(sku_id=sku, name=sku, unit_price=cny(price), quantity=quantity)
        for sku, price, quantity in prices or [("mug", "10", 3)]
    )
    placed = Order.place(
        merchant_id="mall",
        order_id="ORD1",
        user_id="u1",
        lines=lines,
        at=EPOCH,
        expires_at=EPOCH,
        policy=policy,
    )
    paid = placed.pay(payment_id="PAY1", at=EPOCH, captured=placed.amount)
    return replace(paid, state=state)


def refund(
    state: RefundState = R.APPROVED,
    *,
    amount: str = "10",
    lines: tuple[tuple[str, int], ...] = (),
    number: int = 1,
) -> RefundRequest:
    succeeded = EPOCH if state in (R.SUCCEEDED, R.BOUNCED) else None
    return RefundRequest(
        merchant_id="mall",
        order_id="ORD1",
        request_id=f"RRQ{number}",
        payment_id="PAY1",
        state=state,
        amount=cny(amount),
        lines=tuple(RefundLine(sku_id=sku, quantity=quantity) for sku, quantity in lines),
        reason="",
        refund_id="",
        failure="",
        of_sale=succeeded is not None,
        version=1,
        succeeded_at=succeeded,
        bounced_at=None,
        created_at=EPOCH,
        updated_at=EPOCH,
    )


def news(state: RefundState, *, refund_id: str = "RF1") -> RefundSnapshot:
    return RefundSnapshot(
        refund_id=refund_id, request_id="RRQ1", state=state, amount=cny("10"), reason="why"
    )


# Written down a second time on purpose.
STEPS = {
    (R.REQUESTED, R.APPROVED),
    (R.REQUESTED, R.REJECTED),
    (R.APPROVED, R.SUCCEEDED),
    (R.APPROVED, R.FAILED),
    (R.APPROVED, R.BOUNCED),
    (R.FAILED, R.SUCCEEDED),
    (R.FAILED, R.BOUNCED),
    (R.SUCCEEDED, R.BOUNCED),
}


@pytest.mark.parametrize("target", R)
@pytest.mark.parametrize("state", R)
def test_a_refund_takes_exactly_these_steps(state: RefundState, target: RefundState) -> None:
    if (state, target) in STEPS:
        moved = refund(state).to(target, at=LATER, failure="why")
        assert (moved.state, moved.version, moved.updated_at) == (target, 2, LATER)
        return
    with pytest.raises(RefundStateInvalid) as refused:
        refund(state).to(target, at=LATER)
    assert refused.value.metadata == {"state": state}


@pytest.mark.parametrize("told", [R.APPROVED, R.SUCCEEDED, R.FAILED, R.BOUNCED])
@pytest.mark.parametrize("state", R)
def test_news_move_a_refund_forward_or_not_at_all(state: RefundState, told: RefundState) -> None:
    seen = refund(state).apply(news(told), of_sale=True, at=LATER)
    if (state, told) in STEPS and state is not R.REQUESTED:
        assert (seen.state, seen.refund_id, seen.failure) == (told, "RF1", "why")
    else:
        assert seen.state is state


def test_what_the_shop_has_not_approved_is_not_approved_by_news() -> None:
    assert refund(R.REQUESTED).apply(news(R.APPROVED), of_sale=True, at=LATER) == refund(
        R.REQUESTED
    )


def test_the_moment_in_which_money_left_is_kept_through_a_bounce() -> None:
    left = refund().apply(news(R.SUCCEEDED), of_sale=True, at=EPOCH)
    bounced = left.apply(news(R.BOUNCED), of_sale=True, at=LATER)
    assert (bounced.succeeded_at, bounced.bounced_at, bounced.of_sale) == (EPOCH, LATER, True)
    skipped = refund().apply(news(R.BOUNCED), of_sale=True, at=LATER)  # we never seen that it left
    assert (skipped.succeeded_at, skipped.bounced_at) == (LATER, LATER)


def test_a_refund_that_nobody_here_asked_for_is_known_by_its_own_id() -> None:
    found = unknown_refund(
        news(R.SUCCEEDED), merchant_id="mall", order_id="ORD1", payment_id="PAY1", at=EPOCH
    )
    assert (found.request_id, found.state, found.lines) == ("RF1", R.APPROVED, ())


# What a refund is worth.


def plan(
    placed: Order,
    *known: RefundRequest,
    lines: tuple[tuple[str, int], ...] = (),
    amount: str = "",
    with_requested: bool = False,
):
    return plan_refund(
        placed,
        known,
        lines=[RefundLine(sku_id=sku, quantity=quantity) for sku, quantity in lines],
        amount=RequestedAmount(amount),
        with_requested=with_requested,
    )


def test_lines_are_worth_their_price_without_shipping() -> None:
    money, lines = plan(
        order(("mug", "10", 3), ("pen", "1.50", 2), shipping="8"),
        lines=(("pen", 1), ("mug", 1), ("pen", 1)),
    )
    assert (money.format(), [(line.sku_id, line.quantity) for line in lines]) == (
        "13.00",
        [("mug", 1), ("pen", 2)],
    )


def test_everything_is_all_money_with_all_units() -> None:
    money, lines = plan(order(("mug", "10", 3), shipping="8", discount="5"))
    assert (money.format(), [(line.sku_id, line.quantity) for line in lines]) == (
        "33.00",
        [("mug", 3)],
    )


def test_everything_that_is_left_is_what_the_others_left() -> None:
    money, lines = plan(
        order(), refund(R.SUCCEEDED, amount="10", lines=(("mug", 1),)), refund(amount="4", number=2)
    )
    assert (money.format(), [(line.sku_id, line.quantity) for line in lines]) == (
        "16.00",
        [("mug", 2)],
    )


def test_an_amount_returns_no_units() -> None:
    assert plan(order(), amount="29.99") == (cny("29.99"), ())


@given(
    prices=st.lists(st.tuples(st.integers(1, 999), st.integers(1, 5)), min_size=1, max_size=4),
    discount=st.integers(0, 2000),
    data=st.data(),
)
def test_units_given_back_in_any_portions_are_worth_what_was_paid_for_them(
    prices: list[tuple[int, int]], discount: int, data: st.DataObject
) -> None:
    placed = order(
        *[(f"sku{at}", cny_text(price), quantity) for at, (price, quantity) in enumerate(prices)],
        discount=cny_text(discount),
    )
    left = {line.sku_id: line.quantity for line in placed.lines}
    known: list[RefundRequest] = []
    paid_back = 0
    while paid_back < placed.amount.minor and any(left.values()):
        portion = {sku: data.draw(st.integers(0, count)) for sku, count in left.items()}
        wanted = tuple((sku, count) for sku, count in portion.items() if count)
        if not wanted:
            wanted = tuple((sku, count) for sku, count in left.items() if count)
        try:
            money, lines = plan(placed, *known, lines=wanted)
        except RefundNotAllowed:  # a portion that the discount made free
            wanted = tuple((sku, count) for sku, count in left.items() if count)
            money, lines = plan(placed, *known, lines=wanted)
        known.append(replace(refund(R.SUCCEEDED, number=len(known)), amount=money, lines=lines))
        paid_back += money.minor
        for line in lines:
            left[line.sku_id] -= line.quantity
    assert paid_back == placed.amount.minor


def cny_text(minor: int) -> str:
    return Money(minor, "CNY").format()


@pytest.mark.parametrize(
    ("known", "wanted", "field"),
    [
        ((), {"lines": (("mug", 4),)}, "items[0].quantity"),
        ((), {"lines": (("mug", 2), ("mug", 2))}, "items[1].quantity"),
        (
            (refund(R.SUCCEEDED, lines=(("mug", 1),)),),
            {"lines": (("mug", 3),)},
            "items[0].quantity",
        ),
        ((refund(R.APPROVED, lines=(("mug", 1),)),), {"lines": (("mug", 3),)}, "items[0].quantity"),
        # its goods are back
        ((refund(R.BOUNCED, lines=(("mug", 1),)),), {"lines": (("mug", 3),)}, "items[0].quantity"),
        ((), {"amount": "30.01"}, "amount"),
        ((refund(amount="10"),), {"amount": "20.01"}, "amount"),
        ((refund(R.SUCCEEDED, amount="10"),), {"amount": "20.01"}, "amount"),
        ((refund(amount="25"),), {"lines": (("mug", 1),)}, "amount"),
        ((refund(amount="30"),), {}, "amount"),
    ],
)
def test_more_than_is_left_is_refused_with_its_field(
    known: tuple[RefundRequest, ...], wanted: dict, field: str
) -> None:
    with pytest.raises(RefundExceedsRefundable) as refused:
        plan(order(), *known, **wanted)
    assert list(refused.value.fields) == [field]


@pytest.mark.parametrize("state", [R.FAILED, R.REJECTED])
def test_what_came_to_nothing_holds_nothing(state: RefundState) -> None:
    assert plan(order(), refund(state, amount="30", lines=(("mug", 3),)))[0] == cny("30")


def test_money_that_bounced_may_go_back_again() -> None:
    assert plan(order(), refund(R.BOUNCED, amount="30", lines=(("mug", 3),)), amount="30") == (
        cny("30"),
        (),
    )


def test_units_that_bounced_are_not_given_back_twice() -> None:
    with pytest.raises(RefundExceedsRefundable):
        plan(order(), refund(R.BOUNCED, amount="30", lines=(("mug", 3),)), lines=(("mug", 1),))


def test_what_waits_for_the_shop_counts_for_buyers_only() -> None:
    waiting = refund(R.REQUESTED, amount="30", lines=(("mug", 3),))
    assert plan(order(), waiting)[0] == cny("30")
    with pytest.raises(RefundExceedsRefundable):
        plan(order(), waiting, with_requested=True)


def test_a_refund_at_payment_rpc_that_names_no_list_counts_too() -> None:
    assert plan(replace(order(), refunded=cny("12")))[0] == cny("18")


@pytest.mark.parametrize("state", [S.PENDING_PAYMENT, S.CANCELLING, S.CANCELLED, S.REFUNDED])
def test_an_order_without_money_is_not_refunded(state: OrderState) -> None:
    with pytest.raises(RefundNotAllowed):
        plan(order(state=state))


def test_units_that_cost_nothing_come_back_without_money() -> None:
    with pytest.raises(RefundNotAllowed):
        plan(replace(order(), paid_payment_id=""))
    assert plan(order(("gift", "0", 1), ("mug", "10", 1)), lines=(("gift", 1),)) == (
        Money.zero("CNY"),
        (RefundLine(sku_id="gift", quantity=1),),
    )
    free = replace(order(("gift", "0", 2)), paid_payment_id="")
    assert plan(free) == (Money.zero("CNY"), (RefundLine(sku_id="gift", quantity=2),))
    with pytest.raises(RefundExceedsRefundable):
        plan(free, amount="0.01")


def test_a_unit_that_is_not_in_the_order_is_refused_with_its_place() -> None:
    with pytest.raises(InvalidArgument) as refused:
        plan(order(), lines=(("mug", 1), ("cup", 1)))
    assert list(refused.value.fields) == ["items[1].sku_id"]


@pytest.mark.parametrize(
    ("known", "is_open"),
    [
        ((), False),
        ((refund(amount="29.99"),), False),
        ((refund(amount="30"),), True),
        ((refund(amount="20"), refund(amount="10", number=2)), True),
        ((refund(R.SUCCEEDED, amount="20"), refund(amount="10", number=2)), True),
        ((refund(R.FAILED, amount="30"),), False),
        ((refund(R.BOUNCED, amount="30"),), False),
        ((refund(R.REQUESTED, amount="30"),), False),
    ],
)
def test_a_full_refund_is_open_while_nothing_is_left(
    known: tuple[RefundRequest, ...], *, is_open: bool
) -> None:
    assert is_full_refund_open(order(), known) is is_open


# What all refunds mean together.


@pytest.mark.parametrize(
    ("known", "refunded", "status"),
    [
        ((), "0", RefundStatus.NONE),
        ((refund(R.REQUESTED),), "0", RefundStatus.REQUESTED),
        ((refund(R.REJECTED),), "0", RefundStatus.NONE),
        ((refund(R.APPROVED), refund(R.REQUESTED)), "0", RefundStatus.PENDING),
        ((refund(R.SUCCEEDED),), "10", RefundStatus.PARTIAL),
        ((refund(R.SUCCEEDED), refund(R.APPROVED)), "10", RefundStatus.PENDING),
        ((refund(R.FAILED),), "0", RefundStatus.FAILED),
        ((refund(R.FAILED), refund(R.SUCCEEDED)), "10", RefundStatus.PARTIAL),
        ((refund(R.BOUNCED), refund(R.APPROVED)), "0", RefundStatus.BOUNCED),
        ((refund(R.SUCCEEDED, amount="30"),), "30", RefundStatus.REFUNDED),
        ((refund(R.BOUNCED), refund(R.SUCCEEDED, amount="30")), "30", RefundStatus.REFUNDED),
    ],
)
def test_one_status_says_where_all_refunds_stand(
    known: tuple[RefundRequest, ...], refunded: str, status: RefundStatus
) -> None:
    assert status_of(known, captured=cny("30"), refunded=cny(refunded)) is status


def test_the_statuses_of_an_order_follow_from_its_steps() -> None:
    placed = order()
    unpaid = replace(placed, state=S.PENDING_PAYMENT, paid_at=None)
    assert (unpaid.pay_status, unpaid.shipping_status) == (PayStatus.UNPAID, ShippingStatus.PENDING)
    assert (placed.pay_status, placed.shipping_status) == (PayStatus.PAID, ShippingStatus.PREPARING)
    part = placed.with_refunds(refunded=cny("10"), status=RefundStatus.PARTIAL, at=LATER)
    assert (part.state, part.pay_status, part.version) == (
        S.PAID,
        PayStatus.PARTIALLY_REFUNDED,
        placed.version + 1,
    )
    shipped = part.ship(carrier="SF", tracking_number="T1", at=LATER)
    assert (shipped.shipping_status, shipped.shipped_at) == (ShippingStatus.SHIPPED, LATER)
    arrived = shipped.complete(at=LATER)
    assert (arrived.shipping_status, arrived.completed_at) == (ShippingStatus.DELIVERED, LATER)
    refunded = arrived.refund(at=LATER)
    assert (refunded.pay_status, refunded.shipping_status) == (
        PayStatus.REFUNDED,
        ShippingStatus.DELIVERED,
    )
    assert placed.refund(at=LATER).shipping_status is ShippingStatus.PENDING


@pytest.mark.parametrize(
    ("items", "shipping", "discount"),
    [("98.99", "8.00", "0.00"), ("99.00", "0.00", "0.00"), ("200.00", "0.00", "20.00")],
)
def test_shipping_and_discount_depend_on_what_the_lines_cost(
    items: str, shipping: str, discount: str
) -> None:
    policy = MerchantPolicy(
        shipping={"CNY": PriceRule(amount=cny("8"), threshold=cny("99"))},
        discount={"CNY": PriceRule(amount=cny("20"), threshold=cny("200"))},
    )
    assert (policy.shipping_for(cny(items)).format(), policy.discount_for(cny(items)).format()) == (
        shipping,
        discount,
    )
    assert (
        policy.shipping_for(Money(100, "JPY"))
        == policy.discount_for(Money(100, "JPY"))
        == Money(0, "JPY")
    )


def test_a_discount_is_never_more_than_the_lines_cost() -> None:
    placed = order(("mug", "3", 1), discount="5", shipping="2")
    assert (placed.discount.format(), placed.amount.format(), placed.items_amount.format()) == (
        "3.00",
        "2.00",
        "3.00",
    )

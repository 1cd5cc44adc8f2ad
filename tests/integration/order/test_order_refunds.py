"""Refunds of orders on real databases, with a scripted payment_rpc: who may have one at once, what
it does to the order, and that goods come back once."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable

import pytest
from google.protobuf import json_format
from paymesh.events.v1 import events_pb2
from structlog.testing import capture_logs

from mesh import failpoints
from mesh.call import Caller, calling
from mesh.errors import IdempotencyKeyReused
from mesh.failpoints import FailpointRaised
from mesh.money import Money
from mesh.outbox import OUTBOX
from order_rpc.domain.errors import (
    FullRefundOpen,
    OrderNotFound,
    RefundExceedsRefundable,
    RefundLimitReached,
    RefundNotAllowed,
    RefundNotFound,
    RefundStateInvalid,
)
from order_rpc.domain.order import Order, OrderState, PayStatus
from order_rpc.domain.policy import MerchantPolicy, PriceRule
from order_rpc.domain.refund import REFUNDS_MAX, RefundState, RefundStatus
from order_rpc.tables import ORDER_AUDIT, REFUND_REQUEST, STOCK_MOVEMENT, STOCK_RETURN
from tests.builders.order import ADMIN, OrderApp, buyer, merchant, order_app, refusal, snapshot

R, S = RefundState, OrderState


@pytest.fixture
async def app(database_url: str) -> AsyncIterator[OrderApp]:
    async with order_app(database_url) as app:
        await app.product("mug", "10.00")
        await app.product("pen", "1.50")
        yield app


@pytest.fixture
async def order(app: OrderApp) -> Order:
    """Three mugs and two pens, paid: 33.00."""
    return await app.paid_order(("mug", 3), ("pen", 2))


async def shipped(app: OrderApp, order: Order) -> Order:
    return await app.ship(order)


async def test_a_buyer_is_refunded_at_once_while_nothing_is_shipped(
    app: OrderApp, order: Order
) -> None:
    refund = await app.refund(order, ("mug", 1))
    assert (refund.state, refund.amount.format(), refund.refund_id) == (
        R.APPROVED,
        "10.00",
        app.payment_rpc.refund_id(refund.request_id),
    )
    assert app.payment_rpc.refunds == {
        refund.request_id: {
            "payment_id": "PAY1",
            "amount": "10.00",
            "currency": "CNY",
            "reason": "broken",
        }
    }
    pending = await app.load(order)
    assert (pending.state, pending.refund_status, await app.stock("mug")) == (
        S.PAID,
        RefundStatus.PENDING,
        (97, 0, 3),
    )
    app.clock.advance(60)
    await app.tell_refund(order, (refund, "SUCCESS"), version=5, refunded="10.00")
    done = await app.load(order)
    assert (done.state, done.refund_status, done.pay_status, done.refunded.format()) == (
        S.PAID,
        RefundStatus.PARTIAL,
        PayStatus.PARTIALLY_REFUNDED,
        "10.00",
    )
    assert await app.stock("mug") == (98, 0, 2)
    [refund] = await app.refunds(order)
    assert (refund.state, refund.succeeded_at, refund.of_sale) == (
        R.SUCCEEDED,
        app.clock.now(),
        True,
    )
    assert await app.steps(order) == ["CREATE", "PAY", "REFUND_APPROVED", "REFUND_SUCCEEDED"]
    moved = (await app.rows(STOCK_MOVEMENT))[-1]
    assert (
        moved["kind"],
        moved["sku_id"],
        moved["quantity"],
        moved["available_after"],
        moved["reference"],
    ) == ("REFUND", "mug", 1, 98, refund.request_id)
    assert await app.stock_problems() == []


async def test_a_shipped_order_is_refunded_when_the_shop_approves(
    app: OrderApp, order: Order
) -> None:
    await shipped(app, order)
    asked = await app.refund(order, ("mug", 1))
    assert (asked.state, app.payment_rpc.refunds) == (R.REQUESTED, {})
    assert (await app.load(order)).refund_status is RefundStatus.REQUESTED
    approved = await app.approve(asked)
    assert (approved.state, list(app.payment_rpc.refunds)) == (R.APPROVED, [asked.request_id])
    assert await app.approve(asked) == approved  # once is enough
    assert (await app.load(order)).refund_status is RefundStatus.PENDING
    assert [(row["event"], row["operator"]) for row in await app.rows(ORDER_AUDIT)][3:] == [
        ("REFUND_REQUESTED", "user:u1"),
        ("REFUND_APPROVED", "merchant:clerk"),
    ]


async def test_a_rejected_request_sends_nothing_and_frees_what_it_held(
    app: OrderApp, order: Order
) -> None:
    await shipped(app, order)
    asked = await app.refund(order)
    with pytest.raises(RefundExceedsRefundable):
        await app.refund(order, amount="0.01")
    rejected = await app.reject(asked)
    assert (rejected.state, rejected.failure) == (R.REJECTED, "it is used")
    assert await app.reject(asked) == rejected
    with pytest.raises(RefundStateInvalid):
        await app.approve(asked)
    assert ((await app.load(order)).refund_status, app.payment_rpc.refunds) == (
        RefundStatus.NONE,
        {},
    )
    assert (await app.refund(order, amount="33.00")).state is R.REQUESTED


@pytest.mark.parametrize("caller", [merchant(), ADMIN])
async def test_the_shop_and_staff_refund_at_once_whatever_is_shipped(
    app: OrderApp, order: Order, caller: Caller
) -> None:
    await shipped(app, order)
    assert (await app.refund(order, amount="5", caller=caller)).state is R.APPROVED


async def test_an_approval_finds_the_money_gone(app: OrderApp, order: Order) -> None:
    await shipped(app, order)
    asked = await app.refund(order, amount="30.00")
    await app.refund(order, amount="4.00", caller=merchant())
    with pytest.raises(RefundExceedsRefundable) as refused:
        await app.approve(asked)
    assert refused.value.metadata["refundable"] == "29.00"
    assert (await app.refunds(order))[0].state is R.REQUESTED


async def test_a_full_refund_ends_the_order_and_says_so(app: OrderApp, order: Order) -> None:
    refund = await app.refund(order)
    assert (refund.amount.format(), [(line.sku_id, line.quantity) for line in refund.lines]) == (
        "33.00",
        [("mug", 3), ("pen", 2)],
    )
    answer = await app.tell_refund(order, (refund, "SUCCESS"), version=5, refunded="33.00")
    assert answer.state is S.REFUNDED
    done = await app.load(order)
    assert (done.state, done.pay_status, done.refund_status) == (
        S.REFUNDED,
        PayStatus.REFUNDED,
        RefundStatus.REFUNDED,
    )
    assert [await app.stock("mug"), await app.stock("pen")] == [(100, 0, 0), (100, 0, 0)]
    [told] = [row for row in await app.rows(OUTBOX) if row["tag"] == "ORDER_REFUNDED"]
    event = json_format.Parse(told["payload"], events_pb2.OrderRefundedEvent())
    assert (event.order_id, event.payment_id, event.refunded_amount) == (
        order.order_id,
        "PAY1",
        "33.00",
    )
    with pytest.raises(RefundNotAllowed):
        await app.refund(order)
    assert await app.stock_problems() == []


async def test_two_partial_refunds_that_are_everything_end_the_order_too(
    app: OrderApp, order: Order
) -> None:
    first, second = await app.refund(order, ("mug", 3)), await app.refund(order, amount="3.00")
    await app.tell_refund(
        order, (first, "SUCCESS"), (second, "PENDING"), version=5, refunded="30.00"
    )
    assert (await app.load(order)).state is S.PAID
    await app.tell_refund(
        order, (first, "SUCCESS"), (second, "SUCCESS"), version=6, refunded="33.00"
    )
    assert (await app.load(order)).state is S.REFUNDED
    # an amount returns no stock
    assert [await app.stock("mug"), await app.stock("pen")] == [(100, 0, 0), (98, 0, 2)]


async def test_a_pending_partial_refund_blocks_neither_shipping_nor_a_second_one(
    app: OrderApp, order: Order
) -> None:
    first = await app.refund(order, ("mug", 1))
    second = await app.refund(order, ("pen", 1))
    assert (await app.ship(order)).state is S.SHIPPED
    await app.tell_refund(
        order, (first, "SUCCESS"), (second, "SUCCESS"), version=6, refunded="11.50"
    )
    done = await app.load(order)
    assert (done.state, done.refunded.format(), await app.stock_problems()) == (
        S.SHIPPED,
        "11.50",
        [],
    )


async def test_an_order_whose_money_is_all_on_its_way_back_is_not_shipped(
    app: OrderApp, order: Order
) -> None:
    refund = await app.refund(order)
    with pytest.raises(FullRefundOpen):
        await app.ship(order)
    await app.tell_refund(order, (refund, "FAILED"), version=5, refunded="0")
    assert (await app.load(order)).refund_status is RefundStatus.FAILED
    assert (await app.ship(order)).state is S.SHIPPED


async def test_goods_come_back_once_whatever_is_heard_how_often(
    app: OrderApp, order: Order
) -> None:
    refund = await app.refund(order, ("mug", 2))
    await app.at_once(
        *(
            app.tell_refund(
                order, (refund, "SUCCESS"), version=5, refunded="20.00", event_id=event_id
            )
            for event_id in ["EVT-X"] * 10 + [""] * 10
        )
    )
    await app.tell_refund(order, (refund, "PENDING"), version=4, refunded="0")
    await app.tell_refund(order, (refund, "SUCCESS"), version=6, refunded="20.00")
    assert await app.stock("mug") == (99, 0, 1)
    assert [(row["sku_id"], row["quantity"]) for row in await app.rows(STOCK_RETURN)] == [
        ("mug", 2)
    ]
    assert (await app.steps(order)).count("REFUND_SUCCEEDED") == 1
    assert await app.stock_problems() == []


async def test_a_refund_that_bounced_is_visible_and_calls_a_person(
    app: OrderApp, order: Order
) -> None:
    refund = await app.refund(order)
    await app.tell_refund(order, (refund, "SUCCESS"), version=5, refunded="33.00")
    with capture_logs() as logs:
        await app.tell_refund(order, (refund, "REVERSED"), version=6, refunded="0")
    bounced = await app.load(order)
    assert (bounced.state, bounced.refund_status, bounced.refunded.format()) == (
        S.REFUNDED,
        RefundStatus.BOUNCED,
        "0.00",
    )
    assert [row["event"] for row in await app.rows(ORDER_AUDIT) if row["needs_attention"]] == [
        "REFUND_BOUNCED"
    ]
    assert [entry["order_id"] for entry in logs if entry.get("alert")] == [order.order_id]
    assert await app.stock("mug") == (100, 0, 0)  # the money bounced, the goods did not
    assert (await app.refunds(order))[0].failure == "why"


async def test_a_bounce_that_is_the_first_thing_heard_brings_goods_back_once(
    app: OrderApp, order: Order
) -> None:
    refund = await app.refund(order, ("mug", 1))
    await app.tell_refund(order, (refund, "REVERSED"), version=6, refunded="0")
    await app.tell_refund(order, (refund, "SUCCESS"), version=5, refunded="10.00")  # late and old
    assert ((await app.load(order)).refund_status, await app.stock("mug")) == (
        RefundStatus.BOUNCED,
        (98, 0, 2),
    )
    assert await app.stock_problems() == []


@pytest.mark.parametrize("newest_first", [False, True])
async def test_news_of_two_refunds_count_in_whatever_order_they_come(
    app: OrderApp, order: Order, newest_first: bool
) -> None:
    """Each message tells of the one refund that changed; the sums are those of the newest."""
    mug, pen = await app.refund(order, ("mug", 3)), await app.refund(order, ("pen", 2))
    messages = [(5, mug, "30.00"), (6, pen, "33.00")]
    for version, refund, refunded in reversed(messages) if newest_first else messages:
        await app.tell_refund(order, (refund, "SUCCESS"), version=version, refunded=refunded)
    done = await app.load(order)
    assert (done.state, done.refunded.format(), done.refund_status) == (
        S.REFUNDED,
        "33.00",
        RefundStatus.REFUNDED,
    )
    assert {refund.state for refund in await app.refunds(order)} == {R.SUCCEEDED}
    assert (await app.stock("mug"), await app.stock("pen")) == ((100, 0, 0), (100, 0, 0))
    assert await app.stock_problems() == []


@pytest.mark.one_database
async def test_an_order_takes_a_hundred_refunds_and_refuses_one_more_by_name(
    app: OrderApp, order: Order
) -> None:
    for _ in range(REFUNDS_MAX):
        await app.refund(order, amount="0.01")
    with pytest.raises(RefundLimitReached) as refused:
        await app.refund(order, amount="0.01")
    assert (refused.value.reason, refused.value.metadata["limit"]) == (
        "REFUND_LIMIT_REACHED",
        "100",
    )


async def test_a_refund_that_payment_rpc_refuses_for_good_is_closed_with_the_reason(
    app: OrderApp, order: Order
) -> None:
    app.payment_rpc.refund_refusal = refusal("REFUND_EXCEEDS_REFUNDABLE")
    refund = await app.refund(order)
    assert (refund.state, refund.failure) == (R.FAILED, "REFUND_EXCEEDS_REFUNDABLE")
    assert (await app.load(order)).refund_status is RefundStatus.FAILED
    assert [row["state"] for row in await app.rows(OUTBOX) if row["tag"] == "CreateRefund"] == [
        "DONE"
    ]
    app.payment_rpc.refund_refusal = None
    assert (await app.refund(order)).state is R.APPROVED  # it holds nothing any more


async def test_money_that_left_after_all_is_believed(app: OrderApp, order: Order) -> None:
    app.payment_rpc.refund_refusal = refusal("REFUND_FAILED")
    refund = await app.refund(order, ("mug", 1))
    await app.tell_refund(order, (refund, "SUCCESS"), version=9, refunded="10.00")
    assert ((await app.refunds(order))[0].state, await app.stock("mug")) == (
        R.SUCCEEDED,
        (98, 0, 2),
    )


async def test_while_payment_rpc_is_away_a_refund_waits_and_is_carried_out_when_it_returns(
    app: OrderApp, order: Order
) -> None:
    app.payment_rpc.away = True
    refund = await app.refund(order)
    assert (refund.state, refund.refund_id) == (R.APPROVED, "")
    for _ in range(10):
        app.clock.advance(300)
        await app.relay()
    app.payment_rpc.away = False
    app.clock.advance(300)
    assert await app.relay() == 1
    assert list(app.payment_rpc.refunds) == [refund.request_id]


async def test_a_snapshot_may_be_quicker_than_the_answer(app: OrderApp, order: Order) -> None:
    app.payment_rpc.away = True
    refund = await app.refund(order)
    await app.tell_refund(order, (refund, "SUCCESS"), version=5, refunded="33.00")
    app.payment_rpc.away = False
    app.clock.advance(60)
    await app.relay()
    assert [(each.state, each.refund_id) for each in await app.refunds(order)] == [
        (R.SUCCEEDED, app.payment_rpc.refund_id(refund.request_id))
    ]
    assert (await app.load(order)).state is S.REFUNDED


@pytest.mark.parametrize("known", ["SUCCESS", "FAILED"])
async def test_a_refusal_that_comes_after_the_end_of_a_refund_changes_nothing(
    app: OrderApp, order: Order, known: str
) -> None:
    app.payment_rpc.away = True
    refund = await app.refund(order, amount="20.00")
    await app.tell_refund(
        order, (refund, known), version=5, refunded="20.00" if known == "SUCCESS" else "0"
    )
    before, steps = await app.refunds(order), await app.steps(order)
    app.payment_rpc.away, app.payment_rpc.refund_refusal = (
        False,
        refusal("REFUND_EXCEEDS_REFUNDABLE"),
    )
    app.clock.advance(60)
    await app.relay()
    assert await app.refunds(order) == before
    assert await app.steps(order) == steps
    assert [row["state"] for row in await app.rows(OUTBOX) if row["tag"] == "CreateRefund"] == [
        "DONE"
    ]


async def test_an_answer_that_comes_after_the_end_of_a_refund_changes_nothing(
    app: OrderApp, order: Order
) -> None:
    app.payment_rpc.away = True
    refund = await app.refund(order, amount="20.00")
    await app.tell(
        order,
        snapshot(
            version=5,
            captured="33.00",
            refunds=[("RFother", refund.request_id, "FAILED", "20.00", "why")],
        ),
    )
    before = await app.refunds(order)
    app.payment_rpc.away = False
    app.clock.advance(60)
    await app.relay()
    assert await app.refunds(order) == before


async def test_a_refund_of_another_payment_with_a_known_request_id_is_another_one(
    app: OrderApp, order: Order
) -> None:
    refund = await app.refund(order, amount="20.00")
    await app.tell_refund(
        order, (refund, "FAILED"), version=5, refunded="0", payment_id="PAY2", state="LATE_SUCCESS"
    )
    assert {(each.payment_id, each.state) for each in await app.refunds(order)} == {
        ("PAY1", R.APPROVED),
        ("PAY2", R.FAILED),
    }


async def test_a_refund_that_somebody_asked_payment_rpc_for_counts_too(
    app: OrderApp, order: Order
) -> None:
    told = [("RF7", "", "PENDING", "20.00", "")]
    await app.tell(
        order, snapshot(version=5, captured="33.00", refund_reserved="20.00", refunds=told)
    )
    assert (await app.load(order)).refund_status is RefundStatus.PENDING
    with pytest.raises(RefundExceedsRefundable):
        await app.refund(order, amount="13.01")
    told = [("RF7", "", "SUCCESS", "20.00", ""), ("RF8", "", "SUCCESS", "13.00", "")]
    await app.tell(order, snapshot(version=6, captured="33.00", refunded="33.00", refunds=told))
    assert (await app.load(order)).state is S.REFUNDED
    # nobody said that goods came back
    assert [await app.stock("mug"), await app.stock("pen")] == [(97, 0, 3), (98, 0, 2)]


async def test_refunds_of_another_payment_are_recorded_only(app: OrderApp, order: Order) -> None:
    before = await app.load(order)
    told = [("RF7", "auto:PAY2", "SUCCESS", "33.00", "")]
    await app.tell(
        order,
        snapshot(
            "PAY2",
            version=5,
            captured="33.00",
            refunded="33.00",
            state="LATE_SUCCESS",
            refunds=told,
        ),
    )
    assert await app.load(order) == before
    assert [(each.payment_id, each.of_sale) for each in await app.refunds(order)] == [
        ("PAY2", False)
    ]
    assert (await app.refund(order)).amount.format() == "33.00"


async def test_a_payment_that_comes_with_its_refund_pays_and_refunds_in_one_step(
    app: OrderApp,
) -> None:
    order = await app.order(("mug", 1))
    await app.tell(
        order, snapshot(version=9, refunded="10.00", refunds=[("RF1", "", "SUCCESS", "10.00", "")])
    )
    assert (await app.load(order)).state is S.REFUNDED
    assert await app.steps(order) == ["CREATE", "PAY", "REFUND_SUCCEEDED", "REFUND"]


async def test_an_unpaid_order_is_not_refunded(app: OrderApp) -> None:
    with pytest.raises(RefundNotAllowed):
        await app.refund(await app.order())


@pytest.mark.parametrize("caller", [buyer("u2"), merchant("tea_house")])
async def test_somebody_elses_order_is_not_refunded(
    app: OrderApp, order: Order, caller: Caller
) -> None:
    with pytest.raises(OrderNotFound):
        await app.refund(order, caller=caller)
    await shipped(app, order)
    asked = await app.refund(order)
    with pytest.raises(OrderNotFound):
        await app.approve(asked, caller=merchant("tea_house"))


async def test_a_refund_of_another_order_is_not_found(app: OrderApp, order: Order) -> None:
    other = await app.paid_order(("mug", 1), payment_id="PAY2")
    await shipped(app, order)
    await shipped(app, other)
    asked = await app.refund(order)
    with pytest.raises(RefundNotFound):
        await app.approve(
            type(asked)(
                **{
                    **{name: getattr(asked, name) for name in asked.__slots__},
                    "order_id": other.order_id,
                }
            )
        )


async def test_one_key_twenty_times_in_parallel_makes_one_refund(
    app: OrderApp, order: Order
) -> None:
    refunds = await app.at_once(*(app.refund(order, amount="1.00", key="k") for _ in range(20)))
    assert (
        len({refund.request_id for refund in refunds}) == len(await app.rows(REFUND_REQUEST)) == 1
    )
    with calling(timeout_seconds=5) as call:
        await app.refund(order, amount="1.00", key="k")
    assert list(call.trailing) == [("x-paymesh-idempotent-replayed", "true")]
    with pytest.raises(IdempotencyKeyReused):
        await app.refund(order, amount="2.00", key="k")


async def test_the_whole_refund_asked_at_once_with_one_key_is_one_answer(
    app: OrderApp, rounds: Callable[[int, int], int]
) -> None:
    for number in range(rounds(5, 100)):
        order = await app.paid_order(("mug", 1), payment_id=f"PAY-{number}")
        refunds = await app.at_once(*(app.refund(order, key=f"k{number}") for _ in range(8)))
        assert len({refund.request_id for refund in refunds}) == 1


async def test_refunds_at_once_never_exceed_what_was_paid(app: OrderApp, order: Order) -> None:
    async def ask(number: int) -> int:
        try:
            return (
                await app.refund(order, amount="7.00", caller=merchant() if number % 2 else buyer())
            ).amount.minor
        except RefundExceedsRefundable:
            return 0

    amounts = await app.at_once(*(ask(number) for number in range(20)))
    assert sorted(amounts, reverse=True)[:5] == [700] * 4 + [0]


async def test_a_discount_is_shared_by_the_lines_that_go_back(database_url: str) -> None:
    policy = MerchantPolicy(
        discount={"CNY": PriceRule(amount=cny(1000), threshold=None)},
        shipping={"CNY": PriceRule(amount=cny(800), threshold=None)},
    )
    async with order_app(database_url, policies={"mall": policy}) as app:
        await app.product("mug", "10.00")
        order = await app.paid_order(("mug", 3))
        assert (order.amount.format(), order.shipping.format(), order.discount.format()) == (
            "28.00",
            "8.00",
            "10.00",
        )
        portions = [(await app.refund(order, ("mug", 1))).amount.format() for _ in range(3)]
        assert portions == ["6.67", "6.67", "6.66"]
        # shipping goes back with everything only
        assert (await app.refund(order)).amount.format() == "8.00"


def cny(minor: int) -> Money:
    return Money(minor, "CNY")


async def test_lists_of_refunds_come_in_pages_and_only_to_those_whom_they_concern(
    app: OrderApp, order: Order
) -> None:
    made = [(await app.refund(order, amount="1.00")).request_id for _ in range(3)]
    first, token = await app.real.refunds.list_order_refunds(
        merchant_id="mall", order_id=order.order_id, requested_size=2, page_token="", caller=buyer()
    )
    second, end = await app.real.refunds.list_order_refunds(
        merchant_id="mall",
        order_id=order.order_id,
        requested_size=2,
        page_token=token,
        caller=buyer(),
    )
    assert ([refund.request_id for refund in (*first, *second)], end) == (made, "")
    with pytest.raises(OrderNotFound):
        await app.real.refunds.list_order_refunds(
            merchant_id="mall",
            order_id=order.order_id,
            requested_size=2,
            page_token="",
            caller=buyer("u2"),
        )


@pytest.mark.parametrize(
    ("point", "is_written"),
    [
        ("order.refund.before_commit", False),
        ("order.refund.after_commit", True),
        ("outbox.relay.after_send", True),
    ],
)
async def test_a_refund_that_was_cut_is_carried_out_once_or_never_asked(
    app: OrderApp, order: Order, point: str, *, is_written: bool
) -> None:
    failpoints.arm(f"{point}=raise", environment="test")
    with contextlib.suppress(FailpointRaised):
        await app.refund(order, key="k")
    app.clock.advance(60)
    await app.relay()
    assert len(app.payment_rpc.refunds) == len(await app.rows(REFUND_REQUEST)) == is_written
    again = await app.refund(order, key="k")
    assert list(app.payment_rpc.refunds) == [again.request_id]


async def test_what_is_sent_names_the_order_and_nothing_secret(app: OrderApp, order: Order) -> None:
    app.payment_rpc.away = True
    refund = await app.refund(order)
    [row] = [row for row in await app.rows(OUTBOX) if row["tag"] == "CreateRefund"]
    assert json.loads(row["payload"]) == {
        "merchant_id": "mall",
        "order_id": order.order_id,
        "request_id": refund.request_id,
        "payment_id": "PAY1",
        "amount": "33.00",
        "currency": "CNY",
        "reason": "broken",
    }

"""Orders against money, both services real: whoever cancels, expires, pays, refunds or loses an
answer in the same moment, an order ends PAID with its units sold or CANCELLED with its units free
and no money kept."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from mesh.errors import MeshError
from mesh.money import RequestedAmount
from order_rpc.domain.order import Order, OrderState
from order_rpc.domain.policy import MerchantPolicy
from order_rpc.domain.refund import RefundState, RefundStatus
from payment_rpc.domain.payment import PaymentState
from payment_rpc.tables import PAYMENT
from payment_rpc.usecases.refund_start import CreateRefund
from tests.builders.order import PAYMENT_WINDOW, buyer, merchant
from tests.builders.order_payment import JoinedWorld, joined_world

S = OrderState


@pytest.fixture
async def world(
    database_url_factory: Callable[[], str], tmp_path: Path
) -> AsyncIterator[JoinedWorld]:
    async with joined_world(database_url_factory(), database_url_factory(), tmp_path) as world:
        yield world


@pytest.fixture
async def reviving(
    database_url_factory: Callable[[], str], tmp_path: Path
) -> AsyncIterator[JoinedWorld]:
    policies = {"mall": MerchantPolicy(revives_if_stock=True)}
    async with joined_world(
        database_url_factory(), database_url_factory(), tmp_path, policies=policies
    ) as world:
        yield world


async def later(steps: int, work: Coroutine[Any, Any, Any]) -> Any:
    """Lets others go first for some turns of the loop; a refusal is an answer like any other."""
    for _ in range(steps):
        await asyncio.sleep(0)
    try:
        return await work
    # AssertionError: a button that the cashier does not show any more
    except (MeshError, AssertionError) as refused:
        return refused


async def race(world: JoinedWorld, chance: random.Random, *, by_expiry: bool) -> Order:
    """One order that is paid and cancelled in the same moment."""
    order = await world.money.order()
    by_card = chance.random() < 0.5
    pay: Coroutine[Any, Any, Any] = (
        world.money.charge(order)
        if by_card
        else world.money.press(await world.money.cashier(order))
    )
    world.money.channel.lose_answers = chance.random() < 0.2
    world.payment_rpc.lose_answers = chance.random() < 0.2
    world.money.orders.away = chance.random() < 0.2

    async def end() -> None:
        if by_expiry:
            world.money.clock.advance(PAYMENT_WINDOW.total_seconds())
            await world.orders.expire()
        else:
            await world.orders.cancel(order)

    async def background() -> None:
        await world.money.callbacks()
        await world.orders.relay()
        await world.money.app.polling.run_once()

    await asyncio.gather(
        later(chance.randrange(300), pay),
        later(chance.randrange(300), end()),
        later(chance.randrange(300), background()),
    )
    world.money.channel.lose_answers = world.payment_rpc.lose_answers = world.money.orders.away = (
        False
    )
    await world.settle(rounds=4)
    return order


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("by_expiry", [True, False], ids=["expiry", "cancel"])
async def test_a_payment_against_a_cancel_leaves_no_order_between(
    world: JoinedWorld, rounds: Callable[[int, int], int], *, by_expiry: bool
) -> None:
    chance = random.Random(5)
    ends: Counter[str] = Counter()
    for _ in range(rounds(12, 1000)):
        order = await race(world, chance, by_expiry=by_expiry)
        if (await world.orders.load(order)).state not in (S.PAID, S.CANCELLED):
            await world.settle(rounds=20)
        assert await world.problems(order) == []
        ends[(await world.orders.load(order)).state] += 1
    assert set(ends) == {S.PAID, S.CANCELLED}
    assert await world.orders.stock_problems() == []
    assert await world.money.ledger_problems() == []


async def test_while_payment_rpc_is_stopped_expired_orders_wait_and_finish_afterwards(
    world: JoinedWorld,
) -> None:
    made = [await world.money.order() for _ in range(3)]
    paid = await world.money.charge(made[0])
    world.money.orders.away = world.payment_rpc.away = True
    world.money.clock.advance(PAYMENT_WINDOW.total_seconds())
    await world.orders.expire()
    await world.orders.relay()
    assert [(await world.orders.load(order)).state for order in made[1:]] == [S.CANCELLING] * 2
    assert paid.state is PaymentState.SUCCESS
    world.money.orders.away = world.payment_rpc.away = False
    await world.settle()
    assert [(await world.orders.load(order)).state for order in made] == [
        S.PAID,
        S.CANCELLED,
        S.CANCELLED,
    ]
    assert [await world.problems(order) for order in made] == [[], [], []]


async def test_a_payment_whose_answer_was_lost_pays_the_order_that_expires(
    world: JoinedWorld,
) -> None:
    order = await world.money.order()
    world.money.channel.lose_answers = True
    assert (await world.money.charge(order)).state is PaymentState.PAYING
    world.money.channel.lose_answers = False
    world.money.clock.advance(PAYMENT_WINDOW.total_seconds())
    await world.orders.expire()
    await world.settle()
    assert (await world.orders.load(order)).state is S.PAID
    assert await world.problems(order) == []


async def test_a_payment_after_the_cancel_is_refused_before_any_money_moves(
    world: JoinedWorld,
) -> None:
    order = await world.money.order()
    await world.orders.cancel(order)
    with pytest.raises(MeshError):
        await world.money.charge(order)
    assert await world.money.captured_at_sandbox() == []
    assert await world.problems(order) == []


async def test_a_burst_of_payorder_never_waits_on_itself_and_makes_one_payment_per_order(
    world: JoinedWorld,
) -> None:
    orders = [await world.money.order() for _ in range(4)]

    async def pay(order: Order) -> Any:
        return await world.orders.payments.pay(
            merchant_id="mall",
            order_id=order.order_id,
            channel="sandbox",
            return_url="",
            caller=buyer(),
        )

    async with asyncio.timeout(20):
        payments = await asyncio.gather(*(pay(order) for order in orders * 16))
    assert world.payment_rpc.creates == 64
    assert world.money.orders.gets == 0  # payment_rpc asked nobody back
    assert (
        len({payment.payment_id for payment in payments})
        == len(await world.money.rows(PAYMENT))
        == 4
    )


async def test_a_payment_started_by_payorder_pays_the_order(world: JoinedWorld) -> None:
    order = await world.money.order()
    payment = await world.orders.payments.pay(
        merchant_id="mall", order_id=order.order_id, channel="", return_url="", caller=buyer()
    )
    await world.money.press(await world.money.payment(payment.payment_id))
    await world.settle()
    assert (await world.orders.load(order)).paid_payment_id == payment.payment_id
    assert await world.problems(order) == []


# Refunds, all the way to the channel and back.


async def paid(world: JoinedWorld, price: str = "100.00", *, quantity: int = 1) -> Order:
    order = await world.money.order(price, quantity=quantity)
    await world.money.charge(order)
    await world.settle(rounds=1)
    order = await world.orders.load(order)
    assert order.state is S.PAID
    return order


async def test_a_full_refund_goes_all_the_way_and_ends_the_order(world: JoinedWorld) -> None:
    order = await paid(world, quantity=2)
    refund = await world.orders.refund(order)
    assert refund.refund_id.startswith("RF")
    await world.settle()
    done = await world.orders.load(order)
    assert (done.state, done.refund_status, done.refunded) == (
        S.REFUNDED,
        RefundStatus.REFUNDED,
        order.amount,
    )
    assert await world.orders.stock(order.lines[0].sku_id) == (1000, 0, 0)
    assert await world.orders.stock_problems() == []
    assert await world.money.ledger_problems() == []


async def test_partial_refunds_by_line_and_amount_add_up(world: JoinedWorld) -> None:
    order = await paid(world, quantity=3)
    sku_id = order.lines[0].sku_id
    await world.orders.refund(order, (sku_id, 1))
    await world.orders.refund(order, amount="50.00")
    await world.orders.ship(order)
    await world.settle()
    shipped = await world.orders.load(order)
    assert (shipped.state, shipped.refund_status, shipped.refunded.format()) == (
        S.SHIPPED,
        RefundStatus.PARTIAL,
        "150.00",
    )
    asked = await world.orders.refund(order)
    await world.orders.approve(asked)
    await world.settle()
    assert (await world.orders.load(order)).state is S.REFUNDED
    assert await world.orders.stock(sku_id) == (1000, 0, 0)
    assert await world.orders.stock_problems() == []


async def test_refunds_that_race_on_both_sides_never_exceed_what_was_captured(
    world: JoinedWorld,
) -> None:
    order = await paid(world)

    async def at_payment_rpc(number: int) -> None:
        command = CreateRefund(
            payment_id=order.paid_payment_id,
            amount=RequestedAmount("30.00"),
            reason="",
            request_id=f"direct-{number}",
            key="",
        )
        await world.money.app.refunds.create_refund(command, merchant())

    await asyncio.gather(
        *(later(number, at_payment_rpc(number)) for number in range(3)),
        *(
            later(number, world.orders.refund(order, amount="40.00", caller=merchant()))
            for number in range(3)
        ),
    )
    await world.settle()
    [payment] = await world.money.rows(PAYMENT)
    assert payment["refunded_minor"] <= payment["captured_minor"]
    refunds = await world.orders.refunds(order)
    assert {refund.state for refund in refunds} <= {RefundState.SUCCEEDED, RefundState.FAILED}
    assert (
        sum(refund.amount.minor for refund in refunds if refund.state is RefundState.SUCCEEDED)
        == payment["refunded_minor"]
    )
    assert (await world.orders.load(order)).refunded.minor == payment["refunded_minor"]


async def test_a_refund_whose_answer_was_lost_is_made_once(world: JoinedWorld) -> None:
    order = await paid(world)
    world.payment_rpc.lose_answers = True
    await world.orders.refund(order)
    world.payment_rpc.lose_answers = False
    await world.settle()
    [refund] = await world.orders.refunds(order)
    assert (refund.state, (await world.orders.load(order)).state) == (
        RefundState.SUCCEEDED,
        S.REFUNDED,
    )


async def test_a_payment_that_comes_after_the_cancel_ends_refunded_or_revived(
    world: JoinedWorld,
) -> None:
    order = await late(world)
    assert (await world.orders.load(order)).state is S.CANCELLED
    [payment] = await world.money.rows(PAYMENT)
    assert (payment["state"], payment["refunded_minor"]) == (
        PaymentState.LATE_REFUNDED,
        payment["captured_minor"],
    )
    assert await world.problems(order) == []


async def test_a_payment_that_comes_after_the_cancel_revives_the_order_of_a_shop_that_wants_it(
    reviving: JoinedWorld,
) -> None:
    order = await late(reviving)
    assert (await reviving.orders.load(order)).state is S.PAID
    assert await reviving.problems(order) == []
    assert await reviving.orders.stock_problems() == []


async def test_a_refund_that_bounces_at_the_channel_is_visible(world: JoinedWorld) -> None:
    order = await paid(world, price="177.42")
    await world.orders.refund(order)
    await world.settle()
    assert (await world.orders.load(order)).refund_status is RefundStatus.REFUNDED
    world.money.clock.advance(3600)
    await world.settle()
    bounced = await world.orders.load(order)
    assert (bounced.state, bounced.refund_status, bounced.refunded.minor) == (
        S.REFUNDED,
        RefundStatus.BOUNCED,
        0,
    )
    assert await world.orders.stock(order.lines[0].sku_id) == (1000, 0, 0)
    assert await world.orders.stock_problems() == []


async def test_a_refund_that_the_channel_refuses_is_closed_and_the_order_ships(
    world: JoinedWorld,
) -> None:
    order = await paid(world, price="177.43")
    refund = await world.orders.refund(order)
    await world.settle()
    [refund] = await world.orders.refunds(order)
    assert refund.state is RefundState.FAILED
    assert (await world.orders.load(order)).refund_status is RefundStatus.FAILED
    assert (await world.orders.ship(order)).state is S.SHIPPED


async def late(world: JoinedWorld) -> Order:
    """A cancelled order whose money moves although the channel had closed its payment."""
    order = await world.money.order("177.06")
    await world.money.cashier(order)
    await world.orders.cancel(order)
    assert (await world.orders.load(order)).state is S.CANCELLED
    await world.settle()
    return order

"""Held money against its order, both services real and a channel that holds money: whoever expires,
cancels, captures or lets go in the same moment, the order ends PAID by that money or CANCELLED
without it.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mesh.call import Caller, Role
from mesh.errors import MeshError
from mesh.money import RequestedAmount
from mesh.outbox import OUTBOX
from order_rpc.domain.errors import CaptureInProgress, MoneyHeld
from order_rpc.domain.order import Order, OrderState
from order_rpc.domain.policy import MerchantPolicy
from payment_rpc.domain.payment import Payment, PaymentState
from payment_rpc.usecases.captures import CapturePayment
from tests.builders.holding_channel import HOLD, HoldingChannel, begin_held, held_payment, holding
from tests.builders.order import PAYMENT_WINDOW, buyer, merchant
from tests.builders.order_payment import JoinedWorld, joined_world

S = OrderState
SHOP = Caller(role=Role.MERCHANT, subject="shop", merchant_id="mall")


@pytest.fixture
async def world(
    database_url_factory: Callable[[], str], tmp_path: Path
) -> AsyncIterator[JoinedWorld]:
    async with joined_world(database_url_factory(), database_url_factory(), tmp_path) as world:
        yield world


@pytest.fixture
def channel(world: JoinedWorld) -> HoldingChannel:
    return holding(world.money)


async def capture(world: JoinedWorld, payment: Payment) -> Payment:
    return await world.money.app.captures.capture_payment(
        CapturePayment(payment_id=payment.payment_id, amount=RequestedAmount(""), key=""), SHOP
    )


async def test_the_order_is_told_of_a_hold_and_of_its_end(
    world: JoinedWorld, channel: HoldingChannel
) -> None:
    order = await world.money.order()
    held = await held_payment(world.money, channel, order)
    await world.settle(rounds=1)
    told = await world.orders.load(order)
    assert told.held is not None
    assert (told.held.payment_id, told.held.money.amount, told.held.money.until) == (
        held.payment_id,
        order.amount,
        held.expires_at,
    )
    world.money.clock.advance(PAYMENT_WINDOW.total_seconds())
    await world.settle()
    assert (await world.orders.load(order)).state is S.PENDING_PAYMENT
    await world.money.app.captures.void_payment(held.payment_id, SHOP)
    await world.settle()
    assert (await world.orders.load(order)).state is S.CANCELLED
    assert await world.problems(order) == []
    events = [row["tag"] for row in await world.money.rows(OUTBOX) if "TOPIC" in row["destination"]]
    assert events == ["PAYMENT_AUTHORIZED", "PAYMENT_FAILED"]


async def test_a_hold_that_the_channel_ends_later_moves_the_order(
    world: JoinedWorld, channel: HoldingChannel
) -> None:
    order = await world.money.order()
    held = await held_payment(world.money, channel, order)
    [attempt_id] = channel.facts
    longer = channel.hold(attempt_id, order.amount, until=held.expires_at + HOLD)
    moved = (await world.money.app.channel_results.apply(longer)).payment
    await world.settle(rounds=2)
    told = await world.orders.load(order)
    assert told.expires_at == moved.expires_at > held.expires_at


async def test_a_buyer_whose_money_is_held_cannot_cancel_even_before_the_order_knows(
    world: JoinedWorld, channel: HoldingChannel
) -> None:
    order = await world.money.order()
    held = await held_payment(world.money, channel, order)
    with pytest.raises(MoneyHeld):
        await world.orders.cancel(order)
    assert (await world.money.payment(held.payment_id)).state is PaymentState.AUTHORIZED
    await capture(world, held)
    await world.settle()
    assert (await world.orders.load(order)).state is S.PAID
    assert await world.problems(order) == []


async def test_held_money_whose_time_is_over_is_let_go_when_its_order_is_closed(
    world: JoinedWorld, channel: HoldingChannel
) -> None:
    order = await world.money.order()
    held = await held_payment(world.money, channel, order)
    await world.settle(rounds=1)
    world.money.clock.advance((held.expires_at - world.money.clock.now()).total_seconds())
    await world.orders.expire()  # before payment_rpc has noticed
    await world.orders.relay()
    assert (await world.orders.load(order)).state is S.CANCELLED
    assert (await world.money.payment(held.payment_id)).state is PaymentState.CLOSED
    assert await world.problems(order) == []


async def raced(world: JoinedWorld, channel: HoldingChannel, chance: random.Random) -> Order:
    """One order: its money becomes held, and at the same time it expires or is cancelled, and the
    shop takes the money or lets it go.
    """
    order = await world.money.order()
    payment, attempt_id = await begin_held(world.money, order)
    if chance.random() < 0.5:
        world.money.clock.advance(PAYMENT_WINDOW.total_seconds())
    fact = channel.hold(attempt_id, order.amount, until=world.money.clock.now() + HOLD)

    async def one(work: Callable[[], Any]) -> None:
        for _ in range(chance.randrange(60)):
            await asyncio.sleep(0)
        try:
            await work()
        except MeshError:
            return

    works: list[Callable[[], Any]] = [
        lambda: world.money.app.channel_results.apply(fact),
        world.money.finish,
        world.orders.expire,
        world.orders.relay,
    ]
    works += chance.sample(
        [
            lambda: world.orders.cancel(order, caller=merchant()),
            lambda: world.orders.cancel(order, caller=buyer(order.user_id)),
            lambda: capture(world, payment),
            lambda: world.money.app.captures.void_payment(payment.payment_id, SHOP),
        ],
        chance.randrange(4),
    )
    await asyncio.gather(*(one(work) for work in works))
    await world.settle()
    left = await world.money.payment(payment.payment_id)
    if left.state is PaymentState.AUTHORIZED:  # nobody decided: the hold ends
        known = await world.orders.load(order)
        assert known.held is not None, f"{order.order_id} does not know of {payment.payment_id}"
        assert known.expires_at == left.expires_at
        world.money.clock.advance(HOLD.total_seconds())
        await world.settle()
    return await world.orders.load(order)


async def test_of_all_that_happens_to_a_held_order_one_thing_wins(
    world: JoinedWorld, channel: HoldingChannel, rounds: Callable[[int, int], int]
) -> None:
    chance, ends = random.Random(5), Counter[OrderState]()
    for _ in range(rounds(6, 1000)):
        order = await raced(world, channel, chance)
        ends[order.state] += 1
        assert await world.problems(order) == []
    assert set(ends) <= {S.PAID, S.CANCELLED}


async def test_a_shipment_whose_answer_was_lost_captures_once(
    world: JoinedWorld, channel: HoldingChannel
) -> None:
    world.orders.policies["mall"] = MerchantPolicy(ships_on_authorized=True)
    order = await world.money.order()
    await held_payment(world.money, channel, order)
    await world.settle(rounds=1)
    world.payment_rpc.lose_answers = True  # as if order_rpc had died after the capture
    with pytest.raises(CaptureInProgress):
        await world.orders.ship(order)
    world.payment_rpc.lose_answers = False
    shipped = await world.orders.ship(order)
    assert (shipped.state, len(channel.captures)) == (S.SHIPPED, 1)
    await world.settle()
    assert (await world.money.payment(shipped.paid_payment_id)).state is PaymentState.SUCCESS


async def test_of_a_shipment_and_a_cancel_exactly_one_wins(
    world: JoinedWorld, channel: HoldingChannel, rounds: Callable[[int, int], int]
) -> None:
    world.orders.policies["mall"] = MerchantPolicy(ships_on_authorized=True)
    chance, ends = random.Random(5), Counter[OrderState]()
    for _ in range(rounds(6, 1000)):
        order = await world.money.order()
        payment = await held_payment(world.money, channel, order)
        await world.settle(rounds=1)

        async def later(work: Callable[[], Any]) -> None:
            for _ in range(chance.randrange(60)):
                await asyncio.sleep(0)
            with suppress(MeshError):
                await work()

        await asyncio.gather(
            later(lambda order=order: world.orders.ship(order)),  # type: ignore[misc]
            later(lambda order=order: world.orders.cancel(order, caller=merchant())),  # type: ignore[misc]
        )
        await world.settle()
        end, left = await world.orders.load(order), await world.money.payment(payment.payment_id)
        ends[end.state] += 1
        assert (end.state, left.state) in (
            (S.SHIPPED, PaymentState.SUCCESS),
            (S.PAID, PaymentState.SUCCESS),  # captured for a shipment that found a cancel
            (S.CANCELLED, PaymentState.CLOSED),
        )
    assert set(ends) & {S.SHIPPED, S.CANCELLED}

"""What a channel says that it does not take is refused before anything is reserved or sent, or waits
until the channel takes it. A call whose key may be forgotten is never repeated.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from mesh import failpoints
from mesh.errors import InvalidArgument, MeshError
from mesh.failpoints import FailpointRaised
from mesh.money import RequestedAmount
from order_rpc.tables import ORDERS
from payment_rpc.channels.capabilities import Close
from payment_rpc.domain.attempt import KEY_EXPIRED
from payment_rpc.domain.errors import (
    ChannelUnavailable,
    OrderNotPayable,
    RefundLimitReached,
    RefundNotAllowed,
)
from payment_rpc.domain.payment import Payment, PaymentState
from payment_rpc.domain.refund import RefundState
from payment_rpc.domain.refund_facts import RefundChannelStatus, RefundFact
from payment_rpc.tables import PAYMENT, REFUND
from tests.builders.payment import CONFIG, LEASE_SECONDS, PaymentWorld
from tests.builders.payment_steps import CLERK, attempt_of, refund
from tests.builders.scripted_channel import ScriptedChannel

S = PaymentState
DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)


def sells_by(world: PaymentWorld, kind: Close = Close.KNOWN, **able: Any) -> ScriptedChannel:
    """Opens a channel with limits beside the sandbox."""
    channel = ScriptedChannel(kind)
    channel.capabilities = replace(channel.capabilities, **able)
    world.app = world.make_app(
        channels={"sandbox": world.channel, "scripted": channel},
        config=replace(CONFIG, answer_pauses_seconds=(0.0,)),
    )
    return channel


async def bought(world: PaymentWorld, channel: ScriptedChannel) -> Payment:
    """A payment of 100.00 that the channel took."""
    payment = await world.cashier(await world.order(), channel="scripted")
    attempt_id = await attempt_of(world, payment.payment_id)
    channel.take(attempt_id)
    fact = replace(channel.fact(attempt_id), occurred_at=world.clock.now())
    return (await world.app.channel_results.apply(fact)).payment


async def states(world: PaymentWorld) -> list[str]:
    return [row["state"] for row in sorted(await world.rows(REFUND), key=lambda r: r["refund_id"])]


# refunds


async def test_a_refund_that_comes_too_soon_waits_and_is_sent_in_time(world: PaymentWorld) -> None:
    channel = sells_by(world, refund_spacing=MINUTE)
    payment = await bought(world, channel)
    first = await refund(world, payment, "10.00")
    assert first.state is RefundState.SUCCESS
    second = await refund(world, payment, "20.00", key="k-2")
    third = await refund(world, payment, "30.00")
    assert (second.state, third.state) == (RefundState.CREATED, RefundState.CREATED)
    assert second.next_query_at == world.clock.now() + MINUTE
    assert (await world.payment(payment.payment_id)).refund_reserved.format() == "50.00"
    world.clock.advance(59.9)
    await world.app.refunds.run_once()
    assert [*channel.refunded] == [first.refund_id]
    world.clock.advance(0.2)
    await world.app.refunds.run_once()
    assert len(channel.refunded) == 2
    assert sorted(await states(world)) == ["CREATED", "SUCCESS", "SUCCESS"]
    world.clock.advance(61 + LEASE_SECONDS)  # it was under way when the third one looked
    await world.app.refunds.run_once()
    assert await states(world) == ["SUCCESS", "SUCCESS", "SUCCESS"]
    again = await refund(world, payment, "20.00", key="k-2")
    assert (again.refund_id, again.state) == (second.refund_id, RefundState.SUCCESS)
    assert await world.ledger_problems() == []


@pytest.mark.parametrize(
    ("able", "refusal", "says"),
    [
        ({"refund_window": DAY}, RefundNotAllowed, "for 1 days"),
        ({"refunds_max": 1}, RefundLimitReached, "1 refunds"),
        ({"partial_refunds": False}, InvalidArgument, "no part of it"),
    ],
)
async def test_a_refund_that_its_channel_would_not_take_reserves_nothing(
    world: PaymentWorld, able: dict[str, Any], refusal: type[MeshError], says: str
) -> None:
    channel = sells_by(world, **able)
    payment = await bought(world, channel)
    taken = await refund(world, payment, "" if "partial_refunds" in able else "10.00", key="k")
    if "partial_refunds" in able:
        payment = await bought(world, channel)
    before = await world.payment(payment.payment_id)
    world.clock.advance(DAY.total_seconds() + 1)
    for call in (
        refund(world, payment, "20.00"),
        world.app.refunds.preview_refund(
            payment_id=payment.payment_id, amount=RequestedAmount("20.00"), caller=CLERK
        ),
    ):
        with pytest.raises(refusal) as refused:
            await call
        assert says in refused.value.message
    assert await world.payment(payment.payment_id) == before
    assert [*channel.refunded] == [taken.refund_id]


async def test_a_repeated_refund_is_answered_while_its_channel_cannot_be_opened(
    world: PaymentWorld,
) -> None:
    channel = sells_by(world)
    payment = await bought(world, channel)
    first = await refund(world, payment, "10.00", key="k")
    world.app = world.make_app()  # without the channel
    assert (await refund(world, payment, "10.00", key="k")).refund_id == first.refund_id
    with pytest.raises(ChannelUnavailable):
        await refund(world, payment, "20.00")
    assert (await world.payment(payment.payment_id)).refund_reserved.minor == 0


async def test_a_refund_whose_key_may_be_forgotten_is_asked_about_and_not_sent_again(
    world: PaymentWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = sells_by(world, resend_window=DAY)
    payment = await bought(world, channel)
    sent: list[str] = []

    async def lost(*, refund_id: str, **_call: Any) -> RefundFact:
        sent.append(refund_id)
        return RefundFact(refund_id=refund_id, status=RefundChannelStatus.UNKNOWN)

    monkeypatch.setattr(channel, "refund", lost)
    made = await refund(world, payment, "10.00")
    world.clock.advance(LEASE_SECONDS + 1)
    await world.app.refunds.run_once()
    assert sent == [made.refund_id] * 2
    world.clock.advance(DAY.total_seconds())
    await world.app.refunds.run_once()
    assert sent == [made.refund_id] * 2
    assert await world.attention() == [(KEY_EXPIRED, made.refund_id)]
    assert await states(world) == ["UNKNOWN"]
    # whatever it hears later still counts
    channel.refunded[made.refund_id] = made.amount
    world.clock.advance(DAY.total_seconds())
    await world.app.refunds.run_once()
    assert await states(world) == ["SUCCESS"]


# payments


async def ends_in(world: PaymentWorld, order_id: str, life: timedelta) -> None:
    """The order ends then."""
    await world.order_side.execute(
        update(ORDERS)
        .where(ORDERS.c.order_id == order_id)
        .values(expires_at=world.clock.now() + life)
    )


async def test_a_payment_ends_when_its_channel_lets_it_live_no_longer(world: PaymentWorld) -> None:
    sells_by(world, expires=(MINUTE, timedelta(minutes=10)))
    order = await world.order()
    payment = await world.cashier(order, channel="scripted")
    assert payment.expires_at == world.clock.now() + timedelta(minutes=10) < order.expires_at


async def test_an_order_that_ends_too_soon_for_a_channel_is_refused_before_anything_is_written(
    world: PaymentWorld,
) -> None:
    channel = sells_by(world, expires=(MINUTE, DAY))
    order = await world.order()
    world.clock.set(order.expires_at - timedelta(seconds=69))
    with pytest.raises(OrderNotPayable) as refused:
        await world.cashier(order, channel="scripted")
    assert "70 seconds" in refused.value.message
    assert (await world.rows(PAYMENT), channel.calls) == ([], [])
    world.clock.advance(-1)
    assert (await world.cashier(order, channel="scripted")).state is S.PAYING


async def test_a_payment_is_not_sent_again_when_its_key_may_be_forgotten(
    world: PaymentWorld,
) -> None:
    channel = sells_by(world, resend_window=MINUTE)
    order = await world.order()
    failpoints.arm("payment.cashier.after_tx1=raise", environment="test")
    with pytest.raises(FailpointRaised):
        await world.cashier(order, channel="scripted", key="k")
    failpoints.arm("", environment="test")
    world.clock.advance(61)
    await world.cashier(order, channel="scripted", key="k")
    assert channel.count("checkout") == 0
    await world.finish()
    [row] = await world.rows(PAYMENT)
    assert row["state"] in ("FAILED", "CLOSED")


async def test_a_step_whose_key_may_be_forgotten_is_not_taken_again_and_a_person_looks_at_it(
    world: PaymentWorld,
) -> None:
    channel = sells_by(world, Close.PROMISE, resend_window=timedelta(minutes=5))
    order = await world.order()
    payment = await world.cashier(order, channel="scripted")
    attempt_id = await attempt_of(world, payment.payment_id)
    channel.pay(attempt_id)

    async def never_arrives() -> None:
        channel.known[attempt_id].is_approved = False

    channel.during_step, channel.lose_step = never_arrives, True
    world.clock.advance(LEASE_SECONDS + 1)
    await world.app.polling.run_once()
    assert channel.count("advance") == 1
    channel.known[attempt_id].is_approved = True
    world.clock.advance(300)
    await world.app.polling.run_once()
    assert channel.count("advance") == 1
    assert await world.attention() == [(KEY_EXPIRED, attempt_id)]
    assert (await world.payment(payment.payment_id)).state is S.PAYING
    # money that moved after all is found by the next question
    await world.app.cancellation.close_payment(
        merchant_id="mall", order_id=order.order_id, by_buyer=True
    )
    assert channel.count("advance") == 1
    assert (await world.payment(payment.payment_id)).state is S.CLOSED

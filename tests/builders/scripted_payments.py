"""Payments by a scripted channel: begun, closed, told of, and what must be true of their money."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from order_rpc.domain.order import Order
from payment_rpc.channels.capabilities import Close
from payment_rpc.domain.attempt import Attempt
from payment_rpc.domain.payment import Payment, PaymentState
from payment_rpc.store import attempts
from payment_rpc.tables import ATTEMPT, MANUAL_REVIEW
from tests.builders.payment import CONFIG, PaymentWorld
from tests.builders.scripted_channel import ScriptedChannel

S = PaymentState


def sells_by(world: PaymentWorld, kind: Close) -> ScriptedChannel:
    """Opens a channel beside the sandbox."""
    channel = ScriptedChannel(kind)
    world.app = world.make_app(
        channels={"sandbox": world.channel, "scripted": channel},
        config=replace(CONFIG, answer_pauses_seconds=(0.0,)),
    )
    return channel


async def begun(world: PaymentWorld, **changes: Any) -> tuple[Order, Payment, Attempt]:
    """A buyer at the page of the channel."""
    order = await world.order()
    payment = await world.cashier(order, channel="scripted", **changes)
    return order, payment, await attempt_of(world, payment.payment_id)


async def attempt_of(world: PaymentWorld, payment_id: str) -> Attempt:
    [row] = [row for row in await world.rows(ATTEMPT) if row["payment_id"] == payment_id]
    return await world.db.read(attempts.get_attempt, row["attempt_id"])


async def cancel(world: PaymentWorld, payment: Payment) -> PaymentState:
    """ClosePayment of the order, as order_rpc asks for it."""
    await world.app.cancellation.close_payment(
        merchant_id="mall", order_id=payment.order_id, by_buyer=True
    )
    return (await world.payment(payment.payment_id)).state


async def tell(world: PaymentWorld, channel: ScriptedChannel) -> None:
    """The channel tells of all that it captured, as it does until it is heard."""
    for attempt_id, known in channel.known.items():
        if known.captures:
            await world.app.channel_results.apply(channel.fact(attempt_id))


async def settle(world: PaymentWorld, channel: ScriptedChannel) -> None:
    """Time passes until nothing is left to do: deadlines, questions, news, refunds."""
    await world.finish(rounds=3)
    world.clock.advance(3600)
    await tell(world, channel)
    await world.finish(rounds=3)
    await world.app.refunds.run_once()
    await world.finish(rounds=1)


async def money_is_right(world: PaymentWorld, channel: ScriptedChannel) -> None:
    """Never taken twice, never lost: what was taken is booked, and kept by a paid order alone."""
    assert [known.captures for known in channel.known.values() if known.captures > 1] == []
    taken = {attempt_id for attempt_id, known in channel.known.items() if known.captures}
    rows = await world.rows(ATTEMPT)
    assert {row["attempt_id"] for row in rows if row["state"] == "CAPTURED"} == taken
    for row in rows:
        payment = await world.payment(row["payment_id"])
        if row["attempt_id"] not in taken:
            assert payment.state in (S.CLOSED, S.FAILED), payment
        elif payment.state is S.SUCCESS:
            assert payment.refunded.minor == 0
        else:
            assert (payment.state, payment.refunded) == (S.LATE_REFUNDED, payment.captured)
    assert await world.ledger_problems() == []
    assert await world.rows(MANUAL_REVIEW) == []

"""`paymesh explain` tells a story that somebody understands who has never seen the code."""

from __future__ import annotations

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.errors import UpstreamUnavailable
from mesh.money import Money
from mesh.outbox import OUTBOX
from order_rpc.tables import ORDER_AUDIT, REFUND_REQUEST
from payment_rpc.domain.errors import CardDeclined
from payment_rpc.domain.facts import ChannelFact, ChannelStatus
from payment_rpc.tables import ATTEMPT, CHANNEL_CALLBACK, REFUND, WALLET_ENTRY
from paymesh_cli.explain import read_explanations
from tests.builders.audit import in_this_order, told
from tests.builders.order import PAYMENT_WINDOW
from tests.builders.payment import DECLINED, LEASE_SECONDS, PaymentWorld
from tests.builders.payment_steps import refund, spend, top_up


async def test_money_that_came_after_the_order_was_cancelled_and_went_back(
    world: PaymentWorld,
) -> None:
    order = await world.order()
    waiting = await world.cashier(order)
    world.clock.advance(60)
    # it is told that the payment is closed, and the channel takes the money all the same
    await world.order_side.cancel(order)
    await world.press(waiting)
    world.clock.advance(1)
    await world.callbacks()
    world.clock.advance(10)
    await world.app.order_relay.run_once()
    text = await told(world, order.order_id)
    in_this_order(
        text,
        "was paid, the order refused it, because it was cancelled; 0.00 CNY of it is back with "
        "the buyer and the rest is on its way",
        "What happens next",
        "Refund RF.* is sent to the channel",
    )
    world.clock.advance(5)
    await world.app.refunds.run_once()
    world.clock.advance(10)
    await world.app.order_relay.run_once()
    text = await told(world, waiting.payment_id)
    in_this_order(
        text,
        r"Order ORD.* of buyer u1 at mall, 100.00 CNY, is cancelled \(changed my mind\)",
        "the order refused it, because it was cancelled; all of it went back to the buyer",
        "What happened",
        "The order was made",
        "The buyer began to pay 100.00 CNY at the cashier of sandbox: payment PAY",
        "The order went from CANCELLING to CANCELLED",
        "The channel took 100.00 CNY, number",
        "The order did not take the money: 100.00 CNY is parked, to go back",
        "A refund of 100.00 CNY was begun by itself",
        "The order refused the money of payment PAY.*: it was cancelled. The money must go back",
        "100.00 CNY went back to the buyer",
        "Refund RF.* is done",
        "What happens next",
        "Nothing: all of it is final",
    )
    assert (
        text
        == await told(world, (await world.rows(REFUND))[0]["refund_id"])
        == await told(world, (await world.rows(ATTEMPT))[0]["attempt_id"])
    )


async def test_a_payment_whose_outcome_nobody_knows_yet(world: PaymentWorld) -> None:
    world.channel.lose_answers = True
    order = await world.order()
    payment = await world.charge(order)
    text = await told(world, payment.payment_id)
    in_this_order(
        text,
        "waits for its money",
        "is not decided yet",
        "No answer came from the channel: it may have taken the money or not",
        "What happens next",
        "The channel is asked what became of attempt ATT",
        "is cancelled if it is not paid by then",
    )
    world.clock.advance(LEASE_SECONDS)
    await world.app.polling.run_once()
    in_this_order(await told(world, payment.payment_id), "We asked 1 times")


async def test_what_the_scan_did_by_itself_is_told_with_what_it_changed(
    world: PaymentWorld,
) -> None:
    world.channel.lose_answers = True
    found, waiting = (
        await world.charge(await world.order()),
        await world.cashier(await world.order()),
    )
    world.channel.unreachable = True
    for seconds in (5, 5, 15):
        world.clock.advance(seconds)
        await world.app.polling.run_once()
    world.channel.unreachable = False
    world.clock.advance(PAYMENT_WINDOW.total_seconds())
    await world.app.expiry.run_once()
    await world.app.polling.run_once()
    in_this_order(
        await told(world, found.payment_id),
        "The buyer began to pay",
        "The scan asked the channel what became of attempt ATT.*: UNKNOWN; the payment stayed "
        "PAYING. "
        r"So it was 3 times, the last one at 2026-11-20T12:00:25\+00:00",
        r"The scan found that the time to pay is over \(DEADLINE\); the payment went from PAYING "
        r"to CLOSING",
        "The scan closed attempt ATT.* at the channel: CAPTURED; the payment went from CLOSING to "
        "SUCCESS",
        "What the scan found goes to order_rpc as message EVT",
    )
    in_this_order(
        await told(world, waiting.payment_id),
        "The scan closed attempt ATT.* at the channel: CLOSED",
        "the payment went from CLOSING to CLOSED",
    )


async def test_an_order_that_is_away_is_told_later(world: PaymentWorld) -> None:
    order = await world.order()

    async def leave() -> None:
        raise UpstreamUnavailable("order_rpc is away")

    world.orders.before_update = leave
    await world.charge(order)
    in_this_order(
        await told(world, order.order_id),
        "was paid; the order has not heard of it yet",
        "The order is to be told: PAY.* is SUCCESS",
        "What happens next",
        "The order is told that PAY.* is SUCCESS",
    )


async def test_a_second_payment_after_a_declined_card(world: PaymentWorld) -> None:
    order = await world.order()
    with pytest.raises(CardDeclined):
        await world.charge(order, number=DECLINED)
    world.clock.advance(30)
    paid = await world.charge(order)
    await refund(world, paid, "40.00")
    in_this_order(
        await told(world, order.order_id),
        "is paid",
        "ended without money",
        "100.00 CNY was paid, 40.00 CNY of it went back",
        "The channel declined",
        "by card visa …4242",
        "The channel took 100.00 CNY",
        "went from PENDING_PAYMENT to PAID",
        "The order took payment PAY",
    )


async def test_money_that_a_person_must_look_at(world: PaymentWorld) -> None:
    waiting = await world.cashier(await world.order())
    attempt_id = (await world.rows(ATTEMPT))[0]["attempt_id"]
    await world.app.channel_results.apply(
        ChannelFact(
            attempt_id=attempt_id,
            status=ChannelStatus.CAPTURED,
            amount=Money(1, "CNY"),
            trade_no="T8",
        )
    )
    in_this_order(
        await told(world, waiting.payment_id),
        "the channel took something else than 100.00 CNY",
        "A person was called: AMOUNT_CONFLICT",
        "What happens next",
        "by hand",
        "A person must look at AMOUNT_CONFLICT",
    )


async def test_a_wallet_has_a_story_without_an_order_and_one_with(world: PaymentWorld) -> None:
    payment = await top_up(world)
    in_this_order(
        await told(world, payment.payment_id),
        "100.00 CNY was paid into the buyer's wallet",
        "into the wallet, by card",
        "100.00 CNY came in and is in the buyer's wallet",
        "Nothing: all of it is final",
    )
    paid = await spend(world, await world.order("60.00"))
    in_this_order(
        await told(world, paid.payment_id),
        "60.00 CNY was paid",
        "out of the wallet",
        "60.00 CNY left the buyer's wallet",
    )


async def test_a_name_that_nobody_knows_has_no_story(world: PaymentWorld) -> None:
    assert (
        await read_explanations(
            {"payment_rpc": world.db, "order_rpc": world.order_side.db}, "PAYnone"
        )
        == {}
    )


async def test_every_id_that_is_printed_leads_to_the_story(world: PaymentWorld) -> None:
    order = await world.order()
    waiting = await world.cashier(order)
    await world.press(waiting)
    await world.callbacks()
    await world.finish()
    await world.order_side.refund(await world.order_side.load(order), amount="10.00")
    await refund(world, await world.payment(waiting.payment_id), "40.00")
    await world.app.refunds.run_once()
    await world.finish(rounds=3)
    story = await told(world, order.order_id)
    in_this_order(story, "Refund RF.* is done")
    names = [
        row[column]
        for table, columns in (
            (ATTEMPT, ("attempt_id", "payment_id", "channel_trade_no")),
            (REFUND, ("refund_id", "channel_refund_no", "request_id")),
            (CHANNEL_CALLBACK, ("callback_id", "event_id", "trace_id")),
            (OUTBOX, ("event_id", "trace_id")),
        )
        for row in await world.rows(table)
        for column in columns
    ]
    names += [
        row[column]
        for table, columns in (
            (REFUND_REQUEST, ("request_id", "refund_id")),
            (OUTBOX, ("event_id", "trace_id")),
            (ORDER_AUDIT, ("event_id", "trace_id")),
        )
        for row in await world.order_side.rows(table)
        for column in columns
    ]
    assert len({name for name in names if name}) > 12
    for name in set(names) - {"", None}:
        assert await told(world, name) == story, name


async def test_a_wallet_entry_leads_to_its_payment(world: PaymentWorld) -> None:
    payment = await top_up(world)
    [entry] = await world.rows(WALLET_ENTRY)
    assert await told(world, entry["entry_id"]) == await told(world, payment.payment_id)


async def test_a_product_has_a_story_of_its_own(world: PaymentWorld) -> None:
    order = await world.order()
    in_this_order(
        await told(world, order.lines[0].sku_id),
        "Product .* of mall at 100.00 CNY: .* units may be bought, 1 are reserved",
    )


async def test_what_a_buyer_wrote_does_not_command_the_terminal(world: PaymentWorld) -> None:
    order = await world.order()
    await world.order_side.cancel(
        order, reason="\x1b]0;pwned\x07\x1b[2J\x9b31m[red]PAID[/]\n2026-01-01 forged\u202e"
    )
    text = await told(world, order.order_id)
    assert not any(dangerous in text for dangerous in "\x1b\x07\x9b\u202e")
    assert r"\x1b]0;pwned\x07\x1b[2J\x9b31m[red]PAID[/]\n2026-01-01 forged\u202e" in text


@pytest.mark.parametrize("name", ["Zoë", "\u202eDRO", "x" * 5000, "'; DROP TABLE orders", "", "%"])
async def test_a_strange_name_is_nobodys(world: PaymentWorld, name: str) -> None:
    await world.order()
    assert (
        await read_explanations({"payment_rpc": world.db, "order_rpc": world.order_side.db}, name)
        == {}
    )


async def test_a_row_that_nobody_can_read_does_not_hide_what_the_other_service_knows(
    world: PaymentWorld,
) -> None:
    order = await world.order()
    payment = await world.charge(order)

    async def spoil(tx: AsyncConnection) -> None:
        await tx.exec_driver_sql(
            f"UPDATE payment SET outcome = 'NONSENSE' WHERE payment_id = '{payment.payment_id}'"
        )

    await world.db.run(spoil)
    text = await told(world, order.order_id)
    in_this_order(
        text, "is paid", "payment_rpc has a row about it that cannot be read", "The order was made"
    )

"""Money that comes before, while and after an attempt is closed, at a channel of every kind: its order
is PAID in the end, or it went back by itself. One world for all rows, because they disturb nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from order_rpc.domain.errors import OrderAlreadyPaid
from order_rpc.domain.order import Order, OrderState
from payment_rpc.channels.capabilities import Close
from payment_rpc.domain.attempt import Attempt
from payment_rpc.domain.payment import Payment, PaymentState
from tests.builders.audit import audited, nobody_listens
from tests.builders.order import buyer
from tests.builders.order_payment import JoinedWorld, joined_world
from tests.builders.payment import CONFIG, PaymentWorld
from tests.builders.scripted_channel import ScriptedChannel
from tests.builders.scripted_payments import attempt_of

O, S = OrderState, PaymentState
BEFORE, DURING, CLOSED_HERE, PAID_BY_OTHER, CANCELLED = (
    "before it is closed",
    "while it is closed",
    "after the buyer gave it up",
    "after another payment paid the order",
    "after the order was cancelled",
)
# Of these a second payment begins only when the first is over, which is when the order is over too.
STAYS_PAYABLE = (Close.DEADLINE, Close.NEVER)
SURPLUS = 500


@dataclass(kw_only=True)
class Row:
    """One order whose money comes at one moment, by a channel of one kind."""

    channel: ScriptedChannel
    moment: str
    order: Order
    payment: Payment
    attempt: Attempt

    @property
    def kind(self) -> Close:
        return self.channel.capabilities.close

    @property
    def ends(self) -> tuple[OrderState, PaymentState]:
        if self.moment == PAID_BY_OTHER:
            return O.PAID, S.LATE_REFUNDED
        if self.moment == CANCELLED:
            return O.CANCELLED, S.LATE_REFUNDED
        if self.moment == DURING and self.kind is Close.PROMISE:
            return O.CANCELLED, S.CLOSED  # the buyer approved, and we took nothing
        return O.PAID, S.SUCCESS

    def money_comes(self) -> None:
        """Also at a channel that said it would not."""
        if self.attempt.attempt_id in self.channel.known:
            self.channel.take(self.attempt.attempt_id)
        else:
            assert self.channel.pay(self.attempt.attempt_id)
        if self.kind is Close.NEVER:
            self.channel.pay_more(self.attempt.attempt_id, SURPLUS)


def rows_of(rows: list[Row], *moments: str) -> Iterator[Row]:
    return (row for row in rows if row.moment in moments)


async def begin(world: PaymentWorld, channel: ScriptedChannel, moment: str) -> Row:
    order = await world.order()
    payment = await world.cashier(order, channel=channel.name)
    attempt = await attempt_of(world, payment.payment_id)
    return Row(channel=channel, moment=moment, order=order, payment=payment, attempt=attempt)


async def give_up(world: PaymentWorld, row: Row) -> None:
    """The buyer cancels the payment; its order stays payable."""
    given_up = await world.app.cancellation.cancel_payment(
        row.payment.payment_id, buyer(row.order.user_id)
    )
    assert given_up.state is (S.CLOSING if row.kind in STAYS_PAYABLE else S.CLOSED)


async def tell(world: PaymentWorld, row: Row) -> None:
    """The channel tells of its money. One of NEVER does not: it is found by asking."""
    if row.kind is not Close.NEVER:
        await world.app.channel_results.apply(row.channel.fact(row.attempt.attempt_id))


async def drive(world: JoinedWorld, rows: list[Row]) -> None:
    money = world.money
    for row in rows_of(rows, BEFORE, DURING):
        assert row.channel.pay(row.attempt.attempt_id)
        if row.kind is Close.NEVER:
            row.channel.pay_more(row.attempt.attempt_id, SURPLUS)
    for row in rows_of(rows, CLOSED_HERE, PAID_BY_OTHER):
        await give_up(money, row)
    for row in rows_of(rows, DURING, CANCELLED):
        with suppress(OrderAlreadyPaid):
            await world.orders.cancel(row.order)
    for row in rows_of(rows, PAID_BY_OTHER):
        assert (await money.charge(row.order)).state is S.SUCCESS
    for row in rows_of(rows, CLOSED_HERE):
        row.money_comes()
        await tell(money, row)
    await world.settle()
    money.clock.advance(3600)  # deadlines and graces are over
    await world.settle()
    for row in rows_of(rows, PAID_BY_OTHER, CANCELLED):
        assert (await money.payment(row.payment.payment_id)).state is S.CLOSED, row
        row.money_comes()
        await tell(money, row)
    money.clock.advance(3600)
    await world.settle()


async def test_late_money_of_every_kind_is_the_orders_or_goes_back_and_nobody_acts(
    database_url_factory: Callable[[], str], tmp_path: Path
) -> None:
    async with joined_world(database_url_factory(), database_url_factory(), tmp_path) as world:
        money = world.money
        channels: dict[str, Any] = {
            kind.lower(): ScriptedChannel(kind, kind.lower()) for kind in Close
        }
        money.app = money.make_app(
            channels={"sandbox": money.channel, **channels},
            config=replace(CONFIG, answer_pauses_seconds=(0.0,)),
        )
        rows = [
            await begin(money, channel, moment)
            for channel in channels.values()
            for moment in (BEFORE, DURING, CLOSED_HERE, PAID_BY_OTHER, CANCELLED)
            if moment != PAID_BY_OTHER or channel.capabilities.close not in STAYS_PAYABLE
        ]
        await drive(world, rows)
        for row in rows:
            order = await world.orders.load(row.order)
            payment = await money.payment(row.payment.payment_id)
            assert (order.state, payment.state) == row.ends, (row.kind, row.moment)
            assert await world.problems(row.order) == []
        assert [
            amount.minor
            for amount in channels[Close.NEVER.lower()].refunded.values()
            if amount.minor == SURPLUS
        ] == [SURPLUS] * sum(row.kind is Close.NEVER for row in rows)
        assert await money.attention() == []
        await nobody_listens(money)
        assert await audited(money, strict=True) == []

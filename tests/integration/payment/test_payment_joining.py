"""What a second call for an order finds: a page that it may join, one that it may not, a payment
that goes on between two looks, and money that the order refused; and what becomes of a page whose
call is taken back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from mesh.idempotency import RECEIPT
from mesh.money import RequestedAmount
from order_rpc.domain.order import Order
from payment_rpc.app import PaymentApp
from payment_rpc.domain.errors import OrderAlreadyPaid, PaymentClosed, PaymentInProgress
from payment_rpc.domain.facts import ChannelFact, ChannelStatus
from payment_rpc.domain.payment import Disposition, Payment, PaymentState
from payment_rpc.store import payments
from payment_rpc.tables import ATTEMPT, PAYMENT
from payment_rpc.usecases.payment_requests import CreatePayment
from tests.builders.order import buyer
from tests.builders.payment import PRICE, PaymentWorld, UnreliableChannel, payment_world
from tests.builders.payment_steps import capture, declined, relay
from tests.support.sandbox_server import API_KEY, CALLBACK_SECRET

S, D = PaymentState, Disposition


class OtherChannel(UnreliableChannel):
    """The same channel under another name."""

    @property
    def name(self) -> str:
        return "other"


@pytest.fixture
async def two_channels(world: PaymentWorld) -> AsyncIterator[PaymentApp]:
    """payment_rpc with a second channel."""
    other = OtherChannel(
        base_url=world.sandbox.base_url, api_key=API_KEY, callback_secret=CALLBACK_SECRET
    )
    yield world.make_app(channels={"sandbox": world.channel, "other": other})
    await other.aclose()


async def cashier_at(app: PaymentApp, order: Order, channel: str) -> Payment:
    return await app.payments.create_payment(
        CreatePayment(
            merchant_id=order.merchant_id,
            order_id=order.order_id,
            user_id=order.user_id,
            amount=RequestedAmount(""),
            channel=channel,
            return_url="",
            key="",
        ),
        buyer(order.user_id),
    )


async def attempt_of(world: PaymentWorld, payment: Payment) -> str:
    return next(
        row["attempt_id"]
        for row in await world.rows(ATTEMPT)
        if row["payment_id"] == payment.payment_id
    )


async def take_back(
    world: PaymentWorld, key: str, *, method: str = "CreatePayment"
) -> Payment | None:
    return await world.app.cancellation.cancel_by_idempotency_key(
        method=method, key=key, merchant_id="mall", caller=buyer()
    )


async def test_a_page_of_another_channel_is_closed_and_not_the_answer(
    world: PaymentWorld, two_channels: PaymentApp
) -> None:
    order = await world.order()
    first = await cashier_at(two_channels, order, "sandbox")
    second = await cashier_at(two_channels, order, "other")
    assert (second.channel, second.state) == ("other", S.PAYING)
    assert second.payment_id != first.payment_id
    assert (await world.payment(first.payment_id)).state is S.CLOSED
    again = await cashier_at(two_channels, order, "other")
    assert again.payment_id == second.payment_id


async def test_a_page_that_is_being_closed_is_nobodys_answer(world: PaymentWorld) -> None:
    order = await world.order()
    opened = await world.cashier(order)
    world.channel.unreachable = True
    assert (
        await world.app.cancellation.cancel_payment(opened.payment_id, buyer())
    ).state is S.CLOSING
    with pytest.raises(PaymentInProgress) as refused:
        await world.cashier(order)
    assert refused.value.payment_id == opened.payment_id
    world.channel.unreachable = False
    again = await world.cashier(order)
    assert again.payment_id != opened.payment_id
    assert {(await world.payment(opened.payment_id)).state, again.state} == {S.CLOSED, S.PAYING}


async def test_a_page_that_is_paid_while_a_second_key_joins_it_is_not_bound_to_that_key(
    mariadb_url_factory: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that is bound to a payment with its final answer would never get one of its own. On
    SQLite a transaction writes alone.
    """
    async with payment_world(mariadb_url_factory(), mariadb_url_factory(), tmp_path) as world:
        order = await world.order()
        opened = await world.cashier(order, key="k1")
        attempt_id = await attempt_of(world, opened)
        lock = payments.lock_payment

        async def paid_meanwhile(tx: Any, payment_id: str) -> Payment:
            monkeypatch.setattr(payments, "lock_payment", lock)
            await world.app.channel_results.apply(
                ChannelFact(
                    attempt_id=attempt_id,
                    status=ChannelStatus.CAPTURED,
                    amount=PRICE,
                    trade_no="T1",
                )
            )
            return await lock(tx, payment_id)

        monkeypatch.setattr(payments, "lock_payment", paid_meanwhile)
        with pytest.raises(OrderAlreadyPaid) as refused:
            await world.cashier(order, key="k2")
        assert refused.value.payment_id == opened.payment_id
        # of the first key alone
        assert [row["state"] for row in await world.rows(RECEIPT)] == ["DONE"]


@pytest.mark.parametrize("join", ["once", "twice"])
async def test_a_page_whose_call_is_taken_back_is_closed_at_the_channel(
    world: PaymentWorld, join: str
) -> None:
    order = await world.order()
    opened = await world.cashier(order, key="k1")
    if join == "twice":
        assert (await world.cashier(order, key="k2")).payment_id == opened.payment_id
    taken_back = await take_back(world, "k1")
    assert taken_back is not None
    assert (taken_back.payment_id, taken_back.state) == (opened.payment_id, S.CLOSED)
    await world.press(opened)
    assert await world.captured_at_sandbox() == []
    with pytest.raises(PaymentClosed):
        await world.cashier(order, key="k1")


async def test_a_call_that_is_taken_back_while_its_channel_is_silent_is_being_closed(
    world: PaymentWorld,
) -> None:
    opened = await world.cashier(await world.order(), key="k1")
    world.channel.unreachable = True
    taken_back = await take_back(world, "k1")
    assert taken_back is not None
    assert taken_back.state is (await world.payment(opened.payment_id)).state is S.CLOSING
    world.channel.unreachable = False
    await world.finish()
    assert (await world.payment(opened.payment_id)).state is S.CLOSED


@pytest.mark.parametrize(("method", "user"), [("Charge", "u1"), ("CreatePayment", "u2")])
async def test_a_call_of_another_method_or_buyer_is_not_taken_back(
    world: PaymentWorld, method: str, user: str
) -> None:
    opened = await world.cashier(await world.order(), key="k1")
    assert (
        await world.app.cancellation.cancel_by_idempotency_key(
            method=method, key="k1", merchant_id="mall", caller=buyer(user)
        )
        is None
    )
    assert (await world.payment(opened.payment_id)).state is S.PAYING


async def test_late_money_that_the_order_refused_keeps_no_other_payment_away(
    world: PaymentWorld,
) -> None:
    """Until the order answers it does: two of them could be taken."""
    order = await world.order()
    late_id = await declined(world, order)
    await capture(world, late_id)
    with pytest.raises(PaymentInProgress) as refused:
        await world.charge(order)
    assert refused.value.payment_id == late_id
    world.orders.answer = D.REFUSED_CANCELLED
    await relay(world)
    world.orders.answer = None
    assert (await world.payment(late_id)).disposition is D.REFUSED_CANCELLED
    paid = await world.charge(order)
    assert (paid.state, paid.payment_id != late_id) == (S.SUCCESS, True)
    assert sorted(row["live_slot"] or 0 for row in await world.rows(PAYMENT)) == [0, 1]

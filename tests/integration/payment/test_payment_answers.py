"""What a buyer hears, and when: as soon as the money is known to be here, and never that we failed
once it may be.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mesh.money import Money
from order_rpc.domain.order import OrderState
from payment_rpc.domain.errors import CardInvalid, TransactionIdFailed
from payment_rpc.domain.facts import ChannelFact, ChannelStatus
from payment_rpc.domain.payment import PaymentState
from payment_rpc.tables import ATTEMPT, PAYMENT
from tests.builders.payment import PRICE, PaymentWorld

PATIENCE = 20


async def test_a_charge_answers_as_soon_as_a_callback_told_of_the_money(
    world: PaymentWorld,
) -> None:
    arrived, answered = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        arrived.set()
        await answered.wait()

    world.channel.after_charge = hang
    order = await world.order()
    charging = asyncio.create_task(world.charge(order, key="k1"))
    await asyncio.wait_for(arrived.wait(), PATIENCE)
    assert await world.callbacks() >= 1
    paid = await asyncio.wait_for(charging, PATIENCE)  # while the channel still has not answered
    assert not answered.is_set()
    assert (paid.state, await world.order_state(order)) == (PaymentState.SUCCESS, OrderState.PAID)
    answered.set()
    await asyncio.sleep(0)
    assert (await world.charge(order, key="k1")).state is PaymentState.SUCCESS
    assert len(await world.captured_at_sandbox()) == 1
    assert await world.ledger_problems() == []


async def test_a_caller_that_goes_away_while_the_channel_is_asked_leaves_doubt_and_no_task(
    world: PaymentWorld,
) -> None:
    arrived = asyncio.Event()

    async def hang() -> None:
        arrived.set()
        await asyncio.Event().wait()

    world.channel.after_charge = hang
    charging = asyncio.create_task(world.charge(await world.order()))
    await asyncio.wait_for(arrived.wait(), PATIENCE)
    charging.cancel()
    with pytest.raises(asyncio.CancelledError):
        await charging
    [row] = await world.rows(ATTEMPT)
    assert row["state"] == "SENT"
    world.channel.after_charge = None
    await world.finish()
    assert [row["state"] for row in await world.rows(PAYMENT)] == ["SUCCESS"]


async def test_whatever_goes_wrong_after_the_channel_was_asked_the_buyer_hears_that_it_is_under_way(
    world: PaymentWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    order, apply = await world.order(), world.app.channel_results.apply

    async def broken(news: ChannelFact, **options: Any) -> Any:
        if news.status is ChannelStatus.CAPTURED and options.get("first_send"):
            raise RuntimeError(
                "unable to perform operation on <TCPTransport closed=True>; the handler is closed"
            )
        return await apply(news, **options)

    monkeypatch.setattr(world.app.channel_results, "apply", broken)
    assert (await world.charge(order)).state is PaymentState.PAYING
    await world.finish()
    assert [row["state"] for row in await world.rows(PAYMENT)] == ["SUCCESS"]
    assert len(await world.captured_at_sandbox()) == 1


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"cvv": ""}, "credit_card_cvv"),
        ({"number": ""}, "credit_card_number"),
        ({"expiration_month": 0}, "credit_card_expiration_month"),
        ({"number": "", "cvv": "", "expiration_year": 0, "expiration_month": 0}, "credit_card"),
    ],
)
async def test_what_is_missing_of_a_card_is_refused_as_an_invalid_card_and_by_name(
    world: PaymentWorld, changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(CardInvalid) as refused:
        await world.charge(await world.order(), **changes)
    assert [name.rpartition(".")[2] for name in refused.value.fields] == [field]
    assert await world.rows(PAYMENT) == []


async def test_without_a_transaction_id_nothing_is_sent(
    world: PaymentWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    order, new = await world.order(), world.ids.new

    def broken(prefix: str) -> str:
        if prefix == "PAY":
            raise OSError("no random bits")
        return new(prefix)

    monkeypatch.setattr(world.ids, "new", broken)
    with pytest.raises(TransactionIdFailed) as refused:
        await world.charge(order, key="k1")
    assert (refused.value.safe_to_retry, refused.value.outcome) == (True, "NOT_ATTEMPTED")
    monkeypatch.setattr(
        world.ids, "new", lambda prefix: "PAYTAKEN" if prefix == "PAY" else new(prefix)
    )
    await world.charge(order, key="k1")
    with pytest.raises(TransactionIdFailed):
        await world.charge(await world.order())
    assert world.channel.charges == 1


def test_currencies_in_use_are_known() -> None:
    for currency, text in (
        ("RON", "1.50"),
        ("BGN", "1.50"),
        ("ISK", "150"),
        ("COP", "1.50"),
        ("NGN", "1.50"),
        ("UAH", "1.50"),
        ("KWD", "1.500"),
        ("CNY", "100.00"),
    ):
        assert Money.parse(text, currency).format() == text
    assert PRICE.currency == "CNY"

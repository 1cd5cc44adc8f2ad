"""Charge and CreatePayment that only hold money, and Charge by a payment method at a provider: what
is sent, what is refused before anything is sent, and what a key is bound to.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from mesh.errors import IdempotencyKeyReused, InvalidArgument, MeshError
from mesh.idempotency import RECEIPT
from order_rpc.domain.order import OrderState
from payment_rpc.channels.requests import PaymentToken
from payment_rpc.domain.errors import (
    CardInvalid,
    ChannelNotSupported,
    OrderNotFound,
    PaymentInProgress,
    ReturnUrlNotAllowed,
)
from payment_rpc.domain.hold import CaptureMode
from payment_rpc.domain.payment import BALANCE, CREDIT_CARD, TOKEN, Payment, PaymentState
from payment_rpc.tables import ATTEMPT, PAYMENT, metadata
from payment_rpc.usecases.merchant_terms import EnvironmentTerms
from payment_rpc.usecases.payment_requests import Charge
from tests.builders.external_payment import command
from tests.builders.holding_channel import HoldingChannel, holding
from tests.builders.order import merchant
from tests.builders.payment import PaymentWorld

# What a held charge does does not depend on the database.
pytestmark = pytest.mark.one_database

MANUAL: dict[str, Any] = {"capture": CaptureMode.MANUAL}
PM = "pm_1PqRsTuVwXyZ0123456789ab"
BY_TOKEN: dict[str, Any] = {
    "number": "",
    "cvv": "",
    "expiration_year": 0,
    "expiration_month": 0,
    "payment_token": PM,
}


async def test_a_charge_by_hand_holds_the_money_and_its_order_waits(world: PaymentWorld) -> None:
    channel, order = holding(world), await world.order()
    held = await world.charge(order, key="k1", **MANUAL)
    assert (held.state, held.capture_mode, held.captured.minor) == (
        PaymentState.AUTHORIZED,
        CaptureMode.MANUAL,
        0,
    )
    assert await world.charge(order, key="k1", **MANUAL) == held
    with pytest.raises(PaymentInProgress):
        await world.charge(order, **MANUAL)
    assert len(channel.charged) == 1
    await world.finish()
    assert await world.order_state(order) is OrderState.PENDING_PAYMENT
    assert await world.ledger_problems() == []


async def test_a_page_is_opened_for_the_capture_that_was_asked_for(world: PaymentWorld) -> None:
    channel, order = holding(world), await world.order()
    first = await world.cashier(order)
    assert (await world.cashier(order)).payment_id == first.payment_id
    second = await world.cashier(order, **MANUAL)
    assert second.payment_id != first.payment_id
    assert (await world.payment(first.payment_id)).state is PaymentState.CLOSED
    assert (second.state, second.capture_mode) == (PaymentState.PAYING, CaptureMode.MANUAL)
    assert (await world.cashier(order, **MANUAL)).payment_id == second.payment_id
    assert channel.opened == [True, False]


async def _is_refused(
    world: PaymentWorld, call: Any, field: str, kind: type[MeshError] = InvalidArgument
) -> None:
    with pytest.raises(kind) as refused:
        await call
    assert list(refused.value.fields) == [field]
    assert await world.rows(PAYMENT) == []


async def test_money_is_held_only_where_it_can_be_and_where_the_order_can_wait(
    world: PaymentWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = await world.order()
    for call in (world.charge(order, **MANUAL), world.cashier(order, **MANUAL)):
        await _is_refused(world, call, "capture")
    channel = holding(world)
    wallet = world.charge(order, payment_method=BALANCE, **MANUAL)
    await _is_refused(world, wallet, "capture")
    read = world.orders.get

    async def won(**asked: Any) -> Any:
        return replace(await read(**asked), is_of_activity=True)

    monkeypatch.setattr(world.orders, "get", won)
    for call in (world.charge(order, **MANUAL), world.cashier(order, **MANUAL)):
        await _is_refused(world, call, "capture")
    with pytest.raises(OrderNotFound):  # what kind of order it is, only its buyer hears
        await world.charge(order, user_id="stranger", **MANUAL)
    assert (channel.charged, channel.opened) == ([], [])
    assert (await world.charge(order)).state is PaymentState.SUCCESS


async def test_a_buyer_holds_money_only_where_the_shop_lets_him_and_the_shop_always_may(
    world: PaymentWorld,
) -> None:
    channel, order = holding(world), await world.order()
    held = await world.charge(order, key="k1", **MANUAL)
    strict = world.make_app(channels={"sandbox": channel}, terms=EnvironmentTerms({}))
    world.app = strict
    assert await world.charge(order, key="k1", **MANUAL) == held  # begun before the shop decided
    other = await world.order()
    channel.charged.clear()
    for call in (
        world.charge(other, **MANUAL),
        world.charge(other, **{**BY_TOKEN, **MANUAL}),
        world.cashier(other, **MANUAL),
    ):
        with pytest.raises(InvalidArgument) as refused:
            await call
        assert list(refused.value.fields) == ["capture"]
    assert [row["payment_id"] for row in await world.rows(PAYMENT)] == [held.payment_id]
    assert (channel.charged, channel.opened) == ([], [])
    assert (await world.charge(await world.order())).capture_mode is CaptureMode.AUTOMATIC
    opened = await strict.payments.create_payment(replace(command(), **MANUAL), merchant())
    assert opened.capture_mode is CaptureMode.MANUAL


async def test_a_key_is_bound_to_the_options_that_differ_from_the_default_alone(
    world: PaymentWorld,
) -> None:
    holding(world)
    order = await world.order()
    await world.charge(order, key="k1")
    [receipt] = await world.rows(RECEIPT)
    assert set(json.loads(receipt["fingerprint"])) == {
        "order_id",
        "amount",
        "currency",
        "payment_method",
        "credit_card",
    }
    for changes, field in (
        (MANUAL, "capture"),
        ({"channel": "other"}, "channel"),
    ):
        with pytest.raises(IdempotencyKeyReused) as refused:
            await world.charge(order, key="k1", **changes)
        assert list(refused.value.fields) == [field]


async def _paid_by_token(world: PaymentWorld, channel: HoldingChannel, **changes: Any) -> Payment:
    payment = await world.charge(await world.order(), **{**BY_TOKEN, **changes})
    [token] = channel.charged
    assert token == PaymentToken(value=PM, return_url=changes.get("return_url", ""))
    return payment


async def test_a_token_is_charged_and_kept_nowhere(world: PaymentWorld) -> None:
    channel = holding(world)
    paid = await _paid_by_token(world, channel, key="k1", return_url="https://shop.test/back")
    assert (paid.state, paid.payment_method, paid.card) == (PaymentState.SUCCESS, TOKEN, None)
    for table in metadata.sorted_tables:
        assert PM not in str(await world.rows(table)), table.name
    assert PM not in repr(channel.charged)


async def test_a_token_can_only_hold_money_too(world: PaymentWorld) -> None:
    held = await _paid_by_token(world, holding(world), **MANUAL)
    assert held.state is PaymentState.AUTHORIZED


async def test_a_key_is_bound_to_its_token(world: PaymentWorld) -> None:
    channel, order = holding(world), await world.order()
    paid = await world.charge(order, key="k1", **BY_TOKEN)
    assert await world.charge(order, key="k1", **BY_TOKEN) == paid
    with pytest.raises(IdempotencyKeyReused) as refused:
        await world.charge(order, key="k1", **{**BY_TOKEN, "payment_token": f"{PM}c"})
    assert list(refused.value.fields) == ["payment_token"]
    assert len(channel.charged) == 1


CARD_TOO = {"number": "4242424242424242"}


@pytest.mark.parametrize(
    ("changes", "field", "kind"),
    [
        ({**BY_TOKEN, **CARD_TOO}, "payment_token", InvalidArgument),
        ({**BY_TOKEN, "expiration_month": 12}, "payment_token", InvalidArgument),
        ({**BY_TOKEN, "payment_token": ""}, "credit_card", CardInvalid),
        ({**BY_TOKEN, "payment_method": CREDIT_CARD}, "payment_token", InvalidArgument),
        ({**BY_TOKEN, "payment_method": BALANCE}, "payment_token", InvalidArgument),
        (
            {**BY_TOKEN, "payment_method": TOKEN, "payment_token": ""},
            "payment_token",
            InvalidArgument,
        ),
        ({**BY_TOKEN, "return_url": "https://evil.test/"}, "return_url", ReturnUrlNotAllowed),
        ({**BY_TOKEN, "channel": "nonsense"}, "channel", ChannelNotSupported),
        ({"return_url": "https://shop.test/"}, "return_url", InvalidArgument),
        ({"payment_method": BALANCE, "channel": "sandbox"}, "channel", InvalidArgument),
    ],
)
async def test_what_does_not_go_together_is_refused_by_its_field(
    world: PaymentWorld, changes: dict[str, Any], field: str, kind: type[MeshError]
) -> None:
    channel = holding(world)
    await _is_refused(world, world.charge(await world.order(), **changes), field, kind)
    assert channel.charged == []


async def test_a_channel_without_tokens_takes_none(world: PaymentWorld) -> None:
    order = await world.order()
    await _is_refused(world, world.charge(order, **BY_TOKEN), "channel", ChannelNotSupported)
    assert await world.rows(ATTEMPT) == []
    card = await world.charge(order, channel="sandbox")
    assert (card.state, card.channel) == (PaymentState.SUCCESS, "sandbox")


async def test_a_request_shows_no_token() -> None:
    assert PM not in repr(PaymentToken(value=PM))
    shown = {field: value.repr for field, value in Charge.__dataclass_fields__.items()}
    assert [name for name, is_shown in shown.items() if not is_shown] == [
        "number",
        "cvv",
        "payment_token",
    ]

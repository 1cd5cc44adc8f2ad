"""payment_rpc's view of order_rpc, against the real one through its port."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from paymesh.order.v1 import order_pb2

from mesh.client import MeshChannel
from mesh.discovery.static import StaticDiscovery
from mesh.errors import RemoteError, UpstreamUnavailable
from mesh.money import Money
from mesh.settings import MeshSettings
from order_rpc.domain.order import OrderState
from payment_rpc.clients import DISPOSITIONS, Orders, order_to_pay
from payment_rpc.domain.errors import OrderNotFound
from payment_rpc.domain.order import OrderToPay
from payment_rpc.domain.payment import Disposition, PaymentState
from payment_rpc.usecases.messages import order_message
from tests.builders.order import RunningOrderRpc, buyer, running_order_rpc
from tests.builders.payment import a_payment
from tests.support.fakes import FakeIds


@pytest.fixture
async def remote(tmp_path: Path) -> AsyncIterator[RunningOrderRpc]:
    async with running_order_rpc(f"sqlite+aiosqlite:///{tmp_path / 'order.db'}") as running:
        await running.app.product("mug", "100.00")
        yield running


@pytest.fixture
async def orders(remote: RunningOrderRpc) -> AsyncIterator[Orders]:
    async with remote.channel(remote.payment_rpc) as channel:
        yield Orders(channel)


def news(remote: RunningOrderRpc, order_id: str, **changes: Any) -> dict[str, Any]:
    """The payload of the message that payment_rpc would send."""
    payment = a_payment(PaymentState.SUCCESS, order_id=order_id, **{"version": 2, **changes})
    return dict(order_message(payment, ids=FakeIds(), at=remote.app.clock.now()).payload)


async def test_an_order_is_what_order_rpc_says(remote: RunningOrderRpc, orders: Orders) -> None:
    for currency, price, minor in (("CNY", "100.00", 10000), ("JPY", "100", 100)):
        await remote.app.product(f"cup-{currency.lower()}", price, currency=currency)
        order = await remote.app.order((f"cup-{currency.lower()}", 2))
        assert await orders.get(merchant_id="mall", order_id=order.order_id) == OrderToPay(
            order_id=order.order_id,
            merchant_id="mall",
            user_id="u1",
            amount=Money(2 * minor, currency),
            state="PENDING_PAYMENT",
            expires_at=order.expires_at,
        )


def test_an_order_of_a_flash_sale_says_so() -> None:
    line = order_pb2.OrderItem(stock_source=order_pb2.STOCK_SOURCE_ACTIVITY)
    order = order_pb2.Order(order_id="ORD1", amount="5.00", currency="CNY", items=[line])
    assert order_to_pay(order).is_of_activity
    line.stock_source = order_pb2.STOCK_SOURCE_CATALOG
    del order.items[:]
    order.items.append(line)
    assert not order_to_pay(order).is_of_activity


async def test_every_state_of_an_order_has_its_name(
    remote: RunningOrderRpc, orders: Orders
) -> None:
    order = await remote.app.order()
    for state in OrderState:
        is_paid = state not in (
            OrderState.PENDING_PAYMENT,
            OrderState.CANCELLING,
            OrderState.CANCELLED,
        )
        await remote.app.force_state(order, state, paid_by="PAY9" if is_paid else "")
        assert (await orders.get(merchant_id="mall", order_id=order.order_id)).state == state.value


async def test_an_order_that_is_not_there_is_not_found(
    remote: RunningOrderRpc, orders: Orders
) -> None:
    order = await remote.app.order(caller=buyer())
    for merchant_id, order_id in (("mall", "ORD0"), ("tea_house", order.order_id)):
        with pytest.raises(OrderNotFound):
            await orders.get(merchant_id=merchant_id, order_id=order_id)
    with pytest.raises(RemoteError) as refused:
        await orders.update_status(news(remote, "ORD0"), event_id="EVT1")
    assert refused.value.is_definite


async def test_an_order_tells_what_it_does_with_money(
    remote: RunningOrderRpc, orders: Orders
) -> None:
    order = await remote.app.order()
    assert (
        await orders.update_status(news(remote, order.order_id, payment_id="PAY1"), event_id="EVT1")
        is Disposition.APPLIED
    )
    assert (
        await orders.update_status(news(remote, order.order_id, payment_id="PAY2"), event_id="EVT2")
        is Disposition.REFUSED_PAID_BY_OTHER
    )
    assert (
        await orders.update_status(news(remote, order.order_id, payment_id="PAY1"), event_id="EVT1")
        is Disposition.APPLIED
    )
    cancelled = await remote.app.order()
    await remote.app.force_state(cancelled, OrderState.CANCELLED)
    assert (
        await orders.update_status(
            news(remote, cancelled.order_id, payment_id="PAY3"), event_id="EVT3"
        )
        is Disposition.REFUSED_CANCELLED
    )
    short = await remote.app.order(("mug", 2))
    # half the price decides nothing
    assert (
        await orders.update_status(news(remote, short.order_id, payment_id="PAY4"), event_id="EVT4")
        is None
    )


def test_every_disposition_of_the_contract_has_its_own() -> None:
    assert sorted(DISPOSITIONS.values()) == sorted(Disposition)


async def test_a_neighbour_that_does_not_answer_is_away(remote: RunningOrderRpc) -> None:
    discovery = StaticDiscovery({"order_rpc": ["127.0.0.1:1"]})
    channel = MeshChannel(
        "order_rpc",
        settings=MeshSettings(service="tests", environment="test"),
        discovery=discovery,
        caller_tokens=remote.payment_rpc,
    )
    try:
        with pytest.raises(UpstreamUnavailable) as away:
            await Orders(channel).get(merchant_id="mall", order_id="ORD1")
        assert not away.value.is_definite
    finally:
        await channel.close()
        await discovery.close()

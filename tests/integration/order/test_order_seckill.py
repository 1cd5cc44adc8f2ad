"""Orders of flash sales at order_rpc: units that nobody paid for go back to the sale, and an order
on its way is told from one that never was.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from mesh.errors import RemoteError, UpstreamUnavailable
from mesh.outbox import OUTBOX
from order_rpc.domain.errors import OrderCreating, OrderNotFound
from order_rpc.domain.ticket import TicketOrder
from order_rpc.usecases.outbox_to_payment import SECKILL_RPC as DESTINATION
from tests.builders.order import PAYMENT_RPC, SECKILL_RPC, OrderApp, buyer, merchant, order_app

TICKET = "a ticket"


@pytest.fixture
async def app(database_url: str) -> AsyncIterator[OrderApp]:
    async with order_app(database_url) as app:
        await app.product(available=100)
        yield app


def coming(
    order_id: str = "ORDS1",
    user_id: str = "u1",
    merchant_id: str = "mall",
    *,
    is_coming: bool = True,
) -> TicketOrder:
    return TicketOrder(
        merchant_id=merchant_id, order_id=order_id, user_id=user_id, is_coming=is_coming
    )


async def relay(app: OrderApp) -> list[str]:
    """Delivers to seckill_rpc; the states of its messages afterwards."""
    [worker] = [worker for worker in app.real.workers if worker.name == f"relay_{DESTINATION}"]
    await worker._run_once()
    return [row["state"] for row in await app.rows(OUTBOX) if row["destination"] == DESTINATION]


async def test_the_unit_of_a_cancelled_order_is_given_back_once(app: OrderApp) -> None:
    order = await app.seckill_order("ORDS1")
    await app.cancel(order, caller=buyer(order.user_id))
    assert await relay(app) == ["DONE"]
    assert await relay(app) == ["DONE"]
    assert app.seckill_rpc.returned == [("mall", "ACT1", "ORDS1")]


async def test_a_unit_waits_for_a_seckill_rpc_that_is_away(app: OrderApp) -> None:
    order = await app.seckill_order("ORDS1")
    app.seckill_rpc.away = True
    await app.cancel(order, caller=buyer(order.user_id))
    assert await relay(app) == ["NEW"]
    app.seckill_rpc.away = False
    app.clock.advance(600)
    assert await relay(app) == ["DONE"]
    assert app.seckill_rpc.returned == [("mall", "ACT1", "ORDS1")]


async def test_a_unit_that_is_refused_for_good_needs_a_person(app: OrderApp) -> None:
    order = await app.seckill_order("ORDS1")
    app.seckill_rpc.refusal = RemoteError(
        "no", remote_reason="SECKILL_ORDER_NOT_FOUND", domain="paymesh.seckill.v1", grpc_code=5
    )
    await app.cancel(order, caller=buyer(order.user_id))
    assert await relay(app) == ["DEAD"]


async def test_an_order_on_its_way_is_being_created_for_who_shows_its_ticket(app: OrderApp) -> None:
    app.seckill_rpc.tickets[TICKET] = coming()
    for caller in (buyer("u1"), PAYMENT_RPC, merchant("mall")):
        with pytest.raises(OrderCreating) as refusal:
            await app.orders.get(
                merchant_id="mall", order_id="ORDS1", caller=caller, seckill_ticket=TICKET
            )
        assert refusal.value.retry_after_seconds


@pytest.mark.parametrize(
    "ticket",
    [
        coming(order_id="ORDS2"),
        coming(user_id="u2"),
        coming(merchant_id="shop"),
        coming(is_coming=False),
    ],
    ids=["of another order", "of another buyer", "of another shop", "of a click that was refused"],
)
async def test_a_ticket_that_does_not_fit_shows_nothing(app: OrderApp, ticket: TicketOrder) -> None:
    app.seckill_rpc.tickets[TICKET] = ticket
    with pytest.raises(OrderNotFound):
        await app.orders.get(
            merchant_id="mall", order_id="ORDS1", caller=buyer("u1"), seckill_ticket=TICKET
        )


async def test_without_a_ticket_or_with_a_forged_one_there_is_no_such_order(app: OrderApp) -> None:
    for ticket in ("", "forged"):
        with pytest.raises(OrderNotFound):
            await app.orders.get(
                merchant_id="mall", order_id="ORDS1", caller=buyer("u1"), seckill_ticket=ticket
            )


async def test_nobody_is_told_no_such_order_while_seckill_rpc_is_away(app: OrderApp) -> None:
    app.seckill_rpc.away = True
    with pytest.raises(UpstreamUnavailable):
        await app.orders.get(
            merchant_id="mall", order_id="ORDS1", caller=buyer("u1"), seckill_ticket=TICKET
        )


async def test_an_order_that_has_arrived_is_shown_without_asking_anybody(app: OrderApp) -> None:
    order = await app.seckill_order("ORDS1")
    app.seckill_rpc.away = True
    assert (
        await app.orders.get(
            merchant_id="mall", order_id="ORDS1", caller=buyer("u1"), seckill_ticket=TICKET
        )
        == order
    )
    assert SECKILL_RPC.service == DESTINATION

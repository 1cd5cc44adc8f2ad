"""Held money between order_rpc and payment_rpc over real gRPC in both directions, as a shop and its
buyer see it over REST.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from google.protobuf import json_format
from paymesh.events.v1 import events_pb2

from mesh.client import MeshChannel
from mesh.discovery.static import StaticDiscovery
from mesh.idempotency import RECEIPT
from mesh.outbox import OUTBOX
from mesh.server import MeshServer
from mesh.settings import MeshSettings
from order_rpc.clients import Payments
from order_rpc.domain.order import Order
from order_rpc.domain.policy import MerchantPolicy
from payment_rpc.clients import Orders
from tests.builders.all_services import Tokens
from tests.builders.audit import at_rest, audited, told
from tests.builders.gateway import World, gateway_world, refused
from tests.builders.holding_channel import HoldingChannel, holding
from tests.builders.payment import LEASE_SECONDS, VISA, PaymentWorld, payment_world

PARCEL = {"carrier": "SF", "tracking_number": "T1"}


@dataclass(slots=True)
class Shop:
    """Both services, each of which reaches the other over the wire, behind a gateway."""

    world: PaymentWorld
    channel: HoldingChannel
    gateway: World

    async def call(self, method: str, path: str, who: str, **options: Any) -> httpx.Response:
        roles = ("merchant",) if who == "clerk" else ("user",)
        return await self.gateway.call(
            method, f"/api/v1{path}", token=self.gateway.token(who, roles=roles), **options
        )

    async def held(self) -> Order:
        """An order of 100.00 that its buyer paid with money that is only held."""
        order = await self.world.order()
        card = {
            "credit_card_number": VISA,
            "credit_card_cvv": "123",
            "credit_card_expiration_year": 2030,
            "credit_card_expiration_month": 12,
        }
        body = {
            "order_id": order.order_id,
            "amount": "100.00",
            "capture": "MANUAL",
            "credit_card": card,
        }
        answer = await self.call("POST", "/payments/charge", order.user_id, json=body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["data"]["payment"]["state"] == "AUTHORIZED"
        self.world.clock.advance(LEASE_SECONDS + 1)
        return order

    async def shown(self, order: Order) -> dict[str, Any]:
        """The order as its shop reads it."""
        answer = await self.call("GET", f"/orders/{order.order_id}", "clerk")
        assert answer.status_code == 200, answer.text
        shown: dict[str, Any] = answer.json()["data"]
        return shown


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    async with AsyncExitStack() as stack:
        urls = [f"sqlite+aiosqlite:///{tmp_path / name}.db" for name in ("payment", "order")]
        world = await stack.enter_async_context(payment_world(urls[0], urls[1], tmp_path))
        tokens = Tokens(world.clock)
        addresses: dict[str, list[str]] = {}

        async def reach(service: str, caller: str) -> MeshChannel:
            """The way from one service to another, whose address is known by now."""
            return await stack.enter_async_context(
                MeshChannel(
                    service,
                    settings=MeshSettings(
                        service=caller, environment="test", port=0, var_dir=tmp_path
                    ),
                    discovery=StaticDiscovery(addresses),
                    caller_tokens=tokens.of(caller),
                )
            )

        async def serve(service: str, app: Any) -> None:
            server = MeshServer(
                MeshSettings(service=service, environment="test", port=0, var_dir=tmp_path),
                clock=world.clock,
                ids=world.ids,
                user_tokens=tokens.users,
                caller_tokens=tokens.of(service),
            )
            app.add_to(server)
            await server.start()
            stack.push_async_callback(server.stop, 0)
            addresses[service] = [f"127.0.0.1:{server.port}"]

        # an order_rpc that payment_rpc reaches, on the same database as the one that reaches it
        await serve("order_rpc", world.order_side.make())
        channel = holding(world, orders=Orders(await reach("order_rpc", "payment_rpc")))
        await serve("payment_rpc", world.app)
        payments: Any = Payments(await reach("payment_rpc", "order_rpc"))
        world.order_side.payment_rpc = payments
        world.order_side.build()

        def add_both(server: MeshServer) -> None:
            world.app.add_to(server)
            world.order_side.real.add_to(server)

        gateway = await stack.enter_async_context(gateway_world(tmp_path, serve=add_both))
        yield Shop(world, channel, gateway)


async def test_held_money_is_captured_by_shipping_or_let_go_by_cancelling(shop: Shop) -> None:
    sold, cancelled = await shop.held(), await shop.held()
    seen = await shop.shown(sold)
    held = await shop.world.payment(seen["held_payment_id"])
    assert (seen["state"], seen["held_amount"]) == ("PENDING_PAYMENT", "100.00")
    assert seen["held_until"] == seen["expires_at"]
    order = await shop.world.order_side.load(sold)
    assert order.held is not None
    assert order.held.money.until == held.expires_at

    ship = f"/orders/{sold.order_id}/ship"
    refused(await shop.call("POST", ship, "clerk", json=PARCEL), 409, "CAPTURE_FIRST")
    assert shop.channel.captures == []
    shop.world.order_side.policies["mall"] = MerchantPolicy(ships_on_authorized=True)
    for _ in range(2):
        answer = await shop.call("POST", ship, "clerk", json=PARCEL)
        assert (answer.status_code, answer.json()["data"]["state"]) == (200, "SHIPPED"), answer.text
    assert [amount.format() for _, amount in shop.channel.captures] == ["100.00"]
    keys = [row["idempotency_key"] for row in await shop.world.rows(RECEIPT)]
    assert keys == [f"ship:{held.payment_id}"]  # so a shipment that is repeated captures once

    cancel = f"/orders/{cancelled.order_id}/cancel"
    buyers = await shop.call("POST", cancel, cancelled.user_id, json={})
    refused(buyers, 409, "MONEY_HELD")
    answer = await shop.call("POST", cancel, "clerk", json={})
    assert (answer.status_code, answer.json()["data"]["state"]) == (200, "CANCELLED"), answer.text
    assert (await shop.shown(cancelled))["held_payment_id"] == ""
    assert [fact.status.value for fact in shop.channel.facts.values()] == ["CAPTURED", "CLOSED"]
    await at_rest(shop.world)
    assert await audited(shop.world, strict=True, channel=False) == []


async def test_a_part_that_was_captured_counts_everywhere_as_what_it_is(shop: Shop) -> None:
    order = await shop.held()
    payment_id = (await shop.shown(order))["held_payment_id"]
    path = f"/payments/{payment_id}/capture"
    answer = await shop.call("POST", path, "clerk", json={"amount": "60.00"})
    assert answer.status_code == 200, answer.text
    await at_rest(shop.world)
    assert (await shop.shown(order))["state"] == "PAID"
    events = {
        row["tag"]: json.loads(row["payload"])
        for world in (shop.world, shop.world.order_side)
        for row in await world.rows(OUTBOX)
        if row["tag"] in ("PAYMENT_SUCCEEDED", "ORDER_PAID")
    }
    paid = json_format.ParseDict(events["PAYMENT_SUCCEEDED"], events_pb2.PaymentSucceededEvent())
    assert (paid.amount, paid.owed_amount) == ("60.00", "100.00")
    done = json_format.ParseDict(events["ORDER_PAID"], events_pb2.OrderPaidEvent())
    assert (done.amount, done.captured_amount) == ("100.00", "60.00")
    summary = await shop.world.order_side.statistics.get_daily_summary(
        merchant_id="mall", day="", time_zone=""
    )
    [day] = summary.days
    assert (day.created[1].format(), day.paid[1].format()) == ("100.00", "60.00")
    assert "100.00 CNY of which 60.00 CNY was captured" in await told(shop.world, order.order_id)
    assert await audited(shop.world, strict=True, channel=False) == []

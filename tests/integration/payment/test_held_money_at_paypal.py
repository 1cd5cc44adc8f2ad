"""Money that PayPal holds, from the first request to the books: over REST, at the simulated PayPal.
The buyer approves, and we authorize.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from order_rpc.domain.order import Order
from payment_rpc.domain.payment import PaymentState
from payment_rpc.tables import ATTEMPT
from tests.builders.audit import at_rest, audited
from tests.builders.gateway import World, gateway_world, refused
from tests.builders.payment import LEASE_SECONDS, PaymentWorld, payment_world
from tests.builders.provider_channels import SimulatedChannel, simulated_channel


@dataclass(slots=True)
class Shop:
    """A shop that is paid through PayPal, and its clerk."""

    world: PaymentWorld
    paypal: SimulatedChannel
    gateway: World

    async def post(self, path: str, status: int, *, token: str = "", **body: Any) -> Any:
        clerk = self.gateway.token("clerk", roles=("merchant",))
        answer = await self.gateway.call("POST", f"/api/v1{path}", token=token or clerk, json=body)
        assert answer.status_code == status, answer.text
        return answer.json()["data"]

    async def held(self, order: Order) -> str:
        """The path of a payment whose buyer approved, and whose money PayPal holds."""
        opened = await self.post(
            "/payments",
            200,
            token=self.gateway.token(order.user_id),
            order_id=order.order_id,
            amount=order.amount.format(),
            currency="USD",
            channel="paypal_main",
            return_url="https://shop.test/back",
            capture="MANUAL",
        )
        assert (opened["state"], opened["next_action"]["kind"]) == ("PAYING", "REDIRECT_URL")
        attempt = (await self.world.rows(ATTEMPT))[-1]
        await self.paypal.buyer(attempt["attempt_id"], "approve")
        self.world.clock.advance(LEASE_SECONDS + 1)
        await self.world.finish()
        held = await self.world.payment(opened["payment_id"])
        assert held.state is PaymentState.AUTHORIZED
        return f"/payments/{held.payment_id}"

    async def moved(self) -> list[tuple[str, int]]:
        """Kind and amount of all that PayPal moved."""
        return [(kind, minor) for kind, _, minor in await self.paypal.money()]


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    urls = [f"sqlite+aiosqlite:///{tmp_path / name}.db" for name in ("payment", "order")]
    async with (
        payment_world(urls[0], urls[1], tmp_path) as world,
        simulated_channel("paypal", world.clock) as paypal,
    ):
        channels = {"paypal_main": paypal.channel, "sandbox": world.channel}
        world.app = world.make_app(channels=channels)
        async with gateway_world(tmp_path, serve=world.app.add_to) as gateway:
            yield Shop(world, paypal, gateway)


async def test_a_part_is_captured_and_refunded_and_the_rest_is_let_go(shop: Shop) -> None:
    about = await shop.held(await shop.world.order("100.00", currency="USD"))
    paid = await shop.post(f"{about}/capture", 200, amount="60.00")
    assert (paid["state"], paid["captured"], paid["capturable"]) == ("SUCCESS", "60.00", "0.00")
    clerk = shop.gateway.token("clerk", roles=("merchant",))
    for verb in ("capture", "void"):
        again = await shop.gateway.call("POST", f"/api/v1{about}/{verb}", token=clerk, json={})
        refused(again, 409, "PAYMENT_STATE_INVALID")
    await shop.world.finish()
    back = await shop.post(f"{about}/refunds", 201, amount="25.00")
    assert back["state"] == "SUCCESS"
    await at_rest(shop.world)
    moved = await shop.moved()
    assert [one for one in moved if one[0] in ("capture", "refund")] == [
        ("capture", 6000),
        ("refund", 2500),
    ]
    assert await audited(shop.world, strict=True, channel=False) == []


async def test_what_is_let_go_is_not_captured_any_more(shop: Shop) -> None:
    about = await shop.held(await shop.world.order("100.00", currency="USD"))
    gone = await shop.post(f"{about}/void", 200)
    assert (gone["state"], gone["captured"], gone["capturable"]) == ("CLOSED", "0.00", "0.00")
    again = await shop.post(f"{about}/void", 200)
    assert again == gone
    clerk = shop.gateway.token("clerk", roles=("merchant",))
    late = await shop.gateway.call("POST", f"/api/v1{about}/capture", token=clerk, json={})
    refused(late, 409, "PAYMENT_STATE_INVALID")
    await at_rest(shop.world)
    assert [kind for kind, _ in await shop.moved()] == ["authorize", "void"]
    assert await audited(shop.world, strict=True, channel=False) == []


async def test_a_capture_whose_answer_is_lost_is_taken_once(shop: Shop) -> None:
    about = await shop.held(await shop.world.order("100.00", currency="USD"))
    sent = {"method": "POST", "path": "/v2/payments/authorizations/", "kind": "lost_answer"}
    assert (await shop.paypal.client.post("/_sim/faults", json=sent)).status_code == 201
    unknown = await shop.post(f"{about}/capture", 202, amount="60.00")
    assert (unknown["state"], unknown["captured"]) == ("AUTHORIZED", "0.00")
    shop.world.clock.advance(LEASE_SECONDS + 1)
    await shop.world.finish()
    found = await shop.world.payment(about.rpartition("/")[2])
    assert (found.state, found.captured.format()) == (PaymentState.SUCCESS, "60.00")
    assert [one for one in await shop.moved() if one[0] == "capture"] == [("capture", 6000)]
    await at_rest(shop.world)
    assert await audited(shop.world, strict=True, channel=False) == []

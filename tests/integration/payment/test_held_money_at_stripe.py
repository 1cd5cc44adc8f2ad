"""Tokens and held money from the first request to the books: over REST, at the simulated Stripe."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from order_rpc.domain.order import Order
from payment_rpc.channels.stripe import channel as stripe
from payment_rpc.channels.stripe.credentials import parse
from payment_rpc.domain.payment import PaymentState
from tests.builders.audit import at_rest, audited
from tests.builders.gateway import World, gateway_world, refused
from tests.builders.payment import LEASE_SECONDS, PaymentWorld, payment_world
from tests.support.simulated_stripe import CONFIG, SimulatedStripe, simulated_stripe


@dataclass(slots=True)
class Shop:
    """A shop that is paid through Stripe."""

    world: PaymentWorld
    simulated: SimulatedStripe
    gateway: World

    async def post(self, path: str, token: str, status: int, **body: Any) -> Any:
        answer = await self.gateway.call("POST", f"/api/v1{path}", token=token, json=body)
        assert answer.status_code == status, answer.text
        assert "pm_card" not in answer.text
        assert "pm_card" not in str(self.gateway.lines())
        return answer.json()["data"]

    async def charge(self, order: Order, status: int, **body: Any) -> Any:
        """What the buyer hears of a charge by token."""
        request = {
            "order_id": order.order_id,
            "amount": order.amount.format(),
            "channel": "stripe",
            "payment_token": "pm_card_visa",
            **body,
        }
        token = self.gateway.token(order.user_id)
        answer = await self.post("/payments/charge", token, status, **request)
        return None if answer is None else answer["payment"]


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    urls = [f"sqlite+aiosqlite:///{tmp_path / name}.db" for name in ("payment", "order")]
    async with (
        payment_world(urls[0], urls[1], tmp_path) as world,
        simulated_stripe(world.clock) as simulated,
    ):
        channel = stripe.open_channel(
            account="stripe",
            credentials=parse(
                {"secret_key": CONFIG.secret_key, "webhook_secrets": [CONFIG.webhook_secret]}
            ),
            is_live=False,
            notify_url="https://pay.test/stripe",
            base_url=simulated.url,
            now=world.clock.now,
        )
        world.app = world.make_app(channels={"stripe": channel, "sandbox": world.channel})
        async with gateway_world(tmp_path, serve=world.app.add_to) as gateway:
            yield Shop(world, simulated, gateway)
        await channel.aclose()


async def test_money_is_held_captured_in_part_and_refunded_and_the_books_agree(
    shop: Shop,
) -> None:
    order = await shop.world.order("100.00", currency="USD")
    clerk = shop.gateway.token("clerk", roles=("merchant",))
    held = await shop.charge(order, 200, capture="MANUAL")
    about = f"/payments/{held['payment_id']}"
    shown = await shop.gateway.call("GET", f"/api/v1{about}")
    assert shown.status_code == 404  # somebody else's
    shown = await shop.gateway.call(
        "GET", f"/api/v1{about}", token=shop.gateway.token(order.user_id)
    )
    for payment in (held, shown.json()["data"]):
        assert (payment["state"], payment["capture_mode"], payment["capturable"]) == (
            "AUTHORIZED",
            "MANUAL",
            "100.00",
        )
    paid = await shop.post(f"{about}/capture", clerk, 200, amount="60.00")
    assert (paid["state"], paid["captured"], paid["capturable"]) == ("SUCCESS", "60.00", "0.00")
    again = await shop.gateway.call("POST", f"/api/v1{about}/capture", token=clerk, json={})
    refused(again, 409, "PAYMENT_STATE_INVALID")
    await shop.world.finish()
    back = await shop.post(f"{about}/refunds", clerk, 201, amount="25.00")
    assert back["state"] == "SUCCESS"
    await at_rest(shop.world)
    assert [(kind, amount) for kind, _, amount in shop.simulated.moved()] == [
        ("authorize", "100.00"),
        ("capture", "60.00"),
        ("void", "40.00"),
        ("refund", "25.00"),
    ]
    assert await audited(shop.world, strict=True, channel=False) == []


async def test_what_is_let_go_is_not_captured_any_more(shop: Shop) -> None:
    order = await shop.world.order("100.00", currency="USD")
    clerk = shop.gateway.token("clerk", roles=("merchant",))
    held = await shop.charge(order, 200, capture="MANUAL")
    about = f"/payments/{held['payment_id']}"
    shop.world.clock.advance(LEASE_SECONDS + 1)  # else the charge might still be under way
    gone = await shop.post(f"{about}/void", clerk, 200)
    assert (gone["state"], gone["captured"], gone["capturable"]) == ("CLOSED", "0.00", "0.00")
    assert await shop.post(f"{about}/void", clerk, 200) == gone
    late = await shop.gateway.call("POST", f"/api/v1{about}/capture", token=clerk, json={})
    refused(late, 409, "PAYMENT_STATE_INVALID")
    await at_rest(shop.world)
    assert [kind for kind, *_ in shop.simulated.moved()] == ["authorize", "void"]
    assert await audited(shop.world, strict=True, channel=False) == []


async def test_a_token_that_needs_its_buyer_says_what_he_does_next(shop: Shop) -> None:
    order = await shop.world.order("100.00", currency="USD")
    token = "pm_card_threeDSecure2Required"
    alone = await shop.charge(order, 402, payment_token=token)
    assert alone is None
    waiting = await shop.charge(
        order, 202, payment_token=token, return_url="https://shop.test/back"
    )
    assert (waiting["state"], waiting["next_action"]["kind"]) == ("PAYING", "REDIRECT_URL")
    assert shop.simulated.moved() == []
    payment = await shop.world.payment(waiting["payment_id"])
    assert payment.state is PaymentState.PAYING

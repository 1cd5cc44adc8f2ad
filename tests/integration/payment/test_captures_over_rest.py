"""CapturePayment and VoidPayment as a shop calls them: through a gateway, with a token that has or
lacks the scope, in good and bad order.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from payment_rpc.domain.payment import Payment, PaymentState
from tests.builders.gateway import World, gateway_world, refused
from tests.builders.holding_channel import HOLD, HoldingChannel, held_payment, holding
from tests.builders.payment import PaymentWorld, payment_world


@dataclass(slots=True)
class Shop:
    """payment_rpc with a channel that holds money, behind a gateway."""

    payments: PaymentWorld
    gateway: World
    channel: HoldingChannel

    async def held(self) -> Payment:
        """100.00 CNY that the channel holds."""
        return await held_payment(self.payments, self.channel)

    async def post(
        self, payment: Payment | str, verb: str, *, role: str = "merchant", **options: Any
    ) -> httpx.Response:
        """A call about a payment, with `json` as its body."""
        payment_id = payment if isinstance(payment, str) else payment.payment_id
        return await self.gateway.call(
            "POST",
            f"/api/v1/payments/{payment_id}/{verb}",
            token=self.gateway.token("clerk", roles=(role,)),
            **{"json": {}, **options},
        )


def refusal(answer: httpx.Response) -> tuple[int, str, list[str]]:
    """Status, reason and fields of a refusal."""
    details = answer.json()["details"]
    return answer.status_code, details["reason"], [entry["field"] for entry in details["fields"]]


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    urls = [f"sqlite+aiosqlite:///{tmp_path / name}.db" for name in ("payment", "order")]
    async with payment_world(urls[0], urls[1], tmp_path) as payments:
        channel = holding(payments)
        async with gateway_world(tmp_path, serve=payments.app.add_to) as gateway:
            yield Shop(payments, gateway, channel)


@pytest.mark.parametrize(
    ("body", "captured"),
    [
        ({}, "100.00"),
        ({"amount": "60.00", "currency": "CNY"}, "60.00"),
        ({"amount_minor": 6000}, "60.00"),
        ({"amount": "60.00", "keep_rest": False}, "60.00"),
    ],
)
async def test_a_shop_captures_what_it_names_or_all_of_it(
    shop: Shop, body: dict[str, Any], captured: str
) -> None:
    answer = await shop.post(await shop.held(), "capture", json=body)
    payment = answer.json()["data"]
    assert (answer.status_code, payment["state"], payment["captured"], payment["amount"]) == (
        200,
        "SUCCESS",
        captured,
        "100.00",
    )
    assert [amount.format() for _, amount in shop.channel.captures] == [captured]


async def test_a_repeated_capture_hears_the_first_answer_whatever_units_it_names(
    shop: Shop,
) -> None:
    held, key = await shop.held(), {"idempotency-key": "k1"}
    first = await shop.post(held, "capture", json={"amount_minor": 6000}, headers=key)
    again = await shop.post(held, "capture", json={"amount": "60.0"}, headers=key)
    assert (again.status_code, again.json()["data"]) == (200, first.json()["data"])
    other = await shop.post(held, "capture", headers=key)
    assert refusal(other) == (422, "IDEMPOTENCY_KEY_REUSED", ["amount"])
    assert len(shop.channel.captures) == 1


async def test_a_capture_without_an_answer_is_accepted_and_not_done(shop: Shop) -> None:
    held = await shop.held()
    shop.channel.lose_answers = True
    answer = await shop.post(held, "capture")
    assert (answer.status_code, answer.json()["data"]["state"]) == (202, "AUTHORIZED")
    body = refused(await shop.post(held, "capture"), 409, "PAYMENT_IN_PROGRESS")
    assert body["details"]["payment_id"] == held.payment_id
    refused(await shop.post(held, "void"), 409, "PAYMENT_STATE_INVALID")


async def test_a_shop_lets_money_go_and_says_why_to_its_operators_only(shop: Shop) -> None:
    held = await shop.held()
    answer = await shop.post(held, "void", json={"reason": "out of stock"})
    payment = answer.json()["data"]
    assert (answer.status_code, payment["state"], payment["captured"]) == (200, "CLOSED", "0.00")
    assert payment["failure"] == {
        "reason": "VOIDED",
        "message": "The shop did not take the money that was held for it.",
    }
    failure = (await shop.payments.payment(held.payment_id)).failure
    assert failure is not None
    assert failure.message == "out of stock"
    again = await shop.post(held, "void")
    assert (again.status_code, again.json()["data"]) == (200, payment)


async def test_a_void_without_an_answer_is_accepted_and_not_done(shop: Shop) -> None:
    held = await shop.held()
    shop.channel.unreachable = True
    answer = await shop.post(held, "void")
    assert (answer.status_code, answer.json()["data"]["state"]) == (202, "CLOSING")


async def test_a_capture_that_cannot_be_is_refused_by_its_field_and_sends_nothing(
    shop: Shop,
) -> None:
    held = await shop.held()
    for body, *fields in (
        ({"amount": "100.01"}, "amount"),
        ({"amount_minor": 10001}, "amount"),
        ({"amount": "0"}, "amount"),
        ({"amount": "-1"}, "amount"),
        ({"amount": "0.001"}, "amount"),
        ({"amount_minor": 0}, "amount_minor"),
        ({"amount": "1.00", "amount_minor": 100}, "amount", "amount_minor"),
        ({"currency": "cny"}, "currency"),
        ({"keep_rest": True}, "keep_rest"),
        ({"amount": "50.00", "keep_rest": True}, "keep_rest"),
    ):
        answer = await shop.post(held, "capture", json=body)
        assert refusal(answer) == (400, "INVALID_ARGUMENT", fields), body
    for body in ({"amount": "1.00", "currency": "USD"}, {"amount_minor": 1, "currency": "USD"}):
        refused(await shop.post(held, "capture", json=body), 400, "CURRENCY_MISMATCH")
    assert shop.channel.captures == []
    assert (await shop.payments.payment(held.payment_id)).state is PaymentState.AUTHORIZED


async def test_nothing_is_captured_twice_after_a_void_or_after_the_hold(shop: Shop) -> None:
    paid, gone, over = [await shop.held() for _ in range(3)]
    await shop.post(paid, "capture", json={"amount": "60.00"})
    await shop.post(gone, "void")
    captures = len(shop.channel.captures)
    for payment, verb in ((paid, "capture"), (gone, "capture"), (paid, "void")):
        refused(await shop.post(payment, verb), 409, "PAYMENT_STATE_INVALID")
    shop.payments.clock.advance(HOLD.total_seconds())
    refused(await shop.post(over, "capture"), 409, "PAYMENT_STATE_INVALID")
    assert len(shop.channel.captures) == captures


@pytest.mark.parametrize("verb", ["capture", "void"])
async def test_only_the_shop_and_operators_decide_about_held_money(shop: Shop, verb: str) -> None:
    held = await shop.held()
    refused(await shop.post(held, verb, role="user"), 403, "PERMISSION_DENIED")
    stranger = shop.gateway.token("clerk", roles=("merchant",), merchant_id="tea")
    path = f"/api/v1/payments/{held.payment_id}/{verb}"
    refused(
        await shop.gateway.call("POST", path, token=stranger, json={}), 404, "PAYMENT_NOT_FOUND"
    )
    refused(await shop.post("PAY0", verb), 404, "PAYMENT_NOT_FOUND")
    assert (await shop.payments.payment(held.payment_id)).state is PaymentState.AUTHORIZED
    assert (await shop.post(held, verb, role="admin")).status_code == 200

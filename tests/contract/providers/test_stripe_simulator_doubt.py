"""What the simulated Stripe does when things go wrong: idempotency keys, answers that get lost,
malformed requests; driven by the official client.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import stripe

from tests.support.fakes import FakeClock
from tests.support.simulated_stripe import CONFIG, SimulatedStripe, simulated_stripe

# the official client hands bytes to httpx in a way that httpx no longer likes
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
PATH = "/v1/payment_intents"
NEVER = {"enabled": True, "allow_redirects": "never"}


@pytest.fixture
async def sim(clock: FakeClock) -> AsyncIterator[SimulatedStripe]:
    async with simulated_stripe(clock) as it:
        yield it


def order(amount: int = 9999, **more: Any) -> dict[str, Any]:
    return {
        "amount": amount,
        "currency": "usd",
        "automatic_payment_methods": NEVER,
        "metadata": {"attempt_id": "ATT1"},
        **more,
    }


def paid(amount: int = 9999, **more: Any) -> dict[str, Any]:
    return order(amount, **{"confirm": True, "payment_method": "pm_card_visa", **more})


async def create(sim: SimulatedStripe, sent: dict[str, Any], key: str = "K") -> Any:
    return await sim.client.v1.payment_intents.create_async(sent, {"idempotency_key": key})


async def test_a_key_gets_its_first_outcome_for_a_day_and_then_charges_again(
    sim: SimulatedStripe,
) -> None:
    first = await create(sim, paid())
    assert "Idempotent-Replayed" not in first.last_response.headers
    await sim.advance(86_399)
    again = await create(sim, paid())
    assert again.id == first.id
    assert again.last_response.headers["Idempotent-Replayed"] == "true"
    origin = again.last_response.headers["Original-Request"]
    assert origin == first.last_response.headers["Request-Id"]
    assert len(sim.moved()) == 1
    await sim.advance(1)
    assert (await create(sim, paid())).id != first.id
    assert len(sim.moved()) == 2


async def test_a_key_belongs_to_its_parameters_and_its_path(sim: SimulatedStripe) -> None:
    made = await create(sim, order())
    for other in (order(9998), order(description="tea"), paid()):
        with pytest.raises(stripe.IdempotencyError) as refused:
            await create(sim, other)
        error: Any = refused.value.error
        assert (refused.value.http_status, error.type) == (400, "idempotency_error")
    with pytest.raises(stripe.IdempotencyError):
        await sim.client.v1.payment_intents.confirm_async(
            made.id, {"payment_method": "pm_card_visa"}, {"idempotency_key": "K"}
        )
    assert sim.moved() == []


async def test_a_decline_is_replayed(sim: SimulatedStripe) -> None:
    found = []
    for _ in range(2):
        with pytest.raises(stripe.CardError) as refused:
            await create(sim, paid(payment_method="pm_card_visa_chargeDeclined"))
        error: Any = refused.value.error
        found.append(error.payment_intent.id)
    assert found[0] == found[1]
    assert len(sim.simulation.money.movements) == 0


async def test_what_was_never_executed_is_not_kept(sim: SimulatedStripe) -> None:
    with pytest.raises(stripe.InvalidRequestError):
        await create(sim, paid(0))
    with pytest.raises(stripe.AuthenticationError):
        await sim.client_with("sk_test_wrong").v1.payment_intents.create_async(
            paid(), {"idempotency_key": "K"}
        )
    with pytest.raises(stripe.PermissionError):
        await sim.client_with(CONFIG.reading_key).v1.payment_intents.create_async(
            paid(), {"idempotency_key": "K"}
        )
    await sim.fault("status", PATH, status=429)
    with pytest.raises(stripe.RateLimitError):
        await create(sim, paid())
    assert sim.moved() == []
    assert (await create(sim, paid())).status == "succeeded"


async def test_a_state_that_refuses_is_kept(sim: SimulatedStripe) -> None:
    made = await create(sim, order())
    payments = sim.client.v1.payment_intents
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await payments.capture_async(made.id, {}, {"idempotency_key": "C"})
    assert refused.value.code == "payment_intent_unexpected_state"
    await payments.confirm_async(made.id, {"payment_method": "pm_card_visa"})
    with pytest.raises(stripe.InvalidRequestError) as again:
        await payments.capture_async(made.id, {}, {"idempotency_key": "C"})
    error: Any = again.value.error
    assert error.payment_intent.status == "requires_payment_method"  # as it was then


@pytest.mark.parametrize("kind", ["status", "status_after"])
async def test_a_broken_request_stays_broken_under_its_key(sim: SimulatedStripe, kind: str) -> None:
    made = await create(sim, order())
    await sim.fault(kind, f"{PATH}/{made.id}/confirm", status=500)
    confirm = sim.client.v1.payment_intents.confirm_async
    for _ in range(2):
        with pytest.raises(stripe.APIError) as broken:
            await confirm(made.id, {"payment_method": "pm_card_visa"}, {"idempotency_key": "C1"})
        assert broken.value.http_status == 500
    known = await sim.client.v1.payment_intents.retrieve_async(made.id)
    assert known.status == {"status": "requires_payment_method", "status_after": "succeeded"}[kind]
    assert len(sim.moved()) == (kind == "status_after")


@pytest.mark.parametrize("kind", ["lost_answer", "cut_at", "nonsense", "empty"])
async def test_a_lost_answer_comes_with_the_same_key(sim: SimulatedStripe, kind: str) -> None:
    await sim.fault(kind, PATH, bytes=300)
    with pytest.raises(stripe.StripeError):
        await create(sim, paid())
    assert len(sim.moved()) == 1
    assert (await create(sim, paid())).status == "succeeded"
    assert len(sim.moved()) == 1


async def test_a_key_in_flight_is_a_conflict(sim: SimulatedStripe) -> None:
    await sim.fault("slow_work", PATH, seconds=0.5)
    both = await asyncio.gather(*(create(sim, paid()) for _ in range(2)), return_exceptions=True)
    [refused] = [one for one in both if isinstance(one, stripe.StripeError)]
    [done] = [one for one in both if not isinstance(one, BaseException)]
    error: Any = refused.error
    assert (refused.http_status, error.code) == (409, "idempotency_key_in_use")
    assert (await create(sim, paid())).id == done.id
    assert len(sim.moved()) == 1


async def test_an_unknown_word_is_only_said(sim: SimulatedStripe) -> None:
    made = await create(sim, order())
    await sim.fault("wrong_word", f"{PATH}/{made.id}", field="status", value="teleported")
    assert (await sim.client.v1.payment_intents.retrieve_async(made.id)).status == "teleported"
    known = await sim.client.v1.payment_intents.retrieve_async(made.id)
    assert known.status == "requires_payment_method"


@pytest.mark.parametrize(
    ("changed", "param", "code"),
    [
        ({"amount": None}, "amount", "parameter_missing"),
        ({"currency": None}, "currency", "parameter_missing"),
        ({"amount": "1.5"}, "amount", "parameter_invalid_integer"),
        ({"amount": -1}, "amount", "parameter_invalid_integer"),
        ({"amount": 49}, "amount", "amount_too_small"),
        ({"amount": 10**12}, "amount", "amount_too_large"),
        ({"currency": "xyz"}, "currency", None),
        ({"currency": "USD"}, "currency", None),
        ({"currency": "iqd"}, "currency", None),
        ({"currency": "kwd", "amount": 5124}, "amount", "parameter_invalid_integer"),
        ({"currency": "isk", "amount": 550}, "amount", "parameter_invalid_integer"),
        ({"currency": "ugx", "amount": 1}, "amount", "parameter_invalid_integer"),
        ({"colour": "red"}, "colour", "parameter_unknown"),
        ({"automatic_payment_methods": {"enable": True}}, None, "parameter_missing"),
        ({"capture_method": "later"}, "capture_method", None),
        ({"confirm": "yes"}, "confirm", None),
        ({"off_session": True}, "off_session", None),
        ({"return_url": "https://shop.example"}, "return_url", None),
        ({"payment_method_types": ["card"]}, "payment_method_types", None),
        ({"payment_method": "pm_unknown"}, "payment_method", "resource_missing"),
        ({"metadata": {"k" * 41: "v"}}, f"metadata[{'k' * 41}]", None),
        ({"metadata": {"k": "v" * 501}}, "metadata[k]", None),
        ({"metadata": {f"k{n}": "v" for n in range(51)}}, "metadata", None),
        ({"expand": ["customer"]}, "expand", None),
    ],
)
async def test_a_malformed_payment_is_refused_by_its_parameter(
    sim: SimulatedStripe, changed: dict[str, Any], param: str | None, code: str | None
) -> None:
    sent = {name: value for name, value in {**order(), **changed}.items() if value is not None}
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await create(sim, sent)
    assert refused.value.http_status == 400
    assert refused.value.code == code
    if param:
        assert refused.value.param == param


async def test_a_path_that_cannot_be_expanded_is_refused_before_money_moves(
    sim: SimulatedStripe,
) -> None:
    with pytest.raises(stripe.InvalidRequestError, match="cannot be expanded"):
        await create(sim, paid(expand=["latest_charge.customer"]))
    assert sim.moved() == []


async def test_confirming_may_redirect_so_it_needs_an_address(sim: SimulatedStripe) -> None:
    made = await create(sim, order(automatic_payment_methods={"enabled": True}))
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await sim.client.v1.payment_intents.confirm_async(
            made.id, {"payment_method": "pm_card_visa"}
        )
    assert refused.value.param == "return_url"
    with pytest.raises(stripe.InvalidRequestError, match="missing a payment method"):
        await sim.client.v1.payment_intents.confirm_async(made.id)


async def test_a_card_number_is_never_taken(sim: SimulatedStripe) -> None:
    card = {"number": "4242424242424242", "exp_month": 12, "exp_year": 2034, "cvc": "123"}
    with pytest.raises(stripe.StripeError, match="generally unsafe"):
        await create(
            sim,
            order(confirm=True, payment_method_data={"type": "card", "card": card}),
        )


@pytest.mark.parametrize(
    ("path", "sent", "param"),
    [
        ("/v1/refunds", {}, "payment_intent"),
        ("/v1/refunds", {"payment_intent": "pi_x"}, "payment_intent"),
        ("/v1/refunds", {"payment_intent": "pi_x", "charge": "ch_x"}, "payment_intent"),
        ("/v1/refunds", {"payment_intent": "pi_x", "reason": "late"}, "reason"),
        ("/v1/refunds", {"payment_intent": "pi_x", "amount": "0"}, "amount"),
        ("/v1/checkout/sessions", {"mode": "setup"}, None),
        ("/v1/payment_intents", {"amount[": "1"}, "amount["),
        ("/v1/payment_intents", "amount=100&amount=200&currency=usd", "amount"),
    ],
)
async def test_a_malformed_request_is_refused(
    sim: SimulatedStripe, path: str, sent: Any, param: str | None
) -> None:
    body: dict[str, Any] = {"data": sent} if isinstance(sent, dict) else {"content": sent}
    headers = {"content-type": "application/x-www-form-urlencoded"}
    answer = await sim.http.post(path, headers=headers, **body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    if param:
        assert error["param"] == param


async def test_what_is_not_there_is_not_found(sim: SimulatedStripe) -> None:
    for path in ("payment_intents/pi_x", "refunds/re_x", "charges/ch_x", "checkout/sessions/cs_x"):
        answer = await sim.http.get(f"/v1/{path}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "resource_missing")
    assert (await sim.http.get("/v1/payment_links")).status_code == 404
    assert (await sim.http.delete("/v1/refunds")).status_code == 404


async def test_json_no_key_and_a_strange_version_are_refused(sim: SimulatedStripe) -> None:
    assert (await sim.http.post(PATH, json={"amount": 1})).status_code == 400
    version = {"stripe-version": "yesterday"}
    assert (await sim.http.get("/v1/balance", headers=version)).status_code == 400
    assert (
        await sim.http.get("/v1/balance", auth=httpx.BasicAuth(CONFIG.secret_key, ""))
    ).is_success
    async with httpx.AsyncClient(base_url=sim.url, trust_env=False) as nobody:
        assert (await nobody.get("/v1/balance")).status_code == 401


async def test_a_deed_that_makes_no_sense_is_refused(sim: SimulatedStripe) -> None:
    made = await create(sim, order())
    for sent in (
        {"ref": "pi_x", "does": "pay"},
        {"own_id": "ATT7", "does": "pay"},
        {"ref": made.id, "does": "settle"},
        {"ref": made.id, "does": "pay", "card": "1234"},
        {"ref": made.id, "does": "won"},
    ):
        assert (await sim.http.post("/_sim/buyer", json=sent)).status_code == 409
    assert sim.moved() == []

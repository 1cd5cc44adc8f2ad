"""payment_rpc's adapter to Stripe when answers get lost, come late, or are nonsense: one charge and
one refund come of it, whatever was heard.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from mesh.money import Money
from payment_rpc.domain.facts import ChannelFact, ChannelStatus
from payment_rpc.domain.refund_facts import RefundChannelStatus
from tests.support.fakes import FakeClock
from tests.support.simulated_stripe import CONFIG, SimulatedStripe, simulated_stripe
from tests.support.stripe_adapter import USD, Shop, some_credentials, stripe_shop

CREATE = "/v1/payment_intents"
STEP = "/v1/payment_intents/pi_"
# kinds of trouble in which Stripe did what it was asked
DONE: list[tuple[str, dict[str, Any]]] = [
    ("lost_answer", {}),
    ("cut_at", {"bytes": 1}),
    ("cut_at", {"bytes": 60}),
    ("cut_at", {"bytes": 400}),
    ("status_after", {"status": 500}),
    ("status_after", {"status": 503}),
    ("nonsense", {}),
    ("empty", {}),
    ("wrong_word", {"field": "status", "value": "teleported"}),
]
LATE: list[tuple[str, dict[str, Any]]] = [("delay", {"seconds": 2})]
NOT_DONE: list[tuple[str, dict[str, Any]]] = [
    ("drop", {}),
    ("status", {"status": 500}),
    ("status", {"status": 503}),
]


@pytest.fixture
async def sim(clock: FakeClock) -> AsyncIterator[SimulatedStripe]:
    async with simulated_stripe(clock) as it:
        yield it


@pytest.fixture
async def shop(sim: SimulatedStripe, clock: FakeClock) -> AsyncIterator[Shop]:
    credentials = some_credentials(secret_key=CONFIG.secret_key)
    async with stripe_shop(sim.url, clock, credentials) as it:
        yield it


@pytest.mark.parametrize(("kind", "more"), [*DONE, *NOT_DONE, *LATE])
async def test_a_creation_without_an_answer_moves_no_money(
    sim: SimulatedStripe, shop: Shop, kind: str, more: dict[str, Any]
) -> None:
    await sim.fault(kind, CREATE, method="POST", times=1, **more)
    fact = await shop.charge(timeout_seconds=1)
    assert (fact.status, fact.ref) in {
        (ChannelStatus.UNKNOWN, ""),
        # an unknown word is no trouble where the payment is not confirmed yet
        (ChannelStatus.UNKNOWN, shop.remembered[0] if shop.remembered else ""),
    }
    assert sim.moved() == []
    await sim.http.delete("/_sim/faults")
    if "status" not in kind and kind != "delay":  # Stripe repeats an error under its key
        assert (await shop.charge()).status is ChannelStatus.CAPTURED
        assert sim.moved() == [("capture", "ATT1", "99.99")]


@pytest.mark.parametrize(("kind", "more"), DONE)
async def test_a_confirmation_without_an_answer_is_found_by_asking(
    sim: SimulatedStripe, shop: Shop, kind: str, more: dict[str, Any]
) -> None:
    await sim.fault(kind, STEP, method="POST", times=1, **more)
    fact = await shop.charge(timeout_seconds=1)
    [ref] = shop.remembered
    assert (fact.status, fact.ref) == (ChannelStatus.UNKNOWN, ref)
    await sim.http.delete("/_sim/faults")
    assert (await shop.query(ref)).status is ChannelStatus.CAPTURED
    assert (await shop.advance(ref)).status is ChannelStatus.CAPTURED
    assert (await shop.charge()).status is ChannelStatus.CAPTURED  # sent again
    assert (await shop.close(ref)).status is ChannelStatus.CAPTURED
    assert sim.moved() == [("capture", "ATT1", "99.99")]


async def test_a_confirmation_that_got_lost_is_made_once(sim: SimulatedStripe, shop: Shop) -> None:
    await sim.fault("drop", STEP, method="POST", times=1)
    assert (await shop.charge()).status is ChannelStatus.UNKNOWN
    [ref] = shop.remembered
    waiting = await shop.query(ref)
    assert (waiting.status, waiting.is_our_turn) == (ChannelStatus.PENDING, True)
    assert (await shop.advance(ref)).status is ChannelStatus.CAPTURED
    assert sim.moved() == [("capture", "ATT1", "99.99")]


@pytest.mark.parametrize("path", [CREATE, STEP])
async def test_a_call_that_stripe_did_not_execute_was_not_sent(
    sim: SimulatedStripe, shop: Shop, path: str
) -> None:
    await sim.fault("status", path, method="POST", status=429, times=1)
    fact = await shop.charge()
    assert (fact.status, fact.reason) == (ChannelStatus.NOT_SENT, "CHANNEL_UNAVAILABLE")
    assert (await shop.charge()).status is ChannelStatus.CAPTURED
    assert sim.moved() == [("capture", "ATT1", "99.99")]


Asked = Callable[[Shop, str], Awaitable[ChannelFact]]


@pytest.mark.parametrize(
    ("kind", "more"),
    [*DONE, *NOT_DONE, *LATE, ("status", {"status": 429}), ("status", {"status": 404})],
)
@pytest.mark.parametrize(
    "asked",
    [
        lambda shop, ref: shop.channel.query("ATT1", ref=ref, timeout_seconds=1),
        lambda shop, ref: shop.channel.close("ATT1", ref=ref, timeout_seconds=1),
        lambda shop, ref: shop.channel.advance("ATT1", ref=ref, timeout_seconds=1),
    ],
    ids=["query", "close", "advance"],
)
async def test_a_question_without_an_answer_says_nothing(
    sim: SimulatedStripe, shop: Shop, kind: str, more: dict[str, Any], asked: Asked
) -> None:
    ref = (await shop.checkout()).ref
    await sim.fault(kind, STEP, times=9, **more)
    fact = await asked(shop, ref)
    assert (fact.status, fact.ref) == (ChannelStatus.UNKNOWN, ref)


@pytest.mark.parametrize(("kind", "more"), DONE)
async def test_a_capture_without_an_answer_takes_the_money_once(
    sim: SimulatedStripe, shop: Shop, kind: str, more: dict[str, Any]
) -> None:
    held = await shop.charge(capture=False)
    await sim.fault(kind, STEP, method="POST", times=1, **more)
    fact = await shop.channel.capture(
        "ATT1",
        ref=held.ref,
        capture_id="CAP1",
        amount=USD,
        is_final=True,
        timeout_seconds=1,
    )
    assert fact.status is ChannelStatus.UNKNOWN
    await sim.http.delete("/_sim/faults")
    assert (await shop.query(held.ref)).status is ChannelStatus.CAPTURED
    assert (await shop.capture(held.ref, USD)).status is ChannelStatus.CAPTURED
    assert [kind for kind, *_ in sim.moved()] == ["authorize", "capture"]


@pytest.mark.parametrize(("kind", "more"), DONE)
async def test_a_refund_without_an_answer_gives_back_once(
    sim: SimulatedStripe, shop: Shop, kind: str, more: dict[str, Any]
) -> None:
    paid = await shop.charge()
    part = Money(4000, "USD")
    await sim.fault(kind, "/v1/refunds", method="POST", times=1, **more)
    fact = await shop.refund(paid, part, seconds=1)
    assert fact.status is RefundChannelStatus.UNKNOWN
    await sim.http.delete("/_sim/faults")
    known = await shop.query_refund(paid, part)
    assert known.status is RefundChannelStatus.SUCCESS
    assert (await shop.refund(paid, part)) == known  # sent again
    await sim.advance(25 * 3600)  # Stripe forgot the key
    assert (await shop.query_refund(paid, part)) == known
    assert sim.moved()[1:] == [("refund", "RF1", "40.00")]


async def test_a_full_refund_that_is_sent_again_after_the_key_is_forgotten_is_found(
    sim: SimulatedStripe, shop: Shop
) -> None:
    paid = await shop.charge()
    first = await shop.refund(paid, USD)
    await sim.advance(25 * 3600)
    assert await shop.refund(paid, USD) == first
    assert sim.moved()[1:] == [("refund", "RF1", "99.99")]


@pytest.mark.parametrize(("kind", "more"), [("drop", {}), ("status", {"status": 500})])
async def test_a_refund_that_nobody_made_is_not_found(
    sim: SimulatedStripe, shop: Shop, kind: str, more: dict[str, Any]
) -> None:
    paid = await shop.charge()
    await sim.fault(kind, "/v1/refunds", method="POST", times=1, **more)
    assert (await shop.refund(paid, USD)).status is RefundChannelStatus.UNKNOWN
    assert (await shop.query_refund(paid, USD)).status is RefundChannelStatus.NOT_FOUND
    await sim.fault("nonsense", "/v1/refunds", times=1)
    assert (await shop.query_refund(paid, USD)).status is RefundChannelStatus.UNKNOWN
    assert len(sim.moved()) == 1


async def test_another_amount_under_one_key_is_never_refunded(
    sim: SimulatedStripe, shop: Shop
) -> None:
    paid = await shop.charge()
    await shop.refund(paid, Money(4000, "USD"))
    other = await shop.refund(paid, Money(100, "USD"))
    assert other.status is RefundChannelStatus.UNKNOWN
    assert len(sim.moved()) == 2


async def test_closing_races_with_paying_and_one_of_them_wins(
    sim: SimulatedStripe, shop: Shop
) -> None:
    for number in range(20):
        own_id = f"ATT{number}"
        opened = await shop.checkout(own_id=own_id)
        closed, _paid = await asyncio.gather(
            shop.close(opened.ref, own_id),
            sim.http.post("/_sim/buyer", json={"ref": opened.ref, "does": "pay"}),
        )
        moved = [own for kind, own, _amount in sim.moved() if kind == "capture"]
        assert closed.status is (
            ChannelStatus.CAPTURED if own_id in moved else ChannelStatus.CLOSED
        )


async def test_two_captures_at_once_take_the_money_once(sim: SimulatedStripe, shop: Shop) -> None:
    held = await shop.charge(capture=False)
    facts = await asyncio.gather(
        shop.capture(held.ref, Money(4000, "USD"), capture_id="CAP1"),
        shop.capture(held.ref, Money(5000, "USD"), capture_id="CAP2"),
    )
    taken = [amount for kind, _own, amount in sim.moved() if kind == "capture"]
    assert len(taken) == 1
    assert {fact.amount.format() for fact in facts if fact.amount} == set(taken)


@pytest.mark.parametrize(("kind", "more"), DONE)
async def test_a_page_without_an_answer_is_opened_once(
    sim: SimulatedStripe, shop: Shop, kind: str, more: dict[str, Any]
) -> None:
    await sim.fault(kind, "/v1/checkout/sessions", method="POST", times=1, **more)
    assert (await shop.checkout("hosted", timeout_seconds=1)).status is ChannelStatus.UNKNOWN
    assert shop.remembered == []
    await sim.http.delete("/_sim/faults")
    if more == {"status": 500}:  # Stripe repeats an error under its key
        assert (await shop.checkout("hosted")).status is ChannelStatus.UNKNOWN
        return
    assert (await shop.checkout("hosted")).status is ChannelStatus.PENDING
    await sim.fault(kind, "/v1/checkout/sessions", times=9, **more)
    [ref] = shop.remembered
    for asked in (shop.channel.query, shop.channel.close):
        fact = await asked("ATT1", ref=ref, timeout_seconds=1)
        assert (fact.status, fact.ref) == (ChannelStatus.UNKNOWN, ref)

"""payment_rpc's adapter to Stripe against the simulated Stripe: what each payment becomes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from mesh.money import Money
from payment_rpc.domain.facts import ChannelStatus
from tests.support.fakes import FakeClock
from tests.support.simulated_stripe import CONFIG, SimulatedStripe, simulated_stripe
from tests.support.stripe_adapter import BACK, USD, Shop, some_credentials, stripe_shop


@pytest.fixture
async def sim(clock: FakeClock) -> AsyncIterator[SimulatedStripe]:
    async with simulated_stripe(clock) as it:
        yield it


@pytest.fixture
async def shop(sim: SimulatedStripe, clock: FakeClock) -> AsyncIterator[Shop]:
    credentials = some_credentials(secret_key=CONFIG.secret_key, multicapture=True)
    async with stripe_shop(sim.url, clock, credentials) as it:
        yield it


async def test_a_token_is_charged_after_its_payment_is_remembered(
    sim: SimulatedStripe, shop: Shop
) -> None:
    fact = await shop.charge()
    assert (fact.status, fact.amount, fact.fee) == (ChannelStatus.CAPTURED, USD, Money(320, "USD"))
    assert shop.remembered == [fact.ref] == [fact.trade_no]
    assert sim.moved() == [("capture", "ATT1", "99.99")]
    assert await shop.query(fact.ref) == fact


async def test_no_money_moves_when_nothing_can_be_committed(
    sim: SimulatedStripe, shop: Shop
) -> None:
    shop.forgets = True
    fact = await shop.charge()
    assert fact.status is ChannelStatus.UNKNOWN
    assert fact.ref.startswith("pi_")
    known = await shop.query(fact.ref)
    assert (known.status, known.is_our_turn) == (ChannelStatus.PENDING, True)
    assert sim.moved() == []
    assert (await shop.advance(fact.ref)).status is ChannelStatus.CAPTURED
    assert (await shop.advance(fact.ref)).status is ChannelStatus.CAPTURED
    assert sim.moved() == [("capture", "ATT1", "99.99")]


@pytest.mark.parametrize(
    ("token", "reason", "message"),
    [
        ("pm_card_visa_chargeDeclined", "CARD_DECLINED", None),
        ("pm_card_visa_chargeDeclinedInsufficientFunds", "INSUFFICIENT_FUNDS", None),
        ("pm_card_visa_chargeDeclinedLostCard", "CARD_DECLINED", "Your card was declined."),
        ("pm_card_visa_chargeDeclinedStolenCard", "CARD_DECLINED", "Your card was declined."),
        ("pm_card_radarBlock", "CARD_DECLINED", "Your card was declined."),
        ("pm_card_visa_chargeDeclinedExpiredCard", "CARD_DECLINED", None),
        # it wants a buyer, and there is none
        ("pm_card_authenticationRequired", "CARD_DECLINED", None),
    ],
)
async def test_a_decline_is_final_because_the_payment_is_cancelled(
    sim: SimulatedStripe, shop: Shop, token: str, reason: str, message: str | None
) -> None:
    fact = await shop.charge(token)
    assert (fact.status, fact.reason) == (ChannelStatus.DECLINED, reason)
    assert message is None or fact.message == message
    [ref] = shop.remembered
    assert (await sim.client.v1.payment_intents.retrieve_async(ref)).status == "canceled"
    assert (await shop.query(ref)).status is ChannelStatus.DECLINED
    assert (await shop.charge(token)).status is ChannelStatus.DECLINED  # sent again
    assert sim.moved() == []


async def test_a_decline_whose_cancel_fails_is_not_final_yet(
    sim: SimulatedStripe, shop: Shop
) -> None:
    async def remember(ref: str) -> None:
        shop.remembered.append(ref)
        await sim.fault("status", f"/v1/payment_intents/{ref}/cancel", status=500, times=1)

    fact = await shop.charge("pm_card_visa_chargeDeclined", remember=remember)
    assert (fact.status, fact.is_our_turn) == (ChannelStatus.PENDING, True)
    assert (await shop.query(fact.ref)).is_our_turn
    assert (await shop.advance(fact.ref)).status is ChannelStatus.DECLINED


async def test_a_confirmation_that_fails_at_stripe_is_never_taken_for_a_refusal(
    sim: SimulatedStripe, shop: Shop
) -> None:
    await sim.fault("status", "/v1/payment_intents/pi_", status=500, method="POST", times=1)
    assert (await shop.charge()).status is ChannelStatus.UNKNOWN
    [ref] = shop.remembered
    # the answer is repeated under the key of the confirmation
    assert (await shop.advance(ref)).status is not ChannelStatus.FAILED
    assert (await shop.close(ref)).status in (ChannelStatus.CLOSED, ChannelStatus.CAPTURED)


async def test_a_buyer_authenticates_on_the_page_of_his_bank(
    sim: SimulatedStripe, shop: Shop
) -> None:
    long_url = f"{BACK}?{'x' * 480}"
    fact = await shop.charge("pm_card_threeDSecure2Required", return_url=long_url)
    assert fact.status is ChannelStatus.PENDING
    assert fact.next_action is not None
    assert fact.next_action.kind == "REDIRECT_URL"
    assert not fact.is_our_turn
    sent = await sim.http.post(fact.next_action.value, data={"does": "complete"})
    assert sent.headers["location"].startswith(long_url)
    assert (await shop.query(fact.ref)).status is ChannelStatus.CAPTURED


async def test_a_buyer_who_fails_to_authenticate_is_declined_by_our_next_step(
    sim: SimulatedStripe, shop: Shop
) -> None:
    fact = await shop.charge("pm_card_threeDSecure2Required", return_url=BACK)
    await sim.http.post("/_sim/buyer", json={"ref": fact.ref, "does": "decline"})
    known = await shop.query(fact.ref)
    assert (known.status, known.is_our_turn) == (ChannelStatus.PENDING, True)
    assert (await shop.advance(fact.ref)).status is ChannelStatus.DECLINED


async def test_a_browser_pays_with_the_client_secret(sim: SimulatedStripe, shop: Shop) -> None:
    fact = await shop.checkout()
    assert (fact.status, shop.remembered) == (ChannelStatus.PENDING, [fact.ref])
    assert fact.next_action is not None
    assert fact.next_action.kind == "CLIENT_SECRET"
    assert fact.next_action.value.startswith(f"{fact.ref}_secret_")
    assert await shop.query(fact.ref) == fact == await shop.advance(fact.ref)
    await sim.http.post(
        "/_sim/buyer", json={"ref": fact.ref, "does": "decline"}
    )  # a declined try leaves it open
    known = await shop.query(fact.ref)
    assert (known.status, known.is_our_turn) == (ChannelStatus.PENDING, False)
    assert known.next_action == fact.next_action
    await sim.buyer(fact.ref, "pay")
    assert (await shop.query(fact.ref)).status is ChannelStatus.CAPTURED
    assert sim.moved() == [("capture", "ATT1", "99.99")]


async def test_a_checkout_is_closed_for_ever_and_a_paid_one_is_not(
    sim: SimulatedStripe, shop: Shop
) -> None:
    left = await shop.checkout()
    for _again in range(2):
        closed = await shop.close(left.ref)
        assert (closed.status, closed.amount) == (ChannelStatus.CLOSED, USD)
        assert not closed.is_tombstone
    paid = await shop.checkout(own_id="ATT2")
    await sim.buyer(paid.ref, "pay")
    late = await shop.close(paid.ref, "ATT2")
    assert (late.status, late.amount) == (ChannelStatus.CAPTURED, USD)


async def test_stripe_is_not_asked_about_what_it_never_named(
    sim: SimulatedStripe, shop: Shop
) -> None:
    await sim.fault("drop", "/v1", times=9)
    for asked in (shop.query(""), shop.close(""), shop.advance("")):
        assert (await asked).status is ChannelStatus.NOT_FOUND


async def test_a_payment_of_another_attempt_is_no_answer(shop: Shop) -> None:
    fact = await shop.charge()
    for asked in (shop.query(fact.ref, "ATT2"), shop.close(fact.ref, "ATT2")):
        assert (await asked).status is ChannelStatus.UNKNOWN
    assert (await shop.query("pi_nobody")).status is ChannelStatus.UNKNOWN


async def test_held_money_is_taken_in_part_or_let_go(
    sim: SimulatedStripe, shop: Shop, clock: FakeClock
) -> None:
    held = await shop.charge(capture=False, return_url=BACK)
    assert (held.status, held.amount, held.capturable) == (ChannelStatus.AUTHORIZED, USD, USD)
    assert held.held_until == clock.now() + timedelta(days=7)
    taken = await shop.capture(held.ref, Money(4000, "USD"))
    assert (taken.status, taken.amount) == (ChannelStatus.CAPTURED, Money(4000, "USD"))
    again = await shop.capture(held.ref, Money(4000, "USD"))
    other = await shop.capture(held.ref, Money(100, "USD"), capture_id="CAP2")
    assert again.amount == other.amount == Money(4000, "USD")
    other_held = await shop.charge(capture=False, own_id="ATT2")
    closed = await shop.channel.void("ATT2", ref=other_held.ref, timeout_seconds=10)
    assert closed.status is ChannelStatus.CLOSED
    assert [kind for kind, *_ in sim.moved()] == [
        "authorize",
        "capture",
        "void",
        "authorize",
        "void",
    ]


async def test_a_capture_above_the_hold_leaves_the_hold(sim: SimulatedStripe, shop: Shop) -> None:
    held = await shop.charge(capture=False)
    fact = await shop.capture(held.ref, Money(10_000, "USD"))
    assert fact.status is ChannelStatus.AUTHORIZED
    assert [kind for kind, *_ in sim.moved()] == ["authorize"]


async def test_a_hold_is_taken_in_several_parts_where_the_account_may(
    sim: SimulatedStripe, shop: Shop
) -> None:
    held = await shop.charge(capture=False)
    assert held.taken is None
    first = await shop.capture(held.ref, Money(4000, "USD"), is_final=False)
    assert (first.status, first.amount, first.taken, first.capturable) == (
        ChannelStatus.AUTHORIZED,
        USD,
        Money(4000, "USD"),
        Money(5999, "USD"),
    )
    # the same key again takes nothing, and tells how it is
    again = await shop.capture(held.ref, Money(4000, "USD"), is_final=False)
    assert (again.status, again.taken) == (ChannelStatus.AUTHORIZED, Money(4000, "USD"))
    last = await shop.capture(held.ref, Money(1000, "USD"), capture_id="CAP2")
    assert (last.status, last.amount) == (ChannelStatus.CAPTURED, Money(5000, "USD"))
    assert (last.taken, last.fee) == (None, None)
    assert [kind for kind, *_ in sim.moved()] == ["authorize", "capture", "capture", "void"]


async def test_the_rest_of_a_hold_is_let_go_and_its_parts_stay(
    sim: SimulatedStripe, shop: Shop
) -> None:
    held = await shop.charge(capture=False)
    await shop.capture(held.ref, Money(4000, "USD"), is_final=False)
    over = await shop.channel.void("ATT1", ref=held.ref, timeout_seconds=10)
    assert (over.status, over.amount) == (ChannelStatus.CAPTURED, Money(4000, "USD"))
    ran_out = await shop.charge(capture=False, own_id="ATT2")
    await shop.channel.capture(
        "ATT2",
        ref=ran_out.ref,
        capture_id="CAP2",
        amount=Money(3000, "USD"),
        is_final=False,
        timeout_seconds=10,
    )
    await sim.advance(8 * 86_400)
    known = await shop.query(ran_out.ref, "ATT2")
    assert (known.status, known.amount) == (ChannelStatus.CAPTURED, Money(3000, "USD"))


async def test_a_hold_that_ran_out_is_closed(sim: SimulatedStripe, shop: Shop) -> None:
    held = await shop.charge(capture=False)
    await sim.advance(8 * 86_400)
    assert (await shop.query(held.ref)).status is ChannelStatus.CLOSED
    assert (await shop.capture(held.ref, USD)).status is ChannelStatus.CLOSED


async def test_a_hosted_page_takes_the_money(sim: SimulatedStripe, shop: Shop) -> None:
    fact = await shop.checkout("hosted")
    assert (fact.status, shop.remembered) == (ChannelStatus.PENDING, [fact.ref])
    assert fact.ref.startswith("cs_")
    assert fact.next_action is not None
    assert fact.next_action.kind == "REDIRECT_URL"
    refused = await sim.http.post(fact.next_action.value, data={"card": "4000000000000002"})
    assert refused.status_code == 402
    waiting = await shop.query(fact.ref)
    assert (waiting.status, waiting.next_action) == (ChannelStatus.PENDING, fact.next_action)
    await sim.http.post(fact.next_action.value, data={"card": "4242424242424242"})
    paid = await shop.query(fact.ref)
    assert (paid.status, paid.amount, paid.ref) == (ChannelStatus.CAPTURED, USD, fact.ref)
    assert paid.trade_no.startswith("pi_")
    assert (await shop.close(fact.ref)).status is ChannelStatus.CAPTURED
    back = await shop.refund(paid, Money(100, "USD"))
    assert back.status.value == "SUCCESS"
    assert sim.moved() == [("capture", "ATT1", "99.99"), ("refund", "RF1", "1.00")]


async def test_a_hosted_page_is_closed_by_expiring_it(sim: SimulatedStripe, shop: Shop) -> None:
    fact = await shop.checkout("hosted")
    for _again in range(2):
        assert (await shop.close(fact.ref)).status is ChannelStatus.CLOSED
    assert (await shop.query(fact.ref)).status is ChannelStatus.CLOSED
    tried = await shop.checkout("hosted", own_id="ATT2")
    assert tried.next_action is not None
    await sim.http.post(tried.next_action.value, data={"card": "4000000000000002"})
    assert (await shop.close(tried.ref, "ATT2")).status is ChannelStatus.CLOSED
    assert sim.moved() == []


async def test_a_hosted_page_holds_money(sim: SimulatedStripe, shop: Shop) -> None:
    fact = await shop.checkout("hosted", capture=False)
    assert fact.next_action is not None
    await sim.http.post(fact.next_action.value, data={"card": "4242424242424242"})
    assert (await shop.query(fact.ref)).status is ChannelStatus.AUTHORIZED
    assert (await shop.close(fact.ref)).status is ChannelStatus.CLOSED
    assert [kind for kind, *_ in sim.moved()] == ["authorize", "void"]


async def test_a_page_needs_an_address_to_come_back_to(sim: SimulatedStripe, shop: Shop) -> None:
    fact = await shop.checkout("hosted", return_url="")
    assert fact.status is ChannelStatus.NOT_SENT


@pytest.mark.parametrize(("token", "own_id"), [("pm_unknown", "ATT1"), ("pm_card_visa", "ATT1")])
async def test_an_invalid_request_fails_and_nothing_is_done(
    sim: SimulatedStripe, shop: Shop, token: str, own_id: str
) -> None:
    fact = await shop.charge(token, Money(1, "USD"), own_id=own_id)
    assert (fact.status, fact.reason) == (ChannelStatus.FAILED, "CHANNEL_FAILED")
    assert fact.message
    assert shop.remembered == []


async def test_check_says_what_is_wrong(sim: SimulatedStripe, shop: Shop, clock: FakeClock) -> None:
    assert await shop.channel.check(timeout_seconds=10) == ""
    async with stripe_shop(sim.url, clock, some_credentials()) as stranger:
        found = await stranger.channel.check(timeout_seconds=10)
        assert found == "Stripe does not know the secret key"
        refused = await stranger.charge()
        assert refused.status is ChannelStatus.NOT_SENT
        assert "sk_" not in refused.message
    async with stripe_shop("http://127.0.0.1:1", clock, some_credentials()) as nobody:
        assert (await nobody.channel.check(timeout_seconds=10)).startswith(
            "Stripe cannot be reached"
        )
        assert (await nobody.charge()).status is ChannelStatus.NOT_SENT

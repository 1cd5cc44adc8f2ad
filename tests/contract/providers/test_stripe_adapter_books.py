"""payment_rpc's adapter to Stripe against the simulated Stripe: refunds, events and statements."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from mesh.errors import InvalidArgument
from mesh.money import Money
from payment_rpc.channels.inbound import Ask, Inbound, Received
from payment_rpc.domain.dispute import DisputeFact, DisputeStatus
from payment_rpc.domain.errors import ChannelUnavailable, SignatureInvalid
from payment_rpc.domain.facts import ChannelFact, ChannelStatus
from payment_rpc.domain.refund_facts import RefundChannelStatus, RefundFact
from payment_rpc.domain.statement import BadLine, Line, LineType, StatementUnreadable
from tests.builders.statements import whole
from tests.support.fakes import FakeClock
from tests.support.simulated_stripe import (
    CONFIG,
    Endpoint,
    SimulatedStripe,
    simulated_stripe,
    webhook_endpoint,
)
from tests.support.stripe_adapter import BACK, USD, Shop, some_credentials, stripe_shop

# the official client hands bytes to httpx in a way that httpx no longer likes
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
PART = Money(4000, "USD")
ENDINGS = {"won": DisputeStatus.WON, "lost": DisputeStatus.LOST}


@pytest.fixture
async def sim(clock: FakeClock) -> AsyncIterator[SimulatedStripe]:
    async with simulated_stripe(clock) as it:
        yield it


@pytest.fixture
async def shop(sim: SimulatedStripe, clock: FakeClock) -> AsyncIterator[Shop]:
    credentials = some_credentials(
        secret_key=CONFIG.secret_key, webhook_secrets=["whsec_old_one", CONFIG.webhook_secret]
    )
    async with stripe_shop(sim.url, clock, credentials) as it:
        yield it


@pytest.fixture
async def endpoint(sim: SimulatedStripe) -> AsyncIterator[Endpoint]:
    async with webhook_endpoint() as it:
        sent = {"url": it.url, "secret": CONFIG.webhook_secret}
        (await sim.http.post("/_sim/webhooks", json=sent)).raise_for_status()
        yield it


async def test_parts_are_given_back_until_nothing_is_left(sim: SimulatedStripe, shop: Shop) -> None:
    paid = await shop.charge()
    first = await shop.refund(paid, PART)
    assert (first.status, first.reason) == (RefundChannelStatus.SUCCESS, "")
    assert await shop.query_refund(paid, PART, refund_no=first.channel_refund_no) == first
    assert await shop.query_refund(paid, PART) == first
    too_much = await shop.refund(paid, Money(6000, "USD"), refund_id="RF2")
    assert too_much.status is RefundChannelStatus.FAILED
    rest = await shop.refund(paid, Money(5999, "USD"), refund_id="RF3")
    assert rest.status is RefundChannelStatus.SUCCESS
    nothing = await shop.refund(paid, Money(1, "USD"), refund_id="RF4")
    assert (nothing.status, nothing.reason) == (
        RefundChannelStatus.FAILED,
        "REFUND_EXCEEDS_REFUNDABLE",
    )
    assert sim.moved()[1:] == [("refund", "RF1", "40.00"), ("refund", "RF3", "59.99")]


async def test_another_amount_or_id_is_no_answer_about_a_refund(shop: Shop) -> None:
    paid = await shop.charge()
    done = await shop.refund(paid, PART)
    no = done.channel_refund_no
    for asked in (
        shop.query_refund(paid, USD),
        shop.query_refund(paid, USD, refund_no=no),
        shop.query_refund(paid, PART, refund_id="RF2", refund_no=no),
    ):
        assert (await asked).status is RefundChannelStatus.UNKNOWN
    assert (await shop.query_refund(paid, PART, refund_id="RF2")).status is (
        RefundChannelStatus.NOT_FOUND
    )


async def test_a_refund_that_fails_after_it_left_has_come_back(
    sim: SimulatedStripe, shop: Shop
) -> None:
    slow = await shop.charge("pm_card_pendingRefund", own_id="ATT1")
    back = await shop.charge("pm_card_refundFail", own_id="ATT2")
    waiting = await shop.refund(slow, PART)
    left = await shop.refund(back, PART, refund_id="RF2")
    assert (waiting.status, left.status) == (
        RefundChannelStatus.PENDING,
        RefundChannelStatus.SUCCESS,
    )
    await sim.advance(60)
    assert (await shop.query_refund(slow, PART)).status is RefundChannelStatus.SUCCESS
    returned = await shop.query_refund(back, PART, refund_id="RF2")
    assert (returned.status, returned.reason) == (RefundChannelStatus.REVERSED, "REFUND_REVERSED")
    assert returned.message == "expired or canceled card"


async def test_every_refund_is_found_in_a_long_list(sim: SimulatedStripe, shop: Shop) -> None:
    paid = await shop.charge()
    for number in range(105):
        await sim.client.v1.refunds.create_async({"payment_intent": paid.trade_no, "amount": 1})
        if not number:
            first = await shop.refund(paid, PART)
    assert await shop.query_refund(paid, PART) == first


async def received(shop: Shop, endpoint: Endpoint, kind: str) -> list[Received]:
    """What the adapter reads in all events of a kind that came, at the time when they were sent."""
    found = list[Received]()
    for _attempt in range(200):
        for body, signature in endpoint.taken:
            inbound = Inbound(body=body, headers={"stripe-signature": signature})
            sent_at = datetime.fromtimestamp(int(signature.split(",")[0][2:]), UTC)
            news = shop.channel.receive(inbound, now=sent_at)
            assert news.event_id.startswith("evt_")
            assert shop.channel.subject_of(inbound).event_id == news.event_id
            if news.summary == kind:
                found.append(news)
        if found:
            return found
        await asyncio.sleep(0.02)
    raise AssertionError(f"no {kind} in {len(endpoint.taken)} events")


async def test_events_say_what_a_question_says(
    sim: SimulatedStripe, shop: Shop, endpoint: Endpoint
) -> None:
    opened = await shop.checkout()
    await sim.http.post("/_sim/buyer", json={"ref": opened.ref, "does": "decline"})
    await sim.buyer(opened.ref, "pay")
    [paid] = await received(shop, endpoint, "payment_intent.succeeded")
    [fact] = paid.news
    assert isinstance(fact, ChannelFact)
    known = await shop.query(opened.ref)
    assert (fact.status, fact.amount, fact.trade_no, fact.ref) == (
        known.status,
        known.amount,
        known.trade_no,
        known.ref,
    )
    await shop.refund(known, PART)
    [told] = await received(shop, endpoint, "refund.created")
    [refund] = told.news
    assert isinstance(refund, RefundFact)
    assert (refund.refund_id, refund.status) == ("RF1", RefundChannelStatus.SUCCESS)


async def test_an_event_that_leaves_us_a_step_is_a_reason_to_ask(
    sim: SimulatedStripe, shop: Shop, endpoint: Endpoint
) -> None:
    held = await shop.charge(capture=False, own_id="ATT7")
    [told] = await received(shop, endpoint, "payment_intent.amount_capturable_updated")
    [ask] = told.news
    assert isinstance(ask, Ask)
    assert (ask.subject.attempt_id, ask.subject.ref) == ("ATT7", held.ref)
    await sim.advance(8 * 86_400)
    [expired] = await received(shop, endpoint, "charge.expired")
    assert [type(news) for news in expired.news] == [Ask]
    [canceled] = await received(shop, endpoint, "payment_intent.canceled")
    [fact] = canceled.news
    assert isinstance(fact, ChannelFact)
    assert fact.status is ChannelStatus.CLOSED


async def test_events_of_a_hosted_page_name_its_attempt(
    sim: SimulatedStripe, shop: Shop, endpoint: Endpoint
) -> None:
    opened = await shop.checkout("hosted")
    assert opened.next_action is not None
    await sim.http.post(opened.next_action.value, data={"card": "4242424242424242"})
    [done] = await received(shop, endpoint, "checkout.session.completed")
    [ask] = done.news
    assert isinstance(ask, Ask)
    assert (ask.subject.attempt_id, ask.subject.ref) == ("ATT1", opened.ref)
    [paid] = await received(shop, endpoint, "payment_intent.succeeded")
    [fact] = paid.news
    assert isinstance(fact, ChannelFact)
    assert (fact.attempt_id, fact.status, fact.ref) == ("ATT1", ChannelStatus.CAPTURED, "")


@pytest.mark.parametrize("does", ENDINGS)
async def test_disputes_are_told(
    sim: SimulatedStripe, shop: Shop, endpoint: Endpoint, does: str
) -> None:
    paid = await shop.charge("pm_card_createDispute")
    [opened] = await received(shop, endpoint, "charge.dispute.created")
    [fact] = opened.news
    assert isinstance(fact, DisputeFact)
    assert (fact.ref, fact.status, fact.amount) == (paid.ref, DisputeStatus.OPENED, USD)
    assert fact.evidence_due is not None
    await sim.buyer(paid.ref, does)
    [closed] = await received(shop, endpoint, "charge.dispute.closed")
    [end] = closed.news
    assert isinstance(end, DisputeFact)
    assert (end.status, end.dispute_ref) == (ENDINGS[does], fact.dispute_ref)


async def test_payments_of_other_software_are_none_of_ours(
    sim: SimulatedStripe, shop: Shop, endpoint: Endpoint
) -> None:
    await sim.client.v1.payment_intents.create_async(
        {
            "amount": 500,
            "currency": "usd",
            "confirm": True,
            "payment_method": "pm_card_visa",
            "automatic_payment_methods": {"enabled": True, "allow_redirects": "never"},
        }
    )
    [told] = await received(shop, endpoint, "payment_intent.succeeded")
    assert told.news == ()


async def test_an_altered_or_old_event_is_refused(
    shop: Shop, endpoint: Endpoint, clock: FakeClock
) -> None:
    await shop.charge()
    await received(shop, endpoint, "payment_intent.succeeded")
    body, signature = endpoint.taken[0]
    for altered, header, now in (
        (body.replace(b"9999", b"9998"), signature, clock.now()),
        (body, "", clock.now()),
        (body, signature, clock.now() + timedelta(seconds=301)),
        (body, signature, clock.now() - timedelta(seconds=301)),
    ):
        inbound = Inbound(body=altered, headers={"stripe-signature": header})
        with pytest.raises(SignatureInvalid):
            shop.channel.receive(inbound, now=now)


async def test_a_statement_lists_what_moved(
    sim: SimulatedStripe, shop: Shop, clock: FakeClock
) -> None:
    paid = await shop.charge()
    refund = await shop.refund(paid, PART)
    held = await shop.charge(capture=False, own_id="ATT2", return_url=BACK)
    await shop.channel.capture(
        "ATT2", ref=held.ref, capture_id="CAP1", amount=PART, is_final=True, timeout_seconds=10
    )
    bounced = await shop.charge("pm_card_refundFail", own_id="ATT3")
    back = await shop.refund(bounced, PART, refund_id="RF3")
    await sim.advance(60)
    today = clock.now().date()
    content = await shop.channel.statement(today, timeout_seconds=10)
    found = whole(shop.channel.parse_statement(content, today))
    assert found.bad_totals == ()
    lines = [line for line in found.lines if isinstance(line, Line)]
    assert len(lines) == len(found.lines)
    assert {
        (line.type, line.trade_no, line.attempt_id, line.refund_id, line.amount.format())
        for line in lines
        if line.type is not LineType.FEE
    } == {
        (LineType.CAPTURE, paid.trade_no, "ATT1", "", "99.99"),
        (LineType.REFUND, refund.channel_refund_no, "ATT1", "RF1", "40.00"),
        (LineType.CAPTURE, held.trade_no, "ATT2", "", "40.00"),
        (LineType.CAPTURE, bounced.trade_no, "ATT3", "", "99.99"),
        (LineType.REFUND, back.channel_refund_no, "ATT3", "RF3", "40.00"),
        (LineType.REFUND_REVERSED, back.channel_refund_no, "ATT3", "RF3", "40.00"),
    }
    assert [line.fee for line in lines if line.attempt_id == "ATT1"] == [
        Money(0, "USD"),
        Money(320, "USD"),
    ]
    tomorrow = today + timedelta(days=1)
    empty = await shop.channel.statement(tomorrow, timeout_seconds=10)
    assert whole(shop.channel.parse_statement(empty, tomorrow)).lines == ()
    with pytest.raises(StatementUnreadable):
        whole(shop.channel.parse_statement(content[: len(content) // 2], today))


async def test_a_statement_of_many_pages_is_joined(
    sim: SimulatedStripe, shop: Shop, clock: FakeClock
) -> None:
    paid = await shop.charge()
    for number in range(105):
        # every other one by hand, in Stripe's dashboard: it has no number of ours
        own = {"metadata": {"refund_id": f"RF{number}"}} if number % 2 else {}
        await sim.client.v1.refunds.create_async(
            {"payment_intent": paid.trade_no, "amount": 1, **own}
        )
    today = clock.now().date()
    content = await shop.channel.statement(today, timeout_seconds=30)
    found = whole(shop.channel.parse_statement(content, today))
    assert len({line.trade_no for line in found.lines if isinstance(line, Line)}) == 53
    bad = [line.problem for line in found.lines if isinstance(line, BadLine)]
    assert bad == ["refund_id: a refund without a number"] * 53
    for kind in ("drop", "nonsense", "empty", "lost_answer"):
        await sim.fault(kind, "/v1/balance_transactions", times=1)
        with pytest.raises(ChannelUnavailable):
            await shop.channel.statement(today, timeout_seconds=10)


def test_an_event_that_cannot_be_read_is_refused_after_its_signature(shop: Shop) -> None:
    inbound = Inbound(body=b"[]", headers={"stripe-signature": "t=1,v1=00"})
    with pytest.raises((SignatureInvalid, InvalidArgument)):
        shop.channel.receive(inbound, now=shop.clock.now())
    assert shop.channel.subject_of(inbound).event_id == ""

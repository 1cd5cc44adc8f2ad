"""payment_rpc's adapter to Stripe against localstripe, which nobody here wrote. The official client
reads back what became of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from mesh.clock import SystemClock
from mesh.money import Money
from payment_rpc.channels.inbound import Ask, Inbound, Received
from payment_rpc.domain.facts import ChannelStatus
from payment_rpc.domain.refund_facts import RefundChannelStatus
from tests.support.processes import Processes
from tests.support.simulated_stripe import Endpoint, official_client, webhook_endpoint
from tests.support.stripe_adapter import USD, Shop, some_credentials, stripe_shop
from tools.processes import free_port

# the official client hands bytes to httpx in a way that httpx no longer likes
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
KEY = "sk_test_12345"
PART = Money(4000, "USD")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    processes = Processes(tmp_path_factory.mktemp("localstripe"))
    port = free_port()
    process = processes.module("tests.support.localstripe_peer", str(port))
    try:
        process.wait_for_port(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        processes.destroy()


@pytest.fixture
def official(url: str) -> Any:
    return official_client(url, key=KEY).v1


@pytest.fixture
async def shop(url: str) -> AsyncIterator[Shop]:
    credentials = some_credentials(secret_key=KEY, payment_method_types=["card"])
    async with stripe_shop(url, SystemClock(), credentials) as it:
        yield it


async def token(url: str, number: str = "4242424242424242") -> str:
    """A payment method, as the buyer's browser makes it."""
    card = {"number": number, "exp_month": 12, "exp_year": 2030, "cvc": "123"}
    form = {"type": "card"} | {f"card[{name}]": str(value) for name, value in card.items()}
    async with httpx.AsyncClient(base_url=url, trust_env=False, auth=(KEY, "")) as client:
        answer = await client.post("/v1/payment_methods", data=form)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


async def test_a_token_is_charged_and_given_back(url: str, shop: Shop, official: Any) -> None:
    fact = await shop.charge(await token(url))
    assert (fact.status, fact.amount, fact.fee) == (ChannelStatus.CAPTURED, USD, Money(0, "USD"))
    known = await official.payment_intents.retrieve_async(fact.ref)
    assert (known.status, known.amount, known.metadata["attempt_id"]) == (
        "succeeded",
        9999,
        "ATT1",
    )
    refund = await shop.refund(fact, PART)
    assert refund.status is RefundChannelStatus.SUCCESS
    [listed] = (await official.refunds.list_async({"payment_intent": fact.ref})).data
    assert (listed.id, listed.amount, listed.metadata["refund_id"]) == (
        refund.channel_refund_no,
        4000,
        "RF1",
    )
    assert await shop.query_refund(fact, PART) == refund
    assert await shop.query_refund(fact, PART, refund_no=refund.channel_refund_no) == refund
    unknown = await shop.query_refund(fact, PART, refund_id="RF2")
    assert unknown.status is RefundChannelStatus.NOT_FOUND
    assert (await shop.close(fact.ref)).status is ChannelStatus.CAPTURED
    assert (await shop.advance(fact.ref)).status is ChannelStatus.CAPTURED


async def test_a_charge_that_was_created_only_is_confirmed_by_our_next_step(
    url: str, shop: Shop, official: Any
) -> None:
    shop.forgets = True
    fact = await shop.charge(await token(url))
    assert fact.status is ChannelStatus.UNKNOWN
    known = await official.payment_intents.retrieve_async(fact.ref)
    assert known.status == "requires_confirmation"
    assert (await shop.query(fact.ref)).is_our_turn
    assert (await shop.advance(fact.ref)).status is ChannelStatus.CAPTURED


async def test_a_declined_card_leaves_a_cancelled_payment(
    url: str, shop: Shop, official: Any
) -> None:
    fact = await shop.charge(await token(url, "4000000000000341"))
    assert (fact.status, fact.reason) == (ChannelStatus.DECLINED, "CARD_DECLINED")
    known = await official.payment_intents.retrieve_async(shop.remembered[0])
    assert known.status == "canceled"


async def test_a_card_that_wants_a_buyer_is_declined_where_there_is_none(
    url: str, shop: Shop, official: Any
) -> None:
    fact = await shop.charge(await token(url, "4000000000003220"))
    known = await official.payment_intents.retrieve_async(shop.remembered[0])
    assert known.status == "canceled"
    assert fact.status in (ChannelStatus.DECLINED, ChannelStatus.CLOSED)


async def test_held_money_is_taken_or_let_go(url: str, shop: Shop, official: Any) -> None:
    held = await shop.charge(await token(url), capture=False)
    assert (held.status, held.capturable) == (ChannelStatus.AUTHORIZED, USD)
    assert (await shop.capture(held.ref, USD)).status is ChannelStatus.CAPTURED
    known = await official.payment_intents.retrieve_async(held.ref)
    assert known.latest_charge.captured
    other = await shop.charge(await token(url), capture=False)
    assert (await shop.close(other.ref)).status is ChannelStatus.CLOSED
    assert (await official.payment_intents.retrieve_async(other.ref)).status == "canceled"
    assert (await shop.capture(other.ref, USD)).status is not ChannelStatus.CAPTURED


async def test_a_checkout_waits_for_the_browser_until_it_is_closed(
    shop: Shop, official: Any
) -> None:
    fact = await shop.checkout()
    known = await official.payment_intents.retrieve_async(fact.ref)
    assert fact.next_action is not None
    assert (known.status, known.client_secret) == (
        "requires_payment_method",
        fact.next_action.value,
    )
    assert await shop.query(fact.ref) == fact
    for _again in range(2):
        assert (await shop.close(fact.ref)).status is ChannelStatus.CLOSED
    assert (await official.payment_intents.retrieve_async(fact.ref)).status == "canceled"


async def test_its_signed_webhooks_are_believed_and_asked_about(url: str, shop: Shop) -> None:
    async with webhook_endpoint() as endpoint:
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            config = {"url": endpoint.url, "secret": "whsec_test"}
            assert (await client.post("/_config/webhooks/a", data=config)).status_code == 200
        fact = await shop.charge(await token(url), own_id="ATT9")
        found = await received(shop, endpoint, "ATT9")
    assert found.summary == "payment_intent.succeeded"
    [ask] = found.news  # of a version of the API from 2017
    assert isinstance(ask, Ask)
    assert ask.subject.ref == fact.ref


async def received(shop: Shop, endpoint: Endpoint, own_id: str) -> Received:
    """The event about an attempt; it comes a second later."""
    for _attempt in range(400):
        for body, signature in endpoint.taken:
            inbound = Inbound(body=body, headers={"stripe-signature": signature})
            if shop.channel.subject_of(inbound).attempt_id == own_id:
                return shop.channel.receive(inbound, now=datetime.now(UTC))
        await asyncio.sleep(0.05)
    raise AssertionError("no event came")


async def test_an_account_that_works_has_nothing_wrong(shop: Shop) -> None:
    assert await shop.channel.check(timeout_seconds=10) == ""

"""The adapter to BTCPay Server on a simulated one: what only it has."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from mesh.errors import InvalidArgument
from mesh.money import Money
from payment_rpc.channels.inbound import Ask
from payment_rpc.channels.requests import CapturedAttempt, Checkout
from payment_rpc.domain.errors import ChannelUnavailable, SignatureInvalid
from payment_rpc.domain.facts import ChannelStatus
from payment_rpc.domain.refund_facts import RefundChannelStatus
from tests.builders.provider_channels import SimulatedBTCPay, simulated_channel

ATTEMPT, REFUND = "AT00000000000000000000000001", "RF00000000000000000000000001"
PENDING, CAPTURED = ChannelStatus.PENDING, ChannelStatus.CAPTURED
UNKNOWN, NOT_FOUND = ChannelStatus.UNKNOWN, ChannelStatus.NOT_FOUND
TIMEOUT = 10.0
MINUTES = 31 * 60  # the invoices of these tests live for half an hour


@pytest.fixture
async def world() -> AsyncIterator[SimulatedBTCPay]:
    async with simulated_channel("btcpay") as simulated:
        assert isinstance(simulated, SimulatedBTCPay)
        yield simulated


@pytest.mark.parametrize(
    ("minor", "status", "amount", "surplus"),
    [
        (10011, CAPTURED, 5005, 0),  # half of it, rounded down
        (10012, CAPTURED, 10012, 1001),
        (10013, PENDING, 10013, 0),
        (10014, CAPTURED, 10014, 0),
        (10015, CAPTURED, 5007, 0),
        (10016, CAPTURED, 10016, 1001),
        (10017, PENDING, 10017, 0),
        (10018, PENDING, 10018, 0),
        (10021, UNKNOWN, None, 0),
        (10022, UNKNOWN, None, 0),
        (10023, UNKNOWN, None, 0),
        (10024, CAPTURED, 10024, 0),
    ],
)
async def test_each_way_to_pay_an_invoice(world, minor, status, amount, surplus):
    await world.open_attempt(ATTEMPT, minor)
    await world.buyer(ATTEMPT, "pay")
    for _ in range(2):
        await world.advance(MINUTES)
        await world.advance(120)
    fact = await world.query(ATTEMPT)
    assert fact.status is status
    assert fact.amount == (None if amount is None else Money(amount, "USD"))
    assert fact.surplus == (Money(surplus, "USD") if surplus else None)
    assert fact.ref == world.refs[ATTEMPT]


async def test_a_part_waits_for_the_rest_until_the_expiry(world):
    await world.open_attempt(ATTEMPT, 10000)
    await world.buyer(ATTEMPT, "pay_partial")
    await world.advance(120)
    assert (await world.query(ATTEMPT)).status is PENDING
    await world.advance(MINUTES)
    fact = await world.query(ATTEMPT)
    assert (fact.status, fact.amount) == (CAPTURED, Money(5000, "USD"))


async def test_unconfirmed_coins_are_no_money(world):
    await world.open_attempt(ATTEMPT, 10000)
    await world.buyer(ATTEMPT, "pay_unconfirmed")
    await world.advance(600)
    assert (await world.query(ATTEMPT)).status is PENDING
    await world.buyer(ATTEMPT, "confirm")
    await world.advance(120)
    assert (await world.query(ATTEMPT)).status is CAPTURED


async def test_nothing_closes_an_invoice(world):
    await world.open_attempt(ATTEMPT, 10000)
    assert (await world.close(ATTEMPT)).status is ChannelStatus.NOT_CLOSABLE
    await world.buyer(ATTEMPT, "expire")
    closed = await world.close(ATTEMPT)
    assert closed.status is ChannelStatus.NOT_CLOSABLE
    await world.buyer(ATTEMPT, "pay_late")
    await world.advance(120)
    assert (await world.close(ATTEMPT)).status is CAPTURED
    assert await world.money() == [("capture", ATTEMPT, 10000)]


async def test_a_repeated_checkout_gives_the_invoice_that_is_there(world):
    first = await world.checkout(ATTEMPT, 10000)
    await world.fault("checkout", "lost_answer")
    again = await world.checkout(ATTEMPT, 10000)
    assert (again.status, again.ref, again.next_action) == (PENDING, first.ref, first.next_action)
    other = await world.checkout(ATTEMPT, 10100)
    assert other.status is UNKNOWN
    await world.buyer(ATTEMPT, "pay")
    await world.advance(120)
    assert (await world.checkout(ATTEMPT, 10000)).status is UNKNOWN


async def test_a_lost_answer_leaves_one_invoice(world):
    await world.fault("checkout", "lost_answer")
    assert (await world.checkout(ATTEMPT, 10000)).status is UNKNOWN
    assert (await world.checkout(ATTEMPT, 10000)).status is PENDING
    assert len(await world.invoices(ATTEMPT)) == 1


async def test_checkouts_at_once_make_one_invoice(world):
    facts = await asyncio.gather(*(world.checkout(ATTEMPT, 10000) for _ in range(4)))
    assert len({fact.ref for fact in facts}) == 1
    assert len(await world.invoices(ATTEMPT)) == 1


async def test_all_invoices_of_an_attempt_count(world):
    await world.checkout(ATTEMPT, 10000)
    second = await world.another_invoice(ATTEMPT, "100.00")
    third = await world.another_invoice(ATTEMPT, "100.00")
    await world.deed(second, "pay_full")
    await world.deed(third, "pay_over")
    await world.advance(120)
    fact = await world.query(ATTEMPT)
    assert (fact.status, fact.amount, fact.surplus) == (
        CAPTURED,
        Money(10000, "USD"),
        Money(11000, "USD"),
    )
    assert fact.trade_no in (second, third)
    assert fact.ref == world.refs[ATTEMPT]


async def test_an_archived_invoice_is_found_by_its_id(world):
    await world.checkout(ATTEMPT, 10000)
    await world.deed(world.refs[ATTEMPT], "pay_full")
    await world.advance(120)
    await world.archive(world.refs[ATTEMPT])
    assert (await world.query(ATTEMPT)).status is CAPTURED


async def test_an_invoice_that_was_not_remembered_is_told(world):
    async def remember(ref: str) -> None:
        raise RuntimeError("no database")

    fact = await world.channel.checkout(
        attempt_id=ATTEMPT,
        amount=Money(10000, "USD"),
        order=Checkout(subject="tea", return_url=""),
        expires_at=world.clock.now() + timedelta(minutes=15),
        remember=remember,
        timeout_seconds=TIMEOUT,
    )
    assert fact.status is UNKNOWN
    assert fact.ref


@pytest.mark.parametrize(("method", "kind"), [("", "REDIRECT_URL"), ("qr", "QR_CODE")])
async def test_a_page_or_a_code(world, method, kind):
    fact = await world.checkout(ATTEMPT, 10000, method=method)
    assert fact.next_action.kind == kind
    # a question tells the page again: who opened it may have died before he told his buyer
    asked = await world.query(ATTEMPT)
    assert (asked.status, asked.next_action.kind) == (PENDING, "REDIRECT_URL")
    if not method:
        assert asked.next_action == fact.next_action


async def test_a_way_that_does_not_exist_is_not_sent(world):
    assert (await world.checkout(ATTEMPT, 1, method="fax")).status is ChannelStatus.NOT_SENT


async def test_a_node_that_is_behind_makes_no_invoice(world):
    fact = await world.checkout(ATTEMPT, 10031)
    assert (fact.status, fact.reason) == (ChannelStatus.FAILED, "CHANNEL_FAILED")
    assert await world.invoices(ATTEMPT) == []


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
async def test_a_refused_invoice_was_not_made(world, status):
    await world.fault("checkout", "status", status=status)
    assert (await world.checkout(ATTEMPT, 10000)).status is ChannelStatus.NOT_SENT


@pytest.mark.parametrize(
    ("minor", "status"),
    [(1000, "SUCCESS"), (1041, "PENDING"), (1042, "PENDING"), (1043, "PENDING")],
)
async def test_each_way_of_a_payout(world, minor, status):
    await world.buy(ATTEMPT, 10000)
    given = await world.refund(REFUND, ATTEMPT, minor, 10000)
    assert (given.status, given.channel_refund_no != "") == (RefundChannelStatus.PENDING, True)
    await world.advance(300)
    for refund_no in ("", given.channel_refund_no):
        asked = await world.channel.query_refund(
            REFUND,
            of=CapturedAttempt(attempt_id=ATTEMPT, amount=Money(10000, "USD")),
            amount=Money(minor, "USD"),
            refund_no=refund_no,
            timeout_seconds=TIMEOUT,
        )
        assert asked.status == status


async def test_a_claim_that_nobody_makes_waits(world):
    await world.buy(ATTEMPT, 10000)
    world.claims = False
    await world.refund(REFUND, ATTEMPT, 1000, 10000)
    await world.advance(10 * 86_400)
    assert (await world.query_refund(REFUND, ATTEMPT, 1000, 10000)).status == "PENDING"
    assert await world.money() == [("capture", ATTEMPT, 10000)]


async def test_a_claim_is_made_once(world):
    await world.buy(ATTEMPT, 10000)
    world.claims = False
    await world.fault("refund", "lost_answer")
    assert (await world.refund(REFUND, ATTEMPT, 1000, 10000)).status == "UNKNOWN"
    first = await world.refund(REFUND, ATTEMPT, 1000, 10000)
    again = await world.refund(REFUND, ATTEMPT, 1000, 10000)
    assert first.channel_refund_no == again.channel_refund_no
    other = await world.refund(REFUND, ATTEMPT, 1100, 10000)
    assert other.status is RefundChannelStatus.UNKNOWN
    asked = await world.channel.query_refund(
        REFUND,
        of=world.captured(ATTEMPT, 10000),
        amount=Money(1000, "USD"),
        refund_no="ANOTHER",
        timeout_seconds=TIMEOUT,
    )
    assert asked.status is RefundChannelStatus.UNKNOWN


async def test_every_notice_of_an_invoice_says_ask(world):
    await world.buy(ATTEMPT, 10000)
    notices = world.notices()
    assert len(notices) >= 4
    for inbound in notices:
        received = world.channel.receive(inbound, now=world.clock.now())
        (news,) = received.news
        assert isinstance(news, Ask)
        assert (news.subject.attempt_id, news.subject.ref) == (ATTEMPT, world.refs[ATTEMPT])
        assert received.event_id


async def test_the_notice_of_another_store_is_refused(world):
    await world.buy(ATTEMPT, 10000)
    other = world.open(world.running.url, store_id="STORE2")
    with pytest.raises(SignatureInvalid):
        other.receive(world.notices()[0], now=world.clock.now())


async def test_both_secrets_count_while_one_is_replaced(world):
    await world.buy(ATTEMPT, 10000)
    secret = world.running.simulation.config.webhook_secret
    both = world.open(world.running.url, webhook_secrets=["a-new-secret", secret])
    assert both.receive(world.notices()[0], now=world.clock.now()).news
    new = world.open(world.running.url, webhook_secrets=["a-new-secret"])
    with pytest.raises(SignatureInvalid):
        new.receive(world.notices()[0], now=world.clock.now())


@pytest.mark.parametrize(
    ("changed", "said"),
    [({"api_key": "another-key"}, "api_key"), ({"store_id": "STORE9"}, "")],
)
async def test_wrong_credentials_are_named(world, changed, said):
    wrong = world.open(world.running.url, **changed)
    problem = await wrong.check(timeout_seconds=5)
    assert problem
    assert said in problem


async def test_a_server_without_an_address_is_refused(world):
    with pytest.raises(InvalidArgument, match="server_url"):
        world.open("")


async def test_there_is_no_statement(world):
    with pytest.raises(ChannelUnavailable):
        await world.channel.statement(world.clock.now().date(), timeout_seconds=1)

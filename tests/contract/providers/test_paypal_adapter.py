"""The adapter to PayPal on simulated PayPal: what only PayPal has."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, timedelta
from typing import Any

import pytest

from mesh.money import Money
from payment_rpc.channels.inbound import Ask
from payment_rpc.channels.requests import CapturedAttempt, Checkout
from payment_rpc.domain.errors import ChannelUnavailable, SignatureInvalid
from payment_rpc.domain.facts import ChannelStatus
from payment_rpc.domain.refund_facts import RefundChannelStatus
from payment_rpc.domain.statement import LineType
from tests.builders.provider_channels import SimulatedPayPal, simulated_channel
from tests.builders.statements import whole

ATTEMPT, REFUND = "AT00000000000000000000000001", "RF00000000000000000000000001"
PENDING, CAPTURED = ChannelStatus.PENDING, ChannelStatus.CAPTURED
UNKNOWN, NOT_FOUND = ChannelStatus.UNKNOWN, ChannelStatus.NOT_FOUND
AUTHORIZED, CLOSED = ChannelStatus.AUTHORIZED, ChannelStatus.CLOSED
TIMEOUT = 10.0


@pytest.fixture
async def world() -> AsyncIterator[SimulatedPayPal]:
    async with simulated_channel("paypal") as simulated:
        assert isinstance(simulated, SimulatedPayPal)
        yield simulated


async def approve(world, minor, *, attempt_id=ATTEMPT, capture=True, currency="USD"):
    async def remember(ref: str) -> None:
        world.refs[attempt_id] = ref

    fact = await world.channel.checkout(
        attempt_id=attempt_id,
        amount=Money(minor, currency),
        order=Checkout(subject="tea", return_url="https://shop.example/back", locale="en-US"),
        expires_at=world.clock.now() + timedelta(hours=1),
        remember=remember,
        timeout_seconds=TIMEOUT,
        capture=capture,
    )
    assert fact.status is PENDING, fact
    await world.buyer(attempt_id, "approve")


async def test_the_capture_is_our_step_and_no_question_takes_it(world):
    await approve(world, 9990)
    ref = world.refs[ATTEMPT]
    for _ in range(2):
        fact = await world.channel.query(ATTEMPT, ref=ref, timeout_seconds=TIMEOUT)
        assert (fact.status, fact.is_our_turn, fact.ref) == (PENDING, True, ref)
    closed = await world.close(ATTEMPT)  # the core's promise, not PayPal's
    assert closed.status is ChannelStatus.NOT_CLOSABLE
    assert await world.money() == []
    paid = await world.step(ATTEMPT)
    assert (paid.status, paid.amount, paid.fee) == (CAPTURED, Money(9990, "USD"), Money(320, "USD"))
    assert (await world.close(ATTEMPT)).status is CAPTURED


async def test_a_step_before_the_buyer_approved_takes_nothing(world):
    await world.checkout(ATTEMPT, 9990)
    assert (await world.step(ATTEMPT)).status is PENDING
    assert await world.money() == []


@pytest.mark.parametrize("ref", ["", "UNKNOWN0ORDER"])
async def test_an_order_that_nobody_knows_is_not_found(world, ref):
    for ask in (world.channel.query, world.channel.advance):
        assert (await ask(ATTEMPT, ref=ref, timeout_seconds=TIMEOUT)).status is NOT_FOUND


async def test_an_order_that_was_not_remembered_is_never_captured(world):
    async def remember(ref: str) -> None:
        raise RuntimeError("no database")

    fact = await world.channel.checkout(
        attempt_id=ATTEMPT,
        amount=Money(9990, "USD"),
        order=Checkout(subject="tea", return_url=""),
        expires_at=world.clock.now() + timedelta(hours=1),
        remember=remember,
        timeout_seconds=TIMEOUT,
    )
    assert fact.status is UNKNOWN
    assert fact.ref
    again = await world.checkout(ATTEMPT, 9990)
    assert (again.status, again.ref) == (PENDING, fact.ref)


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("lost_answer", {}),
        ("empty", {}),
        ("nonsense", {}),
        ("status_after", {"status": 500}),
        ("cut_at", {"bytes": 300}),
        ("drop", {}),
        ("status", {"status": 503}),
        ("status", {"status": 429}),
        ("wrong_word", {"field": "purchase_units.0.payments.captures.0.status"}),
    ],
)
async def test_a_step_without_an_answer_is_unknown_and_takes_money_once(world, kind, more):
    await approve(world, 9990)
    await world.fault("advance", kind, **more)
    assert (await world.step(ATTEMPT)).status is UNKNOWN
    assert (await world.query(ATTEMPT)).status is CAPTURED
    assert (await world.step(ATTEMPT)).status is CAPTURED
    assert await world.money() == [("capture", ATTEMPT, 9990)]


async def test_steps_at_once_take_money_once(world):
    await approve(world, 9990)
    facts = await asyncio.gather(*(world.step(ATTEMPT) for _ in range(4)))
    assert {fact.status for fact in facts} <= {CAPTURED, UNKNOWN}
    assert (await world.query(ATTEMPT)).status is CAPTURED
    assert await world.money() == [("capture", ATTEMPT, 9990)]


async def test_a_step_that_is_under_way_is_unknown(world):
    await approve(world, 10046)
    first = await world.channel.advance(ATTEMPT, ref=world.refs[ATTEMPT], timeout_seconds=0.3)
    assert first.status is UNKNOWN
    assert (await world.step(ATTEMPT)).status in (UNKNOWN, CAPTURED)
    async with asyncio.timeout(60):
        # nothing tells that PayPal is done
        while (await world.query(ATTEMPT)).status is not CAPTURED:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
    assert await world.money() == [("capture", ATTEMPT, 10046)]


@pytest.mark.parametrize(
    ("minor", "status", "later"),
    [
        (10011, "PENDING", "CAPTURED"),
        (10012, "PENDING", "DECLINED"),
        (10013, "PENDING", "PENDING"),
        (10023, "PENDING", "PENDING"),
        (10031, "DECLINED", "DECLINED"),
        (10032, "FAILED", "FAILED"),
    ],
)
async def test_each_kind_of_capture(world, minor, status, later):
    await approve(world, minor)
    assert (await world.step(ATTEMPT)).status == status
    await world.advance(61)
    assert (await world.query(ATTEMPT)).status == later


@pytest.mark.parametrize(
    ("minor", "status"),
    [
        *((minor, "DECLINED") for minor in (10033, 10034, 10035, 10036, 10037, 10038)),
        *((minor, "FAILED") for minor in (10039, 10041)),
        *((minor, "DECLINED") for minor in (10042, 10043)),
        (10044, "CLOSED"),
    ],
)
async def test_each_refusal_of_a_capture(world, minor, status):
    await approve(world, minor)
    fact = await world.step(ATTEMPT)
    assert (fact.status, fact.amount) == (status, Money(minor, "USD"))
    assert await world.money() == []


@pytest.mark.parametrize(("currency", "minor"), [("JPY", 1250), ("HUF", 125000), ("TWD", 125000)])
async def test_currencies_without_decimals(world, currency, minor):
    await approve(world, minor, currency=currency)
    assert (await world.step(ATTEMPT)).amount == Money(minor, currency)
    given = await world.channel.refund(
        refund_id=REFUND,
        of=world.captured(ATTEMPT, minor),
        amount=Money(1000, currency),
        reason="",
        timeout_seconds=TIMEOUT,
    )
    assert given.status is RefundChannelStatus.SUCCESS


async def test_held_money_is_taken_in_parts_and_the_rest_let_go(world):
    await approve(world, 10000, capture=False)
    held = await world.step(ATTEMPT)
    assert (held.status, held.capturable) == (AUTHORIZED, Money(10000, "USD"))
    assert held.held_until is not None
    ref = world.refs[ATTEMPT]

    async def take(capture_id, minor, *, is_final):
        return await world.channel.capture(
            ATTEMPT,
            ref=ref,
            capture_id=capture_id,
            amount=Money(minor, "USD"),
            is_final=is_final,
            timeout_seconds=TIMEOUT,
        )

    for _ in range(2):  # under one key it is one capture
        assert (await take("CP1", 4000, is_final=False)).amount == Money(4000, "USD")
    assert (await take("CP9", 999_999, is_final=False)).status is UNKNOWN
    done = await take("CP2", 1000, is_final=True)
    assert (done.status, done.amount, done.capturable) == (CAPTURED, Money(5000, "USD"), None)
    voided = await world.channel.void(ATTEMPT, ref=ref, timeout_seconds=TIMEOUT)
    assert voided.status is CAPTURED
    taken = [amount for kind, _, amount in await world.money() if kind == "capture"]
    assert taken == [4000, 1000]


@pytest.mark.parametrize(
    ("minor", "refused"), [(1031, True), (1032, True), (1035, True), (1000, False)]
)
async def test_held_money_that_was_not_taken_is_told_by_the_capture_alone(
    world, monkeypatch, minor, refused
):
    await approve(world, 10000, capture=False)
    held = await world.step(ATTEMPT)
    if not refused:  # its order is read before it shows the capture

        async def lagging(*_args, **_options):
            return held

        monkeypatch.setattr(world.channel._payments, "query", lagging)
    fact = await world.channel.capture(
        ATTEMPT,
        ref=world.refs[ATTEMPT],
        capture_id="CP1",
        amount=Money(minor, "USD"),
        is_final=True,
        timeout_seconds=TIMEOUT,
    )
    assert fact.status is (AUTHORIZED if refused else UNKNOWN)
    assert ("capture" in [kind for kind, *_ in await world.money()]) is not refused


async def test_held_money_is_let_go(world):
    await approve(world, 10000, capture=False)
    await world.step(ATTEMPT)
    for _ in range(2):
        fact = await world.channel.void(ATTEMPT, ref=world.refs[ATTEMPT], timeout_seconds=TIMEOUT)
        assert (fact.status, fact.amount) == (CLOSED, Money(10000, "USD"))


@pytest.mark.parametrize(("minor", "status"), [(10047, PENDING), (10048, ChannelStatus.DECLINED)])
async def test_each_kind_of_authorization(world, minor, status):
    await approve(world, minor, capture=False)
    assert (await world.step(ATTEMPT)).status is status


async def test_nothing_is_taken_or_let_go_where_nothing_is_held(world):
    await world.checkout(ATTEMPT, 10000)
    for ref in ("", world.refs[ATTEMPT]):
        fact = await world.channel.void(ATTEMPT, ref=ref, timeout_seconds=TIMEOUT)
        assert fact.status is UNKNOWN


@pytest.mark.parametrize(
    ("minor", "first", "later"),
    [
        (1061, "PENDING", "SUCCESS"),
        (1062, "PENDING", "FAILED"),
        (1063, "PENDING", "FAILED"),
        *((minor, "FAILED", "NOT_FOUND") for minor in (1065, 1066, 1067, 1068, 1069, 1071)),
    ],
)
async def test_each_kind_of_refund(world, minor, first, later):
    await world.buy(ATTEMPT, 20_000)
    given = await world.refund(REFUND, ATTEMPT, minor, 20_000)
    assert given.status == first
    await world.advance(61)
    assert (await world.query_refund(REFUND, ATTEMPT, minor, 20_000)).status == later
    if given.channel_refund_no:
        asked = await world.channel.query_refund(
            REFUND,
            of=CapturedAttempt(attempt_id=ATTEMPT, amount=Money(20_000, "USD")),
            amount=Money(minor, "USD"),
            refund_no=given.channel_refund_no,
            timeout_seconds=TIMEOUT,
        )
        assert asked.status == later


async def test_a_refund_that_was_done_is_never_called_refused(world):
    paid = await world.buy(ATTEMPT, 1000)
    of = CapturedAttempt(
        attempt_id=ATTEMPT,
        amount=Money(1000, "USD"),
        ref=world.refs[ATTEMPT],
        trade_no=paid.trade_no,
    )

    async def give(refund_id):
        return await world.channel.refund(
            refund_id=refund_id,
            of=of,
            amount=Money(1000, "USD"),
            reason="",
            timeout_seconds=TIMEOUT,
        )

    assert (await give(REFUND)).status is RefundChannelStatus.SUCCESS
    await world.advance(46 * 86_400)  # PayPal has forgotten the key
    assert (await give(REFUND)).status is RefundChannelStatus.SUCCESS
    assert (await give(f"{REFUND}X")).status is RefundChannelStatus.FAILED
    assert await world.money() == [("capture", ATTEMPT, 1000), ("refund", REFUND, 1000)]


async def test_what_notices_say(world):
    await world.buy(ATTEMPT, 10082)  # disputed, and the buyer wins
    world.told_by = ""
    now = world.clock.now()
    news = [one for each in world.notices() for one in world.channel.receive(each, now=now).news]
    assert [type(one).__name__ for one in news] == ["Ask", "ChannelFact", "Ask"]
    assert isinstance(news[0], Ask)
    assert (news[0].subject.attempt_id, news[0].subject.ref) == (ATTEMPT, world.refs[ATTEMPT])
    for _ in range(2):
        await world.advance(65)
    later = world.notices()
    disputes = [
        one
        for each in later
        for one in world.channel.receive(each, now=now + timedelta(seconds=131)).news
        if type(one).__name__ == "DisputeFact"
    ]
    assert [(one.attempt_id, str(one.status)) for one in disputes][-1] == (ATTEMPT, "LOST")
    assert str(disputes[0].status) == "OPENED"


async def test_a_notice_for_another_webhook_is_refused(world):
    await world.buy(ATTEMPT, 9990)
    other = world.open(world.running.url, webhook_id="WHK0000000000009")
    both = world.open(
        world.running.url,
        webhook_id="WHK0000000000009",
        other_webhook_ids=["WHK0000000000001"],
    )
    url = world.running.simulation.config.certificate_url
    for channel in (other, both):
        await channel.learn_key(url, timeout_seconds=TIMEOUT)
    with pytest.raises(SignatureInvalid):
        other.receive(world.notices()[0], now=world.clock.now())
    assert both.receive(world.notices()[0], now=world.clock.now()).news


async def test_a_certificate_that_does_not_come_is_no_verdict(world):
    url = world.running.simulation.config.certificate_url
    with pytest.raises(ChannelUnavailable):
        await world.channel.learn_key(f"{url}X", timeout_seconds=TIMEOUT)
    with pytest.raises(SignatureInvalid):
        await world.channel.learn_key("https://evil.example/x", timeout_seconds=TIMEOUT)


async def test_a_token_that_paypal_takes_no_more_is_renewed_once(world):
    await world.fault("checkout", "status", status=401)
    assert (await world.checkout(ATTEMPT, 9990)).status is PENDING
    await world.fault("checkout", "status", status=401, times=2)
    other = f"{ATTEMPT}X"
    assert (await world.checkout(other, 9990)).status is ChannelStatus.NOT_SENT
    # the provider's day is over sooner than ours
    await world.advance(10 * 3600)
    assert (await world.checkout(f"{ATTEMPT}Y", 9990)).status is PENDING


async def test_one_token_is_fetched_by_many_callers(world):
    fresh = world.open(world.running.url)
    fault = {"method": "POST", "path": "/v1/oauth2/token", "kind": "status", "status": 429}
    await world.client.post("/_sim/faults", json={**fault, "times": 1})
    await asyncio.gather(
        *(fresh.query(ATTEMPT, ref="UNKNOWN0ORDER", timeout_seconds=TIMEOUT) for _ in range(8))
    )
    again = await fresh.query(ATTEMPT, ref="UNKNOWN0ORDER", timeout_seconds=TIMEOUT)
    assert again.status is NOT_FOUND
    await fresh.aclose()


async def test_wrong_credentials_are_named(world):
    wrong = world.open(world.running.url, client_secret="wrong-secret")
    assert "client_secret" in await wrong.check(timeout_seconds=5)
    assert (await world.checkout(ATTEMPT, 9990, channel=wrong)).status is ChannelStatus.NOT_SENT
    await wrong.aclose()


async def test_a_day_is_read_from_transaction_search(world):
    paid = await world.buy(ATTEMPT, 9990)
    given = await world.refund(REFUND, ATTEMPT, 1000, 9990)
    day = world.running.simulation.clock.now().astimezone(UTC).date()
    await world.advance(2 * 86_400)
    content = await world.channel.statement(day, timeout_seconds=TIMEOUT)
    lines: Any = whole(world.channel.parse_statement(content, day)).lines
    taken, back = lines
    assert (taken.type, taken.attempt_id, taken.trade_no, taken.fee) == (
        LineType.CAPTURE,
        ATTEMPT,
        paid.trade_no,
        paid.fee,
    )
    assert (back.type, back.refund_id, back.trade_no, back.amount) == (
        LineType.REFUND,
        REFUND,
        given.channel_refund_no,
        Money(1000, "USD"),
    )
    empty = await world.channel.statement(day - timedelta(days=3), timeout_seconds=TIMEOUT)
    assert whole(world.channel.parse_statement(empty, day)).lines == ()


async def test_a_day_that_lasts_is_listed_as_far_as_it_goes(world):
    paid = await world.buy(ATTEMPT, 9990)
    now = world.running.simulation.clock.now()
    with pytest.raises(ChannelUnavailable, match="not complete"):
        await world.channel.statement(now.date(), timeout_seconds=TIMEOUT)
    content = await world.channel.statement(now.date(), until=now, timeout_seconds=TIMEOUT)
    (line,) = whole(world.channel.parse_statement(content, now.date())).lines
    assert getattr(line, "trade_no", "") == paid.trade_no


@pytest.mark.parametrize("kind", ["lost_answer", "nonsense", "empty"])
async def test_pages_that_do_not_come_are_no_statement(world, kind):
    day = world.running.simulation.clock.now().astimezone(UTC).date()
    await world.client.post("/_sim/faults", json={"kind": kind, "path": "/v1/reporting"})
    with pytest.raises(ChannelUnavailable):
        await world.channel.statement(day, timeout_seconds=TIMEOUT)

"""The adapter to Alipay on simulated Alipay: what only Alipay has."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest

from mesh.money import Money
from payment_rpc.channels.china import china_text
from payment_rpc.channels.requests import Checkout
from payment_rpc.domain.errors import ChannelUnavailable, SignatureInvalid
from payment_rpc.domain.facts import ChannelStatus
from payment_rpc.domain.refund_facts import RefundChannelStatus
from payment_rpc.domain.statement import Line, LineType
from sandbox.providers.china import china_day
from tests.builders.provider_channels import SimulatedChannel, simulated_channel
from tests.builders.statements import whole
from tests.support.provider_keys import MERCHANT, PROVIDER, private_pem, public_pem

ATTEMPT, REFUND = "AT00000000000000000000000001", "RF00000000000000000000000001"
PENDING, CAPTURED = ChannelStatus.PENDING, ChannelStatus.CAPTURED
UNKNOWN, NOT_FOUND = ChannelStatus.UNKNOWN, ChannelStatus.NOT_FOUND


@pytest.fixture
async def world() -> AsyncIterator[SimulatedChannel]:
    async with simulated_channel("alipay") as simulated:
        yield simulated


@pytest.mark.parametrize("method", ["", "page", "wap"])
async def test_a_page_is_signed_here_and_known_there_once_the_buyer_opens_it(world, method):
    opened = await world.checkout(ATTEMPT, 9990, method=method)
    assert (opened.status, opened.next_action.kind) == (PENDING, "REDIRECT_URL")
    fields = parse_qs(urlsplit(opened.next_action.value).query)
    assert fields["return_url"] == ["https://shop.example/back"]
    assert fields["notify_url"] == ["https://shop.example/alipay"]
    content = msgspec.json.decode(fields["biz_content"][0])
    assert content["subject"] == "tea 100% 茶 {"
    assert content["total_amount"] == "99.90"
    wanted = world.clock.now() + timedelta(minutes=30)
    assert content["time_expire"] in {
        china_text(wanted - timedelta(seconds=passed)) for passed in range(60)
    }
    assert (await world.query(ATTEMPT)).status is NOT_FOUND
    # it stays payable, so nobody may say that it is closed
    assert (await world.close(ATTEMPT)).status is ChannelStatus.NOT_CLOSABLE
    await world.meet_buyer(opened)
    assert (await world.query(ATTEMPT)).status is PENDING
    await world.buyer(ATTEMPT, "pay")
    assert (await world.query(ATTEMPT)).status is CAPTURED


async def test_a_page_after_its_deadline_takes_no_money(world):
    opened = await world.open_attempt(ATTEMPT, 9990, method="page")
    await world.advance(1900)
    answer = await world.client.post("/_sim/buyer", json={"own_id": ATTEMPT, "does": "pay"})
    assert answer.status_code == 409
    assert opened.status is PENDING
    assert (await world.query(ATTEMPT)).status is ChannelStatus.CLOSED
    assert await world.money() == []


async def test_a_way_that_does_not_exist_is_not_sent(world):
    assert (await world.checkout(ATTEMPT, 1, method="fax")).status is ChannelStatus.NOT_SENT


async def test_a_subject_has_none_of_the_signs_that_alipay_refuses(world):
    async def remember(ref: str) -> None:
        raise AssertionError("there is nothing to remember")

    for method in ("qr", "page"):
        fact = await world.channel.checkout(
            attempt_id=f"{ATTEMPT}{method}",
            amount=Money(1, "CNY"),
            order=Checkout(subject="a/b=c&d" + "茶" * 300, return_url="", method=method),
            expires_at=world.clock.now() + timedelta(minutes=30),
            remember=remember,
            timeout_seconds=5,
        )
        assert fact.status is PENDING
        await world.meet_buyer(fact)


@pytest.mark.parametrize(
    ("minor", "after_payment", "later"),
    [
        (10_07701, UNKNOWN, UNKNOWN),  # paid later, without money yet
        (10_07702, CAPTURED, CAPTURED),  # TRADE_FINISHED at once
        (10_07703, UNKNOWN, UNKNOWN),  # a word that nobody knows
        (10_07706, UNKNOWN, CAPTURED),  # 20000
        (10_07707, UNKNOWN, CAPTURED),  # ACQ.SYSTEM_ERROR
        (10_07708, UNKNOWN, UNKNOWN),  # not signed
    ],
)
async def test_each_row_of_the_table_of_queries(world, minor, after_payment, later):
    await world.open_attempt(ATTEMPT, minor)
    await world.buyer(ATTEMPT, "pay")
    assert (await world.query(ATTEMPT)).status is after_payment
    assert (await world.query(ATTEMPT)).status is later


async def test_while_the_buyer_is_paying_the_attempt_waits(world):
    await world.open_attempt(ATTEMPT, 10_07705)
    assert (await world.query(ATTEMPT)).status is PENDING


async def test_a_precreate_that_failed_inside_alipay_is_unknown(world):
    assert (await world.checkout(ATTEMPT, 10_07711)).status is UNKNOWN
    assert (await world.checkout(ATTEMPT, 10_07711)).status is PENDING


async def test_a_second_code_of_one_attempt_is_unknown_not_refused(world):
    await world.open_attempt(ATTEMPT, 9990)
    again = await world.checkout(ATTEMPT, 9990)
    assert again.status in (UNKNOWN, PENDING)
    other = await world.checkout(ATTEMPT, 9991)
    assert other.status is UNKNOWN
    await world.buyer(ATTEMPT, "pay")
    assert (await world.checkout(ATTEMPT, 9990)).status is UNKNOWN
    assert await world.money() == [("capture", ATTEMPT, 9990)]


async def test_a_close_that_alipay_answers_with_an_error_is_asked_about(world):
    await world.open_attempt(ATTEMPT, 10_07709)
    assert (await world.close(ATTEMPT)).status is ChannelStatus.CLOSED


async def test_money_that_comes_after_the_close_is_seen(world):
    await world.open_attempt(ATTEMPT, 10_07704)
    await world.buyer(ATTEMPT, "pay")
    closed = await world.close(ATTEMPT)
    await world.advance(61)
    assert closed.status in (ChannelStatus.CLOSED, PENDING, CAPTURED)
    late = await world.query(ATTEMPT)
    assert late.status in (CAPTURED, ChannelStatus.CLOSED)


@pytest.mark.parametrize(
    ("minor", "first", "asked"),
    [
        (7741, "UNKNOWN", "NOT_FOUND"),  # fund_change=N
        (7743, "FAILED", "NOT_FOUND"),  # our balance is too low
        (7744, "FAILED", "NOT_FOUND"),
        (7745, "UNKNOWN", "SUCCESS"),  # system error, and the money moved
        (7746, "UNKNOWN", "NOT_FOUND"),
        (7747, "UNKNOWN", "SUCCESS"),
        (7748, "UNKNOWN", "NOT_FOUND"),
    ],
)
async def test_each_row_of_the_table_of_refunds(world, minor, first, asked):
    await world.buy(ATTEMPT, 20_000)
    assert (await world.refund(REFUND, ATTEMPT, minor, 20_000)).status == first
    assert (await world.query_refund(REFUND, ATTEMPT, minor, 20_000)).status == asked
    if first == "UNKNOWN":
        await world.advance(70)
        await world.refund(REFUND, ATTEMPT, minor, 20_000)
        found = await world.query_refund(REFUND, ATTEMPT, minor, 20_000)
        assert found.status is RefundChannelStatus.SUCCESS
        moved = await world.money()
        assert moved == [("capture", ATTEMPT, 20_000), ("refund", REFUND, minor)]


async def test_a_refund_that_was_done_is_never_called_refused(world):
    await world.buy(ATTEMPT, 1000)
    await world.fault("refund", "lost_answer")
    assert (await world.refund(REFUND, ATTEMPT, 1000, 1000)).status == "UNKNOWN"
    assert (await world.refund(REFUND, ATTEMPT, 1000, 1000)).status in ("UNKNOWN", "SUCCESS")
    assert (await world.query_refund(REFUND, ATTEMPT, 1000, 1000)).status == "SUCCESS"
    # all of it is back: the trade is closed, and it was paid
    assert (await world.query(ATTEMPT)).status is CAPTURED


async def test_another_amount_under_the_number_of_a_refund_is_no_fact(world):
    await world.buy(ATTEMPT, 1000)
    assert (await world.refund(REFUND, ATTEMPT, 100, 1000)).status == "SUCCESS"
    await world.advance(10)
    assert (await world.refund(REFUND, ATTEMPT, 200, 1000)).status == "UNKNOWN"
    assert (await world.query_refund(REFUND, ATTEMPT, 200, 1000)).status == "UNKNOWN"
    more = await world.refund(f"{REFUND}X", ATTEMPT, 901, 1000)
    assert more.status == "FAILED"
    assert await world.money() == [("capture", ATTEMPT, 1000), ("refund", REFUND, 100)]


async def test_a_refund_that_the_bank_sends_back_is_told(world):
    await world.buy(ATTEMPT, 20_000)
    await world.refund(REFUND, ATTEMPT, 7742, 20_000)
    await world.advance(3700)
    news = [
        one
        for inbound in world.notices()
        for one in world.channel.receive(inbound, now=world.clock.now()).news
    ]
    assert [type(one).__name__ for one in news] == ["ChannelFact", "Ask", "RefundFact"]
    assert (news[-1].refund_id, news[-1].status) == (REFUND, RefundChannelStatus.REVERSED)


async def test_another_key_of_ours_or_theirs_is_noticed(world):
    await world.buy(ATTEMPT, 1000)
    strange = world.open(world.running.url, private_key=private_pem(PROVIDER))
    problem = await strange.check(timeout_seconds=5)
    assert "40002" in problem
    assert (await world.refund(REFUND, ATTEMPT, 1, 1000, channel=strange)).status == "NOT_SENT"
    deaf = world.open(world.running.url, alipay_public_key=public_pem(MERCHANT))
    assert (await world.query(ATTEMPT, channel=deaf)).status is UNKNOWN
    assert "not signed by Alipay" in await deaf.check(timeout_seconds=5)
    with pytest.raises(SignatureInvalid):
        deaf.receive(world.notices()[0], now=world.clock.now())
    both = world.open(
        world.running.url,
        alipay_public_key=public_pem(MERCHANT),
        other_alipay_public_keys=[public_pem(PROVIDER)],
    )
    assert (await world.query(ATTEMPT, channel=both)).status is CAPTURED


async def test_a_notice_for_another_account_is_refused(world):
    await world.buy(ATTEMPT, 1000)
    for changed in ({"app_id": "2021000000000009"}, {"seller_id": "2088000000000009"}):
        other = world.open(world.running.url, **changed)
        with pytest.raises(SignatureInvalid):
            other.receive(world.notices()[0], now=world.clock.now())


async def test_a_day_is_read_from_the_bill(world):
    await world.buy(ATTEMPT, 9990)
    await world.refund(REFUND, ATTEMPT, 1000, 9990)
    day = china_day(world.clock.now())
    await world.advance(2 * 86_400)
    content = await world.channel.statement(day, timeout_seconds=10)
    statement = whole(world.channel.parse_statement(content, day))
    assert statement.bad_totals == ()
    taken, given = statement.lines
    assert isinstance(taken, Line)
    assert isinstance(given, Line)
    paid = await world.query(ATTEMPT)
    assert (taken.type, taken.attempt_id, taken.amount, taken.trade_no, taken.fee) == (
        LineType.CAPTURE,
        ATTEMPT,
        Money(9990, "CNY"),
        paid.trade_no,
        Money(60, "CNY"),
    )
    asked = await world.query_refund(REFUND, ATTEMPT, 1000, 9990)
    assert (given.type, given.refund_id, given.amount, given.trade_no, given.fee) == (
        LineType.REFUND,
        REFUND,
        Money(1000, "CNY"),
        asked.channel_refund_no,
        Money(6, "CNY"),
    )


async def test_a_bill_of_a_day_that_lasts_is_given_by_a_simulator_that_was_told_to(world):
    await world.buy(ATTEMPT, 9990)
    now = world.clock.now()
    day = china_day(now)
    with pytest.raises(ChannelUnavailable):
        await world.channel.statement(day, until=now, timeout_seconds=10)
    assert (await world.client.post("/_sim/bills", json={"early": 1})).status_code == 400
    await world.client.post("/_sim/bills", json={"early": True})
    for lines in (1, 2):
        content = await world.channel.statement(day, until=now, timeout_seconds=10)
        assert len(whole(world.channel.parse_statement(content, day)).lines) == lines
        await world.refund(REFUND, ATTEMPT, 1000, 9990)


async def test_a_day_without_trades_is_empty_once_its_bill_would_be_there(world):
    today = china_day(world.clock.now())
    empty = today - timedelta(days=2)
    assert await world.channel.statement(empty, timeout_seconds=10) == b""
    await world.advance(2 * 86_400)
    with pytest.raises(ChannelUnavailable, match="not ready"):  # by our clock it is not over
        await world.channel.statement(today, timeout_seconds=10)


@pytest.mark.parametrize("kind", ["lost_answer", "nonsense"])
async def test_a_bill_that_does_not_come_is_no_statement(world, kind):
    await world.buy(ATTEMPT, 9990)
    day = china_day(world.clock.now())
    await world.advance(2 * 86_400)
    sent = {"kind": kind, "path": "/gateway.do"}
    await world.client.post("/_sim/faults", json=sent)
    with pytest.raises(ChannelUnavailable):
        await world.channel.statement(day, timeout_seconds=10)
    await world.client.post("/_sim/faults", json={"kind": "status", "status": 404, "path": "/bill"})
    with pytest.raises(ChannelUnavailable):
        await world.channel.statement(day, timeout_seconds=10)

"""The adapter to WeChat Pay on simulated WeChat Pay: what only WeChat Pay has."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import pytest

from mesh.money import Money
from payment_rpc.channels.inbound import Inbound
from payment_rpc.channels.rsa_signatures import is_signed
from payment_rpc.domain.errors import ChannelUnavailable, SignatureInvalid
from payment_rpc.domain.facts import ChannelStatus
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
    async with simulated_channel("wechat") as simulated:
        yield simulated


async def test_a_native_order_is_a_code(world):
    opened = await world.checkout(ATTEMPT, 9990)
    assert (opened.status, opened.next_action.kind) == (PENDING, "QR_CODE")
    assert (await world.query(ATTEMPT)).status is PENDING


async def test_an_h5_order_leads_back_to_the_shop(world):
    opened = await world.checkout(ATTEMPT, 9990, method="h5")
    assert opened.next_action.kind == "REDIRECT_URL"
    query = parse_qs(urlsplit(opened.next_action.value).query)
    assert query["redirect_url"] == ["https://shop.example/back"]
    await world.buyer(ATTEMPT, "pay")
    assert (await world.query(ATTEMPT)).status is CAPTURED


async def test_a_jsapi_order_is_signed_for_the_buyers_wechat(world):
    opened = await world.checkout(ATTEMPT, 9990, method="jsapi")
    assert opened.next_action.kind == "CLIENT_PARAMS"
    params = json.loads(opened.next_action.value)
    assert sorted(params) == ["appId", "nonceStr", "package", "paySign", "signType", "timeStamp"]
    lines = [params[name] for name in ("appId", "timeStamp", "nonceStr", "package")]
    text = "".join(f"{line}\n" for line in lines).encode()
    assert is_signed(MERCHANT.public_key(), text, params["paySign"])
    assert params["signType"] == "RSA"


@pytest.mark.parametrize("method", ["app", "fax"])
async def test_a_way_that_does_not_exist_is_not_sent(world, method):
    assert (await world.checkout(ATTEMPT, 1, method=method)).status is ChannelStatus.NOT_SENT


async def test_the_deadline_is_told_and_an_order_after_it_takes_no_money(world):
    await world.checkout(ATTEMPT, 9990)
    await world.advance(1900)
    sent = {"own_id": ATTEMPT, "does": "pay"}
    assert (await world.client.post("/_sim/buyer", json=sent)).status_code == 409
    assert (await world.close(ATTEMPT)).status is ChannelStatus.CLOSED
    assert await world.money() == []


@pytest.mark.parametrize(
    ("minor", "first", "later", "moved"),
    [
        (10_07701, CAPTURED, CAPTURED, 10_07701),  # a coupon pays a part
        (10_07702, UNKNOWN, UNKNOWN, 10_07702),  # a word that nobody knows
        (10_07703, PENDING, CAPTURED, 10_07703),  # USERPAYING
        (10_07704, ChannelStatus.DECLINED, ChannelStatus.DECLINED, None),
        (10_07705, ChannelStatus.CLOSED, ChannelStatus.CLOSED, None),  # REVOKED
        (10_07706, PENDING, CAPTURED, 10_07706),  # 202
        (10_07707, UNKNOWN, CAPTURED, 10_07707),  # 500
        (10_07711, PENDING, CAPTURED, 10_07711),  # ACCEPT
    ],
)
async def test_each_row_of_the_table_of_orders(world, minor, first, later, moved):
    await world.open_attempt(ATTEMPT, minor)
    await world.buyer(ATTEMPT, "pay")
    assert (await world.query(ATTEMPT)).status is first
    await world.advance(31)
    fact = await world.query(ATTEMPT)
    assert fact.status is later
    if later is CAPTURED:
        assert fact.amount == Money(moved, "CNY")
        assert await world.money() == [("capture", ATTEMPT, moved)]


async def test_a_prepay_that_failed_inside_wechat_pay_is_unknown_and_was_made(world):
    assert (await world.checkout(ATTEMPT, 10_07712)).status is UNKNOWN
    assert (await world.query(ATTEMPT)).status is PENDING
    assert (await world.close(ATTEMPT)).status is ChannelStatus.CLOSED


async def test_another_order_under_the_same_number_is_unknown_not_refused(world):
    await world.buy(ATTEMPT, 9990)
    assert (await world.checkout(ATTEMPT, 9991)).status is UNKNOWN
    other = ATTEMPT[:-1] + "2"
    await world.open_attempt(other, 9990)
    await world.close(other)
    assert (await world.checkout(other, 9990)).status is UNKNOWN


@pytest.mark.parametrize(
    ("minor", "status"), [(10_07708, PENDING), (10_07709, ChannelStatus.CLOSED)]
)
async def test_a_close_that_is_refused_or_fails_is_asked_about(world, minor, status):
    await world.open_attempt(ATTEMPT, minor)
    assert (await world.close(ATTEMPT)).status is status


async def test_a_number_that_nobody_used_is_not_found_when_it_is_closed(world):
    assert (await world.close(ATTEMPT)).status is NOT_FOUND


@pytest.mark.parametrize(
    ("minor", "first", "asked", "later"),
    [
        (7741, "PENDING", "PENDING", "SUCCESS"),
        (7742, "PENDING", "FAILED", "FAILED"),
        (7743, "PENDING", "PENDING", "PENDING"),  # the bank refused; never a second refund
        (7744, "PENDING", "NOT_FOUND", "NOT_FOUND"),  # our balance is too low
        (7745, "FAILED", "NOT_FOUND", "NOT_FOUND"),
        (7746, "UNKNOWN", "SUCCESS", "SUCCESS"),
        (7747, "UNKNOWN", "SUCCESS", "SUCCESS"),
        (7748, "UNKNOWN", "UNKNOWN", "UNKNOWN"),
    ],
)
async def test_each_row_of_the_table_of_refunds(world, minor, first, asked, later):
    await world.buy(ATTEMPT, 20_000)
    assert (await world.refund(REFUND, ATTEMPT, minor, 20_000)).status == first
    await world.advance(30)
    assert (await world.query_refund(REFUND, ATTEMPT, minor, 20_000)).status == asked
    await world.advance(3700)
    assert (await world.query_refund(REFUND, ATTEMPT, minor, 20_000)).status == later


async def test_a_refund_without_balance_is_accepted_later_under_its_number(world):
    await world.buy(ATTEMPT, 20_000)
    assert (await world.refund(REFUND, ATTEMPT, 7744, 20_000)).status == "PENDING"
    await world.refund(REFUND, ATTEMPT, 7744, 20_000)
    await world.advance(60)
    assert (await world.query_refund(REFUND, ATTEMPT, 7744, 20_000)).status == "SUCCESS"
    assert await world.money() == [("capture", ATTEMPT, 20_000), ("refund", REFUND, 7744)]


async def test_a_changed_refund_under_one_number_never_fails_the_one_that_was_done(world):
    await world.buy(ATTEMPT, 20_000)
    await world.refund(REFUND, ATTEMPT, 100, 20_000)
    await world.advance(60)
    assert (await world.refund(REFUND, ATTEMPT, 200, 20_000)).status == "UNKNOWN"
    assert (await world.refund(REFUND, ATTEMPT, 100, 20_000)).status == "SUCCESS"
    assert await world.money() == [("capture", ATTEMPT, 20_000), ("refund", REFUND, 100)]


async def test_a_refund_above_what_was_paid_fails(world):
    await world.buy(ATTEMPT, 1000)
    refused = await world.refund(REFUND, ATTEMPT, 1001, 1000)
    assert refused.status in ("FAILED", "UNKNOWN")
    assert await world.money() == [("capture", ATTEMPT, 1000)]


async def test_refunds_are_told(world):
    await world.buy(ATTEMPT, 20_000)
    for number, minor in enumerate((100, 7742, 7743)):
        await world.refund(f"{REFUND}{number}", ATTEMPT, minor, 20_000)
        await world.advance(90)
    news = [
        one
        for inbound in world.notices()
        for one in world.channel.receive(inbound, now=world.clock.now()).news
    ]
    assert [(getattr(one, "refund_id", ""), str(one.status)) for one in news] == [
        ("", "CAPTURED"),
        (f"{REFUND}0", "SUCCESS"),
        (f"{REFUND}1", "FAILED"),
        (f"{REFUND}2", "PENDING"),
    ]


async def test_another_key_of_ours_or_theirs_is_noticed(world):
    await world.buy(ATTEMPT, 1000)
    strange = world.open(world.running.url, private_key=private_pem(PROVIDER))
    assert "SIGN_ERROR" in await strange.check(timeout_seconds=5)
    assert (await world.checkout(f"{ATTEMPT}2", 1, channel=strange)).status == "NOT_SENT"
    # a refusal that WeChat Pay did not sign, and no answer to the question after it
    assert (await world.refund(REFUND, ATTEMPT, 1, 1000, channel=strange)).status == "UNKNOWN"
    serial = world.notices()[0].headers["wechatpay-serial"]
    deaf = world.open(world.running.url, public_keys={serial: public_pem(MERCHANT)})
    assert (await world.query(ATTEMPT, channel=deaf)).status is UNKNOWN
    with pytest.raises(SignatureInvalid):
        deaf.receive(world.notices()[0], now=world.clock.now())
    other = world.open(world.running.url, api_v3_key="another-api-v3-key-of-32-bytes!!")
    with pytest.raises(SignatureInvalid):
        other.receive(world.notices()[0], now=world.clock.now())
    assert await world.money() == [("capture", ATTEMPT, 1000)]


@pytest.mark.parametrize("changed", [{"mchid": "1900000009"}, {"appid": "wx0000000000000009"}])
async def test_a_notice_for_another_account_is_refused(world, changed):
    await world.buy(ATTEMPT, 1000)
    other = world.open(world.running.url, **changed)
    with pytest.raises(SignatureInvalid):
        other.receive(world.notices()[0], now=world.clock.now())


async def test_a_notice_is_fresh_for_five_minutes_either_way(world):
    await world.buy(ATTEMPT, 1000)
    [inbound] = world.notices()
    for minutes in (-6, 6):
        now = world.clock.now() + timedelta(minutes=minutes)
        with pytest.raises(SignatureInvalid):
            world.channel.receive(inbound, now=now)
    probe = {"wechatpay-signature": f"WECHATPAY/SIGNTEST/{inbound.headers['wechatpay-signature']}"}
    tested = Inbound(body=inbound.body, headers={**inbound.headers, **probe})
    with pytest.raises(SignatureInvalid):
        world.channel.receive(tested, now=world.clock.now())


async def test_with_a_clock_that_is_off_nothing_is_believed_and_the_check_says_why(world):
    await world.buy(ATTEMPT, 1000)
    late = world.open(world.running.url, now=lambda: world.clock.now() - timedelta(minutes=6))
    assert (await world.query(ATTEMPT, channel=late)).status is UNKNOWN
    assert "SIGN_ERROR" in await late.check(timeout_seconds=5)


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
    assert (given.type, given.refund_id, given.amount, given.trade_no) == (
        LineType.REFUND,
        REFUND,
        Money(1000, "CNY"),
        asked.channel_refund_no,
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


async def test_a_day_without_trades_is_empty_and_one_that_is_not_ready_is_not(world):
    today = china_day(world.clock.now())
    assert await world.channel.statement(today - timedelta(days=2), timeout_seconds=10) == b""
    with pytest.raises(ChannelUnavailable):
        await world.channel.statement(today, timeout_seconds=10)


async def test_a_bill_with_another_hash_or_no_bill_is_no_statement(world):
    await world.buy(ATTEMPT, 9990)
    day = china_day(world.clock.now())
    await world.advance(2 * 86_400)
    for path, kind in (
        ("/v3/billdownload", "nonsense"),
        ("/v3/billdownload", "lost_answer"),
        ("/v3/bill/", "nonsense"),
        ("/v3/bill/", "lost_answer"),
    ):
        await world.client.post("/_sim/faults", json={"kind": kind, "path": path})
        with pytest.raises(ChannelUnavailable):
            await world.channel.statement(day, timeout_seconds=10)
        await world.no_faults()
    assert gzip.decompress(await world.channel.statement(day, timeout_seconds=10))

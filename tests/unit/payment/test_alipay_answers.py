"""Each of Alipay's words as a fact; all that is not understood is no fact."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import pytest

from mesh.errors import InvalidArgument
from mesh.money import Money
from payment_rpc.channels.alipay import answers
from payment_rpc.channels.alipay.api import Reply
from payment_rpc.channels.alipay.channel import AlipayChannel, open_channel
from payment_rpc.channels.alipay.credentials import parse
from payment_rpc.channels.doubt import Unclear
from payment_rpc.channels.inbound import Ask, Inbound
from payment_rpc.channels.rsa_signatures import sign
from payment_rpc.domain.callback import Subject
from payment_rpc.domain.errors import SignatureInvalid
from payment_rpc.domain.facts import ChannelFact, ChannelStatus
from payment_rpc.domain.refund_facts import RefundChannelStatus, RefundFact
from tests.support.china_credentials import ALIPAY, VECTOR_TIME
from tests.support.provider_keys import MERCHANT, PROVIDER, private_pem

PAID_AT = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
TRADE = {
    "out_trade_no": "ATT0001",
    "trade_no": "2026112022001400000000000001",
    "trade_status": "TRADE_SUCCESS",
    "total_amount": "99.99",
}
PAID = TRADE | {"send_pay_date": "2026-11-20 20:00:00"}
REFUND = {
    "out_trade_no": "ATT0001",
    "trade_no": TRADE["trade_no"],
    "fund_change": "Y",
    "refund_fee": "30.00",
    "gmt_refund_pay": "2026-11-20 20:00:00",
}
FOUND = {
    "out_trade_no": "ATT0001",
    "trade_no": TRADE["trade_no"],
    "out_request_no": "RF01",
    "refund_status": "REFUND_SUCCESS",
    "refund_amount": "10.00",
}
NOTICE = TRADE | {
    "notify_type": "trade_status_sync",
    "notify_id": "N1",
    "notify_time": "2026-11-20 20:00:01",
    "app_id": str(ALIPAY["app_id"]),
    "seller_id": str(ALIPAY["seller_id"]),
    "gmt_payment": "2026-11-20 20:00:00",
}


def reply(code: str = "10000", sub_code: str = "", /, **fields: Any) -> Reply:
    content = json.dumps({"code": code, **fields}).encode()
    return Reply(code=code, sub_code=sub_code, message="", content=content)


def query(answer: Reply) -> ChannelFact:
    return answers.read_query(answer, attempt_id="ATT0001")


def refund(answer: Reply) -> RefundFact:
    return answers.read_refund(
        answer, refund_id="RF01", attempt_id="ATT0001", amount=Money(1000, "CNY")
    )


def refund_query(answer: Reply) -> RefundFact:
    return answers.read_refund_query(
        answer, refund_id="RF01", attempt_id="ATT0001", amount=Money(1000, "CNY")
    )


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (reply(**TRADE | {"trade_status": "WAIT_BUYER_PAY"}), ChannelStatus.PENDING),
        (reply(**PAID), ChannelStatus.CAPTURED),
        (reply(**PAID | {"trade_status": "TRADE_FINISHED"}), ChannelStatus.CAPTURED),
        (reply(**TRADE | {"trade_status": "TRADE_CLOSED"}), ChannelStatus.CLOSED),
        # paid and refunded in full
        (reply(**PAID | {"trade_status": "TRADE_CLOSED"}), ChannelStatus.CAPTURED),
        (reply("10003"), ChannelStatus.PENDING),
        (reply("40004", "TRADE_NOT_EXIST"), ChannelStatus.NOT_FOUND),
    ],
)
def test_each_status_of_a_trade_is_a_fact(answer, status):
    fact = query(answer)
    assert (fact.attempt_id, fact.status) == ("ATT0001", status)
    if answer.is_success:
        assert (fact.amount, fact.trade_no) == (Money(9999, "CNY"), TRADE["trade_no"])
    assert fact.occurred_at == (PAID_AT if fact.status is ChannelStatus.CAPTURED else None)


@pytest.mark.parametrize(
    "answer",
    [
        reply(**TRADE | {"trade_status": "TRADE_SLEEPING"}),
        reply(**TRADE | {"trade_status": ""}),
        reply(**PAID | {"out_trade_no": "ATT0002"}),
        reply(**PAID | {"total_amount": "99.999"}),
        reply(**PAID | {"total_amount": 99.99}),
        reply(**PAID | {"trade_no": "1 2"}),
        reply(**PAID | {"trade_no": ""}),
        reply(**PAID | {"credit_pay_mode": "creditAdvanceV2"}),
        reply(),
        reply("20000", "UNKNOW-ERROR"),
        reply("40004", "SYSTEM_ERROR"),
        reply("40002", "INVALID-SIGNATURE"),
        reply("40005", "APP-CALL-LIMITED"),
        reply("99999"),
    ],
)
def test_what_a_query_does_not_say_clearly_is_no_fact(answer):
    with pytest.raises(Unclear):
        query(answer)


def test_money_that_left_is_a_refund():
    fact = refund(reply(**REFUND))
    assert (fact.status, fact.channel_refund_no, fact.occurred_at) == (
        RefundChannelStatus.SUCCESS,
        TRADE["trade_no"],
        PAID_AT,
    )


@pytest.mark.parametrize(
    "answer",
    [
        reply(**REFUND | {"fund_change": "N"}),
        reply(**REFUND | {"fund_change": ""}),
        reply(**REFUND | {"refund_fee": "9.99"}),
        reply(**REFUND | {"refund_fee": "x"}),
        reply(**REFUND | {"out_trade_no": "ATT0002"}),
        reply(),
        reply("20000", "UNKNOW-ERROR"),
        reply("40004", "SYSTEM_ERROR"),
        reply("40004", "DISCORDANT_REPEAT_REQUEST"),
        reply("40004", "SOMETHING_NEW"),
    ],
)
def test_a_success_of_the_call_is_no_refund(answer):
    with pytest.raises(Unclear):
        refund(answer)


@pytest.mark.parametrize("code", sorted(answers.REFUND_REFUSED))
def test_a_refused_refund_has_a_reason_of_our_catalogue(code):
    fact = answers.refund_refused(reply("40004", code), refund_id="RF01")
    assert fact.status is RefundChannelStatus.FAILED
    assert fact.reason in {
        "REFUND_FAILED",
        "REFUND_NOT_ALLOWED",
        "REFUND_EXCEEDS_REFUNDABLE",
        "CURRENCY_MISMATCH",
    }


def test_doubtful_codes_are_not_among_the_refusals_of_refunds():
    assert not {"SYSTEM_ERROR", "DISCORDANT_REPEAT_REQUEST"} & answers.REFUND_REFUSED.keys()


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (reply(**FOUND), RefundChannelStatus.SUCCESS),
        (reply(**FOUND | {"refund_status": ""}), RefundChannelStatus.NOT_FOUND),
        (reply(), RefundChannelStatus.NOT_FOUND),
        (reply("40004", "TRADE_NOT_EXIST"), RefundChannelStatus.NOT_FOUND),
    ],
)
def test_a_question_about_a_refund_says_success_or_nothing(answer, status):
    assert refund_query(answer).status is status


@pytest.mark.parametrize(
    "answer",
    [
        reply(**FOUND | {"refund_status": "REFUND_SLEEPING"}),
        reply(**FOUND | {"refund_amount": "10.01"}),
        reply(**FOUND | {"refund_amount": ""}),
        reply(**FOUND | {"out_request_no": "RF02"}),
        reply(**FOUND | {"out_request_no": ""}),
        reply(**FOUND | {"out_trade_no": "ATT0002"}),
        reply("20000", "UNKNOW-ERROR"),
        reply("40004", "SYSTEM_ERROR"),
    ],
)
def test_a_question_about_a_refund_that_is_answered_unclearly_is_no_fact(answer):
    with pytest.raises(Unclear):
        refund_query(answer)


@pytest.mark.parametrize(
    "answer",
    [
        reply(out_trade_no="ATT0002", qr_code="https://qr.alipay.com/x"),
        reply(out_trade_no="ATT0001", qr_code=""),
        reply(out_trade_no="ATT0001", qr_code="a b"),
        reply(out_trade_no="ATT0001"),
        reply("40004", "TRADE_HAS_SUCCESS"),
        reply("40004", "APPLY_PC_MERCHANT_CODE_ERROR"),
    ],
)
def test_a_code_that_cannot_be_shown_is_none(answer):
    with pytest.raises(Unclear):
        answers.read_qr_code(answer, attempt_id="ATT0001")


@pytest.fixture
async def channel() -> AlipayChannel:
    return open_channel(
        account="alipay_main",
        credentials=parse(ALIPAY),
        is_live=False,
        notify_url="https://shop.example/alipay",
        base_url=None,
        now=lambda: VECTOR_TIME,
    )


def told(fields: dict[str, str], key=PROVIDER) -> Inbound:
    text = "&".join(f"{name}={fields[name]}" for name in sorted(fields))
    form = fields | {"sign": sign(key, text.encode()), "sign_type": "RSA2"}
    return Inbound(body=urlencode(form).encode(), headers={})


async def test_a_notice_of_a_payment_is_a_fact(channel):
    received = channel.receive(told(NOTICE), now=VECTOR_TIME)
    (fact,) = received.news
    assert (fact.attempt_id, fact.status, fact.amount, fact.occurred_at) == (
        "ATT0001",
        ChannelStatus.CAPTURED,
        Money(9999, "CNY"),
        PAID_AT,
    )
    assert received.event_id == "N1:TRADE_SUCCESS"


@pytest.mark.parametrize(
    "changed",
    [
        {"refund_fee": "1.00"},
        {"gmt_refund": "2026-11-20 20:00:01"},
        {"out_biz_no": "RF01"},
        {"trade_status": "TRADE_CLOSED"},
        {"trade_status": "TRADE_CLOSED", "refund_fee": "99.99", "out_biz_no": "RF01"},
    ],
)
async def test_a_notice_of_a_refund_is_a_reason_to_ask(channel, changed):
    (news,) = channel.receive(told(NOTICE | changed), now=VECTOR_TIME).news
    assert news == Ask(
        subject=Subject(
            event_id="N1", attempt_id="ATT0001", refund_id=changed.get("out_biz_no", "")
        )
    )


@pytest.mark.parametrize(
    "changed", [{"trade_status": "NEW_WORD"}, {"total_amount": "x"}, {"credit_pay_mode": "later"}]
)
async def test_a_notice_that_is_not_understood_is_unknown(channel, changed):
    (fact,) = channel.receive(told(NOTICE | changed), now=VECTOR_TIME).news
    assert fact.status is ChannelStatus.UNKNOWN


async def test_a_notice_of_another_type_is_taken_and_means_nothing(channel):
    received = channel.receive(told(NOTICE | {"notify_type": "dut_user_sign"}), now=VECTOR_TIME)
    assert (received.news, received.summary) == ((), "dut_user_sign TRADE_SUCCESS")


@pytest.mark.parametrize(
    "changed",
    [
        {"app_id": "2021000000000002"},
        {"seller_id": "2088000000000002"},
        {"app_id": "2021000000000002", "notify_type": "other"},
        {"seller_id": "2088000000000002", "notify_type": "other"},
    ],
)
async def test_a_genuine_notice_of_somebody_else_is_refused(channel, changed):
    with pytest.raises(SignatureInvalid):
        channel.receive(told(NOTICE | changed), now=VECTOR_TIME)
    without = {name: NOTICE[name] for name in NOTICE if name not in changed}
    with pytest.raises(SignatureInvalid):
        channel.receive(told(without | {"notify_type": "trade_status_sync"}), now=VECTOR_TIME)


async def test_a_notice_that_we_signed_ourselves_is_refused(channel):
    with pytest.raises(SignatureInvalid):
        channel.receive(told(NOTICE, MERCHANT), now=VECTOR_TIME)


@pytest.mark.parametrize("number", ["", "a b", "x" * 65])
async def test_a_genuine_notice_about_nothing_of_ours_cannot_be_read(channel, number):
    with pytest.raises(InvalidArgument):
        channel.receive(told(NOTICE | {"out_trade_no": number}), now=VECTOR_TIME)


@pytest.mark.parametrize(
    ("dback_status", "status"), [("F", RefundChannelStatus.REVERSED), ("S", None), ("P", None)]
)
async def test_a_refund_that_a_bank_sends_back_is_reversed(channel, dback_status, status):
    content = {"out_trade_no": "ATT0001", "out_request_no": "RF01", "dback_status": dback_status}
    fields = {
        "msg_method": "alipay.trade.refund.depositback.completed",
        "notify_id": "N2",
        "app_id": str(ALIPAY["app_id"]),
        "biz_content": json.dumps(content),
    }
    news = channel.receive(told(fields), now=VECTOR_TIME).news
    assert [fact.status for fact in news] == ([] if status is None else [status])
    with pytest.raises(InvalidArgument):
        channel.receive(told(fields | {"biz_content": "{"}), now=VECTOR_TIME)


async def test_the_ids_in_a_notice_are_told_before_it_is_believed(channel):
    body = urlencode(NOTICE | {"out_biz_no": "RF01"}).encode()
    assert channel.subject_of(Inbound(body=body, headers={})) == Subject(
        event_id="N1", attempt_id="ATT0001", refund_id="RF01"
    )
    for body in (b"", b"\xff", b"out_trade_no=a%20b", b"a=1&a=2"):
        assert channel.subject_of(Inbound(body=body, headers={})) == Subject()


async def test_a_notice_is_acknowledged_in_alipays_words(channel):
    assert (channel.ack(accepted=True).status_code, channel.ack(accepted=True).body) == (
        200,
        b"success",
    )
    assert (channel.ack(accepted=False).status_code, channel.ack(accepted=False).body) == (
        200,
        b"fail",
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("app_id", "12"),
        ("app_id", None),
        ("seller_id", "x" * 16),
        ("private_key", "nonsense"),
        ("private_key", ALIPAY["alipay_public_key"]),
        ("alipay_public_key", ALIPAY["private_key"]),
        ("alipay_public_key", ""),
        ("other_alipay_public_keys", ["x"]),
        ("colour", "red"),
    ],
)
def test_wrong_credentials_are_refused_by_the_name_of_the_field(field, value):
    with pytest.raises(InvalidArgument) as refusal:
        parse({**ALIPAY, field: value})
    assert list(refusal.value.fields) == [field]
    assert str(value) == "" or str(value) not in str(refusal.value) or value in (None, "x")


@pytest.mark.parametrize("field", ["app_id", "seller_id", "private_key", "alipay_public_key"])
def test_missing_credentials_are_named(field):
    with pytest.raises(InvalidArgument) as refusal:
        parse({name: ALIPAY[name] for name in ALIPAY if name != field})
    assert list(refusal.value.fields) == [field]


def test_keys_may_be_given_as_the_console_shows_them():
    bare = "".join(private_pem(MERCHANT).splitlines()[1:-1])
    assert parse({**ALIPAY, "private_key": bare}).private_key == bare


async def test_credentials_are_shown_nowhere(channel):
    credentials = parse(ALIPAY)
    assert "PRIVATE" not in f"{credentials!r}{credentials}{vars(channel)!r}"
    assert list(credentials.__rich_repr__()) == []

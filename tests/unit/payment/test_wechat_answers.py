"""Each of WeChat Pay's words as a fact; all that is not understood is no fact."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from mesh.money import CURRENCIES, Money
from payment_rpc.channels.doubt import Unclear
from payment_rpc.channels.requests import Checkout
from payment_rpc.channels.wechat import answers, orders
from payment_rpc.channels.wechat.amounts import read_fen, write_fen
from payment_rpc.channels.wechat.api import Reply
from payment_rpc.channels.wechat.channel import CAPABILITIES
from payment_rpc.domain.facts import ChannelFact, ChannelStatus
from payment_rpc.domain.refund_facts import RefundChannelStatus, RefundFact

PAID_AT = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
ORDER = {
    "mchid": "1900000001",
    "appid": "wx0000000000000001",
    "out_trade_no": "ATT0001",
    "trade_state": "SUCCESS",
    "transaction_id": "42000001",
    "amount": {"total": 9999, "payer_total": 9899, "currency": "CNY"},
    "success_time": "2026-11-20T20:00:00+08:00",
}
REFUND = {
    "out_trade_no": "ATT0001",
    "out_refund_no": "RF01",
    "refund_id": "50000001",
    "status": "SUCCESS",
    "success_time": "2026-11-20T20:00:00+08:00",
    "amount": {"total": 9999, "refund": 1000, "currency": "CNY"},
}


def reply(status_code: int = 200, code: str = "", /, **fields: Any) -> Reply:
    return Reply(
        status_code=status_code, code=code, message="", content=json.dumps(fields).encode()
    )


def query(answer: Reply) -> ChannelFact:
    return answers.read_query(answer, attempt_id="ATT0001")


def refund_query(answer: Reply) -> RefundFact:
    return answers.read_refund_query(
        answer, refund_id="RF01", attempt_id="ATT0001", amount=Money(1000, "CNY")
    )


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (reply(**ORDER), ChannelStatus.CAPTURED),
        (reply(**ORDER | {"trade_state": "REFUND"}), ChannelStatus.CAPTURED),
        (reply(**ORDER | {"trade_state": "NOTPAY"}), ChannelStatus.PENDING),
        (reply(**ORDER | {"trade_state": "NOTPAY", "amount": None}), ChannelStatus.PENDING),
        (reply(**ORDER | {"trade_state": "USERPAYING"}), ChannelStatus.PENDING),
        (reply(**ORDER | {"trade_state": "ACCEPT"}), ChannelStatus.PENDING),
        (reply(**ORDER | {"trade_state": "CLOSED"}), ChannelStatus.CLOSED),
        (reply(**ORDER | {"trade_state": "CLOSED", "amount": None}), ChannelStatus.CLOSED),
        (reply(**ORDER | {"trade_state": "REVOKED"}), ChannelStatus.CLOSED),
        (reply(**ORDER | {"trade_state": "PAYERROR"}), ChannelStatus.DECLINED),
        (reply(202, "USERPAYING"), ChannelStatus.PENDING),
        (reply(202, "ACCEPTED"), ChannelStatus.PENDING),
        (reply(404, "ORDER_NOT_EXIST"), ChannelStatus.NOT_FOUND),
        (reply(404, "RESOURCE_NOT_EXISTS"), ChannelStatus.NOT_FOUND),
    ],
)
def test_each_state_of_an_order_is_a_fact(answer, status):
    assert (query(answer).attempt_id, query(answer).status) == ("ATT0001", status)


def test_we_get_the_total_also_where_a_coupon_paid_a_part():
    fact = query(reply(**ORDER))
    assert (fact.amount, fact.trade_no, fact.occurred_at) == (
        Money(9999, "CNY"),
        "42000001",
        PAID_AT,
    )


@pytest.mark.parametrize(
    "answer",
    [
        reply(**ORDER | {"trade_state": "SLEEPING"}),
        reply(**ORDER | {"trade_state": ""}),
        reply(**ORDER | {"out_trade_no": "ATT0002"}),
        reply(**ORDER | {"amount": None}),
        reply(**ORDER | {"amount": {"total": 0}}),
        reply(**ORDER | {"amount": {"total": -1}}),
        reply(**ORDER | {"amount": {"total": 99.99}}),
        reply(**ORDER | {"amount": {"total": "9999"}}),
        reply(**ORDER | {"amount": {"total": 9999, "currency": "HKD"}}),
        reply(**ORDER | {"transaction_id": ""}),
        reply(**ORDER | {"transaction_id": "4 2"}),
        reply(),
        reply(202, "SOMETHING"),
        reply(204),
        reply(404, ""),
        reply(404, "MCH_NOT_EXISTS"),
        reply(400, "ORDER_NOT_EXIST"),
        reply(401, "SIGN_ERROR"),
        reply(429, "FREQUENCY_LIMITED"),
        reply(500, "SYSTEM_ERROR"),
        reply(302),
    ],
)
def test_what_a_query_does_not_say_clearly_is_no_fact(answer):
    with pytest.raises(Unclear):
        query(answer)


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (reply(**REFUND), RefundChannelStatus.SUCCESS),
        (reply(**REFUND | {"status": "PROCESSING"}), RefundChannelStatus.PENDING),
        (reply(**REFUND | {"status": "CLOSED"}), RefundChannelStatus.FAILED),
        (reply(**REFUND | {"status": "ABNORMAL"}), RefundChannelStatus.PENDING),
        (reply(404, "RESOURCE_NOT_EXISTS"), RefundChannelStatus.NOT_FOUND),
    ],
)
def test_each_state_of_a_refund_is_a_fact(answer, status):
    fact = refund_query(answer)
    assert (fact.refund_id, fact.status) == ("RF01", status)
    assert fact.channel_refund_no == ("50000001" if answer.is_success else "")


@pytest.mark.parametrize(
    "answer",
    [
        reply(**REFUND | {"status": "SLEEPING"}),
        reply(**REFUND | {"status": "", "refund_status": "SUCCESS"}),
        reply(**REFUND | {"out_refund_no": "RF02"}),
        reply(**REFUND | {"out_trade_no": "ATT0002"}),
        reply(**REFUND | {"amount": {"refund": 1001}}),
        reply(**REFUND | {"amount": {"refund": 1000, "currency": "USD"}}),
        reply(**REFUND | {"refund_id": ""}),
        reply(),
        reply(204),
        reply(404, "ORDER_NOT_EXIST"),
        reply(429, "FREQUENCY_LIMITED"),
        reply(500, "SYSTEM_ERROR"),
    ],
)
def test_what_is_not_said_clearly_about_a_refund_is_no_fact(answer):
    with pytest.raises(Unclear):
        refund_query(answer)


@pytest.mark.parametrize("code", sorted(answers.REFUND_REFUSED))
def test_a_refused_refund_has_a_reason_of_our_catalogue(code):
    fact = answers.refund_refused(reply(403, code), refund_id="RF01")
    assert fact.status is RefundChannelStatus.FAILED
    assert fact.reason in {"REFUND_FAILED", "REFUND_NOT_ALLOWED"}


def test_doubtful_refusals_are_in_no_table():
    doubtful = {"SYSTEM_ERROR", "SERVICE_UNAVAILABLE", "TRADE_ERROR"}
    earlier = {"OUT_TRADE_NO_USED", "ORDER_CLOSED", "ORDERPAID"}
    assert not answers.PREPAY_REFUSED & (doubtful | earlier)
    limited = {"FREQUENCY_LIMITED", "RATELIMIT_EXCEEDED"}
    assert not answers.ASKED_AFTER & (doubtful | limited)


@pytest.mark.parametrize(
    ("read", "fields"),
    [
        (answers.read_code_url, {"code_url": "a b"}),
        (answers.read_code_url, {"code_url": ""}),
        (answers.read_code_url, {}),
        (answers.read_h5_url, {"h5_url": "javascript:alert(1)"}),
        (answers.read_h5_url, {"h5_url": "https://x y"}),
        (answers.read_prepay_id, {"prepay_id": "a\nb"}),
        (answers.read_prepay_id, {"prepay_id": ""}),
    ],
)
def test_what_the_buyer_cannot_use_is_unclear(read, fields):
    with pytest.raises(Unclear):
        read(reply(**fields))


def test_fen_are_whole_and_of_one_currency_only():
    for minor in (1, 9999, 10**14):
        assert read_fen(write_fen(Money(minor, "CNY"))) == Money(minor, "CNY")
    for currency in CURRENCIES:
        if currency != "CNY":
            assert "does not take" in CAPABILITIES.problem_with(Money(100, currency))
            with pytest.raises(ValueError):
                write_fen(Money(100, currency))


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"method": "h5"}, "address"),
        ({"method": "jsapi"}, "openid"),
        ({"method": "app"}, "no such way"),
        ({"method": "H5"}, "no such way"),
    ],
)
def test_a_way_to_pay_needs_what_it_needs(changed, word):
    assert word in orders.problem_with(Checkout(subject="tea", return_url="", **changed))


def test_a_text_is_cut_between_characters():
    assert orders.cut("茶" * 50, 127) == "茶" * 42
    assert orders.cut("tea", 127) == "tea"
    assert orders.cut("", 127) == ""


@pytest.mark.parametrize("text", ["", "2026-11-20T20:00:00", "x", "0001-01-01T00:00:00+08:00"])
def test_what_is_no_moment_is_none(text):
    assert answers.moment(text) is None

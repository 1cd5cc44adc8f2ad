"""Simulated Alipay without a socket: signatures, refusals, the life of trades."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qsl

import pytest

from sandbox.providers.alipay.signing import (
    answer_json,
    is_request_signed,
    notice_text,
    signed_form,
)
from sandbox.providers.rsa_keys import is_signed, sign
from tests.support.alipay_shop import AlipayShop, simulated_alipay
from tests.support.fakes import FakeClock
from tests.support.provider_keys import MERCHANT, PROVIDER

QUERY, CLOSE = "alipay.trade.query", "alipay.trade.close"
# made once, and accepted by client libraries of others
REQUEST = (
    'app_id=2021000000000001&biz_content={"out_trade_no":"ATT0001"}&charset=utf-8&format='
    "JSON&method=alipay.trade.query&sign_type=RSA2&timestamp=2026-11-20 20:00:00&version="
    "1.0"
)
REQUEST_SIGN = (
    "PgAa5jrrF4SbmahkG2qazS9R9swZJTW4eDHUwMgetMu+7AIPxNl/c+adIhGcn1ch+X3ddqDVbAnq8EOXLLan"
    "8JfLu1bPp78nUdQvVa8dVaxPCdOCQT59Oc7SBGaNGl2x8uaofHvTsoDM8Qe7S+j1QD7wAQR5gUuElOG/txsR"
    "Wn1WcI82B1QWpUT0Rbvl773D1v9T5jnbVXB/z1oqXSlL74gjem+4P5rRBp/YFAbytm/fb6qFmmyxB3Nh9BQU"
    "FJTuXYT9t3oEOzavB3ZUeS89MS0TsrDp4qzk35Zj1pOhxGwQLKOhXivhYuOF2RzityTxBbP4U+5RxW1fH3Oh"
    "Wr4aYA=="
)
RESPONSE_TEXT = (
    '{"code":"10000","msg":"Success","trade_no":"2026112022001400000000000001","out_trade'
    '_no":"ATT0001","trade_status":"TRADE_SUCCESS","total_amount":"99.99","send_pay_date"'
    ':"2026-11-20 20:00:00"}'
)
RESPONSE_SIGN = (
    "ombDDPc7txYKmkt2rX+VHme80mW3f6KhsJRtU5JiABt24BxUmwy3yvN84mqZEVW73V9d7DwqDBUuXmkVmMrN"
    "fAr5j3qA0V/l7OeUgcTLllGFaaVUa0gUWo+/TElLX4/79UWdydKLwaVNFvSPruUKEbJhlYugdF/si4BR3pbF"
    "EFeAYwR2BA60VcUyjGVMRvysZnRXRuN9cXNC7diRcQmsOkZQpVg1vQJ3smlGUollgeDY10AtzqKvLwZfh/gg"
    "0sSHLVuesxUT2cSo0GyApjkZmkqwntR5TmkslhQrOzLviLb/98m1T3YreXwRp0lqKm9WSVwhE8XWmrQa0c07"
    "SRQXRQ=="
)
NOTIFICATION = (
    "gmt_create=2026-11-20+19%3A59%3A50&charset=utf-8&gmt_payment=2026-11-20+20%3A00%3A00"
    "&notify_time=2026-11-20+20%3A00%3A01&subject=paymesh+test&buyer_id=2088000000000002&"
    "invoice_amount=99.99&version=1.0&notify_id=2026112000222000001000000000000001&notify"
    "_type=trade_status_sync&out_trade_no=ATT0001&total_amount=99.99&trade_status=TRADE_S"
    "UCCESS&trade_no=2026112022001400000000000001&auth_app_id=2021000000000001&receipt_am"
    "ount=99.99&app_id=2021000000000001&seller_id=2088000000000001&body=a%2Bb+%2526+%E4%B"
    "8%AD%E6%96%87&sign_type=RSA2&sign=jZBwIqiw1Z88Hj1kdDEcVXxtiMgsxyARoB6t65Ir%2FQWE4nF6"
    "UXoPY6SNxs2n5NwtwF5bmAtdIeSXY6K0cM9ODCVNix61VzurKy3P0bO2W6sjMkqc3lFW%2BwVJwH4t2WmQzF"
    "ahTde3zuH5V%2B5zUuzyjy7viwhTWToITwEA6rS8fl%2BjOmoL0RCOHlTrV%2FI5i4X8%2BPK5qb72tGj4a1"
    "aafvp0AEqY2%2FhHrRAXWA2ngUGaTWVRNcPCYKQjakYD1zD2ij1%2BWbiTIM%2B5WgLdacMOBFmlrNV8kHsc"
    "K%2F0bQdiUye57E6k6aPrUNTZyukYVZ%2FrRN0kveZaO0ThliP0a2mYtLaBzbg%3D%3D"
)
NOTIFICATION_SHA256 = "feda26d9b69c5bce46558d52a9f899c8a5c98ef98bcdec9093154532201c3c3b"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def shop(clock: FakeClock) -> AsyncIterator[AlipayShop]:
    async with simulated_alipay(clock) as it:
        yield it


def test_the_vectors_of_requests_answers_and_notices() -> None:
    fields = dict(pair.split("=", 1) for pair in REQUEST.split("&"))
    assert is_request_signed(MERCHANT.public_key(), {**fields, "sign": REQUEST_SIGN})
    assert not is_request_signed(PROVIDER.public_key(), {**fields, "sign": REQUEST_SIGN})
    answer = answer_json("alipay_trade_query_response", json.loads(RESPONSE_TEXT), key=PROVIDER)
    assert answer.decode() == (
        f'{{"alipay_trade_query_response":{RESPONSE_TEXT},"sign":"{RESPONSE_SIGN}"}}'
    )
    notify = dict(parse_qsl(NOTIFICATION))
    sent = {name: value for name, value in notify.items() if name not in {"sign", "sign_type"}}
    assert dict(parse_qsl(signed_form(sent, PROVIDER))) == notify
    assert hashlib.sha256(notice_text(notify)).hexdigest() == NOTIFICATION_SHA256


@pytest.mark.parametrize(
    "changed",
    [
        {"total_amount": "9.99"},
        {"trade_status": "TRADE_FINISHED"},
        {"body": "a b %26 中文"},
        {"refund_fee": "1.00"},
        {"sign": sign(MERCHANT, b"x")},
        {"sign": "no base64"},
    ],
)
def test_a_changed_notice_is_not_signed(changed: dict[str, str]) -> None:
    fields = dict(parse_qsl(NOTIFICATION)) | changed
    assert not is_signed(PROVIDER.public_key(), notice_text(fields), fields["sign"])


@pytest.mark.parametrize(
    ("common", "sub_code"),
    [
        ({"app_id": ""}, "isv.missing-app-id"),
        ({"sign_type": ""}, "isv.missing-signature-type"),
        ({"sign": ""}, "isv.missing-signature"),
        ({"timestamp": ""}, "isv.missing-timestamp"),
        ({"version": ""}, "isv.missing-version"),
        ({"charset": ""}, "isv.missing-charset"),
        ({"method": "alipay.trade.invent"}, "isv.invalid-method"),
        # before the signature
        ({"app_id": "2021000000000002", "sign": "x"}, "isv.invalid-app-id"),
        ({"sign_type": "RSA"}, "isv.invalid-signature-type"),
        ({"charset": "gbk"}, "isv.invalid-charset"),
        ({"version": "2.0"}, "isv.invalid-parameter"),
        ({"format": "XML"}, "isv.invalid-parameter"),
        ({"sign": "x"}, "isv.invalid-signature"),
        ({"timestamp": "2026-11-20 12:00:00"}, "isv.invalid-timestamp"),  # UTC, not China
        ({"timestamp": "2026-11-20 20:16:00"}, "isv.invalid-timestamp"),
        ({"timestamp": "2026-11-20T20:00:00"}, "isv.invalid-timestamp"),
        ({"biz_content": ""}, "isv.missing-biz-content"),
        ({"biz_content": "[]"}, "isv.invalid-biz-content"),
        ({"biz_content": "{"}, "isv.invalid-biz-content"),
    ],
)
async def test_common_parameters_are_checked(
    shop: AlipayShop, common: dict[str, str], sub_code: str
) -> None:
    method = common.pop("method", QUERY)
    answer = await shop.send(shop.parameters(method, {"out_trade_no": "A1"}, **common))
    assert answer["sub_code"] == sub_code
    assert answer["code"] == ("40001" if "missing" in sub_code else "40002")
    assert answer["signed"]


async def test_a_repeated_parameter_is_refused(shop: AlipayShop) -> None:
    await shop.buy("A1", "1.00")
    parameters = shop.parameters(QUERY, {"out_trade_no": "A1"})
    answer = await shop.client.post("/gateway.do?app_id=2021000000000001", data=parameters)
    assert "isv.invalid-parameter" in answer.text


async def test_error_answers_may_come_unsigned(shop: AlipayShop) -> None:
    assert (await shop.call(QUERY, out_trade_no="A1"))["signed"]
    await shop.client.post("/_sim/alipay", json={"signs_errors": False})
    unsigned = await shop.call(QUERY, out_trade_no="A1")
    assert (unsigned["sub_code"], unsigned["signed"]) == ("ACQ.TRADE_NOT_EXIST", False)
    refused: list[Any] = [{"signs_errors": "no"}, {"x": True}, []]
    for wrong in refused:
        assert (await shop.client.post("/_sim/alipay", json=wrong)).status_code == 400


@pytest.mark.parametrize(
    "changed",
    [
        {"out_trade_no": ""},
        {"out_trade_no": "A-1"},
        {"out_trade_no": "A" * 65},
        {"total_amount": "0.00"},
        {"total_amount": "1.001"},
        {"total_amount": "-1.00"},
        {"total_amount": "1e3"},
        {"total_amount": "100000000.01"},
        {"total_amount": 1},
        {"subject": ""},
        {"subject": "a=b"},
        {"subject": "x" * 257},
        {"product_code": "FAST_INSTANT_TRADE_PAY"},
        {"time_expire": "2026-11-20 20:00"},
        {"time_expire": "2026-11-20 20:00:58"},
        {"time_expire": "2026-12-05 20:00:01"},
        {"timeout_express": "90"},
        {"out_trade_nr": "A1"},
    ],
)
async def test_terms_are_checked(shop: AlipayShop, changed: dict[str, Any]) -> None:
    answer = (
        await shop.precreate("A1", "1.00", **changed)
        if "out_trade_no" not in changed
        else (await shop.precreate(changed["out_trade_no"], "1.00"))
    )
    assert answer["sub_code"] == "ACQ.INVALID_PARAMETER"
    assert (await shop.buyer("A1", "pay")).status_code == 409


async def test_a_page_makes_a_trade_only_when_it_is_opened(
    shop: AlipayShop, clock: FakeClock
) -> None:
    terms = shop.terms(
        "alipay.trade.page.pay", "A1", "9.90", return_url="https://shop.example/?a=b"
    )
    clock.advance(3600)  # a browser may come later
    assert (await shop.call(QUERY, out_trade_no="A1"))["sub_code"] == "ACQ.TRADE_NOT_EXIST"
    assert (await shop.call(CLOSE, out_trade_no="A1"))["sub_code"] == "ACQ.TRADE_NOT_EXIST"
    page = await shop.client.get("/gateway.do", params=terms)
    assert "¥9.90" in page.text
    found = await shop.call(QUERY, out_trade_no="A1")
    assert (found["trade_status"], found["total_amount"]) == ("WAIT_BUYER_PAY", "9.90")
    assert "send_pay_date" not in found
    wrong = await shop.client.post(f"/cashier/{found['trade_no']}", data={"does": "decline"})
    assert "WAIT_BUYER_PAY" in wrong.text
    paid = await shop.client.post(f"/cashier/{found['trade_no']}", data={"does": "pay"})
    assert paid.status_code == 303
    back = dict(parse_qsl(paid.headers["location"].partition("?")[2]))
    assert (back["a"], back["out_trade_no"], back["total_amount"]) == ("b", "A1", "9.90")
    assert await shop.money() == [("capture", "A1", "9.90")]
    again = await shop.client.post(f"/cashier/{found['trade_no']}", data={"does": "pay"})
    assert again.status_code == 303
    assert len(await shop.money()) == 1


@pytest.mark.parametrize(
    ("amount", "common", "sub_code"),
    [
        ("2.00", {}, "ACQ.CONTEXT_INCONSISTENT"),
        ("1.00", {"sign": "x"}, "isv.invalid-signature"),
        ("1.00", {"total_amount": "0"}, "ACQ.INVALID_PARAMETER"),
    ],
)
async def test_a_page_that_is_refused_says_so_to_the_buyer_in_gbk(
    shop: AlipayShop, amount: str, common: dict[str, str], sub_code: str
) -> None:
    await shop.open_page("A1", "1.00")
    terms = shop.terms("alipay.trade.page.pay", "A1", amount, **common) | (
        {"sign": "x"} if "sign" in common else {}
    )
    page = await shop.client.get("/gateway.do", params=terms)
    assert "gbk" in page.headers["content-type"]
    assert sub_code in page.content.decode("gbk")
    assert "错误码" in page.content.decode("gbk")


async def test_a_number_is_one_trade_for_ever(shop: AlipayShop) -> None:
    first = await shop.precreate("A1", "1.00")
    assert first["qr_code"].startswith("http://alipay.test/qr/bax")
    other = await shop.precreate("A1", "1.01")
    assert other["sub_code"] == "ACQ.CONTEXT_INCONSISTENT"
    again = await shop.precreate("A1", "1.00")
    assert again["sub_code"] == "ACQ.APPLY_PC_MERCHANT_CODE_ERROR"
    assert (await shop.call(QUERY, out_trade_no="A1"))["sub_code"] == "ACQ.TRADE_NOT_EXIST"
    scanned = await shop.client.get(first["qr_code"])
    assert first["qr_code"] in scanned.text
    assert (await shop.call(QUERY, out_trade_no="A1"))["trade_status"] == "WAIT_BUYER_PAY"
    await shop.buyer("A1", "pay")
    assert (await shop.precreate("A1", "1.00"))["sub_code"] == "ACQ.TRADE_HAS_SUCCESS"
    await shop.precreate("A2", "1.00")
    await shop.buyer("A2", "open")
    assert (await shop.call(CLOSE, out_trade_no="A2"))["code"] == "10000"
    assert (await shop.precreate("A2", "1.00"))["sub_code"] == "ACQ.TRADE_HAS_CLOSE"
    assert (await shop.buyer("A2", "pay")).status_code == 409


async def test_a_deadline_closes_and_late_money_is_money(
    shop: AlipayShop, clock: FakeClock
) -> None:
    await shop.precreate("A1", "1.00", time_expire="2026-11-20 20:05:00")
    await shop.buyer("A1", "open")
    clock.advance(299)
    assert (await shop.call(QUERY, out_trade_no="A1"))["trade_status"] == "WAIT_BUYER_PAY"
    clock.advance(1)
    found = await shop.call(QUERY, out_trade_no="A1")
    assert found["trade_status"] == "TRADE_CLOSED"
    assert "send_pay_date" not in found
    assert (await shop.buyer("A1", "pay")).status_code == 409
    assert (await shop.buyer("A1", "pay_late")).status_code == 200
    assert (await shop.call(QUERY, out_trade_no="A1"))["trade_status"] == "TRADE_SUCCESS"
    await shop.precreate("A2", "1.00")
    clock.advance(2 * 3600)  # the code dies
    assert (await shop.buyer("A2", "pay")).status_code == 409
    page = await shop.open_page("A2", "1.00")  # the number lives on
    assert "¥1.00" in page.text
    assert not shop.notices()  # no notify_url in the requests


async def test_only_an_unpaid_trade_is_closed(shop: AlipayShop) -> None:
    trade_no = await shop.buy("A1", "1.00")
    for content in ({"out_trade_no": "A1"}, {"trade_no": trade_no}):
        assert (await shop.call(CLOSE, **content))["sub_code"] == "ACQ.TRADE_STATUS_ERROR"
    await shop.open_page("A2", "1.00")
    closed = await shop.call(CLOSE, out_trade_no="A2")
    assert (closed["code"], closed["out_trade_no"]) == ("10000", "A2")
    again = await shop.call(CLOSE, out_trade_no="A2")
    assert again["sub_code"] == "ACQ.REASON_TRADE_STATUS_INVALID"
    assert (await shop.call(CLOSE))["sub_code"] == "ACQ.INVALID_PARAMETER"
    mixed = await shop.call(CLOSE, out_trade_no="A2", trade_no=trade_no)
    assert mixed["sub_code"] == "ACQ.TRADE_NOT_EXIST"


async def test_cancel_refunds_what_was_paid(shop: AlipayShop) -> None:
    cancel = "alipay.trade.cancel"
    await shop.buy("A1", "1.00")
    assert (await shop.call(cancel, out_trade_no="A1"))["action"] == "refund"
    assert await shop.money() == [("capture", "A1", "1.00"), ("refund", "A1", "1.00")]
    await shop.precreate("A2", "1.00")
    assert "action" not in await shop.call(cancel, out_trade_no="A2")
    await shop.buyer("A2", "open")
    assert (await shop.call(cancel, out_trade_no="A2"))["action"] == "close"
    assert len(await shop.money()) == 2
    await shop.buy("A3", "77.41")
    later = {"refund_amount": "77.41", "out_request_no": "R1"}
    assert (await shop.call("alipay.trade.refund", out_trade_no="A3", **later))["code"] == "10000"
    assert (await shop.call(cancel, out_trade_no="A3"))["action"] == "refund"
    assert len(await shop.money()) == 3


async def test_a_fault_that_changes_a_word_signs_it_anew(shop: AlipayShop) -> None:
    await shop.buy("A1", "1.00")
    fault = {"kind": "wrong_word", "path": "/gateway.do", "contains": "trade.query"}
    fault["field"] = "alipay_trade_query_response.trade_status"
    assert (await shop.client.post("/_sim/faults", json=fault)).status_code == 201
    found = await shop.call(QUERY, out_trade_no="A1")
    assert (found["trade_status"], found["signed"]) == ("BRAND_NEW_WORD", True)


@pytest.mark.parametrize("does", ["fly", "finish", "pay_late"])
async def test_deeds_that_are_refused(shop: AlipayShop, does: str) -> None:
    await shop.precreate("A1", "1.00")
    assert (await shop.buyer("A1", does)).status_code == 409
    assert not await shop.money()

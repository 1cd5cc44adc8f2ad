"""Simulated Alipay without a socket: refunds, the amounts that trigger something, notices, bills."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

import pytest

from sandbox.providers.alipay import PROVIDER as ALIPAY
from sandbox.providers.alipay.notices import RETRY_SECONDS, UNKNOWN_STATUS
from sandbox.providers.webhooks import Target
from tests.support.alipay_shop import AlipayShop, is_notice_signed, simulated_alipay
from tests.support.fakes import FakeClock

QUERY, CLOSE = "alipay.trade.query", "alipay.trade.close"
REFUND, REFUND_QUERY = "alipay.trade.refund", "alipay.trade.fastpay.refund.query"
BILL = "alipay.data.dataservice.bill.downloadurl.query"
NOTIFY = "http://127.0.0.1:1/notify"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def shop(clock: FakeClock) -> AsyncIterator[AlipayShop]:
    async with simulated_alipay(clock) as it:
        yield it


async def refund(shop: AlipayShop, number: str, amount: str, request: str) -> dict[str, Any]:
    return await shop.call(
        REFUND, out_trade_no=number, refund_amount=amount, out_request_no=request
    )


async def test_refunds_are_counted_once_and_end_in_a_closed_trade(
    shop: AlipayShop, clock: FakeClock
) -> None:
    await shop.buy("A1", "10.00")
    first = await refund(shop, "A1", "4.00", "R1")
    assert (first["fund_change"], first["refund_fee"]) == ("Y", "4.00")
    again = await refund(shop, "A1", "4.00", "R1")
    assert (again["fund_change"], again["refund_fee"]) == ("N", "4.00")
    other = await refund(shop, "A1", "4.01", "R1")
    assert other["sub_code"] == "ACQ.DISCORDANT_REPEAT_REQUEST"
    clock.advance(2.999)
    assert (await refund(shop, "A1", "6.00", "R2"))["sub_code"] == "ACQ.SYSTEM_ERROR"
    clock.advance(0.001)
    over = await refund(shop, "A1", "6.01", "R2")
    assert over["sub_code"] == "ACQ.REASON_TRADE_REFUND_FEE_ERR"
    second = await refund(shop, "A1", "6.00", "R2")
    assert (second["fund_change"], second["refund_fee"]) == ("Y", "10.00")
    found = await shop.call(QUERY, out_trade_no="A1")
    assert found["trade_status"] == "TRADE_CLOSED"
    assert found["send_pay_date"] == "2026-11-20 20:00:00"
    third = await refund(shop, "A1", "1.00", "R3")
    assert third["sub_code"] == "ACQ.TRADE_HAS_CLOSE"
    assert (await shop.buyer("A1", "pay_late")).status_code == 409
    assert await shop.money() == [
        ("capture", "A1", "10.00"),
        ("refund", "R1", "4.00"),
        ("refund", "R2", "6.00"),
    ]


async def test_a_refund_without_a_number_is_one_refund(shop: AlipayShop, clock: FakeClock) -> None:
    await shop.buy("A1", "10.00")
    first = await shop.call(REFUND, out_trade_no="A1", refund_amount="1.00")
    clock.advance(10)
    second = await shop.call(REFUND, out_trade_no="A1", refund_amount="1.00")
    assert (first["fund_change"], second["fund_change"]) == ("Y", "N")


async def test_what_cannot_be_refunded(shop: AlipayShop, clock: FakeClock) -> None:
    assert (await refund(shop, "A0", "1.00", "R1"))["sub_code"] == "ACQ.TRADE_NOT_EXIST"
    await shop.open_page("A1", "1.00")
    assert (await refund(shop, "A1", "1.00", "R1"))["sub_code"] == "ACQ.TRADE_STATUS_ERROR"
    await shop.call(CLOSE, out_trade_no="A1")
    assert (await refund(shop, "A1", "1.00", "R1"))["sub_code"] == "ACQ.TRADE_HAS_CLOSE"
    await shop.buy("A2", "1.00")
    for wrong in ("0.00", "0.001", "x", ""):
        answer = await refund(shop, "A2", wrong, "R1")
        assert answer["sub_code"] == "ACQ.INVALID_PARAMETER"
    clock.advance(365 * 86_400)
    assert (await refund(shop, "A2", "1.00", "R1"))["sub_code"] == "ACQ.TRADE_HAS_FINISHED"
    assert (await shop.call(QUERY, out_trade_no="A2"))["trade_status"] == "TRADE_FINISHED"
    assert await shop.money() == [("capture", "A2", "1.00")]


async def test_a_refund_query_never_says_failed(shop: AlipayShop) -> None:
    await shop.buy("A1", "10.00")
    await refund(shop, "A1", "4.00", "R1")
    found = await shop.call(
        REFUND_QUERY, out_trade_no="A1", out_request_no="R1", query_options=["gmt_refund_pay"]
    )
    assert (found["refund_status"], found["refund_amount"]) == ("REFUND_SUCCESS", "4.00")
    assert found["gmt_refund_pay"] == "2026-11-20 20:00:00"
    unknown = await shop.call(REFUND_QUERY, out_trade_no="A1", out_request_no="R2")
    assert unknown == {"code": "10000", "msg": "Success", "signed": True}
    missing = await shop.call(REFUND_QUERY, out_trade_no="A1")
    assert missing["sub_code"] == "ACQ.INVALID_PARAMETER"
    nothing = await shop.call(REFUND_QUERY, out_trade_no="A2", out_request_no="R1")
    assert nothing["sub_code"] == "ACQ.TRADE_NOT_EXIST"


@pytest.mark.parametrize(
    ("amount", "fields"),
    [
        ("77.01", {"trade_status": "TRADE_SUCCESS", "credit_pay_mode": "creditAdvanceV2"}),
        ("177.02", {"trade_status": "TRADE_FINISHED"}),
        ("77.03", {"trade_status": UNKNOWN_STATUS}),
        ("77.08", {"trade_status": "TRADE_SUCCESS", "signed": False}),
    ],
)
async def test_amounts_that_show_after_the_payment(
    shop: AlipayShop, amount: str, fields: dict[str, Any]
) -> None:
    await shop.buy("A1", amount)
    found = await shop.call(QUERY, out_trade_no="A1")
    assert {name: found[name] for name in fields} == fields
    assert len(await shop.money()) == 1


async def test_amounts_that_show_in_the_first_answer(shop: AlipayShop, clock: FakeClock) -> None:
    await shop.open_page("A5", "77.05")
    assert (await shop.call(QUERY, out_trade_no="A5"))["code"] == "10003"
    await shop.open_page("A6", "77.06")
    assert (await shop.call(QUERY, out_trade_no="A6"))["code"] == "20000"
    assert (await shop.call(QUERY, out_trade_no="A6"))["code"] == "10000"
    await shop.open_page("A7", "77.07")
    assert (await shop.call(QUERY, out_trade_no="A7"))["sub_code"] == "ACQ.SYSTEM_ERROR"
    assert (await shop.call(QUERY, out_trade_no="A7"))["code"] == "10000"
    await shop.open_page("A9", "77.09")
    assert (await shop.call(CLOSE, out_trade_no="A9"))["sub_code"] == "ACQ.SYSTEM_ERROR"
    assert (await shop.call(QUERY, out_trade_no="A9"))["trade_status"] == "TRADE_CLOSED"
    await shop.buy("A10", "77.10", notify_url=NOTIFY)
    assert not shop.notices()
    assert (await shop.precreate("A11", "77.11"))["sub_code"] == "ACQ.SYSTEM_ERROR"
    assert (await shop.precreate("A11", "77.11"))["code"] == "10000"
    await shop.open_page("A4", "77.04")
    await shop.call(CLOSE, out_trade_no="A4")
    clock.advance(60)
    assert (await shop.call(QUERY, out_trade_no="A4"))["trade_status"] == "TRADE_SUCCESS"


@pytest.mark.parametrize(
    ("amount", "first", "second", "moved"),
    [
        ("77.41", ("10000", "N"), ("10000", "N"), 0),
        ("77.42", ("10000", "Y"), ("10000", "N"), 1),
        ("77.43", ("ACQ.SELLER_BALANCE_NOT_ENOUGH", ""), ("10000", "Y"), 1),
        ("77.44", ("ACQ.TRADE_NOT_ALLOW_REFUND", ""), ("ACQ.TRADE_NOT_ALLOW_REFUND", ""), 0),
        ("77.45", ("ACQ.SYSTEM_ERROR", ""), ("10000", "N"), 1),
        ("77.46", ("ACQ.SYSTEM_ERROR", ""), ("10000", "Y"), 1),
        ("77.47", ("isp.unknow-error", ""), ("10000", "N"), 1),
        ("77.48", ("10000", "N"), ("10000", "Y"), 1),
    ],
)
async def test_amounts_of_refunds(
    shop: AlipayShop,
    amount: str,
    first: tuple[str, str],
    second: tuple[str, str],
    moved: int,
) -> None:
    await shop.buy("A1", "100.00")
    for expected in (first, second):
        answer = await refund(shop, "A1", amount, "R1")
        said = answer.get("sub_code", answer["code"]), answer.get("fund_change", "")
        assert said == expected
    assert (await shop.money())[1:] == [("refund", "R1", amount)] * moved


async def test_a_refund_comes_late_and_another_comes_back(
    shop: AlipayShop, clock: FakeClock
) -> None:
    await shop.buy("A1", "200.00")
    await refund(shop, "A1", "77.41", "R1")
    asked = {"out_trade_no": "A1", "out_request_no": "R1"}
    assert "refund_status" not in await shop.call(REFUND_QUERY, **asked)
    clock.advance(60)
    assert (await shop.call(REFUND_QUERY, **asked))["refund_status"] == "REFUND_SUCCESS"
    await refund(shop, "A1", "77.42", "R2")
    clock.advance(3600)
    await shop.call(QUERY, out_trade_no="A1")
    assert [one[0] for one in await shop.money()] == [
        "capture",
        "refund",
        "refund",
        "refund_reversed",
    ]
    [back] = shop.notices()
    assert json.loads(back["biz_content"])["out_request_no"] == "R2"


async def test_notices_of_payment_and_refund(shop: AlipayShop, clock: FakeClock) -> None:
    await shop.client.post("/_sim/alipay", json={"empty_field": True})
    trade_no = await shop.buy("A1", "10.00", notify_url=NOTIFY, body="a+b %26 中文")
    [paid] = shop.notices()
    assert paid | {"refund_fee": ""} == paid  # empty, and not signed
    wanted = {"trade_no": trade_no, "out_trade_no": "A1", "trade_status": "TRADE_SUCCESS"}
    wanted |= {"total_amount": "10.00", "app_id": "2021000000000001", "body": "a+b %26 中文"}
    wanted |= {"gmt_payment": "2026-11-20 20:00:00", "notify_type": "trade_status_sync"}
    assert {name: paid[name] for name in wanted} == wanted
    await refund(shop, "A1", "4.00", "R1")
    _, back = shop.notices()
    assert (back["refund_fee"], back["out_biz_no"]) == ("4.00", "R1")
    assert (back["trade_status"], back["notify_id"] == paid["notify_id"]) == (
        "TRADE_SUCCESS",
        False,
    )
    await shop.client.post("/_sim/alipay", json={"refund_notices": False})
    clock.advance(3)
    await refund(shop, "A1", "6.00", "R2")
    assert len(shop.notices()) == 2


def test_a_notice_is_repeated_until_success(shop: AlipayShop) -> None:
    rule = ALIPAY.rule(shop.simulation.config, shop.simulation.clock)
    pauses = [rule.pause_seconds(tries, 200) for tries in range(1, len(RETRY_SECONDS) + 2)]
    assert pauses == [240, 600, 600, 3600, 7200, 21600, 54000, None]
    assert rule.is_accepted(200, b"success")
    for status, body in (
        (200, b"success\n"),
        (200, b'"success"'),
        (200, b"fail"),
        (302, b"success"),
    ):
        assert not rule.is_accepted(status, body)


async def test_each_try_is_signed_with_its_own_time(shop: AlipayShop, clock: FakeClock) -> None:
    await shop.buy("A1", "10.00", notify_url=NOTIFY)
    rule = ALIPAY.rule(shop.simulation.config, shop.simulation.clock)
    [delivery] = shop.simulation.deliveries.deliveries
    bodies = []
    for tries in (1, 2):
        bodies.append(rule.render(delivery.notice, Target(url=NOTIFY), tries).body)
        clock.advance(240)
    first, second = (dict(parse_qsl(body.decode())) for body in bodies)
    assert all(map(is_notice_signed, bodies))
    assert first["notify_id"] == second["notify_id"]
    assert (first["notify_time"], second["notify_time"]) == (
        "2026-11-20 20:00:00",
        "2026-11-20 20:04:00",
    )


@pytest.mark.parametrize("covered", [False, True])
async def test_an_empty_field_is_signed_or_not(shop: AlipayShop, *, covered: bool) -> None:
    await shop.client.post("/_sim/alipay", json={"empty_field": True})
    await shop.buy("A1", "10.00", notify_url=NOTIFY)
    config = replace(shop.simulation.config, signs_empty_fields=covered)
    [delivery] = shop.simulation.deliveries.deliveries
    rule = ALIPAY.rule(config, shop.simulation.clock)
    body = rule.render(delivery.notice, Target(url=NOTIFY), 1).body
    assert b"refund_fee=&" in body
    assert is_notice_signed(body, keep_empty=True) is covered
    assert is_notice_signed(body) is not covered


async def bill(shop: AlipayShop, kind: str, day: str) -> dict[str, list[str]]:
    answer = await shop.call(BILL, bill_type=kind, bill_date=day)
    downloaded = await shop.client.get(answer["bill_download_url"])
    assert downloaded.status_code == 200
    with zipfile.ZipFile(io.BytesIO(downloaded.content), metadata_encoding="gbk") as archive:
        return {
            name: archive.read(name).decode("gb18030").splitlines() for name in archive.namelist()
        }


def rows(lines: list[str]) -> list[dict[str, str]]:
    kept = [line for line in lines if not line.startswith("#")]
    return [{k: v.strip() for k, v in row.items()} for row in csv.DictReader(kept)]


async def test_the_bill_of_a_day_in_china(shop: AlipayShop, clock: FakeClock) -> None:
    trade_no = await shop.buy("A1", "100.00")
    clock.advance(4 * 3600 + 1)  # the next day in China
    await refund(shop, "A1", "10.00", "R1")
    await shop.buy("A2", "1.00")
    clock.advance(9 * 3600 - 2)
    early = await shop.call(BILL, bill_type="trade", bill_date="2026-11-20")
    assert early["sub_code"] == "isp.bill_not_exist"
    clock.advance(1)
    files = await bill(shop, "trade", "2026-11-20")
    assert [name.rpartition("_")[2] for name in files] == ["业务明细(汇总).csv", "业务明细.csv"]
    summary, details = (rows(lines) for lines in files.values())
    [paid] = details
    assert (paid["支付宝交易号"], paid["商户订单号"], paid["业务类型"]) == (trade_no, "A1", "交易")
    assert (paid["订单金额（元）"], paid["服务费（元）"]) == ("100.00", "-0.60")
    assert summary[0]["实收净额（元）"] == "99.40"
    clock.advance(86_400)
    _, details = (rows(lines) for lines in (await bill(shop, "trade", "2026-11-21")).values())
    back = details[0]
    assert (back["业务类型"], back["退款批次号/请求号"]) == ("退款", "R1")
    assert (back["订单金额（元）"], back["服务费（元）"]) == ("-10.00", "0.06")
    [ledger] = (await bill(shop, "signcustomer", "2026-11-21")).values()
    assert [row["账户余额（元）"] for row in rows(ledger)] == ["-10.00", "-9.94", "-8.94", "-8.95"]


@pytest.mark.parametrize(
    ("content", "sub_code"),
    [
        ({"bill_type": "trade", "bill_date": "2026-11-18"}, "isp.bill_not_exist"),  # no trades
        ({"bill_type": "trade", "bill_date": "20261120"}, "invalid_arguments"),
        ({"bill_type": "trade"}, "invalid_arguments"),
        ({"bill_type": "x", "bill_date": "2026-11-20"}, "invalid_arguments"),
    ],
)
async def test_a_bill_that_there_is_not(
    shop: AlipayShop, clock: FakeClock, content: dict[str, str], sub_code: str
) -> None:
    await shop.buy("A1", "100.00")
    clock.advance(86_400)
    assert (await shop.call(BILL, **content))["sub_code"] == sub_code


async def test_the_address_of_a_bill_lives_30_seconds(shop: AlipayShop, clock: FakeClock) -> None:
    await shop.buy("A1", "100.00")
    clock.advance(86_400)
    address = (await shop.call(BILL, bill_type="trade", bill_date="2026-11-20"))[
        "bill_download_url"
    ]
    clock.advance(30)
    assert (await shop.client.get(address)).status_code == 403
    assert (await shop.client.get("/bill/x")).status_code == 403

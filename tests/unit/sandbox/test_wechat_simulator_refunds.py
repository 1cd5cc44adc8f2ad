"""Simulated WeChat Pay without a socket: refunds, notices, bills."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from sandbox.providers.wechat import PROVIDER as WECHAT
from sandbox.providers.wechat.notices import PROBE
from sandbox.providers.wechat.shown import UNKNOWN_STATE
from tests.support.fakes import FakeClock
from tests.support.wechat_shop import (
    NOTIFY,
    REFUNDS,
    WechatShop,
    is_signed_by_wechat,
    simulated_wechat,
)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def shop(clock: FakeClock) -> AsyncIterator[WechatShop]:
    async with simulated_wechat(clock) as it:
        yield it


async def test_a_refund_is_accepted_and_ends_later(shop: WechatShop, clock: FakeClock) -> None:
    transaction_id = await shop.buy("ATT001", 1000)
    made = await shop.refund("ATT001", "R1", 400, 1000, reason="茶", notify_url=NOTIFY)
    assert (made["status_code"], made["status"]) == (200, "PROCESSING")
    assert (made["transaction_id"], made["amount"]["refund"]) == (transaction_id, 400)
    assert (await shop.query("ATT001"))["trade_state"] == "REFUND"
    assert len(await shop.money()) == 1
    clock.advance(5)
    found = await shop.refund_query("R1")
    assert (found["status"], found["success_time"]) == ("SUCCESS", "2026-11-20T20:00:05+08:00")
    assert await shop.money() == [("capture", "ATT001", 1000), ("refund", "R1", 400)]
    kind, told = shop.notices()[-1]
    assert (kind, told["refund_status"], told["out_refund_no"]) == (
        "REFUND.SUCCESS",
        "SUCCESS",
        "R1",
    )


async def test_a_number_of_a_refund_is_one_refund(shop: WechatShop, clock: FakeClock) -> None:
    await shop.buy("ATT001", 1000)
    first = await shop.refund("ATT001", "R1", 400, 1000)
    assert await shop.refund("ATT001", "R1", 400, 1000) == first
    for amount, more in ((401, {}), (400, {"reason": "x"})):
        other = await shop.refund("ATT001", "R1", amount, 1000, **more)
        assert (other["status_code"], other["code"]) == (400, "INVALID_REQUEST")
    clock.advance(59.999)
    soon = await shop.refund("ATT001", "R2", 600, 1000)
    assert (soon["status_code"], soon["code"]) == (429, "FREQUENCY_LIMITED")
    assert (await shop.refund_query("R2"))["code"] == "RESOURCE_NOT_EXISTS"
    clock.advance(0.001)
    assert (await shop.refund("ATT001", "R2", 601, 1000))["code"] == "INVALID_REQUEST"
    assert (await shop.refund("ATT001", "R2", 600, 1000))["status"] == "PROCESSING"


async def test_the_51st_refund_and_the_day_after_the_last(
    shop: WechatShop, clock: FakeClock
) -> None:
    await shop.buy("ATT001", 1000)
    for number in range(50):
        assert (await shop.refund("ATT001", f"R{number}", 1, 1000))["status_code"] == 200
        clock.advance(60)
    last = await shop.refund("ATT001", "R50", 1, 1000)
    assert (last["status_code"], last["code"]) == (403, "RULE_LIMIT")
    await shop.buy("ATT002", 1000)
    clock.advance(365 * 86_400)
    assert (await shop.refund("ATT002", "S1", 1, 1000))["status_code"] == 200
    clock.advance(60)
    late = await shop.refund("ATT002", "S2", 1, 1000)
    assert (late["status_code"], late["code"]) == (403, "RULE_LIMIT")


async def test_what_cannot_be_refunded(shop: WechatShop) -> None:
    unknown = await shop.refund("ATT000", "R1", 1, 100)
    assert (unknown["status_code"], unknown["code"]) == (404, "RESOURCE_NOT_EXISTS")
    await shop.prepay("ATT001", 100)
    assert (await shop.refund("ATT001", "R1", 1, 100))["code"] == "RESOURCE_NOT_EXISTS"
    await shop.buyer("ATT001", "pay")
    assert (await shop.refund("ATT001", "R1", 1, 101))["code"] == "INVALID_REQUEST"
    assert not [one for one in await shop.money() if one[0] == "refund"]


@pytest.mark.parametrize(
    "changed",
    [
        {"out_refund_no": "R 1"},
        {"out_refund_no": "R" * 65},
        {"out_trade_no": 5},
        {"amount": {"refund": 0, "total": 100, "currency": "CNY"}},
        {"amount": {"refund": 1, "total": 100}},
        {"amount": {"refund": 1, "total": 100, "currency": "USD"}},
        {"amount": {"refund": "1", "total": 100, "currency": "CNY"}},
        {"reason": "茶" * 27},  # 81 bytes
        {"reason": ""},
        {"notify_url": "https://shop.example/?a=b"},
        {"mystery": 1},
    ],
)
async def test_a_refund_is_checked(shop: WechatShop, changed: dict[str, Any]) -> None:
    await shop.buy("ATT001", 100)
    amount = {"refund": 1, "total": 100, "currency": "CNY"}
    good = {"out_trade_no": "ATT001", "out_refund_no": "R1", "amount": amount}
    answer = await shop.call("POST", REFUNDS, good | changed)
    assert answer["code"] == "PARAM_ERROR"
    del good["out_trade_no"]
    assert (await shop.call("POST", REFUNDS, good))["code"] == "PARAM_ERROR"


@pytest.mark.parametrize(
    ("amount", "words", "moved"),
    [
        (7741, ("PROCESSING", "PROCESSING", "PROCESSING"), 0),
        (7742, ("PROCESSING", "PROCESSING", "CLOSED"), 0),
        (7743, ("PROCESSING", "PROCESSING", "ABNORMAL"), 0),
        (7744, ("NOT_ENOUGH", "PROCESSING", "SUCCESS"), 1),
        (7745, ("USER_ACCOUNT_ABNORMAL", "USER_ACCOUNT_ABNORMAL", "RESOURCE_NOT_EXISTS"), 0),
        (7746, ("FREQUENCY_LIMITED", "PROCESSING", "SUCCESS"), 1),
        (7747, ("SYSTEM_ERROR", "PROCESSING", "SUCCESS"), 1),
        (7748, (UNKNOWN_STATE, UNKNOWN_STATE, UNKNOWN_STATE), 1),
    ],
)
async def test_amounts_of_refunds(
    shop: WechatShop,
    clock: FakeClock,
    amount: int,
    words: tuple[str, str, str],
    moved: int,
) -> None:
    await shop.buy("ATT001", 10_000)
    *answers, end = words
    for expected in answers:
        answer = await shop.refund("ATT001", "R1", amount, 10_000)
        assert answer.get("status", answer.get("code")) == expected
    clock.advance(5)
    found = await shop.refund_query("R1")
    assert found.get("status", found.get("code")) == end
    assert (await shop.money())[1:] == [("refund", "R1", amount)] * moved


async def test_a_closed_refund_frees_its_money_and_an_abnormal_one_holds_it(
    shop: WechatShop, clock: FakeClock
) -> None:
    await shop.buy("ATT001", 7742)
    await shop.refund("ATT001", "R1", 7742, 7742, notify_url=NOTIFY)
    clock.advance(60)
    assert (await shop.refund("ATT001", "R2", 7742 - 1, 7742))["status"] == "PROCESSING"
    assert [kind for kind, _ in shop.notices()][-1] == "REFUND.CLOSED"
    await shop.buy("ATT002", 7743)
    held = await shop.refund("ATT002", "S1", 7743, 7743, notify_url=NOTIFY)
    clock.advance(60)
    assert (await shop.refund("ATT002", "S2", 1, 7743))["code"] == "INVALID_REQUEST"
    assert [kind for kind, _ in shop.notices()][-1] == "REFUND.ABNORMAL"
    target = f"{REFUNDS}/{held['refund_id']}/apply-abnormal-refund"
    sent = {"out_refund_no": "S1", "type": "USER_BANK_CARD"}
    for wrong in ({"type": "x"}, {"out_refund_no": "R1"}):
        assert (await shop.call("POST", target, sent | wrong))["code"] == "PARAM_ERROR"
    assert (await shop.call("POST", target, sent))["status"] == "PROCESSING"
    assert (await shop.call("POST", target, sent))["code"] == "INVALID_REQUEST"
    clock.advance(5)
    assert (await shop.refund_query("S1"))["status"] == "SUCCESS"
    assert [one for one in await shop.money() if one[1] == "S1"] == [("refund", "S1", 7743)]


async def test_a_slow_refund_ends(shop: WechatShop, clock: FakeClock) -> None:
    await shop.buy("ATT001", 10_000)
    await shop.refund("ATT001", "R1", 7741, 10_000)
    clock.advance(3600)
    assert (await shop.refund_query("R1"))["status"] == "SUCCESS"
    assert not [kind for kind, _ in shop.notices() if kind.startswith("REFUND")]


async def test_each_delivery_of_a_notice_is_signed_anew(shop: WechatShop, clock: FakeClock) -> None:
    await shop.buy("ATT001", 9999)
    [(kind, told)] = shop.notices()
    assert kind == "TRANSACTION.SUCCESS"
    assert (told["out_trade_no"], told["amount"]["total"]) == ("ATT001", 9999)
    assert (told["mchid"], told["appid"]) == ("1900000001", "wx0000000000000001")
    first = shop.rendered(0)
    clock.advance(15)
    second = shop.rendered(0, 2)
    assert first[1] == second[1]
    assert is_signed_by_wechat(*first)
    assert is_signed_by_wechat(*second)
    names = ("Wechatpay-Timestamp", "Wechatpay-Nonce", "Wechatpay-Signature")
    assert all(first[0][name] != second[0][name] for name in names)
    assert not is_signed_by_wechat(first[0], first[1].replace(b"EV-", b"EW-"))


async def test_a_moved_clock_of_the_simulation_does_not_date_signatures(shop: WechatShop) -> None:
    await shop.client.post("/_sim/clock", json={"advance_seconds": 86_400})
    await shop.buy("ATT001", 9999)
    assert shop.rendered(0)[0]["Wechatpay-Timestamp"] == "1795176000"
    assert (await shop.query("ATT001"))["success_time"] == "2026-11-21T20:00:00+08:00"


async def test_probes_are_not_signed(shop: WechatShop) -> None:
    await shop.buy("ATT001", 9999)
    assert (await shop.client.post("/_sim/probe", json={"own_id": "ATT001"})).status_code == 200
    assert shop.notices()[1][0] == PROBE
    headers, body = shop.rendered(1)
    assert headers["Wechatpay-Signature"].startswith("WECHATPAY/SIGNTEST/")
    assert not is_signed_by_wechat(headers, body)
    refused: list[Any] = [{"own_id": "ATT002"}, {}, []]
    for wrong in refused:
        assert (await shop.client.post("/_sim/probe", json=wrong)).status_code == 400


def test_a_notice_is_repeated_fifteen_times(shop: WechatShop) -> None:
    rule = WECHAT.rule(shop.simulation.config, shop.simulation.clock)
    pauses = [rule.pause_seconds(tries, 500) for tries in range(1, 17)]
    assert pauses == [
        *(15, 15, 30, 180, 600, 1200, 1800, 1800, 1800, 3600, 10_800, 10_800, 10_800),
        *(21_600, 21_600, None),
    ]
    assert all(rule.is_accepted(status, b"") for status in (200, 204))
    assert not any(rule.is_accepted(status, b"success") for status in (201, 302, 400, 500))


async def bill(shop: WechatShop, path: str, *, packed: bool = True) -> list[str]:
    suffix = "&tar_type=GZIP" if packed else ""
    found = await shop.call("GET", f"/v3/bill/{path}{suffix}")
    assert found["hash_type"] == "SHA1"
    answer = await shop.send("GET", found["download_url"].removeprefix("http://wechat.test"))
    assert "wechatpay-signature" not in answer.headers
    plain = gzip.decompress(answer.content) if packed else answer.content
    assert hashlib.sha1(plain, usedforsecurity=False).hexdigest() == found["hash_value"]
    return plain.decode("utf-8-sig").split("\r\n")


def rows(lines: list[str]) -> list[dict[str, str]]:
    names = lines[0].split(",")
    values = [line.removeprefix("`").split(",`") for line in lines[1:]]
    return [dict(zip(names, row, strict=True)) for row in values]


async def test_the_bill_of_a_day_in_china(shop: WechatShop, clock: FakeClock) -> None:
    transaction_id = await shop.buy("ATT001", 990)
    clock.advance(60)
    await shop.refund("ATT001", "R1", 100, 990)
    clock.advance(14 * 3600 - 61)  # 09:59:59 of the next day in China
    early = await shop.call("GET", "/v3/bill/tradebill?bill_date=2026-11-20")
    assert early["code"] == "STATEMENT_CREATING"
    clock.advance(1)
    lines = await bill(shop, "tradebill?bill_date=2026-11-20&bill_type=ALL")
    assert len(lines[0].split(",")) == 27
    paid, back = rows(lines[:3])
    assert (paid["微信订单号"], paid["商户订单号"]) == (transaction_id, "ATT001")
    assert (paid["交易状态"], paid["订单金额"], paid["手续费"]) == ("SUCCESS", "9.90", "0.05940")
    assert (paid["商品名称"], paid["申请退款金额"]) == ("tea, 茶", "0.00")
    assert (back["交易状态"], back["商户退款单号"], back["申请退款金额"]) == (
        "REFUND",
        "R1",
        "1.00",
    )
    assert (back["手续费"], back["退款状态"]) == ("-0.00600", "SUCCESS")
    [totals] = rows(lines[3:5])
    assert (totals["总交易单数"], totals["手续费总金额"]) == ("2", "0.05340")
    assert (totals["订单总金额"], totals["申请退款总金额"], lines[5]) == ("9.90", "1.00", "")
    only = await bill(shop, "tradebill?bill_date=2026-11-20&bill_type=SUCCESS", packed=False)
    assert "商户退款单号" not in only[0].split(",")
    assert len(only) == 5
    funds = await bill(shop, "fundflowbill?bill_date=2026-11-20&account_type=BASIC")
    assert [row["账户结余（元）"] for row in rows(funds[:5])] == ["9.90", "9.84", "8.84", "8.85"]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("bill_date=2026-11-18", "NO_STATEMENT_EXIST"),
        ("bill_date=2026-11-20&bill_type=REFUND", "NO_STATEMENT_EXIST"),
        ("bill_date=2026-11-22", "PARAM_ERROR"),
        ("bill_date=2026-08-01", "PARAM_ERROR"),
        ("bill_date=20261120", "PARAM_ERROR"),
        ("bill_type=ALL", "PARAM_ERROR"),
        ("bill_date=2026-11-20&bill_type=X", "PARAM_ERROR"),
        ("bill_date=2026-11-20&tar_type=ZIP", "PARAM_ERROR"),
        ("bill_date=2026-11-20&x=1", "PARAM_ERROR"),
    ],
)
async def test_a_bill_that_there_is_not(
    shop: WechatShop, clock: FakeClock, query: str, code: str
) -> None:
    await shop.buy("ATT001", 990)
    clock.advance(86_400)
    answer = await shop.call("GET", f"/v3/bill/tradebill?{query}")
    assert (answer["status_code"], answer["code"]) == (400, code)


async def test_the_address_of_a_bill_expires(shop: WechatShop, clock: FakeClock) -> None:
    await shop.buy("ATT001", 990)
    clock.advance(86_400)
    found = await shop.call("GET", "/v3/bill/fundflowbill?bill_date=2026-11-20")
    target = found["download_url"].removeprefix("http://wechat.test")
    clock.advance(300)
    assert (await shop.call("GET", target))["code"] == "RESOURCE_NOT_EXISTS"
    wrong = "/v3/bill/fundflowbill?bill_date=2026-11-20&account_type=X"
    assert (await shop.call("GET", wrong))["code"] == "PARAM_ERROR"
    empty = "/v3/bill/fundflowbill?bill_date=2026-11-19"
    assert (await shop.call("GET", empty))["code"] == "NO_STATEMENT_EXIST"

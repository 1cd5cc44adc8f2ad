"""Simulated WeChat Pay without a socket: refusals, the life of orders, triggers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from sandbox.providers.rsa_keys import sign
from sandbox.providers.wechat.shown import UNKNOWN_STATE
from sandbox.providers.wechat.signing import jsapi_text
from tests.support.fakes import FakeClock
from tests.support.provider_keys import MERCHANT
from tests.support.wechat_shop import (
    APPID,
    MCHID,
    TRANSACTIONS,
    WechatShop,
    is_signed_by_wechat,
    simulated_wechat,
)

STAMP = "1795176000"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def shop(clock: FakeClock) -> AsyncIterator[WechatShop]:
    async with simulated_wechat(clock) as it:
        yield it


@pytest.mark.parametrize(
    "changed",
    [
        {"out_trade_no": "ATT01"},
        {"out_trade_no": "A" * 33},
        {"out_trade_no": "ATT 001"},
        {"description": ""},
        {"description": "x" * 128},
        {"notify_url": "http://shop.example/wechat"},
        {"notify_url": "https://shop.example/wechat?a=b"},
        {"amount": {"total": 0, "currency": "CNY"}},
        {"amount": {"total": 1.5}},
        {"amount": {"total": "100"}},
        {"amount": {"total": True}},
        {"amount": {"total": 100, "currency": "USD"}},
        {"amount": {"total": 100, "curency": "CNY"}},
        {"amount": 100},
        {"amount": {}},
        {"time_expire": "2026-11-20T20:00:59+08:00"},
        {"time_expire": "2026-11-27T20:00:01+08:00"},
        {"time_expire": "2026-11-20T20:10:00"},
        {"time_expire": "soon"},
        {"attach": "x" * 129},
        {"payer": {"openid": "o1"}},
        {"mystery": 1},
    ],
)
async def test_a_prepay_is_checked(shop: WechatShop, changed: dict[str, Any]) -> None:
    answer = await shop.call(
        "POST", f"{TRANSACTIONS}/native", {**shop.terms("ATT001", 100), **changed}
    )
    assert (answer["status_code"], answer["code"]) == (400, "PARAM_ERROR")
    assert (await shop.query("ATT001"))["code"] == "ORDER_NOT_EXIST"


@pytest.mark.parametrize("name", ["appid", "mchid", "description", "out_trade_no", "amount"])
async def test_a_field_of_a_prepay_is_missing(shop: WechatShop, name: str) -> None:
    terms = shop.terms("ATT001", 100)
    del terms[name]
    answer = await shop.call("POST", f"{TRANSACTIONS}/native", terms)
    assert answer["code"] == "PARAM_ERROR"
    assert answer["detail"]["field"].startswith(name)


async def test_another_app_or_no_json(shop: WechatShop) -> None:
    other = shop.terms("ATT001", 100) | {"appid": "wx2"}
    answer = await shop.call("POST", f"{TRANSACTIONS}/native", other)
    assert answer["code"] == "APPID_MCHID_NOT_MATCH"
    assert (await shop.call("POST", f"{TRANSACTIONS}/native", [1]))["code"] == "PARAM_ERROR"
    unknown = await shop.call("POST", f"{TRANSACTIONS}/carrier-pigeon", other)
    assert (unknown["status_code"], unknown["code"]) == (404, "RESOURCE_NOT_EXISTS")
    assert (await shop.call("GET", "/v3/x"))["code"] == "RESOURCE_NOT_EXISTS"
    no_mchid = await shop.call("GET", f"{TRANSACTIONS}/out-trade-no/ATT001")
    assert no_mchid["code"] == "PARAM_ERROR"


async def test_an_order_is_paid_by_its_page(shop: WechatShop) -> None:
    code_url = (await shop.prepay("ATT001", 990, attach="x"))["code_url"]
    page = await shop.client.get(code_url)
    assert "¥9.90" in page.text
    assert code_url in page.text
    assert "NOTPAY" in (await shop.client.post(code_url, data={"does": "decline"})).text
    found = await shop.query("ATT001")
    assert found["trade_state"] == "NOTPAY"
    assert "transaction_id" not in found
    assert "SUCCESS" in (await shop.client.post(code_url, data={"does": "pay"})).text
    assert (await shop.client.post(code_url, data={"does": "pay"})).status_code == 409
    found = await shop.query("ATT001")
    assert (found["trade_state"], found["trade_type"]) == ("SUCCESS", "NATIVE")
    assert found["success_time"] == "2026-11-20T20:00:00+08:00"
    assert found["amount"] == {
        "total": 990,
        "payer_total": 990,
        "currency": "CNY",
        "payer_currency": "CNY",
    }
    by_id = f"{TRANSACTIONS}/id/{found['transaction_id']}?mchid={MCHID}"
    assert await shop.call("GET", by_id) == found
    assert await shop.money() == [("capture", "ATT001", 990)]


async def test_h5_comes_back_and_needs_its_scene(shop: WechatShop) -> None:
    target, terms = f"{TRANSACTIONS}/h5", shop.terms("ATT001", 100)
    assert (await shop.call("POST", target, terms))["code"] == "PARAM_ERROR"
    scene = {"payer_client_ip": "127.0.0.1", "h5_info": {"type": "Wap"}}
    made = await shop.call("POST", target, {**terms, "scene_info": scene})
    address = f"{made['h5_url']}&redirect_url=https%3A%2F%2Fshop.example%2Fdone"
    assert (await shop.client.get(address)).status_code == 200
    paid = await shop.client.post(address, data={"does": "pay"})
    assert (paid.status_code, paid.headers["location"]) == (303, "https://shop.example/done")
    assert (await shop.query("ATT001"))["trade_type"] == "MWEB"


async def test_jsapi_parameters_are_checked_where_they_are_given(shop: WechatShop) -> None:
    target, terms = f"{TRANSACTIONS}/jsapi", shop.terms("ATT001", 100)
    assert (await shop.call("POST", target, terms))["code"] == "PARAM_ERROR"
    made = await shop.call("POST", target, {**terms, "payer": {"openid": "o1"}})
    text = jsapi_text(APPID, STAMP, "n", made["prepay_id"])
    good = {
        "appId": APPID,
        "timeStamp": STAMP,
        "nonceStr": "n",
        "package": f"prepay_id={made['prepay_id']}",
        "signType": "RSA",
        "paySign": sign(MERCHANT, text),
    }
    for wrong in ({"nonceStr": "m"}, {"signType": "MD5"}, {"timeStamp": 1}, {"appId": "wx2"}):
        refused = await shop.buyer("ATT001", "pay", params=good | wrong)
        assert refused.status_code == 409
    assert (await shop.buyer("ATT001", "pay", params=good)).status_code == 200
    assert (await shop.query("ATT001"))["payer"] == {"openid": "o1"}


async def test_a_number_is_one_order_for_ever(shop: WechatShop, clock: FakeClock) -> None:
    first = await shop.prepay("ATT001", 100)
    assert await shop.prepay("ATT001", 100) == first
    changed: list[dict[str, Any]] = [{"attach": "x"}, {"description": "y"}]
    for more in changed:
        other = await shop.prepay("ATT001", 100, **more)
        assert (other["status_code"], other["code"]) == (403, "OUT_TRADE_NO_USED")
    assert (await shop.prepay("ATT001", 101))["code"] == "OUT_TRADE_NO_USED"
    clock.advance(2 * 3600)
    assert (await shop.client.get(first["code_url"])).status_code == 404
    assert (await shop.buyer("ATT001", "pay")).status_code == 409
    fresh = await shop.prepay("ATT001", 100)
    assert fresh["status_code"] == 200
    assert fresh != first
    await shop.buyer("ATT001", "pay")
    assert (await shop.prepay("ATT001", 100))["code"] == "OUT_TRADE_NO_USED"
    await shop.prepay("ATT002", 100)
    await shop.close("ATT002")
    assert (await shop.prepay("ATT002", 100))["code"] == "ORDER_CLOSED"
    assert len(await shop.money()) == 1


async def test_close_is_exact(shop: WechatShop) -> None:
    await shop.prepay("ATT001", 100)
    for _ in range(2):  # reentrant
        assert (await shop.close("ATT001")) == {"status_code": 204}
    assert (await shop.query("ATT001"))["trade_state"] == "CLOSED"
    assert (await shop.buyer("ATT001", "pay")).status_code == 409
    await shop.buy("ATT002", 100)
    paid = await shop.close("ATT002")
    assert (paid["status_code"], paid["code"]) == (403, "TRADE_ERROR")
    assert (await shop.close("ATT003"))["code"] == "ORDER_NOT_EXIST"
    target = f"{TRANSACTIONS}/out-trade-no/ATT001/close"
    assert (await shop.call("POST", target, {"mchid": "1"}))["code"] == "PARAM_ERROR"


async def test_a_deadline_does_not_change_the_state(shop: WechatShop, clock: FakeClock) -> None:
    await shop.prepay("ATT001", 100, time_expire="2026-11-20T20:05:00+08:00")
    assert (await shop.buyer("ATT001", "pay_late")).status_code == 409
    clock.advance(300)
    assert (await shop.buyer("ATT001", "pay")).status_code == 409
    assert (await shop.query("ATT001"))["trade_state"] == "NOTPAY"
    assert (await shop.buyer("ATT001", "pay_late")).status_code == 200
    assert (await shop.query("ATT001"))["trade_state"] == "SUCCESS"
    await shop.prepay("ATT002", 100)
    await shop.buyer("ATT002", "expire")
    assert (await shop.buyer("ATT002", "pay")).status_code == 409
    assert (await shop.buyer("ATT002", "fly")).status_code == 409
    assert (await shop.buyer("ATT003", "pay")).status_code == 409


@pytest.mark.parametrize(
    ("total", "fields", "moved"),
    [
        (7701, {"trade_state": "SUCCESS"}, ["capture"]),
        (7702, {"trade_state": UNKNOWN_STATE}, ["capture"]),
        (7703, {"trade_state": "USERPAYING"}, []),
        (7704, {"trade_state": "PAYERROR"}, []),
        (7705, {"trade_state": "REVOKED"}, ["capture", "refund"]),
        (17711, {"trade_state": "ACCEPT"}, []),
    ],
)
async def test_amounts_that_show_after_the_payment(
    shop: WechatShop, total: int, fields: dict[str, str], moved: list[str]
) -> None:
    await shop.buy("ATT001", total)
    found = await shop.query("ATT001")
    assert {name: found[name] for name in fields} == fields
    assert [one[0] for one in await shop.money()] == moved


async def test_amounts_that_show_in_an_answer(shop: WechatShop, clock: FakeClock) -> None:
    await shop.buy("ATT001", 7701)
    found = await shop.query("ATT001")
    assert found["amount"]["payer_total"] == 7601
    assert found["promotion_detail"][0]["amount"] == 100
    await shop.buy("ATT003", 7703)
    clock.advance(30)
    assert (await shop.query("ATT003"))["trade_state"] == "SUCCESS"
    await shop.prepay("ATT006", 7706)
    assert (await shop.query("ATT006"))["status_code"] == 202
    assert (await shop.query("ATT006"))["status_code"] == 200
    await shop.prepay("ATT007", 7707)
    assert (await shop.query("ATT007"))["code"] == "SYSTEM_ERROR"
    assert (await shop.query("ATT007"))["status_code"] == 200
    await shop.prepay("ATT008", 7708)
    assert (await shop.close("ATT008"))["code"] == "RULE_LIMIT"
    assert (await shop.buyer("ATT008", "pay")).status_code == 200
    await shop.prepay("ATT009", 7709)
    assert (await shop.close("ATT009"))["code"] == "SYSTEM_ERROR"
    assert (await shop.query("ATT009"))["trade_state"] == "CLOSED"
    before = len(shop.notices())
    await shop.buy("ATT010", 7710)
    assert len(shop.notices()) == before
    assert (await shop.prepay("ATT012", 7712))["code"] == "SYSTEM_ERROR"
    assert (await shop.prepay("ATT012", 7712))["status_code"] == 200


async def test_answers_misbehave_on_demand(shop: WechatShop) -> None:
    await shop.buy("ATT001", 100)
    target = f"{TRANSACTIONS}/out-trade-no/ATT001?mchid={MCHID}"
    await shop.client.post("/_sim/wechat", json={"unknown_serial": True})
    answer = await shop.send("GET", target)
    assert not is_signed_by_wechat(dict(answer.headers), answer.content)
    assert answer.headers["wechatpay-serial"].startswith("PUB_KEY_ID_9")
    await shop.client.post("/_sim/wechat", json={"unknown_serial": False, "unsigned": True})
    assert "wechatpay-serial" not in (await shop.send("GET", target)).headers
    await shop.client.post("/_sim/wechat", json={"unsigned": False})
    assert (await shop.client.post("/_sim/wechat", json={"x": 1})).status_code == 400
    fault = {"kind": "wrong_word", "path": TRANSACTIONS, "field": "trade_state"}
    assert (await shop.client.post("/_sim/faults", json=fault)).status_code == 201
    assert (await shop.query("ATT001"))["trade_state"] == "BRAND_NEW_WORD"

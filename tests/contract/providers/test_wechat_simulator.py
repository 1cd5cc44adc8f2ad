"""Simulated WeChat Pay judged by a client for Node that others wrote: it signs what we check, and
checks and decrypts what we send.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from mesh.clock import SystemClock
from sandbox.providers.china import china_day
from sandbox.providers.server import RunningProvider, running_provider
from sandbox.providers.wechat import PROVIDER as WECHAT
from sandbox.providers.wechat.objects import WechatConfig
from tests.support.node_clients import run_client
from tests.support.provider_keys import MERCHANT, PROVIDER, private_pem, public_pem
from tests.support.sandbox_server import Receiver
from tests.support.wechat_shop import (
    API_KEY,
    APPID,
    MCHID,
    MERCHANT_SERIAL,
    PROVIDER_SERIAL,
)

ORDERS, REFUNDS = "v3/pay/transactions", "v3/refund/domestic/refunds"


@pytest.fixture
async def wechat() -> AsyncIterator[RunningProvider[WechatConfig]]:
    async with running_provider(WECHAT, clock=SystemClock()) as provider:
        yield provider


@pytest.fixture
async def browser(wechat: RunningProvider[WechatConfig]) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=wechat.url, trust_env=False) as client:
        yield client


async def foreign(base_url: str, *steps: dict[str, Any], **config: Any) -> list[Any]:
    known = {
        "mchid": MCHID,
        "serial": MERCHANT_SERIAL,
        "privateKey": private_pem(MERCHANT),
        "certs": {PROVIDER_SERIAL: public_pem(PROVIDER)},
        "baseURL": f"{base_url}/",
    }
    sent = {"config": known | config, "apiKey": API_KEY, "steps": list(steps)}
    return await run_client("wechat.mjs", "wechatpay-axios-plugin", sent)


def post(path: str, data: Any) -> dict[str, Any]:
    return {"call": path, "method": "post", "data": data}


def get(path: str, **params: str) -> dict[str, Any]:
    return {"call": path, "method": "get", "params": params}


def terms(number: str, total: int, notify_url: str, **more: Any) -> dict[str, Any]:
    return {
        "appid": APPID,
        "mchid": MCHID,
        "description": "tea, 茶",
        "out_trade_no": number,
        "notify_url": notify_url,
        "amount": {"total": total, "currency": "CNY"},
        **more,
    }


def refund(number: str, request: str, amount: int, total: int, notify_url: str) -> dict[str, Any]:
    return post(
        REFUNDS,
        {
            "out_trade_no": number,
            "out_refund_no": request,
            "notify_url": notify_url,
            "amount": {"refund": amount, "total": total, "currency": "CNY"},
        },
    )


async def test_an_order_is_paid_refunded_and_told(
    wechat: RunningProvider[WechatConfig], browser: httpx.AsyncClient, receiver: Receiver
) -> None:
    order = f"{ORDERS}/out-trade-no/ATT001"
    made, waiting = await foreign(
        wechat.url,
        post(f"{ORDERS}/native", terms("ATT001", 9990, receiver.url)),
        get(order, mchid=MCHID),
    )
    assert (waiting["status"], waiting["data"]["trade_state"]) == (200, "NOTPAY")
    await browser.post(made["data"]["code_url"], data={"does": "pay"})
    found, refunded, again, unpaid = await foreign(
        wechat.url,
        get(order, mchid=MCHID),
        refund("ATT001", "R1", 1000, 9990, receiver.url),
        refund("ATT001", "R1", 1000, 9990, receiver.url),
        post(f"{order}/close", {"mchid": MCHID}),
    )
    assert found["data"]["trade_state"] == "SUCCESS"
    assert refunded["data"]["status"] == again["data"]["status"] == "PROCESSING"
    assert (unpaid["status"], unpaid["data"]["code"]) == (403, "TRADE_ERROR")
    await browser.post("/_sim/clock", json={"advance_seconds": 60})
    [ended] = await foreign(wechat.url, get(f"{REFUNDS}/R1"))
    assert ended["data"]["status"] == "SUCCESS"
    await browser.post("/_sim/webhooks/flush")
    assert len(receiver.requests) == 2
    notices = [{"notice": body.decode(), "headers": headers} for headers, body in receiver.requests]
    headers, body = receiver.requests[0]
    forged = {"notice": body.decode().replace("EV-", "EW-"), "headers": headers}
    paid, back, refused = await foreign(wechat.url, *notices, forged)
    assert (paid["out_trade_no"], paid["amount"]["total"]) == ("ATT001", 9990)
    assert (back["out_refund_no"], back["refund_status"]) == ("R1", "SUCCESS")
    assert refused == {"error": "signature"}


async def test_orders_of_every_kind_are_made_and_closed(
    wechat: RunningProvider[WechatConfig],
) -> None:
    url = "https://shop.example/wechat"
    scene = {"payer_client_ip": "127.0.0.1", "h5_info": {"type": "Wap"}}
    jsapi, h5, app, closed, found, missing = await foreign(
        wechat.url,
        post(f"{ORDERS}/jsapi", terms("ATT002", 100, url, payer={"openid": "o1"})),
        post(f"{ORDERS}/h5", terms("ATT003", 100, url, scene_info=scene)),
        post(f"{ORDERS}/app", terms("ATT004", 100, url)),
        post(f"{ORDERS}/out-trade-no/ATT003/close", {"mchid": MCHID}),
        get(f"{ORDERS}/out-trade-no/ATT003", mchid=MCHID),
        get(f"{ORDERS}/out-trade-no/ATT009", mchid=MCHID),
    )
    assert jsapi["data"]["prepay_id"].startswith("wx")
    assert h5["data"]["h5_url"].startswith("http")
    assert app["data"]["prepay_id"].startswith("wx")
    assert closed["status"] == 204
    assert found["data"]["trade_state"] == "CLOSED"
    assert (missing["status"], missing["data"]["code"]) == (404, "ORDER_NOT_EXIST")


async def test_the_bill_is_read(
    wechat: RunningProvider[WechatConfig], browser: httpx.AsyncClient
) -> None:
    await foreign(
        wechat.url, post(f"{ORDERS}/native", terms("ATT005", 990, "https://shop.example/wechat"))
    )
    await browser.post("/_sim/buyer", json={"own_id": "ATT005", "does": "pay"})
    day = china_day(wechat.simulation.money.movements[0].at).isoformat()
    await browser.post("/_sim/clock", json={"advance_seconds": 2 * 86_400})
    query = {"bill_date": day, "bill_type": "ALL", "tar_type": "GZIP"}
    bill, none = await foreign(
        wechat.url, {"bill": query}, get("v3/bill/tradebill", **(query | {"bill_type": "REFUND"}))
    )
    assert bill["intact"]
    [row] = bill["rows"]
    assert (row["商户订单号"], row["订单金额"], row["商品名称"]) == ("ATT005", "9.90", "tea, 茶")
    assert bill["summary"]["手续费总金额"] == "0.05940"
    assert (none["status"], none["data"]["code"]) == (400, "NO_STATEMENT_EXIST")


async def test_a_refund_whose_answer_is_lost_happens_once(
    wechat: RunningProvider[WechatConfig], browser: httpx.AsyncClient
) -> None:
    url = "https://shop.example/wechat"
    await foreign(wechat.url, post(f"{ORDERS}/native", terms("ATT007", 900, url)))
    await browser.post("/_sim/buyer", json={"own_id": "ATT007", "does": "pay"})
    fault = {"kind": "lost_answer", "method": "POST", "path": f"/{REFUNDS}"}
    assert (await browser.post("/_sim/faults", json=fault)).status_code == 201
    asked = refund("ATT007", "R1", 100, 900, url)
    lost, again = await foreign(wechat.url, asked, asked)
    assert "error" in lost
    assert again["data"]["status"] == "PROCESSING"
    await browser.post("/_sim/clock", json={"advance_seconds": 60})
    moved = (await browser.get("/_sim/money")).json()["movements"]
    assert [one["kind"] for one in moved] == ["capture", "refund"]


async def test_another_key_is_refused_on_both_sides(wechat: RunningProvider[WechatConfig]) -> None:
    made = post(f"{ORDERS}/native", terms("ATT006", 100, "https://shop.example/wechat"))
    [refused] = await foreign(wechat.url, made, privateKey=private_pem(PROVIDER))
    assert (refused["status"], refused["data"]["code"]) == (401, "SIGN_ERROR")
    [doubted] = await foreign(wechat.url, made, certs={PROVIDER_SERIAL: public_pem(MERCHANT)})
    assert "Verify the response" in doubted["error"]

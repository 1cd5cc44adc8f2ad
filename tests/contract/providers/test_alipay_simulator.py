"""Simulated Alipay judged by Alipay's own client for Node: it signs what we check and checks what
we sign.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest

from mesh.clock import SystemClock
from sandbox.providers.alipay import PROVIDER as ALIPAY
from sandbox.providers.alipay.objects import AlipayConfig
from sandbox.providers.china import china_day
from sandbox.providers.server import RunningProvider, running_provider
from tests.support.node_clients import run_client
from tests.support.provider_keys import MERCHANT, PROVIDER, private_pem, public_pem
from tests.support.sandbox_server import Receiver

APP_ID = "2021000000000001"
QUERY, REFUND = "alipay.trade.query", "alipay.trade.refund"
BILL = "alipay.data.dataservice.bill.downloadurl.query"


@pytest.fixture
async def alipay() -> AsyncIterator[RunningProvider[AlipayConfig]]:
    async with running_provider(ALIPAY, clock=SystemClock()) as provider:
        yield provider


@pytest.fixture
async def browser(alipay: RunningProvider[AlipayConfig]) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=alipay.url, trust_env=False) as client:
        yield client


async def official(gateway: str, *steps: dict[str, Any], **config: str) -> list[Any]:
    keys = {
        "appId": APP_ID,
        "privateKey": private_pem(MERCHANT),
        "alipayPublicKey": public_pem(PROVIDER),
        "gateway": f"{gateway}/gateway.do",
    }
    sent = {"config": keys | config, "steps": list(steps)}
    return await run_client("alipay.mjs", "alipay-sdk", sent)


def call(method: str, **content: Any) -> dict[str, Any]:
    return {"exec": method, "params": {"bizContent": content}}


def terms(number: str, amount: str, product: str) -> dict[str, str]:
    return {
        "out_trade_no": number,
        "total_amount": amount,
        "subject": "tea 100% 茶 {",
        "product_code": product,
    }


async def test_a_page_is_opened_paid_refunded_and_told(
    alipay: RunningProvider[AlipayConfig], browser: httpx.AsyncClient, receiver: Receiver
) -> None:
    params = {
        "notifyUrl": receiver.url,
        "returnUrl": "https://shop.example/back",
        "bizContent": terms("ATT1", "99.90", "FAST_INSTANT_TRADE_PAY") | {"body": "a+b %26 中文"},
    }
    page, before = await official(
        alipay.url,
        {"page": "alipay.trade.page.pay", "params": params},
        call(QUERY, out_trade_no="ATT1"),
    )
    assert before["subCode"] == "ACQ.TRADE_NOT_EXIST"
    shown = await browser.get(page)
    assert "¥99.90" in shown.text
    [waiting] = await official(alipay.url, call(QUERY, out_trade_no="ATT1"))
    assert (waiting["code"], waiting["tradeStatus"]) == ("10000", "WAIT_BUYER_PAY")
    paid = await browser.post(f"/cashier/{waiting['tradeNo']}", data={"does": "pay"})
    assert paid.status_code == 303
    found, refunded, again, asked, over = await official(
        alipay.url,
        call(QUERY, out_trade_no="ATT1"),
        call(REFUND, out_trade_no="ATT1", refund_amount="10.00", out_request_no="R1"),
        call(REFUND, out_trade_no="ATT1", refund_amount="10.00", out_request_no="R1"),
        call("alipay.trade.fastpay.refund.query", out_trade_no="ATT1", out_request_no="R1"),
        call("alipay.trade.close", out_trade_no="ATT1"),
    )
    assert (found["tradeStatus"], found["totalAmount"]) == ("TRADE_SUCCESS", "99.90")
    assert (refunded["fundChange"], again["fundChange"]) == ("Y", "N")
    assert (asked["refundStatus"], asked["refundAmount"]) == ("REFUND_SUCCESS", "10.00")
    assert over["subCode"] == "ACQ.TRADE_STATUS_ERROR"
    await browser.post("/_sim/webhooks/flush")
    assert len(receiver.requests) == 2
    bodies = [body.decode() for body in receiver.bodies()]
    back = urlsplit(paid.headers["location"]).query
    forged = bodies[0].replace("99.90", "99.91")
    checks = await official(alipay.url, *({"notice": one} for one in (*bodies, back, forged)))
    assert checks == [True, True, True, False]
    told = dict(parse_qsl(bodies[0]))
    assert (told["out_trade_no"], told["body"]) == ("ATT1", "a+b %26 中文")


async def test_a_code_is_scanned_and_the_bill_lists_it(
    alipay: RunningProvider[AlipayConfig], browser: httpx.AsyncClient
) -> None:
    [code] = await official(
        alipay.url, call("alipay.trade.precreate", **terms("ATT2", "1.00", "QR_CODE_OFFLINE"))
    )
    assert "¥1.00" in (await browser.get(code["qrCode"])).text
    assert (await browser.post("/_sim/buyer", json={"own_id": "ATT2", "does": "pay"})).is_success
    day = china_day(alipay.simulation.money.movements[0].at).isoformat()
    await browser.post("/_sim/clock", json={"advance_seconds": 2 * 86_400})
    bill, none = await official(
        alipay.url,
        call(BILL, bill_type="trade", bill_date=day),
        call(BILL, bill_type="trade", bill_date="2020-01-01"),
    )
    assert none["subCode"] == "isp.bill_not_exist"
    packed = (await browser.get(bill["billDownloadUrl"])).content
    with zipfile.ZipFile(io.BytesIO(packed), metadata_encoding="gbk") as archive:
        [details] = [name for name in archive.namelist() if name.endswith("业务明细.csv")]
        assert "ATT2" in archive.read(details).decode("gbk")


async def test_a_refund_whose_answer_is_lost_happens_once(
    alipay: RunningProvider[AlipayConfig], browser: httpx.AsyncClient
) -> None:
    made = call("alipay.trade.precreate", **terms("ATT4", "9.00", "QR_CODE_OFFLINE"))
    await official(alipay.url, made)
    await browser.post("/_sim/buyer", json={"own_id": "ATT4", "does": "pay"})
    fault = {"kind": "lost_answer", "path": "/gateway.do", "contains": REFUND}
    assert (await browser.post("/_sim/faults", json=fault)).status_code == 201
    refund = call(REFUND, out_trade_no="ATT4", refund_amount="1.00", out_request_no="R1")
    lost, again = await official(alipay.url, refund, refund)
    assert lost.get("fundChange") != "Y"  # an error, or the client itself asked again
    assert (again["fundChange"], again["refundFee"]) == ("N", "1.00")
    moved = (await browser.get("/_sim/money")).json()["movements"]
    assert [one["kind"] for one in moved] == ["capture", "refund"]


async def test_another_key_is_refused_on_both_sides(alipay: RunningProvider[AlipayConfig]) -> None:
    asked = call(QUERY, out_trade_no="ATT3")
    [refused] = await official(alipay.url, asked, privateKey=private_pem(PROVIDER))
    assert refused["subCode"] == "isv.invalid-signature"
    [doubted] = await official(alipay.url, asked, alipayPublicKey=public_pem(MERCHANT))
    assert "验签失败" in doubted["error"]
    [stranger] = await official(alipay.url, asked, appId="2021000000000009")
    assert stranger["subCode"] == "isv.invalid-app-id"

"""The signatures of simulated WeChat Pay: published vectors, headers of requests, encryption."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from cryptography.exceptions import InvalidTag

from sandbox.providers.rsa_keys import is_signed, sign
from sandbox.providers.wechat.errors import Refused
from sandbox.providers.wechat.objects import WechatConfig
from sandbox.providers.wechat.signing import (
    answer_text,
    check_request,
    encrypted,
    is_jsapi_signed,
    jsapi_text,
    request_text,
)
from tests.support.fakes import FakeClock
from tests.support.provider_keys import MERCHANT, PROVIDER
from tests.support.wechat_shop import (
    API_KEY,
    APPID,
    MCHID,
    MERCHANT_SERIAL,
    TRANSACTIONS,
    WechatShop,
    decrypted,
    simulated_wechat,
)

STAMP, NONCE = "1795176000", "00000000000000000000000000000001"
STAMPED_AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
# made once, and accepted by client libraries of others
POST_PATH = "/v3/pay/transactions/native"
POST_BODY = (
    '{"appid":"wx0000000000000001","mchid":"1900000001","description":"paymesh test","out'
    '_trade_no":"ATT0001","notify_url":"https://shop.example/wechat","amount":{"total":99'
    '99,"currency":"CNY"}}'
)
POST_SIGNATURE = (
    "A7pMnmtcWGNAWeSEydWuDWXXNCjl9xjUXsXyDIy3i81mWeogWfzhPLRU85DzNV+vv+IRFlr+aiLoxto3HLZz"
    "OqQqSIav1vUfXlqCLEgOY8NOLWR5furDI6WT/e4lYrIdKUg+EHQ+Bl2ZoKuwJ9gYIhWvbEgQj1ibX4VRwjBC"
    "LR4FhfUWnDf1p7p3UsxyFjP40HbUCAs+YdL34agkZ2apRXTuX3TDnqPN2UTWBrbv5bmQrw5mjpgyPfc2nra2"
    "eUbc28jjvNTJ9UKqfKBrLSdibh2Z9uKdc+Jz254VtL917eB9h/apkgQS6rsN8WdSoW4nxOz6qns0lJ8VV84u"
    "ET/IAQ=="
)
GET_PATH = "/v3/pay/transactions/out-trade-no/ATT0001?mchid=1900000001"
GET_SIGNATURE = (
    "etcz72SO9CVZO4OyLOuy7hnMNoTShT+sHF8Pozh3E1iCbInT+D0YT7xYw6ZXPd7gweFfGjR1RUbsbAxTOTxG"
    "w1whs1CMChCYli0hmAktELnG6ccCCK60tKy1AfsIbnTMKyzlA12UPhmP+Lc3HLQKelPk3vUqa1DGvj+GuxVf"
    "BnV6b5TQNhRW2o4b564M0SWvb8xuT13QA6UywWu8v2kwZIS4j/pXCIcMkbUuMUzHxm6zELZButzhd8u0UiPb"
    "qGyu0mP6QplHiU+Pmmdli2MLRMITc1XKZp2B3uxAfvmBjsOPOQTiACAlJ6GlbE9qC0USahWPYJE/tv/5Zjw3"
    "N4Nyvw=="
)
JSAPI_PACKAGE = "prepay_id=wx201410272009395522657a690389285100"
JSAPI_SIGNATURE = (
    "tP2zGXHMML2GnEy87iXWgZ4ZRLh/gW/n1mmzM/XWkykhWHBNZ6WD/RuvUrusL5EUKPKLxuJoSnPrf0DivkIT"
    "yYrasLiOpKl1DCY+MKs4tYr0wAyjcki5pVqYHxRCeTSOSPMBtnncD39L98GtuFZLZQ2FL+pGYrX6OsujSph5"
    "/PTIJr+Dnn0ImNHh/sTQngQjd1U32K3OILogAsIbEnhX4ctFegDZZ9hBHEdN9wCaC8apdRVqN2LNMqrhI4Au"
    "/42BDfhO7x/MxlsoHYE1LYm6L1u0h+YvJK1n0cn2ZCFkAZwAkyBgnnk6ilfdreytW1LnajEm6ZWRq0yJdJgt"
    "eNcISQ=="
)
NOTICE_BODY = (
    '{"id":"EV-0001","create_time":"2026-11-20T20:00:00+08:00","resource_type":"encrypt-r'
    'esource","event_type":"TRANSACTION.SUCCESS","summary":"支付成功","resource":{"original_t'
    'ype":"transaction","algorithm":"AEAD_AES_256_GCM","ciphertext":"zAJ1Sm6fyXHaO0V6zrSw'
    "7U5ohoxsqxPMxUWELQ+A1oz707DRx45cIHLPox4Qaa7Y5jnDH1mWtfC8/e7vMYpd78szgA5EEqxz8sByXKH2"
    "2QsnzJg6TYCI4zIEuK7xDAe8ogEOC5FaAeNsXqI3vqA8LgslwpYLkgBLdsQOSwSxy20rRgRqAAR54lyc3A66"
    "CflICp46+/aGcKPW0z6XQ5Jtr8pxXyrrJuOQ38KbTKnWjE7otsF7mK7ARDxK9SYzlFlZWvcd6LilOMxmxHCq"
    "nFxPAeDQoNeS+QwA77AFTpo1ahc3OyorbdPjzBC5+EhKrH32IldED2OOU3PXAJnb5/9MRWMas92NnTg1UmUW"
    "zv3Q0bTZpB+RQnKS6XwnhBqmGYSpxGBSrnVGLiVr2ji+QNTMENQKihaE9YJ6pqQTWbtvXFc6A++YML8gnMOd"
    "2v1c8atmpF+n5Ia+9i9K164X3wq1iQ398fqpee+InXsrzWAfoKXheWaGM9m+XlvADJ28UBP+QRjyxO9u+05K"
    'Rms=","associated_data":"transaction","nonce":"paymesh12345"}}'
)
NOTICE_SIGNATURE = (
    "BtkZmNeRvQruc26v58aUYWM/91/0biYoaJWA04zSz+Ignp2mS05vWOp6xFSnPWRvNd7e957Byl960VlU6Dnl"
    "KRSZAj4Bl2MybuiAYlDqTdzBMnlVzB4y5J2lGtdoczbifYMCAobzhVIIJvy4JDYe1BtzJM11T/Xxpm9CLmSX"
    "JHb2OM6YLuJxp/YyFvaq7LXaBWvgMmXorbBKbH9tnkzgz1l3FmaxIkjSqSLBVuwk7C3dbnJdCBOa2Z8j3pYx"
    "UDmIfIBEf2Uj2x7YcRDnp8VEC7cafabl9s/hK1rOhY1Sbyb/GOgJpsP87LBZbljo02O/Hn9VXsHSr4yDHu9/"
    "pTzdfg=="
)
NOTICE_SHA256 = "1c4b8bc812118ecfb753eb559f8af7cec1e0ba2535ed714eee876b6c534089d3"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def shop(clock: FakeClock) -> AsyncIterator[WechatShop]:
    async with simulated_wechat(clock) as it:
        yield it


def vector_header(signature: str) -> str:
    return (
        f'WECHATPAY2-SHA256-RSA2048 mchid="{MCHID}",nonce_str="{NONCE}",signature="{signature}",'
        f'timestamp="{STAMP}",serial_no="{MERCHANT_SERIAL}"'
    )


def check_vector(header: str, *, config: WechatConfig | None = None) -> None:
    check_request(
        config or WechatConfig(),
        header,
        method="POST",
        target=POST_PATH,
        body=POST_BODY.encode(),
        now=STAMPED_AT,
    )


def test_the_vectors_of_requests() -> None:
    check_vector(vector_header(POST_SIGNATURE))
    text = request_text("POST", POST_PATH, STAMP, NONCE, POST_BODY.encode())
    assert sign(MERCHANT, text) == POST_SIGNATURE
    assert sign(MERCHANT, request_text("GET", GET_PATH, STAMP, NONCE, b"")) == GET_SIGNATURE
    with pytest.raises(Refused, match="SIGN_ERROR"):
        check_vector(vector_header(GET_SIGNATURE))
    with pytest.raises(Refused, match="SIGN_ERROR"):
        check_vector(
            vector_header(POST_SIGNATURE), config=WechatConfig(merchant_key=PROVIDER.public_key())
        )


def test_the_vector_of_jsapi_parameters() -> None:
    prepay_id = JSAPI_PACKAGE.removeprefix("prepay_id=")
    assert sign(MERCHANT, jsapi_text(APPID, STAMP, NONCE, prepay_id)) == JSAPI_SIGNATURE
    for package, good in ((JSAPI_PACKAGE, True), ("prepay_id=wx2", False), (prepay_id, False)):
        signed = is_jsapi_signed(
            MERCHANT.public_key(),
            appid=APPID,
            timestamp=STAMP,
            nonce=NONCE,
            package=package,
            signature=JSAPI_SIGNATURE,
        )
        assert signed is good


def test_the_vector_of_notices() -> None:
    body = NOTICE_BODY.encode()
    assert hashlib.sha256(body).hexdigest() == NOTICE_SHA256
    assert sign(PROVIDER, answer_text(STAMP, NONCE, body)) == NOTICE_SIGNATURE
    told = decrypted(body)
    assert (told["out_trade_no"], told["trade_state"]) == ("ATT0001", "SUCCESS")
    assert told["amount"]["total"] == 9999
    resource = json.loads(body)["resource"]
    plain = json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode()
    made = encrypted(API_KEY, plain, associated_data="transaction", nonce=resource["nonce"])
    assert {**made, "original_type": "transaction"} == resource


@pytest.mark.parametrize(
    ("stamp", "body", "signature"),
    [
        ("1795176001", NOTICE_BODY, NOTICE_SIGNATURE),
        (STAMP, NOTICE_BODY, f"WECHATPAY/SIGNTEST/{NOTICE_SIGNATURE}"),
        (STAMP, json.dumps(json.loads(NOTICE_BODY)), NOTICE_SIGNATURE),
        (STAMP, NOTICE_BODY, ""),
        (STAMP, NOTICE_BODY, sign(MERCHANT, answer_text(STAMP, NONCE, NOTICE_BODY.encode()))),
    ],
)
def test_a_changed_notice_is_not_signed(stamp: str, body: str, signature: str) -> None:
    text = answer_text(stamp, NONCE, body.encode())
    assert not is_signed(PROVIDER.public_key(), text, signature)


def test_another_nonce_does_not_decrypt() -> None:
    changed = NOTICE_BODY.replace("paymesh12345", "paymesh12346")
    with pytest.raises(InvalidTag):
        decrypted(changed.encode())


@pytest.mark.parametrize(
    "changed",
    [
        {"mchid": "1900000002"},
        {"serial_no": "00"},
        {"signature": "x"},
        {"nonce_str": ""},
        {"nonce_str": "x" * 33},
        {"timestamp": "1795176001"},
        {"stamp": "1795175699"},  # 301 s old
        {"stamp": "1795176301"},
        {"stamp": "now"},
        {"extra": "1"},
    ],
)
async def test_the_header_of_a_request_is_checked(
    shop: WechatShop, changed: dict[str, str]
) -> None:
    target = f"{TRANSACTIONS}/out-trade-no/ATT001?mchid={MCHID}"
    header = shop.authorization("GET", target, b"", **changed)
    headers = {"authorization": header, "accept": "application/json", "user-agent": "x"}
    answer = await shop.client.get(target, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (401, "SIGN_ERROR")
    assert "wechatpay-signature" not in answer.headers


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"authorization": ""}, "SIGN_ERROR"),
        ({"authorization": "Basic eDp5"}, "SIGN_ERROR"),
        ({"authorization": "WECHATPAY2-SHA256-RSA2048 nonsense"}, "SIGN_ERROR"),
        ({"user-agent": ""}, "INVALID_REQUEST"),
        ({"accept": "text/html"}, "INVALID_REQUEST"),
        ({"content-type": "text/plain"}, "INVALID_REQUEST"),
        ({}, "SIGN_ERROR"),  # signed for another body
    ],
)
async def test_headers_are_required(shop: WechatShop, headers: dict[str, str], code: str) -> None:
    target = f"{TRANSACTIONS}/native"
    good = {"accept": "application/json", "user-agent": "x", "content-type": "application/json"}
    good["authorization"] = shop.authorization("POST", target, b"{}")
    answer = await shop.client.post(target, content=b"{ }", headers=good | headers)
    assert answer.json()["code"] == code


async def test_the_query_is_signed_as_it_is_sent(shop: WechatShop) -> None:
    await shop.prepay("ATT|01", 100)
    found = await shop.call("GET", f"{TRANSACTIONS}/out-trade-no/ATT%7C01?mchid={MCHID}")
    assert found["out_trade_no"] == "ATT|01"

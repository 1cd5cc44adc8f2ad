"""What is signed and encrypted at WeChat Pay, by vectors that other people's libraries accepted."""

from __future__ import annotations

import base64
import json
from datetime import datetime, timedelta

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mesh.errors import InvalidArgument
from mesh.money import Money
from payment_rpc.channels.inbound import Inbound
from payment_rpc.channels.rsa_signatures import sign
from payment_rpc.channels.wechat.channel import WechatChannel, open_channel
from payment_rpc.channels.wechat.credentials import parse
from payment_rpc.channels.wechat.signatures import (
    Resource,
    authorization,
    client_signature,
    decrypted,
    must_be_signed,
)
from payment_rpc.domain.callback import Subject
from payment_rpc.domain.errors import SignatureInvalid
from payment_rpc.domain.facts import ChannelStatus
from payment_rpc.domain.refund_facts import RefundChannelStatus
from tests.support.china_credentials import VECTOR_TIME, WECHAT
from tests.support.provider_keys import MERCHANT, PROVIDER, public_pem

TIMESTAMP, NONCE = "1795176000", "00000000000000000000000000000001"
SERIAL = "PUB_KEY_ID_0100000000012026100100000000000001"
API_KEY = str(WECHAT["api_v3_key"])
POST_BODY = (
    '{"appid":"wx0000000000000001","mchid":"1900000001","description":"paymesh test","out_t'
    'rade_no":"ATT0001","notify_url":"https://shop.example/wechat","amount":{"total":9999,"'
    'currency":"CNY"}}'
)
POST_SIGNATURE = (
    "A7pMnmtcWGNAWeSEydWuDWXXNCjl9xjUXsXyDIy3i81mWeogWfzhPLRU85DzNV+vv+IRFlr+aiLoxto3HLZzOq"
    "QqSIav1vUfXlqCLEgOY8NOLWR5furDI6WT/e4lYrIdKUg+EHQ+Bl2ZoKuwJ9gYIhWvbEgQj1ibX4VRwjBCLR4F"
    "hfUWnDf1p7p3UsxyFjP40HbUCAs+YdL34agkZ2apRXTuX3TDnqPN2UTWBrbv5bmQrw5mjpgyPfc2nra2eUbc28"
    "jjvNTJ9UKqfKBrLSdibh2Z9uKdc+Jz254VtL917eB9h/apkgQS6rsN8WdSoW4nxOz6qns0lJ8VV84uET/IAQ=="
)
GET_PATH = "/v3/pay/transactions/out-trade-no/ATT0001?mchid=1900000001"
GET_SIGNATURE = (
    "etcz72SO9CVZO4OyLOuy7hnMNoTShT+sHF8Pozh3E1iCbInT+D0YT7xYw6ZXPd7gweFfGjR1RUbsbAxTOTxGw1"
    "whs1CMChCYli0hmAktELnG6ccCCK60tKy1AfsIbnTMKyzlA12UPhmP+Lc3HLQKelPk3vUqa1DGvj+GuxVfBnV6"
    "b5TQNhRW2o4b564M0SWvb8xuT13QA6UywWu8v2kwZIS4j/pXCIcMkbUuMUzHxm6zELZButzhd8u0UiPbqGyu0m"
    "P6QplHiU+Pmmdli2MLRMITc1XKZp2B3uxAfvmBjsOPOQTiACAlJ6GlbE9qC0USahWPYJE/tv/5Zjw3N4Nyvw=="
)
PACKAGE = "prepay_id=wx201410272009395522657a690389285100"
CLIENT_SIGNATURE = (
    "tP2zGXHMML2GnEy87iXWgZ4ZRLh/gW/n1mmzM/XWkykhWHBNZ6WD/RuvUrusL5EUKPKLxuJoSnPrf0DivkITyY"
    "rasLiOpKl1DCY+MKs4tYr0wAyjcki5pVqYHxRCeTSOSPMBtnncD39L98GtuFZLZQ2FL+pGYrX6OsujSph5/PTI"
    "Jr+Dnn0ImNHh/sTQngQjd1U32K3OILogAsIbEnhX4ctFegDZZ9hBHEdN9wCaC8apdRVqN2LNMqrhI4Au/42BDf"
    "hO7x/MxlsoHYE1LYm6L1u0h+YvJK1n0cn2ZCFkAZwAkyBgnnk6ilfdreytW1LnajEm6ZWRq0yJdJgteNcISQ=="
)
NOTICE = (
    '{"id":"EV-0001","create_time":"2026-11-20T20:00:00+08:00","resource_type":"encrypt-res'
    'ource","event_type":"TRANSACTION.SUCCESS","summary":"支付成功","resource":{"original_type"'
    ':"transaction","algorithm":"AEAD_AES_256_GCM","ciphertext":"zAJ1Sm6fyXHaO0V6zrSw7U5oho'
    "xsqxPMxUWELQ+A1oz707DRx45cIHLPox4Qaa7Y5jnDH1mWtfC8/e7vMYpd78szgA5EEqxz8sByXKH22QsnzJg6"
    "TYCI4zIEuK7xDAe8ogEOC5FaAeNsXqI3vqA8LgslwpYLkgBLdsQOSwSxy20rRgRqAAR54lyc3A66CflICp46+/"
    "aGcKPW0z6XQ5Jtr8pxXyrrJuOQ38KbTKnWjE7otsF7mK7ARDxK9SYzlFlZWvcd6LilOMxmxHCqnFxPAeDQoNeS"
    "+QwA77AFTpo1ahc3OyorbdPjzBC5+EhKrH32IldED2OOU3PXAJnb5/9MRWMas92NnTg1UmUWzv3Q0bTZpB+RQn"
    "KS6XwnhBqmGYSpxGBSrnVGLiVr2ji+QNTMENQKihaE9YJ6pqQTWbtvXFc6A++YML8gnMOd2v1c8atmpF+n5Ia+"
    '9i9K164X3wq1iQ398fqpee+InXsrzWAfoKXheWaGM9m+XlvADJ28UBP+QRjyxO9u+05KRms=","associated_'
    'data":"transaction","nonce":"paymesh12345"}}'
)
NOTICE_SIGNATURE = (
    "BtkZmNeRvQruc26v58aUYWM/91/0biYoaJWA04zSz+Ignp2mS05vWOp6xFSnPWRvNd7e957Byl960VlU6DnlKR"
    "SZAj4Bl2MybuiAYlDqTdzBMnlVzB4y5J2lGtdoczbifYMCAobzhVIIJvy4JDYe1BtzJM11T/Xxpm9CLmSXJHb2"
    "OM6YLuJxp/YyFvaq7LXaBWvgMmXorbBKbH9tnkzgz1l3FmaxIkjSqSLBVuwk7C3dbnJdCBOa2Z8j3pYxUDmIfI"
    "BEf2Uj2x7YcRDnp8VEC7cafabl9s/hK1rOhY1Sbyb/GOgJpsP87LBZbljo02O/Hn9VXsHSr4yDHu9/pTzdfg=="
)
KEYS = {SERIAL: PROVIDER.public_key()}
HEADERS = {
    "wechatpay-timestamp": TIMESTAMP,
    "wechatpay-nonce": NONCE,
    "wechatpay-serial": SERIAL,
    "wechatpay-signature": NOTICE_SIGNATURE,
}


@pytest.fixture
async def channel() -> WechatChannel:
    return open_channel(
        account="wechat_main",
        credentials=parse(WECHAT),
        is_live=True,
        notify_url="https://shop.example/wechat",
        base_url=None,
        now=lambda: VECTOR_TIME,
    )


def signed_at(moment: datetime, body: bytes, key=PROVIDER, **changed: str) -> Inbound:
    stamp = str(int(moment.timestamp()))
    signature = sign(key, f"{stamp}\n{NONCE}\n".encode() + body + b"\n")
    headers = HEADERS | {"wechatpay-timestamp": stamp, "wechatpay-signature": signature}
    return Inbound(body=body, headers=headers | changed)


def notice_of(
    content: object, event_type: str = "TRANSACTION.SUCCESS", key: str = API_KEY
) -> bytes:
    nonce = b"paymesh12345"
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    sealed = AESGCM(key.encode()).encrypt(nonce, text, b"transaction")
    resource = {
        "original_type": "transaction",
        "algorithm": "AEAD_AES_256_GCM",
        "ciphertext": base64.b64encode(sealed).decode(),
        "associated_data": "transaction",
        "nonce": nonce.decode(),
    }
    return json.dumps(
        {"id": "EV-1", "event_type": event_type, "resource": resource, "summary": "x"}
    ).encode()


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
    "mchid": "1900000001",
    "out_trade_no": "ATT0001",
    "out_refund_no": "RF01",
    "refund_id": "50000001",
    "refund_status": "SUCCESS",
    "success_time": "2026-11-20T20:00:00+08:00",
    "amount": {"total": 9999, "refund": 1000, "payer_total": 9999, "payer_refund": 1000},
}


@pytest.mark.parametrize(
    ("method", "target", "body", "signature"),
    [
        ("POST", "/v3/pay/transactions/native", POST_BODY, POST_SIGNATURE),
        ("GET", GET_PATH, "", GET_SIGNATURE),
    ],
)
def test_a_request_is_signed_as_the_vector_says(method, target, body, signature):
    header = authorization(
        MERCHANT,
        mchid="1900000001",
        serial_no="AB12",
        method=method,
        target=target,
        timestamp=TIMESTAMP,
        nonce=NONCE,
        body=body.encode(),
    )
    assert header == (
        f'WECHATPAY2-SHA256-RSA2048 mchid="1900000001",nonce_str="{NONCE}",'
        f'signature="{signature}",timestamp="{TIMESTAMP}",serial_no="AB12"'
    )


def test_the_buyers_wechat_gets_the_signature_of_the_vector():
    signature = client_signature(
        MERCHANT, appid="wx0000000000000001", timestamp=TIMESTAMP, nonce=NONCE, package=PACKAGE
    )
    assert signature == CLIENT_SIGNATURE


async def test_the_notice_of_the_vector_is_a_payment(channel):
    received = channel.receive(Inbound(body=NOTICE.encode(), headers=HEADERS), now=VECTOR_TIME)
    (fact,) = received.news
    assert (fact.attempt_id, fact.status, fact.amount, fact.occurred_at) == (
        "ATT0001",
        ChannelStatus.CAPTURED,
        Money(9999, "CNY"),
        VECTOR_TIME,
    )
    assert (received.event_id, received.summary) == ("EV-0001", "TRANSACTION.SUCCESS")
    assert received.occurred_at == VECTOR_TIME


@pytest.mark.parametrize(
    ("changed", "body"),
    [
        ({"wechatpay-timestamp": "1795176001"}, NOTICE),
        ({"wechatpay-timestamp": ""}, NOTICE),
        ({"wechatpay-timestamp": "1795176000.0"}, NOTICE),
        ({"wechatpay-timestamp": " 1795176000"}, NOTICE),
        ({"wechatpay-timestamp": "１７９５１７６０００"}, NOTICE),
        ({"wechatpay-nonce": "0" * 32}, NOTICE),
        ({"wechatpay-serial": "PUB_KEY_ID_0"}, NOTICE),
        ({"wechatpay-serial": ""}, NOTICE),
        ({"wechatpay-signature": ""}, NOTICE),
        ({"wechatpay-signature": f"WECHATPAY/SIGNTEST/{NOTICE_SIGNATURE}"}, NOTICE),
        ({"wechatpay-signature": NOTICE_SIGNATURE[:-4]}, NOTICE),
        ({}, NOTICE.replace("9", "8", 1)),
        ({}, json.dumps(json.loads(NOTICE))),  # escaped Chinese
        ({}, json.dumps(json.loads(NOTICE), ensure_ascii=False, separators=(",", ":")) + " "),
        ({}, ""),
    ],
)
def test_a_changed_notice_is_refused(changed, body):
    with pytest.raises(SignatureInvalid):
        must_be_signed(HEADERS | changed, body.encode(), keys=KEYS, now=VECTOR_TIME)


def test_the_vector_itself_is_accepted_and_needs_each_header():
    must_be_signed(HEADERS, NOTICE.encode(), keys=KEYS, now=VECTOR_TIME)
    for name in HEADERS:
        without = {other: HEADERS[other] for other in HEADERS if other != name}
        with pytest.raises(SignatureInvalid):
            must_be_signed(without, NOTICE.encode(), keys=KEYS, now=VECTOR_TIME)


def test_our_own_signature_is_none_of_theirs():
    inbound = signed_at(VECTOR_TIME, NOTICE.encode(), MERCHANT)
    with pytest.raises(SignatureInvalid):
        must_be_signed(inbound.headers, inbound.body, keys=KEYS, now=VECTOR_TIME)


@pytest.mark.parametrize("seconds", [-300, 300])
def test_five_minutes_either_way_are_believed(seconds):
    now = VECTOR_TIME + timedelta(seconds=seconds)
    must_be_signed(HEADERS, NOTICE.encode(), keys=KEYS, now=now)


@pytest.mark.parametrize("seconds", [-301, 301, 400_000_000])  # a library believes 2014
def test_more_than_five_minutes_either_way_are_not(seconds):
    now = VECTOR_TIME + timedelta(seconds=seconds)
    with pytest.raises(SignatureInvalid):
        must_be_signed(HEADERS, NOTICE.encode(), keys=KEYS, now=now)


async def test_two_keys_are_believed_while_one_takes_over():
    keys = {"PUB_KEY_ID_OLD": public_pem(MERCHANT), SERIAL: public_pem(PROVIDER)}
    both = open_channel(
        account="wechat_main",
        credentials=parse({**WECHAT, "public_keys": keys}),
        is_live=True,
        notify_url="",
        base_url=None,
        now=lambda: VECTOR_TIME,
    )
    inbound = signed_at(VECTOR_TIME, notice_of(ORDER))
    assert both.receive(inbound, now=VECTOR_TIME).news
    old = signed_at(
        VECTOR_TIME, notice_of(ORDER), MERCHANT, **{"wechatpay-serial": "PUB_KEY_ID_OLD"}
    )
    assert both.receive(old, now=VECTOR_TIME).news
    crossed = signed_at(VECTOR_TIME, notice_of(ORDER), MERCHANT)
    with pytest.raises(SignatureInvalid):
        both.receive(crossed, now=VECTOR_TIME)


@pytest.mark.parametrize(
    "changed",
    [
        {"nonce": "paymesh12346"},
        {"nonce": ""},
        {"nonce": "x" * 1000},
        {"associated_data": ""},
        {"associated_data": "refund"},
        {"algorithm": "AEAD_AES_128_GCM"},
        {"ciphertext": "not base64!"},
        {"ciphertext": ""},
        {"ciphertext": base64.b64encode(b"x" * 40).decode()},
    ],
)
def test_a_notice_that_was_encrypted_otherwise_is_refused(changed):
    sealed = json.loads(NOTICE)["resource"]
    known = {name: sealed[name] for name in ("algorithm", "ciphertext", "nonce", "associated_data")}
    assert json.loads(decrypted(Resource(**known), API_KEY.encode()))["out_trade_no"] == "ATT0001"
    with pytest.raises(SignatureInvalid):
        decrypted(Resource(**(known | changed)), API_KEY.encode())


@pytest.mark.parametrize(
    ("event_type", "word", "status"),
    [
        ("REFUND.SUCCESS", "SUCCESS", RefundChannelStatus.SUCCESS),
        ("REFUND.CLOSED", "CLOSED", RefundChannelStatus.FAILED),
        ("REFUND.ABNORMAL", "ABNORMAL", RefundChannelStatus.PENDING),
        ("REFUND.SUCCESS", "SLEEPING", RefundChannelStatus.UNKNOWN),
    ],
)
async def test_a_notice_of_a_refund_is_a_fact(channel, event_type, word, status):
    body = notice_of(REFUND | {"refund_status": word}, event_type)
    (fact,) = channel.receive(signed_at(VECTOR_TIME, body), now=VECTOR_TIME).news
    assert (fact.refund_id, fact.status) == ("RF01", status)


@pytest.mark.parametrize("event_type", ["PAYSCORE.USER_PAID", "", "transaction.success"])
async def test_a_notice_of_another_type_is_taken_and_means_nothing(channel, event_type):
    inbound = signed_at(VECTOR_TIME, notice_of(ORDER, event_type))
    received = channel.receive(inbound, now=VECTOR_TIME)
    assert (received.news, received.summary) == ((), event_type)


@pytest.mark.parametrize(
    ("content", "event_type"),
    [
        (ORDER | {"mchid": "1900000002"}, "TRANSACTION.SUCCESS"),
        (ORDER | {"appid": "wx0000000000000002"}, "TRANSACTION.SUCCESS"),
        (REFUND | {"mchid": "1900000002"}, "REFUND.SUCCESS"),
        (REFUND | {"mchid": ""}, "REFUND.SUCCESS"),
    ],
)
async def test_a_genuine_notice_of_somebody_else_is_refused(channel, content, event_type):
    inbound = signed_at(VECTOR_TIME, notice_of(content, event_type))
    with pytest.raises(SignatureInvalid):
        channel.receive(inbound, now=VECTOR_TIME)


async def test_a_notice_with_another_api_key_is_refused(channel):
    inbound = signed_at(VECTOR_TIME, notice_of(ORDER, key="another-api-v3-key-of-32-bytes!!"))
    with pytest.raises(SignatureInvalid):
        channel.receive(inbound, now=VECTOR_TIME)


@pytest.mark.parametrize(
    "changed",
    [
        {"trade_state": "SLEEPING"},
        {"amount": {"total": 0}},
        {"amount": {"total": 10**15}},
        {"amount": {"total": 1, "currency": "USD"}},
        {"amount": None},
        {"transaction_id": ""},
    ],
)
async def test_a_notice_that_is_not_understood_is_unknown(channel, changed):
    inbound = signed_at(VECTOR_TIME, notice_of(ORDER | changed))
    (fact,) = channel.receive(inbound, now=VECTOR_TIME).news
    assert (fact.attempt_id, fact.status) == ("ATT0001", ChannelStatus.UNKNOWN)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"id":"EV-1"}',
        b"<xml/>",
        notice_of(b"nonsense"),
        notice_of({}),
        notice_of(ORDER | {"out_trade_no": "a b"}),
        notice_of(ORDER | {"amount": {"total": "9999"}}),
        notice_of(REFUND | {"out_refund_no": ""}, "REFUND.SUCCESS"),
        notice_of(ORDER, "REFUND.SUCCESS"),
    ],
)
async def test_a_genuine_notice_about_nothing_of_ours_cannot_be_read(channel, body):
    with pytest.raises(InvalidArgument):
        channel.receive(signed_at(VECTOR_TIME, body), now=VECTOR_TIME)


async def test_a_notice_is_named_before_it_is_believed(channel):
    assert channel.subject_of(Inbound(body=NOTICE.encode(), headers={})) == Subject(
        event_id="EV-0001"
    )
    for body in (b"", b"\xff", b'{"id":"a b"}', b'{"id":7}'):
        assert channel.subject_of(Inbound(body=body, headers={})) == Subject()


async def test_only_a_success_ends_a_delivery(channel):
    taken, refused = channel.ack(accepted=True), channel.ack(accepted=False)
    assert (taken.status_code, taken.body) == (204, b"")
    assert refused.status_code == 400
    assert json.loads(refused.body)["code"] == "FAIL"

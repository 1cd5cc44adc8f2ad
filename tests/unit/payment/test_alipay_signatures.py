"""What is signed at Alipay, by vectors that other people's libraries accepted."""

from __future__ import annotations

import base64
import json
from urllib.parse import parse_qsl, urlencode

import pytest
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.hashes import SHA1

from payment_rpc.channels.alipay.signatures import (
    request_text,
    signed_answer,
    signed_notice,
)
from payment_rpc.channels.doubt import Unclear
from payment_rpc.channels.rsa_signatures import sign
from payment_rpc.domain.errors import SignatureInvalid
from tests.support.provider_keys import MERCHANT, PROVIDER

REQUEST = (
    'app_id=2021000000000001&biz_content={"out_trade_no":"ATT0001"}&charset=utf-8&format=JSON'
    "&method=alipay.trade.query&sign_type=RSA2&timestamp=2026-11-20 20:00:00&version=1.0"
)
REQUEST_SIGNATURE = (
    "PgAa5jrrF4SbmahkG2qazS9R9swZJTW4eDHUwMgetMu+7AIPxNl/c+adIhGcn1ch+X3ddqDVbAnq8EOXLLan8JfL"
    "u1bPp78nUdQvVa8dVaxPCdOCQT59Oc7SBGaNGl2x8uaofHvTsoDM8Qe7S+j1QD7wAQR5gUuElOG/txsRWn1WcI82"
    "B1QWpUT0Rbvl773D1v9T5jnbVXB/z1oqXSlL74gjem+4P5rRBp/YFAbytm/fb6qFmmyxB3Nh9BQUFJTuXYT9t3oE"
    "OzavB3ZUeS89MS0TsrDp4qzk35Zj1pOhxGwQLKOhXivhYuOF2RzityTxBbP4U+5RxW1fH3OhWr4aYA=="
)
ANSWER = (
    '{"code":"10000","msg":"Success","trade_no":"2026112022001400000000000001","out_trade_no"'
    ':"ATT0001","trade_status":"TRADE_SUCCESS","total_amount":"99.99","send_pay_date":"2026-1'
    '1-20 20:00:00"}'
)
ANSWER_SIGNATURE = (
    "ombDDPc7txYKmkt2rX+VHme80mW3f6KhsJRtU5JiABt24BxUmwy3yvN84mqZEVW73V9d7DwqDBUuXmkVmMrNfAr5"
    "j3qA0V/l7OeUgcTLllGFaaVUa0gUWo+/TElLX4/79UWdydKLwaVNFvSPruUKEbJhlYugdF/si4BR3pbFEFeAYwR2"
    "BA60VcUyjGVMRvysZnRXRuN9cXNC7diRcQmsOkZQpVg1vQJ3smlGUollgeDY10AtzqKvLwZfh/gg0sSHLVuesxUT"
    "2cSo0GyApjkZmkqwntR5TmkslhQrOzLviLb/98m1T3YreXwRp0lqKm9WSVwhE8XWmrQa0c07SRQXRQ=="
)
NOTICE = (
    "gmt_create=2026-11-20+19%3A59%3A50&charset=utf-8&gmt_payment=2026-11-20+20%3A00%3A00&not"
    "ify_time=2026-11-20+20%3A00%3A01&subject=paymesh+test&buyer_id=2088000000000002&invoice_"
    "amount=99.99&version=1.0&notify_id=2026112000222000001000000000000001&notify_type=trade_"
    "status_sync&out_trade_no=ATT0001&total_amount=99.99&trade_status=TRADE_SUCCESS&trade_no="
    "2026112022001400000000000001&auth_app_id=2021000000000001&receipt_amount=99.99&app_id=20"
    "21000000000001&seller_id=2088000000000001&body=a%2Bb+%2526+%E4%B8%AD%E6%96%87&sign_type="
    "RSA2&sign=jZBwIqiw1Z88Hj1kdDEcVXxtiMgsxyARoB6t65Ir%2FQWE4nF6UXoPY6SNxs2n5NwtwF5bmAtdIeSX"
    "Y6K0cM9ODCVNix61VzurKy3P0bO2W6sjMkqc3lFW%2BwVJwH4t2WmQzFahTde3zuH5V%2B5zUuzyjy7viwhTWToI"
    "TwEA6rS8fl%2BjOmoL0RCOHlTrV%2FI5i4X8%2BPK5qb72tGj4a1aafvp0AEqY2%2FhHrRAXWA2ngUGaTWVRNcPC"
    "YKQjakYD1zD2ij1%2BWbiTIM%2B5WgLdacMOBFmlrNV8kHscK%2F0bQdiUye57E6k6aPrUNTZyukYVZ%2FrRN0kv"
    "eZaO0ThliP0a2mYtLaBzbg%3D%3D"
)
KEYS = [PROVIDER.public_key()]
NAME = "alipay_trade_query_response"


def whole(answer: str, signature: str = ANSWER_SIGNATURE, name: str = NAME) -> bytes:
    return f'{{"{name}":{answer},"sign":"{signature}"}}'.encode()


def signed_form(fields: dict[str, str], key=PROVIDER, *, drop: tuple[str, ...] = ()) -> bytes:
    told = {name: fields[name] for name in sorted(fields) if name not in ("sign_type", *drop)}
    text = "&".join(f"{name}={value}" for name, value in told.items())
    return urlencode(fields | {"sign": sign(key, text.encode())}).encode()


def notice_fields(**changed: str) -> dict[str, str]:
    fields = dict(parse_qsl(NOTICE, keep_blank_values=True)) | changed
    del fields["sign"]
    return fields


def test_a_request_is_signed_as_the_vector_says():
    fields = dict(pair.split("=", 1) for pair in REQUEST.split("&"))
    shuffled = dict(sorted(fields.items(), reverse=True)) | {"notify_url": "", "sign": "old"}
    assert request_text(shuffled) == REQUEST.encode()
    assert sign(MERCHANT, request_text(shuffled)) == REQUEST_SIGNATURE


def test_an_answer_is_checked_over_its_own_bytes():
    assert signed_answer(whole(ANSWER), NAME, KEYS) == ANSWER.encode()


def test_a_brace_or_a_quote_in_a_text_is_no_end_of_the_answer():
    value = '{"subject":"}\\"{ \\\\", "code" : "10000"}'
    assert signed_answer(whole(value, sign(PROVIDER, value.encode())), NAME, KEYS) == value.encode()


def test_an_error_has_a_name_of_its_own():
    value = '{"code":"40002","sub_code":"isv.invalid-signature"}'
    body = whole(value, sign(PROVIDER, value.encode()), "error_response")
    assert signed_answer(body, NAME, KEYS) == value.encode()


def test_either_of_two_keys_signs_while_one_is_replaced():
    keys = [MERCHANT.public_key(), PROVIDER.public_key()]
    assert signed_answer(whole(ANSWER), NAME, keys) == ANSWER.encode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"sign":"x"}',
        f'{{"{NAME}":{ANSWER}}}'.encode(),
        f'{{"{NAME}":{ANSWER},"sign":7}}'.encode(),
        whole(ANSWER.replace("99.99", "99.98")),
        whole(json.dumps(json.loads(ANSWER))),  # other white space
        whole(ANSWER, "not base64!"),
        whole(ANSWER, sign(MERCHANT, ANSWER.encode())),
        whole(ANSWER) + b"x",
        whole(ANSWER)[:-1],
        whole(ANSWER, name="alipay_trade_close_response"),
        whole(ANSWER).replace(b"Success", b"\xff"),
        b"[" * 100_000,
    ],
)
def test_an_answer_that_alipay_did_not_sign_says_nothing(body):
    with pytest.raises(Unclear):
        signed_answer(body, NAME, KEYS)


def test_a_notice_is_decoded_once():
    fields = signed_notice(NOTICE.encode(), KEYS)
    assert fields["body"] == "a+b %26 中文"
    assert fields["total_amount"] == "99.99"


@pytest.mark.parametrize("drop", [(), ("refund_fee",)])
def test_empty_fields_may_be_signed_or_not(drop):
    fields = notice_fields(refund_fee="")
    assert signed_notice(signed_form(fields, drop=drop), KEYS)["refund_fee"] == ""


@pytest.mark.parametrize(
    "body",
    [
        NOTICE.replace("total_amount=99.99", "total_amount=9.99"),
        NOTICE.replace("TRADE_SUCCESS", "TRADE_FINISHED"),
        NOTICE.replace("sign_type=RSA2", "sign_type=RSA"),
        NOTICE.replace("&sign_type=RSA2", ""),  # a library accepts it
        NOTICE.replace("a%2Bb", "a+b"),
        NOTICE.replace("a%2Bb", "a%20b"),
        NOTICE + "&total_amount=9.99",
        "total_amount=1.00&" + NOTICE,  # a library accepts it: the last value wins
        "total_amount=99.99&" + NOTICE,
        NOTICE + "&refund_fee=1.00",
        NOTICE.replace("&sign=", "&sign=A"),
        NOTICE[: NOTICE.index("&sign=")],
        NOTICE[: NOTICE.index("&sign=")] + "&sign=",
        NOTICE + "&junk",
        NOTICE.replace("%E4", "%FF"),
        NOTICE + "&a=ü",
        "",
        "{}",
        "&".join(f"a{n}=1" for n in range(1000)),
    ],
)
def test_a_changed_notice_is_refused(body):
    with pytest.raises(SignatureInvalid):
        signed_notice(body.encode(), KEYS)


def test_a_notice_without_its_algorithm_is_refused():
    fields = notice_fields()
    del fields["sign_type"]
    with pytest.raises(SignatureInvalid):
        signed_notice(signed_form(fields), KEYS)


def test_a_field_may_not_be_there_twice():
    for body in (f"total_amount=1.00&{NOTICE}", f"total_amount=99.99&{NOTICE}"):
        with pytest.raises(SignatureInvalid):
            signed_notice(body.encode(), KEYS)


def test_a_notice_signed_by_another_key_or_over_other_fields_is_refused():
    fields = notice_fields()
    signed_notice(signed_form(fields), KEYS)
    text = "&".join(f"{name}={fields[name]}" for name in sorted(fields))  # with sign_type
    with_type = urlencode(fields | {"sign": sign(PROVIDER, text.encode())}).encode()
    for body in (signed_form(fields, MERCHANT), with_type):
        with pytest.raises(SignatureInvalid):
            signed_notice(body, KEYS)


def test_a_signature_by_sha_1_is_refused():
    fields = notice_fields()
    told = "&".join(f"{name}={fields[name]}" for name in sorted(fields) if name != "sign_type")
    weak = PROVIDER.sign(told.encode(), padding.PKCS1v15(), SHA1())
    for sign_type in ("RSA", "RSA2"):
        body = urlencode(
            fields | {"sign_type": sign_type, "sign": base64.b64encode(weak).decode()}
        ).encode()
        with pytest.raises(SignatureInvalid):
            signed_notice(body, KEYS)

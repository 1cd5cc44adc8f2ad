"""WeChat Pay's signatures and its encryption of notices."""

from __future__ import annotations

import base64
import hashlib
import re
from datetime import datetime, timedelta
from typing import Final

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sandbox.providers.rsa_keys import is_signed, sign
from sandbox.providers.wechat.errors import Refused
from sandbox.providers.wechat.objects import WechatConfig

TOLERANCE: Final = timedelta(minutes=5)
PROBE_PREFIX: Final = "WECHATPAY/SIGNTEST/"  # begins signatures that must be refused
_SCHEME = "WECHATPAY2-SHA256-RSA2048 "
_FIELD = re.compile(r'\s*(\w+)="([^"]*)"\s*', re.ASCII)
_FIELDS = frozenset({"mchid", "nonce_str", "signature", "timestamp", "serial_no"})
_NONCE_MAX = 32


def request_text(method: str, target: str, timestamp: str, nonce: str, body: bytes) -> bytes:
    """What a request signs: five lines. `target` is the path with its query as sent."""
    return f"{method}\n{target}\n{timestamp}\n{nonce}\n".encode() + body + b"\n"


def answer_text(timestamp: str, nonce: str, body: bytes) -> bytes:
    """What an answer or a notice signs: three lines."""
    return f"{timestamp}\n{nonce}\n".encode() + body + b"\n"


def signed_headers(
    config: WechatConfig, body: bytes, now: datetime, *, number: int, probe: bool = False
) -> dict[str, str]:
    """The headers of a signed answer or notice.

    Args:
        number: gives the nonce; no two answers, and no two deliveries, have the same.
        probe: the signature is one of those that must be refused.
    """
    timestamp = str(int(now.timestamp()))
    nonce = hashlib.sha256(f"{timestamp} {number}".encode()).hexdigest()[:_NONCE_MAX]
    signature = sign(config.provider_key, answer_text(timestamp, nonce, body))
    return {
        "Wechatpay-Timestamp": timestamp,
        "Wechatpay-Nonce": nonce,
        "Wechatpay-Signature": f"{PROBE_PREFIX}{signature}" if probe else signature,
        "Wechatpay-Serial": config.provider_serial,
        "Wechatpay-Signature-Type": "WECHATPAY2-SHA256-RSA2048",
    }


def check_request(
    config: WechatConfig,
    authorization: str,
    *,
    method: str,
    target: str,
    body: bytes,
    now: datetime,
) -> None:
    """Checks the header `Authorization`.

    Args:
        now: of the world outside, which dates its requests.

    Raises:
        Refused: SIGN_ERROR: no such header, another merchant or key, older or newer than five
            minutes, not the merchant's signature of this request.
    """
    if not authorization.startswith(_SCHEME):
        raise Refused("SIGN_ERROR", "Http头缺少Authorization或认证类型不正确")
    fields = _read(authorization.removeprefix(_SCHEME))
    if fields["mchid"] != config.mchid or fields["serial_no"] != config.merchant_serial:
        raise Refused("SIGN_ERROR", "商户证书序列号有误")
    stamp = fields["timestamp"]
    if not re.fullmatch(r"[0-9]{1,12}", stamp, re.ASCII):
        raise Refused("SIGN_ERROR", "Http头Authorization值格式错误")
    if abs(now.timestamp() - int(stamp)) > TOLERANCE.total_seconds():
        raise Refused("SIGN_ERROR", "签名已过期：timestamp与服务器时间相差超过5分钟")
    text = request_text(method, target, stamp, fields["nonce_str"], body)
    if not is_signed(config.merchant_key, text, fields["signature"]):
        raise Refused("SIGN_ERROR", "签名错误，请检查后再试")


def _read(text: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for part in text.split(","):
        match = _FIELD.fullmatch(part)
        if match is None or match[1] in fields:
            raise Refused("SIGN_ERROR", "Http头Authorization值格式错误")
        fields[match[1]] = match[2]
    if fields.keys() != _FIELDS or not 1 <= len(fields["nonce_str"]) <= _NONCE_MAX:
        raise Refused("SIGN_ERROR", "Http头Authorization值格式错误")
    return fields


def encrypted(key: str, plain: bytes, *, associated_data: str, nonce: str) -> dict[str, str]:
    """The fields of AES-256-GCM: the tag ends the ciphertext. `nonce` has 12 characters."""
    cipher = AESGCM(key.encode()).encrypt(nonce.encode(), plain, associated_data.encode())
    return {
        "algorithm": "AEAD_AES_256_GCM",
        "ciphertext": base64.b64encode(cipher).decode(),
        "associated_data": associated_data,
        "nonce": nonce,
    }


def jsapi_text(appid: str, timestamp: str, nonce: str, prepay_id: str) -> bytes:
    """What the shop signs for the buyer's page of a JSAPI payment."""
    return f"{appid}\n{timestamp}\n{nonce}\nprepay_id={prepay_id}\n".encode()


def is_jsapi_signed(
    key: rsa.RSAPublicKey, *, appid: str, timestamp: str, nonce: str, package: str, signature: str
) -> bool:
    """True when the parameters that the shop gives its page carry the shop's signature."""
    prepay_id = package.removeprefix("prepay_id=")
    return package.startswith("prepay_id=") and is_signed(
        key, jsapi_text(appid, timestamp, nonce, prepay_id), signature
    )

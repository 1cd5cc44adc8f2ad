"""What is signed and encrypted at WeChat Pay."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mesh.times import EPOCH
from payment_rpc.channels.rsa_signatures import is_signed, sign
from payment_rpc.domain.errors import SignatureInvalid

SCHEME: Final = "WECHATPAY2-SHA256-RSA2048"
FRESHNESS: Final = timedelta(minutes=5)

_SECONDS: Final = re.compile(r"[0-9]{10}")
_ALGORITHM: Final = "AEAD_AES_256_GCM"
_NONCE_BYTES: Final = range(8, 129)  # what AES-GCM takes; WeChat Pay sends 12


class Resource(msgspec.Struct, frozen=True, kw_only=True):
    """The encrypted part of a notice."""

    algorithm: str
    ciphertext: str
    nonce: str
    associated_data: str = ""
    original_type: str = ""


def request_text(method: str, target: str, timestamp: str, nonce: str, body: bytes) -> bytes:
    """What the signature of a request is over; `target` is path and query as they are sent."""
    return f"{method}\n{target}\n{timestamp}\n{nonce}\n".encode() + body + b"\n"


def authorization(
    key: RSAPrivateKey,
    *,
    mchid: str,
    serial_no: str,
    method: str,
    target: str,
    timestamp: str,
    nonce: str,
    body: bytes,
) -> str:
    """The header that signs a request."""
    fields = {
        "mchid": mchid,
        "nonce_str": nonce,
        "signature": sign(key, request_text(method, target, timestamp, nonce, body)),
        "timestamp": timestamp,
        "serial_no": serial_no,
    }
    return f"{SCHEME} " + ",".join(f'{name}="{value}"' for name, value in fields.items())


def client_signature(
    key: RSAPrivateKey, *, appid: str, timestamp: str, nonce: str, package: str
) -> str:
    """The signature by which the buyer's WeChat opens a prepaid order."""
    return sign(key, f"{appid}\n{timestamp}\n{nonce}\n{package}\n".encode())


def must_be_signed(
    headers: Mapping[str, str], body: bytes, *, keys: Mapping[str, RSAPublicKey], now: datetime
) -> None:
    """Checks the signature of an answer or a notice. One that begins with `WECHATPAY/SIGNTEST/` is
    WeChat Pay's probe and fails like every other wrong one.

    Raises:
        SignatureInvalid: not signed by one of `keys`, or more than 5 minutes old or ahead.
    """
    timestamp, nonce = headers.get("wechatpay-timestamp", ""), headers.get("wechatpay-nonce", "")
    key = keys.get(headers.get("wechatpay-serial", ""))
    if key is None:
        raise SignatureInvalid("signed with a key that the account does not have")
    if not _SECONDS.fullmatch(timestamp):
        raise SignatureInvalid("the timestamp is not in seconds")
    if abs(now - (EPOCH + timedelta(seconds=int(timestamp)))) > FRESHNESS:
        raise SignatureInvalid("the timestamp is more than 5 minutes off")
    text = f"{timestamp}\n{nonce}\n".encode("utf-8", "replace") + body + b"\n"
    if not is_signed(key, text, headers.get("wechatpay-signature", "")):
        raise SignatureInvalid


def decrypted(resource: Resource, key: bytes) -> bytes:
    """What a notice is about.

    Raises:
        SignatureInvalid: encrypted with another key or algorithm, or altered.
    """
    nonce = resource.nonce.encode()
    if resource.algorithm != _ALGORITHM or len(nonce) not in _NONCE_BYTES:
        raise SignatureInvalid("the notice is encrypted in another way")
    try:
        return AESGCM(key).decrypt(
            nonce,
            base64.b64decode(resource.ciphertext, validate=True),
            resource.associated_data.encode(),
        )
    except (InvalidTag, binascii.Error, ValueError):
        raise SignatureInvalid("the notice is encrypted with another key") from None

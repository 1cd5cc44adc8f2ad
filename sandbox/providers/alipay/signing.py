"""Alipay's signature RSA2 over requests, answers and notices, and the texts that it covers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from cryptography.hazmat.primitives.asymmetric import rsa

from sandbox.providers.rsa_keys import is_signed, sign


def _joined(
    fields: Mapping[str, str], *, without: frozenset[str], keep_empty: bool = False
) -> bytes:
    kept = sorted(
        (name, value)
        for name, value in fields.items()
        if (value or keep_empty) and name not in without
    )
    return "&".join(f"{name}={value}" for name, value in kept).encode()


def request_text(parameters: Mapping[str, str]) -> bytes:
    """What a request signs: all parameters but `sign` and empty ones, sorted by name."""
    return _joined(parameters, without=frozenset({"sign"}))


def notice_text(fields: Mapping[str, str], *, keep_empty: bool = False) -> bytes:
    """What a notice signs: like a request, without `sign_type` too.

    Args:
        keep_empty: with empty fields.
    """
    return _joined(fields, without=frozenset({"sign", "sign_type"}), keep_empty=keep_empty)


def is_request_signed(key: rsa.RSAPublicKey, parameters: Mapping[str, str]) -> bool:
    """True when the request carries the signature of the shop."""
    return is_signed(key, request_text(parameters), parameters.get("sign", ""))


def answer_json(name: str, value: Mapping[str, Any], *, key: rsa.RSAPrivateKey | None) -> bytes:
    """An answer: `{"<name>":{…},"sign":"…"}`. The signature covers the text of the value.

    Args:
        key: None: the answer carries no signature.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    signature = "" if key is None else f',"sign":"{sign(key, text.encode())}"'
    return f'{{"{name}":{text}{signature}}}'.encode()


def signed_form(
    fields: Mapping[str, str], key: rsa.RSAPrivateKey, *, keep_empty: bool = False
) -> str:
    """The fields with `sign_type` and `sign`, as a form. Decoded values are signed.

    Args:
        keep_empty: the signature covers empty fields too.
    """
    text = notice_text(fields, keep_empty=keep_empty)
    return urlencode({**fields, "sign_type": "RSA2", "sign": sign(key, text)})

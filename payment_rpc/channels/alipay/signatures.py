"""What is signed at Alipay: requests and notices as sorted text, answers as the very bytes of one
JSON value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import parse_qsl

import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from payment_rpc.channels.doubt import Unclear
from payment_rpc.channels.rsa_signatures import is_signed
from payment_rpc.domain.errors import SignatureInvalid

ALGORITHM: Final = "RSA2"  # RSA with SHA-256; "RSA" would be SHA-1
FIELDS_MAX: Final = 200  # a notice has about 30


def request_text(fields: Mapping[str, str]) -> bytes:
    """What the signature of a request is over: all fields but `sign` and empty ones."""
    return _sorted_text({name: value for name, value in fields.items() if name != "sign" and value})


def signed_answer(body: bytes, name: str, keys: Sequence[RSAPublicKey]) -> bytes:
    """The value of the field `name`, or of `error_response`, in a signed answer, byte for byte: a
    brace in a text is no end of it.

    Raises:
        Unclear: it is not there, or not signed by one of `keys`.
    """
    try:
        whole = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        value = bytes(whole[name] if name in whole else whole["error_response"])
        signature = msgspec.json.decode(whole["sign"], type=str)
    except KeyError:
        raise Unclear("the answer is not signed") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Unclear("the answer is not one of Alipay's") from None
    if not any(is_signed(key, value, signature) for key in keys):
        raise Unclear("the answer is not signed by Alipay")
    return value


def signed_notice(body: bytes, keys: Sequence[RSAPublicKey]) -> dict[str, str]:
    """The fields of a notice. Its form is decoded once: genuine values hold `%` and `+`. Alipay's
    pages disagree whether empty fields are signed, so either text is accepted.

    Raises:
        SignatureInvalid: not a form, a field is there twice, another algorithm, or not signed by
            one of `keys`.
    """
    fields = read_form(body)
    if fields.get("sign_type") != ALGORITHM:
        raise SignatureInvalid("the notice is not signed with RSA2")
    told = {name: value for name, value in fields.items() if name not in {"sign", "sign_type"}}
    texts = {_sorted_text(told), _sorted_text({k: v for k, v in told.items() if v})}
    signature = fields.get("sign", "")
    if not any(is_signed(key, text, signature) for key in keys for text in texts):
        raise SignatureInvalid
    return fields


def read_form(body: bytes) -> dict[str, str]:
    """The fields of a form, believed by nobody yet.

    Raises:
        SignatureInvalid: not a form of UTF-8, or a field is there twice: readers differ in which
            one they take.
    """
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=FIELDS_MAX,
        )
    except ValueError:
        raise SignatureInvalid("the notice is not a form") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise SignatureInvalid("a field of the notice is there twice")
    return fields


def _sorted_text(fields: Mapping[str, str]) -> bytes:
    return "&".join(f"{name}={fields[name]}" for name in sorted(fields)).encode()

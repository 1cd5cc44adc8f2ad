"""Signs and verifies what both kinds of tokens have in common: format, type and signature. The
algorithm comes from our own key record, never from the token.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mesh.claims import Claims, invalid, read_claims
from mesh.jwks import Key

AUDIENCE: Final = "paymesh"
TOKEN_BYTES_MAX = 8192
REMEMBER_SECONDS: Final = 60  # how long a verified token is accepted from the cache

_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)
_JWS = jwt.PyJWS()


class Header(msgspec.Struct, frozen=True):
    alg: str
    typ: str
    kid: str = ""

    @property
    def kind(self) -> str:
        """The type in lower case and without its optional beginning (RFC 7515, 4.1.9)."""
        return self.typ.lower().removeprefix("application/")


def signed(payload: Mapping[str, Any], key: Ed25519PrivateKey, *, kind: str, key_id: str) -> str:
    """A token of a type (`typ`) that names its key (`kid`), signed as RFC 8037 says. Costs little
    more than the signature.
    """
    text = f"{_head(kind, key_id)}.{_base64(msgspec.json.encode(payload))}"
    return f"{text}.{_base64(key.sign(text.encode()))}"


def verified(
    token: str, keys_of_types: Mapping[str, Mapping[str, Key]]
) -> tuple[Header, Claims, dict[str, Any]]:
    """Header and claims of a token after a check of format, type and signature. Claims are parsed
    but not yet validated. Each type of token has keys of its own, so that a key signs no other.
    """
    if len(token) > TOKEN_BYTES_MAX or _COMPACT.fullmatch(token) is None:
        raise invalid("form")
    try:
        header = msgspec.json.decode(_unbase64(token[: token.index(".")]), type=Header)
    except (msgspec.MsgspecError, binascii.Error, ValueError, RecursionError):
        raise invalid("form") from None
    keys = keys_of_types.get(header.kind)
    if keys is None:
        raise invalid("type")
    key = keys.get(header.kid)
    if key is None:
        raise invalid("key")
    for material in (key.material, *key.previous):
        try:
            payload = _JWS.decode_complete(token, material, algorithms=[key.algorithm])["payload"]
        except (jwt.PyJWTError, ValueError, TypeError):
            continue
        return header, *read_claims(payload)
    raise invalid("signature")


def judge(claims: Claims, *, issuer: str, audience: str, lifetime_seconds_max: int) -> None:
    """Validates the claims that do not depend on our clock."""
    if claims.iss != issuer:
        raise invalid("issuer")
    if audience not in ([claims.aud] if isinstance(claims.aud, str) else claims.aud):
        raise invalid("audience")
    if not 0 < claims.exp - claims.iat <= lifetime_seconds_max:
        raise invalid("lifetime")


def begins(claims: Claims) -> float:
    """The moment before which a token is not valid, in seconds since 1970."""
    return max(claims.iat, claims.nbf or 0)


@lru_cache(maxsize=16)
def _head(kind: str, key_id: str) -> str:
    return _base64(msgspec.json.encode({"alg": "EdDSA", "typ": kind, "kid": key_id}))


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _unbase64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))

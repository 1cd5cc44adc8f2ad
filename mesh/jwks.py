"""Reads the public keys of an identity provider. A JWKS may hold keys that cannot be used here
(encryption, other algorithms, future types). They are skipped, as RFC 7517 (5) asks for, and named
in one log line.
"""

from __future__ import annotations

import binascii
from dataclasses import dataclass
from typing import Any

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from mesh.logs import get_logger
from mesh.secret_files import SECRET_BYTES_MIN

RSA_BITS_MIN = 2048
KEYS_MAX = 100  # providers publish two to five

log = get_logger()


@dataclass(frozen=True, slots=True)
class Key:
    """A key and its one algorithm.

    Attributes:
        material: key object of `cryptography`, or bytes for HS256.
        previous: keys that are still accepted until their tokens expire; shared secrets have no
            `kid` to tell them apart.
    """

    algorithm: str
    material: Any
    previous: tuple[Any, ...] = ()


class _Jwk(msgspec.Struct, frozen=True):
    kty: str
    kid: str = ""
    alg: str = ""  # optional (RFC 7517, 4.4): Entra ID leaves it out
    use: str = "sig"
    crv: str = ""
    d: str | None = None


class _Jwks(msgspec.Struct, frozen=True):
    keys: list[msgspec.Raw]


_READERS: dict[str, Any] = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}
_ALGORITHMS = {("RSA", ""): "RS256", ("EC", "P-256"): "ES256", ("OKP", "Ed25519"): "EdDSA"}


class _Unusable(ValueError):
    """A key that cannot be used. The text says why."""


def secret_key(secret: bytes, *previous: bytes) -> Key:
    """A key for HS256.

    Raises:
        ValueError: below 32 bytes.
    """
    if any(len(each) < SECRET_BYTES_MIN for each in (secret, *previous)):
        raise ValueError(f"a secret for HS256 has at least {SECRET_BYTES_MIN} bytes")
    return Key("HS256", secret, previous)


def read_jwks(document: bytes) -> dict[str, Key]:
    """The usable public keys of a JWKS by their `kid`: RS256, ES256 and EdDSA.

    Raises:
        ValueError: not a JWKS, a private key in it, two usable keys with one `kid`, or no usable
            key.
    """
    keys: dict[str, Key] = {}
    skipped: list[str] = []
    for number, raw in enumerate(msgspec.json.decode(document, type=_Jwks).keys[:KEYS_MAX]):
        kid, key = f"#{number}", None
        try:
            jwk = msgspec.json.decode(raw, type=_Jwk)
            kid = jwk.kid or kid
            key = _read(jwk, bytes(raw).decode())
        except (msgspec.MsgspecError, _Unusable) as problem:
            skipped.append(f"{kid[:64]}: {problem}")
            continue
        if kid in keys:
            raise ValueError(f"JWKS: two keys have the kid {kid!r}")
        keys[kid] = key
    if not keys:
        raise ValueError(
            f"JWKS: no public RS256, ES256 or EdDSA key with a kid "
            f"({'; '.join(skipped) or 'it is empty'})"
        )
    if skipped:
        log.info("jwks_keys_skipped", skipped=skipped, used=sorted(keys))
    return keys


def _read(jwk: _Jwk, text: str) -> Key:
    """The key of a JWK.

    Raises:
        ValueError: a private key, which is never published on purpose. _Unusable: any other key
            that cannot be used.
    """
    if jwk.d is not None:
        raise ValueError(f"JWKS: key {jwk.kid!r} is a private key")
    if not jwk.kid:
        raise _Unusable("no kid")
    if jwk.use != "sig":
        raise _Unusable(f"for {jwk.use!r}")
    algorithm = _ALGORITHMS.get((jwk.kty, "" if jwk.kty == "RSA" else jwk.crv))
    if algorithm is None:
        raise _Unusable(f"kty {jwk.kty!r} {jwk.crv}".rstrip())
    if jwk.alg not in {"", algorithm}:
        raise _Unusable(f"alg {jwk.alg!r}")
    try:
        material = _READERS[algorithm].from_jwk(text)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, binascii.Error) as problem:
        raise _Unusable(f"broken: {problem}") from None
    if not _is_strong(material):
        raise _Unusable(f"not RSA with {RSA_BITS_MIN} bits or more, P-256 or Ed25519")
    return Key(algorithm, material)


def _is_strong(key: object) -> bool:
    match key:
        case RSAPublicKey():
            return key.key_size >= RSA_BITS_MIN
        case EllipticCurvePublicKey():
            return key.curve.name == "secp256r1"
        case _:
            return isinstance(key, Ed25519PublicKey)

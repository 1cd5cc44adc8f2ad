"""RSA keys of development for providers that sign with RSA, and the signature that all of them use:
PKCS #1 v1.5 with SHA-256, in base64. The primes are published here, so the keys protect nothing.

MERCHANT signs requests of the shop, PROVIDER signs answers and notices. A signature that is checked
with the wrong one of the two must fail.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

_EXPONENT = 65537

_MERCHANT_P = int(
    "f61b736ac5236b399527ab1727d673f2279e67f92466b630915017a3035bc674"
    "5429640d4bc1f6ee7e681937e9360220c62d310385a14fd23ba7c6ec0f4354c8"
    "bab3c3aae4c3e0fce6de8115b9d2797f0ed9161747fccf086f27b5bfa639e1e8"
    "a12a9b506e2ba56cbcaa62725dab7d206d40c7dc564ca22f24de011aa8718d95",
    16,
)
_MERCHANT_Q = int(
    "cacebb9c0b5936409d0731aad1d113548f9a7414c2262495a8f4b7a2d9074dce"
    "87977de009a3fe3a90f25f316e02ab0963acf26e55b283aedaa04a53402d04ba"
    "475b7c2087f5b3bb717a5bb4c9a5ad9c15f5c4fc2b9b14d970efdb27aa6bd214"
    "8c396b8367dccdde6d9b17f373cddca7003bb51a36f55045faedfd0a9d7403c9",
    16,
)
_PROVIDER_P = int(
    "e6c2783770a7945246149fd28f1056d7085c4f133344aa7ecb0086228cda26bf"
    "448f49b76e07c5628c24d4753e8279e81277b30067dc15b35a6987dabf3b50af"
    "6202c2671151ba30512732085c2c70a003d12f5fe98629d407bf9b684fdb3ce2"
    "56b8b9d6ec5f706784d84b8feef27b0dd5e67f9de36192ef15168272a33e88e3",
    16,
)
_PROVIDER_Q = int(
    "df8c42b0bd4870df74e01ee8fb0c679a56dcf10122138e1fca039535d139378e"
    "4d88503027e1b3d347a30667e70518adb65f899ea1b733c4468e6ee3307e4e2c"
    "0d46f8057ac67f96c55022345b71626a061b10114d67e3225b44a5461b82f9cc"
    "6865787f707a1cdcd7314b4d86b59e2cb9c3f3436236a87611b06f35c82ddd75",
    16,
)


def _key(p: int, q: int) -> rsa.RSAPrivateKey:
    d = pow(_EXPONENT, -1, (p - 1) * (q - 1))
    return rsa.RSAPrivateNumbers(
        p=p,
        q=q,
        d=d,
        dmp1=rsa.rsa_crt_dmp1(d, p),
        dmq1=rsa.rsa_crt_dmq1(d, q),
        iqmp=rsa.rsa_crt_iqmp(p, q),
        public_numbers=rsa.RSAPublicNumbers(_EXPONENT, p * q),
    ).private_key()


MERCHANT: Final = _key(_MERCHANT_P, _MERCHANT_Q)
PROVIDER: Final = _key(_PROVIDER_P, _PROVIDER_Q)


def private_pem(key: rsa.RSAPrivateKey) -> str:
    """The key as PKCS#8 in PEM, without a password."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def public_pem(key: rsa.RSAPrivateKey) -> str:
    """The public half as SubjectPublicKeyInfo in PEM."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def sign(key: rsa.RSAPrivateKey, text: bytes) -> str:
    """The signature in base64, on one line."""
    return base64.b64encode(key.sign(text, padding.PKCS1v15(), SHA256())).decode()


def is_signed(key: rsa.RSAPublicKey, text: bytes, signature: str) -> bool:
    """True when the signature in base64 is that of the text."""
    try:
        raw = base64.b64decode(signature, validate=True)
        key.verify(raw, text, padding.PKCS1v15(), SHA256())
    except (binascii.Error, ValueError, InvalidSignature):
        return False
    return True

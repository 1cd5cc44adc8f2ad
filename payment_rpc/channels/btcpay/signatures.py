"""Signatures of a BTCPay Server's notices. They have no time: a replay is harmless, because every
notice only makes us ask.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from payment_rpc.domain.errors import SignatureInvalid

HEADER = "btcpay-sig"


def check(secrets: Sequence[str], *, body: bytes, signature: str) -> None:
    """Checks `sha256=` and hex HMAC-SHA256 over the raw body, against each secret.

    Raises:
        SignatureInvalid: no secret fits.
    """
    given = signature.encode("utf-8", "replace")
    expected = [
        f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}".encode()
        for secret in secrets
    ]
    if not any(hmac.compare_digest(each, given) for each in expected):
        raise SignatureInvalid

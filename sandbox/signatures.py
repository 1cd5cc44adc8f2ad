"""Signs as the channel does: HMAC-SHA256 over `timestamp.body` for callbacks, and the MD5 rule of
source 001 for its hint.
"""

from __future__ import annotations

import hashlib
import hmac


def sign_callback(secret: str, *, timestamp: str, body: bytes) -> str:
    """Hex HMAC-SHA256 of the timestamp (milliseconds as digits), a full stop and the raw body."""
    return hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def sign_hint(
    secret: str, *, payment_id: str, callback_status: str, timestamp: str, nonce: str
) -> str:
    """UPPER(MD5(callback_status + nonce + payment_id + timestamp + secret)): the fields in the
    order of their names, without separators. It covers neither amount nor trade number, so it
    proves only that a holder of the secret named a payment.
    """
    text = callback_status + nonce + payment_id + timestamp + secret
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest().upper()

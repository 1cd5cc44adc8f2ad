"""Signs notices as Stripe documents it: HMAC-SHA256 over timestamp and body, the key is the whole
secret with its prefix `whsec_`.
"""

from __future__ import annotations

import hashlib
import hmac


def signature_header(secrets: tuple[str, ...], *, timestamp: int, body: bytes) -> str:
    """The value of `Stripe-Signature`. While a secret is rolled there are two, each with a `v1`.

    Args:
        timestamp: whole seconds since 1970.
    """
    message = f"{timestamp}.".encode() + body
    signed = [
        f"v1={hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()}" for secret in secrets
    ]
    return ",".join((f"t={timestamp}", *signed))

"""Signatures of Stripe's webhooks: HMAC-SHA256 over the timestamp and the raw bytes."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from datetime import datetime, timedelta

from mesh.times import EPOCH
from payment_rpc.domain.errors import SignatureInvalid

_FRESHNESS = timedelta(minutes=5)
_HEADER_MAX = 4096
_SECONDS = re.compile(r"[0-9]{1,11}", re.ASCII)


class WebhookSecrets:
    """The secrets of an endpoint; nothing shows them."""

    __slots__ = ("_keys",)

    def __init__(self, secrets: Sequence[str]) -> None:
        self._keys = [secret.encode() for secret in secrets]

    def check(self, *, header: str, body: bytes, now: datetime) -> None:
        """Checks `Stripe-Signature: t=<seconds>,v1=<hex>[,v1=<hex>…]`: hex of
        HMAC-SHA256(secret, t + "." + body), where the secret is the whole text with `whsec_`. While
        a secret is rolled Stripe signs with both, so there may be two `v1`; other schemes are
        ignored.

        Raises:
            SignatureInvalid: no `v1` fits a secret, or the time is more than 5 minutes off, before
                or after. Stripe's own library lets future times pass.
        """
        stamp, given = _read(header)
        signed = stamp.encode() + b"." + body
        fits = False
        for key in self._keys:
            expected = hmac.new(key, signed, hashlib.sha256).hexdigest().encode()
            for signature in given:
                fits |= hmac.compare_digest(expected, signature)
        if not fits:
            raise SignatureInvalid
        if abs(now - (EPOCH + timedelta(seconds=int(stamp)))) > _FRESHNESS:
            raise SignatureInvalid("the timestamp is more than 5 minutes off")


def _read(header: str) -> tuple[str, list[bytes]]:
    """The timestamp and every `v1`."""
    if len(header) > _HEADER_MAX:
        raise SignatureInvalid
    stamps, signatures = list[str](), list[bytes]()
    for item in header.split(","):
        scheme, _, value = item.strip().partition("=")
        if scheme == "t":
            stamps.append(value)
        elif scheme == "v1":
            signatures.append(value.encode("utf-8", "replace"))
    if len(stamps) != 1 or not _SECONDS.fullmatch(stamps[0]):
        raise SignatureInvalid("the timestamp is not in seconds")
    if not signatures:
        raise SignatureInvalid
    return stamps[0], signatures

"""Signatures of the sandbox: HMAC of its callbacks, and the MD5 rule of source 001."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from payment_rpc.domain.callback import Subject
from payment_rpc.domain.errors import SignatureInvalid

_FRESHNESS = timedelta(minutes=5)
_MILLISECONDS = re.compile(r"[0-9]{13}")
_NONCE = re.compile(r"[A-Za-z][A-Za-z0-9]{0,63}")
_PAYMENT_ID = re.compile(r"[A-Za-z0-9_-]{1,32}")
_HINT_STATUSES = frozenset({"SUCCESS", "FAILED"})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def check_callback(
    secrets: Sequence[bytes], *, body: bytes, timestamp: str, signature: str, now: datetime
) -> None:
    """Checks hex HMAC-SHA256(secret, timestamp + "." + body) against each secret.

    Raises:
        SignatureInvalid: no secret fits, or the timestamp is too old or too new.
    """
    signed = timestamp.encode("utf-8", "replace") + b"." + body
    _must_be_one_of(
        signature, [hmac.new(secret, signed, hashlib.sha256).hexdigest() for secret in secrets]
    )
    _must_be_fresh(timestamp, now)


def check_hint(
    secrets: Sequence[str],
    *,
    payment_id: str,
    callback_status: str,
    timestamp: str,
    nonce: str,
    signature: str,
    now: datetime,
) -> None:
    """Checks UPPER(MD5(callback_status + nonce + payment_id + timestamp + secret)) against each
    secret. The text has no separators, so only fixed forms keep a character from moving into the
    next field: `SUCCESSa` + `bc123` has the signature of `SUCCESS` + `abc123`.

    Raises:
        SignatureInvalid: no secret fits, a field has another form, or the timestamp is too old or
            too new.
    """
    if (
        callback_status not in _HINT_STATUSES
        or not _NONCE.fullmatch(nonce)
        or not _MILLISECONDS.fullmatch(timestamp)
        or not _PAYMENT_ID.fullmatch(payment_id)
    ):
        raise SignatureInvalid
    text = callback_status + nonce + payment_id + timestamp
    _must_be_one_of(
        signature,
        [
            hashlib.md5((text + secret).encode(), usedforsecurity=False).hexdigest().upper()
            for secret in secrets
        ],
    )
    _must_be_fresh(timestamp, now)


def hint_subject(*, payment_id: str, timestamp: str, nonce: str) -> Subject:
    """The payment, and the id that source 001 gives its callbacks: MD5(payment_id + timestamp +
    nonce). People search for that id. Ours is the digest of all fields, because other fields can
    have the same text without separators.
    """
    event_id = hashlib.md5(
        (payment_id + timestamp + nonce).encode("utf-8", "replace"), usedforsecurity=False
    ).hexdigest()
    return Subject(
        event_id=event_id, payment_id=payment_id if _PAYMENT_ID.fullmatch(payment_id) else ""
    )


def _must_be_one_of(signature: str, expected: Sequence[str]) -> None:
    given = signature.encode("utf-8", "replace")
    if not any(hmac.compare_digest(each.encode(), given) for each in expected):
        raise SignatureInvalid


def _must_be_fresh(timestamp: str, now: datetime) -> None:
    """Refuses old and future timestamps: an overheard message is accepted for minutes only."""
    if not _MILLISECONDS.fullmatch(timestamp):
        raise SignatureInvalid("the timestamp is not in milliseconds")
    if abs(now - (_EPOCH + timedelta(milliseconds=int(timestamp)))) > _FRESHNESS:
        raise SignatureInvalid("the timestamp is more than 5 minutes off")

"""A callback of a channel as the log stores it: the raw bytes as text, their subject, whether the
signature was valid, and the result. A verified message has a key by which its repetition is
recognised. An unverified one has none, so it never blocks a genuine one.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

BODY_BYTES_MAX = 256 * 1024  # Stripe and PayPal send metadata along; a larger one is not read
BODY_BYTES_KEPT = 48_000  # of a verified message; in base 64 it fits into the column
UNVERIFIED_BYTES_KEPT = 1024  # of an unverified message
VERIFIED_RETENTION = timedelta(days=180)  # as long as a buyer may dispute a charge
# of forgeries and of hints, which prove nothing about money
OTHER_RETENTION = timedelta(days=7)

_REASON_MAX = 200  # as wide as our columns
_TIMESTAMP_MAX = 32
_NONCE_MAX = 64
_EVENT_ID_MAX = 64


class CallbackKind(StrEnum):
    """Kinds of messages."""

    CALLBACK = "CALLBACK"  # signed over every byte: a fact
    HINT = "HINT"  # of source 001, whose signature covers no amount: a reason to query the channel


class CallbackResult(StrEnum):
    """What became of a message; the words of source 001."""

    RECEIVED = "RECEIVED"  # a hint, while the channel is queried
    PROCESSED = "PROCESSED"  # it changed something
    IGNORED = "IGNORED"  # known before, or nothing to change
    # unverified, or it could not be applied; a genuine one may come again and be PROCESSED
    FAILED = "FAILED"


# the same message again changes nothing
FINAL = frozenset({CallbackResult.PROCESSED, CallbackResult.IGNORED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What a message is about; "" where that is not known. `event_id` is the channel's name for the
    message, `ref` its name for the attempt.
    """

    event_id: str = ""
    payment_id: str = ""
    attempt_id: str = ""
    refund_id: str = ""
    ref: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Callback:
    """One message, delivered once or more often. `payload` is the body, or its beginning;
    `payload_bytes` and `payload_digest` are of all of it.
    """

    callback_id: str
    channel: str
    kind: CallbackKind
    dedupe_key: str | None
    about: Subject
    payload: str
    payload_encoding: str
    payload_bytes: int
    payload_digest: str
    sent_timestamp: str
    nonce: str
    signature_digest: str
    signature_valid: bool
    result: CallbackResult
    reason: str
    deliveries: int
    trace_id: str
    received_at: datetime
    last_received_at: datetime
    finished_at: datetime | None
    expires_at: datetime

    def refused(self, reason: str) -> Callback:
        """The message as unverified: without a key, cut short, stored for days."""
        payload, encoding = _as_text(self._body()[:UNVERIFIED_BYTES_KEPT])
        return replace(
            self,
            signature_valid=False,
            dedupe_key=None,
            result=CallbackResult.FAILED,
            reason=reason[:_REASON_MAX],
            payload=payload,
            payload_encoding=encoding,
            finished_at=self.received_at,
            expires_at=self.received_at + OTHER_RETENTION,
        )

    def named(self, event_id: str) -> Callback:
        """The message under the channel's own name for it, which all its deliveries have, also
        where their bytes differ. "" leaves it under the digest of its bytes.
        """
        if not event_id:
            return self
        return replace(
            self,
            dedupe_key=_digest(b"EVENT\0" + event_id.encode()),
            about=replace(self.about, event_id=_clean(event_id)[:_EVENT_ID_MAX]),
        )

    def says_the_same(self, other: Callback) -> bool:
        """Whether both have the same bytes. The same name with other bytes is applied again: what
        is known changes nothing.
        """
        return self.payload_digest == other.payload_digest

    def waits(self, *, reason: str) -> Callback:
        """The message while the channel is asked because of it."""
        return replace(
            self, result=CallbackResult.RECEIVED, reason=reason[:_REASON_MAX], finished_at=None
        )

    def ended(
        self, result: CallbackResult, *, reason: str, about: Subject, at: datetime
    ) -> Callback:
        """The message with its result."""
        return replace(
            self, result=result, reason=reason[:_REASON_MAX], about=about, finished_at=at
        )

    def _body(self) -> bytes:
        return (
            base64.b64decode(self.payload)
            if self.payload_encoding == "BASE64"
            else self.payload.encode()
        )


def received(
    *,
    callback_id: str,
    channel: str,
    kind: CallbackKind,
    body: bytes,
    about: Subject,
    timestamp: str,
    nonce: str,
    signature: str,
    trace_id: str,
    at: datetime,
) -> Callback:
    """A message as it came, genuine until it is `refused`.

    Its key is the digest of all its bytes until it is verified and `named` says its event id.
    """
    payload, encoding = _as_text(body[:BODY_BYTES_KEPT])
    retention = VERIFIED_RETENTION if kind is CallbackKind.CALLBACK else OTHER_RETENTION
    return Callback(
        callback_id=callback_id,
        channel=channel,
        kind=kind,
        dedupe_key=_digest(kind.encode() + b"\0" + body),
        about=about,
        payload=payload,
        payload_encoding=encoding,
        payload_bytes=len(body),
        payload_digest=_digest(body),
        sent_timestamp=_clean(timestamp)[:_TIMESTAMP_MAX],
        nonce=_clean(nonce)[:_NONCE_MAX],
        signature_digest=_digest(signature.encode("utf-8", "replace")),
        signature_valid=True,
        result=CallbackResult.RECEIVED,
        reason="",
        deliveries=1,
        trace_id=trace_id,
        received_at=at,
        last_received_at=at,
        finished_at=None,
        expires_at=at + retention,
    )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _as_text(content: bytes) -> tuple[str, str]:
    """The bytes as text, because the driver cannot send bytes, and how they were written."""
    try:
        return content.decode(), "TEXT"
    except UnicodeDecodeError:
        return base64.b64encode(content).decode(), "BASE64"


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode()

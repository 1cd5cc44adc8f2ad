"""HandleCallback: a verified callback of a channel is a fact and is applied.

It is written down and applied in one transaction, under a key that only verified callbacks have. So
equal ones at once take turns: one is PROCESSED, the others find it so and are IGNORED. A crash
before the commit leaves neither the row nor its effect, and the channel delivers again, because it
was not answered "success". After the commit the next delivery is IGNORED. A callback that cannot be
applied (its payment is not there) is rolled back and written down as FAILED, which is not final:
the channel delivers it again, and then it may be PROCESSED. An unverified message never uses the
key, so a forgery that comes first changes nothing for the genuine callback.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

from prometheus_client import Counter
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.call import current_trace_id
from mesh.clock import Clock
from mesh.db import ConstraintViolated, Database
from mesh.errors import (
    Conflict,
    InvalidArgument,
    MeshError,
    OutcomeUnknown,
    RateLimited,
    Unavailable,
)
from mesh.free_text import masked
from mesh.ids import Ids
from mesh.logs import get_logger
from mesh.rate_limit import RateLimiter
from payment_rpc.channels.inbound import Inbound
from payment_rpc.channels.registry import Channels
from payment_rpc.channels.sandbox.channel import SIGNATURE_HEADER, TIMESTAMP_HEADER
from payment_rpc.domain.callback import (
    BODY_BYTES_MAX,
    FINAL,
    Callback,
    CallbackKind,
    CallbackResult,
    Subject,
    received,
)
from payment_rpc.domain.errors import SignatureInvalid
from payment_rpc.domain.facts import ChannelFact
from payment_rpc.domain.refund_facts import RefundFact
from payment_rpc.store import callbacks
from payment_rpc.usecases.channel_results import ChannelResults
from payment_rpc.usecases.refund_results import RefundResults

MOCK_CHANNEL = "sandbox"  # plays the MOCK channel of source 001
VERIFIED_BURST = 2000  # genuine callbacks of one channel
VERIFIED_EVERY = timedelta(milliseconds=2)
# Unverified messages that are written down per channel and process: a stranger costs a fixed number
# of rows.
UNVERIFIED_BURST = 50
UNVERIFIED_EVERY = timedelta(seconds=10)

CALLBACKS_DONE = Counter(
    "paymesh_callbacks_total",
    "Messages of channels by what became of them.",
    ["channel", "kind", "result"],
)
_UNVERIFIED = Counter(
    "paymesh_callbacks_unverified_total",
    "Messages that nobody believed, and whether they were written down.",
    ["channel", "kept"],
)

log = get_logger()


def rate_limiter(clock: Clock, *, burst: int, every: timedelta) -> RateLimiter:
    """So many at once, then one per interval of the injected clock, for each key."""
    return RateLimiter(
        per_second=timedelta(seconds=1) / every, burst=burst, now=lambda: clock.now().timestamp()
    )


class CallbackLog:
    """Writes down callbacks that were not applied."""

    def __init__(self, *, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock
        self._unverified = rate_limiter(clock, burst=UNVERIFIED_BURST, every=UNVERIFIED_EVERY)

    async def fail(self, callback: Callback, problem: MeshError | ConstraintViolated) -> None:
        """Writes down a genuine message that could not be applied. Not when the database is away:
        then the channel delivers it again.
        """
        if isinstance(problem, Unavailable | OutcomeUnknown):
            return
        await self._db.run(_write_failed, callback, reason=reason_of(problem), at=self._clock.now())
        CALLBACKS_DONE.labels(callback.channel, callback.kind, CallbackResult.FAILED).inc()

    async def keep_unverified(self, callback: Callback, reason: str) -> None:
        """Writes down a message that was not verified, within limits. The sender's answer does not
        depend on it.
        """
        kept = not self._unverified.take(callback.channel)
        _UNVERIFIED.labels(callback.channel, "yes" if kept else "no").inc()
        if not kept:
            return
        try:
            await self._db.run(callbacks.add_unverified, _without_cards(callback.refused(reason)))
        except (Unavailable, Conflict, OutcomeUnknown):
            log.warning("unverified_callback_not_kept", channel=callback.channel, reason=reason)


class Callbacks:
    """Applies callbacks of channels."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        ids: Ids,
        log: CallbackLog,
        channel_results: ChannelResults,
        refund_results: RefundResults,
        channels: Channels,
    ) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._log = log
        self._channel_results = channel_results
        self._refund_results = refund_results
        self._channels = channels
        self._verified = rate_limiter(clock, burst=VERIFIED_BURST, every=VERIFIED_EVERY)

    async def handle_callback(
        self, *, channel: str, body: bytes, timestamp: str, signature: str
    ) -> CallbackResult:
        """Applies a callback; returns after the commit, so that an acknowledged one is never lost.

        Raises:
            ChannelNotSupported: no such channel. InvalidArgument: too large, or about nothing.
                SignatureInvalid: forged, altered or stale.
            PaymentNotFound, RefundNotFound: not about an attempt or refund of ours. RateLimited:
                the channel sends more than we take; it comes again.
        """
        source = await self._channels.get(channel)
        inbound = Inbound(
            body=body, headers={TIMESTAMP_HEADER: timestamp, SIGNATURE_HEADER: signature}
        )
        is_too_large = len(body) > BODY_BYTES_MAX
        callback = received(
            callback_id=self._ids.new("CB"),
            channel=channel,
            kind=CallbackKind.CALLBACK,
            body=body,
            about=Subject() if is_too_large else source.subject_of(inbound),
            timestamp=timestamp,
            nonce="",
            signature=signature,
            trace_id=current_trace_id(),
            at=self._clock.now(),
        )
        if is_too_large:
            await self._log.keep_unverified(
                callback, f"BODY_TOO_LARGE: more than {BODY_BYTES_MAX} bytes"
            )
            raise InvalidArgument.of("body", f"more than {BODY_BYTES_MAX} bytes")
        try:
            (fact,) = source.receive(inbound, now=self._clock.now()).news
            if not isinstance(fact, ChannelFact | RefundFact):
                raise NotImplementedError(type(fact).__name__)
        except SignatureInvalid as refusal:
            await self._log.keep_unverified(callback, reason_of(refusal))
            raise
        except InvalidArgument as refusal:  # the channel's own, and about nothing
            await self._log.fail(callback, refusal)
            raise
        callback = _without_cards(callback)
        if self._verified.take(channel):
            raise RateLimited("Too many callbacks of one channel.", retry_after_seconds=1)
        try:
            result, announce = await self._db.run(self._apply, callback, fact)
        except (MeshError, ConstraintViolated) as problem:
            await self._log.fail(callback, problem)
            raise
        CALLBACKS_DONE.labels(channel, callback.kind, result).inc()
        if announce is not None:
            await announce()
        return result

    async def _apply(
        self, tx: AsyncConnection, callback: Callback, fact: ChannelFact | RefundFact
    ) -> tuple[CallbackResult, Callable[[], Awaitable[None]] | None]:
        """The result, and what to call after the commit when something changed."""
        logged = await callbacks.arrive(tx, callback)
        if logged.result in FINAL:
            return CallbackResult.IGNORED, None
        announce: Callable[[], Awaitable[None]]
        if isinstance(fact, RefundFact):
            refund, payment = await self._refund_results.write(tx, fact)
            changed, announce = payment is not None, partial(self._refund_results.announce, payment)
            about = replace(
                callback.about,
                payment_id=refund.payment_id,
                attempt_id=refund.attempt_id,
                refund_id=refund.refund_id,
            )
        else:
            applied = await self._channel_results.write(tx, fact)
            changed, announce = applied.changed, partial(self._channel_results.announce, applied)
            about = replace(
                callback.about,
                payment_id=applied.payment.payment_id,
                attempt_id=applied.attempt.attempt_id,
            )
        result = CallbackResult.PROCESSED if changed else CallbackResult.IGNORED
        reason = f"{fact.status}: {fact.message}" if fact.message else str(fact.status)
        await callbacks.finish(
            tx, logged.ended(result, reason=reason, about=about, at=self._clock.now())
        )
        return result, announce


def _without_cards(callback: Callback) -> Callback:
    """The callback as it is kept, for months. Texts that people wrote at the channel may hold a
    card number, so digits are masked. The digest is of the bytes that came.
    """
    if callback.payload_encoding == "BASE64":
        return callback
    return replace(callback, payload=masked(callback.payload))


async def _write_failed(
    tx: AsyncConnection, callback: Callback, *, reason: str, at: datetime
) -> None:
    logged = await callbacks.arrive(tx, callback)
    await callbacks.finish(
        tx, logged.ended(CallbackResult.FAILED, reason=reason, about=callback.about, at=at)
    )


def reason_of(problem: MeshError | ConstraintViolated) -> str:
    return (
        f"{problem.reason}: {problem.message}"
        if isinstance(problem, MeshError)
        else f"INTERNAL: {problem.name}"
    )

"""What channels tell us unasked. A verified callback is a fact; a callback of source 001, whose
signature covers no amount, is only a hint to ask.

A verified callback is written down and applied in one transaction, under a key that only verified
ones hold. So equal ones at once take turns: one is PROCESSED and the others find it so and are
IGNORED. A crash anywhere before the commit leaves neither the row nor its effect, and the channel,
which was not told "success", delivers again to somebody who has never heard of it; a crash after
the commit is delivered again and IGNORED. One that cannot be applied (its payment is not there) is
rolled back and written down as FAILED, which is not final: the channel delivers it again, and then
it may be PROCESSED. What was not believed never meets the key, so a forgery that comes first
changes nothing for the genuine one.

A hint makes us ask, and nobody is asked inside a transaction. So it is RECEIVED in one transaction
and gets its result in another; what a crash leaves RECEIVED is asked by the next delivery or by the
worker. Asking twice is harmless: the answer is applied once.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import structlog
from prometheus_client import Counter
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.bad_rows import Quarantine
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
from mesh.failpoints import FailpointRaised
from mesh.free_text import masked
from mesh.ids import Ids
from mesh.worker import each
from payment_rpc.channels import Channel
from payment_rpc.domain.attempt import OPEN, Attempt
from payment_rpc.domain.callback import (
    BODY_BYTES_MAX,
    FINAL,
    Callback,
    CallbackKind,
    CallbackResult,
    Subject,
    received,
)
from payment_rpc.domain.errors import ChannelNotSupported, PaymentNotFound, SignatureInvalid
from payment_rpc.domain.facts import ChannelFact
from payment_rpc.domain.payment import MONEY, Payment
from payment_rpc.domain.refund_facts import RefundFact
from payment_rpc.store import attempts, callbacks, payments
from payment_rpc.tables import CHANNEL_CALLBACK
from payment_rpc.usecases.asking import Asking
from payment_rpc.usecases.facts import Facts
from payment_rpc.usecases.refunds import Refunds

MOCK_CHANNEL = "sandbox"  # plays the MOCK channel of source 001
# Of what nobody believed, so much is written down per channel and process: a stranger costs a fixed
# number of rows.
VERIFIED_BURST = 2000  # genuine ones of one channel, wherever they come from
VERIFIED_EVERY = timedelta(milliseconds=2)
UNVERIFIED_BURST = 50
UNVERIFIED_EVERY = timedelta(seconds=10)
# Hints are signed with a secret that source 001 has published. Above this they still make us ask
# and leave no row.
HINT_BURST = 500
HINT_EVERY = timedelta(seconds=1)
# longer than any question takes: whoever received the hint is gone
UNFINISHED_AFTER = timedelta(minutes=1)
_BATCH = 100

_DONE = Counter(
    "paymesh_callbacks_total",
    "Messages of channels by what became of them.",
    ["channel", "kind", "result"],
)
_UNVERIFIED = Counter(
    "paymesh_callbacks_unverified_total",
    "Messages that nobody believed, and whether they were written down.",
    ["channel", "kept"],
)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """A callback of source 001. `channel_trade_no` is not signed and not used."""

    payment_id: str
    callback_status: str
    timestamp: str
    nonce: str


class TokenBucket:
    """A token bucket: so many at once, then one per interval."""

    def __init__(self, *, burst: int, every: timedelta) -> None:
        self._every = every
        self._whole = burst * every
        self._full_at: datetime | None = None

    def take(self, now: datetime) -> bool:
        """True when there is a token; takes it."""
        # A clock that was set back leaves the bucket empty, not empty for as long as it was set
        # back.
        self._full_at = (
            now if self._full_at is None else min(max(self._full_at, now), now + self._whole)
        )
        if self._full_at + self._every - now > self._whole:
            return False
        self._full_at += self._every
        return True


class Callbacks:
    """Takes callbacks."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        ids: Ids,
        facts: Facts,
        refunds: Refunds,
        asking: Asking,
        channels: Mapping[str, Channel],
        timeout_seconds: float,
    ) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._facts = facts
        self._refunds = refunds
        self._asking = asking
        self._channels = channels
        self._timeout_seconds = timeout_seconds
        self._unverified = {
            name: TokenBucket(burst=UNVERIFIED_BURST, every=UNVERIFIED_EVERY) for name in channels
        }
        self._verified = {
            name: TokenBucket(burst=VERIFIED_BURST, every=VERIFIED_EVERY) for name in channels
        }
        self._hints = TokenBucket(burst=HINT_BURST, every=HINT_EVERY)
        self._quarantine = Quarantine("finish_callbacks", CHANNEL_CALLBACK.c.callback_id)

    async def handle(
        self, *, channel: str, body: bytes, timestamp: str, signature: str
    ) -> CallbackResult:
        """Applies a callback; returns after the commit, so that an acknowledged one is never lost.

        Raises:
            ChannelNotSupported: no such channel. InvalidArgument: too large, or about nothing.
                SignatureInvalid: forged, altered or stale.
            PaymentNotFound, RefundNotFound: not about an attempt or refund of ours. RateLimited:
                the channel sends more than we take; it comes again.
        """
        if channel not in self._channels:
            raise ChannelNotSupported
        source = self._channels[channel]
        is_too_large = len(body) > BODY_BYTES_MAX
        callback = received(
            callback_id=self._ids.new("CB"),
            channel=channel,
            kind=CallbackKind.CALLBACK,
            body=body,
            about=Subject() if is_too_large else source.subject_of(body),
            timestamp=timestamp,
            nonce="",
            signature=signature,
            trace_id=current_trace_id(),
            at=self._clock.now(),
        )
        if is_too_large:
            await self._keep_unverified(
                callback, f"BODY_TOO_LARGE: more than {BODY_BYTES_MAX} bytes"
            )
            raise InvalidArgument.of("body", f"more than {BODY_BYTES_MAX} bytes")
        try:
            news = source.verify_callback(
                body=body, timestamp=timestamp, signature=signature, now=self._clock.now()
            )
        except SignatureInvalid as refusal:
            await self._keep_unverified(callback, _reason(refusal))
            raise
        except InvalidArgument as refusal:  # the channel's own, and about nothing
            await self._fail(callback, refusal)
            raise
        callback = _without_cards(callback)
        if not self._verified[channel].take(self._clock.now()):
            raise RateLimited("Too many callbacks of one channel.", retry_after_seconds=1)
        try:
            result, announce = await self._db.run(self._take, callback, news)
        except (MeshError, ConstraintViolated) as problem:
            await self._fail(callback, problem)
            raise
        _DONE.labels(channel, callback.kind, result).inc()
        if announce is not None:
            await announce()
        return result

    async def handle_hint(self, hint: Hint, *, signature: str) -> tuple[CallbackResult, Payment]:
        """Asks the channel because a verified hint says that there is news. One that came before
        asks again as long as no money is there.

        Raises:
            SignatureInvalid, PaymentNotFound, ChannelNotSupported: nothing was asked.
        """
        source, now = self._channels[MOCK_CHANNEL], self._clock.now()
        callback = received(
            callback_id=self._ids.new("CB"),
            channel=MOCK_CHANNEL,
            kind=CallbackKind.HINT,
            body=json.dumps(asdict(hint)).encode(),
            about=source.subject_of_hint(
                payment_id=hint.payment_id, timestamp=hint.timestamp, nonce=hint.nonce
            ),
            timestamp=hint.timestamp,
            nonce=hint.nonce,
            signature=signature,
            trace_id=current_trace_id(),
            at=now,
        )
        try:
            source.verify_hint(
                payment_id=hint.payment_id,
                callback_status=hint.callback_status,
                timestamp=hint.timestamp,
                nonce=hint.nonce,
                signature=signature,
                now=now,
            )
        except SignatureInvalid as refusal:
            await self._keep_unverified(callback, _reason(refusal))
            raise
        is_logged = self._hints.take(now)
        try:
            logged, attempt, payment = await self._db.run(
                self._receive_hint, callback, is_logged=is_logged
            )
        except (MeshError, ConstraintViolated) as problem:
            if is_logged:
                await self._fail(callback, problem)
            raise
        if logged.result in FINAL and payment.state in MONEY:
            return CallbackResult.IGNORED, payment
        return await self._ask(logged, attempt)

    async def sign_hint(self, hint: Hint) -> str:
        """Lets the mock channel record an outcome as its truth and sign it. Development only.

        Raises:
            PaymentNotFound, PaymentStateInvalid, ChannelUnavailable.
        """
        attempt = await self._db.read(_newest_attempt, hint.payment_id)
        return await self._channels[MOCK_CHANNEL].sign(
            attempt_id=attempt.attempt_id,
            payment_id=hint.payment_id,
            callback_status=hint.callback_status,
            timestamp=hint.timestamp,
            nonce=hint.nonce,
            timeout_seconds=self._timeout_seconds,
        )

    async def run_once(self) -> int:
        """Finishes the hints that a crash left; returns how many. One that cannot be finished now
        is not counted, so nobody runs after it.
        """
        left = await self._db.read(
            callbacks.list_unfinished,
            before=self._clock.now() - UNFINISHED_AFTER,
            limit=_BATCH,
            quarantine=self._quarantine,
        )
        finished = []

        async def finish(row: Any) -> None:
            try:
                await self._finish(callbacks.callback_of(row))
            except Exception as error:
                is_expected = isinstance(error, (MeshError, FailpointRaised))
                # as many as are read at once would hide the others behind them
                if not is_expected or len(left) == _BATCH:
                    self._quarantine.add(self._quarantine.key_of(row), error)
                if is_expected:
                    raise
            else:
                finished.append(row)

        await each(
            left,
            finish,
            failed="hint_not_finished",
            about=lambda row: {"callback_id": row.callback_id},
        )
        return len(finished)

    async def _finish(self, callback: Callback) -> None:
        try:
            await self._ask(
                callback, await self._db.read(_newest_attempt, callback.about.payment_id)
            )
        # never will be finished: once written down, nobody tries again each second
        except (PaymentNotFound, ChannelNotSupported) as problem:
            ended = callback.ended(
                CallbackResult.FAILED,
                reason=_reason(problem),
                about=callback.about,
                at=self._clock.now(),
            )
            await self._db.run(callbacks.finish, ended)

    async def _take(
        self,
        tx: AsyncConnection,
        callback: Callback,
        news: ChannelFact | RefundFact,
    ) -> tuple[CallbackResult, Callable[[], Awaitable[None]] | None]:
        """The result, and what follows the commit when there is something new."""
        logged = await callbacks.arrive(tx, callback)
        if logged.result in FINAL:
            return CallbackResult.IGNORED, None
        announce: Callable[[], Awaitable[None]]
        if isinstance(news, RefundFact):
            refund, payment = await self._refunds.write(tx, news)
            changed, announce = payment is not None, partial(self._refunds.announce, payment)
            about = replace(
                callback.about,
                payment_id=refund.payment_id,
                attempt_id=refund.attempt_id,
                refund_id=refund.refund_id,
            )
        else:
            applied = await self._facts.write(tx, news)
            changed, announce = applied.changed, partial(self._facts.announce, applied)
            about = replace(
                callback.about,
                payment_id=applied.payment.payment_id,
                attempt_id=applied.attempt.attempt_id,
            )
        result = CallbackResult.PROCESSED if changed else CallbackResult.IGNORED
        said = f"{news.status}: {news.message}" if news.message else str(news.status)
        await callbacks.finish(
            tx, logged.ended(result, reason=said, about=about, at=self._clock.now())
        )
        return result, announce

    async def _receive_hint(
        self, tx: AsyncConnection, callback: Callback, *, is_logged: bool
    ) -> tuple[Callback, Attempt, Payment]:
        logged = await callbacks.arrive(tx, callback) if is_logged else callback
        payment = await payments.read_payment(tx, callback.about.payment_id)
        attempt = await _newest_attempt(tx, callback.about.payment_id)
        if attempt.channel not in self._channels:  # paid out of a wallet
            raise ChannelNotSupported
        return logged, attempt, payment

    async def _ask(self, callback: Callback, attempt: Attempt) -> tuple[CallbackResult, Payment]:
        """Asks the channel because of a hint and writes down what came of it."""
        applied = await self._asking.query(attempt)
        result = CallbackResult.PROCESSED if applied.changed else CallbackResult.IGNORED
        said = (
            "the channel has not decided"
            if applied.attempt.state in OPEN
            else f"the attempt is {applied.attempt.state}"
        )
        about = replace(callback.about, attempt_id=attempt.attempt_id)
        await self._db.run(
            callbacks.finish, callback.ended(result, reason=said, about=about, at=self._clock.now())
        )
        _DONE.labels(callback.channel, callback.kind, result).inc()
        return result, applied.payment

    async def _fail(self, callback: Callback, problem: MeshError | ConstraintViolated) -> None:
        """Writes a genuine message down that could not be applied. Not when the database is away:
        then the channel's next delivery is the log.
        """
        if isinstance(problem, Unavailable | OutcomeUnknown):
            return
        await self._db.run(_write_failed, callback, reason=_reason(problem), at=self._clock.now())
        _DONE.labels(callback.channel, callback.kind, CallbackResult.FAILED).inc()

    async def _keep_unverified(self, callback: Callback, reason: str) -> None:
        """Writes down what nobody believed, within limits. Whoever sent it learns nothing of how
        that went.
        """
        kept = self._unverified[callback.channel].take(callback.received_at)
        _UNVERIFIED.labels(callback.channel, "yes" if kept else "no").inc()
        if not kept:
            return
        try:
            await self._db.run(callbacks.add_unverified, _without_cards(callback.refused(reason)))
        except (Unavailable, Conflict, OutcomeUnknown):
            log.warning("unverified_callback_not_kept", channel=callback.channel, reason=reason)


def _without_cards(callback: Callback) -> Callback:
    """As it is kept, for months: what people write at a channel may hold the number of a card. The
    digest is of what came.
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


async def _newest_attempt(tx: AsyncConnection, payment_id: str) -> Attempt:
    # a payment that is not there is refused by its own name
    await payments.read_payment(tx, payment_id)
    return (await attempts.attempts_of(tx, payment_id))[-1]


def _reason(problem: MeshError | ConstraintViolated) -> str:
    return (
        f"{problem.reason}: {problem.message}"
        if isinstance(problem, MeshError)
        else f"INTERNAL: {problem.name}"
    )

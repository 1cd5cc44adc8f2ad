"""HandleCallback: a verified callback of a channel is applied.

It is written down and applied in one transaction, under a key that only verified callbacks have:
the channel's name for it, or the digest of its bytes. So equal ones at once take turns: one is
PROCESSED, the others find it so and are IGNORED. A crash before the commit leaves neither the row
nor its effect, and the channel delivers again, because it was not acknowledged. After the commit
the next delivery is IGNORED. A callback that cannot be applied (its payment is not there) is rolled
back and written down as FAILED, which is not final: the channel delivers it again, and then it may
be PROCESSED. An unverified message never uses the key, so a forgery that comes first changes
nothing for the genuine callback.

What a message only gives reason to ask for is asked after the commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.call import current_trace_id
from mesh.clock import Clock
from mesh.db import ConstraintViolated, Database
from mesh.errors import InvalidArgument, MeshError, OutcomeUnknown, RateLimited, Unavailable
from mesh.failpoints import failpoint
from mesh.ids import Ids
from mesh.logs import get_logger
from payment_rpc.channels import Channel
from payment_rpc.channels.inbound import Ack, Ask, Inbound, KeyUnknown, News, Received
from payment_rpc.channels.registry import Channels
from payment_rpc.domain.attempt import Attempt
from payment_rpc.domain.callback import (
    BODY_BYTES_MAX,
    FINAL,
    Callback,
    CallbackKind,
    CallbackResult,
    Subject,
    received,
)
from payment_rpc.domain.dispute import DisputeFact
from payment_rpc.domain.errors import PaymentNotFound, RefundNotFound, SignatureInvalid
from payment_rpc.domain.facts import ChannelFact
from payment_rpc.domain.refund_facts import RefundFact
from payment_rpc.store import attempts, callbacks
from payment_rpc.usecases.callback_log import (
    CALLBACKS_DONE,
    CallbackLog,
    rate_limiter,
    reason_of,
    without_cards,
)
from payment_rpc.usecases.callback_questions import CallbackQuestions
from payment_rpc.usecases.channel_results import ChannelResults
from payment_rpc.usecases.disputes import write_dispute
from payment_rpc.usecases.refund_results import RefundResults

VERIFIED_BURST = 2000  # genuine callbacks of one channel
VERIFIED_EVERY = timedelta(milliseconds=2)
# Keys that strangers can make us fetch, for each channel.
KEYS_BURST = 5
KEYS_EVERY = timedelta(seconds=30)
# Providers wait about 5 s for an acknowledgement. A question that takes longer goes on without its
# message waiting.
ASK_SECONDS_MAX = 3.0
_TIMESTAMP_HEADER = "x-channel-timestamp"
_SIGNATURE_MARKS = ("signature", "-sig", "transmission")

log = get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackAnswer:
    """What a channel is answered, and what became of its message. RECEIVED: the channel is still
    being asked.
    """

    ack: Ack
    result: CallbackResult


@dataclass(slots=True)
class _Applied:
    """What a message did: what follows the commit, and what is to be asked."""

    result: CallbackResult
    callback: Callback
    announcements: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    questions: list[Attempt] = field(default_factory=list)


class Callbacks:
    """Applies callbacks of channels."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        ids: Ids,
        log: CallbackLog,
        questions: CallbackQuestions,
        channel_results: ChannelResults,
        refund_results: RefundResults,
        channels: Channels,
        timeout_seconds: float,
    ) -> None:
        """`timeout_seconds`: for fetching a key of a channel."""
        self._db = db
        self._clock = clock
        self._ids = ids
        self._log = log
        self._questions = questions
        self._channel_results = channel_results
        self._refund_results = refund_results
        self._channels = channels
        self._timeout_seconds = timeout_seconds
        self._verified = rate_limiter(clock, burst=VERIFIED_BURST, every=VERIFIED_EVERY)
        self._keys = rate_limiter(clock, burst=KEYS_BURST, every=KEYS_EVERY)
        self._asking: dict[str, asyncio.Task[CallbackResult]] = {}
        self._fetching: dict[tuple[str, str], asyncio.Task[None]] = {}

    async def handle_callback(self, *, channel: str, inbound: Inbound) -> CallbackAnswer:
        """Applies a callback and returns the channel's own answer, an acknowledgement only after
        the commit, so that an acknowledged one is never lost.

        Raises:
            ChannelNotSupported: no such channel. RateLimited: the channel sends more than we take;
                it comes again. Unavailable, OutcomeUnknown: nothing is said about the message.
            InvalidArgument (too large, or about nothing), SignatureInvalid (forged, altered or
                stale), PaymentNotFound, RefundNotFound (not one of ours): where the channel
                expects no refusal of its own form.
        """
        source = await self._channels.addressed(channel)
        try:
            result = await self._handle(source, inbound)
        except (Unavailable, OutcomeUnknown, RateLimited):
            raise
        except MeshError as refusal:
            refused = source.ack(accepted=False)
            if refused is None:
                raise
            log.info("callback_refused", channel=channel, reason=refusal.reason)
            return CallbackAnswer(ack=refused, result=CallbackResult.FAILED)
        accepted = source.ack(accepted=True)
        if accepted is None:
            raise ValueError(f"{channel} acknowledges nothing")
        return CallbackAnswer(ack=accepted, result=result)

    async def _handle(self, source: Channel, inbound: Inbound) -> CallbackResult:
        callback = self._arrived(source, inbound)
        if len(inbound.body) > BODY_BYTES_MAX:
            await self._log.keep_unverified(
                callback, f"BODY_TOO_LARGE: more than {BODY_BYTES_MAX} bytes"
            )
            raise InvalidArgument.of("body", f"more than {BODY_BYTES_MAX} bytes")
        try:
            message = await self._receive(source, inbound)
        except SignatureInvalid as refusal:
            await self._log.keep_unverified(callback, reason_of(refusal))
            raise
        except InvalidArgument as refusal:  # the channel's own, and about nothing
            self._log.note_verified(source.name)
            await self._log.fail(callback, refusal)
            raise
        self._log.note_verified(source.name)
        callback = without_cards(callback.named(message.event_id))
        if self._verified.take(source.name):
            raise RateLimited("Too many callbacks of one channel.", retry_after_seconds=1)
        try:
            applied = await self._db.run(self._apply, callback, message)
        except (MeshError, ConstraintViolated) as problem:
            await self._log.fail(callback, problem)
            raise
        failpoint("payment.callback.after_commit")
        for announce in applied.announcements:
            await announce()
        if applied.questions:
            return await self._ask(applied)
        CALLBACKS_DONE.labels(source.name, callback.kind, applied.result).inc()
        return applied.result

    def _arrived(self, source: Channel, inbound: Inbound) -> Callback:
        is_too_large = len(inbound.body) > BODY_BYTES_MAX
        return received(
            callback_id=self._ids.new("CB"),
            channel=source.name,
            kind=CallbackKind.CALLBACK,
            body=inbound.body,
            about=Subject() if is_too_large else source.subject_of(inbound),
            timestamp=inbound.headers.get(_TIMESTAMP_HEADER, ""),
            nonce="",
            signature=_signature_of(inbound),
            trace_id=current_trace_id(),
            at=self._clock.now(),
        )

    async def _receive(self, source: Channel, inbound: Inbound) -> Received:
        """The message, after its key was fetched once where it is not known yet. Messages that come
        meanwhile share the fetch: after a start the first many are signed with one key.
        """
        try:
            return source.receive(inbound, now=self._clock.now())
        except KeyUnknown as unknown:
            about = (source.name, unknown.url)
            task = self._fetching.get(about)
            if task is None:
                if self._keys.take(source.name):
                    raise SignatureInvalid("its key is not known") from None
                task = self._fetching[about] = asyncio.create_task(
                    source.learn_key(unknown.url, timeout_seconds=self._timeout_seconds)
                )
                task.add_done_callback(lambda done: self._forget_fetch(about, done))
            await asyncio.shield(task)
        try:
            return source.receive(inbound, now=self._clock.now())
        except KeyUnknown:
            raise SignatureInvalid("its key is not known") from None

    def _forget_fetch(self, about: tuple[str, str], done: asyncio.Task[None]) -> None:
        del self._fetching[about]
        if not done.cancelled():
            done.exception()  # marks it as retrieved when every message was cancelled

    async def _apply(self, tx: AsyncConnection, callback: Callback, message: Received) -> _Applied:
        logged = await callbacks.arrive(tx, callback)
        if logged.result in FINAL and logged.says_the_same(callback):
            return _Applied(CallbackResult.IGNORED, logged)
        applied = _Applied(CallbackResult.IGNORED, replace(logged, about=callback.about))
        said = "; ".join([await self._apply_one(tx, news, applied) for news in message.news])
        if applied.questions:
            # with what it is about: the worker has nothing else to go by
            waits = applied.callback.waits(reason=said)
            await callbacks.finish(tx, waits)
            applied.callback = waits
        else:
            ended = logged.ended(
                applied.result,
                reason=said or message.summary,
                about=applied.callback.about,
                at=self._clock.now(),
            )
            await callbacks.finish(tx, ended)
        return applied

    async def _apply_one(self, tx: AsyncConnection, news: News, applied: _Applied) -> str:
        """Applies one piece of news. Returns what it said, for the log."""
        about, changed = applied.callback.about, True
        match news:
            case RefundFact():
                refund, payment = await self._refund_results.write(tx, news)
                if refund.channel != applied.callback.channel:  # nothing is committed
                    raise RefundNotFound
                changed = payment is not None
                applied.announcements.append(partial(self._refund_results.announce, payment))
                about = replace(
                    about,
                    payment_id=refund.payment_id,
                    attempt_id=refund.attempt_id,
                    refund_id=refund.refund_id,
                )
            case ChannelFact():
                result = await self._channel_results.write(
                    tx, news, channel=applied.callback.channel
                )
                changed = result.changed
                applied.announcements.append(partial(self._channel_results.announce, result))
                about = replace(
                    about,
                    payment_id=result.payment.payment_id,
                    attempt_id=result.attempt.attempt_id,
                )
            case DisputeFact():
                attempt = await _attempt_named(
                    tx, applied.callback.channel, news.attempt_id, news.ref
                )
                await write_dispute(tx, news, attempt, at=self._clock.now())
                about = replace(about, payment_id=attempt.payment_id, attempt_id=attempt.attempt_id)
            case Ask():
                attempt = await _attempt_named(
                    tx, applied.callback.channel, news.subject.attempt_id, news.subject.ref
                )
                applied.questions.append(attempt)
                changed = False
                about = replace(about, payment_id=attempt.payment_id, attempt_id=attempt.attempt_id)
        applied.callback = replace(applied.callback, about=about)
        if changed:
            applied.result = CallbackResult.PROCESSED
        if isinstance(news, Ask):
            return "ask"
        message = getattr(news, "message", "")
        return f"{news.status}: {message}" if message else str(news.status)

    async def _ask(self, applied: _Applied) -> CallbackResult:
        """Asks what a message gives reason to ask for. It goes on without the message when it takes
        long, and the worker completes it when this process dies. Deliveries that come meanwhile
        share the question.
        """
        callback_id = applied.callback.callback_id
        task = self._asking.get(callback_id)
        if task is None:
            task = self._asking[callback_id] = asyncio.create_task(self._ask_all(applied))
            task.add_done_callback(lambda _: self._asking.pop(callback_id))
        done, _ = await asyncio.wait([task], timeout=ASK_SECONDS_MAX)
        return task.result() if done else CallbackResult.RECEIVED

    async def _ask_all(self, applied: _Applied) -> CallbackResult:
        changed = applied.result is CallbackResult.PROCESSED
        try:
            result, _ = await self._questions.ask(
                applied.callback, *applied.questions, changed=changed
            )
        except Exception:
            log.exception(
                "callback_question_failed",
                callback_id=applied.callback.callback_id,
                attempt_ids=[attempt.attempt_id for attempt in applied.questions],
            )
            return CallbackResult.RECEIVED
        return result


async def _attempt_named(tx: AsyncConnection, channel: str, attempt_id: str, ref: str) -> Attempt:
    """The attempt of a channel under our id, or under the channel's own.

    Raises:
        PaymentNotFound: there is none, or it is another channel's.
    """
    found = (
        await attempts.get_attempt(tx, attempt_id)
        if attempt_id
        else await attempts.attempt_by_ref(tx, channel, ref)
    )
    if found.channel != channel:
        raise PaymentNotFound
    return found


def _signature_of(inbound: Inbound) -> str:
    """Everything in the headers that signs, for its digest in the log."""
    return "\n".join(
        f"{name}: {value}"
        for name, value in sorted(inbound.headers.items())
        if any(mark in name for mark in _SIGNATURE_MARKS)
    )

"""MockCallback and GenerateSignature, the callbacks of source 001. Their signature covers no
amount, so a verified one is only a hint: it proves nothing but that it is time to query the
channel.

The channel is not queried inside a transaction. So a hint is RECEIVED in one transaction and gets
its result in another one. A hint that a crash left RECEIVED is completed by its next delivery or by
the worker. Querying twice is harmless: the answer is applied once.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.bad_rows import Quarantine
from mesh.call import current_trace_id
from mesh.clock import Clock
from mesh.db import ConstraintViolated, Database
from mesh.errors import MeshError
from mesh.failpoints import FailpointRaised
from mesh.ids import Ids
from mesh.worker import each
from payment_rpc.channels import HintChannel
from payment_rpc.domain.attempt import OPEN, Attempt
from payment_rpc.domain.callback import FINAL, Callback, CallbackKind, CallbackResult, received
from payment_rpc.domain.errors import ChannelNotSupported, PaymentNotFound, SignatureInvalid
from payment_rpc.domain.payment import MONEY, WALLET, Payment
from payment_rpc.store import attempts, callbacks, payments
from payment_rpc.tables import CHANNEL_CALLBACK
from payment_rpc.usecases.callbacks import CALLBACKS_DONE, CallbackLog, rate_limiter, reason_of
from payment_rpc.usecases.polling import Polling

MOCK_CHANNEL = "sandbox"  # plays the MOCK channel of source 001
# Hints are signed with a secret that source 001 has published. Above this rate they still query the
# channel and leave no row.
HINT_BURST = 500
HINT_EVERY = timedelta(seconds=1)
# longer than any query takes: the call that received the hint is over
UNFINISHED_AFTER = timedelta(minutes=1)
_BATCH = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """A callback of source 001. `channel_trade_no` is not signed and not used."""

    payment_id: str
    callback_status: str
    timestamp: str
    nonce: str


class MockCallbacks:
    """Handles the callbacks of source 001."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        ids: Ids,
        log: CallbackLog,
        polling: Polling,
        channel: HintChannel | None,
        timeout_seconds: float,
    ) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._log = log
        self._polling = polling
        self._channel = channel
        self._timeout_seconds = timeout_seconds
        self._hints = rate_limiter(clock, burst=HINT_BURST, every=HINT_EVERY)
        self._quarantine = Quarantine("finish_callbacks", CHANNEL_CALLBACK.c.callback_id)

    async def mock_callback(self, hint: Hint, *, signature: str) -> tuple[CallbackResult, Payment]:
        """Queries the channel because of a verified hint. A hint that came before queries again as
        long as the payment has no money.

        Raises:
            SignatureInvalid, PaymentNotFound, ChannelNotSupported: the channel was not queried.
        """
        source, now = self._hint_channel(), self._clock.now()
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
            await self._log.keep_unverified(callback, reason_of(refusal))
            raise
        is_logged = not self._hints.take()
        try:
            logged, attempt, payment = await self._db.run(
                self._receive_hint, callback, is_logged=is_logged
            )
        except (MeshError, ConstraintViolated) as problem:
            if is_logged:
                await self._log.fail(callback, problem)
            raise
        if logged.result in FINAL and payment.state in MONEY:
            return CallbackResult.IGNORED, payment
        return await self._query(logged, attempt)

    async def generate_signature(self, hint: Hint) -> str:
        """Lets the mock channel record an outcome as its truth and sign it. For development only.

        Raises:
            PaymentNotFound, PaymentStateInvalid, ChannelUnavailable.
        """
        attempt = await self._db.read(_newest_attempt, hint.payment_id)
        return await self._hint_channel().sign(
            attempt_id=attempt.attempt_id,
            payment_id=hint.payment_id,
            callback_status=hint.callback_status,
            timestamp=hint.timestamp,
            nonce=hint.nonce,
            timeout_seconds=self._timeout_seconds,
        )

    def _hint_channel(self) -> HintChannel:
        if self._channel is None:
            raise ChannelNotSupported
        return self._channel

    async def run_once(self) -> int:
        """Completes the hints that a crash left; returns how many. One that cannot be completed now
        is not counted, so that the worker does not retry it at once.
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
                # a full batch of them would keep the later ones from ever being read
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
            await self._query(
                callback, await self._db.read(_newest_attempt, callback.about.payment_id)
            )
        # never possible: written down as FAILED, so that it is not tried each second
        except (PaymentNotFound, ChannelNotSupported) as problem:
            ended = callback.ended(
                CallbackResult.FAILED,
                reason=reason_of(problem),
                about=callback.about,
                at=self._clock.now(),
            )
            await self._db.run(callbacks.finish, ended)

    async def _receive_hint(
        self, tx: AsyncConnection, callback: Callback, *, is_logged: bool
    ) -> tuple[Callback, Attempt, Payment]:
        logged = await callbacks.arrive(tx, callback) if is_logged else callback
        payment = await payments.read_payment(tx, callback.about.payment_id)
        attempt = await _newest_attempt(tx, callback.about.payment_id)
        if attempt.channel == WALLET:
            raise ChannelNotSupported
        return logged, attempt, payment

    async def _query(self, callback: Callback, attempt: Attempt) -> tuple[CallbackResult, Payment]:
        """Queries the channel because of a hint and writes down the result."""
        applied = await self._polling.query(attempt)
        result = CallbackResult.PROCESSED if applied.changed else CallbackResult.IGNORED
        reason = (
            "the channel has not decided"
            if applied.attempt.state in OPEN
            else f"the attempt is {applied.attempt.state}"
        )
        about = replace(callback.about, attempt_id=attempt.attempt_id)
        await self._db.run(
            callbacks.finish,
            callback.ended(result, reason=reason, about=about, at=self._clock.now()),
        )
        CALLBACKS_DONE.labels(callback.channel, callback.kind, result).inc()
        return result, applied.payment


async def _newest_attempt(tx: AsyncConnection, payment_id: str) -> Attempt:
    # a payment that is not there is refused by its own name
    await payments.read_payment(tx, payment_id)
    return (await attempts.attempts_of(tx, payment_id))[-1]

"""MockCallback and GenerateSignature, the callbacks of source 001. Their signature covers no
amount, so a verified one is only a hint: it proves nothing but that it is time to query the
channel.

The channel is not queried inside a transaction. So a hint is RECEIVED in one transaction and gets
its result in another one. A hint that a crash left RECEIVED is completed by its next delivery or by
the worker. Querying twice is harmless: the answer is applied once.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.call import current_trace_id
from mesh.clock import Clock
from mesh.db import ConstraintViolated, Database
from mesh.errors import MeshError
from mesh.ids import Ids
from payment_rpc.channels import HintChannel
from payment_rpc.domain.attempt import Attempt
from payment_rpc.domain.callback import FINAL, Callback, CallbackKind, CallbackResult, received
from payment_rpc.domain.errors import ChannelNotSupported, SignatureInvalid
from payment_rpc.domain.payment import MONEY, WALLET, Payment
from payment_rpc.store import callbacks, payments
from payment_rpc.usecases.callback_log import CallbackLog, rate_limiter, reason_of
from payment_rpc.usecases.callback_questions import CallbackQuestions, newest_attempt

MOCK_CHANNEL = "sandbox"  # plays the MOCK channel of source 001
# Hints are signed with a secret that source 001 has published. Above this rate they still query the
# channel and leave no row.
HINT_BURST = 500
HINT_EVERY = timedelta(seconds=1)


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
        questions: CallbackQuestions,
        channel: HintChannel | None,
        timeout_seconds: float,
    ) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._log = log
        self._questions = questions
        self._channel = channel
        self._timeout_seconds = timeout_seconds
        self._hints = rate_limiter(clock, burst=HINT_BURST, every=HINT_EVERY)

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
        return await self._questions.ask(logged, attempt)

    async def generate_signature(self, hint: Hint) -> str:
        """Lets the mock channel record an outcome as its truth and sign it. For development only.

        Raises:
            PaymentNotFound, PaymentStateInvalid, ChannelUnavailable.
        """
        attempt = await self._db.read(newest_attempt, hint.payment_id)
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

    async def _receive_hint(
        self, tx: AsyncConnection, callback: Callback, *, is_logged: bool
    ) -> tuple[Callback, Attempt, Payment]:
        logged = await callbacks.arrive(tx, callback) if is_logged else callback
        payment = await payments.read_payment(tx, callback.about.payment_id)
        attempt = await newest_attempt(tx, callback.about.payment_id)
        if attempt.channel == WALLET:
            raise ChannelNotSupported
        return logged, attempt, payment

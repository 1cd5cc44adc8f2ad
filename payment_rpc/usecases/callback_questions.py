"""Questions to a channel because of its messages. Some say no more than that there is news: source
001 signs no amount, other providers send no fact at all.

The channel is not queried inside a transaction. So such a message is RECEIVED in one transaction
and gets its result in another one. One that a crash left RECEIVED is completed by its next delivery
or by the worker. Querying twice is harmless: the answer is applied once.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.bad_rows import Quarantine
from mesh.clock import Clock
from mesh.db import Database
from mesh.errors import MeshError
from mesh.failpoints import FailpointRaised
from mesh.worker import each
from payment_rpc.domain.attempt import OPEN, Attempt
from payment_rpc.domain.callback import Callback, CallbackResult
from payment_rpc.domain.errors import ChannelNotSupported, PaymentNotFound
from payment_rpc.domain.payment import Payment
from payment_rpc.store import attempts, callbacks, payments
from payment_rpc.tables import CHANNEL_CALLBACK
from payment_rpc.usecases.callback_log import CALLBACKS_DONE, reason_of
from payment_rpc.usecases.polling import Polling

# longer than any query takes: the call that received the message is over
UNFINISHED_AFTER = timedelta(minutes=1)
_BATCH = 100


class CallbackQuestions:
    """Queries channels because of messages and writes down what came of it."""

    def __init__(self, *, db: Database, clock: Clock, polling: Polling) -> None:
        self._db = db
        self._clock = clock
        self._polling = polling
        self._quarantine = Quarantine("finish_callbacks", CHANNEL_CALLBACK.c.callback_id)

    async def ask(
        self, callback: Callback, *questions: Attempt, changed: bool = False
    ) -> tuple[CallbackResult, Payment]:
        """Queries the channel about some attempts, takes the next steps where they are ours, and
        writes down the result: PROCESSED when something changed, now or, with `changed`, before.
        Returns the payment of the last one too.
        """
        applied = [await self._polling.query(attempt) for attempt in questions]
        changed = changed or any(each.changed for each in applied)
        result = CallbackResult.PROCESSED if changed else CallbackResult.IGNORED
        last = applied[-1]
        reason = (
            "the channel has not decided"
            if last.attempt.state in OPEN
            else f"the attempt is {last.attempt.state}"
        )
        about = replace(
            callback.about,
            payment_id=last.attempt.payment_id,
            attempt_id=last.attempt.attempt_id,
        )
        await self._db.run(
            callbacks.finish,
            callback.ended(result, reason=reason, about=about, at=self._clock.now()),
        )
        CALLBACKS_DONE.labels(callback.channel, callback.kind, result).inc()
        return result, last.payment

    async def run_once(self) -> int:
        """Completes the messages that a crash left; returns how many. One that cannot be completed
        now is not counted, so that the worker does not retry it at once.
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
            await self.ask(callback, await self._db.read(_attempt_of, callback))
        # never possible: written down as FAILED, so that it is not tried each second
        except (PaymentNotFound, ChannelNotSupported) as problem:
            ended = callback.ended(
                CallbackResult.FAILED,
                reason=reason_of(problem),
                about=callback.about,
                at=self._clock.now(),
            )
            await self._db.run(callbacks.finish, ended)


async def newest_attempt(tx: AsyncConnection, payment_id: str) -> Attempt:
    """The attempt that a payment is at.

    Raises:
        PaymentNotFound: there is no such payment.
    """
    # a payment that is not there is refused by its own name
    await payments.read_payment(tx, payment_id)
    return (await attempts.attempts_of(tx, payment_id))[-1]


async def _attempt_of(tx: AsyncConnection, callback: Callback) -> Attempt:
    if callback.about.attempt_id:
        return await attempts.get_attempt(tx, callback.about.attempt_id)
    return await newest_attempt(tx, callback.about.payment_id)

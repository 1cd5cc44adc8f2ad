"""Sends a started payment to its channel, applies the answer and informs the order; or finds the
answer of a repeated call.

The channel is called with no transaction open. A call that died anywhere is completed by the same
idempotency key, by a callback or by the workers, through the same methods.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from mesh.call import mark_replayed
from mesh.clock import Clock
from mesh.db import Database
from mesh.errors import MoneyError
from mesh.failpoints import FailpointRaised, failpoint
from mesh.idempotency import IdempotencyKey
from mesh.logs import get_logger
from mesh.outbox import Message
from payment_rpc.cache import PaymentCache
from payment_rpc.domain.attempt import Attempt, AttemptState
from payment_rpc.domain.errors import (
    CardDeclined,
    ChannelFailed,
    ChannelUnavailable,
    InsufficientFunds,
    PaymentClosed,
    PaymentConflicted,
)
from payment_rpc.domain.facts import ChannelFact
from payment_rpc.domain.payment import CASHIER, Payment, PaymentState
from payment_rpc.domain.snapshot import from_json
from payment_rpc.store import payments
from payment_rpc.usecases.channel_results import Applied, ChannelResults
from payment_rpc.usecases.payment_start import PaymentStart, StartResult, payment_and_open_attempt
from payment_rpc.usecases.polling import Polling

# Pauses of a repeated call between two looks for the answer of the first one: two seconds in all
# (docs/protocols.md 2).
ANSWER_PAUSES_SECONDS = (0.02, 0.04, 0.08, 0.16, *[0.2] * 8, 0.1)
_FAILURES: dict[str, type[MoneyError]] = {
    failure.reason: failure
    for failure in (
        CardDeclined,
        InsufficientFunds,
        ChannelFailed,
        ChannelUnavailable,
        PaymentClosed,
    )
}

ORDER_WAIT_SECONDS = 0.5

log = get_logger()

Send = Callable[[Payment, Attempt], Coroutine[Any, Any, ChannelFact]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChargingLimits:
    """Times and lists that a deployment chooses.

    Attributes:
        channel_timeout_seconds: longest wait for a channel; then the outcome is UNKNOWN and the
            buyer's answer is PAYING.
        order_wait_seconds: longest wait of a buyer until the order knows of the money; the relay
            informs it later.
        answer_pauses_seconds: pauses of a repeated call between two looks for the answer of the
            first one.
    """

    channel_timeout_seconds: float
    order_wait_seconds: float = ORDER_WAIT_SECONDS
    answer_pauses_seconds: tuple[float, ...] = ANSWER_PAUSES_SECONDS


class PaymentCompletion:
    """Completes payments that `PaymentStart` wrote."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        start: PaymentStart,
        channel_results: ChannelResults,
        polling: Polling,
        cache: PaymentCache,
        inform_order: Callable[[Message], Awaitable[bool]],
        limits: ChargingLimits,
    ) -> None:
        """`inform_order` delivers a message to order_rpc."""
        self._db = db
        self._clock = clock
        self._start = start
        self._channel_results = channel_results
        self._polling = polling
        self._cache = cache
        self._inform_order = inform_order
        self._limits = limits
        self._first_result = _FirstResult(channel_results)
        self._waits: dict[str, asyncio.Task[tuple[Payment, Attempt | None]]] = {}

    async def complete(
        self,
        started: StartResult,
        send: Send,
        idempotency_key: IdempotencyKey | None,
        fingerprint: Mapping[str, str],
    ) -> Payment:
        """The answer to a call: of the payment that it started, or of an earlier call.

        Raises:
            CardDeclined, InsufficientFunds, ChannelFailed, ChannelUnavailable, PaymentClosed,
                PaymentConflicted: the payment ended without money.
        """
        if started.paid is not None:
            await self._cache.put_changed(started.paid.payment)
            return await self._inform(started.paid)
        if started.payment is not None and started.attempt is not None:
            return answer_of(
                await self._send(started.payment, started.attempt, send, first_send=True)
            )
        if started.replayed:
            mark_replayed()
        if started.answer is None:
            payment = await self._resume(started.earlier_id, send)
            # Every call with this key gets the first final answer; the row may be in a later state.
            again = (
                await self._start.find_earlier(idempotency_key, fingerprint)
                if started.replayed
                else None
            )
            if again is None or again.answer is None:
                return answer_of(payment)
            started = again
        return answer_of(from_json(started.answer or ""))

    async def _send(
        self, payment: Payment, attempt: Attempt, send: Send, *, first_send: bool
    ) -> Payment:
        """Calls the channel, applies its answer and informs the order."""
        first = await self._first_result.of(payment.payment_id, send(payment, attempt))
        if isinstance(first, Applied):
            return await self._inform(first)
        failpoint("payment.charge.after_channel")
        try:
            applied = await self._channel_results.apply(
                first,
                payment_id=payment.payment_id,
                first_send=first_send,
                delivered_by_caller=True,
            )
        except FailpointRaised:
            raise
        except Exception:
            # The channel was called: from here on no answer may say that nothing was done, or that
            # we failed, whatever went wrong. A callback or the workers apply what it said.
            log.exception(
                "fact_written_later", payment_id=payment.payment_id, attempt_id=attempt.attempt_id
            )
            return payment
        return await self._inform(applied)

    async def _inform(self, applied: Applied) -> Payment:
        if applied.to_order is not None:
            try:
                async with asyncio.timeout(self._limits.order_wait_seconds):
                    await self._inform_order(applied.to_order)
            except TimeoutError:
                log.info("order_told_later", payment_id=applied.payment.payment_id)
            except Exception:
                log.exception("order_told_later", payment_id=applied.payment.payment_id)
        return applied.payment

    async def _resume(self, payment_id: str, send: Send) -> Payment:
        """Goes on with a payment that an earlier call began. While that call may still be sending,
        the present state is the answer. After its lease the channel is queried, and the attempt is
        sent again, under the same id, only when the channel has never seen it, or when what it
        gave for the buyer was lost.
        """
        payment, attempt = await self._wait_for_answer(payment_id)
        if attempt is None or attempt.lease_until > self._clock.now():
            return payment
        is_unknown = await self._polling.is_unknown_to_channel(attempt)
        payment, attempt = await self._db.read(payment_and_open_attempt, payment_id)
        if (
            attempt is not None
            and (is_unknown or _lacks_its_page(payment, attempt))
            and await self._polling.may_repeat(attempt)
        ):
            renewed = await self._start.renew(payment, attempt)
            if renewed is not None:
                return await self._send(payment, renewed, send, first_send=False)
        return await self._db.read(payments.read_payment, payment_id)

    async def _wait_for_answer(self, payment_id: str) -> tuple[Payment, Attempt | None]:
        """The payment, and its open attempt while there is no answer to give. The call that is
        sending it gets two seconds to finish, so that a hundred calls at once get one answer. They
        share one loop of reads.
        """
        task = self._waits.get(payment_id)
        if task is None:
            task = self._waits[payment_id] = asyncio.create_task(self._poll_for_answer(payment_id))
            task.add_done_callback(lambda done: self._forget_wait(payment_id, done))
        return await asyncio.shield(task)

    def _forget_wait(
        self, payment_id: str, done: asyncio.Task[tuple[Payment, Attempt | None]]
    ) -> None:
        del self._waits[payment_id]
        if not done.cancelled():
            done.exception()  # marks it as retrieved when every waiter was cancelled

    async def _poll_for_answer(self, payment_id: str) -> tuple[Payment, Attempt | None]:
        for pause_seconds in self._limits.answer_pauses_seconds:
            payment, attempt = await self._db.read(payment_and_open_attempt, payment_id)
            if (
                attempt is None
                or payment.state is not PaymentState.PAYING
                or payment.next_action is not None
            ):
                return payment, None
            if attempt.lease_until <= self._clock.now() or attempt.state is not AttemptState.SENT:
                return payment, attempt
            await asyncio.sleep(pause_seconds)
        return payment, attempt


class _FirstResult:
    """What is known first of a payment that is being sent: the answer of the channel, or that its
    money is here, which a callback may report sooner.
    """

    def __init__(self, channel_results: ChannelResults) -> None:
        self._channel_results = channel_results
        self._late: set[asyncio.Future[ChannelFact]] = set()

    async def of(
        self, payment_id: str, sending: Coroutine[Any, Any, ChannelFact]
    ) -> ChannelFact | Applied:
        """The answer of the channel; or the payment with its money, when that is known first. A
        cancelled caller cancels the call to the channel.
        """
        with self._channel_results.expect_money(payment_id) as captured:
            answer = asyncio.create_task(sending)
            first: set[asyncio.Future[Any]] = {answer, captured}
            try:
                await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                answer.cancel()
                raise
            if answer.done():
                return answer.result()
            self._late.add(answer)
            answer.add_done_callback(self._log_late_answer)
            return captured.result()

    def _log_late_answer(self, answer: asyncio.Future[ChannelFact]) -> None:
        """The money was known before this answer; anything else that it says also comes by
        callback or statement.
        """
        self._late.discard(answer)
        if not answer.cancelled() and (problem := answer.exception()) is not None:
            log.warning("late_answer_failed", problem=type(problem).__name__)


def _lacks_its_page(payment: Payment, attempt: Attempt) -> bool:
    """Whether the channel waits for a buyer who was shown nothing: the process that opened a
    cashier died before it told. Opening it again under the same id moves no money. What has an id
    of the channel's own is asked for by that, and shown by its answer.
    """
    return (
        payment.payment_method == CASHIER
        and payment.next_action is None
        and attempt.state is AttemptState.PENDING
        and not attempt.channel_ref
    )


def answer_of(payment: Payment) -> Payment:
    """The payment as an answer, or the refusal that it ended with.

    Raises:
        CardDeclined, InsufficientFunds, ChannelFailed, ChannelUnavailable, PaymentClosed,
            PaymentConflicted: it ended without money of ours.
    """
    if payment.state is PaymentState.CONFLICTED:
        raise PaymentConflicted(payment_id=payment.payment_id)
    if payment.state in (PaymentState.FAILED, PaymentState.CLOSED):
        _refuse(payment)
    return payment


def _refuse(payment: Payment) -> NoReturn:
    failure = payment.failure
    unnamed = PaymentClosed if payment.state is PaymentState.CLOSED else ChannelFailed
    kind = _FAILURES.get(failure.reason, unnamed) if failure else unnamed
    # Every way to end without money leaves the order free: a new payment cannot pay it twice.
    raise kind(
        failure.message if failure and failure.reason in _FAILURES else "",
        payment_id=payment.payment_id,
        outcome=payment.outcome,
        safe_to_retry=True,
    )

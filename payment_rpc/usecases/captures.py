"""CapturePayment and VoidPayment: what a shop does with money that is held for it
(docs/protocols.md 1, Held money).

A capture is committed before its channel is called, and so is letting go, as CLOSING. Each refuses
the other, so of two calls that come together exactly one is begun.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import NoReturn

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh import idempotency
from mesh.call import Caller, mark_replayed
from mesh.clock import Clock
from mesh.db import Database
from mesh.errors import InvalidArgument, MoneyError
from mesh.failpoints import failpoint
from mesh.idempotency import IdempotencyKey
from mesh.ids import Ids
from mesh.money import Money, RequestedAmount
from payment_rpc.channels import Channel
from payment_rpc.channels.registry import Channels
from payment_rpc.domain.attempt import Attempt, AttemptState
from payment_rpc.domain.errors import (
    CardDeclined,
    ChannelFailed,
    ChannelUnavailable,
    CurrencyMismatch,
    PaymentInProgress,
    PaymentStateInvalid,
)
from payment_rpc.domain.facts import ChannelFact, ChannelStatus
from payment_rpc.domain.hold import CaptureMode
from payment_rpc.domain.payment import VOIDED, Failure, Payment, PaymentState
from payment_rpc.domain.snapshot import from_json
from payment_rpc.store import attempts, payments
from payment_rpc.usecases.cancel import Cancellation
from payment_rpc.usecases.channel_results import CAPTURE, ChannelResults
from payment_rpc.usecases.payment_completion import answer_of
from payment_rpc.usecases.payment_start import IN_PROGRESS_RETRY_SECONDS, idempotency_key_of
from payment_rpc.usecases.polling import took_nothing

_LET_GO = (PaymentState.CLOSING, PaymentState.CLOSED)
_REFUSALS: dict[ChannelStatus, type[MoneyError]] = {
    ChannelStatus.DECLINED: CardDeclined,
    ChannelStatus.FAILED: ChannelFailed,
    ChannelStatus.NOT_SENT: ChannelUnavailable,
    ChannelStatus.AUTHORIZED: ChannelFailed,  # it refused, and holds the money as before
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturePayment:
    """A CapturePayment request. No `amount` means all that is held. What is not captured of
    it is let go, unless `keep_rest` keeps it held for further captures. `key` is the idempotency
    key, "" without one.
    """

    payment_id: str
    amount: RequestedAmount
    key: str
    keep_rest: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Begun:
    """What became of a request: a capture to be sent, the first answer of its key, or nothing to do
    because that is under way.
    """

    payment: Payment
    attempt: Attempt | None = None
    answer: str | None = None
    replayed: bool = False


class Captures:
    """Captures held money and lets it go."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        ids: Ids,
        channels: Channels,
        channel_results: ChannelResults,
        cancellation: Cancellation,
        lease: timedelta,
        timeout_seconds: float,
    ) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._channels = channels
        self._channel_results = channel_results
        self._cancellation = cancellation
        self._lease = lease
        self._timeout_seconds = timeout_seconds

    async def capture_payment(self, command: CapturePayment, caller: Caller) -> Payment:
        """Captures held money, whole or in part, and returns the payment: SUCCESS, or AUTHORIZED
        while a rest is held or the outcome is unknown; `captured` says what was taken.

        Raises:
            PaymentNotFound: there is none, or it is not the caller's.
            InvalidArgument, CurrencyMismatch: more than is held, or not an amount of its currency;
                `keep_rest` where the channel takes a hold only once.
            PaymentStateInvalid: nothing is held: it was captured or let go, or the hold is over.
            PaymentInProgress: another capture is under way.
            CardDeclined, ChannelFailed, ChannelUnavailable: nothing was taken by this call.
            PaymentClosed, PaymentConflicted: how it ended meanwhile.
        """
        payment = await self._db.read(payments.get_payment, command.payment_id, visible_to=caller)
        command = replace(command, amount=command.amount.spelled_in(payment.amount.currency))
        key = idempotency_key_of(caller, CAPTURE, command.key, payment.merchant_id)
        # before anything is committed: the scan sends what is, whatever its caller was told
        channel = await self._channels.get_or_refusal(payment.channel)
        begun = await self._db.run(self._begin, command, key, channel)
        if begun.replayed:
            mark_replayed()
        if begun.answer is not None:
            return answer_of(from_json(begun.answer))
        if (
            begun.attempt is None
            or begun.attempt.capture_amount is None
            or isinstance(channel, ChannelUnavailable)
        ):
            return answer_of(begun.payment)
        failpoint("payment.channel.after_intention")
        fact = await channel.capture(
            begun.attempt.attempt_id,
            ref=begun.attempt.channel_ref,
            capture_id=begun.attempt.capture_id,
            amount=begun.attempt.capture_amount,
            is_final=not begun.attempt.capture_keeps_rest,
            timeout_seconds=self._timeout_seconds,
        )
        failpoint("payment.channel.after_step")
        if took_nothing(fact, begun.attempt):
            if await self._db.run(self._withdraw, begun.attempt):
                _refuse(fact, payment)
            return answer_of(await self._db.read(payments.read_payment, payment.payment_id))
        return answer_of(
            (await self._channel_results.apply(fact, payment_id=payment.payment_id)).payment
        )

    async def void_payment(self, payment_id: str, caller: Caller, *, reason: str = "") -> Payment:
        """Lets go what is still held and returns the payment: CLOSED, SUCCESS where a part was
        captured before, or CLOSING while the channel does not answer. A repeated call answers what
        is true then. `reason`: why, for operators.

        Raises:
            PaymentNotFound: there is none, or it is not the caller's.
            PaymentStateInvalid: nothing is held, or it was captured or is being captured.
        """
        payment = await self._db.read(payments.get_payment, payment_id, visible_to=caller)
        if payment.state is PaymentState.AUTHORIZED:
            payment = await self._cancellation.close_one(
                payment_id,
                failure=Failure(reason=VOIDED, message=reason or "the shop let the money go"),
                lets_go=True,
            )
        if payment.state is PaymentState.AUTHORIZED:
            raise PaymentStateInvalid("The held money is being captured.", payment_id=payment_id)
        if payment.capture_mode is not CaptureMode.MANUAL or not (
            payment.state in _LET_GO or await self._db.read(_rest_was_let_go, payment)
        ):
            _refuse_state(payment)
        return payment

    async def _begin(
        self,
        tx: AsyncConnection,
        command: CapturePayment,
        key: IdempotencyKey | None,
        channel: Channel | ChannelUnavailable,
    ) -> _Begun:
        now = self._clock.now()
        payment = await payments.lock_payment(tx, command.payment_id)
        fingerprint = {
            "payment_id": payment.payment_id,
            "amount": command.amount.canonical,
            "currency": command.amount.currency,
            **({"keep_rest": "true"} if command.keep_rest else {}),
        }
        found = None
        if key is not None:
            found = await idempotency.find(tx, key, fingerprint=fingerprint)
        if found is not None and (
            found.answer is not None or payment.state is not PaymentState.AUTHORIZED
        ):
            return _Begun(payment=payment, answer=found.answer, replayed=True)
        if payment.state is not PaymentState.AUTHORIZED:
            _refuse_state(payment)
        amount = _amount_of(command, payment)
        attempt = next(
            attempt
            for attempt in await attempts.attempts_of(tx, payment.payment_id)
            if attempt.state is AttemptState.AUTHORIZED
        )
        if attempt.capture_amount is not None and found is None:
            raise PaymentInProgress(
                "A capture of this payment is under way.",
                payment_id=payment.payment_id,
                retry_after_seconds=IN_PROGRESS_RETRY_SECONDS,
            )
        if attempt.capture_amount is not None:  # the scan asks, and sends it again if it must
            return _Begun(payment=payment, replayed=True)
        if payment.expires_at <= now:
            raise PaymentStateInvalid("The hold is over.", payment_id=payment.payment_id)
        if isinstance(channel, ChannelUnavailable):
            raise ChannelUnavailable(channel.message, payment_id=payment.payment_id)
        keeps_rest = command.keep_rest and amount < payment.amount - payment.captured
        if keeps_rest and not channel.capabilities.multiple_captures:
            raise InvalidArgument.of("keep_rest", "the channel takes held money only once")
        begun = attempt.begin_capture(
            amount,
            capture_id=self._ids.new("CAP"),
            keeps_rest=keeps_rest,
            lease=self._lease,
            at=now,
        )
        await attempts.save_attempt(tx, begun, read_version=attempt.version)
        if key is not None and found is None:
            await idempotency.claim(
                tx, key, fingerprint=fingerprint, resource_id=payment.payment_id, now=now
            )
        return _Begun(payment=payment, attempt=begun)

    async def _withdraw(self, tx: AsyncConnection, begun: Attempt) -> bool:
        """Forgets a capture that took nothing; False when that is not proven, because it was sent
        more than once, or when its result is known.
        """
        await payments.lock_payment(tx, begun.payment_id)
        present = await attempts.get_attempt(tx, begun.attempt_id)
        if present.state is not AttemptState.AUTHORIZED or (
            (present.capture_id, present.capture_sends) != (begun.capture_id, 1)
        ):
            return False
        await attempts.save_attempt(
            tx, present.withdraw_capture(at=self._clock.now()), read_version=present.version
        )
        # the key of this call, so that the next capture does not give it its answer
        await idempotency.release(tx, resource_id=begun.payment_id, method=CAPTURE)
        return True


def _amount_of(command: CapturePayment, payment: Payment) -> Money:
    """How much is captured, of what is still held."""
    held = payment.amount - payment.captured
    if not command.amount.text:
        return held
    currency = command.amount.currency or payment.amount.currency
    if currency != payment.amount.currency:
        raise CurrencyMismatch(payment_id=payment.payment_id)
    amount = command.amount.positive().in_currency(currency)
    if amount > held:
        raise InvalidArgument.of("amount", "is more than is held")
    return amount


async def _rest_was_let_go(tx: AsyncConnection, payment: Payment) -> bool:
    """Whether the hold of a payment ended without a capture, after a part of it was captured."""
    return payment.is_captured_in_part and any(
        attempt.captured is not None and not attempt.capture_id
        for attempt in await attempts.attempts_of(tx, payment.payment_id)
    )


def _refuse_state(payment: Payment) -> NoReturn:
    match payment.state:
        case PaymentState.SUCCESS | PaymentState.LATE_SUCCESS | PaymentState.LATE_REFUNDED:
            why = "The money was captured already."
        case PaymentState.CLOSING | PaymentState.CLOSED:
            why = "The held money was let go."
        case _:
            why = f"A payment in state {payment.state} holds no money."
    raise PaymentStateInvalid(why, payment_id=payment.payment_id, outcome=payment.outcome)


def _refuse(fact: ChannelFact, payment: Payment) -> NoReturn:
    raise _REFUSALS[fact.status](fact.message, payment_id=payment.payment_id, safe_to_retry=True)

"""What channels tell us unasked. A verified callback is a fact; a callback of source 001, whose signature covers no amount, is only a hint to ask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.clock import Clock
from mesh.db import Database
from payment_rpc.channels import Channel, RefundChannelFact
from payment_rpc.domain.attempt import Attempt
from payment_rpc.domain.errors import ChannelNotSupported
from payment_rpc.domain.payment import Payment
from payment_rpc.store import attempts, payments
from payment_rpc.usecases.asking import Asking
from payment_rpc.usecases.facts import Facts
from payment_rpc.usecases.refunds import Refunds

MOCK_CHANNEL = "sandbox"  # plays the MOCK channel of source 001


class CallbackResult(StrEnum):
    """What became of a callback; the words of source 001."""

    PROCESSED = "PROCESSED"  # it changed something
    IGNORED = "IGNORED"      # known before, or nothing to change


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """A callback of source 001. `channel_trade_no` is not signed and not used."""

    payment_id: str
    callback_status: str
    timestamp: str
    nonce: str


class Callbacks:
    """Takes callbacks."""

    def __init__(self, *, db: Database, clock: Clock, facts: Facts, refunds: Refunds, asking: Asking, channels: Mapping[str, Channel],
                 timeout_seconds: float) -> None:
        self._db = db
        self._clock = clock
        self._facts = facts
        self._refunds = refunds
        self._asking = asking
        self._channels = channels
        self._timeout_seconds = timeout_seconds

    async def handle(self, *, channel: str, body: bytes, timestamp: str, signature: str) -> CallbackResult:
        """Applies a callback; returns after the commit, so that an acknowledged one is never lost.

        Raises:
            ChannelNotSupported: no such channel. SignatureInvalid: forged, altered or stale. PaymentNotFound, RefundNotFound: not about an
                attempt or refund of ours.
        """
        if channel not in self._channels:
            raise ChannelNotSupported
        news = self._channels[channel].verify_callback(body=body, timestamp=timestamp, signature=signature, now=self._clock.now())
        if isinstance(news, RefundChannelFact):
            _, payment = await self._db.run(self._refunds.write, news)
            await self._refunds.announce(payment)
            changed = payment is not None
        else:
            changed = (await self._facts.apply(news)).changed
        return CallbackResult.PROCESSED if changed else CallbackResult.IGNORED

    async def handle_hint(self, hint: Hint, *, signature: str) -> tuple[CallbackResult, Payment]:
        """Asks the channel because a verified hint says that there is news.

        Raises:
            SignatureInvalid, PaymentNotFound: nothing was asked.
        """
        self._channels[MOCK_CHANNEL].verify_hint(payment_id=hint.payment_id, callback_status=hint.callback_status, timestamp=hint.timestamp,
                                                 nonce=hint.nonce, signature=signature)
        attempt = await self._db.read(_newest_attempt, hint.payment_id)
        if attempt.channel not in self._channels:  # paid out of a wallet
            raise ChannelNotSupported
        applied = await self._asking.query(attempt)
        return CallbackResult.PROCESSED if applied.changed else CallbackResult.IGNORED, applied.payment

    async def sign_hint(self, hint: Hint) -> str:
        """Lets the mock channel record an outcome as its truth and sign it. Development only.

        Raises:
            PaymentNotFound, PaymentStateInvalid, ChannelUnavailable.
        """
        attempt = await self._db.read(_newest_attempt, hint.payment_id)
        return await self._channels[MOCK_CHANNEL].sign(
            attempt_id=attempt.attempt_id, payment_id=hint.payment_id, callback_status=hint.callback_status, timestamp=hint.timestamp,
            nonce=hint.nonce, timeout_seconds=self._timeout_seconds)


async def _newest_attempt(tx: AsyncConnection, payment_id: str) -> Attempt:
    await payments.read_payment(tx, payment_id)  # a payment that is not there is refused by its own name
    return (await attempts.attempts_of(tx, payment_id))[-1]

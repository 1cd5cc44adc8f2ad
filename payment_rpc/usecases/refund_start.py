"""The first transaction of a refund (docs/protocols.md 1, Refunds): what an earlier call left, the
reservation and the idempotency record, before any channel is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh import idempotency, outbox
from mesh.call import Caller
from mesh.clock import Clock
from mesh.db import Database
from mesh.errors import IdempotencyKeyReused
from mesh.idempotency import IdempotencyKey
from mesh.ids import Ids
from mesh.money import Money, RequestedAmount
from payment_rpc.channels.capabilities import Capabilities
from payment_rpc.channels.refund_limits import require_refundable, wait_until
from payment_rpc.channels.registry import Channels
from payment_rpc.domain import ledger as bookings
from payment_rpc.domain.attempt import Attempt
from payment_rpc.domain.errors import (
    ChannelUnavailable,
    CurrencyMismatch,
    PaymentNotFound,
    RefundLimitReached,
    RefundNotAllowed,
)
from payment_rpc.domain.payment import WALLET, Payment
from payment_rpc.domain.refund import REFUNDS_MAX, Refund, reserve
from payment_rpc.domain.refund_snapshot import from_json
from payment_rpc.store import attempts, payments, refunds
from payment_rpc.usecases.messages import order_message
from payment_rpc.usecases.payment_start import idempotency_key_of
from payment_rpc.usecases.refund_results import add_refund, refund_into_wallet


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateRefund:
    """A CreateRefund request. No `amount`: everything that is left. An id may be ""."""

    payment_id: str
    amount: RequestedAmount
    reason: str
    request_id: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StartedRefund:
    """What became of a request.

    Attributes:
        is_new: reserved by this call.
        wallet_payment: the payment, when the refund went into a wallet and is complete.
    """

    refund: Refund
    is_new: bool
    wallet_payment: Payment | None = None


class RefundStart:
    """Writes refunds that are about to be sent."""

    def __init__(
        self, *, db: Database, clock: Clock, ids: Ids, channels: Channels, lease: timedelta
    ) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._channels = channels
        self._lease = lease

    async def start(self, command: CreateRefund, caller: Caller) -> StartedRefund:
        """Reserves a refund, or finds the one of an earlier call.

        Raises:
            PaymentNotFound, RefundNotAllowed, RefundExceedsRefundable, RefundLimitReached,
            CurrencyMismatch, InvalidArgument, IdempotencyKeyReused, ChannelUnavailable:
                nothing was reserved.
        """
        payment = await self._db.read(payments.read_payment, command.payment_id)
        allows = await self._what_is_allowed(payment.channel)
        return await self._db.run(self._reserve, command, caller, allows)

    async def require_allowed(self, payment: Payment, amount: Money) -> None:
        """Refuses what the channel would never give back; nothing while the channel cannot be
        opened.

        Raises:
            RefundNotAllowed, RefundLimitReached, InvalidArgument.
        """
        allows = await self._what_is_allowed(payment.channel)
        if isinstance(allows, ChannelUnavailable):
            return
        await self._db.read(self._allowed, payment, amount, allows)

    async def _what_is_allowed(self, channel: str) -> Capabilities | ChannelUnavailable | None:
        """What the channel of a payment can, or why nobody knows; None for a wallet. A repeated
        call gets its answer all the same.
        """
        if channel == WALLET:
            return None
        found = await self._channels.get_or_refusal(channel)
        return found if isinstance(found, ChannelUnavailable) else found.capabilities

    async def _reserve(
        self,
        tx: AsyncConnection,
        command: CreateRefund,
        caller: Caller,
        allows: Capabilities | ChannelUnavailable | None,
    ) -> StartedRefund:
        now = self._clock.now()
        payment = await payments.lock_payment(tx, command.payment_id)
        if not payments.may_see(payment, caller):
            raise PaymentNotFound
        # one spelling from here on: a repetition in other units is the same request
        command = replace(command, amount=command.amount.spelled_in(payment.amount.currency))
        fingerprint = {
            "payment_id": command.payment_id,
            "amount": command.amount.positive().canonical,
            "currency": command.amount.currency,
            "request_id": command.request_id,
        }
        idempotency_key = idempotency_key_of(
            caller, "CreateRefund", command.key, payment.merchant_id
        )
        earlier = await self._find_earlier(tx, command, payment, idempotency_key, fingerprint)
        if earlier is not None:
            return StartedRefund(refund=earlier, is_new=False)
        if isinstance(allows, ChannelUnavailable):
            raise allows
        if command.amount.currency not in ("", payment.amount.currency):
            problem = f"the payment is in {payment.amount.currency}"
            raise CurrencyMismatch(
                f"currency: {problem}", fields={"currency": problem}, payment_id=payment.payment_id
            )
        reserved, amount = reserve(payment, wanted(command.amount, payment), at=now)
        if await refunds.count_asked_for(tx, payment.payment_id) >= REFUNDS_MAX:
            raise RefundLimitReached(payment_id=payment.payment_id, limit=REFUNDS_MAX)
        refund = await self._start_refund(tx, command, payment, amount, allows)
        await add_refund(
            tx,
            reserved,
            refund,
            held_by=bookings.holder(payment, stands_alone=False, channel=payment.channel),
            read_version=payment.version,
            at=now,
        )
        if idempotency_key is not None:
            await idempotency.claim(
                tx, idempotency_key, fingerprint=fingerprint, resource_id=refund.refund_id, now=now
            )
        if refund.channel == WALLET:
            done, after = await refund_into_wallet(tx, refund, ids=self._ids, at=now)
            return StartedRefund(refund=done, is_new=True, wallet_payment=after)
        await outbox.put(tx, order_message(reserved, refund, ids=self._ids, at=now))
        return StartedRefund(refund=refund, is_new=True)

    async def _start_refund(
        self,
        tx: AsyncConnection,
        command: CreateRefund,
        payment: Payment,
        amount: Money,
        allows: Capabilities | None,
    ) -> Refund:
        now = self._clock.now()
        capture, earlier = await self._allowed(tx, payment, amount, allows)
        refund = Refund.start(
            payment,
            refund_id=self._ids.new("RF"),
            attempt_id=capture.attempt_id,
            channel=payment.channel,
            amount=amount,
            reason=command.reason,
            request_id=command.request_id,
            automatic=payment.disposition is not None and payment.disposition.is_refusal,
            at=now,
        )
        waits = None if allows is None else wait_until(allows, refund, refunds=earlier, at=now)
        if waits is not None:
            return refund.wait(until=waits, at=now)
        return refund.submit(lease=self._lease, at=now)

    async def _allowed(
        self, tx: AsyncConnection, payment: Payment, amount: Money, allows: Capabilities | None
    ) -> tuple[Attempt, Sequence[Refund]]:
        """The capture that a refund gives back, and the refunds of the payment so far."""
        attempt_id = await attempts.capturing_attempt(tx, payment)
        if attempt_id is None:
            raise RefundNotAllowed(payment_id=payment.payment_id)
        capture = await attempts.get_attempt(tx, attempt_id)
        earlier = await refunds.refunds_of(tx, payment.payment_id)
        if allows is not None:
            now = self._clock.now()
            require_refundable(allows, capture, amount, refunds=earlier, at=now)
        return capture, earlier

    async def _find_earlier(
        self,
        tx: AsyncConnection,
        command: CreateRefund,
        payment: Payment,
        idempotency_key: IdempotencyKey | None,
        fingerprint: Mapping[str, str],
    ) -> Refund | None:
        if idempotency_key is not None and (
            found := await idempotency.find(tx, idempotency_key, fingerprint=fingerprint)
        ):
            return (
                from_json(found.answer)
                if found.answer
                else await refunds.read_refund(tx, found.resource_id)
            )
        if not command.request_id:
            return None
        earlier = await refunds.find_by_request(
            tx, merchant_id=payment.merchant_id, request_id=command.request_id
        )
        if earlier is None:
            return None
        differing = [
            name
            for name, differs in (
                ("payment_id", earlier.payment_id != payment.payment_id),
                ("amount", not command.amount.matches(earlier.amount)),
            )
            if differs
        ]
        if differing:
            raise IdempotencyKeyReused(
                "The request_id was used for another refund.",
                fields=dict.fromkeys(differing, "differs from that refund"),
            )
        return earlier


def wanted(amount: RequestedAmount, payment: Payment) -> Money | None:
    """How much is asked for; None for everything that is left."""
    spelled = amount.spelled_in(payment.amount.currency)
    return spelled.in_currency(payment.amount.currency) if spelled.text else None

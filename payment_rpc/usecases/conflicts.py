"""An operator's decision about money that is not ours to count: it goes back, or it was dealt with
outside.
"""

from __future__ import annotations

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh import idempotency, outbox
from mesh.call import Caller
from mesh.clock import Clock
from mesh.db import Database
from mesh.ids import Ids
from payment_rpc.domain import ledger as bookings
from payment_rpc.domain.attempt import AttemptState
from payment_rpc.domain.errors import PaymentStateInvalid
from payment_rpc.domain.payment import TOP_UP, Disposition, Failure, Payment, PaymentState
from payment_rpc.domain.refund import Refund, RefundState
from payment_rpc.domain.snapshot import to_json
from payment_rpc.domain.wallet import EntryKind
from payment_rpc.store import attempts, ledger, payments, refunds, wallets
from payment_rpc.usecases.messages import order_message

log = structlog.get_logger()


class Conflicts:
    """Resolves CONFLICTED payments."""

    def __init__(self, *, db: Database, clock: Clock, ids: Ids) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids

    async def resolve(
        self, payment_id: str, *, state: PaymentState, reason: str, caller: Caller
    ) -> Payment:
        """Ends a conflict, and answers the key of its payment with that end. FAILED: every parked
        capture goes back by itself. LATE_SUCCESS is only for a capture of exactly what was owed.

        Raises:
            PaymentNotFound, PaymentStateInvalid: nothing was done.
        """
        resolved = await self._db.run(self._resolve, payment_id, state, reason, caller.subject)
        log.warning(
            "conflict_resolved",
            payment_id=payment_id,
            state=state.value,
            reason=reason,
            actor=caller.subject,
        )
        return resolved

    async def _resolve(
        self, tx: AsyncConnection, payment_id: str, state: PaymentState, reason: str, actor: str
    ) -> Payment:
        now = self._clock.now()
        payment = await payments.lock_payment(tx, payment_id)
        if payment.state is not PaymentState.CONFLICTED:
            raise PaymentStateInvalid(
                f"A payment in state {payment.state} is not in conflict.",
                payment_id=payment_id,
                outcome=payment.outcome,
            )
        parked = [
            attempt
            for attempt in await attempts.attempts_of(tx, payment_id)
            if attempt.state is AttemptState.CAPTURED
        ]
        if state is PaymentState.LATE_SUCCESS:
            going_back = {
                refund.attempt_id
                for refund in await refunds.refunds_of(tx, payment_id)
                if refund.state not in (RefundState.FAILED, RefundState.CANCELED)
            }
            exact = next(
                (
                    attempt
                    for attempt in parked
                    if attempt.captured == payment.amount and attempt.attempt_id not in going_back
                ),
                None,
            )
            if exact is None:
                raise PaymentStateInvalid(
                    "No capture that is still here has the amount that was owed.",
                    payment_id=payment_id,
                    outcome=payment.outcome,
                )
            resolved = payment.capture(
                payment.amount, trade_no=exact.channel_trade_no, at=now, paid_at=now
            )
            parked = [attempt for attempt in parked if attempt is not exact]
            if payment.payment_method == TOP_UP:  # no order to ask: it is the buyer's
                resolved = await ledger.book(
                    tx,
                    resolved.take(Disposition.APPLIED, at=now),
                    bookings.topped_up_late(resolved),
                    at=now,
                )
                await wallets.credit(
                    tx,
                    resolved,
                    resolved.captured,
                    kind=EntryKind.TOP_UP,
                    entry_id=self._ids.new("WE"),
                    at=now,
                )
        else:
            resolved = payment.end(
                PaymentState.FAILED,
                outcome=payment.outcome,
                failure=Failure(reason="CONFLICT_RESOLVED", message=reason),
                at=now,
            )
        await ledger.close_manual_reviews(
            tx, payment_id=payment_id, at=now, note=f"{actor}: {reason}"
        )
        for attempt in parked:
            if attempt.captured is None or await refunds.is_going_back(tx, attempt.attempt_id):
                continue
            refund = Refund.start(
                payment,
                refund_id=self._ids.new("RF"),
                attempt_id=attempt.attempt_id,
                channel=attempt.channel,
                amount=attempt.captured,
                reason=reason,
                automatic_of=attempt.attempt_id,
                stands_alone=True,
                at=now,
            )
            await refunds.insert_refund(tx, refund)
            resolved = await ledger.book(
                tx,
                resolved,
                bookings.refund_reserved(
                    refund_id=refund.refund_id,
                    payment_id=payment_id,
                    channel=refund.channel,
                    held_by=bookings.unapplied_receipts(refund.channel),
                    amount=refund.amount,
                ),
                at=now,
            )
        await payments.save_payment(tx, resolved, read_version=payment.version)
        # whatever the channel captures later: the key hears this
        await idempotency.finish(tx, resource_id=payment_id, answer=to_json(resolved))
        if resolved.awaits_order:
            await outbox.put(tx, order_message(resolved, ids=self._ids, at=now))
        return resolved

"""ResolveConflict: an operator's decision about a CONFLICTED payment. Its captures are refunded, or
one of them is accepted as the payment's money.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh import idempotency, outbox
from mesh.call import Caller
from mesh.clock import Clock
from mesh.db import Database
from mesh.ids import Ids
from mesh.logs import get_logger
from payment_rpc.domain import ledger as bookings
from payment_rpc.domain.attempt import Attempt, AttemptState
from payment_rpc.domain.errors import PaymentStateInvalid
from payment_rpc.domain.payment import TOP_UP, Disposition, Failure, Payment, PaymentState
from payment_rpc.domain.refund import RefundState
from payment_rpc.domain.snapshot import to_json
from payment_rpc.domain.wallet import EntryKind
from payment_rpc.store import attempts, ledger, payments, refunds, wallets
from payment_rpc.usecases.messages import order_message
from payment_rpc.usecases.refund_results import refund_capture

log = get_logger()


class Conflicts:
    """Resolves CONFLICTED payments."""

    def __init__(self, *, db: Database, clock: Clock, ids: Ids) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids

    async def resolve_conflict(
        self, payment_id: str, *, state: PaymentState, reason: str, caller: Caller
    ) -> Payment:
        """Ends a conflict; from now on the idempotency key of the payment answers with that end.
        FAILED refunds every parked capture. LATE_SUCCESS accepts a capture of exactly the amount
        that was owed and refunds the others.

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
        captures = [
            attempt
            for attempt in await attempts.attempts_of(tx, payment_id)
            if attempt.state is AttemptState.CAPTURED
        ]
        if state is PaymentState.LATE_SUCCESS:
            exact = await self._exact_capture(tx, payment, captures)
            captures.remove(exact)
            resolved = await self._accept(tx, payment, exact)
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
        for attempt in captures:
            if attempt.captured is not None and not await refunds.is_going_back(
                tx, attempt.attempt_id
            ):
                resolved = await refund_capture(
                    tx, resolved, attempt, reason=reason, ids=self._ids, at=now
                )
        await payments.save_payment(tx, resolved, read_version=payment.version)
        # a later capture does not change the answer to the idempotency key
        await idempotency.finish(tx, resource_id=payment_id, answer=to_json(resolved))
        if resolved.awaits_order:
            await outbox.put(tx, order_message(resolved, ids=self._ids, at=now))
        return resolved

    async def _exact_capture(
        self, tx: AsyncConnection, payment: Payment, captures: Sequence[Attempt]
    ) -> Attempt:
        """A capture of the amount that was owed, of which no refund was made."""
        refunded = {
            refund.attempt_id
            for refund in await refunds.refunds_of(tx, payment.payment_id)
            if refund.state not in (RefundState.FAILED, RefundState.CANCELED)
            and not refund.is_of_surplus
        }
        for attempt in captures:
            if attempt.captured == payment.amount and attempt.attempt_id not in refunded:
                return attempt
        raise PaymentStateInvalid(
            "No capture that is still here has the amount that was owed.",
            payment_id=payment.payment_id,
            outcome=payment.outcome,
        )

    async def _accept(self, tx: AsyncConnection, payment: Payment, exact: Attempt) -> Payment:
        now = self._clock.now()
        resolved = payment.capture(
            payment.amount, trade_no=exact.channel_trade_no, at=now, paid_at=now
        )
        if payment.payment_method != TOP_UP:
            return resolved
        # no order decides about a top-up: it is the buyer's
        resolved = await ledger.book(
            tx,
            resolved.accept(Disposition.APPLIED, at=now),
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
        return resolved

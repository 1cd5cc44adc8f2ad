"""Implements refunds of the channel, one transaction per method, idempotent by the refund id. The
refunds of an attempt never exceed its capture. An impossible refund is recorded as FAILED, so that
its id always has the same answer.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import assert_never

from mesh.clock import Clock
from mesh.ids import Ids
from mesh.money import Money
from sandbox import misbehaviour, refund_store, store, wire
from sandbox.callback_queue import CallbackQueue
from sandbox.domain import Refund, RefundNotFound, RefundStatus, Transaction, fee_share
from sandbox.misbehaviour import GOOD_REFUND, RefundMisbehaviour, ResponseFault
from sandbox.store import Scheduled, Store, Tx

STEP = "REFUND_STEP"


class RefundDesk:
    """Refunds of captures."""

    def __init__(
        self,
        channel_store: Store,
        *,
        clock: Clock,
        ids: Ids,
        callbacks: CallbackQueue,
        misbehaves: bool,
        wake_deliveries: Callable[[], None],
    ) -> None:
        self._store = channel_store
        self._clock = clock
        self._ids = ids
        self._callbacks = callbacks
        self._misbehaves = misbehaves
        self._wake_deliveries = wake_deliveries

    async def refund(
        self, *, refund_id: str, attempt_id: str, amount: Money, reason: str
    ) -> tuple[Refund, ResponseFault]:
        """Refunds a part of a capture.

        Raises:
            RefundReused: the refund id was used for something else.
        """
        answer = await self._store.run(
            self._refund, refund_id=refund_id, attempt_id=attempt_id, amount=amount, reason=reason
        )
        self._wake_deliveries()
        return answer

    async def query(self, refund_id: str) -> Refund:
        """A refund.

        Raises:
            RefundNotFound: the channel does not know the id.
        """
        found = await self._store.run(refund_store.find_refund, refund_id)
        if found is None:
            raise RefundNotFound("no refund with this refund_id")
        return found

    async def list_of(self, attempt_id: str) -> list[Refund]:
        """The refunds of an attempt, oldest first."""
        return await self._store.run(refund_store.refunds_of, attempt_id)

    def take_step(self, tx: Tx, scheduled: Scheduled) -> None:
        """Applies the next due step of a refund."""
        refund = refund_store.find_refund(tx, scheduled.subject)
        transaction = None if refund is None else store.find(tx, refund.attempt_id)
        if refund is None or transaction is None:
            return
        # it was scheduled, so it happens even if misbehaviour was switched off since
        behaviour = misbehaviour.of_refund(refund.amount, card=transaction.refund_card)
        stepped = self._to(tx, refund, behaviour.steps[scheduled.step][1], transaction)
        refund_store.save_refund(tx, stepped, before=refund.status)
        self._enqueue_callback(tx, stepped, behaviour)
        self._schedule(tx, refund.refund_id, behaviour, after=scheduled.step)

    def _refund(
        self, tx: Tx, *, refund_id: str, attempt_id: str, amount: Money, reason: str
    ) -> tuple[Refund, ResponseFault]:
        known = refund_store.find_refund(tx, refund_id)
        if known is not None:
            known.must_match(attempt_id=attempt_id, amount=amount)
            return known, ResponseFault.NORMAL
        now = self._clock.now()
        asked = Refund(
            refund_id=refund_id,
            refund_no=self._ids.new("SBR"),
            attempt_id=attempt_id,
            amount=amount,
            reason=reason,
            status=RefundStatus.PENDING,
            created_at=now,
        )
        transaction = store.find(tx, attempt_id)
        problem = _problem(tx, transaction, amount)
        if problem or transaction is None:
            failed = asked.to(RefundStatus.FAILED, at=now, code=problem, message=_MESSAGES[problem])
            refund_store.insert_refund(tx, failed)
            self._enqueue_callback(tx, failed, GOOD_REFUND)
            return failed, ResponseFault.NORMAL
        behaviour = self._behaviour(transaction, amount)
        first = self._to(tx, asked, behaviour.steps[0][1], transaction)
        refund_store.insert_refund(tx, first)
        self._enqueue_callback(tx, first, behaviour)
        self._schedule(tx, refund_id, behaviour, after=0)
        return first, behaviour.answer

    def _to(self, tx: Tx, refund: Refund, status: RefundStatus, transaction: Transaction) -> Refund:
        now = self._clock.now()
        match status:
            case RefundStatus.PENDING:
                return refund
            case RefundStatus.FAILED:
                return refund.to(status, at=now, code="refused", message=_MESSAGES["refused"])
            case RefundStatus.REVERSED:
                return refund.to(status, at=now, code="bounced", message=_MESSAGES["bounced"])
            case RefundStatus.SUCCESS:
                return refund.to(
                    status,
                    at=now,
                    message="refunded",
                    fee_returned=_fee_returned(tx, refund, transaction),
                )
            case _:
                assert_never(status)

    def _schedule(
        self, tx: Tx, refund_id: str, behaviour: RefundMisbehaviour, *, after: int
    ) -> None:
        if after + 1 < len(behaviour.steps):
            due_at = self._clock.now() + timedelta(seconds=behaviour.steps[after + 1][0])
            store.schedule(tx, what=STEP, subject=refund_id, due_at=due_at, step=after + 1)

    def _enqueue_callback(self, tx: Tx, refund: Refund, behaviour: RefundMisbehaviour) -> None:
        if refund.status is not RefundStatus.PENDING:
            self._callbacks.enqueue(
                tx,
                lambda event_id: wire.refund_callback_body(refund, event_id=event_id),
                times=behaviour.callbacks,
            )

    def _behaviour(self, transaction: Transaction, amount: Money) -> RefundMisbehaviour:
        return (
            misbehaviour.of_refund(amount, card=transaction.refund_card)
            if self._misbehaves
            else GOOD_REFUND
        )


_MESSAGES = {
    "not_captured": "nothing was captured under this attempt_id",
    "currency_mismatch": "the capture is in another currency",
    "amount_exceeds_captured": "more than is left of the capture",
    "refused": "the bank refused the refund",
    "bounced": "the refund came back: the account is closed",
}


def _problem(tx: Tx, transaction: Transaction | None, amount: Money) -> str:
    """The reason why a refund is impossible, or ""."""
    if transaction is None or transaction.captured is None:
        return "not_captured"
    if amount.currency != transaction.captured.currency:
        return "currency_mismatch"
    taken = sum(
        refund.amount.minor
        for refund in refund_store.refunds_of(tx, transaction.attempt_id)
        if refund.status in (RefundStatus.PENDING, RefundStatus.SUCCESS)
    )
    return "amount_exceeds_captured" if taken + amount.minor > transaction.captured.minor else ""


def _fee_returned(tx: Tx, refund: Refund, transaction: Transaction) -> Money:
    if transaction.captured is None or transaction.fee is None:
        return Money.zero(refund.amount.currency)
    others = [
        other
        for other in refund_store.refunds_of(tx, transaction.attempt_id)
        if other.refund_id != refund.refund_id
    ]
    out = sum(
        (other.amount.minor for other in others if other.status is RefundStatus.SUCCESS),
        start=refund.amount.minor,
    )
    returned = sum(other.fee_returned.minor for other in others if other.fee_returned is not None)
    currency = refund.amount.currency
    return fee_share(
        transaction.fee,
        captured=transaction.captured,
        refunded=Money(out, currency),
        returned=Money(returned, currency),
    )

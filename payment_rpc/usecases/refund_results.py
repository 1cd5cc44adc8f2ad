"""Applies a refund fact: one transaction for refund, payment, wallet, ledger, messages and
idempotency record. Also writes new refunds with their reservation.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh import idempotency, outbox
from mesh.clock import Clock
from mesh.db import Database
from mesh.failpoints import failpoint
from mesh.ids import Ids
from mesh.money import Money
from mesh.outbox import Message
from payment_rpc.cache import PaymentCache
from payment_rpc.domain import ledger as bookings
from payment_rpc.domain.attempt import Attempt
from payment_rpc.domain.payment import WALLET, Payment
from payment_rpc.domain.refund import OPEN, SURPLUS_REFUNDS_MAX, Refund, RefundState
from payment_rpc.domain.refund_facts import (
    RefundChannelStatus,
    RefundDecision,
    RefundFact,
    apply_refund_fact,
    steps_of,
)
from payment_rpc.domain.refund_snapshot import to_json
from payment_rpc.domain.scan import ScanStep, ScanSubject, entries
from payment_rpc.domain.wallet import EntryKind
from payment_rpc.store import attempts, ledger, payments, refunds, scan_actions, wallets
from payment_rpc.usecases.manual_reviews import ask_for_review
from payment_rpc.usecases.messages import ORDER_DESTINATION, order_message, refund_events


class RefundResults:
    """Applies refund facts to refunds and their payments."""

    def __init__(self, *, db: Database, clock: Clock, ids: Ids, cache: PaymentCache) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._cache = cache

    async def apply(self, fact: RefundFact, *, steps: Sequence[ScanStep] = ()) -> Refund:
        """Applies what a channel said about a refund. Applying the same fact again changes nothing.
        `steps` is what the background scan did to get this fact. They are logged in the same
        transaction, also when nothing changed.

        Raises:
            RefundNotFound: it is not one of ours.
        """
        refund, payment = await self._db.run(self.write, fact, steps=steps)
        await self.announce(payment)
        return refund

    async def write(
        self, tx: AsyncConnection, fact: RefundFact, *, steps: Sequence[ScanStep] = ()
    ) -> tuple[Refund, Payment | None]:
        """`apply` inside a transaction of the caller's, who calls `announce` after its commit. The
        payment is None when nothing changed.
        """
        return await write_refund_fact(tx, fact, ids=self._ids, at=self._clock.now(), steps=steps)

    async def announce(self, payment: Payment | None) -> None:
        """Follows the commit of `write`: updates the cache."""
        failpoint("payment.refund_fact.after_commit")
        if payment is not None:
            await self._cache.put_changed(payment)


async def add_refund(
    tx: AsyncConnection,
    payment: Payment,
    refund: Refund,
    *,
    held_by: str,
    read_version: int,
    at: datetime,
) -> Payment:
    """Writes a reserved refund, its booking, and the payment that it is reserved on."""
    booked = await ledger.book(
        tx,
        payment,
        bookings.refund_reserved(
            refund_id=refund.refund_id,
            payment_id=payment.payment_id,
            channel=refund.channel,
            held_by=held_by,
            amount=refund.amount,
        ),
        at=at,
    )
    await payments.save_payment(tx, booked, read_version=read_version)
    await refunds.insert_refund(tx, refund)
    return booked


async def write_refund_fact(
    tx: AsyncConnection, fact: RefundFact, *, ids: Ids, at: datetime, steps: Sequence[ScanStep] = ()
) -> tuple[Refund, Payment | None]:
    """Writes refund, payment, wallet, ledger, messages, idempotency record and, with `steps`, the
    log of the scan. The payment is None when nothing changed.
    """
    refund_id = fact.refund_id
    payment = await payments.lock_payment(tx, (await refunds.read_refund(tx, refund_id)).payment_id)
    refund = await refunds.read_refund(tx, refund_id)
    subject = ScanSubject(
        payment_id=payment.payment_id, attempt_id=refund.attempt_id, refund_id=refund_id
    )
    is_captured_attempt = (
        refund.stands_alone
        and not refund.is_of_surplus
        and await attempts.capturing_attempt(tx, payment) == refund.attempt_id
    )
    after, done = payment, refund
    messages: list[Message] = []
    for step in steps_of(refund, fact):
        decision = apply_refund_fact(
            after, done, step, is_captured_attempt=is_captured_attempt, at=at
        )
        if not decision.changes(done):
            continue
        after = await _save(tx, after, done, decision, at=at)
        messages += refund_events(decision.refund, before=done.state, ids=ids, at=at)
        done = decision.refund
    if done is refund:
        await scan_actions.add(tx, entries(steps, subject, before=refund.state, after=refund.state))
        return refund, None
    if not refund.stands_alone:  # one snapshot, however many steps there were
        messages.append(order_message(after, done, ids=ids, at=at))
    if messages:
        await outbox.put(tx, *messages)
    event_id = next(
        (message.event_id for message in messages if message.destination == ORDER_DESTINATION), ""
    )
    await scan_actions.add(
        tx, entries(steps, subject, before=refund.state, after=done.state, event_id=event_id)
    )
    if refund.state in OPEN and done.state not in OPEN:
        await idempotency.finish(tx, resource_id=refund_id, answer=to_json(done))
    failpoint("payment.refund_fact.before_commit")
    return done, after


async def _save(
    tx: AsyncConnection, payment: Payment, refund: Refund, decision: RefundDecision, *, at: datetime
) -> Payment:
    """Writes what one fact made of a refund. Returns the payment after it."""
    await refunds.save_refund(tx, decision.refund, read_version=refund.version)
    after = decision.payment
    if decision.booking is not None:
        after = await ledger.book(
            tx, after if after is not payment else payment.touched(at=at), decision.booking, at=at
        )
    if decision.fee_booking is not None:
        after = await ledger.book(tx, after, decision.fee_booking, at=at)
    if refund.channel == WALLET and decision.refund.state is RefundState.SUCCESS:
        await wallets.credit(
            tx,
            after,
            refund.amount,
            kind=EntryKind.REFUNDED,
            entry_id=decision.refund.channel_refund_no,
            refund_id=refund.refund_id,
            at=at,
        )
    if decision.review_reason:
        await ask_for_review(
            tx,
            kind=decision.review_reason,
            payment_id=payment.payment_id,
            subject=refund.refund_id,
            detail=f"refund of {refund.amount}: {decision.refund.state}",
            at=at,
        )
    if after is not payment:
        await payments.save_payment(tx, after, read_version=payment.version)
    return after


async def refund_into_wallet(
    tx: AsyncConnection, refund: Refund, *, ids: Ids, at: datetime
) -> tuple[Refund, Payment | None]:
    """Completes a submitted refund of a payment by balance, in the transaction that reserved it:
    there is no channel to wait for.
    """
    fact = RefundFact(
        refund_id=refund.refund_id,
        status=RefundChannelStatus.SUCCESS,
        channel_refund_no=ids.new("WE"),
        occurred_at=at,
    )
    return await write_refund_fact(tx, fact, ids=ids, at=at)


async def refund_capture(
    tx: AsyncConnection, payment: Payment, attempt: Attempt, *, reason: str, ids: Ids, at: datetime
) -> Payment:
    """Writes the automatic refund of a capture that is not the payment's money, in its full amount;
    the worker submits it. Returns the payment with the booking, which the caller saves.
    """
    if attempt.captured is None:
        raise ValueError("a second capture has an amount")
    return await _give_back(
        tx,
        payment,
        attempt,
        attempt.captured,
        reason=reason,
        automatic_of=attempt.attempt_id,
        ids=ids,
        at=at,
    )


async def refund_surplus(
    tx: AsyncConnection, payment: Payment, attempt: Attempt, grown: Money, *, ids: Ids, at: datetime
) -> tuple[Payment, bool]:
    """Books what the surplus of an attempt grew by, and writes its automatic refund. Returns the
    payment with the bookings, which the caller saves, and whether it goes back: of many small
    surpluses the last stay for a person.
    """
    if attempt.surplus is None:
        raise ValueError("the attempt has no surplus")
    key = bookings.surplus_key(attempt.attempt_id, attempt.surplus)
    earlier = [
        refund
        for refund in await refunds.refunds_of(tx, payment.payment_id)
        if refund.is_of_surplus and refund.attempt_id == attempt.attempt_id
    ]
    booked = await ledger.book(
        tx,
        payment,
        bookings.surplus_received(
            attempt_id=attempt.attempt_id,
            payment_id=payment.payment_id,
            channel=attempt.channel,
            total=attempt.surplus,
            grown=grown,
        ),
        at=at,
    )
    if len(earlier) >= SURPLUS_REFUNDS_MAX:
        return booked, False
    reserved = await _give_back(
        tx, booked, attempt, grown, reason="paid too much", automatic_of=key, ids=ids, at=at
    )
    return reserved, True


async def _give_back(
    tx: AsyncConnection,
    payment: Payment,
    attempt: Attempt,
    amount: Money,
    *,
    reason: str,
    automatic_of: str,
    ids: Ids,
    at: datetime,
) -> Payment:
    """Writes the automatic refund of parked money, and its booking."""
    refund = Refund.start(
        payment,
        refund_id=ids.new("RF"),
        attempt_id=attempt.attempt_id,
        channel=attempt.channel,
        amount=amount,
        reason=reason,
        automatic_of=automatic_of,
        stands_alone=True,
        at=at,
    )
    await refunds.insert_refund(tx, refund)
    return await ledger.book(
        tx,
        payment,
        bookings.refund_reserved(
            refund_id=refund.refund_id,
            payment_id=payment.payment_id,
            channel=refund.channel,
            held_by=bookings.unapplied_receipts(refund.channel),
            amount=refund.amount,
        ),
        at=at,
    )

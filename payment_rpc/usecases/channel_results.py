"""Applies a channel fact: one transaction for attempt, payment, ledger, messages and idempotency
record, whether the fact came as an answer, by a callback or from a poll.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh import idempotency, outbox
from mesh.clock import Clock
from mesh.db import Database
from mesh.failpoints import failpoint
from mesh.ids import Ids
from mesh.money import Money
from mesh.outbox import Message
from payment_rpc.cache import PaymentCache
from payment_rpc.domain.attempt import OPEN, Attempt
from payment_rpc.domain.decision import Decision
from payment_rpc.domain.errors import PaymentNotFound
from payment_rpc.domain.facts import (
    SECOND_CAPTURE,
    SURPLUS_PAID,
    ChannelFact,
    ChannelStatus,
    apply_channel_fact,
)
from payment_rpc.domain.payment import MONEY, TOP_UP, UNDECIDED, Payment, PaymentState
from payment_rpc.domain.scan import ScanStep, ScanSubject, entries
from payment_rpc.domain.snapshot import to_json
from payment_rpc.domain.wallet import EntryKind
from payment_rpc.store import attempts, ledger, payments, scan_actions, wallets
from payment_rpc.usecases.manual_reviews import ask_for_review
from payment_rpc.usecases.messages import ORDER_DESTINATION, RELAY_DELAY, messages_of
from payment_rpc.usecases.refund_results import refund_capture, refund_surplus

CAPTURE = "CapturePayment"  # the method of idempotency keys of captures


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """A payment after a fact. `to_order` is the message for order_rpc, None when the fact changed
    nothing that concerns the order.
    """

    payment: Payment
    attempt: Attempt
    changed: bool
    to_order: Message | None


class ChannelResults:
    """Applies channel facts to attempts and payments."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        ids: Ids,
        cache: PaymentCache,
        wake_relay: Callable[[], None],
    ) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._cache = cache
        self._wake_relay = wake_relay
        self._expected: dict[str, set[asyncio.Future[Applied]]] = {}

    @contextmanager
    def expect_money(self, payment_id: str) -> Iterator[asyncio.Future[Applied]]:
        """A future that is done as soon as this process has committed that the money is here, by
        any fact.
        """
        future: asyncio.Future[Applied] = asyncio.get_running_loop().create_future()
        self._expected.setdefault(payment_id, set()).add(future)
        try:
            yield future
        finally:
            self._expected[payment_id].discard(future)
            if not self._expected[payment_id]:
                del self._expected[payment_id]
            future.cancel()

    async def apply(
        self,
        fact: ChannelFact,
        *,
        payment_id: str = "",
        first_send: bool = False,
        delivered_by_caller: bool = False,
        steps: Sequence[ScanStep] = (),
        judged: Attempt | None = None,
    ) -> Applied:
        """Applies what a channel said about one of our attempts. Applying the same fact again
        changes nothing.

        Args:
            payment_id: the payment of the attempt, where the caller knows it; "" to look it up.
            first_send: this is the answer to the first send of the attempt; unless it was sent
                again meanwhile, NOT_SENT proves that the channel never got it.
            delivered_by_caller: the caller delivers `to_order` itself, right after this. Otherwise
                the relay is woken to do it.
            steps: what the background scan did to get this fact. They are logged in the same
                transaction, also when nothing changed.
            judged: the attempt out of which we concluded the fact, where no channel said it. One
                that was sent, leased or named since then proves nothing: the fact is UNKNOWN.

        Raises:
            PaymentNotFound: the attempt is not one of ours.
        """
        applied = await self._db.run(
            self.write,
            fact,
            payment_id=payment_id,
            first_send=first_send,
            delivered_by_caller=delivered_by_caller,
            steps=steps,
            judged=judged,
        )
        await self.announce(applied, delivered_by_caller=delivered_by_caller)
        return applied

    async def write(
        self,
        tx: AsyncConnection,
        fact: ChannelFact,
        *,
        payment_id: str = "",
        first_send: bool = False,
        delivered_by_caller: bool = False,
        steps: Sequence[ScanStep] = (),
        judged: Attempt | None = None,
        channel: str = "",
    ) -> Applied:
        """`apply` inside a transaction of the caller's, who calls `announce` after its commit.

        `channel`: whose fact it is, where it speaks of its own attempts only. The attempt of
        another one is not found.
        """
        now, attempt_id = self._clock.now(), fact.attempt_id
        payment_id = payment_id or await attempts.payment_id_of(tx, fact.duplicate_of or attempt_id)
        payment = await payments.lock_payment(tx, payment_id)
        siblings = await attempts.attempts_of(tx, payment_id)
        if channel and any(sibling.channel != channel for sibling in siblings):
            raise PaymentNotFound
        attempt = next((sibling for sibling in siblings if sibling.attempt_id == attempt_id), None)
        if attempt is None:
            if not fact.duplicate_of or fact.status is not ChannelStatus.CAPTURED:
                raise PaymentNotFound
            attempt = await self._add_duplicate(tx, payment, siblings[0], attempt_id)
        if judged is not None and attempt.progress != judged.progress:
            fact = ChannelFact(attempt_id=attempt_id, status=ChannelStatus.UNKNOWN)
        others_open = any(sibling.state in OPEN for sibling in siblings if sibling is not attempt)
        decision = apply_channel_fact(
            payment, attempt, fact, others_open=others_open, first_send=first_send, at=now
        )
        if decision.review_reason:
            detail = f"{fact.amount} under {fact.trade_no}"
            if fact.surplus is not None:
                detail += f", and {fact.surplus} too much"
            await self._ask_for_review(tx, decision.attempt, decision.review_reason, detail)
        if decision.changes(payment, attempt):
            applied = await self._save(
                tx, payment, attempt, decision, RELAY_DELAY if delivered_by_caller else timedelta(0)
            )
        else:
            applied = Applied(payment=payment, attempt=attempt, changed=False, to_order=None)
        await scan_actions.add(
            tx,
            entries(
                steps,
                ScanSubject(payment_id=payment_id, attempt_id=attempt_id),
                before=payment.state,
                after=applied.payment.state,
                event_id=applied.to_order.event_id if applied.to_order else "",
            ),
        )
        return applied

    async def announce(self, applied: Applied, *, delivered_by_caller: bool = False) -> None:
        """Follows the commit of `write`: updates the cache and wakes the relay."""
        failpoint("payment.fact.after_commit")
        if applied.changed:
            await self._cache.put_changed(applied.payment)
        if applied.to_order is not None and not delivered_by_caller:
            self._wake_relay()
        if applied.payment.state in MONEY:
            for future in self._expected.get(applied.payment.payment_id, ()):
                if not future.done():
                    future.set_result(applied)

    async def _ask_for_review(
        self, tx: AsyncConnection, attempt: Attempt, reason: str, detail: str
    ) -> None:
        await ask_for_review(
            tx,
            kind=reason,
            payment_id=attempt.payment_id,
            subject=attempt.attempt_id,
            detail=detail,
            at=self._clock.now(),
        )

    async def _give_surplus_back(
        self, tx: AsyncConnection, payment: Payment, attempt: Attempt, grown: Money
    ) -> Payment:
        after, goes_back = await refund_surplus(
            tx, payment, attempt, grown, ids=self._ids, at=self._clock.now()
        )
        if not goes_back:
            detail = f"{attempt.surplus} too much, the last {grown} of it was not sent back"
            await self._ask_for_review(tx, attempt, SURPLUS_PAID, detail)
        return after

    async def _add_duplicate(
        self, tx: AsyncConnection, payment: Payment, sibling: Attempt, attempt_id: str
    ) -> Attempt:
        """The channel charged the buyer once more, under an attempt id of its own. That is real
        money, so it gets a row like every capture.
        """
        attempt = Attempt.start(
            attempt_id=attempt_id,
            payment_id=payment.payment_id,
            merchant_id=payment.merchant_id,
            channel=sibling.channel,
            amount=payment.amount,
            lease=timedelta(0),
            at=self._clock.now(),
        )
        await attempts.insert_attempt(tx, attempt)
        return attempt

    async def _save(
        self,
        tx: AsyncConnection,
        payment: Payment,
        attempt: Attempt,
        decision: Decision,
        relay_delay: timedelta,
    ) -> Applied:
        now = self._clock.now()
        after = decision.payment
        if decision.attempt is not attempt:
            await attempts.save_attempt(tx, decision.attempt, read_version=attempt.version)
        if decision.booking is not None:
            # a second capture: the payment stays as it is, only its chain of bookings grows
            if after is payment:
                after = replace(payment, version=payment.version + 1, updated_at=now)
            after = await ledger.book(tx, after, decision.booking, at=now)
        for booking in (decision.fee_booking, decision.late_booking):
            if booking is not None:
                after = await ledger.book(tx, after, booking, at=now)
        gained = after.captured - payment.captured
        if after.payment_method == TOP_UP and gained.minor > 0:
            await wallets.credit(
                tx, after, gained, kind=EntryKind.TOP_UP, entry_id=self._ids.new("WE"), at=now
            )
        if decision.review_reason == SECOND_CAPTURE:
            after = await refund_capture(
                tx, after, decision.attempt, reason="captured twice", ids=self._ids, at=now
            )
        if decision.surplus is not None:
            after = await self._give_surplus_back(
                tx,
                after.touched(at=now) if after is payment else after,
                decision.attempt,
                decision.surplus,
            )
        if after is not payment:
            await payments.save_payment(tx, after, read_version=payment.version)
        messages = messages_of(
            after, before=payment, ids=self._ids, at=now, relay_delay=relay_delay
        )
        if messages:
            await outbox.put(tx, *messages)
        await _answer_keys(tx, payment, after)
        failpoint("payment.fact.before_commit")
        to_order = (
            messages[0] if messages and messages[0].destination == ORDER_DESTINATION else None
        )
        return Applied(payment=after, attempt=decision.attempt, changed=True, to_order=to_order)


async def _answer_keys(tx: AsyncConnection, before: Payment, after: Payment) -> None:
    """Writes the first final answer into the idempotency records of a payment. While a rest is held
    only the call that captured a part has its answer.
    """
    is_final = after.state not in UNDECIDED
    if before.state in UNDECIDED and is_final and after.state is not PaymentState.CONFLICTED:
        await idempotency.finish(tx, resource_id=after.payment_id, answer=to_json(after))
    elif after.captured > before.captured:
        await idempotency.finish(
            tx, resource_id=after.payment_id, answer=to_json(after), method=CAPTURE
        )

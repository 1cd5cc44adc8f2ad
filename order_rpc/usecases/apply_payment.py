"""What a snapshot of a payment does to a locked order, in one transaction. The first snapshot with
money decides, once (docs/protocols.md 3).

Snapshots come with UpdateOrderStatus and with the answer to ClosePayment.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.logs import get_logger
from mesh.times import rfc3339
from order_rpc.domain.order import Order, OrderState, Verb
from order_rpc.domain.payment import (
    Decision,
    Disposition,
    KnownPayment,
    PaymentSnapshot,
    decide,
    held_after,
)
from order_rpc.domain.statistics import entries_of_payment
from order_rpc.store import payments, stock
from order_rpc.usecases.apply_refunds import RefundApplier
from order_rpc.usecases.events import order_paid
from order_rpc.usecases.journal import Cause, Journal
from order_rpc.usecases.merchant_terms import TermsOfMerchants

SHORTFALL = "PAYMENT_SHORTFALL"  # history event: money came that does not pay the order
END_HOLD = "END_HOLD"  # history event: money that was held was let go

log = get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedPayment:
    """The order after a snapshot, and what it did with the payment."""

    order: Order
    disposition: Disposition
    alerts: tuple[str, ...] = ()  # for a manual review

    def log_alerts(self, payment_id: str) -> None:
        """Tells the operators what needs a manual review. Whoever applied a snapshot calls this."""
        for problem in self.alerts:
            log.error(
                "order_needs_attention",
                alert=True,
                merchant_id=self.order.merchant_id,
                order_id=self.order.order_id,
                payment_id=payment_id,
                problem=problem,
            )


class PaymentApplier:
    """Applies snapshots of payments to orders."""

    def __init__(
        self, *, journal: Journal, refunds: RefundApplier, terms: TermsOfMerchants
    ) -> None:
        self._journal = journal
        self._refunds = refunds
        self._terms = terms

    async def apply(
        self,
        tx: AsyncConnection,
        order: Order,
        snapshot: PaymentSnapshot,
        *,
        cause: Cause,
        at: datetime,
    ) -> AppliedPayment:
        """Applies a snapshot to a locked order. One that is older than the last one changes refunds
        only, and the answer is what was decided before.
        """
        known = await payments.find_payment(tx, order, payment_id=snapshot.payment_id)
        # an older snapshot may still be the first to name one of its refunds
        if known is not None and known.version > snapshot.version:
            after, alerts = await self._refunds.apply(
                tx, order, snapshot, is_newest=False, cause=cause, at=at
            )
            return AppliedPayment(order=after, disposition=known.answer, alerts=alerts)
        if known is not None and known.version == snapshot.version:
            seen, decision = known, Decision(order=order, disposition=known.disposition)
        else:
            seen, decision = await self._decide(tx, order, known, snapshot, at=at)
            await self._carry_out(tx, order, decision, snapshot, cause=cause, at=at)
        # Also at the same version: the answer to a close carries no refunds, the message of that
        # version does.
        after, alerts = await self._refunds.apply(
            tx, decision.order, snapshot, is_newest=True, cause=cause, at=at
        )
        if decision.shortfall:
            alerts = (*alerts, decision.shortfall)
        return AppliedPayment(order=after, disposition=seen.answer, alerts=alerts)

    async def _decide(
        self,
        tx: AsyncConnection,
        order: Order,
        known: KnownPayment | None,
        snapshot: PaymentSnapshot,
        *,
        at: datetime,
    ) -> tuple[KnownPayment, Decision]:
        seen = (
            KnownPayment.first_seen(snapshot, at=at)
            if known is None
            else known.seen_again(snapshot, at=at)
        )
        decision = Decision(order=order, disposition=seen.disposition)
        if seen.disposition is None and snapshot.has_money:
            decision = decide(
                order, snapshot, at=at, revives=await self._revives(tx, order, snapshot)
            )
            seen = replace(seen, disposition=decision.disposition)
        elif not snapshot.has_money:
            decision = replace(decision, order=held_after(order, snapshot, at=at))
        if known is None:
            await payments.insert_payment(tx, order, seen)
        else:
            await payments.save_payment(tx, order, seen, read_version=known.version)
        return seen, decision

    async def _revives(self, tx: AsyncConnection, order: Order, snapshot: PaymentSnapshot) -> bool:
        wanted = self._terms.known(order.merchant_id).policy.revives_if_stock
        return (
            wanted
            and order.external is None  # its merchant was told that it is over
            and order.state is OrderState.CANCELLED
            and snapshot.can_revive(order)
            and await stock.has_units(tx, order)
        )

    async def come_back(
        self,
        tx: AsyncConnection,
        order: Order,
        snapshot: PaymentSnapshot,
        *,
        cause: Cause,
        at: datetime,
    ) -> bool:
        """Takes a locked order back from its cancel, because its money is held for the shop; False
        when that is not so any more: the payment has changed since, or the hold is over.
        """
        known = await payments.find_payment(tx, order, payment_id=snapshot.payment_id)
        if (
            snapshot.held is None
            or snapshot.held.until <= at
            or (known is not None and known.version > snapshot.version)
        ):
            return False
        if known is None:
            seen = KnownPayment.first_seen(snapshot, at=at)
            await payments.insert_payment(tx, order, seen)
        elif known.version < snapshot.version:
            seen = known.seen_again(snapshot, at=at)
            await payments.save_payment(tx, order, seen, read_version=known.version)
        held = order.hold(snapshot.payment_id, snapshot.held, at=at)
        await self._note_hold(tx, order, held, snapshot, cause=cause, at=at)
        return True

    async def _note_hold(
        self,
        tx: AsyncConnection,
        before: Order,
        after: Order,
        snapshot: PaymentSnapshot,
        *,
        cause: Cause,
        at: datetime,
    ) -> None:
        held = snapshot.held
        await self._journal.step(
            tx,
            before,
            after,
            event=END_HOLD if held is None else Verb.HOLD,
            cause=cause,
            at=at,
            remark=snapshot.payment_id
            if held is None
            else f"{held.amount} of {snapshot.payment_id} until {rfc3339(held.until)}",
        )

    async def _carry_out(
        self,
        tx: AsyncConnection,
        before: Order,
        decision: Decision,
        snapshot: PaymentSnapshot,
        *,
        cause: Cause,
        at: datetime,
    ) -> None:
        after = decision.order
        if decision.shortfall:
            await self._journal.note(
                tx,
                before,
                after,
                event=SHORTFALL,
                cause=cause,
                at=at,
                remark=f"{snapshot.payment_id}: {decision.shortfall}",
                needs_review=True,
            )
        elif after.version != before.version and not snapshot.has_money:
            await self._note_hold(tx, before, after, snapshot, cause=cause, at=at)
        elif after.version != before.version:
            is_revived = before.state is OrderState.CANCELLED
            await self._journal.step(
                tx,
                before,
                after,
                event=Verb.REVIVE if is_revived else Verb.PAY,
                cause=cause,
                at=at,
                remark=snapshot.payment_id,
                make_event=order_paid,
                counts=entries_of_payment(after, at=at),
            )
            if is_revived:  # last: other buyers of the product wait for this lock until the commit
                await stock.reserve_again(tx, after)
            else:
                await stock.commit(tx, after, at=at)

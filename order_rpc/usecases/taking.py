"""What an order makes of a snapshot of one of its payments, whoever brings it: a message of
payment_rpc, or its answer to a close. One transaction, under the lock of the order's row; the first
snapshot with money decides, once (docs/protocols.md 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from order_rpc.domain.order import Order, OrderState, Verb
from order_rpc.domain.payment import Decision, Disposition, KnownPayment, PaymentSnapshot, decide
from order_rpc.domain.policy import PLAIN, MerchantPolicy
from order_rpc.domain.statistics import entries_of_payment
from order_rpc.store import payments, stock
from order_rpc.usecases.events import order_paid
from order_rpc.usecases.journal import Cause, Journal
from order_rpc.usecases.refund_news import RefundNews

SHORTFALL = "PAYMENT_SHORTFALL"  # audit event: money came that does not pay the order


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What became of an order by a snapshot."""

    order: Order
    disposition: Disposition
    alerts: tuple[str, ...] = ()  # what a person must look at, once it is committed


class Taking:
    """Takes snapshots of payments."""

    def __init__(
        self, *, journal: Journal, refund_news: RefundNews, policies: Mapping[str, MerchantPolicy]
    ) -> None:
        self._journal = journal
        self._refund_news = refund_news
        self._policies = policies

    async def take(
        self,
        tx: AsyncConnection,
        order: Order,
        snapshot: PaymentSnapshot,
        *,
        cause: Cause,
        at: datetime,
    ) -> Taken:
        """Applies a snapshot to a locked order. One that is older than we know tells of its refunds
        only, and is answered with what was decided.
        """
        known = await payments.find_payment(tx, order, payment_id=snapshot.payment_id)
        # old news of the payment, but its refunds may be new to us
        if known is not None and known.version > snapshot.version:
            after, alerts = await self._refund_news.hear(
                tx, order, snapshot, is_newest=False, cause=cause, at=at
            )
            return Taken(order=after, disposition=known.answer, alerts=alerts)
        if known is not None and known.version == snapshot.version:
            heard, decision = known, Decision(order=order, disposition=known.disposition)
        else:
            heard, decision = await self._decide(tx, order, known, snapshot, at=at)
            await self._carry_out(tx, order, decision, snapshot, cause=cause, at=at)
        # Also at the same version: the answer to a close carries no refunds, the message of that
        # version does.
        after, alerts = await self._refund_news.hear(
            tx, decision.order, snapshot, is_newest=True, cause=cause, at=at
        )
        if decision.shortfall:
            alerts = (*alerts, decision.shortfall)
        return Taken(order=after, disposition=heard.answer, alerts=alerts)

    async def _decide(
        self,
        tx: AsyncConnection,
        order: Order,
        known: KnownPayment | None,
        snapshot: PaymentSnapshot,
        *,
        at: datetime,
    ) -> tuple[KnownPayment, Decision]:
        heard = (
            KnownPayment.first_heard(snapshot, at=at)
            if known is None
            else known.heard(snapshot, at=at)
        )
        decision = Decision(order=order, disposition=heard.disposition)
        if heard.disposition is None and snapshot.has_money:
            decision = decide(
                order, snapshot, at=at, revives=await self._revives(tx, order, snapshot)
            )
            heard = replace(heard, disposition=decision.disposition)
        if known is None:
            await payments.insert_payment(tx, order, heard)
        else:
            await payments.save_payment(tx, order, heard, read_version=known.version)
        return heard, decision

    async def _revives(self, tx: AsyncConnection, order: Order, snapshot: PaymentSnapshot) -> bool:
        wanted = self._policies.get(order.merchant_id, PLAIN).revives_if_stock
        return (
            wanted
            and order.state is OrderState.CANCELLED
            and snapshot.can_revive(order)
            and await stock.has_units(tx, order)
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
                needs_attention=True,
            )
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
                tells=order_paid,
                counts=entries_of_payment(after, at=at),
            )
            if is_revived:  # last, because it holds up everybody who buys the same product
                await stock.take_again(tx, after)
            else:
                await stock.commit(tx, after, at=at)

"""What a snapshot of a payment says of its refunds, applied to a locked order: each refund ends
once, brings its goods back once, and a full refund ends the order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.call import current_trace_id
from mesh.money import Money
from order_rpc.domain.order import Order, Verb
from order_rpc.domain.order_line import StockSource
from order_rpc.domain.payment import PaymentSnapshot
from order_rpc.domain.product import Movement, MovementKind
from order_rpc.domain.refund import (
    MONEY_LEFT,
    RefundRequest,
    RefundSnapshot,
    RefundState,
    RefundStatus,
    status_of,
    unknown_refund,
)
from order_rpc.domain.refund_plan import REFUNDABLE, sale_refunds
from order_rpc.domain.statistics import Figure, entry
from order_rpc.store import catalog, orders, refunds, statistics, stock
from order_rpc.usecases.events import order_refunded
from order_rpc.usecases.journal import Cause, Journal

_EVENTS = {
    RefundState.SUCCEEDED: "REFUND_SUCCEEDED",
    RefundState.FAILED: "REFUND_FAILED",
    RefundState.BOUNCED: "REFUND_BOUNCED",
}


class RefundApplier:
    """Applies refunds of payment_rpc to orders."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    async def apply(
        self,
        tx: AsyncConnection,
        order: Order,
        snapshot: PaymentSnapshot,
        *,
        is_newest: bool,
        cause: Cause,
        at: datetime,
    ) -> tuple[Order, tuple[str, ...]]:
        """Returns the order after the refunds of a snapshot, and what needs a manual review.

        The sums of a snapshot that is not the newest are ignored. Its refunds count whenever they
        come, because a refund only goes forward. A refund of a payment that did not pay the order
        is recorded and changes nothing else.
        """
        is_of_sale = bool(order.paid_payment_id) and snapshot.payment_id == order.paid_payment_id
        refunded = snapshot.refunded if is_newest else order.refunded
        if not snapshot.refunds and not (is_of_sale and refunded != order.refunded):
            return order, ()
        known = await refunds.refunds_of(tx, order)
        alerts = []
        for reported in snapshot.refunds:
            refund = _find(known, snapshot, reported)
            if refund is None:
                if reported.amount.minor == 0:
                    continue
                refund = unknown_refund(
                    reported,
                    merchant_id=order.merchant_id,
                    order_id=order.order_id,
                    payment_id=snapshot.payment_id,
                    at=at,
                )
                await refunds.insert_refund(tx, refund)
                known.append(refund)
            after = refund.apply(reported, of_sale=is_of_sale, at=at)
            if after is refund:
                continue
            await refunds.save_refund(tx, after, read_version=refund.version)
            known[known.index(refund)] = after
            if after.state is not refund.state:
                await self.record_end(tx, order, refund, after, cause=cause, at=at)
            if after.state is RefundState.BOUNCED:
                alerts.append(
                    f"refund {after.refund_id} of {after.amount} bounced: {after.failure}"
                )
        if is_of_sale:
            order = await self._sum_up(tx, order, refunded, known, cause=cause, at=at)
        return order, tuple(alerts)

    async def record_end(
        self,
        tx: AsyncConnection,
        order: Order,
        before: RefundRequest,
        after: RefundRequest,
        *,
        cause: Cause,
        at: datetime,
    ) -> None:
        """Writes what follows from the end of a refund: a line of the history, statistics, and
        goods that come back once.
        """
        is_bounced = after.state is RefundState.BOUNCED
        remark = f"{after.request_id} {after.amount} {after.failure}".rstrip()
        await self._journal.note(
            tx,
            order,
            order,
            event=_EVENTS[after.state],
            cause=cause,
            at=at,
            remark=remark,
            needs_review=is_bounced,
        )
        if not after.of_sale or after.state not in MONEY_LEFT:
            return
        # it succeeded now, or bounced before anybody reported its success
        if before.succeeded_at is None:
            await statistics.add(tx, [entry(order, Figure.REFUNDED, at=at, amount=after.amount)])
            if after.lines:
                await self._return_goods(tx, order, after, cause=cause, at=at)
        if is_bounced:
            await statistics.add(
                tx, [entry(order, Figure.REFUNDED, at=at, count=-1, amount=after.amount)]
            )

    async def _return_goods(
        self,
        tx: AsyncConnection,
        order: Order,
        refund: RefundRequest,
        *,
        cause: Cause,
        at: datetime,
    ) -> None:
        ours = {
            line.sku_id for line in order.lines if line.stock_source is not StockSource.MERCHANT
        }
        refund = replace(refund, lines=tuple(line for line in refund.lines if line.sku_id in ours))
        if not refund.lines:
            return
        await refunds.record_return(tx, refund, at=at)
        available = await stock.return_units(tx, order, refund.lines)
        for line in refund.lines:
            await catalog.log_movement(
                tx,
                Movement(
                    movement_id=0,
                    merchant_id=order.merchant_id,
                    sku_id=line.sku_id,
                    kind=MovementKind.REFUND,
                    quantity=line.quantity,
                    available_after=available[line.sku_id],
                    reason=refund.reason,
                    operator=cause.operator,
                    reference=refund.request_id,
                    created_at=at,
                ),
                trace_id=current_trace_id(),
            )

    async def _sum_up(
        self,
        tx: AsyncConnection,
        before: Order,
        refunded: Money,
        known: Sequence[RefundRequest],
        *,
        cause: Cause,
        at: datetime,
    ) -> Order:
        of_sale = sale_refunds(before, known)
        after = before.with_refunds(
            refunded=refunded,
            at=at,
            status=status_of(of_sale, captured=before.captured, refunded=refunded),
        )
        if after.refund_status is RefundStatus.REFUNDED and after.state in REFUNDABLE:
            after = after.refund(at=at)
            await self._journal.step(
                tx,
                before,
                after,
                event=Verb.REFUND,
                cause=cause,
                at=at,
                remark=before.paid_payment_id,
                make_event=order_refunded,
            )
        elif after.version != before.version:
            await orders.save_order(tx, after, read_version=before.version)
        return after


def _find(
    known: Sequence[RefundRequest], snapshot: PaymentSnapshot, reported: RefundSnapshot
) -> RefundRequest | None:
    for refund in known:
        if refund.payment_id == snapshot.payment_id and refund.request_id in (
            reported.request_id,
            reported.refund_id,
        ):
            return refund
    return None

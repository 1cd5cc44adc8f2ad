"""Delivers payment snapshots to order_rpc and applies its answer, the disposition. The order
decides once whether it accepts the money of a payment; refused money is refunded automatically.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any, Protocol

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh import outbox
from mesh.clock import Clock
from mesh.ids import Ids
from mesh.logs import get_logger
from mesh.outbox import Message
from mesh.relay import Settlement
from payment_rpc.domain import ledger as bookings
from payment_rpc.domain.payment import WALLET, Disposition, Payment, PaymentState
from payment_rpc.domain.refund import Refund, refundable, reserve, settled
from payment_rpc.store import attempts, ledger, payments, refunds
from payment_rpc.usecases.messages import ORDER_DESTINATION, order_message
from payment_rpc.usecases.refund_results import add_refund, refund_into_wallet

log = get_logger()


class OrderUpdates(Protocol):
    """The part of order_rpc that receives snapshots of payments."""

    async def update_status(self, snapshot: dict[str, Any], *, event_id: str) -> Disposition | None:
        """Delivers a snapshot; None when the order decided nothing."""
        ...


class OrderDestination:
    """Delivers snapshots to order_rpc. The disposition is applied in the transaction that marks the
    message done.
    """

    name = ORDER_DESTINATION

    def __init__(self, *, orders: OrderUpdates, clock: Clock, ids: Ids) -> None:
        self._orders = orders
        self._clock = clock
        self._ids = ids

    async def send(self, message: Message) -> Settlement | None:
        """Sends one snapshot.

        Raises:
            RemoteError: no answer, or refused for good.
        """
        disposition = await self._orders.update_status(
            dict(message.payload), event_id=message.event_id
        )
        if disposition is None:
            if message.payload["wants_paid"]:
                log.error("payment_not_decided", alert=True, payment_id=message.aggregate_id)
            return None

        async def settle(tx: AsyncConnection) -> None:
            await self._settle(tx, message, disposition)

        return settle

    async def _settle(
        self, tx: AsyncConnection, message: Message, disposition: Disposition
    ) -> None:
        payment = await payments.lock_payment(tx, message.aggregate_id)
        if not payment.awaits_order:
            return
        if disposition.is_refusal:
            await self._refuse(tx, payment, disposition)
            return
        if not payment.holds_slot:  # its holder frees the slot first
            holder = await payments.lock_slot_holder(
                tx, merchant_id=payment.merchant_id, order_id=payment.order_id
            )
            if holder is not None:
                await self._give_up_slot(tx, holder)
        await self._accept(tx, payment, disposition)

    async def _accept(
        self, tx: AsyncConnection, payment: Payment, disposition: Disposition
    ) -> None:
        now = self._clock.now()
        accepted = payment.accept(disposition, at=now)
        left = refundable(payment)
        if payment.state is PaymentState.LATE_SUCCESS and left.minor > 0:
            accepted = await ledger.book(
                tx,
                accepted,
                bookings.accepted_by_order(
                    payment_id=payment.payment_id,
                    version=accepted.version,
                    channel=payment.channel,
                    merchant_id=payment.merchant_id,
                    amount=left,
                ),
                at=now,
            )
        await payments.save_payment(tx, accepted, read_version=payment.version)

    async def _refuse(
        self, tx: AsyncConnection, payment: Payment, disposition: Disposition
    ) -> None:
        """Refunds what is left of refused money, in the same transaction. From now on every refund
        of this payment counts as automatic.
        """
        now = self._clock.now()
        refused = payment.refuse(disposition, at=now)
        if payment.state is PaymentState.SUCCESS:
            refused = await self._book_refusal(tx, payment, refused)
        for refund in await refunds.refunds_of(tx, payment.payment_id):
            if not refund.automatic:
                marked = replace(refund, automatic=True, version=refund.version + 1, updated_at=now)
                await refunds.save_refund(tx, marked, read_version=refund.version)
        if refundable(refused).minor == 0:
            await payments.save_payment(tx, settled(refused), read_version=payment.version)
            return
        attempt_id = await attempts.capturing_attempt(tx, payment)
        reserved, amount = reserve(refused, None, at=now)
        refund = Refund.start(
            payment,
            refund_id=self._ids.new("RF"),
            attempt_id=attempt_id or "",
            channel=payment.channel,
            amount=amount,
            reason=f"the order answered {disposition}",
            automatic_of=payment.payment_id,
            at=now,
        )
        if refund.channel == WALLET:
            refund = refund.submit(lease=timedelta(0), at=now)
        await add_refund(
            tx,
            reserved,
            refund,
            held_by=bookings.unapplied_receipts(payment.channel),
            read_version=payment.version,
            at=now,
        )
        if refund.channel == WALLET:
            await refund_into_wallet(tx, refund, ids=self._ids, at=now)
        log.warning(
            "payment_refused_by_order",
            payment_id=payment.payment_id,
            disposition=disposition.value,
            refund_id=refund.refund_id,
        )

    async def _give_up_slot(self, tx: AsyncConnection, holder: Payment) -> None:
        now = self._clock.now()
        given_up = holder.give_up_slot(at=now)
        if holder.state is PaymentState.SUCCESS:
            given_up = await self._book_refusal(tx, holder, given_up)
            given_up = settled(given_up)
            await outbox.put(tx, order_message(given_up, ids=self._ids, at=now))
        else:
            for attempt in await attempts.attempts_of(tx, holder.payment_id):
                if attempt.next_query_at is not None:
                    await attempts.save_attempt(
                        tx, attempt.query_now(at=now), read_version=attempt.version
                    )
        await payments.save_payment(tx, given_up, read_version=holder.version)

    async def _book_refusal(
        self, tx: AsyncConnection, payment: Payment, refused: Payment
    ) -> Payment:
        # what is reserved or refunded has left the merchant's account already
        left = refundable(payment)
        if left.minor == 0:
            return refused
        return await ledger.book(
            tx,
            refused,
            bookings.refused_by_order(
                payment_id=payment.payment_id,
                version=refused.version,
                channel=payment.channel,
                merchant_id=payment.merchant_id,
                amount=left,
            ),
            at=self._clock.now(),
        )

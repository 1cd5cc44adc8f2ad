"""Refunds that are asked for here: planned under the lock of the order, and written with the
message that makes payment_rpc carry them out. Their end is reported by snapshots (`apply_refunds`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh import idempotency, outbox
from mesh.call import Caller, Role, mark_replayed
from mesh.clock import Clock
from mesh.db import Database
from mesh.failpoints import failpoint
from mesh.idempotency import IdempotencyKey
from mesh.ids import Ids
from mesh.money import RequestedAmount
from mesh.outbox import Message
from mesh.paging import Key, PageTokens
from order_rpc.domain.errors import RefundExceedsRefundable, RefundLimitReached
from order_rpc.domain.order import Order, OrderState, Verb
from order_rpc.domain.refund import (
    REFUNDS_MAX,
    RefundLine,
    RefundRequest,
    RefundState,
    RefundStatus,
    status_of,
)
from order_rpc.domain.refund_plan import (
    is_all_back,
    money_left,
    plan_refund,
    require_refundable,
    sale_refunds,
)
from order_rpc.store import orders, refunds
from order_rpc.usecases.apply_refunds import RefundApplier
from order_rpc.usecases.events import order_refunded
from order_rpc.usecases.journal import Journal
from order_rpc.usecases.outbox_to_payment import deliver_at_once, refund_message


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundOrder:
    """A refund that is asked for: lines, an amount, or neither for everything that
    is left.
    """

    merchant_id: str
    order_id: str
    lines: tuple[RefundLine, ...]
    amount: RequestedAmount
    reason: str
    idempotency_key: str
    fingerprint: Mapping[str, str]  # of everything but the amount


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundKey:
    """Which refund. `merchant_id` was checked against the caller."""

    merchant_id: str
    order_id: str
    request_id: str


class Refunds:
    """RefundOrder, ApproveRefund, RejectRefund, ListOrderRefunds."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        ids: Ids,
        journal: Journal,
        applier: RefundApplier,
        page_tokens: PageTokens,
        deliver: Callable[[Message], Awaitable[bool]],
    ) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._journal = journal
        self._applier = applier
        self._page_tokens = page_tokens
        self._deliver = deliver

    async def refund(self, command: RefundOrder, caller: Caller) -> RefundRequest:
        """Asks for a refund and returns its state then: APPROVED or further, or REQUESTED when the
        shop has to approve it first.

        Raises:
            OrderNotFound, RefundNotAllowed, RefundExceedsRefundable, RefundLimitReached,
                InvalidArgument, IdempotencyKeyReused: nothing was done.
        """
        refund, message, is_replay = await self._db.run(self._request, command, caller)
        failpoint("order.refund.after_commit")
        if is_replay:
            mark_replayed()
        return await self._deliver_and_read(refund, message, caller)

    async def approve(self, key: RefundKey, *, remark: str, caller: Caller) -> RefundRequest:
        """Approves a refund that a buyer requested and returns its state then.

        Raises:
            OrderNotFound, RefundNotFound: there is none of that id in the caller's shop.
                RefundStateInvalid: it was rejected.
            RefundNotAllowed, RefundExceedsRefundable: the money is no longer there.
        """
        refund, message = await self._db.run(self._approve, key, remark, caller)
        failpoint("order.refund.after_commit")
        return await self._deliver_and_read(refund, message, caller)

    async def reject(self, key: RefundKey, *, reason: str, caller: Caller) -> RefundRequest:
        """Rejects a refund that a buyer requested.

        Raises:
            OrderNotFound, RefundNotFound: there is none of that id in the caller's shop.
                RefundStateInvalid: it was approved.
        """
        return await self._db.run(self._reject, key, reason, caller)

    async def list_order_refunds(
        self,
        *,
        merchant_id: str,
        order_id: str,
        requested_size: int,
        page_token: str,
        caller: Caller,
    ) -> tuple[tuple[RefundRequest, ...], str]:
        """One page of the refunds of an order, oldest first, and the token of the next one.

        Raises:
            OrderNotFound, PageTokenInvalid.
        """

        async def load(tx: AsyncConnection, after: str, limit: int) -> list[RefundRequest]:
            order = await orders.load_order(
                tx, merchant_id=merchant_id, order_id=order_id, visible_to=caller
            )
            return await refunds.refunds_of(tx, order, after=after, limit=limit)

        async def read(after: tuple[Key, ...] | None, limit: int) -> list[RefundRequest]:
            return await self._db.read(load, str(after[0]) if after else "", limit)

        return await self._page_tokens.page(
            read,
            list_name="ListOrderRefunds",
            filter={"merchant_id": merchant_id, "order_id": order_id},
            types=(str,),
            size=requested_size,
            token=page_token,
            key=lambda refund: (refund.request_id,),
        )

    async def _deliver_and_read(
        self, refund: RefundRequest, message: Message | None, caller: Caller
    ) -> RefundRequest:
        if message is None and refund.amount.minor:
            return refund
        if message is not None:
            await deliver_at_once(self._deliver, message)

        async def read(tx: AsyncConnection) -> RefundRequest:
            order = await orders.load_order(
                tx, merchant_id=refund.merchant_id, order_id=refund.order_id, visible_to=caller
            )
            return refunds.find(await refunds.refunds_of(tx, order), refund.request_id)

        return await self._db.read(read)

    async def _request(
        self, tx: AsyncConnection, command: RefundOrder, caller: Caller
    ) -> tuple[RefundRequest, Message | None, bool]:
        now = self._clock.now()
        key = IdempotencyKey(
            merchant_id=command.merchant_id,
            caller=caller.key,
            method="RefundOrder",
            key=command.idempotency_key,
        )
        order = await orders.load_order(
            tx,
            merchant_id=command.merchant_id,
            order_id=command.order_id,
            visible_to=caller,
            for_update=True,
        )
        # Under the lock: the call before this one has committed its record, and may have refunded
        # everything that was left.
        amount = command.amount.spelled_in(order.amount.currency)
        fingerprint = dict(command.fingerprint)
        if amount.text:  # "9.9", "9.90" and 990 minor units are one amount
            fingerprint["amount"] = amount.canonical
        record = await idempotency.find(tx, key, fingerprint=fingerprint) if key.key else None
        known = await refunds.refunds_of(tx, order)
        if record is not None:
            return refunds.find(known, record.resource_id), None, True
        command = replace(command, amount=amount)
        refund = self._new_refund(command, order, known, is_buyer=caller.role is Role.USER, at=now)
        await refunds.insert_refund(tx, refund)
        if key.key:
            await idempotency.claim(
                tx,
                key,
                fingerprint=fingerprint,
                resource_id=refund.request_id,
                now=now,
                answer="",
            )
        event = "REFUND_APPROVED" if refund.state is RefundState.APPROVED else "REFUND_REQUESTED"
        message = await self._write(
            tx,
            order,
            [*known, refund],
            refund,
            event=event,
            remark=command.reason,
            caller=caller,
            at=now,
        )
        failpoint("order.refund.before_commit")
        return refund, message, False

    def _new_refund(
        self,
        command: RefundOrder,
        order: Order,
        known: list[RefundRequest],
        *,
        is_buyer: bool,
        at: datetime,
    ) -> RefundRequest:
        """Plans a refund. The shop approves what a buyer asks for once the order is shipped."""
        if sum(each.state is not RefundState.REJECTED for each in known) >= REFUNDS_MAX:
            raise RefundLimitReached(limit=REFUNDS_MAX)
        amount, lines = plan_refund(
            order,
            sale_refunds(order, known),
            lines=command.lines,
            amount=command.amount,
            with_requested=is_buyer,
        )
        is_at_once = not is_buyer or order.state is OrderState.PAID
        return RefundRequest.create(
            merchant_id=order.merchant_id,
            order_id=order.order_id,
            request_id=self._ids.new("RRQ"),
            payment_id=order.paid_payment_id,
            state=RefundState.APPROVED if is_at_once else RefundState.REQUESTED,
            amount=amount,
            lines=lines,
            reason=command.reason,
            at=at,
        )

    async def _approve(
        self, tx: AsyncConnection, key: RefundKey, remark: str, caller: Caller
    ) -> tuple[RefundRequest, Message | None]:
        order, known, refund = await self._lock(tx, key, caller)
        if refund.state not in (RefundState.REQUESTED, RefundState.REJECTED):
            return refund, None  # approved before
        now = self._clock.now()
        approved = refund.to(RefundState.APPROVED, at=now)
        require_refundable(order)
        others = [each for each in sale_refunds(order, known) if each is not refund]
        left = money_left(order, others, with_requested=False)
        if approved.amount > left:
            raise RefundExceedsRefundable(
                f"{left} can be refunded", refundable=left.format(), currency=left.currency
            )
        await refunds.save_refund(tx, approved, read_version=refund.version)
        return approved, await self._write(
            tx,
            order,
            [*others, approved],
            approved,
            event="REFUND_APPROVED",
            remark=remark,
            caller=caller,
            at=now,
        )

    async def _reject(
        self, tx: AsyncConnection, key: RefundKey, reason: str, caller: Caller
    ) -> RefundRequest:
        order, known, refund = await self._lock(tx, key, caller)
        if refund.state is RefundState.REJECTED:
            return refund
        now = self._clock.now()
        rejected = refund.to(RefundState.REJECTED, at=now, failure=reason)
        await refunds.save_refund(tx, rejected, read_version=refund.version)
        others = [each for each in sale_refunds(order, known) if each is not refund]
        await self._write(
            tx,
            order,
            [*others, rejected],
            rejected,
            event="REFUND_REJECTED",
            remark=reason,
            caller=caller,
            at=now,
        )
        return rejected

    async def _lock(
        self, tx: AsyncConnection, key: RefundKey, caller: Caller
    ) -> tuple[Order, list[RefundRequest], RefundRequest]:
        order = await orders.load_order(
            tx,
            merchant_id=key.merchant_id,
            order_id=key.order_id,
            visible_to=caller,
            for_update=True,
        )
        known = await refunds.refunds_of(tx, order)
        return order, known, refunds.find(known, key.request_id)

    async def _write(
        self,
        tx: AsyncConnection,
        order: Order,
        known: list[RefundRequest],
        refund: RefundRequest,
        *,
        event: str,
        remark: str,
        caller: Caller,
        at: datetime,
    ) -> Message | None:
        status = status_of(
            sale_refunds(order, known), captured=order.captured, refunded=order.refunded
        )
        after = order.with_refunds(refunded=order.refunded, status=status, at=at)
        await self._journal.step(
            tx,
            order,
            after,
            event=event,
            cause=self._journal.cause(caller),
            at=at,
            remark=f"{refund.request_id} {refund.amount} {remark}".rstrip(),
        )
        if refund.state is not RefundState.APPROVED:
            return None
        if refund.amount.minor == 0:
            await self._return_free(tx, after, known, refund, caller=caller, at=at)
            return None
        message = refund_message(
            replace(refund, reason=refund.reason or remark), ids=self._ids, at=at
        )
        await outbox.put(tx, message)
        return message

    async def _return_free(
        self,
        tx: AsyncConnection,
        order: Order,
        known: list[RefundRequest],
        refund: RefundRequest,
        *,
        caller: Caller,
        at: datetime,
    ) -> None:
        """Units that cost nothing come back at once, because no money has to be waited for. A free
        order becomes REFUNDED with its last unit.
        """
        cause = self._journal.cause(caller)
        done = refund.to(RefundState.SUCCEEDED, at=at, of_sale=True)
        await refunds.save_refund(tx, done, read_version=refund.version)
        await self._applier.record_end(tx, order, refund, done, cause=cause, at=at)
        now_known = sale_refunds(order, [done if each is refund else each for each in known])
        if order.is_free and is_all_back(order, now_known):
            ended = order.with_refunds(
                refunded=order.refunded, status=RefundStatus.REFUNDED, at=at
            ).refund(at=at)
            await self._journal.step(
                tx,
                order,
                ended,
                event=Verb.REFUND,
                cause=cause,
                at=at,
                remark=refund.request_id,
                make_event=order_refunded,
            )
            return
        after = order.with_refunds(
            refunded=order.refunded,
            at=at,
            status=status_of(now_known, captured=order.captured, refunded=order.refunded),
        )
        if after is not order:
            await orders.save_order(tx, after, read_version=order.version)

"""Messages to payment_rpc: closing the payments of an order, refunds, customers to forget. They are
written with the decision and sent from the outbox until they are answered. What an answer means is
written in the transaction that marks the message done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Protocol, assert_never

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.call import current_trace_id
from mesh.clock import Clock
from mesh.errors import RemoteError, Unavailable
from mesh.failpoints import failpoint
from mesh.ids import Ids
from mesh.logs import get_logger
from mesh.outbox import Message
from mesh.relay import Settlement
from order_rpc.domain.order import Order, OrderState, Verb
from order_rpc.domain.payment import CloseAnswer, CloseResult, PaymentSnapshot
from order_rpc.domain.refund import RefundRequest, RefundState, status_of
from order_rpc.domain.refund_plan import sale_refunds
from order_rpc.domain.statistics import Figure, entry
from order_rpc.store import orders, refunds, stock
from order_rpc.usecases.apply_payment import PaymentApplier
from order_rpc.usecases.events import order_cancelled
from order_rpc.usecases.journal import ORDER_RPC, Cause, Journal

PAYMENT_RPC = "payment_rpc"
SECKILL_RPC = "seckill_rpc"
CLOSE_PAYMENT = "ClosePayment"
CREATE_REFUND = "CreateRefund"
ERASE_CUSTOMER = "EraseCustomer"
RETURN_STOCK = "ReturnStock"
# The request delivers its message itself; the relay takes over when that did not happen.
RELAY_DELAY = timedelta(seconds=5)
FAST_PATH_SECONDS = 4.0
# Longer than any call takes that may have read the customer before he was erased and writes a
# payment afterwards.
ERASE_DELAY = timedelta(seconds=60)

log = get_logger()


class PaymentService(Protocol):
    """payment_rpc as order_rpc sees it."""

    async def close_payment(
        self, *, merchant_id: str, order_id: str, op_id: str, by_buyer: bool, lets_go: bool
    ) -> CloseAnswer:
        """Closes every payment of an order, or RemoteError. `lets_go`: also held money."""
        ...

    async def create_refund(
        self, *, payment_id: str, amount: str, currency: str, reason: str, request_id: str
    ) -> str:
        """Gives money back and returns the refund's id, or RemoteError. The same request_id is the
        same refund.
        """
        ...

    async def capture_payment(self, *, payment_id: str, key: str) -> PaymentSnapshot:
        """Captures held money and returns the payment, or RemoteError. The same key captures
        once.
        """
        ...

    async def erase_customer(self, *, merchant_id: str, order_id: str) -> None:
        """Makes the payments of an order forget its customer, or RemoteError."""
        ...

    async def create_payment(self, order: Order, *, channel: str, return_url: str) -> Any:
        """Starts a payment and returns it as the message that the buyer gets, or RemoteError."""
        ...


class StillClosing(Unavailable):
    """A channel has not answered yet."""


def close_message(
    order: Order, *, by_buyer: bool, lets_go: bool, ids: Ids, at: datetime, due_at: datetime
) -> Message:
    """Closes the payments of an order. Its event_id is the id of the decision; `by_buyer` says
    whose it is, and `lets_go` that the shop wants no held money.
    """
    facts = {"by_buyer": by_buyer, "lets_go": lets_go}
    return _message(PAYMENT_RPC, CLOSE_PAYMENT, order, facts, ids=ids, at=at, due_at=due_at)


def refund_message(refund: RefundRequest, *, ids: Ids, at: datetime) -> Message:
    """Gives the money of an approved refund back."""
    wanted = {
        "request_id": refund.request_id,
        "payment_id": refund.payment_id,
        "amount": refund.amount.format(),
        "currency": refund.amount.currency,
        "reason": refund.reason,
    }
    due_at = at + RELAY_DELAY
    return _message(PAYMENT_RPC, CREATE_REFUND, refund, wanted, ids=ids, at=at, due_at=due_at)


def erase_message(order: Order, *, ids: Ids, at: datetime) -> Message:
    """Makes the payments of an order forget its customer."""
    due_at = at + ERASE_DELAY
    return _message(PAYMENT_RPC, ERASE_CUSTOMER, order, {}, ids=ids, at=at, due_at=due_at)


def return_stock_messages(order: Order, *, ids: Ids, at: datetime) -> list[Message]:
    """Gives the unit of a cancelled order back to the flash sale that it is of, if any."""
    if not order.is_of_activity:
        return []
    of = {"activity_id": order.lines[0].activity_id}
    return [_message(SECKILL_RPC, RETURN_STOCK, order, of, ids=ids, at=at, due_at=at)]


def _message(
    destination: str,
    tag: str,
    about: Order | RefundRequest,
    facts: Mapping[str, object],
    *,
    ids: Ids,
    at: datetime,
    due_at: datetime,
) -> Message:
    return Message(
        event_id=ids.new("OP"),
        destination=destination,
        tag=tag,
        aggregate_id=about.order_id,
        trace_id=current_trace_id(),
        due_at=due_at,
        created_at=at,
        payload={"merchant_id": about.merchant_id, "order_id": about.order_id, **facts},
    )


async def deliver_at_once(deliver: Callable[[Message], Awaitable[bool]], message: Message) -> None:
    """Takes the relay's step in the request, for at most FAST_PATH_SECONDS. The relay repeats what
    did not succeed.
    """
    try:
        async with asyncio.timeout(FAST_PATH_SECONDS):
            await deliver(message)
    except TimeoutError:
        log.info("payment_rpc_told_later", tag=message.tag, order_id=message.aggregate_id)
    except Exception:
        log.exception("payment_rpc_told_later", tag=message.tag, order_id=message.aggregate_id)


class PaymentDestination:
    """Sends messages to payment_rpc and settles its answers."""

    name = PAYMENT_RPC

    def __init__(
        self,
        *,
        payments: PaymentService,
        applier: PaymentApplier,
        journal: Journal,
        clock: Clock,
        ids: Ids,
    ) -> None:
        self._payments = payments
        self._applier = applier
        self._journal = journal
        self._clock = clock
        self._ids = ids

    async def send(self, message: Message) -> Settlement | None:
        """Sends one message.

        Raises:
            StillClosing: payment_rpc is not done with it. RemoteError: not answered, or refused for
                good.
        """
        if message.tag == ERASE_CUSTOMER:
            await self._payments.erase_customer(
                merchant_id=message.payload["merchant_id"], order_id=message.payload["order_id"]
            )
            return None
        return await (
            self._close(message) if message.tag == CLOSE_PAYMENT else self._refund(message)
        )

    async def _close(self, message: Message) -> Settlement:
        answer = await self._payments.close_payment(
            merchant_id=message.payload["merchant_id"],
            order_id=message.payload["order_id"],
            op_id=message.event_id,
            by_buyer=message.payload.get("by_buyer", False),
            lets_go=message.payload.get("lets_go", False),
        )
        if answer.result is CloseResult.CLOSING:
            raise StillClosing(retry_after_seconds=answer.retry_after_seconds)

        async def settle(tx: AsyncConnection) -> None:
            await self._settle_close(tx, message, answer)

        return settle

    async def _refund(self, message: Message) -> Settlement:
        refused: RemoteError | None = None
        refund_id = ""
        wanted = {
            name: message.payload[name]
            for name in ("payment_id", "amount", "currency", "reason", "request_id")
        }
        try:
            refund_id = await self._payments.create_refund(**wanted)
        except RemoteError as error:
            if not error.is_definite:
                raise
            refused = error

        async def settle(tx: AsyncConnection) -> None:
            await self._settle_refund(tx, message, refund_id, refused)

        return settle

    async def _settle_close(
        self, tx: AsyncConnection, message: Message, answer: CloseAnswer
    ) -> None:
        now, cause = self._clock.now(), Cause(event_id=message.event_id, operator=PAYMENT_RPC)
        order = await _locked(tx, message)
        if order.state is not OrderState.CANCELLING:  # a payment arrived first
            return
        match answer.result:
            case CloseResult.ALREADY_PAID:
                if answer.payment is None:
                    raise Unavailable("payment_rpc names no payment")
                applied = await self._applier.apply(tx, order, answer.payment, cause=cause, at=now)
                applied.log_alerts(answer.payment.payment_id)
            case CloseResult.CLOSED | CloseResult.CONFLICTED:
                await self._cancel(tx, order, cause=cause, remark=answer.result, at=now)
            case CloseResult.HELD:
                if answer.payment is None or not await self._applier.come_back(
                    tx, order, answer.payment, cause=cause, at=now
                ):
                    raise StillClosing  # it has changed since: the next answer says what is true
            case CloseResult.CLOSING:
                raise StillClosing
            case _:
                assert_never(answer.result)
        failpoint("order.cancel.before_commit")

    async def _cancel(
        self, tx: AsyncConnection, order: Order, *, cause: Cause, remark: str, at: datetime
    ) -> None:
        cancelled = order.cancel(at=at)
        await self._journal.step(
            tx,
            order,
            cancelled,
            event=Verb.CANCEL,
            cause=cause,
            at=at,
            remark=remark,
            make_event=order_cancelled,
            messages=return_stock_messages(cancelled, ids=self._ids, at=at),
            counts=[entry(cancelled, Figure.CANCELLED, at=at)],
        )
        await stock.release(tx, cancelled, at=at)

    async def _settle_refund(
        self, tx: AsyncConnection, message: Message, refund_id: str, refused: RemoteError | None
    ) -> None:
        """Snapshots alone report success. The answer gives a refund its id, or fails it when it was
        refused for good.
        """
        now = self._clock.now()
        order = await _locked(tx, message)
        known = await refunds.refunds_of(tx, order)
        refund = refunds.find(known, message.payload["request_id"])
        if refund.state is not RefundState.APPROVED:
            return
        if refused is None:
            named = refund.named(refund_id, at=now)
            if named is not refund:
                await refunds.save_refund(tx, named, read_version=refund.version)
            return
        failed = refund.to(RefundState.FAILED, at=now, failure=refused.reason)
        await refunds.save_refund(tx, failed, read_version=refund.version)
        of_sale = sale_refunds(order, [failed if each is refund else each for each in known])
        after = order.with_refunds(
            refunded=order.refunded,
            status=status_of(of_sale, captured=order.captured, refunded=order.refunded),
            at=now,
        )
        cause = Cause(event_id=message.event_id, operator=PAYMENT_RPC)
        await self._journal.step(
            tx,
            order,
            after,
            event="REFUND_FAILED",
            cause=cause,
            at=now,
            remark=f"{refund.request_id} {refused.reason}",
        )


async def _locked(tx: AsyncConnection, message: Message) -> Order:
    return await orders.load_order(
        tx,
        merchant_id=message.payload["merchant_id"],
        order_id=message.payload["order_id"],
        visible_to=ORDER_RPC,
        for_update=True,
    )

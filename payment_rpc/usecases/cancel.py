"""The RPCs that end payments without money: CancelPayment, ClosePayment (of a whole order) and
CancelByIdempotencyKey.

CLOSING is committed first, then the channel is asked to close, and its answer is applied like any
other fact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import partial

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh import idempotency
from mesh.call import Caller, Role
from mesh.clock import Clock
from mesh.db import Database
from mesh.failpoints import failpoint
from mesh.idempotency import IdempotencyKey
from payment_rpc.domain.attempt import OPEN, Attempt
from payment_rpc.domain.errors import PaymentStateInvalid
from payment_rpc.domain.payment import BUYER_CANCELLED, UNDECIDED, Failure, Payment, PaymentState
from payment_rpc.store import attempts, order_gates, payments
from payment_rpc.usecases.closing import begin_closing, is_being_captured
from payment_rpc.usecases.polling import Polling


class CloseResult(StrEnum):
    """What became of the payments of an order. The first one that holds is the answer."""

    ALREADY_PAID = "ALREADY_PAID"  # the order is paid, or may still take late money
    CLOSING = "CLOSING"  # a channel has not answered, or takes held money right now: ask again
    HELD = "HELD"  # a channel holds the money for the shop, which did not let it go
    CONFLICTED = "CONFLICTED"  # money that is not ours; it blocks nothing
    CLOSED = "CLOSED"  # no money came and none will


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderClosed:
    """The answer to ClosePayment. `payment` comes with ALREADY_PAID and HELD."""

    result: CloseResult
    payment: Payment | None = None


class Cancellation:
    """Closes payments."""

    def __init__(self, *, db: Database, clock: Clock, polling: Polling) -> None:
        self._db = db
        self._clock = clock
        self._polling = polling

    async def close_one(
        self, payment_id: str, *, failure: Failure | None = None, lets_go: bool = False
    ) -> Payment:
        """Closes one payment at its channel and returns it as it is then: CLOSED, paid after all,
        or CLOSING while the channel does not answer. `failure`: who decided it, and why. Held money
        stays held, unless the shop `lets_go` of it, and always while it is being captured.
        """
        payment, open_attempts = await self._db.run(
            partial(self._begin, failure=failure, lets_go=lets_go), payment_id
        )
        failpoint("payment.close.after_closing")
        for attempt in open_attempts:
            payment = (await self._polling.close(attempt)).payment
        return payment

    async def cancel_payment(self, payment_id: str, caller: Caller) -> Payment:
        """Closes a payment of the caller's; the order stays payable. Held money is let go for the
        shop only: to the shop it is a promise that the buyer cannot take back. The rest of a hold
        of which a part was captured is let go by VoidPayment.

        Raises:
            PaymentNotFound: there is none, or it is not the caller's.
            PaymentStateInvalid: money has moved, or is held for the shop, or is being captured.
        """
        payment = await self._db.read(payments.get_payment, payment_id, visible_to=caller)
        if payment.state in UNDECIDED:
            is_buyer = caller.role is Role.USER
            lets_go = not is_buyer and payment.captured.minor == 0
            payment = await self.close_one(
                payment_id, failure=BUYER_CANCELLED if is_buyer else None, lets_go=lets_go
            )
        if payment.state not in (PaymentState.CLOSING, PaymentState.CLOSED, PaymentState.FAILED):
            raise PaymentStateInvalid(
                f"A payment in state {payment.state} cannot be cancelled.",
                payment_id=payment_id,
                outcome=payment.outcome,
            )
        return payment

    async def close_payment(
        self, *, merchant_id: str, order_id: str, by_buyer: bool = False, lets_go: bool = False
    ) -> OrderClosed:
        """Closes the gate of an order and then its live payments: from now on it cannot be paid
        (docs/protocols.md 1, Closing). A repeated call answers what is true then. Held money stays
        held, unless the shop `lets_go` of it or its time is over.
        """
        failure = BUYER_CANCELLED if by_buyer else None
        found = await self._db.run(self._close_gate, merchant_id, order_id)
        failpoint("payment.gate.after_closed")
        for payment in found:
            if payment.state in UNDECIDED:
                is_over = payment.expires_at <= self._clock.now()
                await self.close_one(
                    payment.payment_id, failure=failure, lets_go=lets_go or is_over
                )
        of_order = await self._db.read(
            payments.all_of_order, merchant_id=merchant_id, order_id=order_id
        )
        return close_answer(of_order, lets_go=lets_go, at=self._clock.now())

    async def cancel_by_idempotency_key(
        self, *, method: str, key: str, merchant_id: str, caller: Caller
    ) -> Payment | None:
        """Takes back a call whose answer was lost (docs/protocols.md 2).

        Returns the payment that the call began, closed if it could be. None when the call never
        came: a tombstone then refuses it, should it still come.
        """
        idempotency_key = IdempotencyKey(
            merchant_id=merchant_id, caller=caller.key, method=method, key=key
        )
        payment_id = await self._db.run(self._find_or_tombstone, idempotency_key)
        if payment_id is None:
            return None
        payment = await self._db.read(payments.get_payment, payment_id, visible_to=caller)
        return (
            await self.close_one(
                payment_id, failure=BUYER_CANCELLED if caller.role is Role.USER else None
            )
            if payment.state in UNDECIDED
            else payment
        )

    async def _find_or_tombstone(
        self, tx: AsyncConnection, idempotency_key: IdempotencyKey
    ) -> str | None:
        return await idempotency.find_or_tombstone(tx, idempotency_key, now=self._clock.now())

    async def _close_gate(
        self, tx: AsyncConnection, merchant_id: str, order_id: str
    ) -> list[Payment]:
        await order_gates.close_gate(
            tx, merchant_id=merchant_id, order_id=order_id, at=self._clock.now()
        )
        return await payments.all_of_order(tx, merchant_id=merchant_id, order_id=order_id)

    async def _begin(
        self,
        tx: AsyncConnection,
        payment_id: str,
        *,
        failure: Failure | None = None,
        lets_go: bool = False,
    ) -> tuple[Payment, list[Attempt]]:
        payment = await payments.lock_payment(tx, payment_id)
        is_held = payment.state is PaymentState.AUTHORIZED
        if payment.state is PaymentState.PAYING or (
            is_held and lets_go and not await is_being_captured(tx, payment)
        ):
            payment = await begin_closing(tx, payment, failure=failure, at=self._clock.now())
        if payment.state is not PaymentState.CLOSING:
            return payment, []
        return payment, [
            attempt
            for attempt in await attempts.attempts_of(tx, payment_id)
            if attempt.state in OPEN
        ]


def close_answer(of_order: Sequence[Payment], *, lets_go: bool, at: datetime) -> OrderClosed:
    """The answer for an order with these payments. Money that the order refused is being refunded
    and does not count. Money that is to be let go is not HELD: a capture may be under way, or its
    time is over.
    """
    for payment in of_order:
        if payment.state is PaymentState.SUCCESS or payment.awaits_order:
            return OrderClosed(result=CloseResult.ALREADY_PAID, payment=payment)
    for payment in of_order:
        if payment.state is PaymentState.AUTHORIZED and payment.expires_at > at and not lets_go:
            return OrderClosed(result=CloseResult.HELD, payment=payment)
    states = {payment.state for payment in of_order}
    if states & UNDECIDED:
        return OrderClosed(result=CloseResult.CLOSING)
    return OrderClosed(
        result=CloseResult.CONFLICTED if PaymentState.CONFLICTED in states else CloseResult.CLOSED
    )

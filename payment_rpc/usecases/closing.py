"""Closing payments: CLOSING is committed first, then the channel is asked to close, and its answer
is applied like any other fact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any

from sqlalchemy import Select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.bad_rows import Quarantine, RowBatches
from mesh.call import Caller, Role
from mesh.clock import Clock, Seconds, seconds_until
from mesh.db import Database
from mesh.failpoints import failpoint
from payment_rpc.domain.attempt import OPEN, Attempt
from payment_rpc.domain.errors import PaymentStateInvalid
from payment_rpc.domain.payment import UNDECIDED, Payment, PaymentState
from payment_rpc.domain.scan import ScanAction, ScanStep, ScanSubject, entries
from payment_rpc.store import attempts, payments, scan_actions
from payment_rpc.tables import PAYMENT
from payment_rpc.usecases.asking import Asking


class CloseResult(StrEnum):
    """What became of the payments of an order, by precedence."""

    ALREADY_PAID = "ALREADY_PAID"  # the order is paid, or may still take late money
    CLOSING = "CLOSING"  # a channel has not answered: ask again
    CONFLICTED = "CONFLICTED"  # money that is not ours; it blocks nothing
    CLOSED = "CLOSED"  # nobody paid and nobody will


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderClosed:
    """The one answer of an order. `payment` comes with ALREADY_PAID."""

    result: CloseResult
    payment: Payment | None = None


class Closing:
    """Closes payments that nobody should pay any more."""

    def __init__(self, *, db: Database, clock: Clock, asking: Asking, batch: int) -> None:
        self._db = db
        self._clock = clock
        self._asking = asking
        self._quarantine = Quarantine("expire_payments", PAYMENT.c.payment_id)
        self._batches = RowBatches(
            db=db, quarantine=self._quarantine, most=batch, due=self._due, take=self._expire
        )

    async def close(self, payment_id: str, *, by_buyer: bool = False) -> Payment:
        """Closes one payment at its channel and returns it as it is then: CLOSED, paid after all,
        or CLOSING while the channel does not answer.
        `by_buyer`: he himself asked for it."""
        payment, open_attempts = await self._db.run(
            partial(self._begin, by_buyer=by_buyer), payment_id
        )
        failpoint("payment.close.after_closing")
        for attempt in open_attempts:
            payment = (await self._asking.close(attempt)).payment
        return payment

    async def cancel(self, payment_id: str, caller: Caller) -> Payment:
        """Closes a payment of the caller's; the order stays payable.

        Raises:
            PaymentNotFound: there is none, or it is somebody else's.
            PaymentStateInvalid: money has moved.
        """
        payment = await self._db.read(payments.get_payment, payment_id, visible_to=caller)
        if payment.state in UNDECIDED:
            payment = await self.close(payment_id, by_buyer=caller.role is Role.USER)
        if payment.state not in (PaymentState.CLOSING, PaymentState.CLOSED, PaymentState.FAILED):
            raise PaymentStateInvalid(
                f"A payment in state {payment.state} cannot be cancelled.",
                payment_id=payment_id,
                outcome=payment.outcome,
            )
        return payment

    async def close_order(
        self, *, merchant_id: str, order_id: str, by_buyer: bool = False
    ) -> OrderClosed:
        """Closes the gate of an order and then its live payments: nobody may pay it from now on
        (docs/protocols.md 1, Closing). Asked again it answers what is true then."""
        found = await self._db.run(self._close_gate, merchant_id, order_id)
        failpoint("payment.gate.after_closed")
        for payment in found:
            if payment.state in UNDECIDED:
                await self.close(payment.payment_id, by_buyer=by_buyer)
        return verdict(
            await self._db.read(payments.all_of_order, merchant_id=merchant_id, order_id=order_id)
        )

    async def due_in(self) -> Seconds | None:
        """Seconds until the next deadline of a payment that is under way; None when there is
        none.
        """
        return seconds_until(
            await self._db.read(payments.next_expiry, self._quarantine), self._clock.now()
        )

    async def expire_once(self) -> int:
        """Moves payments past their deadline to CLOSING; their attempts are closed at the channel
        by the next round of questions.
        """
        return len(await self._batches.run())

    async def _close_gate(
        self, tx: AsyncConnection, merchant_id: str, order_id: str
    ) -> list[Payment]:
        await payments.close_gate(
            tx, merchant_id=merchant_id, order_id=order_id, at=self._clock.now()
        )
        return await payments.all_of_order(tx, merchant_id=merchant_id, order_id=order_id)

    async def _begin(
        self, tx: AsyncConnection, payment_id: str, *, by_buyer: bool
    ) -> tuple[Payment, list[Attempt]]:
        payment = await payments.lock_payment(tx, payment_id)
        if payment.state is PaymentState.PAYING:
            payment = await self._to_closing(tx, payment, by_buyer=by_buyer)
        if payment.state is not PaymentState.CLOSING:
            return payment, []
        return payment, [
            attempt
            for attempt in await attempts.attempts_of(tx, payment_id)
            if attempt.state in OPEN
        ]

    def _due(self, limit: int) -> Select[Any]:
        return payments.expired_statement(self._clock.now(), limit)

    async def _expire(self, tx: AsyncConnection, expired: Sequence[Any]) -> list[str]:
        for row in expired:
            payment = payments.payment_of(row)
            closing, now = await self._to_closing(tx, payment), self._clock.now()
            step = ScanStep(action=ScanAction.CLOSE, reason="DEADLINE", began_at=now, ended_at=now)
            await scan_actions.add(
                tx,
                entries(
                    [step],
                    ScanSubject(payment_id=payment.payment_id),
                    before=payment.state,
                    after=closing.state,
                ),
            )
        return [row.payment_id for row in expired]

    async def _to_closing(
        self, tx: AsyncConnection, payment: Payment, *, by_buyer: bool = False
    ) -> Payment:
        now = self._clock.now()
        closing = payment.begin_closing(by_buyer=by_buyer, at=now)
        await payments.save_payment(tx, closing, read_version=payment.version)
        for attempt in await attempts.attempts_of(tx, payment.payment_id):
            if attempt.state in OPEN:
                await attempts.save_attempt(
                    tx, attempt.ask_now(at=now), read_version=attempt.version
                )
        return closing


def verdict(of_order: Sequence[Payment]) -> OrderClosed:
    """What the payments of an order mean for closing it. Money that the order refused is on its way
    back and closes nothing.
    """
    for payment in of_order:
        if payment.state is PaymentState.SUCCESS or payment.awaits_order:
            return OrderClosed(result=CloseResult.ALREADY_PAID, payment=payment)
    states = {payment.state for payment in of_order}
    if states & UNDECIDED:
        return OrderClosed(result=CloseResult.CLOSING)
    return OrderClosed(
        result=CloseResult.CONFLICTED if PaymentState.CONFLICTED in states else CloseResult.CLOSED
    )

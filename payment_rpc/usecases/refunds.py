"""The RPCs of refunds: CreateRefund, PreviewRefund, GetRefund and ListRefunds, and the worker that
completes what a crash or a lost answer left.

A refund is reserved and committed first. Then the channel is called, and its answer is applied. The
worker goes on under the same refund id. A channel may want time between two refunds of a capture:
then the later one waits in CREATED, and the worker sends it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.bad_rows import Quarantine, RowBatches
from mesh.call import Caller, mark_replayed
from mesh.clock import Clock, Seconds, seconds_until
from mesh.db import Database
from mesh.failpoints import FailpointRaised, failpoint
from mesh.logs import get_logger
from mesh.money import Money, RequestedAmount
from mesh.worker import each
from payment_rpc.cache import PaymentCache
from payment_rpc.channels.capabilities import Capabilities
from payment_rpc.channels.refund_limits import wait_until
from payment_rpc.channels.registry import Channels
from payment_rpc.channels.requests import CapturedAttempt
from payment_rpc.domain.errors import RefundFailed
from payment_rpc.domain.payment import Payment
from payment_rpc.domain.refund import Refund, RefundPreview, RefundState, preview
from payment_rpc.domain.refund_facts import RefundChannelStatus
from payment_rpc.domain.scan import ScanAction, ScanStep
from payment_rpc.store import attempts, ledger, payments, refunds
from payment_rpc.tables import REFUND
from payment_rpc.usecases.channel_steps import ask_a_person
from payment_rpc.usecases.refund_results import RefundResults
from payment_rpc.usecases.refund_start import CreateRefund, RefundStart, wanted

log = get_logger()


class Refunds:
    """Refunds payments."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        start: RefundStart,
        cache: PaymentCache,
        channels: Channels,
        results: RefundResults,
        lease: timedelta,
        batch: int,
        timeout_seconds: float,
    ) -> None:
        self._db = db
        self._clock = clock
        self._start = start
        self._cache = cache
        self._channels = channels
        self._results = results
        self._lease = lease
        self._quarantine = Quarantine("advance_refunds", REFUND.c.refund_id)
        self._batches = RowBatches(
            db=db, quarantine=self._quarantine, most=batch, due=self._due, take=self._postpone
        )
        self._timeout_seconds = timeout_seconds

    async def create_refund(self, command: CreateRefund, caller: Caller) -> Refund:
        """Reserves a refund, submits it and returns it as it is then; the same request again
        returns the same refund. CREATED: it waits until the channel takes one more.

        Raises:
            PaymentNotFound, RefundNotAllowed, RefundExceedsRefundable, RefundLimitReached,
            CurrencyMismatch, InvalidArgument, IdempotencyKeyReused, ChannelUnavailable:
                nothing was reserved.
            RefundFailed: the channel refused it; the reservation is free again.
        """
        started = await self._start.start(command, caller)
        if not started.is_new:
            mark_replayed()
            return _answer_of(started.refund)
        if started.wallet_payment is not None:
            await self._cache.put_changed(started.wallet_payment)
            return started.refund
        failpoint("payment.refund.after_tx1")
        if started.refund.state is RefundState.CREATED:
            return started.refund
        return _answer_of(await self._send(started.refund))

    async def preview_refund(
        self, *, payment_id: str, amount: RequestedAmount, caller: Caller
    ) -> RefundPreview:
        """What `create_refund` would reserve and book, without doing it.

        Raises:
            PaymentNotFound, RefundNotAllowed, RefundExceedsRefundable, RefundLimitReached,
            InvalidArgument.
        """
        payment, returned = await self._db.read(_payment_and_fees_returned, payment_id, caller)
        seen = preview(
            payment, wanted(amount, payment), fees_returned=returned, at=self._clock.now()
        )
        await self._start.require_allowed(payment, seen.amount)
        return seen

    async def get_refund(self, refund_id: str, caller: Caller) -> Refund:
        """One refund, or RefundNotFound."""
        return await self._db.read(refunds.get_refund, refund_id, visible_to=caller)

    async def list_refunds(
        self,
        *,
        payment_id: str,
        merchant_id: str,
        order_id: str,
        before: str | None,
        limit: int,
        caller: Caller,
    ) -> Sequence[Refund]:
        """Refunds of a payment or an order, newest first, older than the refund id `before`."""
        return await self._db.read(
            refunds.list_refunds,
            payment_id=payment_id,
            merchant_id=merchant_id,
            order_id=order_id,
            before=before,
            limit=limit,
            visible_to=caller,
        )

    async def due_in(self) -> Seconds | None:
        """Seconds until the next refund is due; None when none is open."""
        return seconds_until(
            await self._db.read(refunds.POLLED.next_due, self._quarantine), self._clock.now()
        )

    async def run_once(self) -> int:
        """Submits the refunds that were not submitted and queries those without a result; returns
        how many. One that fails or hangs delays no other.
        """
        return await each(
            await self._batches.run(),
            self._advance,
            failed="refund_not_advanced",
            about=lambda refund: {"refund_id": refund.refund_id, "payment_id": refund.payment_id},
        )

    async def _advance(self, refund: Refund) -> None:
        channel = await self._channels.get(refund.channel)
        if refund.state is RefundState.CREATED:
            await self._submit(refund, channel.capabilities, before=())
            return
        began_at = self._clock.now()
        fact = await channel.query_refund(
            refund.refund_id,
            of=await self._db.read(captured_attempt, refund),
            amount=refund.amount,
            refund_no=refund.channel_refund_no,
            timeout_seconds=self._timeout_seconds,
        )
        query = ScanStep(
            action=ScanAction.QUERY,
            result=fact.status,
            reason=fact.reason,
            began_at=began_at,
            ended_at=self._clock.now(),
        )
        if fact.status is RefundChannelStatus.NOT_FOUND and refund.lease_until <= self._clock.now():
            # It never arrived: submit it again, under the same id.
            if channel.capabilities.may_repeat(since=refund.created_at, at=self._clock.now()):
                await self._submit(refund, channel.capabilities, before=(query,))
                return
            await self._db.run(
                ask_a_person,
                payment_id=refund.payment_id,
                subject=refund.refund_id,
                detail=f"a refund of {refund.amount} has no result",
                at=self._clock.now(),
            )
        await self._results.apply(fact, steps=(query,))

    async def _submit(
        self, refund: Refund, capabilities: Capabilities, *, before: Sequence[ScanStep]
    ) -> None:
        """Sends a refund that the scan found, unless its channel takes none of its capture yet."""
        submitted = await self._db.run(self._begin_send, refund, capabilities)
        if submitted is not None:
            await self._send(submitted, by_scan=(refund.state, before))

    async def _send(
        self, refund: Refund, *, by_scan: tuple[RefundState, Sequence[ScanStep]] | None = None
    ) -> Refund:
        """Submits a refund and applies the answer. `by_scan`: the state in which the background
        scan found it, and its steps before this one.
        """
        began_at = self._clock.now()
        channel = await self._channels.get(refund.channel)
        fact = await channel.refund(
            refund_id=refund.refund_id,
            of=await self._db.read(captured_attempt, refund),
            amount=refund.amount,
            reason=refund.reason,
            timeout_seconds=self._timeout_seconds,
        )
        failpoint("payment.refund.after_channel")
        steps: Sequence[ScanStep] = ()
        if by_scan is not None:
            steps = (
                *by_scan[1],
                ScanStep(
                    action=ScanAction.SUBMIT,
                    result=fact.status,
                    reason=fact.reason,
                    began_at=began_at,
                    ended_at=self._clock.now(),
                    state_before=by_scan[0],
                ),
            )
        try:
            return await self._results.apply(fact, steps=steps)
        except FailpointRaised:
            raise
        except Exception:  # the channel was called: the worker applies what it said
            log.exception("refund_fact_written_later", refund_id=refund.refund_id)
            return refund

    async def _begin_send(
        self, tx: AsyncConnection, refund: Refund, capabilities: Capabilities
    ) -> Refund | None:
        """The refund, leased to be sent now; None when it has to wait."""
        now = self._clock.now()
        await payments.lock_payment(tx, refund.payment_id)
        present = await refunds.read_refund(tx, refund.refund_id)
        others = await refunds.refunds_of(tx, refund.payment_id)
        waits = wait_until(capabilities, present, refunds=others, at=now)
        if waits is not None:
            waiting = present.wait(until=waits, at=now)
            await refunds.save_refund(tx, waiting, read_version=present.version)
            return None
        submitted = present.submit(lease=self._lease, at=now)
        await refunds.save_refund(tx, submitted, read_version=present.version)
        return submitted

    def _due(self, limit: int) -> Select[Any]:
        return refunds.POLLED.due_statement(self._clock.now(), limit)

    async def _postpone(self, tx: AsyncConnection, rows: Sequence[Any]) -> list[Refund]:
        return await refunds.claim_due(tx, rows, now=self._clock.now())


async def _payment_and_fees_returned(
    tx: AsyncConnection, payment_id: str, caller: Caller
) -> tuple[Payment, Money]:
    payment = await payments.get_payment(tx, payment_id, visible_to=caller)
    own = [
        refund.refund_id
        for refund in await refunds.refunds_of(tx, payment_id)
        if not refund.stands_alone
    ]
    return payment, await ledger.fees_returned(tx, own, currency=payment.amount.currency)


async def captured_attempt(tx: AsyncConnection, refund: Refund) -> CapturedAttempt:
    """The capture that a refund gives back."""
    attempt = await attempts.get_attempt(tx, refund.attempt_id)
    return CapturedAttempt(
        attempt_id=attempt.attempt_id,
        amount=attempt.captured or attempt.amount,
        ref=attempt.channel_ref,
        trade_no=attempt.channel_trade_no,
    )


def _answer_of(refund: Refund) -> Refund:
    if refund.state is RefundState.FAILED:
        raise RefundFailed(
            refund.failure.message if refund.failure else "",
            payment_id=refund.payment_id,
            refund_id=refund.refund_id,
        )
    return refund

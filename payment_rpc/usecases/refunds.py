"""The RPCs of refunds: CreateRefund, PreviewRefund, GetRefund and ListRefunds, and the worker that
completes what a crash or a lost answer left.

A refund is reserved and committed first. Then the channel is called, and its answer is applied. The
worker goes on under the same refund id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from sqlalchemy import Select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh import idempotency, outbox
from mesh.bad_rows import Quarantine, RowBatches
from mesh.call import Caller, mark_replayed
from mesh.clock import Clock, Seconds, seconds_until
from mesh.db import Database
from mesh.errors import IdempotencyKeyReused
from mesh.failpoints import FailpointRaised, failpoint
from mesh.idempotency import IdempotencyKey
from mesh.ids import Ids
from mesh.logs import get_logger
from mesh.money import Money, RequestedAmount
from mesh.worker import each
from payment_rpc.cache import PaymentCache
from payment_rpc.channels.registry import Channels
from payment_rpc.channels.requests import CapturedAttempt
from payment_rpc.domain import ledger as bookings
from payment_rpc.domain.errors import (
    CurrencyMismatch,
    PaymentNotFound,
    RefundFailed,
    RefundLimitReached,
    RefundNotAllowed,
)
from payment_rpc.domain.payment import WALLET, Payment
from payment_rpc.domain.refund import (
    REFUNDS_MAX,
    Refund,
    RefundPreview,
    RefundState,
    preview,
    reserve,
)
from payment_rpc.domain.refund_facts import RefundChannelStatus
from payment_rpc.domain.refund_snapshot import from_json
from payment_rpc.domain.scan import ScanAction, ScanStep
from payment_rpc.store import attempts, ledger, payments, refunds
from payment_rpc.tables import REFUND
from payment_rpc.usecases.messages import order_message
from payment_rpc.usecases.payment_start import idempotency_key_of
from payment_rpc.usecases.refund_results import RefundResults, add_refund, refund_into_wallet

log = get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateRefund:
    """A CreateRefund request. No `amount`: everything that is left. An id may be ""."""

    payment_id: str
    amount: RequestedAmount
    reason: str
    request_id: str
    key: str


class Refunds:
    """Refunds payments."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        ids: Ids,
        cache: PaymentCache,
        channels: Channels,
        results: RefundResults,
        lease: timedelta,
        batch: int,
        timeout_seconds: float,
    ) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
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
        returns the same refund.

        Raises:
            PaymentNotFound, RefundNotAllowed, RefundExceedsRefundable, RefundLimitReached,
            CurrencyMismatch, InvalidArgument, IdempotencyKeyReused:
                nothing was reserved.
            RefundFailed: the channel refused it; the reservation is free again.
        """
        refund, is_new, wallet_payment = await self._db.run(self._reserve, command, caller)
        if not is_new:
            mark_replayed()
            return _answer_of(refund)
        if wallet_payment is not None:
            await self._cache.put_changed(wallet_payment)
            return refund
        failpoint("payment.refund.after_tx1")
        return _answer_of(await self._send(refund))

    async def preview_refund(
        self, *, payment_id: str, amount: RequestedAmount, caller: Caller
    ) -> RefundPreview:
        """What `create_refund` would reserve and book, without doing it.

        Raises:
            PaymentNotFound, RefundNotAllowed, RefundExceedsRefundable, InvalidArgument.
        """
        payment, returned = await self._db.read(_payment_and_fees_returned, payment_id, caller)
        return preview(
            payment, _wanted(amount, payment), fees_returned=returned, at=self._clock.now()
        )

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
        if refund.state is RefundState.CREATED:
            await self._send(await self._db.run(self._submit, refund), by_scan=(refund.state, ()))
            return
        began_at = self._clock.now()
        channel = await self._channels.get(refund.channel)
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
            await self._send(
                await self._db.run(self._submit, refund), by_scan=(refund.state, (query,))
            )
        else:
            await self._results.apply(fact, steps=(query,))

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

    async def _reserve(
        self, tx: AsyncConnection, command: CreateRefund, caller: Caller
    ) -> tuple[Refund, bool, Payment | None]:
        """The refund, whether it is new, and the payment when the refund went into a wallet and is
        complete.
        """
        now = self._clock.now()
        payment = await payments.lock_payment(tx, command.payment_id)
        if not payments.may_see(payment, caller):
            raise PaymentNotFound
        # one spelling from here on: a repetition in other units is the same request
        command = replace(command, amount=command.amount.spelled_in(payment.amount.currency))
        fingerprint = {
            "payment_id": command.payment_id,
            "amount": command.amount.positive().canonical,
            "currency": command.amount.currency,
            "request_id": command.request_id,
        }
        idempotency_key = idempotency_key_of(
            caller, "CreateRefund", command.key, payment.merchant_id
        )
        earlier = await self._find_earlier(tx, command, payment, idempotency_key, fingerprint)
        if earlier is not None:
            return earlier, False, None
        if command.amount.currency not in ("", payment.amount.currency):
            problem = f"the payment is in {payment.amount.currency}"
            raise CurrencyMismatch(
                f"currency: {problem}", fields={"currency": problem}, payment_id=payment.payment_id
            )
        reserved, amount = reserve(payment, _wanted(command.amount, payment), at=now)
        if await refunds.count_asked_for(tx, payment.payment_id) >= REFUNDS_MAX:
            raise RefundLimitReached(payment_id=payment.payment_id, limit=REFUNDS_MAX)
        refund = await self._start_refund(tx, command, payment, amount)
        await add_refund(
            tx,
            reserved,
            refund,
            held_by=bookings.holder(payment, stands_alone=False, channel=payment.channel),
            read_version=payment.version,
            at=now,
        )
        if idempotency_key is not None:
            await idempotency.claim(
                tx, idempotency_key, fingerprint=fingerprint, resource_id=refund.refund_id, now=now
            )
        if refund.channel == WALLET:
            done, after = await refund_into_wallet(tx, refund, ids=self._ids, at=now)
            return done, True, after
        await outbox.put(tx, order_message(reserved, refund, ids=self._ids, at=now))
        return refund, True, None

    async def _start_refund(
        self, tx: AsyncConnection, command: CreateRefund, payment: Payment, amount: Money
    ) -> Refund:
        attempt_id = await attempts.capturing_attempt(tx, payment)
        if attempt_id is None:
            raise RefundNotAllowed(payment_id=payment.payment_id)
        now = self._clock.now()
        return Refund.start(
            payment,
            refund_id=self._ids.new("RF"),
            attempt_id=attempt_id,
            channel=payment.channel,
            amount=amount,
            reason=command.reason,
            request_id=command.request_id,
            automatic=payment.disposition is not None and payment.disposition.is_refusal,
            at=now,
        ).submit(lease=self._lease, at=now)

    async def _find_earlier(
        self,
        tx: AsyncConnection,
        command: CreateRefund,
        payment: Payment,
        idempotency_key: IdempotencyKey | None,
        fingerprint: Mapping[str, str],
    ) -> Refund | None:
        if idempotency_key is not None and (
            found := await idempotency.find(tx, idempotency_key, fingerprint=fingerprint)
        ):
            return (
                from_json(found.answer)
                if found.answer
                else await refunds.read_refund(tx, found.resource_id)
            )
        if not command.request_id:
            return None
        earlier = await refunds.find_by_request(
            tx, merchant_id=payment.merchant_id, request_id=command.request_id
        )
        if earlier is None:
            return None
        differing = [
            name
            for name, differs in (
                ("payment_id", earlier.payment_id != payment.payment_id),
                ("amount", not command.amount.matches(earlier.amount)),
            )
            if differs
        ]
        if differing:
            raise IdempotencyKeyReused(
                "The request_id was used for another refund.",
                fields=dict.fromkeys(differing, "differs from that refund"),
            )
        return earlier

    async def _submit(self, tx: AsyncConnection, refund: Refund) -> Refund:
        await payments.lock_payment(tx, refund.payment_id)
        present = await refunds.read_refund(tx, refund.refund_id)
        submitted = present.submit(lease=self._lease, at=self._clock.now())
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


def _wanted(amount: RequestedAmount, payment: Payment) -> Money | None:
    spelled = amount.spelled_in(payment.amount.currency)
    return spelled.in_currency(payment.amount.currency) if spelled.text else None

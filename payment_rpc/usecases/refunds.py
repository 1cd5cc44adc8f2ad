"""Giving money back: reserve and commit first, then the channel, then the fact. What a crash leaves
is finished by `run_once`, under the same id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
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
from mesh.money import Money, RequestedAmount
from mesh.outbox import Message
from mesh.worker import each
from payment_rpc.cache import PaymentCache
from payment_rpc.channels import Channel
from payment_rpc.domain import ledger as bookings
from payment_rpc.domain.errors import (
    CurrencyMismatch,
    PaymentNotFound,
    RefundFailed,
    RefundLimitReached,
    RefundNotAllowed,
)
from payment_rpc.domain.payment import WALLET, Payment
from payment_rpc.domain.refund import OPEN, REFUNDS_MAX, Refund, RefundState, refundable, reserve
from payment_rpc.domain.refund_facts import (
    RefundChannelStatus,
    RefundDecision,
    RefundFact,
    apply_refund_fact,
    steps_of,
)
from payment_rpc.domain.refund_snapshot import from_json, to_json
from payment_rpc.domain.scan import ScanAction, ScanStep, ScanSubject, entries
from payment_rpc.domain.wallet import EntryKind
from payment_rpc.store import attempts, ledger, payments, refunds, scan_actions, wallets
from payment_rpc.tables import REFUND
from payment_rpc.usecases.messages import ORDER_DESTINATION, order_message, refund_events

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateRefund:
    """A refund as it was asked for. No `amount` means everything that is left; `request_id` and
    `key` may be "".
    """

    payment_id: str
    amount: RequestedAmount
    reason: str
    request_id: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundPreview:
    """What a refund would do."""

    amount: Money
    refundable: Money
    refundable_after: Money
    fee_returned: Money
    postings: tuple[bookings.Posting, ...]


class Refunds:
    """Gives money back."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        ids: Ids,
        cache: PaymentCache,
        channels: Mapping[str, Channel],
        lease: timedelta,
        batch: int,
        timeout_seconds: float,
    ) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._cache = cache
        self._channels = channels
        self._lease = lease
        self._quarantine = Quarantine("advance_refunds", REFUND.c.refund_id)
        self._batches = RowBatches(
            db=db, quarantine=self._quarantine, most=batch, due=self._due, take=self._ask_later
        )
        self._timeout_seconds = timeout_seconds

    async def create(self, command: CreateRefund, caller: Caller) -> Refund:
        """Reserves a refund, submits it and returns it as it stands then; the same request again
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

    async def preview(
        self, *, payment_id: str, amount: RequestedAmount, caller: Caller
    ) -> RefundPreview:
        """What `create` would reserve and book, without doing it.

        Raises:
            PaymentNotFound, RefundNotAllowed, RefundExceedsRefundable, InvalidArgument.
        """
        payment, returned = await self._db.read(_payment_and_fees_returned, payment_id, caller)
        after, wanted = reserve(payment, _wanted(amount, payment), at=self._clock.now())
        held_by = bookings.holder(payment, stands_alone=False, channel=payment.channel)
        steps = (
            bookings.refund_reserved(
                refund_id="preview",
                payment_id=payment_id,
                channel=payment.channel,
                held_by=held_by,
                amount=wanted,
            ),
            bookings.refunded(
                refund_id="preview", payment=payment, channel=payment.channel, amount=wanted
            ),
        )
        return RefundPreview(
            amount=wanted,
            refundable=refundable(payment),
            refundable_after=refundable(after),
            fee_returned=bookings.fee_share(
                payment.fee,
                captured=payment.captured,
                refunded=payment.refunded + wanted,
                returned=returned,
            ),
            postings=tuple(posting for step in steps for posting in step.postings),
        )

    async def get(self, refund_id: str, caller: Caller) -> Refund:
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
        """Seconds until a channel is to be asked next; None when nothing is open."""
        return seconds_until(
            await self._db.read(refunds.next_due, self._quarantine), self._clock.now()
        )

    async def run_once(self) -> int:
        """Sends what was not sent and asks for what has no result; returns how many. One that fails
        or hangs stands in no other's way."""
        return await each(
            await self._batches.run(),
            self._advance,
            failed="refund_not_advanced",
            about=lambda refund: {"refund_id": refund.refund_id, "payment_id": refund.payment_id},
        )

    async def apply(self, fact: RefundFact, *, steps: Sequence[ScanStep] = ()) -> Refund:
        """Applies what a channel said about a refund. The same news again changes nothing. `steps`
        is what the background scan did to hear it; its diary is written in the same transaction,
        also when nothing changed.

        Raises:
            RefundNotFound: it is not one of ours.
        """
        refund, payment = await self._db.run(self.write, fact, steps=steps)
        await self.announce(payment)
        return refund

    async def write(
        self, tx: AsyncConnection, fact: RefundFact, *, steps: Sequence[ScanStep] = ()
    ) -> tuple[Refund, Payment | None]:
        """`apply` inside a transaction of the caller's, who calls `announce` after its commit. The
        payment is None when nothing changed.
        """
        return await write_refund_fact(tx, fact, ids=self._ids, at=self._clock.now(), steps=steps)

    async def announce(self, payment: Payment | None) -> None:
        """What follows the commit of `write`."""
        failpoint("payment.refund_fact.after_commit")
        if payment is not None:
            await self._cache.put_changed(payment)

    async def _advance(self, refund: Refund) -> None:
        if refund.state is RefundState.CREATED:
            await self._send(await self._db.run(self._submit, refund), by_scan=(refund.state, ()))
            return
        began_at = self._clock.now()
        news = await self._channels[refund.channel].query_refund(
            refund.refund_id, timeout_seconds=self._timeout_seconds
        )
        asked = ScanStep(
            action=ScanAction.QUERY,
            result=news.status,
            reason=news.reason,
            began_at=began_at,
            ended_at=self._clock.now(),
        )
        if news.status is RefundChannelStatus.NOT_FOUND and refund.lease_until <= self._clock.now():
            # Lost before the channel: once more, under the same id.
            await self._send(
                await self._db.run(self._submit, refund), by_scan=(refund.state, (asked,))
            )
        else:
            await self.apply(news, steps=(asked,))

    async def _send(
        self, refund: Refund, *, by_scan: tuple[RefundState, Sequence[ScanStep]] | None = None
    ) -> Refund:
        """Submits a refund and applies the answer. `by_scan`: the state in which the background
        found it, and what it did before this.
        """
        began_at = self._clock.now()
        news = await self._channels[refund.channel].refund(
            refund_id=refund.refund_id,
            attempt_id=refund.attempt_id,
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
                    result=news.status,
                    reason=news.reason,
                    began_at=began_at,
                    ended_at=self._clock.now(),
                    state_before=by_scan[0],
                ),
            )
        try:
            return await self.apply(news, steps=steps)
        except FailpointRaised:
            raise
        except Exception:  # the channel was called: the workers write down what it said
            log.exception("refund_fact_written_later", refund_id=refund.refund_id)
            return refund

    async def _reserve(
        self, tx: AsyncConnection, command: CreateRefund, caller: Caller
    ) -> tuple[Refund, bool, Payment | None]:
        """The refund, whether it is new, and the payment when it went back into a wallet at
        once.
        """
        now = self._clock.now()
        payment = await payments.lock_payment(tx, command.payment_id)
        if not payments.may_see(payment, caller):
            raise PaymentNotFound
        fingerprint = {
            "payment_id": command.payment_id,
            "amount": command.amount.positive().canonical,
            "currency": command.amount.currency,
            "request_id": command.request_id,
        }
        idempotency_key = _idempotency_key(caller, command.key, payment.merchant_id)
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
        attempt_id = await attempts.capturing_attempt(tx, payment)
        if attempt_id is None:
            raise RefundNotAllowed(payment_id=payment.payment_id)
        refund = Refund.start(
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
                (
                    "amount",
                    not command.amount.matches(earlier.amount),
                ),
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
        return refunds.due_statement(self._clock.now(), limit)

    async def _ask_later(self, tx: AsyncConnection, rows: Sequence[Any]) -> list[Refund]:
        return await refunds.ask_later(tx, rows, now=self._clock.now())


async def add_refund(
    tx: AsyncConnection,
    payment: Payment,
    refund: Refund,
    *,
    held_by: str,
    read_version: int,
    at: datetime,
) -> Payment:
    """Writes a reserved refund with its posting and the payment that it is reserved on."""
    booked = await ledger.book(
        tx,
        payment,
        bookings.refund_reserved(
            refund_id=refund.refund_id,
            payment_id=payment.payment_id,
            channel=refund.channel,
            held_by=held_by,
            amount=refund.amount,
        ),
        at=at,
    )
    await payments.save_payment(tx, booked, read_version=read_version)
    await refunds.insert_refund(tx, refund)
    return booked


async def write_refund_fact(
    tx: AsyncConnection,
    fact: RefundFact,
    *,
    ids: Ids,
    at: datetime,
    steps: Sequence[ScanStep] = (),
) -> tuple[Refund, Payment | None]:
    """One transaction's work for refund, payment, wallet, ledger, messages, idempotency record and,
    with `steps`, the scan's diary. The payment is None when nothing changed."""
    refund_id = fact.refund_id
    payment = await payments.lock_payment(tx, (await refunds.read_refund(tx, refund_id)).payment_id)
    refund = await refunds.read_refund(tx, refund_id)
    subject = ScanSubject(
        payment_id=payment.payment_id, attempt_id=refund.attempt_id, refund_id=refund_id
    )
    is_captured_attempt = (
        refund.stands_alone and await attempts.capturing_attempt(tx, payment) == refund.attempt_id
    )
    after, done = payment, refund
    messages: list[Message] = []
    for step in steps_of(refund, fact):
        decision = apply_refund_fact(
            after, done, step, is_captured_attempt=is_captured_attempt, at=at
        )
        if not decision.changes(done):
            continue
        after = await _carry_out(tx, after, done, decision, at=at)
        messages += refund_events(decision.refund, before=done.state, ids=ids, at=at)
        done = decision.refund
    if done is refund:
        await scan_actions.add(tx, entries(steps, subject, before=refund.state, after=refund.state))
        return refund, None
    if not refund.stands_alone:  # one snapshot, however many steps there were
        messages.append(order_message(after, done, ids=ids, at=at))
    if messages:
        await outbox.put(tx, *messages)
    told = next(
        (message.event_id for message in messages if message.destination == ORDER_DESTINATION), ""
    )
    await scan_actions.add(
        tx, entries(steps, subject, before=refund.state, after=done.state, event_id=told)
    )
    if refund.state in OPEN and done.state not in OPEN:
        await idempotency.finish(tx, resource_id=refund_id, answer=to_json(done))
    failpoint("payment.refund_fact.before_commit")
    return done, after


async def _carry_out(
    tx: AsyncConnection, payment: Payment, refund: Refund, decision: RefundDecision, *, at: datetime
) -> Payment:
    """Writes what one piece of news made of a refund; the payment after it."""
    await refunds.save_refund(tx, decision.refund, read_version=refund.version)
    after = decision.payment
    if decision.booking is not None:
        after = await ledger.book(
            tx, after if after is not payment else payment.touched(at=at), decision.booking, at=at
        )
    if decision.fee_booking is not None:
        after = await ledger.book(tx, after, decision.fee_booking, at=at)
    if refund.channel == WALLET and decision.refund.state is RefundState.SUCCESS:
        await wallets.credit(
            tx,
            after,
            refund.amount,
            kind=EntryKind.REFUNDED,
            entry_id=decision.refund.channel_refund_no,
            refund_id=refund.refund_id,
            at=at,
        )
    if decision.review_reason:
        log.error(
            "attention",
            alert=True,
            kind=decision.review_reason,
            payment_id=payment.payment_id,
            refund_id=refund.refund_id,
        )
        await ledger.open_manual_review(
            tx,
            kind=decision.review_reason,
            payment_id=payment.payment_id,
            subject=refund.refund_id,
            detail=f"refund of {refund.amount}: {decision.refund.state}",
            at=at,
        )
    if after is not payment:
        await payments.save_payment(tx, after, read_version=payment.version)
    return after


async def refund_into_wallet(
    tx: AsyncConnection, refund: Refund, *, ids: Ids, at: datetime
) -> tuple[Refund, Payment | None]:
    """Ends a submitted refund of a payment by balance, in the transaction that reserved it: our own
    books need no time to answer.
    """
    fact = RefundFact(
        refund_id=refund.refund_id,
        status=RefundChannelStatus.SUCCESS,
        channel_refund_no=ids.new("WE"),
        occurred_at=at,
    )
    return await write_refund_fact(tx, fact, ids=ids, at=at)


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


def _answer_of(refund: Refund) -> Refund:
    if refund.state is RefundState.FAILED:
        raise RefundFailed(
            refund.failure.message if refund.failure else "",
            payment_id=refund.payment_id,
            refund_id=refund.refund_id,
        )
    return refund


def _wanted(amount: RequestedAmount, payment: Payment) -> Money | None:
    return amount.in_currency(payment.amount.currency) if amount.text else None


def _idempotency_key(caller: Caller, key: str, merchant_id: str) -> IdempotencyKey | None:
    return (
        IdempotencyKey(merchant_id=merchant_id, caller=caller.key, method="CreateRefund", key=key)
        if key
        else None
    )

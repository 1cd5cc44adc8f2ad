"""What payment_rpc knows about an order, in words for a support person. Payments keep no log
of their own; attempts, callbacks, the scan's actions, bookings, refunds and messages are one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, assert_never

from sqlalchemy import or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.audit import TenantKey
from mesh.audit.explain import Actor, Explanation, PendingStep, TimelineEntry, messages_about
from mesh.db import Database
from mesh.money import Money
from mesh.outbox import OUTBOX
from payment_rpc.audit.callbacks import callback_entries, callback_steps
from payment_rpc.audit.scans import scan_entries
from payment_rpc.domain.attempt import OPEN, Attempt, AttemptState
from payment_rpc.domain.payment import (
    BALANCE,
    CASHIER,
    TOP_UP,
    UNDECIDED,
    WALLET,
    Disposition,
    Payment,
    PaymentState,
)
from payment_rpc.domain.refund import OPEN as OPEN_REFUND
from payment_rpc.domain.refund import Refund, RefundState
from payment_rpc.store import attempts, callbacks, payments, refunds, scan_actions
from payment_rpc.tables import (
    ATTEMPT,
    CHANNEL_CALLBACK,
    LEDGER_POSTING,
    LEDGER_TRANSACTION,
    MANUAL_REVIEW,
    PAYMENT,
    REFUND,
    STATEMENT_DIFFERENCE,
    WALLET_ENTRY,
)
from payment_rpc.usecases.messages import ORDER_DESTINATION

ORDERS_MAX = 20  # a trace id may lead to several
_REFUSALS = {
    Disposition.REFUSED_CANCELLED: "the order refused it, because it was cancelled",
    Disposition.REFUSED_PAID_BY_OTHER: "the order refused it, because another payment had paid it",
}
_BOOKED = {
    "CAPTURED": "{amount} came in and is the merchant's.",
    "CAPTURED_BALANCE": "{amount} left the buyer's wallet and is the merchant's.",
    "CAPTURED_TOP_UP": "{amount} came in and is in the buyer's wallet.",
    "CAPTURED_UNAPPLIED": "{amount} came in, but not for a payment that was waiting for it: it is "
    "parked, nobody's yet.",
    "TOPPED_UP": "The parked {amount} is in the buyer's wallet.",
    "FEE": "The channel keeps a fee of {amount}.",
    "FEE_RETURNED": "The channel gives {amount} of its fee back.",
    "LATE_TAKEN": "The order took the late money: {amount} is the merchant's.",
    "REFUSED": "The order did not take the money: {amount} is parked, to go back.",
    "REFUND_RESERVED": "{amount} is set aside for a refund.",
    "REFUND_RELEASED": "The refund of {amount} came to nothing; the money is where it was before.",
    "REFUNDED": "{amount} went back to the buyer.",
    "REFUNDED_LATE": "{amount} went back to the buyer after all, although the refund counted as "
    "failed.",
    "REFUND_REVERSED": "{amount} came back from the buyer's bank.",
}
_ATTEMPT_ENDS = {
    AttemptState.AUTHORIZED: "The channel holds the money of attempt {id}.",
    AttemptState.CAPTURED: "The channel took {captured}, number {trade_no} (attempt {id}).",
    AttemptState.DECLINED: "The channel declined attempt {id}.",
    AttemptState.TECH_FAILED: "The channel failed; nothing was taken (attempt {id}).",
    AttemptState.NOT_ATTEMPTED: "The channel was never reached (attempt {id}).",
    AttemptState.CLOSED: "Attempt {id} was closed at the channel; nothing was taken.",
    AttemptState.PENDING: "The channel waits for the buyer (attempt {id}).",
    AttemptState.UNKNOWN: "No answer came from the channel: it may have taken the money or not "
    "(attempt {id}).",
    AttemptState.SENT: "Attempt {id} is on its way to the channel.",
}


async def find_orders(db: Database, name: str) -> list[TenantKey]:
    """The orders that something of ours belongs to: a payment, an attempt, a refund, an order, a
    number of the channel, a callback, a message, a call by its trace id."""
    return await db.read(_find_order, name)


async def explain_order(db: Database, key: TenantKey) -> Explanation:
    """Everything about the payments of an order."""
    return await db.read(_explain, key)


async def _find_order(tx: AsyncConnection, name: str) -> list[TenantKey]:
    columns = select(PAYMENT.c.merchant_id, PAYMENT.c.order_id).distinct()
    told = OUTBOX.join(PAYMENT, OUTBOX.c.aggregate_id == PAYMENT.c.payment_id)
    refunded = OUTBOX.join(REFUND, OUTBOX.c.aggregate_id == REFUND.c.refund_id)
    is_message = or_(OUTBOX.c.event_id == name, OUTBOX.c.trace_id == name)
    for query in (
        columns.where(PAYMENT.c.payment_id == name),
        columns.where(PAYMENT.c.order_id == name),
        *(
            columns.select_from(
                PAYMENT.join(table, table.c.payment_id == PAYMENT.c.payment_id)
            ).where(*condition)
            for table, *condition in _leads(name)
        ),
        columns.select_from(told).where(is_message),
        select(REFUND.c.merchant_id, REFUND.c.order_id)
        .distinct()
        .select_from(refunded)
        .where(is_message),
    ):
        if rows := (await tx.execute(query.limit(ORDERS_MAX))).all():
            return [(row.merchant_id, row.order_id) for row in rows]
    return []


def _leads(name: str) -> Iterator[tuple[Any, ...]]:
    """Tables with a payment, and the condition under which one of their rows is meant; those with
    an index first.
    """
    yield ATTEMPT, ATTEMPT.c.attempt_id == name
    yield REFUND, REFUND.c.refund_id == name
    yield CHANNEL_CALLBACK, CHANNEL_CALLBACK.c.callback_id == name
    yield WALLET_ENTRY, WALLET_ENTRY.c.entry_id == name
    yield STATEMENT_DIFFERENCE, STATEMENT_DIFFERENCE.c.difference_id == name
    yield ATTEMPT, ATTEMPT.c.channel_trade_no == name
    yield REFUND, REFUND.c.channel_refund_no == name
    yield REFUND, REFUND.c.request_id == name
    yield (
        CHANNEL_CALLBACK,
        or_(CHANNEL_CALLBACK.c.event_id == name, CHANNEL_CALLBACK.c.trace_id == name),
        CHANNEL_CALLBACK.c.signature_valid,
    )


async def _explain(tx: AsyncConnection, key: TenantKey) -> Explanation:
    found = await payments.all_of_order(tx, merchant_id=key[0], order_id=key[1])
    ids = [payment.payment_id for payment in found]
    own_attempts = await attempts.attempts_of_payments(tx, ids)
    own_refunds = await refunds.refunds_of_payments(tx, ids)
    told, to_tell = await messages_about(tx, ids, receivers={ORDER_DESTINATION: "The order"})
    attention = (
        await tx.execute(
            select(MANUAL_REVIEW)
            .where(MANUAL_REVIEW.c.payment_id.in_(ids))
            .order_by(MANUAL_REVIEW.c.created_at)
        )
    ).all()
    timeline = [entry for payment in found for entry in _payment_entries(payment)]
    heard = await callbacks.callbacks_of_payments(tx, ids)
    timeline += callback_entries(heard)
    timeline += scan_entries(await scan_actions.of_payments(tx, ids))
    timeline += [entry for attempt in own_attempts for entry in _attempt_entries(attempt)]
    timeline += [entry for refund in own_refunds for entry in _refund_entries(refund)]
    timeline += [*await _ledger_entries(tx, ids), *told, *_attention_entries(attention)]
    pending = [
        *(n for payment in found for n in _payment_steps(payment)),
        *(n for attempt in own_attempts for n in _attempt_steps(attempt)),
        *(n for refund in own_refunds for n in _refund_steps(refund)),
        *callback_steps(heard),
        *to_tell,
        *(
            PendingStep(
                at=None, text=f"A person must look at {row.kind} of {row.payment_id}: {row.detail}."
            )
            for row in attention
            if not row.resolved_at
        ),
    ]
    return Explanation(
        headlines=tuple(map(headline, found)), timeline=tuple(timeline), pending=tuple(pending)
    )


def headline(payment: Payment) -> str:
    """How a payment stands, in one sentence."""
    return f"Payment {payment.payment_id}: {_state_of(payment)}."


def _state_of(payment: Payment) -> str:
    refusal = _REFUSALS.get(payment.disposition) if payment.disposition else None
    match payment.state:
        case PaymentState.INIT | PaymentState.PAYING:
            return f"{payment.amount} is not decided yet; the channel has the last word"
        case PaymentState.AUTHORIZED if payment.captured.minor:
            rest = payment.amount - payment.captured
            return f"{payment.captured} of {payment.amount} was captured; {rest} is still held"
        case PaymentState.AUTHORIZED:
            return f"{payment.amount} is held at the channel; the shop has not captured it yet"
        case PaymentState.CLOSING:
            return f"{payment.amount} is being taken back; the channel has not answered yet"
        case PaymentState.SUCCESS if payment.payment_method == TOP_UP:
            return f"{payment.captured} was paid into the buyer's wallet"
        case PaymentState.SUCCESS:
            back = f", {payment.refunded} of it went back" if payment.refunded.minor else ""
            waits = "" if payment.disposition else "; the order has not heard of it yet"
            part = f" of {payment.amount}" if payment.captured < payment.amount else ""
            return f"{payment.captured}{part} was paid{back}{waits}"
        case PaymentState.FAILED | PaymentState.CLOSED:
            why = (
                f" ({payment.failure.message or payment.failure.reason})" if payment.failure else ""
            )
            return f"ended without money{why}"
        case PaymentState.CONFLICTED:
            return (
                f"the channel took something else than {payment.amount}; the money is parked "
                f"until a person decides"
            )
        case PaymentState.LATE_SUCCESS if refusal is None:
            return f"{payment.captured} came late; the order has not said whether it takes it"
        case PaymentState.LATE_SUCCESS:
            return (
                f"{payment.captured} was paid, {refusal}; {payment.refunded} of it is back "
                f"with the buyer and the rest is on its way"
            )
        case PaymentState.LATE_REFUNDED:
            return (
                f"{payment.captured} was paid, {refusal or 'the order did not take it'}; all "
                f"of it went back to the buyer"
            )
        case _:
            assert_never(payment.state)


def _payment_entries(payment: Payment) -> Iterator[TimelineEntry]:
    how = {
        BALANCE: "out of the wallet",
        TOP_UP: "into the wallet, by card",
        CASHIER: f"at the cashier of {payment.channel}",
    }.get(
        payment.payment_method,
        f"by card {payment.card.brand} …{payment.card.last_four}" if payment.card else "by card",
    )
    yield TimelineEntry(
        at=payment.created_at,
        actor=Actor.PAYMENT,
        text=f"The buyer began to pay {payment.amount} {how}: payment {payment.payment_id}.",
    )


def _attempt_entries(attempt: Attempt) -> Iterator[TimelineEntry]:
    if attempt.channel == WALLET:  # its booking says it all
        return
    text = _ATTEMPT_ENDS[attempt.state].format(
        captured=attempt.captured, trade_no=attempt.channel_trade_no, id=attempt.attempt_id
    )
    asked = f" We asked {attempt.queries} times." if attempt.queries else ""
    again = f" It was sent {attempt.sends} times, under one id." if attempt.sends > 1 else ""
    yield TimelineEntry(at=attempt.updated_at, actor=Actor.CHANNEL, text=text + asked + again)


def _refund_entries(refund: Refund) -> Iterator[TimelineEntry]:
    by_itself = "by itself " if refund.automatic else ""
    why = f": {refund.reason}" if refund.reason else ""
    yield TimelineEntry(
        at=refund.created_at,
        actor=Actor.REFUND,
        text=f"A refund of {refund.amount} was begun {by_itself}({refund.refund_id}){why}.",
    )
    match refund.state:
        case RefundState.SUCCESS:
            number = f", number {refund.channel_refund_no}" if refund.channel_refund_no else ""
            yield TimelineEntry(
                at=refund.refunded_at or refund.updated_at,
                actor=Actor.REFUND,
                text=f"Refund {refund.refund_id} is done{number}.",
            )
        case RefundState.FAILED | RefundState.REVERSED | RefundState.CANCELED:
            said = f": {refund.failure.message or refund.failure.reason}" if refund.failure else ""
            what = {RefundState.FAILED: "was refused", RefundState.REVERSED: "bounced"}.get(
                refund.state, "was taken back"
            )
            yield TimelineEntry(
                at=refund.updated_at,
                actor=Actor.REFUND,
                text=f"Refund {refund.refund_id} {what}{said}.",
            )
        case _:
            waits = (
                "was not sent yet"
                if refund.state is RefundState.CREATED
                else f"is {refund.state}: the channel has not said its last word"
            )
            yield TimelineEntry(
                at=refund.updated_at, actor=Actor.REFUND, text=f"Refund {refund.refund_id} {waits}."
            )


async def _ledger_entries(tx: AsyncConnection, ids: Sequence[str]) -> list[TimelineEntry]:
    rows = (
        await tx.execute(
            select(LEDGER_TRANSACTION, LEDGER_POSTING.c.amount_minor, LEDGER_POSTING.c.currency)
            .join(
                LEDGER_POSTING, LEDGER_POSTING.c.business_key == LEDGER_TRANSACTION.c.business_key
            )
            .where(LEDGER_TRANSACTION.c.payment_id.in_(ids), LEDGER_POSTING.c.side == "D")
            .order_by(LEDGER_TRANSACTION.c.id)
        )
    ).all()
    return [
        TimelineEntry(
            at=row.booked_at,
            actor=Actor.LEDGER,
            text=_BOOKED.get(row.kind, f"{row.kind}: {{amount}}.").format(
                amount=Money(row.amount_minor, row.currency)
            ),
        )
        for row in rows
    ]


def _attention_entries(rows: Sequence[Any]) -> Iterator[TimelineEntry]:
    for row in rows:
        yield TimelineEntry(
            at=row.created_at, actor=Actor.PERSON, text=f"A person was called: {row.kind}."
        )
        if row.resolved_at:
            yield TimelineEntry(
                at=row.resolved_at, actor=Actor.PERSON, text=f"A person decided: {row.detail}."
            )


def _payment_steps(payment: Payment) -> Iterator[PendingStep]:
    if payment.state is PaymentState.AUTHORIZED:
        yield PendingStep(
            at=payment.expires_at,
            text=f"The held money of payment {payment.payment_id} is let go if it is not captured "
            "by then.",
        )
    elif payment.state in UNDECIDED and payment.state is not PaymentState.CLOSING:
        yield PendingStep(
            at=payment.expires_at,
            text=f"Payment {payment.payment_id} is closed if it is not paid by then.",
        )


def _attempt_steps(attempt: Attempt) -> Iterator[PendingStep]:
    if attempt.state in OPEN and attempt.next_query_at is not None:
        if attempt.capture_amount is not None:
            yield PendingStep(
                at=attempt.next_query_at,
                text=f"The capture {attempt.capture_id} of {attempt.capture_amount} was begun; it "
                "is sent again unless the channel took the money.",
            )
        yield PendingStep(
            at=attempt.next_query_at,
            text=f"The channel is asked what became of attempt {attempt.attempt_id}.",
        )
    elif attempt.next_query_at is not None:
        yield PendingStep(
            at=attempt.next_query_at,
            text=f"The channel is asked whether more money came under {attempt.attempt_id}.",
        )


def _refund_steps(refund: Refund) -> Iterator[PendingStep]:
    if refund.state is RefundState.CREATED and refund.next_query_at is not None:
        yield PendingStep(
            at=refund.next_query_at, text=f"Refund {refund.refund_id} is sent to the channel."
        )
    elif refund.state in OPEN_REFUND and refund.next_query_at is not None:
        yield PendingStep(
            at=refund.next_query_at,
            text=f"The channel is asked what became of refund {refund.refund_id}.",
        )

"""What must hold within payment_rpc: the books, and that whatever is not finished is somebody's work or a person's (PROTOCOLS 6).

Each check is one statement, so it sees one moment.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db import Database
from mesh.outbox import OUTBOX
from mesh.proof import OVERDUE, SETTLING, UNDELIVERED, Allowance, OrderKey, PaymentFacts, Violation, check, check_logs, check_outbox
from mesh.receipts import RECEIPT
from payment_rpc.domain import attempt as attempts
from payment_rpc.domain import refund as refunds
from payment_rpc.domain.attempt import AttemptState
from payment_rpc.domain.callback import CallbackKind, CallbackResult
from payment_rpc.domain.payment import MONEY, TOP_UP, UNDECIDED, Disposition, PaymentState
from payment_rpc.domain.refund import RefundState
from payment_rpc.tables import ATTEMPT, ATTENTION, CALLBACK_LOG, CHANNEL_CALLBACK, PAYMENT, REFUND, SCAN_LOG, WALLET_LOG
from payment_rpc.usecases.messages import ORDER_DESTINATION
from payment_rpc.usecases.verifying import Verifying

_P, _A, _R, _N, _O, _C = PAYMENT.c, ATTEMPT.c, REFUND.c, ATTENTION.c, OUTBOX.c, CHANNEL_CALLBACK.c
_REFUSALS = [disposition for disposition in Disposition if disposition.is_refusal]
_WAITS_FOR_PERSON = select(_N.attention_key).where(_N.payment_id == _P.payment_id, _N.resolved_at.is_(None)).exists()


async def violations(db: Database, allowance: Allowance) -> AsyncIterator[Violation]:
    """Everything that does not hold."""
    for problem in (await Verifying(db=db).verify()).violations:
        yield Violation(check=f"ledger_{problem.invariant}", subject=problem.subject, detail=problem.detail)
    async for violation in check_outbox(db, allowance):
        yield violation
    async for violation in check_logs(db, WALLET_LOG, SCAN_LOG, CALLBACK_LOG):
        yield violation
    for name, query, detail in [*_unfinished(allowance), *_nobodys_work(), *_impossible()]:
        for violation in await check(db, name, query, detail):
            yield violation


def _unfinished(allowance: Allowance) -> list[tuple[str, Select[Any], str]]:
    """Work that a worker should have done by now."""
    late = allowance.before(OVERDUE)
    return [
        ("payment_late", select(_P.payment_id, _P.state, _P.order_id).where(_P.state == PaymentState.PAYING, _P.expires_at < late),
         "it is still {state} after its deadline; order {order_id}"),
        ("attempt_late", select(_A.attempt_id, _A.state, _A.payment_id).where(_A.next_query_at < late),
         "it is {state}, and its channel was not asked when it was due; payment {payment_id}"),
        ("refund_late", select(_R.refund_id, _R.state, _R.payment_id).where(_R.next_query_at < late),
         "it is {state}, and its channel was not asked when it was due; payment {payment_id}"),
        ("callback_late", select(_C.callback_id, _C.payment_id, _C.event_id).where(
            _C.result == CallbackResult.RECEIVED, _C.received_at < late),
         "it is genuine, and nobody did what it asked for; payment {payment_id}, event {event_id}"),
        # A hint is not among these: its secret is published, so anybody can send one about nothing.
        ("callback_unused", select(_C.callback_id, _C.channel, _C.event_id, _C.reason).where(
            _C.result == CallbackResult.FAILED, _C.signature_valid, _C.kind == CallbackKind.CALLBACK,
            _C.last_received_at < allowance.before(UNDELIVERED)),
         "{channel} said it and it never counted, event {event_id}: {reason}"),
    ]


def _nobodys_work() -> list[tuple[str, Select[Any], str]]:
    """States that no worker, message or person will ever end."""
    open_attempt = select(_A.attempt_id).where(_A.payment_id == _P.payment_id, _A.state.in_(attempts.OPEN)).exists()
    told = select(_O.event_id).where(_O.aggregate_id == _P.payment_id, _O.destination == ORDER_DESTINATION, _O.state == "NEW").exists()
    given_back = select(_R.refund_id).where(_R.payment_id == _A.payment_id, _R.attempt_id == _A.attempt_id, _R.stands_alone).exists()
    left = _P.captured_minor - _P.refunded_minor - _P.refund_reserved_minor
    return [
        ("payment_abandoned", select(_P.payment_id, _P.state).where(_P.state.in_(UNDECIDED), ~open_attempt),
         "it is {state}, and no attempt of it is open"),
        ("order_not_told", select(_P.payment_id, _P.state, _P.order_id).where(_P.state.in_(MONEY), _P.disposition.is_(None), ~told),
         "it is {state}, order {order_id} has not said what it does with the money, and no message asks it"),
        ("refused_money_kept", select(_P.payment_id, _P.disposition).where(
            _P.disposition.in_(_REFUSALS), left > 0, ~_WAITS_FOR_PERSON),
         "its order answered {disposition}; money is left, no refund takes it and nobody is told"),
        ("conflict_unseen", select(_P.payment_id, _P.order_id).where(_P.state == PaymentState.CONFLICTED, ~_WAITS_FOR_PERSON),
         "it is CONFLICTED and nobody is told"),
        ("parked_unseen", select(_A.attempt_id, _A.payment_id).select_from(ATTEMPT.join(PAYMENT, _P.payment_id == _A.payment_id)).where(
            _A.state == AttemptState.CAPTURED, (_P.captured_minor == 0) | (_A.channel_trade_no != _P.channel_trade_no), ~given_back,
            ~_WAITS_FOR_PERSON), "its money belongs to nothing, no refund takes it and nobody is told; payment {payment_id}"),
        ("refund_unseen", select(_R.refund_id, _R.state, _R.payment_id).where(
            _R.needs_attention, ~select(_N.attention_key).where(_N.payment_id == _R.payment_id).exists()),
         "it is {state} and nobody is told; payment {payment_id}"),
    ]


def _impossible() -> list[tuple[str, Select[Any], str]]:
    """What no code path writes."""
    final: ColumnElement[bool] = _P.state.not_in([*UNDECIDED, PaymentState.CONFLICTED])
    return [
        ("success_holds_slot", select(_P.payment_id, _P.order_id).where(_P.state == PaymentState.SUCCESS, _P.live_slot.is_(None)),
         "it is a SUCCESS and another payment of order {order_id} may become one too"),
        ("trade_number_once", select(_A.channel_trade_no, _A.channel, func.count().label("times")).where(_A.state == AttemptState.CAPTURED)
         .group_by(_A.channel, _A.channel_trade_no).having(func.count() > 1), "{times} captures at {channel} have this number"),
        ("refunds_within_capture", select(_A.attempt_id, _A.captured_minor, func.sum(_R.amount_minor).label("refunds"))
         .select_from(ATTEMPT.join(REFUND, _R.attempt_id == _A.attempt_id))
         .where(_R.state.in_([*refunds.OPEN, RefundState.SUCCESS]), ~_R.above_cap).group_by(_A.attempt_id, _A.captured_minor)
         .having(func.sum(_R.amount_minor) > _A.captured_minor), "refunds of {refunds} for a capture of {captured_minor}, in minor units"),
        ("receipt_answered", select(RECEIPT.c.resource_id, RECEIPT.c.method).select_from(
            RECEIPT.join(PAYMENT, _P.payment_id == RECEIPT.c.resource_id)).where(
            RECEIPT.c.state == "RUNNING", final), "the payment is final and its {method} receipt has no answer"),
        ("refund_receipt_answered", select(RECEIPT.c.resource_id, RECEIPT.c.method).select_from(
            RECEIPT.join(REFUND, _R.refund_id == RECEIPT.c.resource_id)).where(
            RECEIPT.c.state == "RUNNING", _R.state.not_in(refunds.OPEN)), "the refund is final and its {method} receipt has no answer"),
    ]


async def payments_page(db: Database, allowance: Allowance, *, after: str, limit: int) -> list[PaymentFacts]:
    """Payments of orders by their ids, those after `after`."""
    return await db.read(_read_facts, _P.payment_id > after, allowance, limit)


async def payments_of_orders(db: Database, allowance: Allowance, keys: Sequence[OrderKey]) -> list[PaymentFacts]:
    """All payments of some orders."""
    return await db.read(_read_facts, tuple_(_P.merchant_id, _P.order_id).in_(keys), allowance, None)


async def _read_facts(tx: AsyncConnection, condition: ColumnElement[bool], allowance: Allowance, limit: int | None) -> list[PaymentFacts]:
    fresh = select(_O.event_id).where(_O.aggregate_id == _P.payment_id, _O.destination == ORDER_DESTINATION, _O.state == "NEW",
                                      _O.created_at > allowance.before(SETTLING)).exists()
    query = (select(_P.payment_id, _P.merchant_id, _P.order_id, _P.state, _P.amount_minor, _P.currency, _P.captured_minor, _P.refunded_minor,
                    fresh.label("fresh")).where(condition, _P.payment_method != TOP_UP).order_by(_P.payment_id).limit(limit))
    return [PaymentFacts(payment_id=row.payment_id, merchant_id=row.merchant_id, order_id=row.order_id, state=row.state,
                         amount_minor=row.amount_minor, currency=row.currency, captured_minor=row.captured_minor,
                         refunded_minor=row.refunded_minor, is_settling=bool(row.fresh)) for row in await tx.execute(query)]

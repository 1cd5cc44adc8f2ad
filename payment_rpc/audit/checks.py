"""What must hold within payment_rpc: the books, and that whatever is not finished is somebody's
work or a person's (docs/protocols.md 6).

Each check is one statement per range of a table, so it sees one moment.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from sqlalchemy import ColumnElement, func, or_, select

from mesh.audit import OVERDUE, UNDELIVERED, AuditTolerance, Violation
from mesh.audit.queries import Check, check_logs, check_outbox, check_rows, run_checks
from mesh.db import Database
from mesh.errors import Outcome
from mesh.idempotency import RECEIPT
from mesh.outbox import OUTBOX
from payment_rpc.audit.accounts import UNLOGGED, check_accounts
from payment_rpc.audit.kept import messages
from payment_rpc.audit.seals import check_seals
from payment_rpc.domain import attempt as attempts
from payment_rpc.domain import refund as refunds
from payment_rpc.domain.attempt import AttemptState
from payment_rpc.domain.callback import CallbackKind, CallbackResult
from payment_rpc.domain.difference import Kind
from payment_rpc.domain.payment import MONEY, UNDECIDED, Disposition, PaymentState
from payment_rpc.domain.refund import RefundState
from payment_rpc.tables import (
    ACCOUNT_LOG,
    ATTEMPT,
    CALLBACK_LOG,
    CHANNEL_CALLBACK,
    LEDGER_TRANSACTION,
    MANUAL_REVIEW,
    PAYMENT,
    REFUND,
    SCAN_LOG,
    STATEMENT_DIFFERENCE,
    STATEMENT_IMPORT,
    WALLET_LOG,
    metadata,
)
from payment_rpc.usecases.ledger_verification import LedgerVerification
from payment_rpc.usecases.messages import ORDER_DESTINATION

_P = PAYMENT.c
_A = ATTEMPT.c
_R = REFUND.c
_N = MANUAL_REVIEW.c
_O = OUTBOX.c
_C = CHANNEL_CALLBACK.c
_L = LEDGER_TRANSACTION.c
_BY_PAYMENT = (_P.payment_id,)
_BY_ATTEMPT = (_A.attempt_id,)
_BY_REFUND = (_R.refund_id,)
_BY_CALLBACK = (_C.callback_id,)
_WORDS = {_P.outcome: Outcome, _P.disposition: Disposition, STATEMENT_DIFFERENCE.c.kind: Kind}
_BY_RECEIPT = tuple(RECEIPT.primary_key.columns)
_REFUSALS = [disposition for disposition in Disposition if disposition.is_refusal]
_ENDED = [
    AttemptState.DECLINED,
    AttemptState.TECH_FAILED,
    AttemptState.NOT_ATTEMPTED,
    AttemptState.CLOSED,
]
_WAITS_FOR_PERSON = (
    select(_N.attention_key)
    .where(_N.payment_id == _P.payment_id, _N.resolved_at.is_(None))
    .exists()
)


async def violations(db: Database, tolerance: AuditTolerance) -> AsyncIterator[Violation]:
    """Everything that does not hold."""
    for problem in (await LedgerVerification(db=db).verify_ledger()).violations:
        yield Violation(
            check=f"ledger_{problem.invariant}", subject=problem.subject, detail=problem.detail
        )
    checks = (
        *_unfinished(tolerance),
        *_nobodys_work(),
        *_unseen(),
        *_impossible(),
        *_mismatched(),
        *_orphans(),
        *_without_rows(),
        UNLOGGED,
        *messages(tolerance),
    )
    for part in (
        check_rows(db, metadata, words=_WORDS, documents=(STATEMENT_IMPORT.c.line_errors,)),
        check_outbox(db, tolerance),
        check_logs(db, WALLET_LOG, SCAN_LOG, CALLBACK_LOG, ACCOUNT_LOG),
        run_checks(db, checks),
        check_seals(db, tolerance),
        check_accounts(db),
    ):
        async for violation in part:
            yield violation


def _unfinished(tolerance: AuditTolerance) -> list[Check]:
    """Work that a worker should have done by now."""
    late = tolerance.before(OVERDUE)
    return [
        Check(
            name="payment_late",
            query=select(_P.payment_id, _P.state, _P.order_id).where(
                _P.state.in_([PaymentState.PAYING, PaymentState.AUTHORIZED]), _P.expires_at < late
            ),
            detail="it is still {state} after its deadline; order {order_id}",
        ),
        Check(
            name="attempt_late",
            query=select(_A.attempt_id, _A.state, _A.payment_id).where(_A.next_query_at < late),
            detail="it is {state}, and its channel was not asked when it was due; payment "
            "{payment_id}",
        ),
        Check(
            name="refund_late",
            query=select(_R.refund_id, _R.state, _R.payment_id).where(_R.next_query_at < late),
            detail="it is {state}, and its channel was not asked when it was due; payment "
            "{payment_id}",
        ),
        Check(
            name="callback_late",
            query=select(_C.callback_id, _C.payment_id, _C.event_id).where(
                _C.result == CallbackResult.RECEIVED, _C.received_at < late
            ),
            by=_BY_CALLBACK,
            detail="it is genuine, and nobody did what it asked for; payment {payment_id}, event "
            "{event_id}",
        ),
        # A hint is not among these: its secret is published, so anybody can send one about nothing.
        Check(
            name="callback_unused",
            query=select(_C.callback_id, _C.channel, _C.event_id, _C.reason).where(
                _C.result == CallbackResult.FAILED,
                _C.signature_valid,
                _C.kind == CallbackKind.CALLBACK,
                _C.last_received_at < tolerance.before(UNDELIVERED),
            ),
            by=_BY_CALLBACK,
            detail="{channel} said it and it never counted, event {event_id}: {reason}",
        ),
    ]


def _nobodys_work() -> list[Check]:
    """States that no worker, message or person will ever end."""
    open_attempt = (
        select(_A.attempt_id)
        .where(_A.payment_id == _P.payment_id, _A.state.in_(attempts.OPEN))
        .exists()
    )
    told = (
        select(_O.event_id)
        .where(
            _O.aggregate_id == _P.payment_id, _O.destination == ORDER_DESTINATION, _O.state == "NEW"
        )
        .exists()
    )
    left = _P.captured_minor - _P.refunded_minor - _P.refund_reserved_minor
    return [
        Check(
            name="payment_abandoned",
            query=select(_P.payment_id, _P.state).where(_P.state.in_(UNDECIDED), ~open_attempt),
            by=_BY_PAYMENT,
            detail="it is {state}, and no attempt of it is open",
        ),
        Check(
            name="order_not_told",
            query=select(_P.payment_id, _P.state, _P.order_id).where(
                _P.state.in_(MONEY), _P.disposition.is_(None), ~told
            ),
            by=_BY_PAYMENT,
            detail="it is {state}, order {order_id} has not said what it does with the money, and "
            "no message asks it",
        ),
        Check(
            name="refused_money_kept",
            query=select(_P.payment_id, _P.disposition).where(
                _P.disposition.in_(_REFUSALS), left > 0, ~_WAITS_FOR_PERSON
            ),
            by=_BY_PAYMENT,
            detail="its order answered {disposition}; money is left, no refund takes it and "
            "nobody is told",
        ),
        Check(
            name="conflict_unseen",
            query=select(_P.payment_id, _P.order_id).where(
                _P.state == PaymentState.CONFLICTED, ~_WAITS_FOR_PERSON
            ),
            by=_BY_PAYMENT,
            detail="it is CONFLICTED and nobody is told",
        ),
    ]


def _unseen() -> list[Check]:
    """What a person must look at, and nobody is told."""
    given_back = (
        select(_R.refund_id)
        .where(_R.payment_id == _A.payment_id, _R.automatic_of == _A.attempt_id, _R.stands_alone)
        .exists()
    )
    surplus_back = (
        select(func.coalesce(func.sum(_R.amount_minor), 0))
        .where(
            _R.payment_id == _A.payment_id,
            _R.attempt_id == _A.attempt_id,
            _R.stands_alone,
            _R.automatic_of != _A.attempt_id,
        )
        .scalar_subquery()
    )
    return [
        Check(
            name="parked_unseen",
            query=select(_A.attempt_id, _A.payment_id)
            .select_from(ATTEMPT.join(PAYMENT, _P.payment_id == _A.payment_id))
            .where(
                _A.state == AttemptState.CAPTURED,
                (_P.captured_minor == 0) | (_A.channel_trade_no != _P.channel_trade_no),
                ~given_back,
                ~_WAITS_FOR_PERSON,
            ),
            by=_BY_ATTEMPT,
            detail="its money belongs to nothing, no refund takes it and nobody is told; payment "
            "{payment_id}",
        ),
        Check(
            name="surplus_unseen",
            query=select(_A.attempt_id, _A.surplus_minor)
            .select_from(ATTEMPT.join(PAYMENT, _P.payment_id == _A.payment_id))
            .where(_A.surplus_minor > surplus_back, ~_WAITS_FOR_PERSON),
            by=_BY_ATTEMPT,
            detail="{surplus_minor} too much, no refund takes all of it and nobody is told",
        ),
        Check(
            name="refund_unseen",
            query=select(_R.refund_id, _R.state, _R.payment_id).where(
                _R.needs_attention,
                ~select(_N.attention_key).where(_N.payment_id == _R.payment_id).exists(),
            ),
            by=_BY_REFUND,
            detail="it is {state} and nobody is told; payment {payment_id}",
        ),
    ]


def _impossible() -> list[Check]:
    """What no code path writes."""
    other = ATTEMPT.alias()

    def same_number(is_other: ColumnElement[bool]) -> ColumnElement[bool]:
        same = (other.c.channel_trade_no == _A.channel_trade_no, other.c.channel == _A.channel)
        return (
            select(other.c.attempt_id)
            .where(*same, other.c.state == AttemptState.CAPTURED, is_other)
            .exists()
        )

    refunds_of_attempt = ATTEMPT.join(
        REFUND, (_R.payment_id == _A.payment_id) & (_R.attempt_id == _A.attempt_id)
    )
    return [
        Check(
            name="success_holds_slot",
            query=select(_P.payment_id, _P.order_id).where(
                _P.state == PaymentState.SUCCESS, _P.live_slot.is_(None)
            ),
            by=_BY_PAYMENT,
            detail="it is a SUCCESS and another payment of order {order_id} may become one too",
        ),
        Check(
            name="parts_of_hold",
            query=select(_A.attempt_id, _A.payment_id, _A.captured_minor, _P.captured_minor)
            .select_from(ATTEMPT.join(PAYMENT, _P.payment_id == _A.payment_id))
            .where(
                _A.state == AttemptState.AUTHORIZED,
                func.coalesce(_A.captured_minor, 0) != _P.captured_minor,
            ),
            by=_BY_ATTEMPT,
            detail="what was captured of its hold is not what payment {payment_id} says",
        ),
        Check(
            name="trade_number_once",
            query=select(_A.channel_trade_no, _A.channel).where(
                _A.state == AttemptState.CAPTURED,
                same_number(other.c.attempt_id > _A.attempt_id),
                ~same_number(other.c.attempt_id < _A.attempt_id),
            ),
            by=_BY_ATTEMPT,
            detail="several captures at {channel} have this number",
        ),
        Check(
            name="refunds_within_capture",
            query=select(
                _A.attempt_id,
                (_A.captured_minor + _A.surplus_minor).label("taken_minor"),
                func.sum(_R.amount_minor).label("refunds"),
            )
            .select_from(refunds_of_attempt)
            .where(_R.state.in_([*refunds.OPEN, RefundState.SUCCESS]), ~_R.above_cap)
            .group_by(_A.attempt_id, _A.captured_minor, _A.surplus_minor)
            .having(func.sum(_R.amount_minor) > _A.captured_minor + _A.surplus_minor),
            by=_BY_ATTEMPT,
            detail="refunds of {refunds} for a capture of {taken_minor}, in minor units",
        ),
    ]


def _mismatched() -> list[Check]:
    """Rows that say something else than what they hang on."""
    final: ColumnElement[bool] = _P.state.not_in([*UNDECIDED, PaymentState.CONFLICTED])
    of_attempt = ATTEMPT.join(PAYMENT, _P.payment_id == _A.payment_id)
    of_refund = REFUND.join(PAYMENT, _P.payment_id == _R.payment_id)
    return [
        Check(
            name="attempt_of_payment",
            query=select(_A.attempt_id, _A.payment_id)
            .select_from(of_attempt)
            .where(
                or_(
                    _A.merchant_id != _P.merchant_id,
                    _A.channel != _P.channel,
                    _A.amount_minor != _P.amount_minor,
                    _A.currency != _P.currency,
                )
            ),
            by=_BY_ATTEMPT,
            detail="its shop, channel or amount is not that of payment {payment_id}",
        ),
        Check(
            name="refund_of_payment",
            query=select(_R.refund_id, _R.payment_id)
            .select_from(of_refund)
            .where(
                or_(
                    _R.merchant_id != _P.merchant_id,
                    _R.order_id != _P.order_id,
                    _R.user_id != _P.user_id,
                )
            ),
            by=_BY_REFUND,
            detail="its shop, order or buyer is not that of payment {payment_id}",
        ),
        Check(
            name="receipt_answered",
            query=select(RECEIPT.c.resource_id, RECEIPT.c.method)
            .select_from(RECEIPT.join(PAYMENT, _P.payment_id == RECEIPT.c.resource_id))
            .where(RECEIPT.c.state == "RUNNING", final),
            by=_BY_RECEIPT,
            detail="the payment is final and its {method} receipt has no answer",
        ),
        Check(
            name="refund_receipt_answered",
            query=select(RECEIPT.c.resource_id, RECEIPT.c.method)
            .select_from(RECEIPT.join(REFUND, _R.refund_id == RECEIPT.c.resource_id))
            .where(RECEIPT.c.state == "RUNNING", _R.state.not_in(refunds.OPEN)),
            by=_BY_RECEIPT,
            detail="the refund is final and its {method} receipt has no answer",
        ),
    ]


def _orphans() -> list[Check]:
    """Rows without what they belong to, and things without the rows that made them."""
    payment_of_attempt = select(_P.payment_id).where(_P.payment_id == _A.payment_id).exists()
    payment_of_refund = select(_P.payment_id).where(_P.payment_id == _R.payment_id).exists()
    attempt_of_refund = (
        select(_A.attempt_id)
        .where(_A.attempt_id == _R.attempt_id, _A.payment_id == _R.payment_id)
        .exists()
    )
    booked = (
        select(_L.id)
        .where(
            _L.payment_id == _A.payment_id,
            _L.business_key == "attempt:" + _A.attempt_id + ":captured",
        )
        .exists()
    )
    return [
        Check(
            name="attempt_has_payment",
            query=select(_A.attempt_id, _A.state, _A.payment_id).where(~payment_of_attempt),
            by=_BY_ATTEMPT,
            detail="it is {state}, and there is no payment {payment_id}",
        ),
        Check(
            name="attempt_booked",
            query=select(_A.attempt_id, _A.payment_id).where(
                _A.captured_minor.is_not(None), ~booked
            ),
            by=_BY_ATTEMPT,
            detail="money of it was captured, and payment {payment_id} has no booking of it",
        ),
        Check(
            name="refund_has_payment",
            query=select(_R.refund_id, _R.state, _R.payment_id).where(~payment_of_refund),
            by=_BY_REFUND,
            detail="it is {state}, and there is no payment {payment_id}",
        ),
        Check(
            name="refund_has_attempt",
            query=select(_R.refund_id, _R.state, _R.attempt_id).where(~attempt_of_refund),
            by=_BY_REFUND,
            detail="it is {state}, and its payment has no attempt {attempt_id}",
        ),
    ]


def _without_rows() -> list[Check]:
    """Things without the rows that made them."""
    attempt_of_payment = select(_A.attempt_id).where(_A.payment_id == _P.payment_id).exists()
    something = or_(
        select(_P.payment_id).where(_P.payment_id == RECEIPT.c.resource_id).exists(),
        select(_R.refund_id).where(_R.refund_id == RECEIPT.c.resource_id).exists(),
    )
    ended = (
        select(_A.attempt_id).where(_A.payment_id == _P.payment_id, _A.state.in_(_ENDED)).exists()
    )
    is_money = _A.state == AttemptState.CAPTURED
    return [
        Check(
            name="payment_has_attempt",
            query=select(_P.payment_id, _P.state).where(
                _P.state != PaymentState.INIT, ~attempt_of_payment
            ),
            by=_BY_PAYMENT,
            detail="it is {state}, and there is no attempt of it",
        ),
        Check(
            name="payment_ended",
            query=select(_P.payment_id, _P.state).where(
                _P.state.in_((PaymentState.FAILED, PaymentState.CLOSED)),
                _P.captured_minor == 0,
                ~ended,
                ~select(_A.attempt_id).where(_A.payment_id == _P.payment_id, is_money).exists(),
            ),
            by=_BY_PAYMENT,
            detail="it is {state}, and no attempt of it ended",
        ),
        Check(
            name="receipt_of_something",
            query=select(RECEIPT.c.resource_id, RECEIPT.c.method).where(
                RECEIPT.c.resource_id != "", ~something
            ),
            by=_BY_RECEIPT,
            detail="a {method} receipt answers with it, and it does not exist",
        ),
    ]

"""What payment_rpc keeps of what it told others: the messages of the last hours."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import ColumnElement, and_, func, or_, select

from mesh.audit import AuditTolerance
from mesh.audit.queries import Check
from mesh.events import destination
from mesh.outbox import OUTBOX
from payment_rpc.domain.attempt import AttemptState
from payment_rpc.domain.payment import MONEY, TOP_UP, PaymentState
from payment_rpc.domain.refund import RefundState
from payment_rpc.tables import ATTEMPT, PAYMENT, REFUND
from payment_rpc.usecases.messages import ORDER_DESTINATION, PAYMENT_TOPIC

MESSAGES_KEPT = timedelta(hours=12)  # shorter than any retention of delivered messages
_P, _A, _R, _O = PAYMENT.c, ATTEMPT.c, REFUND.c, OUTBOX.c
_BY_PAYMENT = (_P.payment_id,)


def messages(tolerance: AuditTolerance) -> list[Check]:
    """What was told to others is kept for some time, delivered or not."""
    since = tolerance.now - MESSAGES_KEPT

    def told(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
        return select(_O.event_id).where(_O.aggregate_id == _P.payment_id, *conditions).exists()

    topic = _O.destination == destination(PAYMENT_TOPIC)
    done_refunds = (
        select(func.count())
        .where(
            _R.payment_id == _P.payment_id,
            _R.state == RefundState.SUCCESS,
            _R.refunded_at.is_not(None),
        )
        .scalar_subquery()
    )
    told_refunds = (
        select(func.count())
        .where(_O.aggregate_id == _P.payment_id, topic, _O.tag == "REFUND_SUCCEEDED")
        .scalar_subquery()
    )
    recent = _P.created_at > since
    money_came = (
        select(_A.attempt_id)
        .where(_A.payment_id == _P.payment_id, _A.state == AttemptState.CAPTURED)
        .exists()
    )
    return [
        Check(
            name="message_kept",
            query=select(_P.payment_id, _P.state).where(
                recent,
                or_(
                    and_(
                        _P.state.in_(MONEY),
                        _P.payment_method != TOP_UP,
                        or_(
                            ~told(_O.destination == ORDER_DESTINATION),
                            ~told(topic, _O.tag == "PAYMENT_SUCCEEDED"),
                        ),
                    ),
                    and_(_P.state.in_(MONEY), _P.payment_method == TOP_UP, ~told(topic)),
                    and_(
                        _P.state.in_((PaymentState.FAILED, PaymentState.CLOSED)),
                        ~money_came,
                        ~told(topic),
                    ),
                    told_refunds < done_refunds,
                ),
            ),
            by=_BY_PAYMENT,
            detail="it is {state}, and a message that told others so is missing",
        ),
    ]

"""Rows of refunds."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, and_, bindparam, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.bad_rows import readable_page
from mesh.call import Caller
from mesh.money import Money, stored_currency
from payment_rpc.domain.errors import RefundNotFound
from payment_rpc.domain.payment import Failure
from payment_rpc.domain.refund import Refund, RefundState
from payment_rpc.store.versioned import PolledRows, row_of
from payment_rpc.tables import REFUND

_ALL = tuple(REFUND.c)
_INSERT = insert(REFUND)
_BY_ID = select(*_ALL).where(REFUND.c.refund_id == bindparam("id"))
_OF_PAYMENT = (
    select(*_ALL).where(REFUND.c.payment_id == bindparam("payment")).order_by(REFUND.c.refund_id)
)
_BY_REQUEST = select(*_ALL).where(
    REFUND.c.merchant_id == bindparam("merchant"), REFUND.c.request_id == bindparam("request")
)
_BY_SUBJECT = select(REFUND.c.refund_id).where(REFUND.c.automatic_of == bindparam("subject"))
_COUNT = select(func.count()).where(
    REFUND.c.payment_id == bindparam("payment"), REFUND.c.automatic_of.is_(None)
)
# What never changes is not written again.
_FIXED = frozenset(
    {
        "refund_id",
        "payment_id",
        "attempt_id",
        "merchant_id",
        "order_id",
        "user_id",
        "channel",
        "amount_minor",
        "currency",
        "reason",
        "request_id",
        "automatic_of",
        "stands_alone",
        "created_at",
    }
)


async def insert_refund(tx: AsyncConnection, refund: Refund) -> None:
    """Adds a refund. Violates `uq_refund_request_id` when the merchant used the request id
    before.
    """
    await tx.execute(_INSERT, _values(refund))


async def save_refund(tx: AsyncConnection, refund: Refund, *, read_version: int) -> None:
    """Writes a refund that was read at `read_version`.

    Raises:
        StaleRow: it has changed since.
    """
    await POLLED.save(tx, _values(refund), read_version=read_version)


async def read_refund(tx: AsyncConnection, refund_id: str) -> Refund:
    """One refund of any owner. The lock of its payment covers it.

    Raises:
        RefundNotFound: there is none.
    """
    row = (await tx.execute(_BY_ID, {"id": refund_id})).first()
    if row is None:
        raise RefundNotFound
    return refund_of(row)


async def get_refund(tx: AsyncConnection, refund_id: str, *, visible_to: Caller) -> Refund:
    """One refund of the caller's.

    Raises:
        RefundNotFound: there is none, or it is not the caller's.
    """
    refund = await read_refund(tx, refund_id)
    scope = visible_to.scope()
    if scope.merchant_id not in (None, refund.merchant_id) or scope.user_id not in (
        None,
        refund.user_id,
    ):
        raise RefundNotFound
    return refund


async def find_by_request(
    tx: AsyncConnection, *, merchant_id: str, request_id: str
) -> Refund | None:
    """The refund with a request id, or None."""
    row = (await tx.execute(_BY_REQUEST, {"merchant": merchant_id, "request": request_id})).first()
    return None if row is None else refund_of(row)


async def is_going_back(tx: AsyncConnection, subject: str) -> bool:
    """True when an automatic refund of a payment or an attempt exists."""
    return (await tx.execute(_BY_SUBJECT, {"subject": subject})).first() is not None


async def count_asked_for(tx: AsyncConnection, payment_id: str) -> int:
    """How many refunds of a payment were requested, without the automatic ones."""
    return int((await tx.execute(_COUNT, {"payment": payment_id})).scalar_one())


async def refunds_of(tx: AsyncConnection, payment_id: str) -> list[Refund]:
    """The refunds of a payment, oldest first."""
    return [
        refund_of(row) for row in (await tx.execute(_OF_PAYMENT, {"payment": payment_id})).all()
    ]


async def refunds_of_payments(tx: AsyncConnection, payment_ids: Sequence[str]) -> list[Refund]:
    """The refunds of several payments."""
    query = select(*_ALL).where(REFUND.c.payment_id.in_(payment_ids)).order_by(REFUND.c.refund_id)
    return [refund_of(row) for row in (await tx.execute(query)).all()]


async def list_refunds(
    tx: AsyncConnection,
    *,
    payment_id: str,
    merchant_id: str,
    order_id: str,
    before: str | None,
    limit: int,
    visible_to: Caller,
) -> Sequence[Refund]:
    """Refunds of a payment or of an order, newest first, older than the refund id `before`; at most
    `limit`.
    """
    of_order = and_(REFUND.c.merchant_id == merchant_id, REFUND.c.order_id == order_id)
    condition = REFUND.c.payment_id == payment_id if payment_id else of_order
    scope = visible_to.scope()
    if scope.merchant_id is not None:
        condition = and_(condition, REFUND.c.merchant_id == scope.merchant_id)
    if scope.user_id is not None:
        condition = and_(condition, REFUND.c.user_id == scope.user_id)

    async def fetch(last: Any, wanted: int) -> Sequence[Any]:
        older = before if last is None else last.refund_id
        shown = condition if older is None else and_(condition, REFUND.c.refund_id < older)
        return (
            await tx.execute(
                select(*_ALL).where(shown).order_by(REFUND.c.refund_id.desc()).limit(wanted)
            )
        ).all()

    return await readable_page(
        fetch, refund_of, of="refund", key=lambda row: row.refund_id, limit=limit
    )


async def claim_due(
    tx: AsyncConnection, rows: Sequence[Row[Any]], *, now: datetime
) -> list[Refund]:
    """Schedules the next query of locked refunds and returns them."""
    due = [refund_of(row) for row in rows]
    claimed = [refund.postpone_query(at=now) for refund in due]
    for before, after in zip(due, claimed, strict=True):
        await save_refund(tx, after, read_version=before.version)
    return claimed


def refund_of(row: Row[Any]) -> Refund:
    """The row as a value. Raises any exception when it has an impossible value."""
    return Refund(
        refund_id=row.refund_id,
        payment_id=row.payment_id,
        attempt_id=row.attempt_id,
        merchant_id=row.merchant_id,
        order_id=row.order_id,
        user_id=row.user_id,
        channel=row.channel,
        amount=Money(row.amount_minor, stored_currency(row.currency)),
        state=RefundState(row.state),
        reason=row.reason,
        request_id=row.request_id or "",
        automatic_of=row.automatic_of or "",
        automatic=bool(row.automatic),
        stands_alone=bool(row.stands_alone),
        above_cap=bool(row.above_cap),
        needs_attention=bool(row.needs_attention),
        channel_refund_no=row.channel_refund_no,
        failure=None
        if row.failure_reason is None
        else Failure(reason=row.failure_reason, message=row.failure_message),
        lease_until=row.lease_until,
        next_query_at=row.next_query_at,
        queries=row.queries,
        version=row.version,
        refunded_at=row.refunded_at,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _values(refund: Refund) -> dict[str, Any]:
    amount, failure = refund.amount, refund.failure
    return row_of(
        refund,
        REFUND,
        amount_minor=amount.minor,
        currency=amount.currency,
        reason=refund.reason[:200],
        request_id=refund.request_id or None,
        automatic_of=refund.automatic_of or None,
        failure_reason=failure.reason[:64] if failure else None,
        failure_message=failure.message[:200] if failure else None,
    )


POLLED = PolledRows(REFUND, REFUND.c.refund_id, fixed=_FIXED, value_of=refund_of, values=_values)

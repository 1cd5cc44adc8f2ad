"""Our captures and refunds, as a statement is compared with them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.money import Money
from payment_rpc.domain.attempt import AttemptState
from payment_rpc.domain.ledger import FEE, Side, fee_returned_key, first_key
from payment_rpc.domain.reconciliation import OurCapture, OurRefund
from payment_rpc.domain.refund import RefundState
from payment_rpc.tables import ATTEMPT, LEDGER_POSTING, LEDGER_TRANSACTION, REFUND

_A, _R, _P, _T = ATTEMPT.c, REFUND.c, LEDGER_POSTING.c, LEDGER_TRANSACTION.c


async def captures_named(
    tx: AsyncConnection, attempt_ids: Sequence[str], *, channel: str
) -> dict[str, OurCapture]:
    """Attempts of a channel with these ids."""
    return {
        capture.attempt_id: capture
        for capture in await _captures(
            tx, (_A.channel == channel) & _A.attempt_id.in_(attempt_ids), limit=None
        )
    }


async def refunds_named(
    tx: AsyncConnection, refund_ids: Sequence[str], *, channel: str
) -> dict[str, OurRefund]:
    """Refunds of a channel with these ids."""
    return {
        refund.refund_id: refund
        for refund in await _refunds(
            tx, (_R.channel == channel) & _R.refund_id.in_(refund_ids), limit=None
        )
    }


async def captures_of_day(
    tx: AsyncConnection, *, channel: str, begins: datetime, ends: datetime, after: str, limit: int
) -> list[OurCapture]:
    """What we captured in a day of the channel, by attempt id, after one."""
    return await _captures(
        tx,
        (_A.channel == channel)
        & (_A.captured_at >= begins)
        & (_A.captured_at < ends)
        & (_A.attempt_id > after),
        limit=limit,
    )


async def refunds_of_day(
    tx: AsyncConnection, *, channel: str, begins: datetime, ends: datetime, after: str, limit: int
) -> list[OurRefund]:
    """What went back in a day of the channel, by refund id, after one."""
    return await _refunds(
        tx,
        (_R.channel == channel)
        & (_R.refunded_at >= begins)
        & (_R.refunded_at < ends)
        & (_R.refund_id > after),
        limit=limit,
    )


async def _captures(
    tx: AsyncConnection, condition: ColumnElement[bool], *, limit: int | None
) -> list[OurCapture]:
    rows = (
        await tx.execute(select(ATTEMPT).where(condition).order_by(_A.attempt_id).limit(limit))
    ).all()
    fees = await _fees_of_captures(tx, sorted({row.payment_id for row in rows}))
    return [
        OurCapture(
            attempt_id=row.attempt_id,
            payment_id=row.payment_id,
            state=AttemptState(row.state),
            trade_no=row.channel_trade_no,
            amount=Money(row.amount_minor, row.currency)
            if row.captured_minor is None
            else Money(row.captured_minor, row.captured_currency),
            fee=fees.get(
                f"attempt:{row.attempt_id}:fee", Money.zero(row.captured_currency or row.currency)
            ),
            captured_at=row.captured_at,
        )
        for row in rows
    ]


async def _refunds(
    tx: AsyncConnection, condition: ColumnElement[bool], *, limit: int | None
) -> list[OurRefund]:
    rows = (
        await tx.execute(select(REFUND).where(condition).order_by(_R.refund_id).limit(limit))
    ).all()
    fees = await _fees(tx, [fee_returned_key(row.refund_id) for row in rows])
    return [
        OurRefund(
            refund_id=row.refund_id,
            payment_id=row.payment_id,
            attempt_id=row.attempt_id,
            state=RefundState(row.state),
            amount=Money(row.amount_minor, row.currency),
            fee=fees.get(fee_returned_key(row.refund_id), Money.zero(row.currency)),
            refund_no=row.channel_refund_no,
            refunded_at=row.refunded_at,
        )
        for row in rows
    ]


async def _fees_of_captures(tx: AsyncConnection, payment_ids: Sequence[str]) -> dict[str, Money]:
    """What was kept of each capture of some payments, by the key of its first fee. A hold that was
    taken in several parts has a fee of each, under a key of its own.
    """
    query = (
        select(_P.business_key, _P.amount_minor, _P.currency)
        .select_from(LEDGER_TRANSACTION.join(LEDGER_POSTING, _P.business_key == _T.business_key))
        .where(_T.payment_id.in_(payment_ids), _T.kind == FEE, _P.side == Side.DEBIT)
    )
    fees = dict[str, Money]()
    for row in await tx.execute(query):
        key, fee = first_key(row.business_key), Money(row.amount_minor, row.currency)
        fees[key] = fees[key] + fee if key in fees else fee
    return fees


async def is_booked(tx: AsyncConnection, business_key: str) -> bool:
    """Whether the books have a transaction under this key."""
    return bool(await _fees(tx, [business_key]))


async def _fees(tx: AsyncConnection, keys: Sequence[str]) -> dict[str, Money]:
    query = select(_P.business_key, _P.amount_minor, _P.currency).where(
        _P.business_key.in_(keys), _P.side == Side.DEBIT
    )
    return {
        row.business_key: Money(row.amount_minor, row.currency) for row in await tx.execute(query)
    }

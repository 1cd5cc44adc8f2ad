"""Rows of differences between statements and our books."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.bad_rows import readable_page
from mesh.db import insert_if_absent
from mesh.money import Money, stored_currency
from payment_rpc.domain.difference import Action, Difference, DifferenceState, Finding, Kind
from payment_rpc.domain.errors import DifferenceStateInvalid, ReconciliationNotFound
from payment_rpc.store.statement_imports import StatementImport
from payment_rpc.tables import STATEMENT_DIFFERENCE

_D = STATEMENT_DIFFERENCE.c
# may turn up in another day's statement
_NOT_YET = (Kind.MISSING_CHANNEL, Kind.REFUND_MISSING_CHANNEL)


async def file(
    tx: AsyncConnection, finding: Finding, *, difference_id: str, of: StatementImport, at: datetime
) -> None:
    """Files a finding once. A line that was missing and is now found in the statement of another
    day becomes a CUTOFF_SHIFT.
    """
    stated, booked = finding.statement_amount, finding.book_amount
    amounts = {
        "statement_minor": stated.minor if stated else None,
        "statement_currency": stated.currency if stated else None,
    }
    await insert_if_absent(
        tx,
        STATEMENT_DIFFERENCE,
        {
            "difference_id": difference_id,
            "difference_key": finding.key,
            "import_id": of.import_id,
            "channel": of.channel,
            "kind": finding.kind,
            "reason": finding.reason[:700],
            "line_no": finding.line_no,
            "payment_id": finding.payment_id,
            "attempt_id": finding.attempt_id,
            "refund_id": finding.refund_id,
            "channel_trade_no": finding.channel_trade_no,
            **amounts,
            "book_minor": booked.minor if booked else None,
            "book_currency": booked.currency if booked else None,
            "state": DifferenceState.OPEN,
            "action": "",
            "actor": "",
            "resolution_reason": "",
            "created_at": at,
            "resolved_at": None,
        },
    )
    if finding.kind is Kind.CUTOFF_SHIFT:
        await tx.execute(
            update(STATEMENT_DIFFERENCE)
            .where(
                _D.difference_key == finding.key,
                _D.state == DifferenceState.OPEN,
                _D.kind.in_(_NOT_YET),
            )
            .values(kind=finding.kind, reason=finding.reason[:700], **amounts)
        )


async def get_difference(tx: AsyncConnection, difference_id: str) -> Difference:
    """One difference, or ReconciliationNotFound."""
    row = (
        await tx.execute(select(STATEMENT_DIFFERENCE).where(_D.difference_id == difference_id))
    ).first()
    if row is None:
        raise ReconciliationNotFound
    return _difference(row)


async def list_differences(
    tx: AsyncConnection, *, import_id: str, state: str, after: str, limit: int
) -> Sequence[Difference]:
    """Differences, oldest first, after a difference id; at most `limit`."""
    conditions: list[ColumnElement[bool]] = [_D.import_id == import_id] if import_id else []
    conditions += [_D.state == state] if state else []

    async def fetch(last: Any, wanted: int) -> Sequence[Any]:
        later = _D.difference_id > (after if last is None else last.difference_id)
        return (
            await tx.execute(
                select(STATEMENT_DIFFERENCE)
                .where(later, *conditions)
                .order_by(_D.difference_id)
                .limit(wanted)
            )
        ).all()

    return await readable_page(
        fetch,
        _difference,
        of="statement_difference",
        key=lambda row: row.difference_id,
        limit=limit,
    )


async def resolve(
    tx: AsyncConnection,
    difference: Difference,
    *,
    action: Action,
    actor: str,
    reason: str,
    at: datetime,
) -> Difference:
    """Resolves an open difference, once.

    Raises:
        DifferenceStateInvalid: another call was faster; the caller's transaction must not commit.
    """
    done = await tx.execute(
        update(STATEMENT_DIFFERENCE)
        .where(
            _D.difference_id == difference.difference_id,
            _D.state == DifferenceState.OPEN,
            _D.kind == difference.finding.kind,
        )
        .values(
            state=DifferenceState.RESOLVED,
            action=action,
            actor=actor[:64],
            resolution_reason=reason,
            resolved_at=at,
        )
    )
    if done.rowcount != 1:
        raise DifferenceStateInvalid("This difference has changed meanwhile.")
    return await get_difference(tx, difference.difference_id)


def _difference(row: Row[Any]) -> Difference:
    finding = Finding(
        key=row.difference_key,
        kind=Kind(row.kind),
        reason=row.reason,
        line_no=row.line_no,
        payment_id=row.payment_id,
        attempt_id=row.attempt_id,
        refund_id=row.refund_id,
        channel_trade_no=row.channel_trade_no,
        statement_amount=None
        if row.statement_minor is None
        else Money(row.statement_minor, stored_currency(row.statement_currency)),
        book_amount=None
        if row.book_minor is None
        else Money(row.book_minor, stored_currency(row.book_currency)),
    )
    return Difference(
        difference_id=row.difference_id,
        import_id=row.import_id,
        channel=row.channel,
        finding=finding,
        state=DifferenceState(row.state),
        action=row.action,
        actor=row.actor,
        resolution_reason=row.resolution_reason,
        created_at=row.created_at,
        resolved_at=row.resolved_at,
    )

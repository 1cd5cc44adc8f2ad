"""Rows of statement imports and differences, and our side of a channel's day."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.bad_rows import Quarantine, readable_page
from mesh.db import expect_one, insert_if_absent
from mesh.money import Money, stored_currency
from payment_rpc.domain.attempt import AttemptState
from payment_rpc.domain.difference import Action, Difference, DifferenceState, Finding, Kind
from payment_rpc.domain.errors import DifferenceStateInvalid, ReconciliationNotFound
from payment_rpc.domain.ledger import Side, fee_returned_key
from payment_rpc.domain.reconciliation import OurCapture, OurRefund
from payment_rpc.domain.refund import RefundState
from payment_rpc.tables import (
    ATTEMPT,
    LEDGER_POSTING,
    REFUND,
    STATEMENT_DIFFERENCE,
    STATEMENT_IMPORT,
)

_I, _D, _A, _R, _P = (
    STATEMENT_IMPORT.c,
    STATEMENT_DIFFERENCE.c,
    ATTEMPT.c,
    REFUND.c,
    LEDGER_POSTING.c,
)
_SHOWN = tuple(column for column in _I if column is not _I.content)
_COUNT = (
    select(func.count())
    .select_from(STATEMENT_DIFFERENCE)
    .where(_D.import_id == _I.import_id)
    .scalar_subquery()
    .label("difference_count")
)
# may turn up in another day's statement
_NOT_YET = (Kind.MISSING_CHANNEL, Kind.REFUND_MISSING_CHANNEL)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementImport:
    """One import of one statement. `state` is RUNNING, DONE or FAILED; `processed` counts lines."""

    import_id: str
    channel: str
    date: str
    content_hash: str
    state: str
    lines: int
    processed: int
    differences: int
    line_errors: tuple[str, ...]
    error: str
    created_at: datetime
    finished_at: datetime | None


async def add_import(tx: AsyncConnection, new: StatementImport, content: str) -> StatementImport:
    """Keeps a statement, as `packed` made it, unless the same bytes are here: then the import of
    those, as it is.
    """
    await insert_if_absent(
        tx,
        STATEMENT_IMPORT,
        {
            "import_id": new.import_id,
            "channel": new.channel,
            "statement_date": new.date,
            "content_hash": new.content_hash,
            "content": content,
            "state": new.state,
            "line_count": new.lines,
            "processed": 0,
            "line_errors": json.dumps(new.line_errors, ensure_ascii=False),
            "error": new.error[:500],
            "created_at": new.created_at,
            "finished_at": new.finished_at,
        },
    )
    row = (
        await tx.execute(
            select(*_SHOWN, _COUNT).where(
                _I.channel == new.channel,
                _I.statement_date == new.date,
                _I.content_hash == new.content_hash,
            )
        )
    ).one()
    return _import(row)


async def get_import(tx: AsyncConnection, import_id: str) -> StatementImport:
    """One import, or ReconciliationNotFound."""
    row = (await tx.execute(select(*_SHOWN, _COUNT).where(_I.import_id == import_id))).first()
    if row is None:
        raise ReconciliationNotFound
    return _import(row)


async def next_running(tx: AsyncConnection, quarantine: Quarantine) -> str | None:
    """The oldest import that is not at its end."""
    query = select(_I.import_id).where(_I.state == "RUNNING").order_by(_I.import_id).limit(1)
    import_id: str | None = (await tx.execute(quarantine.narrow(query))).scalar()
    return import_id


async def content_of(tx: AsyncConnection, import_id: str) -> str:
    """The statement as it is kept."""
    return str((await tx.execute(select(_I.content).where(_I.import_id == import_id))).scalar_one())


def packed(content: bytes) -> str:
    """A statement as it is kept: deflated, base64. Takes as long as the file is large, so not
    inside a transaction.
    """
    return base64.b64encode(zlib.compress(content)).decode()


def unpacked(kept: str) -> bytes:
    """The statement as it was fetched."""
    return zlib.decompress(base64.b64decode(kept))


async def advance(tx: AsyncConnection, running: StatementImport, *, processed: int) -> None:
    """Moves an import on from where it was read.

    Raises:
        StaleRow: another process moved it.
    """
    expect_one(
        await tx.execute(
            update(STATEMENT_IMPORT)
            .where(
                _I.import_id == running.import_id,
                _I.state == "RUNNING",
                _I.processed == running.processed,
            )
            .values(processed=processed)
        )
    )


async def finish(tx: AsyncConnection, import_id: str, *, at: datetime) -> None:
    """The import is DONE."""
    await tx.execute(
        update(STATEMENT_IMPORT)
        .where(_I.import_id == import_id, _I.state == "RUNNING")
        .values(state="DONE", finished_at=at)
    )


async def file(
    tx: AsyncConnection, finding: Finding, *, difference_id: str, of: StatementImport, at: datetime
) -> None:
    """Files a finding once. What was missing and is now found in another day's statement becomes a
    CUTOFF_SHIFT.
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
        DifferenceStateInvalid: somebody was faster; the caller's transaction must not commit.
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


async def captures_named(tx: AsyncConnection, attempt_ids: Sequence[str]) -> dict[str, OurCapture]:
    """Our attempts of these ids."""
    return {
        capture.attempt_id: capture
        for capture in await _captures(tx, _A.attempt_id.in_(attempt_ids), limit=None)
    }


async def refunds_named(tx: AsyncConnection, refund_ids: Sequence[str]) -> dict[str, OurRefund]:
    """Our refunds of these ids."""
    return {
        refund.refund_id: refund
        for refund in await _refunds(tx, _R.refund_id.in_(refund_ids), limit=None)
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
    fees = await _fees(tx, [f"attempt:{row.attempt_id}:fee" for row in rows])
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


async def _fees(tx: AsyncConnection, keys: Sequence[str]) -> dict[str, Money]:
    query = select(_P.business_key, _P.amount_minor, _P.currency).where(
        _P.business_key.in_(keys), _P.side == Side.DEBIT
    )
    return {
        row.business_key: Money(row.amount_minor, row.currency) for row in await tx.execute(query)
    }


def _import(row: Any) -> StatementImport:
    return StatementImport(
        import_id=row.import_id,
        channel=row.channel,
        date=row.statement_date,
        content_hash=row.content_hash,
        state=row.state,
        lines=row.line_count,
        processed=row.processed,
        differences=row.difference_count,
        line_errors=tuple(json.loads(row.line_errors)),
        error=row.error,
        created_at=row.created_at,
        finished_at=row.finished_at,
    )


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

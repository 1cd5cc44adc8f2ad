"""What a payment's row says about itself: that payment_rpc wrote it, and which idempotency key began it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db import Database
from mesh.proof import FOUND_MAX, Allowance, Violation
from mesh.receipts import MONEY_RETENTION, RECEIPT, ReceiptKey
from payment_rpc.store.payments import seal_of
from payment_rpc.tables import PAYMENT

PAGE = 1000
UNREADABLE = (ArithmeticError, LookupError, TypeError, ValueError)
_PURGE = timedelta(hours=1)  # a receipt may go as soon as its time is over
_RECEIPT_OF = select(
    RECEIPT.c.resource_id, RECEIPT.c.merchant_id, RECEIPT.c.caller, RECEIPT.c.method, RECEIPT.c.idempotency_key
)


async def check_seals(db: Database, allowance: Allowance) -> AsyncIterator[Violation]:
    """Every payment is as it was written, and its receipt, while it is kept, is bound to it."""
    left, after = FOUND_MAX, ""
    while left > 0:
        found, after = await db.read(_page, after, allowance.now - MONEY_RETENTION + _PURGE)
        for violation in found[:left]:
            yield violation
        left -= len(found)
        if not after:
            return


async def _page(tx: AsyncConnection, after: str, keeps_since: datetime) -> tuple[list[Violation], str]:
    ids = (
        (
            await tx.execute(
                select(PAYMENT.c.payment_id)
                .where(PAYMENT.c.payment_id > after)
                .order_by(PAYMENT.c.payment_id)
                .limit(PAGE)
            )
        )
        .scalars()
        .all()
    )
    if not ids:
        return [], ""
    try:
        rows: Sequence[Any] = (await tx.execute(select(PAYMENT).where(PAYMENT.c.payment_id.between(ids[0], ids[-1])))).mappings().all()
    except UNREADABLE:
        rows = [row for payment_id in ids for row in await _readable(tx, payment_id)]  # `row_readable` names the others
    return [*_broken_seals(rows), *await _lost_receipts(tx, rows, keeps_since)], ids[-1]


async def _readable(tx: AsyncConnection, payment_id: str) -> Sequence[Any]:
    try:
        return (await tx.execute(select(PAYMENT).where(PAYMENT.c.payment_id == payment_id))).mappings().all()
    except UNREADABLE:
        return []


def _broken_seals(rows: Sequence[Any]) -> list[Violation]:
    """A seal of another version is of a process of the version before, which wrote none."""
    return [
        Violation(
            check="payment_sealed",
            subject=row["payment_id"],
            detail=f"it is {row['state']}, and something in its row is not what payment_rpc wrote",
        )
        for row in rows
        if row["seal"] and row["seal"].partition(":")[0] == str(row["version"]) and row["seal"] != seal_of(row)
    ]


async def _lost_receipts(tx: AsyncConnection, rows: Sequence[Any], keeps_since: datetime) -> list[Violation]:
    keyed = [row for row in rows if row["receipt_digest"] and row["created_at"] > keeps_since]
    if not keyed:
        return []
    digests = defaultdict(set)
    for found in await tx.execute(_RECEIPT_OF.where(RECEIPT.c.resource_id.in_([row["payment_id"] for row in keyed]))):
        key = ReceiptKey(
            merchant_id=found.merchant_id, caller=found.caller, method=found.method, key=found.idempotency_key
        )
        digests[found.resource_id].add(key.digest)
    return [
        Violation(
            check="receipt_kept",
            subject=row["payment_id"],
            detail="the receipt of the idempotency key that began it does not lead to it: the key would work once more",
        )
        for row in keyed
        if row["receipt_digest"] not in digests[row["payment_id"]]
    ]

"""What a payment's row says about itself: that payment_rpc wrote it, and which idempotency key began it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import ColumnElement
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db import Database
from mesh.db.packed import Values, packed_rows
from mesh.db.ranges import key_ranges
from mesh.log_chain import plain
from mesh.progress import looked_at
from mesh.proof import FOUND_MAX, Allowance, Violation
from mesh.receipts import MONEY_RETENTION, RECEIPT, ReceiptKey
from payment_rpc.store.payments import SEALED, seal_over
from payment_rpc.tables import PAYMENT

PAGE = 2000
_PURGE = timedelta(hours=1)  # a receipt may go as soon as its time is over
_P = PAYMENT.c
_OF_ROW = (_P.payment_id, _P.state, _P.version, _P.created_at, _P.receipt_digest, _P.seal)
_OF_RECEIPT = (
    RECEIPT.c.resource_id, RECEIPT.c.merchant_id, RECEIPT.c.caller, RECEIPT.c.method, RECEIPT.c.idempotency_key
)


class _Row(NamedTuple):
    payment_id: str
    state: str
    version: int
    created_at: int
    receipt_digest: str | None
    seal: str | None
    said: Values


async def check_seals(db: Database, allowance: Allowance) -> AsyncIterator[Violation]:
    """Every payment is as it was written, and its receipt, while it is kept, is bound to it."""
    left = FOUND_MAX
    async for within in key_ranges(db, (PAYMENT.c.payment_id,), size=PAGE):
        found = await db.read(_look, within, allowance.now - MONEY_RETENTION + _PURGE)
        for violation in found[:left]:
            yield violation
        looked_at("seals of payments", PAGE)
        left -= len(found)
        if left <= 0:
            return


async def _look(tx: AsyncConnection, within: ColumnElement[bool], keeps_since: datetime) -> list[Violation]:
    rows = [_Row._make([*row[: len(_OF_ROW)], row[len(_OF_ROW) :]]) for row in await packed_rows(tx, PAYMENT, (*_OF_ROW, *SEALED), within)]
    keyed = [row for row in rows if row.receipt_digest and row.created_at > plain(keeps_since)]
    return [*_broken_seals(rows), *(await _lost_receipts(tx, keyed) if keyed else [])]


def _broken_seals(rows: Sequence[_Row]) -> list[Violation]:
    """A seal of another version is of a process of the version before, which wrote none."""
    return [
        Violation(
            check="payment_sealed",
            subject=row.payment_id,
            detail=f"it is {row.state}, and something in its row is not what payment_rpc wrote",
        )
        for row in rows
        if row.seal and row.seal.partition(":")[0] == str(row.version) and row.seal != seal_over(row.version, row.said)
    ]


async def _lost_receipts(tx: AsyncConnection, rows: Sequence[_Row]) -> list[Violation]:
    digests = defaultdict(set)
    of_payments = RECEIPT.c.resource_id.in_([row.payment_id for row in rows])
    for resource_id, merchant_id, caller, method, key in await packed_rows(tx, RECEIPT, _OF_RECEIPT, of_payments):
        digests[resource_id].add(ReceiptKey(merchant_id=merchant_id, caller=caller, method=method, key=key).digest)
    return [
        Violation(
            check="receipt_kept",
            subject=row.payment_id,
            detail="the receipt of the idempotency key that began it does not lead to it: the key would work once more",
        )
        for row in rows
        if row.receipt_digest not in digests[row.payment_id]
    ]

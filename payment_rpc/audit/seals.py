"""What a payment's row says about itself: that payment_rpc wrote it, and which idempotency key
began it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, func
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.audit import FOUND_MAX, AuditTolerance, Violation
from mesh.db import Database
from mesh.db.hashing import json_hash
from mesh.db.packed import Values, packed_rows
from mesh.db.ranges import key_ranges
from mesh.idempotency import MONEY_RETENTION, RECEIPT, IdempotencyKey
from mesh.progress import looked_at
from payment_rpc.store.payments import SEALED, seal_over
from payment_rpc.tables import PAYMENT

PAGE = 2000
_PURGE = timedelta(hours=1)  # an idempotency record may go as soon as its time is over
_P = PAYMENT.c
_OF_SEAL = (_P.payment_id, _P.state, _P.version, _P.seal)
_SEAL = func.concat(_P.version, ":", json_hash(SEALED))
_OF_RECEIPT = (
    RECEIPT.c.resource_id,
    RECEIPT.c.merchant_id,
    RECEIPT.c.caller,
    RECEIPT.c.method,
    RECEIPT.c.idempotency_key,
)


async def check_seals(db: Database, tolerance: AuditTolerance) -> AsyncIterator[Violation]:
    """Every payment is as it was written, and its idempotency record, while it is kept, is bound to
    it.
    """
    left = FOUND_MAX
    async for within in key_ranges(db, (PAYMENT.c.payment_id,), size=PAGE):
        found = await db.read(_look, within, tolerance.now - MONEY_RETENTION + _PURGE)
        for violation in found[:left]:
            yield violation
        looked_at("seals of payments", PAGE)
        left -= len(found)
        if left <= 0:
            return


async def _look(
    tx: AsyncConnection, within: ColumnElement[bool], keeps_since: datetime
) -> list[Violation]:
    doubtful = _P.seal.is_not(None) if tx.dialect.name == "sqlite" else _P.seal != _SEAL
    sealed = await packed_rows(tx, PAYMENT, (*_OF_SEAL, *SEALED), within, doubtful)
    keyed = await packed_rows(
        tx,
        PAYMENT,
        (_P.payment_id, _P.receipt_digest),
        within,
        _P.created_at > keeps_since,
        _P.receipt_digest.is_not(None),
    )
    return [*_broken_seals(sealed), *(await _lost_receipts(tx, dict(keyed)) if keyed else [])]


def _broken_seals(rows: Sequence[Values]) -> list[Violation]:
    """A seal of another version is of a process of the version before, which wrote none."""
    return [
        Violation(
            check="payment_sealed",
            subject=payment_id,
            detail=f"it is {state}, and something in its row is not what payment_rpc wrote",
        )
        for payment_id, state, version, seal, *said in rows
        if seal.partition(":")[0] == str(version) and seal != seal_over(version, said)
    ]


async def _lost_receipts(tx: AsyncConnection, wanted: Mapping[str, str]) -> list[Violation]:
    digests = defaultdict(set)
    of_payments = RECEIPT.c.resource_id.in_(wanted)
    for resource_id, merchant_id, caller, method, key in await packed_rows(
        tx, RECEIPT, _OF_RECEIPT, of_payments
    ):
        digests[resource_id].add(
            IdempotencyKey(merchant_id=merchant_id, caller=caller, method=method, key=key).digest
        )
    return [
        Violation(
            check="receipt_kept",
            subject=payment_id,
            detail="the receipt of the idempotency key that began it does not lead to it: the key "
            "would work once more",
        )
        for payment_id, digest in wanted.items()
        if digest not in digests[payment_id]
    ]

"""Idempotency keys: the first call with a key does the work, every later one gets its answer.

A receipt is claimed in the transaction that writes the business row and bound to that row; it is RUNNING until the row has a final answer, and DONE
with that answer for ever after (PROTOCOLS 2). Two first calls at once collide on the key `pk_receipt`: the loser's transaction runs again and finds
the winner's receipt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Column, ColumnElement, Index, String, Table, Text, and_, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db import Identifier, UtcMillis, metadata_with_names
from mesh.errors import IdempotencyKeyReused

MONEY_RETENTION = timedelta(days=7)     # longer than any client's retries, shorter than any dispute; business uniqueness holds for ever
OTHER_RETENTION = timedelta(hours=24)
PURGE_BATCH = 500

RECEIPT = Table(
    "receipt", metadata_with_names(),
    Column("merchant_id", Identifier(32), primary_key=True),
    Column("caller", Identifier(80), primary_key=True),
    Column("method", Identifier(64), primary_key=True),
    Column("idempotency_key", Identifier(255), primary_key=True),
    Column("state", String(8), nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("resource_id", Identifier(32), nullable=False),
    Column("answer", Text, nullable=True),
    Column("created_at", UtcMillis, nullable=False),
    Column("expires_at", UtcMillis, nullable=False),
    Index("ix_receipt_resource_id", "resource_id"),
    Index("ix_receipt_expires_at", "expires_at"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptKey:
    """Who used which key on which method. The caller is part of it: two buyers with one key never meet."""

    merchant_id: str
    caller: str
    method: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """An earlier call with the same key and the same meaning. `answer` is its first final answer, None while there is none."""

    resource_id: str
    answer: str | None


async def find(tx: AsyncConnection, key: ReceiptKey, *, fingerprint: Mapping[str, str]) -> Receipt | None:
    """The receipt of an earlier call, or None when this is the first. A receipt counts until it is purged.

    Raises:
        IdempotencyKeyReused: the key was used with another request; names the differing fields.
    """
    columns = (RECEIPT.c.resource_id, RECEIPT.c.answer, RECEIPT.c.fingerprint)
    row = (await tx.execute(select(*columns).where(_is(key)))).first()
    if row is None:
        return None
    first: dict[str, str] = json.loads(row.fingerprint)
    differing = sorted(name for name in first.keys() | fingerprint.keys() if first.get(name) != fingerprint.get(name))
    if differing:
        raise IdempotencyKeyReused(fields=dict.fromkeys(differing, "differs from the first request with this idempotency key"))
    return Receipt(resource_id=row.resource_id, answer=row.answer)


async def claim(tx: AsyncConnection, key: ReceiptKey, *, fingerprint: Mapping[str, str], resource_id: str, now: datetime,
                retention: timedelta = MONEY_RETENTION, answer: str | None = None) -> None:
    """Writes the receipt of a first call, bound to the row that this transaction creates; DONE at once when there is an answer."""
    values = {
        "state": "RUNNING" if answer is None else "DONE", "fingerprint": json.dumps(dict(fingerprint), sort_keys=True),
        "resource_id": resource_id, "answer": answer, "created_at": now, "expires_at": now + retention,
    }
    await tx.execute(insert(RECEIPT).values(merchant_id=key.merchant_id, caller=key.caller, method=key.method, idempotency_key=key.key, **values))


async def finish(tx: AsyncConnection, *, resource_id: str, answer: str) -> None:
    """Writes the first final answer into every RUNNING receipt of a row. A DONE receipt keeps its answer."""
    await tx.execute(update(RECEIPT).where(RECEIPT.c.resource_id == resource_id, RECEIPT.c.state == "RUNNING").values(state="DONE", answer=answer))


async def purge(tx: AsyncConnection, *, now: datetime) -> int:
    """Deletes up to PURGE_BATCH receipts whose time is over; returns how many. RUNNING ones stay: their row has no final answer yet."""
    over = (await tx.execute(select(RECEIPT).where(RECEIPT.c.expires_at <= now, RECEIPT.c.state == "DONE").order_by(RECEIPT.c.expires_at)
                             .limit(PURGE_BATCH))).all()
    for row in over:
        await tx.execute(delete(RECEIPT).where(_is(ReceiptKey(merchant_id=row.merchant_id, caller=row.caller, method=row.method,
                                                              key=row.idempotency_key))))
    return len(over)


def _is(key: ReceiptKey) -> ColumnElement[bool]:
    return and_(RECEIPT.c.merchant_id == key.merchant_id, RECEIPT.c.caller == key.caller, RECEIPT.c.method == key.method,
                RECEIPT.c.idempotency_key == key.key)

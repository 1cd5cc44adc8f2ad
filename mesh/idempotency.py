"""Implements idempotency keys: the first call with a key does the work, every later one gets its
answer.

An idempotency record is claimed in the transaction that writes the business row and bound to that
row. It is RUNNING until the row has a final answer, and DONE with that answer from then on
(docs/protocols.md 2). Two concurrent first calls collide on the key `pk_receipt`: the loser's
transaction runs again and finds the winner's idempotency record.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from sqlalchemy import (
    CheckConstraint,
    Column,
    Index,
    String,
    Table,
    Text,
    and_,
    bindparam,
    delete,
    insert,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db import Identifier, UtcMillis, metadata_with_names
from mesh.errors import IdempotencyKeyReused, RequestCanceled

# longer than any client's retries, shorter than any dispute; business uniqueness has no time limit
MONEY_RETENTION = timedelta(days=7)
OTHER_RETENTION = timedelta(hours=24)
PURGE_BATCH = 500

RECEIPT = Table(
    "receipt",
    metadata_with_names(),
    Column("merchant_id", Identifier(32), primary_key=True),
    Column("caller", Identifier(128), primary_key=True),
    Column("method", Identifier(64), primary_key=True),
    Column("idempotency_key", Identifier(255), primary_key=True),
    Column("state", String(8), nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("resource_id", Identifier(32), nullable=False),
    Column("answer", Text, nullable=True),
    Column("created_at", UtcMillis, nullable=False),
    Column("expires_at", UtcMillis, nullable=False),
    CheckConstraint("state IN ('RUNNING', 'DONE')", name="state"),
    Index("ix_receipt_resource_id", "resource_id"),
    Index("ix_receipt_expires_at", "expires_at"),
)

# Statements of the request path are built once: building one costs as much as sending it.
_IS = and_(
    RECEIPT.c.merchant_id == bindparam("merchant_id"),
    RECEIPT.c.caller == bindparam("caller"),
    RECEIPT.c.method == bindparam("method"),
    RECEIPT.c.idempotency_key == bindparam("key"),
)
_FIND = select(RECEIPT.c.resource_id, RECEIPT.c.answer, RECEIPT.c.fingerprint).where(_IS)
_INSERT = insert(RECEIPT)
_FINISH = (
    update(RECEIPT)
    .where(RECEIPT.c.resource_id == bindparam("resource"), RECEIPT.c.state == "RUNNING")
    .values(state="DONE", answer=bindparam("first_answer"))
)
_FINISH_OF_METHOD = _FINISH.where(RECEIPT.c.method == bindparam("of_method"))
_DELETE = delete(RECEIPT).where(_IS)
_RELEASE = delete(RECEIPT).where(
    RECEIPT.c.resource_id == bindparam("resource"),
    RECEIPT.c.method == bindparam("of_method"),
    RECEIPT.c.state == "RUNNING",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotencyKey:
    """A key with its caller and method. `caller` is `Caller.key`: equal keys of two people never
    collide, and one person with two roles is one caller.
    """

    merchant_id: str
    caller: str
    method: str
    key: str

    @property
    def digest(self) -> str:
        """SHA-256 over all fields, in hex. A row stores it to identify the call that created the
        row.
        """
        return hashlib.sha256(
            f"{self.merchant_id}\n{self.caller}\n{self.method}\n{self.key}".encode()
        ).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotencyRecord:
    """An earlier call with the same key and the same meaning. `answer` is its first final answer,
    None while there is none.
    """

    resource_id: str
    answer: str | None


async def find(
    tx: AsyncConnection, key: IdempotencyKey, *, fingerprint: Mapping[str, str]
) -> IdempotencyRecord | None:
    """The idempotency record of an earlier call, or None when this is the first. It is valid until
    it is purged.

    Raises:
        IdempotencyKeyReused: the key was used with another request; names the differing fields.
        RequestCanceled: the call was cancelled before it arrived.
    """
    row = (await tx.execute(_FIND, asdict(key))).first()
    if row is None:
        return None
    if not row.resource_id:
        raise RequestCanceled
    first: dict[str, str] = json.loads(row.fingerprint)
    differing = sorted(
        name
        for name in first.keys() | fingerprint.keys()
        if first.get(name) != fingerprint.get(name)
    )
    if differing:
        raise IdempotencyKeyReused(
            fields=dict.fromkeys(
                differing, "differs from the first request with this idempotency key"
            )
        )
    return IdempotencyRecord(resource_id=row.resource_id, answer=row.answer)


async def claim(
    tx: AsyncConnection,
    key: IdempotencyKey,
    *,
    fingerprint: Mapping[str, str],
    resource_id: str,
    now: datetime,
    retention: timedelta = MONEY_RETENTION,
    answer: str | None = None,
) -> None:
    """Writes the idempotency record of a first call, bound to the row that this transaction
    creates; DONE at once when there is an answer.
    """
    await tx.execute(
        _INSERT,
        {
            "merchant_id": key.merchant_id,
            "caller": key.caller,
            "method": key.method,
            "idempotency_key": key.key,
            "state": "RUNNING" if answer is None else "DONE",
            "fingerprint": json.dumps(dict(fingerprint), sort_keys=True),
            "resource_id": resource_id,
            "answer": answer,
            "created_at": now,
            "expires_at": now + retention,
        },
    )


async def find_or_tombstone(
    tx: AsyncConnection, key: IdempotencyKey, *, now: datetime
) -> str | None:
    """The resource of an earlier call with this key, or None. Without an earlier call it writes a
    tombstone, which refuses every later call.
    """
    row = (await tx.execute(_FIND, asdict(key))).first()
    if row is not None:
        return row.resource_id or None
    await tx.execute(
        _INSERT,
        {
            "merchant_id": key.merchant_id,
            "caller": key.caller,
            "method": key.method,
            "idempotency_key": key.key,
            "state": "DONE",
            "fingerprint": "{}",
            "resource_id": "",
            "answer": None,
            "created_at": now,
            "expires_at": now + MONEY_RETENTION,
        },
    )
    return None


async def finish(tx: AsyncConnection, *, resource_id: str, answer: str, method: str = "") -> None:
    """Writes the first final answer into every RUNNING idempotency record of a row, or into those
    of one method. A DONE idempotency record keeps its answer.
    """
    values = {"resource": resource_id, "first_answer": answer}
    if method:
        await tx.execute(_FINISH_OF_METHOD, {**values, "of_method": method})
    else:
        await tx.execute(_FINISH, values)


async def release(tx: AsyncConnection, *, resource_id: str, method: str) -> None:
    """Forgets the RUNNING idempotency records of a row and a method: what they began provably did
    nothing, so the same key begins anew.
    """
    await tx.execute(_RELEASE, {"resource": resource_id, "of_method": method})


async def rewrite_answers(
    tx: AsyncConnection,
    *,
    merchant_id: str,
    method: str,
    resource_id: str,
    change: Callable[[str], str],
) -> None:
    """Changes the first answers that are kept for a row, because they say of a person what was
    erased.
    """
    known = (
        await tx.execute(
            select(RECEIPT).where(
                RECEIPT.c.resource_id == resource_id,
                RECEIPT.c.merchant_id == merchant_id,
                RECEIPT.c.method == method,
                RECEIPT.c.answer.is_not(None),
            )
        )
    ).all()
    for row in known:
        await tx.execute(
            update(RECEIPT)
            .where(
                RECEIPT.c.merchant_id == merchant_id,
                RECEIPT.c.caller == row.caller,
                RECEIPT.c.method == method,
                RECEIPT.c.idempotency_key == row.idempotency_key,
            )
            .values(answer=change(row.answer))
        )


async def purge(tx: AsyncConnection, *, now: datetime) -> int:
    """Deletes up to PURGE_BATCH expired idempotency records; returns how many. RUNNING ones stay:
    their row has no final answer yet.
    """
    over = (
        await tx.execute(
            select(RECEIPT)
            .where(RECEIPT.c.expires_at <= now, RECEIPT.c.state == "DONE")
            .order_by(RECEIPT.c.expires_at)
            .limit(PURGE_BATCH)
        )
    ).all()
    for row in over:
        key = IdempotencyKey(
            merchant_id=row.merchant_id,
            caller=row.caller,
            method=row.method,
            key=row.idempotency_key,
        )
        await tx.execute(_DELETE, asdict(key))
    return len(over)

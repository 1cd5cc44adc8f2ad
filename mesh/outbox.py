"""Stores messages to other services as rows, written in the transaction of the change. A relay
(`relay`) sends each one until it is acknowledged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    CheckConstraint,
    Column,
    Index,
    Integer,
    Row,
    String,
    Table,
    Text,
    delete,
    insert,
    select,
    update,
)
from sqlalchemy.dialects.mysql import MEDIUMTEXT
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db import BigInt, Identifier, UtcMillis, metadata_with_names

PURGE_BATCH = 500

OUTBOX = Table(
    "outbox",
    metadata_with_names(),
    Column("id", BigInt, primary_key=True, autoincrement=True),
    Column("event_id", Identifier(40), nullable=False, unique=True),
    Column("destination", Identifier(64), nullable=False),
    Column("tag", Identifier(64), nullable=False),
    Column("aggregate_id", Identifier(40), nullable=False),
    Column("payload", Text().with_variant(MEDIUMTEXT, "mysql", "mariadb"), nullable=False),
    Column("trace_id", Identifier(32), nullable=False),
    Column("state", String(8), nullable=False),
    Column("due_at", UtcMillis, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("last_error", String(200), nullable=False),
    Column("created_at", UtcMillis, nullable=False),
    CheckConstraint("state IN ('NEW', 'DONE', 'DEAD')", name="state"),
    # The claim reads it in order: without `id` at the end MySQL sorts, and a sort locks every row
    # that it reads.
    Index("ix_outbox_claim", "destination", "state", "due_at", "id"),
    Index("ix_outbox_aggregate_id", "aggregate_id"),
    Index("ix_outbox_state", "state", "id"),  # lists for operators and the purge
)

STATES = ("NEW", "DONE", "DEAD")
_INSERT = insert(OUTBOX)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message to deliver. `payload` is JSON."""

    event_id: str
    destination: str
    tag: str
    aggregate_id: str
    payload: Mapping[str, Any]
    trace_id: str
    due_at: datetime
    created_at: datetime
    attempts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageRow:
    """A message as shown to an operator, without its payload."""

    event_id: str
    destination: str
    tag: str
    aggregate_id: str
    state: str
    due_at: datetime
    attempts: int
    last_error: str


async def put(tx: AsyncConnection, *messages: Message) -> None:
    """Writes messages in the transaction of the change that they report."""
    await tx.execute(
        _INSERT,
        [
            {
                "event_id": message.event_id,
                "destination": message.destination,
                "tag": message.tag,
                "aggregate_id": message.aggregate_id,
                "payload": json.dumps(message.payload, separators=(",", ":"), ensure_ascii=False),
                "trace_id": message.trace_id,
                "state": "NEW",
                "due_at": message.due_at,
                "attempts": 0,
                "last_error": "",
                "created_at": message.created_at,
            }
            for message in messages
        ],
    )


async def list_messages(
    tx: AsyncConnection, *, states: Sequence[str], limit: int
) -> list[MessageRow]:
    """Messages in some states, oldest first."""
    row = OUTBOX.c
    found: list[Row[Any]] = []
    for state in states:  # one by one in index order: a joint query would sort all rows
        found += (
            await tx.execute(select(OUTBOX).where(row.state == state).order_by(row.id).limit(limit))
        ).all()
    found.sort(key=lambda each: int(each.id))
    return [
        MessageRow(
            event_id=each.event_id,
            destination=each.destination,
            tag=each.tag,
            aggregate_id=each.aggregate_id,
            state=each.state,
            due_at=each.due_at,
            attempts=each.attempts,
            last_error=each.last_error,
        )
        for each in found[:limit]
    ]


async def replay(tx: AsyncConnection, *, event_id: str, now: datetime) -> bool:
    """Makes a message due now, in whatever state it is; False when it does not exist (any more).
    Receivers are idempotent by its id.
    """
    done = await tx.execute(
        update(OUTBOX)
        .where(OUTBOX.c.event_id == event_id)
        .values(state="NEW", due_at=now, attempts=0)
    )
    return done.rowcount == 1


async def purge(tx: AsyncConnection, *, before: datetime) -> int:
    """Deletes up to PURGE_BATCH delivered messages that were written before a moment; returns how
    many. Undelivered messages stay.
    """
    # By id, in index order: a condition on the time would read every message that is too new.
    oldest = (
        select(OUTBOX.c.id, OUTBOX.c.created_at)
        .where(OUTBOX.c.state == "DONE")
        .order_by(OUTBOX.c.id)
        .limit(PURGE_BATCH)
    )
    over = [row.id for row in (await tx.execute(oldest)).all() if row.created_at < before]
    if over:
        await tx.execute(delete(OUTBOX).where(OUTBOX.c.id.in_(over), OUTBOX.c.state == "DONE"))
    return len(over)

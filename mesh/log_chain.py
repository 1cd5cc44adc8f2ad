"""Chains log rows by hashes as evidence. Each row's hash covers the hash of the previous row of the
same entity, and a head row per entity stores the last one.

There is one chain per entity (an order, a payment, a product, a wallet), because a shared head
would serialise all writers; a writer has locked its entity anyway. So a row that was changed,
removed, added or emptied outside the services is found. That includes the last row, because the
head stores the count. The hashes have no key: they reveal manual changes, not forgery by a program
that recomputes them.

Rows older than the chain, and rows written by a process of the previous version, are not in it
(`chain_seq` is NULL).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    RowMapping,
    Table,
    bindparam,
    delete,
    insert,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db import BigInt, Identifier, metadata_with_names
from mesh.db.keys import one_of_keys
from mesh.times import milliseconds

Row = Mapping[str, Any] | RowMapping
_encode = json.JSONEncoder(separators=(",", ":")).encode

LOG_CHAIN = Table(
    "log_chain",
    metadata_with_names(),
    Column("log", Identifier(32), primary_key=True),
    Column("entity", Identifier(160), primary_key=True),
    Column("length", BigInteger, nullable=False),
    # part of the length: rows that were purged by age
    Column("purged", BigInteger, nullable=False),
    Column("hash", Identifier(64), nullable=False),
    CheckConstraint("purged >= 0 AND purged <= length", name="purged"),
)
_H = LOG_CHAIN.c
_HEADS = select(_H.entity, _H.length, _H.hash).where(
    _H.log == bindparam("of_log"), _H.entity.in_(bindparam("entities", expanding=True))
)
_LOCK_HEADS = _HEADS.with_for_update()
_BEGIN = insert(LOG_CHAIN)
_EXTEND = (
    update(LOG_CHAIN)
    .where(_H.log == bindparam("of_log"), _H.entity == bindparam("of_entity"))
    .values(length=bindparam("new_length"), hash=bindparam("new_hash"))
)
_PURGED = (
    update(LOG_CHAIN)
    .where(
        _H.log == bindparam("of_log"),
        _H.entity == bindparam("of_entity"),
        _H.purged < bindparam("up_to"),
    )
    .values(purged=bindparam("up_to"))
)


def chain_columns() -> tuple[Column[Any], Column[Any]]:
    """The columns of a chained log: the position in its entity's chain, from 1, and the hash."""
    return Column("chain_seq", BigInt, nullable=True), Column(
        "chain_hash", Identifier(64), nullable=True
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """A chained log. `entity` names the columns that identify the entity; the first one's value
    contains no `/`. `said` are the columns that the hash covers: all that never change. `key` is a
    unique column that orders deletions and pages.
    """

    table: Table
    key: str
    entity: tuple[str, ...]
    said: tuple[str, ...]

    @property
    def name(self) -> str:
        """As in `log_chain.log`."""
        return self.table.name

    def entity_of(self, row: Row) -> str:
        """The entity of a row, which identifies its chain."""
        return "/".join(str(row[column]) for column in self.entity)

    def names_of(self, entity: str) -> tuple[str, ...]:
        """The values of the columns that identify an entity."""
        return tuple(entity.split("/", len(self.entity) - 1))


async def chained(
    tx: AsyncConnection, log: Log, rows: Sequence[Row], *, begins: bool = False
) -> list[dict[str, Any]]:
    """Appends rows to their chains: moves the heads and returns the rows with position and hash.
    The caller inserts them in this transaction.

    Args:
        begins: each row is the first of its entity, which this transaction creates, so no head is
            read.
    """
    names = sorted({log.entity_of(row) for row in rows})
    heads: dict[str, tuple[int, str]] = {}
    if not begins:
        heads = {
            head.entity: (head.length, head.hash)
            for head in await tx.execute(_LOCK_HEADS, {"of_log": log.name, "entities": names})
        }
    known = set(heads)
    placed = []
    for row in rows:
        entity = log.entity_of(row)
        length, before = heads.get(entity, (0, ""))
        heads[entity] = (length + 1, entry_hash(log, row, seq=length + 1, before=before))
        placed.append({**row, "chain_seq": length + 1, "chain_hash": heads[entity][1]})
    new = [
        {
            "log": log.name,
            "entity": entity,
            "length": heads[entity][0],
            "purged": 0,
            "hash": heads[entity][1],
        }
        for entity in names
        if entity not in known
    ]
    moved = [
        {
            "of_log": log.name,
            "of_entity": entity,
            "new_length": heads[entity][0],
            "new_hash": heads[entity][1],
        }
        for entity in names
        if entity in known
    ]
    if new:
        await tx.execute(_BEGIN, new)
    if moved:
        await tx.execute(_EXTEND, moved)
    return placed


def entry_hash(log: Log, row: Row, *, seq: int, before: str) -> str:
    """SHA-256, in hex, over the previous hash, the position and the covered columns of a row."""
    return hash_of(
        log,
        log.entity_of(row),
        seq=seq,
        before=before,
        said=[plain(row[column]) for column in log.said],
    )


def hash_of(log: Log, entity: str, *, seq: int, before: str, said: Sequence[Any]) -> str:
    """The hash of a row from the plain values of its covered columns."""
    return hashlib.sha256(_encode([before, log.name, entity, seq, *said]).encode()).hexdigest()


def first(log: Log, row: Row) -> dict[str, Any]:
    """Makes a row the first of its chain, for a statement that inserts it if absent. Call `begin`
    when it was inserted.
    """
    return {**row, "chain_seq": 1, "chain_hash": entry_hash(log, row, seq=1, before="")}


async def begin(tx: AsyncConnection, log: Log, row: Row) -> None:
    """Writes the head of a chain whose only row was made by `first`."""
    await tx.execute(
        _BEGIN,
        {
            "log": log.name,
            "entity": log.entity_of(row),
            "length": 1,
            "purged": 0,
            "hash": row["chain_hash"],
        },
    )


async def purge(tx: AsyncConnection, log: Log, keys: Sequence[Any]) -> None:
    """Deletes rows by their keys, with all earlier rows of their chains. A chain without rows loses
    its head.
    """
    columns = log.table.c
    key, of_entity = columns[log.key], [columns[name] for name in log.entity]
    up_to: dict[str, int] = {}
    for row in (
        await tx.execute(
            select(*of_entity, columns.chain_seq).where(
                key.in_(keys), columns.chain_seq.is_not(None)
            )
        )
    ).mappings():
        up_to[log.entity_of(row)] = max(up_to.get(log.entity_of(row), 0), row["chain_seq"])
    doomed = list(keys)
    if up_to:
        heads = (
            await tx.execute(_LOCK_HEADS, {"of_log": log.name, "entities": sorted(up_to)})
        ).all()
        ended = {head.entity for head in heads if up_to[head.entity] >= head.length}
        named = one_of_keys(of_entity, [log.names_of(entity) for entity in up_to])
        older = await tx.execute(
            select(*of_entity, key.label("doomed"), columns.chain_seq).where(
                named, columns.chain_seq.is_not(None)
            )
        )
        doomed += [
            row["doomed"]
            for row in older.mappings()
            if row["chain_seq"] <= up_to[log.entity_of(row)]
        ]
        if ended:
            await tx.execute(delete(LOG_CHAIN).where(_H.log == log.name, _H.entity.in_(ended)))
        if kept := [entity for entity in up_to if entity not in ended]:
            await tx.execute(
                _PURGED,
                [
                    {"of_log": log.name, "of_entity": entity, "up_to": up_to[entity]}
                    for entity in kept
                ],
            )
    await tx.execute(delete(log.table).where(key.in_(doomed)))


def plain(value: Any) -> Any:
    """A value in the form that is the same before and after storage: enums are text, times are
    milliseconds, booleans are numbers.
    """
    if isinstance(value, datetime):
        return milliseconds(value)
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, str):
        return str.__str__(value)
    return value

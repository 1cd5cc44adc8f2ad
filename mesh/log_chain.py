"""Logs that are evidence: each row continues the row before it of the same entity by a hash, and a head per entity remembers the last one.

A chain belongs to an entity (an order, a payment, a product, a wallet), because a head that everybody shares would make all writers wait for each
other; whoever writes a row holds the entity anyway. So a row that was changed, removed, added or emptied behind our back is found, the last one too:
the head says how many there must be. The hashes have no key: they find what somebody did by hand, not what a program forged with them.

Rows of before the chain have no place in it (`chain_seq` is NULL), and so have rows of a process of the version before.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ColumnElement,
    RowMapping,
    Table,
    bindparam,
    delete,
    func,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db import BigInt, Database, Identifier, metadata_with_names
from mesh.db.keys import after_key, among_keys, one_of_keys

PAGE = 2000
LOOKS_MAX = 5  # at a chain that grows while it is read
LOOK_PAUSE_SECONDS = 0.05
Row = Mapping[str, Any] | RowMapping
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)

LOG_CHAIN = Table(
    "log_chain",
    metadata_with_names(),
    Column("log", Identifier(32), primary_key=True),
    Column("entity", Identifier(160), primary_key=True),
    Column("length", BigInteger, nullable=False),
    Column("purged", BigInteger, nullable=False),  # of the length: rows that were deleted by their age
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
    .where(_H.log == bindparam("of_log"), _H.entity == bindparam("of_entity"), _H.purged < bindparam("up_to"))
    .values(purged=bindparam("up_to"))
)


def chain_columns() -> tuple[Column[Any], Column[Any]]:
    """The columns that a chained log has: the place in the chain of its entity, from 1, and the hash."""
    return Column("chain_seq", BigInt, nullable=True), Column("chain_hash", Identifier(64), nullable=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """A chained log. `entity` names the columns whose values name the entity, the first of which has no `/` in it; `said` are the columns that the
    hash covers: all that never change. `key` is a unique column, for the order of deletions and pages."""

    table: Table
    key: str
    entity: tuple[str, ...]
    said: tuple[str, ...]

    @property
    def name(self) -> str:
        """As in `log_chain.log`."""
        return self.table.name

    def entity_of(self, row: Row) -> str:
        """Which chain a row is in."""
        return "/".join(str(row[column]) for column in self.entity)


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """One place where a chain does not hold."""

    log: str
    entity: str
    detail: str


async def chained(tx: AsyncConnection, log: Log, rows: Sequence[Row], *, begins: bool = False) -> list[dict[str, Any]]:
    """The rows with their places at the ends of their chains, whose heads are moved there; the caller inserts them in this transaction.

    Args:
        begins: each row is the first of its entity, which this transaction creates: no head has to be read.
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
        {"log": log.name, "entity": entity, "length": heads[entity][0], "purged": 0, "hash": heads[entity][1]}
        for entity in names
        if entity not in known
    ]
    moved = [
        {"of_log": log.name, "of_entity": entity, "new_length": heads[entity][0], "new_hash": heads[entity][1]}
        for entity in names
        if entity in known
    ]
    if new:
        await tx.execute(_BEGIN, new)
    if moved:
        await tx.execute(_EXTEND, moved)
    return placed


def entry_hash(log: Log, row: Row, *, seq: int, before: str) -> str:
    """SHA-256 over the hash before it, its place and everything that a row says; hex."""
    said = [before, log.name, log.entity_of(row), seq, *(plain(row[column]) for column in log.said)]
    return hashlib.sha256(json.dumps(said, separators=(",", ":")).encode()).hexdigest()


def first(log: Log, row: Row) -> dict[str, Any]:
    """A row as the first of its chain, for a statement that may find it there; `begin` follows when it was not."""
    return {**row, "chain_seq": 1, "chain_hash": entry_hash(log, row, seq=1, before="")}


async def begin(tx: AsyncConnection, log: Log, row: Row) -> None:
    """Writes the head of a chain that has this one row, which `first` made."""
    await tx.execute(
        _BEGIN, {"log": log.name, "entity": log.entity_of(row), "length": 1, "purged": 0, "hash": row["chain_hash"]}
    )


async def purge(tx: AsyncConnection, log: Log, keys: Sequence[Any]) -> None:
    """Deletes rows by their keys, and what came before them in their chains, which begin later from now on; a chain without rows ends."""
    columns = log.table.c
    key, of_entity = columns[log.key], [columns[name] for name in log.entity]
    up_to: dict[str, int] = {}
    for row in (
        await tx.execute(select(*of_entity, columns.chain_seq).where(key.in_(keys), columns.chain_seq.is_not(None)))
    ).mappings():
        up_to[log.entity_of(row)] = max(up_to.get(log.entity_of(row), 0), row["chain_seq"])
    doomed = list(keys)
    if up_to:
        heads = (await tx.execute(_LOCK_HEADS, {"of_log": log.name, "entities": sorted(up_to)})).all()
        ended = {head.entity for head in heads if up_to[head.entity] >= head.length}
        named = one_of_keys(of_entity, [_names(log, entity) for entity in up_to])
        older = await tx.execute(
            select(*of_entity, key.label("doomed"), columns.chain_seq).where(named, columns.chain_seq.is_not(None))
        )
        doomed += [row["doomed"] for row in older.mappings() if row["chain_seq"] <= up_to[log.entity_of(row)]]
        if ended:
            await tx.execute(delete(LOG_CHAIN).where(_H.log == log.name, _H.entity.in_(ended)))
        if kept := [entity for entity in up_to if entity not in ended]:
            await tx.execute(
                _PURGED, [{"of_log": log.name, "of_entity": entity, "up_to": up_to[entity]} for entity in kept]
            )
    await tx.execute(delete(log.table).where(key.in_(doomed)))


async def broken_chains(db: Database, log: Log) -> AsyncIterator[Broken]:
    """Everything that does not hold of a log, while it grows."""
    after: tuple[str, str] = (log.name, "")
    while heads := await db.read(_heads_page, log, after):
        suspects = await db.read(_verify, log, heads, among_keys)
        for look in range(LOOKS_MAX):
            if not suspects:
                break
            if look:
                await asyncio.sleep(LOOK_PAUSE_SECONDS)
            entities = [found.entity for found in suspects]
            suspects = await db.read(_verify, log, await db.read(_heads_of, log, entities), one_of_keys)
        for found in suspects:
            yield found
        after = (log.name, heads[-1].entity)
    last: Any = None
    while True:
        found_here, last = await db.read(_headless, log, last)
        for found in found_here:
            yield found
        if last is None:
            return


async def _heads_page(tx: AsyncConnection, log: Log, after: tuple[str, str]) -> Sequence[Any]:
    query = (
        select(LOG_CHAIN)
        .where(_H.log == log.name, after_key((_H.log, _H.entity), after))
        .order_by(_H.log, _H.entity)
        .limit(PAGE)
    )
    return (await tx.execute(query)).all()


async def _heads_of(tx: AsyncConnection, log: Log, entities: Sequence[str]) -> Sequence[Any]:
    return (await tx.execute(select(LOG_CHAIN).where(_H.log == log.name, _H.entity.in_(entities)))).all()


async def _verify(
    tx: AsyncConnection, log: Log, heads: Sequence[Any], of: Callable[..., ColumnElement[bool]]
) -> list[Broken]:
    """The first fault of each chain. A chain that grew since its head was read is right up to there."""
    columns = log.table.c
    named = [_names(log, head.entity) for head in heads]
    wanted = sorted({*log.entity, *log.said, "chain_seq", "chain_hash"})
    query = select(*(columns[name] for name in wanted)).where(
        of([columns[name] for name in log.entity], named), columns.chain_seq.is_not(None)
    )
    rows: dict[str, list[Row]] = defaultdict(list)
    for row in (await tx.execute(query)).mappings():
        rows[log.entity_of(row)].append(row)
    found = []
    for head in heads:
        fault = _fault(log, head, sorted(rows[head.entity], key=lambda row: row["chain_seq"]))
        if fault:
            found.append(Broken(log=log.name, entity=head.entity, detail=fault))
    return found


def _fault(log: Log, head: Any, rows: Sequence[Row]) -> str:
    expected, before = head.purged + 1, None if head.purged else ""
    for row in rows:
        seq = row["chain_seq"]
        if seq <= head.purged or seq > head.length:  # left by a purge; came since the head was read
            continue
        if seq != expected:
            return (
                f"entry {expected} of {head.length} is missing" if seq > expected else f"entry {seq} stands there twice"
            )
        if before is not None and row["chain_hash"] != entry_hash(log, row, seq=seq, before=before):
            return f"entry {seq} of {head.length} does not say what it said when it was written"
        before, expected = row["chain_hash"], seq + 1
    if expected != head.length + 1:
        return f"entry {expected} of {head.length} is missing"
    if before is not None and before != head.hash:
        return f"entry {head.length} is not the one that was written"
    return ""


async def _headless(tx: AsyncConnection, log: Log, after: Any) -> tuple[list[Broken], Any]:
    """A page of rows by key: those whose chain has no head."""
    columns = log.table.c
    key = columns[log.key]
    bounds = [] if after is None else [key > after]
    upper = (await tx.execute(select(key).where(*bounds).order_by(key).limit(1).offset(PAGE - 1))).scalar()
    if upper is not None:
        bounds.append(key <= upper)
    entity: Any = columns[log.entity[0]]
    for name in log.entity[1:]:
        entity = entity.concat(literal("/")).concat(columns[name])
    head = select(_H.length).where(_H.log == log.name, _H.entity == entity, _H.length >= columns.chain_seq)
    rows = await tx.execute(
        select(*(columns[name] for name in log.entity), func.count().label("entries"))
        .where(*bounds, columns.chain_seq.is_not(None), ~head.exists())
        .group_by(*(columns[name] for name in log.entity))
    )
    return [
        Broken(
            log=log.name, entity=log.entity_of(row), detail=f"{row['entries']} entries lie beyond the end of its chain"
        )
        for row in rows.mappings()
    ], upper


def _names(log: Log, entity: str) -> tuple[str, ...]:
    """The values of the columns that name an entity."""
    return tuple(entity.split("/", len(log.entity) - 1))


def plain(value: Any) -> Any:
    """A value as it is before and after it was a column: enums are text, times are milliseconds, truths are numbers."""
    if isinstance(value, datetime):
        return (value - _EPOCH) // _MILLISECOND
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, str):
        return str.__str__(value)
    return value

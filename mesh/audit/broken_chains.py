"""Verifies chained logs while they grow: every row is there, unchanged, and none was added (see
`log_chain`).
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Integer, String, and_, func, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db import Database
from mesh.db.hashing import json_hash
from mesh.db.keys import among_keys, one_of_keys
from mesh.db.packed import Values, packed_rows
from mesh.db.ranges import end_of_range, key_ranges, range_of
from mesh.log_chain import LOG_CHAIN, Log, hash_of
from mesh.progress import looked_at

PAGE = 2000  # heads
ROWS_MAX = 2000  # entries in memory at once
RANGE = 10_000  # entries per statement when the database compares
SHORT = 30  # longest chain that the database compares: it joins each entry with the whole chain
LOOKS_MAX = 5  # attempts at a chain that grows while it is read
LOOK_PAUSE_SECONDS = 0.05
_H = LOG_CHAIN.c
_DIGITS = 20  # of a position in a chain, so that the largest text is the last position


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """A position where a chain is broken."""

    log: str
    entity: str
    detail: str


class _Head(NamedTuple):
    entity: str
    length: int
    purged: int
    hash: str


async def broken_chains(db: Database, log: Log) -> AsyncIterator[Broken]:
    """All broken chains of a log, found while it grows."""
    after: tuple[str, str] = (log.name, "")
    while heads := await db.read(_heads_page, log, after):
        for some in _handfuls(heads):
            async for found in _broken(db, log, some):
                yield found
        looked_at(f"chains of {log.name}", len(heads))
        after = (log.name, heads[-1].entity)
    async for within in key_ranges(db, (log.table.c[log.key],), size=RANGE):
        for found in await db.read(_headless, log, within):
            yield found
        looked_at(f"entries of {log.name}", RANGE)


async def _broken(db: Database, log: Log, heads: Sequence[_Head]) -> AsyncIterator[Broken]:
    """The broken chains of adjacent heads. A broken chain is checked again, because it may have
    grown meanwhile.
    """
    doubtful = await db.read(_doubtful, log, heads)
    suspects = await db.read(_verify, log, doubtful) if doubtful else []
    for look in range(LOOKS_MAX):
        if not suspects:
            return
        if look:
            await asyncio.sleep(LOOK_PAUSE_SECONDS)
        entities = [found.entity for found in suspects]
        suspects = await db.read(_verify, log, await db.read(_heads_of, log, entities))
    for found in suspects:
        yield found


async def _heads_page(tx: AsyncConnection, log: Log, after: tuple[str, str]) -> list[_Head]:
    upto = await end_of_range(tx, (_H.log, _H.entity), PAGE, after)
    within = range_of((_H.log, _H.entity), after, upto)
    return await _read_heads(tx, log, within)


async def _heads_of(tx: AsyncConnection, log: Log, entities: Sequence[str]) -> list[_Head]:
    return await _read_heads(tx, log, _H.entity.in_(entities))


async def _read_heads(tx: AsyncConnection, log: Log, within: ColumnElement[bool]) -> list[_Head]:
    rows = await packed_rows(
        tx, LOG_CHAIN, (_H.entity, _H.length, _H.purged, _H.hash), _H.log == log.name, within
    )
    return sorted(map(_Head._make, rows))


def _handfuls(heads: Sequence[_Head]) -> Iterator[list[_Head]]:
    """Groups of adjacent heads whose chains have up to ROWS_MAX entries together; a longer chain is
    its own group.
    """
    some: list[_Head] = []
    entries = 0
    for head in heads:
        own = head.length - head.purged
        if some and entries + own > ROWS_MAX:
            yield some
            some, entries = [], 0
        some.append(head)
        entries += own
    yield some


async def _doubtful(tx: AsyncConnection, log: Log, heads: Sequence[_Head]) -> Sequence[_Head]:
    """The adjacent heads whose chains the database cannot verify itself. It verifies short chains
    by hashing each entry with the one before it.
    """
    if tx.dialect.name == "sqlite" or any(head.length > SHORT for head in heads):
        return heads
    entry, earlier = log.table.c, log.table.alias()
    entity = [entry[name] for name in log.entity]
    before = and_(
        *(earlier.c[name] == entry[name] for name in log.entity),
        earlier.c.chain_seq == entry.chain_seq - 1,
    )
    name, of = literal(log.name, String()), func.concat_ws("/", *entity, type_=String())
    said = (func.coalesce(earlier.c.chain_hash, ""), name, of, entry.chain_seq)
    its_hash = json_hash([*said, *(entry[column] for column in log.said)])
    last = func.substr(
        func.max(func.concat(func.lpad(entry.chain_seq, _DIGITS, "0"), entry.chain_hash)),
        _DIGITS + 1,
    )
    hashed = func.sum(entry.chain_hash == its_hash, type_=Integer)
    said_of = {
        "entries": func.count(),
        "longest": func.max(entry.chain_seq),
        "hashed": hashed,
        "last": last,
    }
    chains = (
        select(*entity, *(value.label(name) for name, value in said_of.items()))
        .select_from(log.table.outerjoin(earlier, before))
        .where(
            among_keys(entity, [log.names_of(head.entity) for head in heads]),
            entry.chain_seq.is_not(None),
        )
        .group_by(*entity)
        .subquery()
    )
    right = {
        ("/".join(map(str, names)), longest, last_hash)
        for *names, entries, longest, as_written, last_hash in await packed_rows(
            tx, chains, tuple(chains.c)
        )
        if entries == longest == as_written
    }
    return [
        head for head in heads if head.purged or (head.entity, head.length, head.hash) not in right
    ]


async def _verify(tx: AsyncConnection, log: Log, heads: Sequence[_Head]) -> list[Broken]:
    """The first fault of each chain. A chain that grew since its head was read is checked up to
    that head.
    """
    columns = log.table.c
    named = one_of_keys(
        [columns[name] for name in log.entity], [log.names_of(head.entity) for head in heads]
    )
    wanted = [columns[name] for name in (*log.entity, "chain_seq", "chain_hash", *log.said)]
    chains = {head.entity: _Chain(log, head) for head in heads}
    first, last = min(head.purged for head in heads) + 1, max(head.length for head in heads)
    while first <= last:
        within = columns.chain_seq.between(first, first + ROWS_MAX - 1)
        entries: dict[str, list[Values]] = defaultdict(list)
        for row in await packed_rows(tx, log.table, wanted, named, within):
            entries["/".join(map(str, row[: len(log.entity)]))].append(row[len(log.entity) :])
        for entity, chain in chains.items():
            chain.follow(entries[entity])
        first += ROWS_MAX
    faults = ((entity, chain.fault()) for entity, chain in chains.items())
    return [
        Broken(log=log.name, entity=entity, detail=detail) for entity, detail in faults if detail
    ]


class _Chain:
    """Follows one chain from its first entry to its head."""

    def __init__(self, log: Log, head: _Head) -> None:
        self._log = log
        self._head = head
        self._expected = head.purged + 1
        self._before: str | None = None if head.purged else ""
        self._fault = ""

    def follow(self, entries: list[Values]) -> None:
        """Takes the next entries, in any order: position, hash, covered values."""
        head = self._head
        for seq, its_hash, *said in sorted(entries, key=lambda entry: int(entry[0])):
            # left by a purge; added since the head was read
            if self._fault or seq <= head.purged or seq > head.length:
                continue
            if seq > self._expected:
                self._fault = f"entry {self._expected} of {head.length} is missing"
            elif seq < self._expected:
                self._fault = f"entry {seq} stands there twice"
            elif self._before is not None and its_hash != hash_of(
                self._log, head.entity, seq=seq, before=self._before, said=said
            ):
                self._fault = (
                    f"entry {seq} of {head.length} does not say what it said when it was written"
                )
            self._before, self._expected = its_hash, seq + 1

    def fault(self) -> str:
        """The fault of the chain; "" when it is intact."""
        if not self._fault and self._expected != self._head.length + 1:
            return f"entry {self._expected} of {self._head.length} is missing"
        if not self._fault and self._before not in (None, self._head.hash):
            return f"entry {self._head.length} is not the one that was written"
        return self._fault


async def _headless(tx: AsyncConnection, log: Log, within: ColumnElement[bool]) -> list[Broken]:
    """Rows of a range whose chain has no head, or a head that ends before them."""
    columns = log.table.c
    entity: Any = columns[log.entity[0]]
    for name in log.entity[1:]:
        entity = entity.concat(literal("/")).concat(columns[name])
    head = select(_H.length).where(
        _H.log == log.name, _H.entity == entity, _H.length >= columns.chain_seq
    )
    rows = await tx.execute(
        select(*(columns[name] for name in log.entity), func.count().label("entries"))
        .where(within, columns.chain_seq.is_not(None), ~head.exists())
        .group_by(*(columns[name] for name in log.entity))
    )
    return [
        Broken(
            log=log.name,
            entity=log.entity_of(row),
            detail=f"{row['entries']} entries lie beyond the end of its chain",
        )
        for row in rows.mappings()
    ]

"""Whether chained logs say what was written, all of it and nothing else, while they grow (see `log_chain`)."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, func, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db import Database
from mesh.db.keys import after_key, among_keys, one_of_keys
from mesh.db.packed import Values, packed_rows
from mesh.db.ranges import key_ranges
from mesh.log_chain import LOG_CHAIN, Log, hash_of
from mesh.progress import looked_at

PAGE = 2000  # heads
ROWS_MAX = 2000  # entries in memory at once
RANGE = 10_000  # entries per statement of those that the database compares
LOOKS_MAX = 5  # at a chain that grows while it is read
LOOK_PAUSE_SECONDS = 0.05
_H = LOG_CHAIN.c


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """One place where a chain does not hold."""

    log: str
    entity: str
    detail: str


async def broken_chains(db: Database, log: Log) -> AsyncIterator[Broken]:
    """Everything that does not hold of a log, while it grows."""
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


async def _broken(db: Database, log: Log, heads: Sequence[Any]) -> AsyncIterator[Broken]:
    """Of neighbouring heads. What does not hold is looked at again, for it may have grown meanwhile."""
    suspects = await db.read(_verify, log, heads, among_keys)
    for look in range(LOOKS_MAX):
        if not suspects:
            return
        if look:
            await asyncio.sleep(LOOK_PAUSE_SECONDS)
        entities = [found.entity for found in suspects]
        suspects = await db.read(_verify, log, await db.read(_heads_of, log, entities), one_of_keys)
    for found in suspects:
        yield found


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


def _handfuls(heads: Sequence[Any]) -> Iterator[list[Any]]:
    """Neighbours whose chains have ROWS_MAX entries together; a chain that is longer is alone."""
    some: list[Any] = []
    entries = 0
    for head in heads:
        own = head.length - head.purged
        if some and entries + own > ROWS_MAX:
            yield some
            some, entries = [], 0
        some.append(head)
        entries += own
    yield some


async def _verify(
    tx: AsyncConnection, log: Log, heads: Sequence[Any], of: Callable[..., ColumnElement[bool]]
) -> list[Broken]:
    """The first fault of each chain. A chain that grew since its head was read is right up to there."""
    columns = log.table.c
    named = of([columns[name] for name in log.entity], [log.names_of(head.entity) for head in heads])
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
    return [Broken(log=log.name, entity=entity, detail=detail) for entity, detail in faults if detail]


class _Chain:
    """Follows one chain from its first entry to its head."""

    def __init__(self, log: Log, head: Any) -> None:
        self._log = log
        self._head = head
        self._expected = head.purged + 1
        self._before: str | None = None if head.purged else ""
        self._fault = ""

    def follow(self, entries: list[Values]) -> None:
        """Takes the next entries, in any order: place, hash, what they say."""
        head = self._head
        for seq, its_hash, *said in sorted(entries, key=lambda entry: int(entry[0])):
            if self._fault or seq <= head.purged or seq > head.length:  # left by a purge; came since the head was read
                continue
            if seq > self._expected:
                self._fault = f"entry {self._expected} of {head.length} is missing"
            elif seq < self._expected:
                self._fault = f"entry {seq} stands there twice"
            elif self._before is not None and its_hash != hash_of(self._log, head.entity, seq=seq, before=self._before, said=said):
                self._fault = f"entry {seq} of {head.length} does not say what it said when it was written"
            self._before, self._expected = its_hash, seq + 1

    def fault(self) -> str:
        """What does not hold of it; "" when all of it does."""
        if not self._fault and self._expected != self._head.length + 1:
            return f"entry {self._expected} of {self._head.length} is missing"
        if not self._fault and self._before not in (None, self._head.hash):
            return f"entry {self._head.length} is not the one that was written"
        return self._fault


async def _headless(tx: AsyncConnection, log: Log, within: ColumnElement[bool]) -> list[Broken]:
    """Rows of a range whose chain has no head, or ends before them."""
    columns = log.table.c
    entity: Any = columns[log.entity[0]]
    for name in log.entity[1:]:
        entity = entity.concat(literal("/")).concat(columns[name])
    head = select(_H.length).where(_H.log == log.name, _H.entity == entity, _H.length >= columns.chain_seq)
    rows = await tx.execute(
        select(*(columns[name] for name in log.entity), func.count().label("entries"))
        .where(within, columns.chain_seq.is_not(None), ~head.exists())
        .group_by(*(columns[name] for name in log.entity))
    )
    return [
        Broken(
            log=log.name, entity=log.entity_of(row), detail=f"{row['entries']} entries lie beyond the end of its chain"
        )
        for row in rows.mappings()
    ]

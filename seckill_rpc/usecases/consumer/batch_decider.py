"""What becomes of entries of the line: one transaction that writes their orders, what order_rpc has
to be told, and what is sold. Redis may have been wrong in either direction; the unique keys and the
guard of the activity decide (docs/protocols.md 5).

READ COMMITTED. Orders are written in the order of their buyers, the row of the activity last, so
that it is locked for the shortest time and two batches never wait for each other in a circle; what
the database still breaks runs again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh import outbox
from mesh.clock import Clock
from mesh.db import Database, StaleRow
from mesh.failpoints import failpoint
from mesh.ids import Ids
from mesh.outbox import Message
from seckill_rpc.domain.activity import Activity, ActivityState
from seckill_rpc.domain.order import UnitOrder, UnitState, Verdict
from seckill_rpc.redis.admission_queue import Entry, FinishedEntry
from seckill_rpc.store import activities, batches, dead_entries, orders
from seckill_rpc.store.batches import Batch, NewOrder
from seckill_rpc.usecases.outbox_to_order import create_orders_message

_by_user = attrgetter("user_id")


@dataclass(slots=True, kw_only=True)
class BatchOutcome:
    """What a transaction said.

    Attributes:
        epoch: of the activity when it was decided.
        is_closed: the activity is CLOSED; nobody is admitted again.
        finished: entries whose orders have rows now.
        older: entries of an older epoch without a row: to be admitted again, or refused.
    """

    epoch: int
    is_closed: bool
    finished: list[FinishedEntry]
    older: list[Entry]


@dataclass(slots=True)
class _Decisions:
    """Verdicts by order id, while they are being found."""

    verdicts: dict[str, tuple[Verdict, str, str]] = field(default_factory=dict)

    def as_row(self, order: UnitOrder) -> None:
        """What an earlier delivery, or somebody with the ticket, decided."""
        self.verdicts[order.order_id] = (_verdict(order.state), "", "")

    def about(self, entries: Sequence[Entry]) -> list[FinishedEntry]:
        """One per entry that was decided: two entries of one order get the same."""
        said = self.verdicts
        return [
            FinishedEntry(
                entry=entry,
                verdict=verdict,
                other_order_id=other_order_id,
                other_request_id=other_request_id,
            )
            for entry in entries
            if entry.order_id in said
            for verdict, other_order_id, other_request_id in (said[entry.order_id],)
        ]


class BatchDecider:
    """Decides about batches of one line or another."""

    def __init__(self, *, db: Database, clock: Clock, ids: Ids) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids

    async def decide(self, activity_id: str, entries: Sequence[Entry]) -> BatchOutcome:
        """Decides about at most ROWS_MAX entries. What was decided before stays as it is.

        Raises:
            ActivityNotFound: there is no such activity. Unavailable, Conflict: nothing was done.
                OutcomeUnknown: the same entries, decided again,
            find out. Anything that `batches.is_data_error` knows: nothing was done, and one entry
                is the cause.
        """
        return await self._db.run(self._decide, activity_id, entries, self._batch_id())

    async def refuse(
        self, activity_id: str, entries: Sequence[Entry], *, epoch: int
    ) -> list[FinishedEntry]:
        """Writes refusals of entries that nobody has decided about; those that somebody has keep
        their answer.
        """
        return await self._db.run(self._refuse, activity_id, entries, epoch, self._batch_id())

    async def give_up(
        self, activity_id: str, entry: Entry, *, reason: str, deliveries: int, refuse: bool
    ) -> FinishedEntry:
        """Keeps a poisonous entry for people and refuses its order, in one transaction. `refuse`
        False: the database does not even take that row.
        """
        batch = Batch(activity_id, self._batch_id(), entry.epoch, self._clock.now())
        return await self._db.run(
            self._give_up, entry, batch, reason=reason, deliveries=deliveries, refuse=refuse
        )

    def _batch_id(self) -> int:
        """63 bits that nobody else has: rows with it were written by this very transaction."""
        return (
            int.from_bytes(hashlib.sha256(self._ids.new("BATCH").encode()).digest()[:8], "big") >> 1
        )

    async def _decide(
        self, tx: AsyncConnection, activity_id: str, entries: Sequence[Entry], batch_id: int
    ) -> BatchOutcome:
        activity = await activities.get(tx, activity_id=activity_id)
        is_closed = activity.state is ActivityState.CLOSED
        said = _Decisions()
        # A copy in the present epoch speaks for the entry that it was made of. Entries of a newer
        # epoch than the row's (a database that was brought back from a copy) wait until a rebuild
        # has overtaken them.
        current = (
            {}
            if is_closed
            else {entry.order_id: entry for entry in entries if entry.epoch == activity.epoch}
        )
        older = {
            entry.order_id: entry
            for entry in entries
            if (is_closed or entry.epoch < activity.epoch) and entry.order_id not in current
        }
        if older:
            for order in (await orders.find_orders(tx, list(older))).values():
                said.as_row(order)
        if current:
            batch = Batch(activity_id, batch_id, activity.epoch, self._clock.now())
            await self._sell(tx, activity, current, batch, said)
        return BatchOutcome(
            epoch=activity.epoch,
            is_closed=is_closed,
            finished=said.about(entries),
            older=[entry for entry in older.values() if entry.order_id not in said.verdicts],
        )

    async def _sell(
        self,
        tx: AsyncConnection,
        activity: Activity,
        current: Mapping[str, Entry],
        batch: Batch,
        said: _Decisions,
    ) -> None:
        new = await self._write(tx, activity, current, batch, said)
        failpoint("seckill.consume.after_insert")
        if new:
            message = self._message(new, batch)
            await outbox.put(tx, message)
            if not await activities.sell(
                tx, activity_id=batch.activity_id, epoch=batch.epoch, units=len(new)
            ):
                new = await self._sell_what_is_left(tx, new, message, batch, said)
            for entry in new:
                said.verdicts[entry.order_id] = (Verdict.LIVE, "", "")
        failpoint("seckill.consume.after_update")

    async def _write(
        self,
        tx: AsyncConnection,
        activity: Activity,
        current: Mapping[str, Entry],
        batch: Batch,
        said: _Decisions,
    ) -> list[Entry]:
        """Writes orders and returns those that are new and LIVE, in the order of the line. At first
        as if Redis were right: everybody's first order of the batch has slot 1, the second has slot
        2."""
        taken: dict[str, int] = {}
        hopeful: list[NewOrder] = []
        for entry in sorted(current.values(), key=_by_user):
            slot = taken[entry.user_id] = taken.get(entry.user_id, 0) + 1
            if slot <= activity.limit_per_user:
                hopeful.append(NewOrder(entry.order_id, entry.user_id, entry.request_id, slot))
        if await batches.insert_orders(tx, hopeful, batch) and len(hopeful) == len(current):
            return list(current.values())
        found = await orders.find_orders(tx, list(current))
        new, rest = [], []
        for entry in current.values():
            order = found.get(entry.order_id)
            if order is None:
                rest.append(entry)
            elif order.batch_id == batch.batch_id:
                new.append(entry)
            else:
                said.as_row(order)
        await self._point_at_live_orders(tx, batch.activity_id, current, said)
        if rest:
            new += await self._write_rest(tx, activity, rest, batch, said)
        there = {entry.order_id for entry in new}
        return [entry for order_id, entry in current.items() if order_id in there]

    @staticmethod
    async def _point_at_live_orders(
        tx: AsyncConnection, activity_id: str, current: Mapping[str, Entry], said: _Decisions
    ) -> None:
        """A refusal of an earlier delivery may have been that of a duplicate, whose finish never
        came: Redis may still not know the order that its buyer holds. To name one that it knows
        changes nothing."""
        refused = [
            entry
            for order_id, entry in current.items()
            if said.verdicts.get(order_id, ("",))[0] is Verdict.REFUSED
        ]
        if not refused:
            return
        held = await orders.lock_live_orders(
            tx, activity_id=activity_id, user_ids=sorted({entry.user_id for entry in refused})
        )
        for entry in refused:
            if other := next(iter(held.get(entry.user_id, ())), None):
                said.verdicts[entry.order_id] = (
                    Verdict.DUPLICATE,
                    other.order_id,
                    other.request_id,
                )

    async def _write_rest(
        self,
        tx: AsyncConnection,
        activity: Activity,
        rest: Sequence[Entry],
        batch: Batch,
        said: _Decisions,
    ) -> list[Entry]:
        """Entries whose slot or request somebody has: the smallest free slot, or the answer that
        their buyer holds an order already. Returns those that became LIVE."""
        held = await orders.lock_live_orders(
            tx, activity_id=batch.activity_id, user_ids=sorted({entry.user_id for entry in rest})
        )
        live: list[NewOrder] = []
        refused: list[NewOrder] = []
        added: list[Entry] = []
        mine = {
            user_id: [
                NewOrder(order.order_id, user_id, order.request_id, order.slot) for order in found
            ]
            for user_id, found in held.items()
        }
        for entry in rest:
            others = mine.setdefault(entry.user_id, [])
            slots = {other.slot for other in others}
            slot = next(
                (slot for slot in range(1, activity.limit_per_user + 1) if slot not in slots), None
            )
            same = next((other for other in others if other.request_id == entry.request_id), None)
            order = NewOrder(entry.order_id, entry.user_id, entry.request_id, slot)
            if same is None and slot is not None:
                live.append(order)
                others.append(order)
                added.append(entry)
            else:
                other = same or others[0]
                refused.append(order)
                said.verdicts[entry.order_id] = (
                    Verdict.DUPLICATE,
                    other.order_id,
                    other.request_id,
                )
        if live and not await batches.insert_orders(tx, live, batch):
            raise StaleRow  # somebody wrote them since we looked
        if refused:
            for row in (await batches.insert_refused(tx, refused, batch)).values():
                if row.state is not UnitState.REFUSED:
                    raise StaleRow
        return added

    async def _sell_what_is_left(
        self,
        tx: AsyncConnection,
        new: Sequence[Entry],
        message: Message,
        batch: Batch,
        said: _Decisions,
    ) -> list[Entry]:
        """The guard said no. In an epoch that is over nothing is sold: again from the start. Else
        Redis had units that never were: who came last gets none. Returns the others."""
        activity = await activities.lock(tx, activity_id=batch.activity_id)
        if activity.epoch != batch.epoch:
            raise StaleRow
        left = max(activity.left, 0)
        kept, phantoms = list(new[:left]), {entry.order_id for entry in new[left:]}
        await batches.turn_into_refusals(tx, sorted(phantoms))
        said.verdicts |= dict.fromkeys(phantoms, (Verdict.PHANTOM, "", ""))
        for order_id, (_, other_order_id, _) in list(said.verdicts.items()):
            if other_order_id in phantoms:  # what it would be a duplicate of is not held after all
                said.verdicts[order_id] = (Verdict.PHANTOM, "", "")
        await batches.withdraw(tx, message.event_id)
        if kept:
            await outbox.put(tx, replace(message, payload=self._message(kept, batch).payload))
            if not await activities.sell(
                tx, activity_id=batch.activity_id, epoch=batch.epoch, units=len(kept)
            ):
                raise StaleRow
        return kept

    def _message(self, new: Sequence[Entry], batch: Batch) -> Message:
        return create_orders_message(
            batch.activity_id,
            [(entry.order_id, entry.user_id) for entry in new],
            ids=self._ids,
            at=batch.at,
        )

    async def _refuse(
        self,
        tx: AsyncConnection,
        activity_id: str,
        entries: Sequence[Entry],
        epoch: int,
        batch_id: int,
    ) -> list[FinishedEntry]:
        batch = Batch(activity_id, batch_id, epoch, self._clock.now())
        by_order = {entry.order_id: entry for entry in entries}
        said = _Decisions()
        for order in (
            await batches.insert_refused(
                tx, [_refusal(entry) for entry in sorted(by_order.values(), key=_by_user)], batch
            )
        ).values():
            said.as_row(order)
        return said.about(entries)

    @staticmethod
    async def _give_up(
        tx: AsyncConnection,
        entry: Entry,
        batch: Batch,
        *,
        reason: str,
        deliveries: int,
        refuse: bool,
    ) -> FinishedEntry:
        verdict = Verdict.REFUSED
        if refuse:
            written = await batches.insert_refused(tx, [_refusal(entry)], batch)
            verdict = _verdict(written[entry.order_id].state)
        fields = {
            "order_id": entry.order_id,
            "user_id": entry.user_id,
            "request_id": entry.request_id,
            "epoch": str(entry.epoch),
        }
        await dead_entries.insert_dead(
            tx,
            activity_id=batch.activity_id,
            entry_id=entry.entry_id,
            order_id=entry.order_id,
            fields=fields,
            reason=reason,
            deliveries=deliveries,
            at=batch.at,
        )
        return FinishedEntry(entry=entry, verdict=verdict)


def _refusal(entry: Entry) -> NewOrder:
    return NewOrder(entry.order_id, entry.user_id, entry.request_id, None)


def _verdict(state: UnitState) -> Verdict:
    return Verdict.LIVE if state is UnitState.LIVE else Verdict.REFUSED

"""Decides about queue entries: one transaction writes their orders, the message for order_rpc, and
what is sold. Redis may have been wrong in either direction; the unique keys and the guard of the
activity decide (docs/protocols.md 5).

READ COMMITTED. Orders are written sorted by buyer and the row of the activity last, so that it is
locked for the shortest time and two batches never deadlock by order. A transaction that the
database aborts anyway runs again.
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
    """What a transaction decided.

    Attributes:
        epoch: of the activity at that moment.
        is_closed: the activity is CLOSED; no entry is admitted again.
        finished: entries whose orders have rows now.
        older: entries of an older epoch without a row: to be admitted again, or refused.
    """

    epoch: int
    is_closed: bool
    finished: list[FinishedEntry]
    older: list[Entry]


@dataclass(slots=True)
class _Decisions:
    """Verdicts by order id, while they are being made."""

    verdicts: dict[str, tuple[Verdict, str, str]] = field(default_factory=dict)

    def add_row(self, order: UnitOrder) -> None:
        """Takes over what an earlier delivery, or a request with the ticket, decided."""
        self.verdicts[order.order_id] = (_verdict(order.state), "", "")

    def of(self, entries: Sequence[Entry]) -> list[FinishedEntry]:
        """One per decided entry: two entries of one order get the same."""
        return [
            FinishedEntry(
                entry=entry,
                verdict=verdict,
                other_order_id=other_order_id,
                other_request_id=other_request_id,
            )
            for entry in entries
            if entry.order_id in self.verdicts
            for verdict, other_order_id, other_request_id in (self.verdicts[entry.order_id],)
        ]


class BatchDecider:
    """Decides about batches of entries of one queue each."""

    def __init__(self, *, db: Database, clock: Clock, ids: Ids) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids

    async def decide(self, activity_id: str, entries: Sequence[Entry]) -> BatchOutcome:
        """Decides about at most ROWS_MAX entries. Earlier decisions stay as they are.

        Raises:
            ActivityNotFound: there is no such activity. Unavailable, Conflict: nothing was done.
            OutcomeUnknown: deciding about the same entries again finds out.
            Anything that `batches.is_data_error` accepts: nothing was done, and one entry is the
                cause.
        """
        return await self._db.run(self._decide, activity_id, entries, self._batch_id())

    async def refuse(
        self, activity_id: str, entries: Sequence[Entry], *, epoch: int
    ) -> list[FinishedEntry]:
        """Writes refusals of undecided entries; decided ones keep their answer."""
        return await self._db.run(self._refuse, activity_id, entries, epoch, self._batch_id())

    async def give_up(
        self, activity_id: str, entry: Entry, *, reason: str, deliveries: int, refuse: bool
    ) -> FinishedEntry:
        """Keeps an entry that always fails for people and refuses its order, in one transaction.
        `refuse` False: the database does not even accept that row.
        """
        batch = Batch(activity_id, self._batch_id(), entry.epoch, self._clock.now())
        return await self._db.run(
            self._give_up, entry, batch, reason=reason, deliveries=deliveries, refuse=refuse
        )

    def _batch_id(self) -> int:
        """63 random bits: rows with this id were written by this transaction."""
        return (
            int.from_bytes(hashlib.sha256(self._ids.new("BATCH").encode()).digest()[:8], "big") >> 1
        )

    async def _decide(
        self, tx: AsyncConnection, activity_id: str, entries: Sequence[Entry], batch_id: int
    ) -> BatchOutcome:
        activity = await activities.get(tx, activity_id=activity_id)
        is_closed = activity.state is ActivityState.CLOSED
        decisions = _Decisions()
        # A copy in the present epoch replaces the entry that it was made of. Entries of a newer
        # epoch than the row's (a database restored from a backup) wait until a rebuild has passed
        # them.
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
                decisions.add_row(order)
        if current:
            batch = Batch(activity_id, batch_id, activity.epoch, self._clock.now())
            await self._sell(tx, activity, current, batch, decisions)
        return BatchOutcome(
            epoch=activity.epoch,
            is_closed=is_closed,
            finished=decisions.of(entries),
            older=[entry for entry in older.values() if entry.order_id not in decisions.verdicts],
        )

    async def _sell(
        self,
        tx: AsyncConnection,
        activity: Activity,
        current: Mapping[str, Entry],
        batch: Batch,
        decisions: _Decisions,
    ) -> None:
        new = await self._write(tx, activity, current, batch, decisions)
        failpoint("seckill.consume.after_insert")
        if new:
            message = self._message(new, batch)
            await outbox.put(tx, message)
            if not await activities.sell(
                tx, activity_id=batch.activity_id, epoch=batch.epoch, units=len(new)
            ):
                new = await self._sell_what_is_left(tx, new, message, batch, decisions)
            for entry in new:
                decisions.verdicts[entry.order_id] = (Verdict.LIVE, "", "")
        failpoint("seckill.consume.after_update")

    async def _write(
        self,
        tx: AsyncConnection,
        activity: Activity,
        current: Mapping[str, Entry],
        batch: Batch,
        decisions: _Decisions,
    ) -> list[Entry]:
        """Writes orders and returns the entries that are new and LIVE, in the order of the queue.
        The first attempt assumes that Redis is right: the first order of a buyer has slot 1, the
        second slot 2.
        """
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
                decisions.add_row(order)
        await self._point_at_live_orders(tx, batch.activity_id, current, decisions)
        if rest:
            new += await self._write_rest(tx, activity, rest, batch, decisions)
        there = {entry.order_id for entry in new}
        return [entry for order_id, entry in current.items() if order_id in there]

    @staticmethod
    async def _point_at_live_orders(
        tx: AsyncConnection, activity_id: str, current: Mapping[str, Entry], decisions: _Decisions
    ) -> None:
        """An earlier delivery may have refused an entry as a duplicate and crashed before finish.
        Redis may still not know the order that the buyer holds, so it is named again; naming a
        known order changes nothing.
        """
        refused = [
            entry
            for order_id, entry in current.items()
            if decisions.verdicts.get(order_id, ("",))[0] is Verdict.REFUSED
        ]
        if not refused:
            return
        held = await orders.lock_live_orders(
            tx, activity_id=activity_id, user_ids=sorted({entry.user_id for entry in refused})
        )
        for entry in refused:
            if other := next(iter(held.get(entry.user_id, ())), None):
                decisions.verdicts[entry.order_id] = (
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
        decisions: _Decisions,
    ) -> list[Entry]:
        """Entries whose slot or request is taken: they get the smallest free slot, or the answer
        that the buyer holds an order already. Returns those that became LIVE.
        """
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
                decisions.verdicts[entry.order_id] = (
                    Verdict.DUPLICATE,
                    other.order_id,
                    other.request_id,
                )
        if live and not await batches.insert_orders(tx, live, batch):
            raise StaleRow  # they were written since the read
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
        decisions: _Decisions,
    ) -> list[Entry]:
        """The guard refused the sale. If the epoch has ended, the transaction starts again. Else
        Redis admitted units that do not exist: the last entries get none. Returns the others.
        """
        activity = await activities.lock(tx, activity_id=batch.activity_id)
        if activity.epoch != batch.epoch:
            raise StaleRow
        left = max(activity.left, 0)
        kept, phantoms = list(new[:left]), {entry.order_id for entry in new[left:]}
        await batches.turn_into_refusals(tx, sorted(phantoms))
        decisions.verdicts |= dict.fromkeys(phantoms, (Verdict.PHANTOM, "", ""))
        for order_id, (_, other_order_id, _) in list(decisions.verdicts.items()):
            # the order that it would duplicate is not held after all
            if other_order_id in phantoms:
                decisions.verdicts[order_id] = (Verdict.PHANTOM, "", "")
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
        decisions = _Decisions()
        for order in (
            await batches.insert_refused(
                tx, [_refusal(entry) for entry in sorted(by_order.values(), key=_by_user)], batch
            )
        ).values():
            decisions.add_row(order)
        return decisions.of(entries)

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

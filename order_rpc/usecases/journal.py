"""Writes one step of an order with everything that reports it, in one transaction: the row, its
history, its events and its statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh import outbox
from mesh.call import Caller, Role, current_trace_id
from mesh.ids import Ids
from mesh.outbox import Message
from order_rpc.domain.order import Order, OrderState, Verb
from order_rpc.domain.statistics import Entry, Figure, entries_of_payment, entry
from order_rpc.store import audit, orders, statistics
from order_rpc.store.audit import AuditRow
from order_rpc.usecases.events import order_created, order_paid

CREATED = "CREATE"  # what the history calls the creation of an order; its other events are verbs
# workers and settlements, which act for no caller
ORDER_RPC = Caller(role=Role.SERVICE, subject="order_rpc", service="order_rpc")

MakeEvent = Callable[..., Message]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """What made an order take a step, and who."""

    event_id: str  # message or call
    operator: str  # e.g. "user:u1" or "payment_rpc"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewOrder:
    """An order to be written, and the call that asked for it."""

    order: Order
    operator: str
    trace_id: str


def operator(caller: Caller) -> str:
    """A caller with its role, for the history: a service and a buyer of one name differ."""
    return f"{caller.role}:{caller.subject}"


class Journal:
    """Writes the steps of orders."""

    def __init__(self, ids: Ids) -> None:
        self._ids = ids

    def cause(self, caller: Caller) -> Cause:
        """The call that is being served as a cause of its own."""
        return Cause(event_id=self._ids.new("EVT"), operator=operator(caller))

    async def create(self, tx: AsyncConnection, new: Sequence[NewOrder], *, at: datetime) -> None:
        """Writes new orders with their history, events and statistics."""
        created = [each.order for each in new]
        await orders.insert_orders(tx, *created)
        steps = [step for each in new for step in self._creation_steps(each)]
        await audit.append_audits(tx, [(order, row) for order, row, _ in steps], at=at)
        await outbox.put(tx, *(message for _, _, message in steps))
        await statistics.add(
            tx, [figure for order in created for figure in _creation_statistics(order)]
        )

    def _creation_steps(self, new: NewOrder) -> list[tuple[Order, AuditRow, Message]]:
        steps = [("", OrderState.PENDING_PAYMENT, CREATED, order_created)]
        if new.order.state is OrderState.PAID:
            steps.append((OrderState.PENDING_PAYMENT, OrderState.PAID, Verb.PAY, order_paid))
        written = []
        for before, after, event, make_event in steps:
            message = make_event(new.order, event_id=self._ids.new("EVT"), trace_id=new.trace_id)
            row = AuditRow(
                from_state=before,
                to_state=after,
                event=event,
                event_id=message.event_id,
                operator=new.operator,
                trace_id=new.trace_id,
            )
            written.append((new.order, row, message))
        return written

    async def step(
        self,
        tx: AsyncConnection,
        before: Order,
        after: Order,
        *,
        event: str,
        cause: Cause,
        at: datetime,
        remark: str = "",
        make_event: MakeEvent | None = None,
        messages: Sequence[Message] = (),
        counts: Sequence[Entry] = (),
    ) -> None:
        """Saves a step and adds its line to the history.

        Args:
            event: what happened, usually a verb.
            make_event: makes the event for ORDER_TOPIC.
            messages: what must arrive elsewhere.
            counts: figures of the statistics.

        Raises:
            StaleRow: the order is not as `before` any more.
        """
        if after.version != before.version:
            await orders.save_order(tx, after, read_version=before.version)
        await self.note(tx, before, after, event=event, cause=cause, at=at, remark=remark)
        sent = list(messages)
        if make_event is not None:
            sent.append(
                make_event(after, event_id=self._ids.new("EVT"), trace_id=current_trace_id())
            )
        if sent:
            await outbox.put(tx, *sent)
        await statistics.add(tx, counts)

    async def note(
        self,
        tx: AsyncConnection,
        before: Order,
        after: Order,
        *,
        event: str,
        cause: Cause,
        at: datetime,
        remark: str = "",
        needs_review: bool = False,
    ) -> None:
        """Adds a line to the history of an order."""
        await audit.append_audit(
            tx,
            after,
            AuditRow(
                from_state=before.state,
                to_state=after.state,
                event=event,
                event_id=cause.event_id,
                operator=cause.operator,
                trace_id=current_trace_id(),
                remark=remark,
                needs_review=needs_review,
            ),
            at=at,
        )


def _creation_statistics(order: Order) -> list[Entry]:
    created = entry(order, Figure.CREATED, at=order.created_at)
    if order.state is OrderState.PAID:
        return [created, *entries_of_payment(order, at=order.created_at)]
    return [created]

"""One step of an order with everything that tells of it, in one transaction: the row, its history,
its events, what it counts.
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
from order_rpc.domain.order import Order
from order_rpc.domain.statistics import Entry
from order_rpc.store import audit, orders, statistics
from order_rpc.store.audit import AuditRow

# we ourselves: workers and settlements
ORDER_RPC = Caller(role=Role.SERVICE, subject="order_rpc", service="order_rpc")

MakeEvent = Callable[..., Message]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """What made an order take a step, and who."""

    event_id: str  # message or call
    operator: str  # e.g. "user:u1" or "payment_rpc"


def operator(caller: Caller) -> str:
    """Who it was and in which role, for the audit: a service and a buyer of one name differ."""
    return f"{caller.role}:{caller.subject}"


class Journal:
    """Writes steps."""

    def __init__(self, ids: Ids) -> None:
        self._ids = ids

    def cause(self, caller: Caller) -> Cause:
        """The call that is being served as a cause of its own."""
        return Cause(event_id=self._ids.new("EVT"), operator=operator(caller))

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
        tells: MakeEvent | None = None,
        messages: Sequence[Message] = (),
        counts: Sequence[Entry] = (),
    ) -> None:
        """Saves a step and adds its line to the history.

        Args:
            event: what happened, usually a verb.
            tells: makes the event for ORDER_TOPIC.
            messages: what must arrive elsewhere.
            counts: figures of the statistics.

        Raises:
            StaleRow: the order is not as `before` any more.
        """
        if after.version != before.version:
            await orders.save_order(tx, after, read_version=before.version)
        await self.note(tx, before, after, event=event, cause=cause, at=at, remark=remark)
        told = [
            *messages,
            *(
                []
                if tells is None
                else [tells(after, event_id=self._ids.new("EVT"), trace_id=current_trace_id())]
            ),
        ]
        if told:
            await outbox.put(tx, *told)
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
        needs_attention: bool = False,
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
                needs_attention=needs_attention,
            ),
            at=at,
        )

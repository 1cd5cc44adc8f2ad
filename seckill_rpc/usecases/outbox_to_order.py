"""Messages to order_rpc: orders to write, and units for the catalog stock. They are written with
the decision and sent from the outbox until they are answered. The answer is stored in the
transaction that marks the message done.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Protocol

from prometheus_client import Counter
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.call import current_trace_id
from mesh.clock import Clock
from mesh.db import Database
from mesh.errors import Unavailable
from mesh.ids import Ids
from mesh.logs import get_logger
from mesh.outbox import Message
from mesh.relay import Settlement
from seckill_rpc.domain.activity import Activity
from seckill_rpc.domain.order import UnitState
from seckill_rpc.store import activities, orders

ORDER_RPC = "order_rpc"
CREATE_SECKILL_ORDERS = "CreateSeckillOrders"
RETURN_ALLOCATION = "ReturnAllocation"

log = get_logger()
_REFUSED = Counter(
    "paymesh_seckill_orders_refused_total",
    "Orders of flash sales that order_rpc refused; their units came back.",
    ["reason"],
)


class AllocationService(Protocol):
    """order_rpc, as far as the outbox uses it."""

    async def give_back(
        self, *, op_id: str, merchant_id: str, activity_id: str, quantity: int
    ) -> int:
        """Puts units back into the catalog stock, once per op_id, or RemoteError."""
        ...

    async def create_orders(
        self, activity: Activity, orders: Sequence[tuple[str, str]]
    ) -> dict[str, str]:
        """Writes orders; "" or the reason of its refusal for each that was decided, or
        RemoteError.
        """
        ...


class TakesBack(Protocol):
    """Takes units back within a transaction: `Returns`."""

    async def take_back(
        self, tx: AsyncConnection, *, activity_id: str, order_ids: Sequence[str], to: UnitState
    ) -> int:
        """How many of the orders were LIVE."""
        ...


class StillUndecided(Unavailable):
    """order_rpc said nothing of some orders."""


def command(
    destination: str, tag: str, activity_id: str, payload: dict[str, Any], *, ids: Ids, at: datetime
) -> Message:
    """A message about an activity that the outbox delivers from now on."""
    return Message(
        event_id=ids.new("OP"),
        destination=destination,
        tag=tag,
        aggregate_id=activity_id,
        trace_id=current_trace_id(),
        due_at=at,
        created_at=at,
        payload=payload,
    )


def create_orders_message(
    activity_id: str, new: Sequence[tuple[str, str]], *, ids: Ids, at: datetime
) -> Message:
    """The orders (order_id, user_id) of one batch, at most 500: the payload stays below the 64 kB
    of a TEXT.
    """
    payload = {"activity_id": activity_id, "orders": new}
    return command(ORDER_RPC, CREATE_SECKILL_ORDERS, activity_id, payload, ids=ids, at=at)


def return_allocation_message(
    activity: Activity, *, op_id: str, quantity: int, ids: Ids, at: datetime
) -> Message:
    """Units of an activity for the catalog stock. op_id: `close:<activity>` or `late:<order>`."""
    payload = {
        "op_id": op_id,
        "merchant_id": activity.merchant_id,
        "activity_id": activity.activity_id,
        "quantity": quantity,
    }
    return command(ORDER_RPC, RETURN_ALLOCATION, activity.activity_id, payload, ids=ids, at=at)


class OrderRpcDestination:
    """Delivers to order_rpc and stores what it answers."""

    name = ORDER_RPC

    def __init__(
        self, *, db: Database, allocations: AllocationService, returns: TakesBack, clock: Clock
    ) -> None:
        self._db = db
        self._allocations = allocations
        self._returns = returns
        self._clock = clock

    async def send(self, message: Message) -> Settlement | None:
        """Sends one message.

        Raises:
            StillUndecided: not every order was decided. RemoteError: not answered, or refused for
                good as a whole.
        """
        if message.tag == CREATE_SECKILL_ORDERS:
            return await self._create(message)
        await self._allocations.give_back(
            op_id=message.payload["op_id"],
            merchant_id=message.payload["merchant_id"],
            activity_id=message.payload["activity_id"],
            quantity=message.payload["quantity"],
        )
        return None

    async def _create(self, message: Message) -> Settlement:
        activity_id = message.payload["activity_id"]
        wanted = [(order_id, user_id) for order_id, user_id in message.payload["orders"]]
        # The price is the activity's and never changes; the outbox would repeat it per order.
        activity = await self._db.read(activities.get, activity_id=activity_id)
        decided = await self._allocations.create_orders(activity, wanted)
        undecided = [order_id for order_id, _ in wanted if order_id not in decided]
        if undecided:
            raise StillUndecided(f"order_rpc said nothing of {len(undecided)} orders")
        written = [order_id for order_id, _ in wanted if not decided[order_id]]
        refused = {order_id: decided[order_id] for order_id, _ in wanted if decided[order_id]}

        async def settle(tx: AsyncConnection) -> None:
            await orders.mark_ready(tx, written, at=self._clock.now())
            if refused:
                await self._returns.take_back(
                    tx, activity_id=activity_id, order_ids=list(refused), to=UnitState.REFUSED
                )

        for order_id, reason in refused.items():
            _REFUSED.labels(reason).inc()
            log.warning(
                "seckill_order_refused", activity_id=activity_id, order_id=order_id, reason=reason
            )
        return settle

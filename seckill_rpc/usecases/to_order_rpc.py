"""What must reach order_rpc: the orders of activities, and units that go back on the shelf. Written with the decision, sent from the outbox until it
is answered; what the answer means is written in the transaction that marks the message done."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from mesh.ids import Ids
from mesh.outbox import Message
from seckill_rpc.domain.activity import Activity

ORDER_RPC = "order_rpc"
CREATE_SECKILL_ORDERS = "CreateSeckillOrders"
RETURN_ALLOCATION = "ReturnAllocation"


def create_orders_message(activity_id: str, orders: Sequence[tuple[str, str]], *, ids: Ids, at: datetime) -> Message:
    """Writes the orders (order_id, user_id) of one batch, at most 500."""
    raise NotImplementedError


def return_allocation_message(activity: Activity, *, op_id: str, quantity: int, ids: Ids, at: datetime) -> Message:
    """Puts units of an activity back on the shelf. op_id: `close:<activity>` or `late:<order>`."""
    raise NotImplementedError

"""A unit comes back: its order was cancelled or not paid in time, or order_rpc refused it. One
transaction takes it from the buyer and from what is sold, and writes the message that follows:
Redis sells it again, or, once the activity is CLOSED, the catalog stock gets it.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh import outbox
from mesh.clock import Clock
from mesh.db import Database
from mesh.failpoints import failpoint
from mesh.ids import Ids
from seckill_rpc.domain.activity import ActivityState
from seckill_rpc.domain.errors import ActivityNotFound, SeckillOrderNotFound
from seckill_rpc.domain.order import UnitState
from seckill_rpc.store import activities, orders
from seckill_rpc.usecases.outbox_to_order import return_allocation_message
from seckill_rpc.usecases.outbox_to_redis import give_back_message


class Returns:
    """ReturnStock."""

    def __init__(self, *, db: Database, clock: Clock, ids: Ids) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids

    async def return_stock(self, *, order_id: str, merchant_id: str, activity_id: str) -> bool:
        """Takes the unit of an order back. True if this call did; False if an earlier one did or
        the order never had a unit.

        Raises:
            SeckillOrderNotFound: this activity decided no such order. That is final: order_rpc only
                has orders whose rows were committed here first.
        """
        is_back = await self._db.run(
            self._return, order_id=order_id, merchant_id=merchant_id, activity_id=activity_id
        )
        failpoint("seckill.return.after_commit")
        return is_back

    async def take_back(
        self, tx: AsyncConnection, *, activity_id: str, order_ids: Sequence[str], to: UnitState
    ) -> int:
        """Takes the units of LIVE orders of one activity back, as RETURNED or REFUSED, within a
        transaction; returns how many were LIVE.
        """
        now = self._clock.now()
        # Sorted by id: two transactions that take the same orders back do not deadlock.
        left = [
            order_id
            for order_id in sorted(order_ids)
            if await orders.leave_live(tx, order_id=order_id, to=to, at=now)
        ]
        if not left:
            return 0
        activity = await activities.take_back(tx, activity_id=activity_id, units=len(left))
        if activity.state is ActivityState.CLOSED:
            messages = [
                return_allocation_message(
                    activity, op_id=f"late:{order_id}", quantity=1, ids=self._ids, at=now
                )
                for order_id in left
            ]
        else:
            found = await orders.find_orders(tx, left)
            messages = [
                give_back_message(found[order_id], activity, ids=self._ids, at=now)
                for order_id in left
            ]
        await outbox.put(tx, *messages)
        return len(left)

    async def _return(
        self, tx: AsyncConnection, *, order_id: str, merchant_id: str, activity_id: str
    ) -> bool:
        order = await orders.find_order(tx, order_id)
        if order is None or order.activity_id != activity_id:
            raise SeckillOrderNotFound
        try:
            await activities.get(tx, activity_id=activity_id, merchant_id=merchant_id)
        except ActivityNotFound:
            raise SeckillOrderNotFound from None
        return (
            await self.take_back(
                tx, activity_id=activity_id, order_ids=[order_id], to=UnitState.RETURNED
            )
            == 1
        )

"""A unit comes back: its order was cancelled or not paid in time, or order_rpc refused it. One transaction takes it from the buyer and from what is
sold, and writes down what has to follow: Redis sells it again, or, once the activity is CLOSED, the shelf gets it."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.clock import Clock
from mesh.db import Database
from mesh.ids import Ids
from seckill_rpc.domain.order import UnitState


class Returning:
    """ReturnStock."""

    def __init__(self, *, db: Database, clock: Clock, ids: Ids) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids

    async def return_unit(self, *, order_id: str, merchant_id: str, activity_id: str) -> bool:
        """Takes the unit of an order back. True when this call did, False when an earlier one did or the order never had one.

        Raises:
            SeckillOrderNotFound: no such order of this activity was ever decided.
        """
        raise NotImplementedError

    async def take_back(self, tx: AsyncConnection, *, activity_id: str, order_ids: Sequence[str], to: UnitState) -> int:
        """Takes the units of LIVE orders of one activity back, as RETURNED or REFUSED, within a transaction; returns how many were LIVE."""
        raise NotImplementedError

"""Many orders of activities at once, on the way of every purchase: one INSERT for a whole batch, whose text is put together from cached pieces,
because SQLAlchemy needs longer to compile a statement of 500 rows than the database to run it.

Rows that are there already, or whose slot or request is taken, are left alone without an error: no INSERT IGNORE, which would store a mangled value
instead of refusing it, and no exception, which would end the transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import BigInteger, bindparam, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db import UtcMillis
from seckill_rpc.domain.order import UnitOrder, UnitState
from seckill_rpc.store import orders
from seckill_rpc.tables import SECKILL_ORDER

ROWS_MAX = 500  # of one INSERT; SQLite takes 32 766 parameters, and a packet of MySQL any number of these
# Whoever violates one of these met a batch of somebody else: the transaction runs again and finds the row. For `open_database`.
RETRY_CONSTRAINTS = ("pk_seckill_order", "uq_seckill_order_slot", "uq_seckill_order_live_request")


class Row(NamedTuple):
    """What differs between the orders of a batch. `slot` None: REFUSED."""

    order_id: str
    user_id: str
    request_id: str
    slot: int | None


async def insert_live(tx: AsyncConnection, rows: Sequence[Row], *, activity_id: str, batch_id: int, epoch: int, at: datetime) -> bool:
    """Writes LIVE orders. True when each of them was new; else some were left out, and who was not is told by the batch_id of the rows."""
    raise NotImplementedError


async def insert_refused(tx: AsyncConnection, rows: Sequence[Row], *, activity_id: str, batch_id: int, epoch: int, at: datetime,
                         ) -> dict[str, UnitOrder]:
    """Writes REFUSED orders where there is no row yet, and returns all of them as they are: whoever commits first decides."""
    raise NotImplementedError


async def refuse(tx: AsyncConnection, order_ids: Sequence[str], *, at: datetime) -> None:
    """Turns LIVE orders of this very transaction into refusals."""
    raise NotImplementedError


_ = (BigInteger, bindparam, update, UtcMillis, UnitState, orders, SECKILL_ORDER)

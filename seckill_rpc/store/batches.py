"""Many orders in one INSERT, once per purchase batch. Its text is put together from ready pieces,
because SQLAlchemy takes longer to compile a statement of 500 rows than the database to run it.

Rows that exist already, or whose slot or request is taken, are left alone without an error. INSERT
IGNORE would store a mangled value instead of refusing it, and an exception would end the
transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import NamedTuple

from sqlalchemy import bindparam, delete, update
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db import ConstraintViolated, UtcMillis
from mesh.outbox import OUTBOX
from seckill_rpc.domain.order import UnitOrder, UnitState
from seckill_rpc.store import orders
from seckill_rpc.tables import SECKILL_ORDER

ROWS_MAX = 500  # of one INSERT: SQLite takes 32 766 parameters

_INTO = (
    "INSERT INTO seckill_order (order_id, activity_id, user_id, request_id, slot, live_request, "
    "state, batch_id, epoch, created_at, updated_at) "
    "VALUES "
)
# Strings are parameters; whole numbers stand in the text, because a driver takes longer to escape a
# parameter than a database to read it.
_ROW = (
    "({mark}, {mark}, {mark}, {mark}, {slot}, {live}, '{state}', {batch_id:d}, {epoch:d}, "
    "{at:d}, {at:d})"
)
_MARKS: Mapping[str, str] = MappingProxyType({"format": "%s", "qmark": "?"})
# Both leave the row as it is. MySQL answers 1 for a new row and 2 for one that was there and
# changed; nothing tells an unchanged one from a new one.
_IF_THERE: Mapping[str, str] = MappingProxyType(
    {
        "mysql": " ON DUPLICATE KEY UPDATE collisions = collisions + 1",
        "sqlite": " ON CONFLICT DO NOTHING",
    }
)
_REFUSE = (
    update(SECKILL_ORDER)
    .where(SECKILL_ORDER.c.order_id.in_(bindparam("orders", expanding=True)))
    .values(state=UnitState.REFUSED, slot=None, live_request=None)
)
_WITHDRAW = delete(OUTBOX).where(OUTBOX.c.event_id == bindparam("event"))
_millis = UtcMillis()
# Characters that a column cannot hold; values that are too long or too big are DataErrors anyway.
_MYSQL_DATA = frozenset({1264, 1265, 1267, 1300, 1366, 1406, 3854, 3988})


class NewOrder(NamedTuple):
    """What differs between the orders of a batch. `slot` None: it is written REFUSED."""

    order_id: str
    user_id: str
    request_id: str
    slot: int | None


class Batch(NamedTuple):
    """What the orders of a batch share. `batch_id` belongs to one transaction and tells its rows
    from those that were there before.
    """

    activity_id: str
    batch_id: int
    epoch: int
    at: datetime


async def insert_orders(tx: AsyncConnection, new: Sequence[NewOrder], batch: Batch) -> bool:
    """Writes at most ROWS_MAX orders, leaving out those that meet a row: their own of an earlier
    delivery, or one that has their slot or request. True when none was left out; else the
    `batch_id` of the rows tells which were written."""
    mark = _MARKS[tx.dialect.paramstyle]
    at = _millis.process_bind_param(batch.at, tx.dialect)

    def row(slot: int | None) -> str:
        is_live = slot is not None
        return _ROW.format(
            mark=mark,
            slot="NULL" if slot is None else int(slot),
            live=mark if is_live else "NULL",
            state=UnitState.LIVE if is_live else UnitState.REFUSED,
            batch_id=batch.batch_id,
            epoch=batch.epoch,
            at=at,
        )

    texts = {slot: row(slot) for slot in {order.slot for order in new}}
    activity_id = batch.activity_id
    values: list[str] = []
    for order_id, user_id, request_id, slot in new:
        values += (
            (order_id, activity_id, user_id, request_id)
            if slot is None
            else (order_id, activity_id, user_id, request_id, request_id)
        )
    text = (
        _INTO
        + ", ".join([texts[order.slot] for order in new])
        + _IF_THERE["sqlite" if tx.dialect.name == "sqlite" else "mysql"]
    )
    written = await tx.exec_driver_sql(text, tuple(values))
    return written.rowcount == len(new)


async def insert_refused(
    tx: AsyncConnection, new: Sequence[NewOrder], batch: Batch
) -> dict[str, UnitOrder]:
    """Writes refusals where no row exists yet, and returns all of these orders as they are now: the
    first commit decides.
    """
    await insert_orders(tx, [order._replace(slot=None) for order in new], batch)
    return await orders.find_orders(tx, [order.order_id for order in new])


async def turn_into_refusals(tx: AsyncConnection, order_ids: Sequence[str]) -> None:
    """LIVE orders that this transaction has written become REFUSED: there is no unit for them."""
    await tx.execute(_REFUSE, {"orders": list(order_ids)})


async def withdraw(tx: AsyncConnection, event_id: str) -> None:
    """Deletes a message that this transaction has put into the outbox."""
    await tx.execute(_WITHDRAW, {"event": event_id})


def is_data_error(error: BaseException) -> bool:
    """Whether the database refused the data of an order, and would refuse it again. A missing table
    or a full disk is no such error, nor is a constraint of another table: no entry is to blame
    for those.
    """
    if isinstance(error, DBAPIError):
        code = next(iter(getattr(error.orig, "args", ())), None)
        return isinstance(error, DataError | IntegrityError) or code in _MYSQL_DATA
    if isinstance(error, ConstraintViolated):
        return error.name.partition("_")[2].startswith(SECKILL_ORDER.name)
    return isinstance(error, UnicodeError)

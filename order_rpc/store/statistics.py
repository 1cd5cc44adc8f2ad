"""Figures: entries are added with the change that they count and folded into sums by a worker. A reader adds what is not folded yet, so that the
figures are exact at every commit and no two orders wait for each other on a sum."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Row, Select, Table, and_, bindparam, delete, func, insert, or_, select, union_all, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.bad_rows import readable
from mesh.db import insert_if_absent
from mesh.money import stored_currency
from order_rpc.domain.refund import MONEY_LEFT
from order_rpc.domain.statistics import Entry, Figure
from order_rpc.tables import ORDERS, REFUND_REQUEST, STATISTIC, STATISTIC_ENTRY

FOLD_BATCH = 1000

_INSERT = insert(STATISTIC_ENTRY)
_SUM = STATISTIC.c
_ADD = update(STATISTIC).where(
    _SUM.merchant_id == bindparam("merchant"), _SUM.currency == bindparam("in_currency"), _SUM.quarter == bindparam("in_quarter"),
    _SUM.figure == bindparam("of_figure"),
).values(count=_SUM.count + bindparam("more", type_=BigInteger),
         amount_minor=_SUM.amount_minor + bindparam("more_minor", type_=_SUM.amount_minor.type))


async def add(tx: AsyncConnection, entries: Iterable[Entry]) -> None:
    """Counts something, in the transaction that does it."""
    rows = [{"merchant_id": each.merchant_id, "currency": each.currency, "quarter": each.quarter, "figure": each.figure, "count": each.count,
             "amount_minor": each.amount_minor} for each in entries]
    if rows:
        await tx.execute(_INSERT, rows)


def fold_statement(limit: int = FOLD_BATCH) -> Select[Any]:
    """The query that claims entries to fold; a test reads its EXPLAIN."""
    return select(STATISTIC_ENTRY).order_by(STATISTIC_ENTRY.c.id).limit(limit).with_for_update(skip_locked=True)


async def fold(tx: AsyncConnection, rows: Sequence[Any]) -> list[int]:
    """Moves claimed entries into the sums; returns their ids."""
    ids = [row.id for row in rows]
    sums: dict[tuple[str, str, datetime, str], tuple[int, int]] = {}
    for each in map(_entry, rows):
        key = (each.merchant_id, each.currency, each.quarter, each.figure.value)
        count, amount = sums.get(key, (0, 0))
        sums[key] = (count + each.count, amount + each.amount_minor)
    for (merchant_id, currency, quarter, figure), (count, amount) in sorted(sums.items()):  # one order: two folders never wait for each other
        await insert_if_absent(tx, STATISTIC, {"merchant_id": merchant_id, "currency": currency, "quarter": quarter, "figure": figure, "count": 0,
                                               "amount_minor": 0})
        await tx.execute(_ADD, {"merchant": merchant_id, "in_currency": currency, "in_quarter": quarter, "of_figure": figure, "more": count,
                                "more_minor": amount})
    await tx.execute(delete(STATISTIC_ENTRY).where(STATISTIC_ENTRY.c.id.in_(ids)))
    return ids


async def figures(tx: AsyncConnection, *, merchant_id: str, begin: datetime, end: datetime, currency: str) -> list[Entry]:
    """Everything that was counted from `begin` to before `end`, in any order; "" means every currency. One statement, one moment."""
    rows = await tx.execute(figures_statement(merchant_id=merchant_id, begin=begin, end=end, currency=currency))
    return readable(rows, _entry, of="statistic", key=lambda row: f"{row.merchant_id} {row.quarter} {row.figure}")


def figures_statement(*, merchant_id: str, begin: datetime, end: datetime, currency: str) -> Any:
    """The query of `figures`."""
    def of(table: Table) -> Select[Any]:
        wanted = [table.c.merchant_id == merchant_id, table.c.quarter >= begin, table.c.quarter < end]
        return _figures_of(table).where(*wanted, *([table.c.currency == currency] if currency else []))

    return union_all(of(STATISTIC), of(STATISTIC_ENTRY))


async def everything(tx: AsyncConnection) -> list[Entry]:
    """Everything that was ever counted."""
    return [_entry(row) for row in await tx.execute(union_all(_figures_of(STATISTIC), _figures_of(STATISTIC_ENTRY)))]


async def count_orders(tx: AsyncConnection) -> int:
    """Orders in all."""
    return int((await tx.execute(select(func.count()).select_from(ORDERS))).scalar_one())


async def orders_after(tx: AsyncConnection, *, after: tuple[str, str], limit: int) -> Sequence[Row[*tuple[Any, ...]]]:
    """What counts of orders, by key, beginning after (merchant_id, order_id)."""
    rows: Sequence[Row[*tuple[Any, ...]]] = (await tx.execute(orders_statement(after=after, limit=limit))).all()
    return rows


def orders_statement(*, after: tuple[str, str], limit: int) -> Select[Any]:
    """The query of `orders_after`; a test reads its EXPLAIN."""
    merchant_id, order_id = after
    beyond = and_(ORDERS.c.merchant_id >= merchant_id, or_(ORDERS.c.merchant_id > merchant_id, ORDERS.c.order_id > order_id))
    wanted = (ORDERS.c.merchant_id, ORDERS.c.order_id, ORDERS.c.currency, ORDERS.c.amount_minor, ORDERS.c.created_at, ORDERS.c.paid_at,
              ORDERS.c.cancelled_at)
    return select(*wanted).where(beyond).order_by(ORDERS.c.merchant_id, ORDERS.c.order_id).limit(limit)


async def refunds_that_left(tx: AsyncConnection) -> Sequence[Row[*tuple[Any, ...]]]:
    """What counts of refunds: those of sales whose money left."""
    request = REFUND_REQUEST.c
    wanted = (request.merchant_id, request.currency, request.amount_minor, request.succeeded_at, request.bounced_at)
    return (await tx.execute(select(*wanted).where(request.of_sale, request.state.in_(MONEY_LEFT)))).all()


def _figures_of(table: Table) -> Select[Any]:
    return select(table.c.merchant_id, table.c.currency, table.c.quarter, table.c.figure, table.c.count, table.c.amount_minor)


def _entry(row: Any) -> Entry:
    values: Mapping[str, Any] = row._mapping  # noqa: SLF001  SQLAlchemy's public name for it; `row.count` is a method of tuples
    return Entry(merchant_id=values["merchant_id"], currency=stored_currency(values["currency"]), quarter=values["quarter"],
                 figure=Figure(values["figure"]), count=values["count"], amount_minor=int(values["amount_minor"]))

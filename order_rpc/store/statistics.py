"""Figures: entries are added with the change that they count and folded into sums by a worker. A
reader adds what is not folded yet, so that the figures are exact at every commit and no two orders
wait for each other on a sum."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Select,
    Table,
    bindparam,
    delete,
    func,
    insert,
    literal,
    select,
    type_coerce,
    union_all,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.bad_rows import readable_rows
from mesh.db import UtcMillis, insert_if_absent
from mesh.db.ranges import key_ranges_at_one_moment
from mesh.money import stored_currency
from order_rpc.domain.refund import MONEY_LEFT
from order_rpc.domain.statistics import QUARTER, Entry, Figure
from order_rpc.tables import ORDERS, REFUND_REQUEST, STATISTIC, STATISTIC_ENTRY

FOLD_BATCH = 1000
RANGE = 10_000  # rows per statement of those that count everything

_INSERT = insert(STATISTIC_ENTRY)
_SUM = STATISTIC.c
_ADD = (
    update(STATISTIC)
    .where(
        _SUM.merchant_id == bindparam("merchant"),
        _SUM.currency == bindparam("in_currency"),
        _SUM.quarter == bindparam("in_quarter"),
        _SUM.figure == bindparam("of_figure"),
    )
    .values(
        count=_SUM.count + bindparam("more", type_=BigInteger),
        amount_minor=_SUM.amount_minor + bindparam("more_minor", type_=_SUM.amount_minor.type),
    )
)


async def add(tx: AsyncConnection, entries: Iterable[Entry]) -> None:
    """Counts something, in the transaction that does it."""
    rows = [
        {
            "merchant_id": each.merchant_id,
            "currency": each.currency,
            "quarter": each.quarter,
            "figure": each.figure,
            "count": each.count,
            "amount_minor": each.amount_minor,
        }
        for each in entries
    ]
    if rows:
        await tx.execute(_INSERT, rows)


def fold_statement(limit: int = FOLD_BATCH) -> Select[Any]:
    """The query that claims entries to fold; a test reads its EXPLAIN."""
    return (
        select(STATISTIC_ENTRY)
        .order_by(STATISTIC_ENTRY.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )


async def fold(tx: AsyncConnection, rows: Sequence[Any]) -> list[int]:
    """Moves claimed entries into the sums; returns their ids."""
    ids = [row.id for row in rows]
    sums: dict[tuple[str, str, datetime, str], tuple[int, int]] = {}
    for each in map(_entry, rows):
        key = (each.merchant_id, each.currency, each.quarter, each.figure.value)
        count, amount = sums.get(key, (0, 0))
        sums[key] = (count + each.count, amount + each.amount_minor)
    # one order: two folders never wait for each other
    for (merchant_id, currency, quarter, figure), (count, amount) in sorted(sums.items()):
        await insert_if_absent(
            tx,
            STATISTIC,
            {
                "merchant_id": merchant_id,
                "currency": currency,
                "quarter": quarter,
                "figure": figure,
                "count": 0,
                "amount_minor": 0,
            },
        )
        await tx.execute(
            _ADD,
            {
                "merchant": merchant_id,
                "in_currency": currency,
                "in_quarter": quarter,
                "of_figure": figure,
                "more": count,
                "more_minor": amount,
            },
        )
    await tx.execute(delete(STATISTIC_ENTRY).where(STATISTIC_ENTRY.c.id.in_(ids)))
    return ids


async def figures(
    tx: AsyncConnection, *, merchant_id: str, begin: datetime, end: datetime, currency: str
) -> list[Entry]:
    """Everything that was counted from `begin` to before `end`, in any order; "" means every
    currency. One statement, one moment.
    """
    rows = await tx.execute(
        figures_statement(merchant_id=merchant_id, begin=begin, end=end, currency=currency)
    )
    return readable_rows(
        rows,
        _entry,
        of="statistic",
        key=lambda row: f"{row.merchant_id} {row.quarter} {row.figure}",
    )


def figures_statement(*, merchant_id: str, begin: datetime, end: datetime, currency: str) -> Any:
    """The query of `figures`."""

    def of(table: Table) -> Select[Any]:
        wanted = [
            table.c.merchant_id == merchant_id,
            table.c.quarter >= begin,
            table.c.quarter < end,
        ]
        return _figures_of(table).where(
            *wanted, *([table.c.currency == currency] if currency else [])
        )

    return union_all(of(STATISTIC), of(STATISTIC_ENTRY))


async def kept(tx: AsyncConnection) -> AsyncIterator[Entry]:
    """Everything that was ever counted, within `Database.read_at_one_moment`."""
    for table, by in (
        (
            STATISTIC,
            (_SUM.merchant_id, _SUM.currency, type_coerce(_SUM.quarter, BigInteger), _SUM.figure),
        ),
        (STATISTIC_ENTRY, (STATISTIC_ENTRY.c.id,)),
    ):
        async for within in key_ranges_at_one_moment(tx, by, size=RANGE):
            for row in await tx.execute(_figures_of(table).where(within)):
                yield _entry(row)


async def of_orders(tx: AsyncConnection) -> AsyncIterator[list[Entry]]:
    """What counts of orders, counted again range by range, within `Database.read_at_one_moment`."""
    order = ORDERS.c
    moments = {
        Figure.CREATED: (order.created_at, order.created_at.is_not(None)),
        Figure.PAID: (order.paid_at, order.paid_at.is_not(None)),
        Figure.CONVERTED: (order.created_at, order.paid_at.is_not(None)),
        Figure.CANCELLED: (order.cancelled_at, order.cancelled_at.is_not(None)),
    }
    queries = [
        _recount(
            figure,
            moment,
            # a shop may have captured less than its order costs
            order.captured_minor if figure is Figure.PAID else order.amount_minor,
            order,
        ).where(condition)
        for figure, (moment, condition) in moments.items()
    ]
    async for within in key_ranges_at_one_moment(
        tx, (order.merchant_id, order.order_id), size=RANGE
    ):
        yield [_counted(row) for query in queries for row in await tx.execute(query.where(within))]


async def of_refunds(tx: AsyncConnection) -> AsyncIterator[list[Entry]]:
    """What counts of refunds: those of sales whose money left, and those that bounced, which count
    less than nothing.
    """
    request = REFUND_REQUEST.c
    counts = (request.of_sale, request.state.in_(MONEY_LEFT))
    left = _recount(Figure.REFUNDED, request.succeeded_at, request.amount_minor, request).where(
        *counts, request.succeeded_at.is_not(None)
    )
    bounced = _recount(Figure.REFUNDED, request.bounced_at, request.amount_minor, request).where(
        *counts, request.bounced_at.is_not(None)
    )
    async for within in key_ranges_at_one_moment(
        tx, (request.merchant_id, request.order_id, request.request_id), size=RANGE
    ):
        yield [_counted(row) for row in await tx.execute(left.where(within))]
        yield [
            replace(each, count=-each.count, amount_minor=-each.amount_minor)
            for each in map(_counted, await tx.execute(bounced.where(within)))
        ]


def _recount(figure: Figure, moment: Column[Any], amount: Column[Any], columns: Any) -> Select[Any]:
    """One figure by quarters of an hour, which begin at whole quarters since 1970."""
    milliseconds = type_coerce(moment, BigInteger)
    quarter = type_coerce(
        milliseconds - milliseconds % (QUARTER // timedelta(milliseconds=1)), UtcMillis()
    )
    return select(
        columns.merchant_id,
        columns.currency,
        quarter.label("quarter"),
        literal(figure.value).label("figure"),
        func.count().label("count"),
        func.sum(amount).label("amount_minor"),
    ).group_by(columns.merchant_id, columns.currency, "quarter")


async def count_orders(tx: AsyncConnection) -> int:
    """Orders in all, within `Database.read_at_one_moment`."""
    total = 0
    async for within in key_ranges_at_one_moment(
        tx, (ORDERS.c.merchant_id, ORDERS.c.order_id), size=RANGE
    ):
        total += (
            await tx.execute(select(func.count()).select_from(ORDERS).where(within))
        ).scalar_one()
    return total


def _figures_of(table: Table) -> Select[Any]:
    return select(
        table.c.merchant_id,
        table.c.currency,
        table.c.quarter,
        table.c.figure,
        table.c.count,
        table.c.amount_minor,
    )


def _counted(row: Any) -> Entry:
    """What orders say, in whatever currency: `row_readable` of the audit names an unknown one."""
    merchant_id, currency, quarter, figure, count, amount_minor = row
    return Entry(
        merchant_id=merchant_id,
        currency=currency,
        quarter=quarter,
        figure=Figure(figure),
        count=count,
        amount_minor=int(amount_minor),
    )


def _entry(row: Any) -> Entry:
    values: Mapping[str, Any] = row._mapping  # noqa: SLF001  SQLAlchemy's public name for it; `row.count` is a method of tuples
    return Entry(
        merchant_id=values["merchant_id"],
        currency=stored_currency(values["currency"]),
        quarter=values["quarter"],
        figure=Figure(values["figure"]),
        count=values["count"],
        amount_minor=int(values["amount_minor"]),
    )

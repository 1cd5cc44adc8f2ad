"""The counters of the catalog stock against the rows that they count. Orders never stand still, so
all of it is read as it was at one moment; sums over a million orders are one long statement, so it
is read range by range."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

from sqlalchemy import and_, case
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.audit import FOUND_MAX, Violation
from mesh.audit.queries import RANGE, sums_of
from mesh.db import Database
from mesh.db.packed import packed_rows
from mesh.db.ranges import key_ranges_at_one_moment
from order_rpc.domain.order_line import StockSource
from order_rpc.tables import (
    ALLOCATION,
    ALLOCATION_STEP,
    COMMITTED,
    ORDER_ITEM,
    RESERVATION,
    RESERVED,
    STOCK,
    STOCK_MOVEMENT,
    STOCK_RETURN,
)

_R, _I, _S, _A, _M, _B, _T = (
    RESERVATION.c,
    ORDER_ITEM.c,
    STOCK.c,
    ALLOCATION.c,
    STOCK_MOVEMENT.c,
    STOCK_RETURN.c,
    ALLOCATION_STEP.c,
)


async def check_stock(db: Database) -> AsyncIterator[Violation]:
    """Every counter of a product and of an allocation is the sum of its rows."""
    found: Counter[str] = Counter()
    for violation in await db.read_at_one_moment(_look):
        found[violation.check] += 1
        if found[violation.check] <= FOUND_MAX:
            yield violation


async def _look(tx: AsyncConnection) -> list[Violation]:
    return [*await _wrong_stock(tx), *await _wrong_allocations(tx)]


async def _wrong_stock(tx: AsyncConnection) -> list[Violation]:
    held = await sums_of(
        tx,
        RESERVATION,
        (_R.merchant_id, _R.sku_id),
        case((_R.state == RESERVED, _R.quantity), else_=0),
        case((_R.state == COMMITTED, _R.quantity), else_=0),
    )
    in_catalog = _I.stock_source == StockSource.CATALOG
    line = and_(
        _I.merchant_id == _B.merchant_id, _I.order_id == _B.order_id, _I.sku_id == _B.sku_id
    )
    back = await sums_of(
        tx,
        STOCK_RETURN,
        (_B.merchant_id, _B.sku_id),
        case((in_catalog, _B.quantity), else_=0),
        case((in_catalog, 0), else_=_B.quantity),
        within=STOCK_RETURN.join(ORDER_ITEM, line),
    )
    given = await sums_of(tx, ALLOCATION, (_A.merchant_id, _A.sku_id), _A.allocated - _A.returned)
    moved = await sums_of(tx, STOCK_MOVEMENT, (_M.merchant_id, _M.sku_id), _M.quantity)
    found: list[Violation] = []
    columns = (_S.merchant_id, _S.sku_id, _S.available, _S.reserved, _S.sold, _S.allocated)
    async for within in key_ranges_at_one_moment(tx, columns[:2], size=RANGE):
        for merchant_id, sku_id, *counters in await packed_rows(tx, STOCK, columns, within):
            product = merchant_id, sku_id
            reserved, committed = held[product]
            to_catalog, to_sale = back[product]
            # What people, flash sales and refunds put there, without what orders hold. Units that a
            # refund brought back are among the movements.
            left = moved[product][0] - reserved - committed
            counted = (left, reserved, committed - to_catalog, given[product][0] - to_sale)
            found += (
                Violation(check=check, subject=sku_id, detail=detail)
                for check, detail in _differences(counters, counted)
            )
    return found


def _differences(counters: list[int], counted: tuple[int, ...]) -> Iterator[tuple[str, str]]:
    available, reserved, sold, allocated = counters
    left, r, s, a = counted
    if available != left:
        yield (
            "stock_available",
            f"{available} units may be bought, its movements and what orders hold leave {left}",
        )
    if reserved != r:
        yield "stock_reserved", f"{reserved} units are reserved, orders reserve {r}"
    if sold != s:
        yield "stock_sold", f"{sold} units are sold, orders bought and kept {s}"
    if allocated != a:
        yield "stock_allocated", f"{allocated} units are allocated, flash sales have {a}"


async def _wrong_allocations(tx: AsyncConnection) -> list[Violation]:
    """What a flash sale has against the steps in which it took and gave."""
    steps = await sums_of(tx, ALLOCATION_STEP, (_T.merchant_id, _T.activity_id), _T.quantity)
    columns: tuple[Any, ...] = (_A.merchant_id, _A.activity_id, _A.allocated, _A.returned)
    return [
        Violation(
            check="allocation_steps",
            subject=activity_id,
            detail=f"{allocated} units were taken and {returned} came back, its steps add up to "
            f"something else",
        )
        async for within in key_ranges_at_one_moment(tx, columns[:2], size=RANGE)
        for merchant_id, activity_id, allocated, returned in await packed_rows(
            tx, ALLOCATION, columns, within
        )
        if allocated + returned != steps[merchant_id, activity_id][0]
    ]

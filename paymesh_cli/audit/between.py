"""Compares the databases of two services, from both sides. Two databases are never read at one
moment, so what is found once is looked at again before it counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

from mesh.audit import AuditTolerance, TenantKey, Violation
from mesh.db import Database
from mesh.progress import looked_at
from order_rpc.audit.facts import orders_of, orders_page
from order_rpc.audit.sales import allocations_of, sale_orders_of, sale_orders_page
from payment_rpc.audit.facts import (
    gates_between,
    gates_of_orders,
    payments_between,
    payments_of_orders,
)
from paymesh_cli.audit.compare import compare, compare_sale
from seckill_rpc.audit.facts import ActivityFacts, activities_page, units_of, units_page

PAGE = 2000  # orders in memory at once
LINES = 10_000  # lines of orders that one statement looks through for those of flash sales
SECOND_LOOK_SECONDS = 1.0


async def orders_and_payments(
    order_db: Database, payment_db: Database, tolerance: AuditTolerance
) -> AsyncIterator[Violation]:
    """From both sides, because an order may lack its payment and a payment its order: each range of
    keys that ends with a page of orders, and the one after all of them. What is wrong is looked at
    twice."""
    suspects: set[TenantKey] = set()
    after: TenantKey | None = None
    while True:
        page, upto = await orders_page(order_db, after=after, limit=PAGE)
        gates = await gates_between(payment_db, after=after, upto=upto)
        paying = await payments_between(payment_db, tolerance, after=after, upto=upto)
        suspects |= {key for key, _ in compare({order.key: order for order in page}, paying, gates)}
        looked_at("orders and their payments", len(page))
        if upto is None:
            break
        after = upto
    doubtful = sorted(suspects)
    if doubtful:
        await asyncio.sleep(0 if tolerance.strict else SECOND_LOOK_SECONDS)
    for start in range(0, len(doubtful), PAGE):
        wanted = doubtful[start : start + PAGE]
        found = {order.key: order for order in await orders_of(order_db, wanted)}
        gates = await gates_of_orders(payment_db, wanted)
        paying = await payments_of_orders(payment_db, tolerance, wanted)
        for _key, violation in compare(found, paying, gates):
            yield violation


async def orders_and_units(
    order_db: Database, sale_db: Database, tolerance: AuditTolerance
) -> AsyncIterator[Violation]:
    """Activities against the catalog stock, their orders against those of order_rpc, from both
    sides. What is wrong is looked at twice.
    """

    async def look(keys: Iterable[TenantKey]) -> list[tuple[TenantKey, Violation]]:
        wanted = list(keys)
        # first: an order is never before its unit
        theirs = {order.key: order for order in await sale_orders_of(order_db, wanted)}
        ours = {unit.key: unit for unit in await units_of(sale_db, wanted)}
        return list(compare_sale(ours, theirs, wanted))

    suspects: set[TenantKey] = set()
    last = ""
    while units := await units_page(sale_db, after=last, limit=PAGE):
        suspects |= {key for key, _ in await look(unit.key for unit in units)}
        looked_at("orders of flash sales", len(units))
        last = units[-1].order_id
    after: TenantKey | None = None
    while True:
        page, after = await sale_orders_page(order_db, after=after, limit=LINES)
        for start in range(0, len(page), PAGE):
            suspects |= {
                key for key, _ in await look(order.key for order in page[start : start + PAGE])
            }
        looked_at("lines of orders", LINES)
        if after is None:
            break
    activities = [activity async for activity in _wrongly_allocated(order_db, sale_db)]
    if suspects or activities:
        await asyncio.sleep(0 if tolerance.strict else SECOND_LOOK_SECONDS)
        for start in range(0, len(suspects), PAGE):
            for _key, violation in await look(sorted(suspects)[start : start + PAGE]):
                yield violation
        names = {activity.activity_id for activity, _ in activities}
        async for activity, given in _wrongly_allocated(order_db, sale_db):
            if activity.activity_id in names:
                yield Violation(
                    check="units_allocated",
                    subject=activity.activity_id,
                    detail=f"it is {activity.state} with {activity.total} units, and its product "
                    f"gave it {given}",
                )


async def _wrongly_allocated(
    order_db: Database, sale_db: Database
) -> AsyncIterator[tuple[ActivityFacts, int]]:
    """Activities that do not have the units that order_rpc gave them."""
    last = ""
    while page := await activities_page(sale_db, after=last, limit=PAGE):
        given = await allocations_of(
            order_db, [(each.merchant_id, each.activity_id) for each in page]
        )
        for activity in page:
            units = given.get((activity.merchant_id, activity.activity_id), 0)
            if units != activity.total and not activity.is_settling:
                yield activity, units
        last = page[-1].activity_id

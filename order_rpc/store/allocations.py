"""Units that flash sales took from the catalogue stock, and every step that took or returned
them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db import expect_one, insert_if_absent
from order_rpc.tables import ALLOCATION, ALLOCATION_STEP


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """What an activity took and gave back in all."""

    merchant_id: str
    activity_id: str
    sku_id: str
    allocated: int
    returned: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of an activity. The same op_id is the same step."""

    merchant_id: str
    op_id: str
    activity_id: str
    kind: str  # ALLOCATE or RETURN
    quantity: int


async def find_step(tx: AsyncConnection, *, merchant_id: str, op_id: str) -> Step | None:
    """An earlier step with this id, or None."""
    of_id = (ALLOCATION_STEP.c.merchant_id == merchant_id) & (ALLOCATION_STEP.c.op_id == op_id)
    row = (await tx.execute(select(ALLOCATION_STEP).where(of_id))).first()
    if row is None:
        return None
    return Step(
        merchant_id=merchant_id,
        op_id=op_id,
        activity_id=row.activity_id,
        kind=row.kind,
        quantity=row.quantity,
    )


async def insert_step(tx: AsyncConnection, step: Step, *, at: datetime) -> None:
    """Writes a step. A second one with this id violates `pk_allocation_step`."""
    await tx.execute(insert(ALLOCATION_STEP).values(**asdict(step), created_at=at))


async def lock_allocation(
    tx: AsyncConnection, *, merchant_id: str, activity_id: str, sku_id: str = "", at: datetime
) -> Allocation | None:
    """What an activity took so far, locked until the end of the transaction; with a SKU it begins
    with nothing when it is new.
    """
    if sku_id:
        new = Allocation(
            merchant_id=merchant_id, activity_id=activity_id, sku_id=sku_id, allocated=0, returned=0
        )
        await insert_if_absent(tx, ALLOCATION, asdict(new) | {"created_at": at, "updated_at": at})
    this = (ALLOCATION.c.merchant_id == merchant_id) & (ALLOCATION.c.activity_id == activity_id)
    row = (await tx.execute(select(ALLOCATION).where(this).with_for_update())).first()
    if row is None:
        return None
    return Allocation(
        merchant_id=merchant_id,
        activity_id=activity_id,
        sku_id=row.sku_id,
        allocated=row.allocated,
        returned=row.returned,
    )


async def save_allocation(tx: AsyncConnection, allocation: Allocation, *, at: datetime) -> None:
    """Writes new sums of a locked row."""
    this = (ALLOCATION.c.merchant_id == allocation.merchant_id) & (
        ALLOCATION.c.activity_id == allocation.activity_id
    )
    expect_one(
        await tx.execute(
            update(ALLOCATION)
            .where(this)
            .values(allocated=allocation.allocated, returned=allocation.returned, updated_at=at)
        )
    )

"""Refunds of orders, and the units that they brought back. Read and written only under the lock of
the order's row.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, and_, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db import expect_one
from mesh.money import Money
from order_rpc.domain.errors import RefundNotFound
from order_rpc.domain.order import Order
from order_rpc.domain.refund import RefundLine, RefundRequest, RefundState
from order_rpc.tables import REFUND_LINE, REFUND_REQUEST, STOCK_RETURN

_REQUEST = REFUND_REQUEST.c
_TEXT_LENGTH_MAX = 200


async def refunds_of(
    tx: AsyncConnection, order: Order, *, after: str = "", limit: int | None = None
) -> list[RefundRequest]:
    """Refunds of an order by id, which is by age, beginning after an id."""
    ours = and_(
        _REQUEST.merchant_id == order.merchant_id,
        _REQUEST.order_id == order.order_id,
        _REQUEST.request_id > after,
    )
    rows = (
        await tx.execute(
            select(REFUND_REQUEST).where(ours).order_by(_REQUEST.request_id).limit(limit)
        )
    ).all()
    if not rows:
        return []
    lines: dict[str, list[RefundLine]] = {}
    of_order = and_(
        REFUND_LINE.c.merchant_id == order.merchant_id, REFUND_LINE.c.order_id == order.order_id
    )
    for line in await tx.execute(
        select(REFUND_LINE).where(of_order).order_by(REFUND_LINE.c.request_id, REFUND_LINE.c.sku_id)
    ):
        lines.setdefault(line.request_id, []).append(
            RefundLine(sku_id=line.sku_id, quantity=line.quantity)
        )
    return [_refund(row, lines.get(row.request_id, [])) for row in rows]


def find(refunds: Sequence[RefundRequest], request_id: str) -> RefundRequest:
    """The refund with an id among those of its order.

    Raises:
        RefundNotFound: there is none.
    """
    for refund in refunds:
        if refund.request_id == request_id:
            return refund
    raise RefundNotFound


async def insert_refund(tx: AsyncConnection, refund: RefundRequest) -> None:
    """Writes a new refund with its lines."""
    key = {
        "merchant_id": refund.merchant_id,
        "order_id": refund.order_id,
        "request_id": refund.request_id,
    }
    await tx.execute(
        insert(REFUND_REQUEST).values(
            **key,
            payment_id=refund.payment_id,
            amount_minor=refund.amount.minor,
            currency=refund.amount.currency,
            reason=refund.reason,
            created_at=refund.created_at,
            **_mutable(refund),
        )
    )
    if refund.lines:
        await tx.execute(
            insert(REFUND_LINE),
            [{**key, "sku_id": line.sku_id, "quantity": line.quantity} for line in refund.lines],
        )


async def save_refund(tx: AsyncConnection, refund: RefundRequest, *, read_version: int) -> None:
    """Writes what a step changed.

    Raises:
        StaleRow: the refund is not at `read_version` any more.
    """
    this = and_(
        _REQUEST.merchant_id == refund.merchant_id,
        _REQUEST.order_id == refund.order_id,
        _REQUEST.request_id == refund.request_id,
        _REQUEST.version == read_version,
    )
    expect_one(await tx.execute(update(REFUND_REQUEST).where(this).values(**_mutable(refund))))


async def record_return(tx: AsyncConnection, refund: RefundRequest, *, at: datetime) -> None:
    """Notes that the units of a refund are back. A second time violates `pk_stock_return`."""
    await tx.execute(
        insert(STOCK_RETURN),
        [
            {
                "merchant_id": refund.merchant_id,
                "order_id": refund.order_id,
                "request_id": refund.request_id,
                "sku_id": line.sku_id,
                "quantity": line.quantity,
                "created_at": at,
            }
            for line in refund.lines
        ],
    )


def _mutable(refund: RefundRequest) -> dict[str, Any]:
    return {
        "state": refund.state,
        "refund_id": refund.refund_id,
        "failure": refund.failure[:_TEXT_LENGTH_MAX],
        "of_sale": refund.of_sale,
        "version": refund.version,
        "succeeded_at": refund.succeeded_at,
        "bounced_at": refund.bounced_at,
        "updated_at": refund.updated_at,
    }


def _refund(row: Row[*tuple[Any, ...]], lines: list[RefundLine]) -> RefundRequest:
    return RefundRequest(
        merchant_id=row.merchant_id,
        order_id=row.order_id,
        request_id=row.request_id,
        payment_id=row.payment_id,
        state=RefundState(row.state),
        amount=Money(row.amount_minor, row.currency),
        lines=tuple(lines),
        reason=row.reason,
        refund_id=row.refund_id,
        failure=row.failure,
        of_sale=row.of_sale,
        version=row.version,
        succeeded_at=row.succeeded_at,
        bounced_at=row.bounced_at,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )

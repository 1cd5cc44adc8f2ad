"""What only merchants' own orders have. Read and written with the row of the order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import bindparam, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.customers import email_digest
from order_rpc.domain.external_order import ExternalDetails, OrderKind
from order_rpc.domain.order import Order
from order_rpc.tables import EXTERNAL_ORDER

_ID_OF = select(EXTERNAL_ORDER.c.order_id).where(
    EXTERNAL_ORDER.c.merchant_id == bindparam("merchant"),
    EXTERNAL_ORDER.c.order_no == bindparam("number"),
)
_INSERT = insert(EXTERNAL_ORDER)
_ERASE = (
    update(EXTERNAL_ORDER)
    .where(
        EXTERNAL_ORDER.c.merchant_id == bindparam("merchant"),
        EXTERNAL_ORDER.c.order_id == bindparam("order"),
    )
    .values(customer="{}", customer_digest=None, erased_at=bindparam("at"))
)


async def order_id_of(tx: AsyncConnection, *, merchant_id: str, order_no: str) -> str | None:
    """Our id of the order with this number of a merchant, or None."""
    found: str | None = (
        await tx.execute(_ID_OF, {"merchant": merchant_id, "number": order_no})
    ).scalar_one_or_none()
    return found


async def insert_details(tx: AsyncConnection, orders: Sequence[Order]) -> None:
    """Writes the details of those of the orders that have some. Violates
    `uq_external_order_order_no` when the merchant used a number before.
    """
    rows = [_row(order, order.external) for order in orders if order.external is not None]
    if rows:
        await tx.execute(_INSERT, rows)


async def details_of(tx: AsyncConnection, heads: Sequence[Any]) -> list[ExternalDetails | None]:
    """The details of each order of one merchant, None for one of the catalogue."""
    wanted = [head.order_id for head in heads if head.kind == OrderKind.EXTERNAL]
    if not wanted:
        return [None] * len(heads)
    rows = await tx.execute(
        select(EXTERNAL_ORDER).where(
            EXTERNAL_ORDER.c.merchant_id == heads[0].merchant_id,
            EXTERNAL_ORDER.c.order_id.in_(wanted),
        )
    )
    found = {row.order_id: _details(row) for row in rows}
    return [found.get(head.order_id) for head in heads]


async def erase(tx: AsyncConnection, order: Order) -> None:
    """Removes what an erased order said of its customer."""
    if order.external is not None:
        await tx.execute(
            _ERASE,
            {
                "merchant": order.merchant_id,
                "order": order.order_id,
                "at": order.external.erased_at,
            },
        )


def _row(order: Order, details: ExternalDetails) -> dict[str, Any]:
    people = {
        "customer_email": details.customer_email,
        "customer_name": details.customer_name,
        "description": details.description,
        "metadata": dict(details.metadata),
        "attributes": {sku: dict(attributes) for sku, attributes in details.attributes.items()},
    }
    return {
        "merchant_id": order.merchant_id,
        "order_id": order.order_id,
        "order_no": details.order_no or None,
        "customer_digest": email_digest(order.merchant_id, details.customer_email) or None,
        "customer": json.dumps(
            {name: value for name, value in people.items() if value}, ensure_ascii=False
        ),
        "notify_url": details.notify_url,
        "created_at": order.created_at,
        "erased_at": details.erased_at,
    }


def _details(row: Any) -> ExternalDetails:
    return ExternalDetails(
        order_no=row.order_no or "",
        notify_url=row.notify_url,
        erased_at=row.erased_at,
        **json.loads(row.customer),
    )

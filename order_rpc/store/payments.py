"""What became of the payments of an order: one row per payment, decided at most once. Read and
written only under the lock of the order's row.
"""

from __future__ import annotations

from sqlalchemy import bindparam, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db import expect_one
from order_rpc.domain.order import Order
from order_rpc.domain.payment import Disposition, KnownPayment
from order_rpc.tables import PAYMENT_DISPOSITION as PAYMENT

_THIS = (
    (PAYMENT.c.merchant_id == bindparam("merchant"))
    & (PAYMENT.c.order_id == bindparam("order"))
    & (PAYMENT.c.payment_id == bindparam("payment"))
)
_FIND = select(
    PAYMENT.c.payment_version,
    PAYMENT.c.payment_state,
    PAYMENT.c.disposition,
    PAYMENT.c.created_at,
    PAYMENT.c.updated_at,
).where(_THIS)
_INSERT = insert(PAYMENT)
_SAVE = (
    update(PAYMENT)
    .where(_THIS, PAYMENT.c.payment_version == bindparam("read_version"))
    .values(
        {
            name: bindparam(f"new_{name}")
            for name in ("payment_version", "payment_state", "disposition", "updated_at")
        }
    )
)


async def find_payment(
    tx: AsyncConnection, order: Order, *, payment_id: str
) -> KnownPayment | None:
    """What we know of a payment, or None when we never heard of it."""
    row = (
        await tx.execute(
            _FIND, {"merchant": order.merchant_id, "order": order.order_id, "payment": payment_id}
        )
    ).first()
    if row is None:
        return None
    return KnownPayment(
        payment_id=payment_id,
        version=row.payment_version,
        state=row.payment_state,
        created_at=row.created_at,
        updated_at=row.updated_at,
        disposition=None if row.disposition is None else Disposition(row.disposition),
    )


async def insert_payment(tx: AsyncConnection, order: Order, payment: KnownPayment) -> None:
    """Writes a payment that we hear of for the first time."""
    await tx.execute(
        _INSERT,
        {
            "merchant_id": order.merchant_id,
            "order_id": order.order_id,
            "payment_id": payment.payment_id,
            "payment_version": payment.version,
            "payment_state": payment.state,
            "disposition": payment.disposition,
            "created_at": payment.created_at,
            "updated_at": payment.updated_at,
        },
    )


async def save_payment(
    tx: AsyncConnection, order: Order, payment: KnownPayment, *, read_version: int
) -> None:
    """Writes a newer snapshot.

    Raises:
        StaleRow: the row is not at `read_version` any more.
    """
    expect_one(
        await tx.execute(
            _SAVE,
            {
                "merchant": order.merchant_id,
                "order": order.order_id,
                "payment": payment.payment_id,
                "read_version": read_version,
                "new_payment_version": payment.version,
                "new_payment_state": payment.state,
                "new_disposition": payment.disposition,
                "new_updated_at": payment.updated_at,
            },
        )
    )

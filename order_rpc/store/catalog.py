"""Products with their stock. Products are public to read; `touch_product` only reaches those of the
caller's own shop.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Row, Select, bindparam, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.bad_rows import readable_page
from mesh.call import Caller
from mesh.db import expect_one
from mesh.log_chain import chained
from mesh.money import Money, stored_currency
from order_rpc.domain.errors import ProductNotFound
from order_rpc.domain.product import Movement, MovementKind, Product, Stock
from order_rpc.tables import MOVEMENT_LOG, PRODUCT, STOCK, STOCK_MOVEMENT

_COLUMNS = (
    PRODUCT.c.merchant_id,
    PRODUCT.c.sku_id,
    PRODUCT.c.name,
    PRODUCT.c.price_minor,
    PRODUCT.c.currency,
    PRODUCT.c.first_available,
    PRODUCT.c.on_sale,
    PRODUCT.c.created_at,
    PRODUCT.c.updated_at,
    STOCK.c.available,
    STOCK.c.reserved,
    STOCK.c.sold,
    STOCK.c.allocated,
)
_PRODUCTS = select(*_COLUMNS).join(
    STOCK, (STOCK.c.merchant_id == PRODUCT.c.merchant_id) & (STOCK.c.sku_id == PRODUCT.c.sku_id)
)
_BY_SKU = _PRODUCTS.where(
    PRODUCT.c.merchant_id == bindparam("merchant"),
    PRODUCT.c.sku_id.in_(bindparam("skus", expanding=True)),
)


async def find_product(tx: AsyncConnection, *, merchant_id: str, sku_id: str) -> Product | None:
    """A product, or None."""
    return (await find_products(tx, merchant_id=merchant_id, sku_ids=[sku_id])).get(sku_id)


async def get_product(tx: AsyncConnection, *, merchant_id: str, sku_id: str) -> Product:
    """A product.

    Raises:
        ProductNotFound: there is none.
    """
    product = await find_product(tx, merchant_id=merchant_id, sku_id=sku_id)
    if product is None:
        raise ProductNotFound(sku_id=sku_id)
    return product


async def find_products(
    tx: AsyncConnection, *, merchant_id: str, sku_ids: Collection[str]
) -> dict[str, Product]:
    """Those of the named products that exist, by SKU."""
    rows = await tx.execute(_BY_SKU, {"merchant": merchant_id, "skus": list(sku_ids)})
    return {row.sku_id: _product(row) for row in rows}


def page_statement(
    *, merchant_id: str, after_sku_id: str, limit: int, with_hidden: bool = True
) -> Select[*tuple[Any, ...]]:
    """The query of one page of products by SKU; a test reads its EXPLAIN. `after_sku_id` is "" on
    the first page.
    """
    shown = [] if with_hidden else [PRODUCT.c.on_sale]
    return (
        _PRODUCTS.where(
            PRODUCT.c.merchant_id == merchant_id, PRODUCT.c.sku_id > after_sku_id, *shown
        )
        .order_by(PRODUCT.c.merchant_id, PRODUCT.c.sku_id)
        .limit(limit)
    )


async def list_products(
    tx: AsyncConnection, *, merchant_id: str, after_sku_id: str, limit: int, with_hidden: bool
) -> list[Product]:
    """Products of a merchant by SKU, beginning after `after_sku_id`; without `with_hidden` only
    those on sale.
    """

    async def fetch(last: Any, wanted: int) -> Sequence[Any]:
        after = after_sku_id if last is None else last.sku_id
        return (
            await tx.execute(
                page_statement(
                    merchant_id=merchant_id,
                    after_sku_id=after,
                    limit=wanted,
                    with_hidden=with_hidden,
                )
            )
        ).all()

    return await readable_page(
        fetch, _product, of="product", key=lambda row: row.sku_id, limit=limit
    )


async def insert_product(tx: AsyncConnection, product: Product) -> None:
    """Writes a product and its first stock. A product with this key violates `pk_product`."""
    await tx.execute(
        insert(PRODUCT).values(
            merchant_id=product.merchant_id,
            sku_id=product.sku_id,
            name=product.name,
            price_minor=product.price.minor,
            currency=product.price.currency,
            first_available=product.first_available,
            on_sale=product.on_sale,
            created_at=product.created_at,
            updated_at=product.updated_at,
        )
    )
    await tx.execute(
        insert(STOCK).values(
            merchant_id=product.merchant_id,
            sku_id=product.sku_id,
            available=product.stock.available,
            reserved=product.stock.reserved,
            sold=product.stock.sold,
            allocated=product.stock.allocated,
        )
    )


async def touch_product(
    tx: AsyncConnection,
    *,
    merchant_id: str,
    sku_id: str,
    visible_to: Caller,
    changes: Mapping[str, Any],
) -> None:
    """Changes a product of the caller's shop and locks it; its stock is locked after it, never
    before.

    Raises:
        ProductNotFound: there is none, or it belongs to another shop.
    """
    touched = (
        update(PRODUCT)
        .where(PRODUCT.c.merchant_id == merchant_id, PRODUCT.c.sku_id == sku_id)
        .values(**changes)
    )
    own_merchant_id = visible_to.scope().merchant_id
    if own_merchant_id is not None:
        touched = touched.where(PRODUCT.c.merchant_id == own_merchant_id)
    if (await tx.execute(touched)).rowcount != 1:
        raise ProductNotFound(sku_id=sku_id)


async def lock_stock(tx: AsyncConnection, *, merchant_id: str, sku_id: str) -> Stock:
    """The units of a product, locked until the end of the transaction.

    Raises:
        ProductNotFound: there is none.
    """
    wanted = select(STOCK).where(STOCK.c.merchant_id == merchant_id, STOCK.c.sku_id == sku_id)
    row = (await tx.execute(wanted.with_for_update())).first()
    if row is None:
        raise ProductNotFound(sku_id=sku_id)
    return Stock(
        available=row.available, reserved=row.reserved, sold=row.sold, allocated=row.allocated
    )


async def move_stock(tx: AsyncConnection, movement: Movement, *, trace_id: str) -> Movement:
    """Writes the stock that a movement leaves, and the movement itself. The stock is locked."""
    values: dict[str, Any] = {"available": movement.available_after}
    if movement.kind in (MovementKind.ALLOCATE, MovementKind.RETURN_ALLOCATION):
        values["allocated"] = STOCK.c.allocated - movement.quantity
    expect_one(
        await tx.execute(
            update(STOCK)
            .where(STOCK.c.merchant_id == movement.merchant_id, STOCK.c.sku_id == movement.sku_id)
            .values(**values)
        )
    )
    return await log_movement(tx, movement, trace_id=trace_id)


async def log_movement(tx: AsyncConnection, movement: Movement, *, trace_id: str) -> Movement:
    """Adds one line to the log of a product's stock."""
    [line] = await chained(
        tx,
        MOVEMENT_LOG,
        [
            {
                "merchant_id": movement.merchant_id,
                "sku_id": movement.sku_id,
                "kind": movement.kind,
                "quantity": movement.quantity,
                "available_after": movement.available_after,
                "reason": movement.reason,
                "operator": movement.operator,
                "reference": movement.reference,
                "trace_id": trace_id,
                "created_at": movement.created_at,
            }
        ],
        begins=movement.kind is MovementKind.INITIAL,
    )
    written: Any = await tx.execute(insert(STOCK_MOVEMENT).values(line))
    return replace(movement, movement_id=int(written.inserted_primary_key[0]))


def movements_statement(
    *, merchant_id: str, sku_id: str, before: int | None, limit: int
) -> Select[*tuple[Any, ...]]:
    """The query of one page of movements; a test reads its EXPLAIN."""
    log = STOCK_MOVEMENT.c
    wanted = [
        log.merchant_id == merchant_id,
        log.sku_id == sku_id,
        *([] if before is None else [log.id < before]),
    ]
    return select(STOCK_MOVEMENT).where(*wanted).order_by(log.id.desc()).limit(limit)


async def list_movements(
    tx: AsyncConnection, *, merchant_id: str, sku_id: str, before: int | None, limit: int
) -> list[Movement]:
    """Movements of a product's stock, newest first, older than one."""
    return [
        Movement(
            movement_id=row.id,
            merchant_id=row.merchant_id,
            sku_id=row.sku_id,
            kind=MovementKind(row.kind),
            quantity=row.quantity,
            available_after=row.available_after,
            reason=row.reason,
            operator=row.operator,
            reference=row.reference,
            created_at=row.created_at,
        )
        for row in await tx.execute(
            movements_statement(merchant_id=merchant_id, sku_id=sku_id, before=before, limit=limit)
        )
    ]


def _product(row: Row[*tuple[Any, ...]]) -> Product:
    return Product(
        merchant_id=row.merchant_id,
        sku_id=row.sku_id,
        name=row.name,
        price=Money(row.price_minor, stored_currency(row.currency)),
        on_sale=row.on_sale,
        first_available=row.first_available,
        stock=Stock(
            available=row.available, reserved=row.reserved, sold=row.sold, allocated=row.allocated
        ),
        created_at=row.created_at,
        updated_at=row.updated_at,
    )

"""Products with their stock. Products are public to read; `set_available` only reaches those of the caller's own shop."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, bindparam, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.call import Caller
from mesh.db import expect_one
from mesh.money import Money
from order_rpc.domain.errors import ProductNotFound
from order_rpc.domain.product import Product, Stock
from order_rpc.tables import PRODUCT, STOCK

_COLUMNS = (
    PRODUCT.c.merchant_id, PRODUCT.c.sku_id, PRODUCT.c.name, PRODUCT.c.price_minor, PRODUCT.c.currency, PRODUCT.c.first_available,
    PRODUCT.c.created_at, PRODUCT.c.updated_at, STOCK.c.available, STOCK.c.reserved, STOCK.c.sold,
)
_PRODUCTS = select(*_COLUMNS).join(STOCK, (STOCK.c.merchant_id == PRODUCT.c.merchant_id) & (STOCK.c.sku_id == PRODUCT.c.sku_id))
_BY_SKU = _PRODUCTS.where(PRODUCT.c.merchant_id == bindparam("merchant"), PRODUCT.c.sku_id.in_(bindparam("skus", expanding=True)))


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


async def find_products(tx: AsyncConnection, *, merchant_id: str, sku_ids: Collection[str]) -> dict[str, Product]:
    """Those of the named products that exist, by SKU."""
    rows = await tx.execute(_BY_SKU, {"merchant": merchant_id, "skus": list(sku_ids)})
    return {row.sku_id: _product(row) for row in rows}


def page_statement(*, merchant_id: str, after_sku_id: str, limit: int) -> Select[*tuple[Any, ...]]:
    """The query of one page of products by SKU; a test reads its EXPLAIN. `after_sku_id` is "" on the first page."""
    return (_PRODUCTS.where(PRODUCT.c.merchant_id == merchant_id, PRODUCT.c.sku_id > after_sku_id)
            .order_by(PRODUCT.c.merchant_id, PRODUCT.c.sku_id).limit(limit))


async def list_products(tx: AsyncConnection, *, merchant_id: str, after_sku_id: str, limit: int) -> list[Product]:
    """Products of a merchant by SKU, beginning after `after_sku_id`."""
    return [_product(row) for row in await tx.execute(page_statement(merchant_id=merchant_id, after_sku_id=after_sku_id, limit=limit))]


async def insert_product(tx: AsyncConnection, product: Product) -> None:
    """Writes a product and its first stock. A product with this key violates `pk_product`."""
    await tx.execute(insert(PRODUCT).values(
        merchant_id=product.merchant_id, sku_id=product.sku_id, name=product.name, price_minor=product.price.minor,
        currency=product.price.currency, first_available=product.first_available, created_at=product.created_at, updated_at=product.updated_at))
    await tx.execute(insert(STOCK).values(
        merchant_id=product.merchant_id, sku_id=product.sku_id, available=product.stock.available, reserved=product.stock.reserved,
        sold=product.stock.sold))


async def set_available(tx: AsyncConnection, *, merchant_id: str, sku_id: str, available: int, at: datetime, visible_to: Caller) -> None:
    """Sets how many units may be ordered from now on; reserved and sold units stay as they are.

    Raises:
        ProductNotFound: there is none, or it belongs to another shop.
    """
    touched = update(PRODUCT).where(PRODUCT.c.merchant_id == merchant_id, PRODUCT.c.sku_id == sku_id).values(updated_at=at)
    own_merchant_id = visible_to.scope().merchant_id
    if own_merchant_id is not None:
        touched = touched.where(PRODUCT.c.merchant_id == own_merchant_id)
    if (await tx.execute(touched)).rowcount != 1:
        raise ProductNotFound(sku_id=sku_id)
    expect_one(await tx.execute(update(STOCK).where(STOCK.c.merchant_id == merchant_id, STOCK.c.sku_id == sku_id).values(available=available)))


def _product(row: Row[*tuple[Any, ...]]) -> Product:
    return Product(
        merchant_id=row.merchant_id, sku_id=row.sku_id, name=row.name, price=Money(row.price_minor, row.currency),
        first_available=row.first_available, stock=Stock(available=row.available, reserved=row.reserved, sold=row.sold),
        created_at=row.created_at, updated_at=row.updated_at)

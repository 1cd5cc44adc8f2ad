"""The catalogue of a shop: products, their prices and how many units are there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh import receipts
from mesh.call import Caller, mark_replayed
from mesh.clock import Clock
from mesh.db import Database
from mesh.money import Money
from mesh.paging import PageTokens, page_size
from mesh.receipts import ReceiptKey
from order_rpc.domain.product import Product, Stock
from order_rpc.store import catalog
from order_rpc.usecases.orders import operator


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateProduct:
    """A new product with its first stock. `merchant_id` was checked against the caller."""

    merchant_id: str
    sku_id: str
    name: str
    price: Money
    available: int
    idempotency_key: str           # "" leaves it to the SKU to be created once
    fingerprint: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListProducts:
    """Which products to show: those of a merchant, by SKU."""

    merchant_id: str
    page_size: int   # 0 means the default
    page_token: str  # "" means the first page


class Catalog:
    """CreateProduct, ListProducts, GetProduct, SetStock."""

    def __init__(self, *, db: Database, clock: Clock, page_tokens: PageTokens) -> None:
        self._db = db
        self._page_tokens = page_tokens
        self._clock = clock

    async def create_product(self, command: CreateProduct, caller: Caller) -> Product:
        """Adds a product; the same content again answers the product that is there, as it is now (with an idempotency key: as it was then).

        Raises:
            ProductAlreadyExists: its SKU is taken by other content; names the differing fields. IdempotencyKeyReused.
        """
        product, is_replay = await self._db.run(self._create_product, command, caller)
        if is_replay:
            mark_replayed()
        return product

    async def get_product(self, *, merchant_id: str, sku_id: str) -> Product:
        """A product.

        Raises:
            ProductNotFound: there is none.
        """
        return await self._db.read(catalog.get_product, merchant_id=merchant_id, sku_id=sku_id)

    async def list_products(self, query: ListProducts) -> tuple[tuple[Product, ...], str]:
        """One page of products and the token of the next one, "" after the last.

        Raises:
            PageTokenInvalid: the token was not made by us, or for another list or merchant.
        """
        selection = {"merchant_id": query.merchant_id}
        limit = page_size(query.page_size)
        after = self._page_tokens.decode(query.page_token, list_name="ListProducts", filter=selection, types=(str,))
        found = await self._db.read(catalog.list_products, merchant_id=query.merchant_id, after_sku_id=str(after[0]) if after else "",
                                    limit=limit + 1)
        shown, rest = tuple(found[:limit]), found[limit:]
        if not rest:
            return shown, ""
        return shown, self._page_tokens.encode(list_name="ListProducts", filter=selection, key=(shown[-1].sku_id,))

    async def set_stock(self, *, merchant_id: str, sku_id: str, available: int, caller: Caller) -> Product:
        """Sets how many units may be ordered from now on; reserved and sold units stay as they are.

        Raises:
            ProductNotFound: there is none, or it belongs to another shop.
        """
        return await self._db.run(self._set_stock, merchant_id=merchant_id, sku_id=sku_id, available=available, caller=caller)

    async def _create_product(self, tx: AsyncConnection, command: CreateProduct, caller: Caller) -> tuple[Product, bool]:
        now = self._clock.now()
        key = ReceiptKey(merchant_id=command.merchant_id, caller=operator(caller), method="CreateProduct", key=command.idempotency_key)
        if key.key:
            receipt = await receipts.find(tx, key, fingerprint=command.fingerprint)
            if receipt is not None and receipt.answer is not None:
                return _from_answer(receipt.answer), True
        wanted = Product.create(merchant_id=command.merchant_id, sku_id=command.sku_id, name=command.name, price=command.price,
                                available=command.available, at=now)
        product = await catalog.find_product(tx, merchant_id=command.merchant_id, sku_id=command.sku_id)
        if product is None:
            product = wanted
            await catalog.insert_product(tx, product)
        else:
            product.require_same_content(wanted)
        if key.key:
            # The answer stands in the receipt, so nothing needs to be bound; a SKU may be longer than the column.
            await receipts.claim(tx, key, fingerprint=command.fingerprint, resource_id="", now=now, retention=receipts.OTHER_RETENTION,
                                 answer=_answer(product))
        return product, False

    async def _set_stock(self, tx: AsyncConnection, *, merchant_id: str, sku_id: str, available: int, caller: Caller) -> Product:
        await catalog.set_available(tx, merchant_id=merchant_id, sku_id=sku_id, available=available, at=self._clock.now(), visible_to=caller)
        return await catalog.get_product(tx, merchant_id=merchant_id, sku_id=sku_id)


def _answer(product: Product) -> str:
    """The product as it was answered, because all of it may change."""
    return json.dumps({
        "merchant_id": product.merchant_id, "sku_id": product.sku_id, "name": product.name, "price_minor": product.price.minor,
        "currency": product.price.currency, "first_available": product.first_available,
        "stock": [product.stock.available, product.stock.reserved, product.stock.sold],
        "created_at": product.created_at.isoformat(), "updated_at": product.updated_at.isoformat(),
    })


def _from_answer(answer: str) -> Product:
    first = json.loads(answer)
    available, reserved, sold = first["stock"]
    return Product(
        merchant_id=first["merchant_id"], sku_id=first["sku_id"], name=first["name"], price=Money(first["price_minor"], first["currency"]),
        first_available=first["first_available"], stock=Stock(available=available, reserved=reserved, sold=sold),
        created_at=datetime.fromisoformat(first["created_at"]), updated_at=datetime.fromisoformat(first["updated_at"]))

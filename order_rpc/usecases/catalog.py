"""The catalogue of a shop: products and their prices."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh import idempotency
from mesh.call import Caller, current_trace_id, mark_replayed
from mesh.clock import Clock
from mesh.db import Database
from mesh.idempotency import IdempotencyKey
from mesh.money import Money, RequestedAmount
from mesh.paging import Key, PageTokens
from order_rpc.domain.errors import ProductNotFound
from order_rpc.domain.product import MovementKind, Product, Stock
from order_rpc.store import catalog
from order_rpc.usecases.catalog_stock import movement_of


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateProduct:
    """A new product with its first stock. `merchant_id` was checked against the caller."""

    merchant_id: str
    sku_id: str
    name: str
    price: Money
    available: int
    idempotency_key: str  # "" leaves it to the SKU to be created once
    fingerprint: Mapping[str, str]
    on_sale: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateProduct:
    """What changes of a product; None stays. `price` is in the product's currency."""

    merchant_id: str
    sku_id: str
    name: str | None = None
    price: RequestedAmount | None = None
    on_sale: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ListProducts:
    """Which products to show: those of a merchant, by SKU."""

    merchant_id: str
    page_size: int  # 0 means the default
    page_token: str  # "" means the first page
    with_hidden: bool = True  # also those that are not on sale


class Catalog:
    """CreateProduct, UpdateProduct, ListProducts, GetProduct, GetStock."""

    def __init__(self, *, db: Database, clock: Clock, page_tokens: PageTokens) -> None:
        self._db = db
        self._page_tokens = page_tokens
        self._clock = clock

    async def create_product(self, command: CreateProduct, caller: Caller) -> Product:
        """Adds a product; the same content again answers the product that is there, as it is now
        (with an idempotency key: as it was then).

        Raises:
            ProductAlreadyExists: its SKU is taken by other content; names the differing fields.
                IdempotencyKeyReused.
        """
        product, is_replay = await self._db.run(self._create_product, command, caller)
        if is_replay:
            mark_replayed()
        return product

    async def get_product(
        self, *, merchant_id: str, sku_id: str, with_hidden: bool = True
    ) -> Product:
        """A product; without `with_hidden` only one that is on sale.

        Raises:
            ProductNotFound: there is none.
        """
        product = await self._db.read(catalog.get_product, merchant_id=merchant_id, sku_id=sku_id)
        if not (product.on_sale or with_hidden):
            raise ProductNotFound(f"there is no product {sku_id}", sku_id=sku_id)
        return product

    async def list_products(self, query: ListProducts) -> tuple[tuple[Product, ...], str]:
        """One page of products and the token of the next one, "" after the last.

        Raises:
            PageTokenInvalid: the token was not made by us, or for another list or merchant.
        """

        async def read(after: tuple[Key, ...] | None, limit: int) -> Sequence[Product]:
            return await self._db.read(
                catalog.list_products,
                merchant_id=query.merchant_id,
                after_sku_id=str(after[0]) if after else "",
                limit=limit,
                with_hidden=query.with_hidden,
            )

        return await self._page_tokens.page(
            read,
            list_name="ListProducts",
            filter={"merchant_id": query.merchant_id},
            types=(str,),
            size=query.page_size,
            token=query.page_token,
            key=lambda product: (product.sku_id,),
        )

    async def update_product(self, command: UpdateProduct, caller: Caller) -> Product:
        """Changes a product. Orders that exist keep the name and the price that they were made
        with.

        Raises:
            ProductNotFound: there is none, or it belongs to another shop. InvalidArgument: no price
                of its currency.
        """
        return await self._db.run(self._update_product, command, caller)

    async def _create_product(
        self, tx: AsyncConnection, command: CreateProduct, caller: Caller
    ) -> tuple[Product, bool]:
        now = self._clock.now()
        key = IdempotencyKey(
            merchant_id=command.merchant_id,
            caller=caller.key,
            method="CreateProduct",
            key=command.idempotency_key,
        )
        # Before the idempotency record: a product that another call with this key has made is never
        # seen without its record.
        product = await catalog.find_product(
            tx, merchant_id=command.merchant_id, sku_id=command.sku_id
        )
        if key.key:
            record = await idempotency.find(tx, key, fingerprint=command.fingerprint)
            if record is not None and record.answer is not None:
                return _from_answer(record.answer), True
        wanted = Product.create(
            merchant_id=command.merchant_id,
            sku_id=command.sku_id,
            name=command.name,
            price=command.price,
            available=command.available,
            at=now,
            on_sale=command.on_sale,
        )
        if product is None:
            product = wanted
            await catalog.insert_product(tx, product)
            first = movement_of(
                product,
                MovementKind.INITIAL,
                quantity=command.available,
                available_after=command.available,
                caller=caller,
                at=now,
            )
            await catalog.log_movement(tx, first, trace_id=current_trace_id())
        else:
            product.require_same_content(wanted)
        if key.key:
            # The record keeps the whole answer, so that the id says nothing: a SKU may be longer
            # than the column, and an empty id means that the call was withdrawn.
            await idempotency.claim(
                tx,
                key,
                fingerprint=command.fingerprint,
                resource_id="product",
                now=now,
                retention=idempotency.OTHER_RETENTION,
                answer=_answer(product),
            )
        return product, False

    async def _update_product(
        self, tx: AsyncConnection, command: UpdateProduct, caller: Caller
    ) -> Product:
        changes: dict[str, object] = {"updated_at": self._clock.now()}
        if command.name is not None:
            changes["name"] = command.name
        if command.on_sale is not None:
            changes["on_sale"] = command.on_sale
        if command.price is not None:
            product = await catalog.get_product(
                tx, merchant_id=command.merchant_id, sku_id=command.sku_id
            )
            currency = product.price.currency
            price = command.price.spelled_in(currency)
            changes["price_minor"] = price.in_currency(
                currency, field="price", allow_zero=True
            ).minor
        await catalog.touch_product(
            tx,
            merchant_id=command.merchant_id,
            sku_id=command.sku_id,
            visible_to=caller,
            changes=changes,
        )
        return await catalog.get_product(tx, merchant_id=command.merchant_id, sku_id=command.sku_id)


def _answer(product: Product) -> str:
    """The product as it was answered; all of it may change."""
    return json.dumps(
        {
            "merchant_id": product.merchant_id,
            "sku_id": product.sku_id,
            "name": product.name,
            "price_minor": product.price.minor,
            "currency": product.price.currency,
            "on_sale": product.on_sale,
            "first_available": product.first_available,
            "stock": [
                product.stock.available,
                product.stock.reserved,
                product.stock.sold,
                product.stock.allocated,
            ],
            "created_at": product.created_at.isoformat(),
            "updated_at": product.updated_at.isoformat(),
        }
    )


def _from_answer(answer: str) -> Product:
    first = json.loads(answer)
    # answers of an earlier version have three
    available, reserved, sold, *allocated = first["stock"]
    return Product(
        merchant_id=first["merchant_id"],
        sku_id=first["sku_id"],
        name=first["name"],
        price=Money(first["price_minor"], first["currency"]),
        on_sale=first.get("on_sale", True),
        first_available=first["first_available"],
        stock=Stock(available=available, reserved=reserved, sold=sold, allocated=sum(allocated)),
        created_at=datetime.fromisoformat(first["created_at"]),
        updated_at=datetime.fromisoformat(first["updated_at"]),
    )

"""The catalogue of a shop: products, their prices and how many units are there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh import idempotency
from mesh.call import Caller, current_trace_id, mark_replayed
from mesh.clock import Clock
from mesh.db import Database, StaleRow
from mesh.idempotency import IdempotencyKey
from mesh.money import Money
from mesh.paging import PageTokens, page_size
from order_rpc.domain.errors import ProductNotFound, StockStateInvalid
from order_rpc.domain.product import Movement, MovementKind, Product, Stock
from order_rpc.store import catalog
from order_rpc.usecases.journal import operator


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
    """What changes of a product; None stays. `price` is in major units of the product's
    currency.
    """

    merchant_id: str
    sku_id: str
    name: str | None = None
    price: str | None = None
    on_sale: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AdjustStock:
    """Units to add to those available; negative takes away."""

    merchant_id: str
    sku_id: str
    quantity: int
    reason: str
    idempotency_key: str  # "" adjusts with every call
    fingerprint: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListProducts:
    """Which products to show: those of a merchant, by SKU."""

    merchant_id: str
    page_size: int  # 0 means the default
    page_token: str  # "" means the first page
    with_hidden: bool = True  # also those that are not on sale


class Catalog:
    """CreateProduct, UpdateProduct, ListProducts, GetProduct, GetStock, SetStock, AdjustStock,
    ListStockMovements.
    """

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
        selection = {"merchant_id": query.merchant_id}
        limit = page_size(query.page_size)
        after = self._page_tokens.decode(
            query.page_token, list_name="ListProducts", filter=selection, types=(str,)
        )
        found = await self._db.read(
            catalog.list_products,
            merchant_id=query.merchant_id,
            after_sku_id=str(after[0]) if after else "",
            limit=limit + 1,
            with_hidden=query.with_hidden,
        )
        shown, rest = tuple(found[:limit]), found[limit:]
        if not rest:
            return shown, ""
        return shown, self._page_tokens.encode(
            list_name="ListProducts", filter=selection, key=(shown[-1].sku_id,)
        )

    async def set_stock(
        self, *, merchant_id: str, sku_id: str, available: int, caller: Caller
    ) -> Product:
        """Sets how many units may be ordered from now on; what orders and flash sales hold stays as
        it is.

        Raises:
            ProductNotFound: there is none, or it belongs to another shop.
        """
        return await self._db.run(
            self._set_stock,
            merchant_id=merchant_id,
            sku_id=sku_id,
            available=available,
            caller=caller,
        )

    async def update_product(self, command: UpdateProduct, caller: Caller) -> Product:
        """Changes a product. Orders that exist keep the name and the price that they were made
        with.

        Raises:
            ProductNotFound: there is none, or it belongs to another shop. InvalidArgument: no price
                of its currency.
        """
        return await self._db.run(self._update_product, command, caller)

    async def adjust_stock(self, command: AdjustStock, caller: Caller) -> Movement:
        """Adds units to those available, or takes some away, and keeps why.

        Raises:
            ProductNotFound: there is none, or it belongs to another shop. StockStateInvalid: fewer
                are available. IdempotencyKeyReused.
        """
        movement, is_replay = await self._db.run(self._adjust_stock, command, caller)
        if is_replay:
            mark_replayed()
        return movement

    async def list_movements(
        self, *, merchant_id: str, sku_id: str, requested_size: int, page_token: str
    ) -> tuple[tuple[Movement, ...], str]:
        """One page of what people, flash sales and refunds did to a shelf, newest first, and the
        token of the next one.

        Raises:
            PageTokenInvalid.
        """
        selection = {"merchant_id": merchant_id, "sku_id": sku_id}
        limit = page_size(requested_size)
        before = self._page_tokens.decode(
            page_token, list_name="ListStockMovements", filter=selection, types=(int,)
        )
        found = await self._db.read(
            catalog.list_movements,
            merchant_id=merchant_id,
            sku_id=sku_id,
            before=int(before[0]) if before else None,
            limit=limit + 1,
        )
        shown, rest = tuple(found[:limit]), found[limit:]
        token = (
            self._page_tokens.encode(
                list_name="ListStockMovements", filter=selection, key=(shown[-1].movement_id,)
            )
            if rest
            else ""
        )
        return shown, token

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
        # seen without its idempotency record.
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
            first = self._movement(
                product,
                MovementKind.INITIAL,
                quantity=command.available,
                available_after=command.available,
                caller=caller,
            )
            await catalog.log_movement(tx, first, trace_id=current_trace_id())
        else:
            product.require_same_content(wanted)
        if key.key:
            # The answer stands in the idempotency record; a SKU may be longer than the column, and
            # an empty one means that the call was taken back.
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
            changes["price_minor"] = Money.parse(
                command.price, product.price.currency, field="price", allow_zero=True
            ).minor
        await catalog.touch_product(
            tx,
            merchant_id=command.merchant_id,
            sku_id=command.sku_id,
            visible_to=caller,
            changes=changes,
        )
        return await catalog.get_product(tx, merchant_id=command.merchant_id, sku_id=command.sku_id)

    async def _set_stock(
        self, tx: AsyncConnection, *, merchant_id: str, sku_id: str, available: int, caller: Caller
    ) -> Product:
        changes = {"updated_at": self._clock.now()}
        await catalog.touch_product(
            tx, merchant_id=merchant_id, sku_id=sku_id, visible_to=caller, changes=changes
        )
        stock = await catalog.lock_stock(tx, merchant_id=merchant_id, sku_id=sku_id)
        product = await catalog.get_product(tx, merchant_id=merchant_id, sku_id=sku_id)
        if available != stock.available:
            await catalog.move_stock(
                tx,
                self._movement(
                    product,
                    MovementKind.SET,
                    quantity=available - stock.available,
                    available_after=available,
                    caller=caller,
                ),
                trace_id=current_trace_id(),
            )
        return await catalog.get_product(tx, merchant_id=merchant_id, sku_id=sku_id)

    async def _adjust_stock(
        self, tx: AsyncConnection, command: AdjustStock, caller: Caller
    ) -> tuple[Movement, bool]:
        now = self._clock.now()
        key = IdempotencyKey(
            merchant_id=command.merchant_id,
            caller=caller.key,
            method="AdjustStock",
            key=command.idempotency_key,
        )
        record = (
            await idempotency.find(tx, key, fingerprint=command.fingerprint) if key.key else None
        )
        if record is not None and record.answer is not None:
            return _movement_from_answer(record.answer), True
        await catalog.touch_product(
            tx,
            merchant_id=command.merchant_id,
            sku_id=command.sku_id,
            visible_to=caller,
            changes={"updated_at": now},
        )
        product = await catalog.get_product(
            tx, merchant_id=command.merchant_id, sku_id=command.sku_id
        )
        stock = await catalog.lock_stock(tx, merchant_id=command.merchant_id, sku_id=command.sku_id)
        left = stock.available + command.quantity
        if left < 0:
            if key.key and await idempotency.find(tx, key, fingerprint=command.fingerprint):
                # another call with this key took them: run again, to give its answer
                raise StaleRow
            raise StockStateInvalid(
                f"available units of {command.sku_id}: {stock.available}",
                fields={"quantity": f"{stock.available} are available"},
                sku_id=command.sku_id,
                available=stock.available,
            )
        movement = await catalog.move_stock(
            tx,
            self._movement(
                product,
                MovementKind.ADJUST,
                quantity=command.quantity,
                available_after=left,
                caller=caller,
                reason=command.reason,
            ),
            trace_id=current_trace_id(),
        )
        if key.key:
            await idempotency.claim(
                tx,
                key,
                fingerprint=command.fingerprint,
                resource_id=str(movement.movement_id),
                now=now,
                retention=idempotency.OTHER_RETENTION,
                answer=_movement_answer(movement),
            )
        return movement, False

    def _movement(
        self,
        product: Product,
        kind: MovementKind,
        *,
        quantity: int,
        available_after: int,
        caller: Caller,
        reason: str = "",
    ) -> Movement:
        return Movement(
            movement_id=0,
            merchant_id=product.merchant_id,
            sku_id=product.sku_id,
            kind=kind,
            quantity=quantity,
            available_after=available_after,
            reason=reason,
            operator=operator(caller),
            reference="",
            created_at=self._clock.now(),
        )


def _movement_answer(movement: Movement) -> str:
    return json.dumps({**asdict(movement), "created_at": movement.created_at.isoformat()})


def _movement_from_answer(answer: str) -> Movement:
    first = json.loads(answer)
    return Movement(
        **{
            **first,
            "kind": MovementKind(first["kind"]),
            "created_at": datetime.fromisoformat(first["created_at"]),
        }
    )


def _answer(product: Product) -> str:
    """The product as it was answered, because all of it may change."""
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
    # an answer of the version before has three
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

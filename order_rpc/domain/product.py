"""A product: what a shop sells, at which price, and how many units are there."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from mesh.money import Money, RequestedAmount
from order_rpc.domain.errors import OutOfStock, PriceChanged, ProductAlreadyExists, ProductNotOnSale


@dataclass(frozen=True, slots=True, kw_only=True)
class Stock:
    """Units of one SKU. Their sum changes only when somebody sets or adjusts `available`."""

    available: int  # may be ordered
    reserved: int  # held by unpaid orders
    sold: int  # held by paid orders
    allocated: int = 0  # handed to flash sales, and not back


class MovementKind(StrEnum):
    """What a movement of stock was."""

    INITIAL = "INITIAL"  # the first stock of a product
    SET = "SET"  # somebody counted
    ADJUST = "ADJUST"  # somebody added or took away
    ALLOCATE = "ALLOCATE"  # a flash sale took units
    RETURN_ALLOCATION = "RETURN_ALLOCATION"  # a flash sale gave units back
    REFUND = "REFUND"  # a refund brought units back


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """One change of the units available, as it stands in the log for ever. What orders hold stands
    with the orders.
    """

    movement_id: int  # 0 before it is written; ascends
    merchant_id: str
    sku_id: str
    kind: MovementKind
    quantity: int  # units added, negative for units taken
    available_after: int
    reason: str
    operator: str
    reference: str  # refund, activity or order that it is about
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """One thing to buy, identified by (merchant_id, sku_id)."""

    merchant_id: str
    sku_id: str
    name: str
    price: Money
    on_sale: bool
    # the stock that it was created with: part of what "the same content again" means
    first_available: int
    stock: Stock
    created_at: datetime
    updated_at: datetime

    @classmethod
    def create(
        cls,
        *,
        merchant_id: str,
        sku_id: str,
        name: str,
        price: Money,
        available: int,
        at: datetime,
        on_sale: bool = True,
    ) -> Product:
        """A new product with its first stock."""
        return cls(
            merchant_id=merchant_id,
            sku_id=sku_id,
            name=name,
            price=price,
            on_sale=on_sale,
            first_available=available,
            stock=Stock(available=available, reserved=0, sold=0),
            created_at=at,
            updated_at=at,
        )

    def require_same_content(self, other: Product) -> None:
        """Checks that another creation of this product asks for what is there.

        Raises:
            ProductAlreadyExists: it does not; names the differing fields as the request calls them.
        """
        pairs = {
            "name": (self.name, other.name),
            "price": (self.price.minor, other.price.minor),
            "currency": (self.price.currency, other.price.currency),
            "available": (self.first_available, other.first_available),
        }
        differing = sorted(field for field, (ours, theirs) in pairs.items() if ours != theirs)
        if differing:
            raise ProductAlreadyExists(
                f"product {self.sku_id} exists with another {', '.join(differing)}",
                fields=dict.fromkeys(differing, "differs from the product that exists"),
                sku_id=self.sku_id,
            )

    def require_price(self, seen: RequestedAmount, *, field: str) -> None:
        """Checks the unit price that a buyer saw; an empty one is not checked.

        Raises:
            PriceChanged: it is not the price now. InvalidArgument: it is no amount of this
                product's currency; names `field`.
        """
        if not seen.matches(self.price, field=field, allow_zero=True):
            raise PriceChanged(
                f"the price of {self.sku_id} is {self.price}",
                fields={field: f"the price is {self.price.format()}"},
                sku_id=self.sku_id,
                price=self.price.format(),
                currency=self.price.currency,
            )

    def require_on_sale(self, *, field: str) -> None:
        """Checks that the shop sells it at present.

        Raises:
            ProductNotOnSale: it does not; names `field`.
        """
        if not self.on_sale:
            raise ProductNotOnSale(
                f"{self.sku_id} is not on sale",
                fields={field: "is not on sale"},
                sku_id=self.sku_id,
            )

    def require_available(self, quantity: int) -> None:
        """Refuses early what the conditional UPDATE of the stock would refuse anyway: a sold-out
        product costs no writes.

        Raises:
            OutOfStock: fewer units are left.
        """
        if self.stock.available < quantity:
            raise out_of_stock(self.sku_id, self.stock.available)


def out_of_stock(sku_id: str, available: int) -> OutOfStock:
    """The refusal, with which SKU and how many units are left."""
    left = (
        f"only 1 unit of {sku_id} is left"
        if available == 1
        else f"only {available} units of {sku_id} are left"
    )
    message = left if available else f"{sku_id} is sold out"
    return OutOfStock(message, fields={"items": message}, sku_id=sku_id, available=available)

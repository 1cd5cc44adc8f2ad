"""The lines of an order: products as they were when they were ordered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from mesh.money import Money, RequestedAmount
from order_rpc.domain.errors import CurrencyMixed, ProductNotFound
from order_rpc.domain.product import Product


class StockSource(StrEnum):
    """Whose units a line takes."""

    CATALOG = "CATALOG"  # the catalogue stock: reserved with the order
    ACTIVITY = "ACTIVITY"  # a flash sale, which took them from the catalogue stock before
    MERCHANT = "MERCHANT"  # the merchant's own, of which we hold none


@dataclass(frozen=True, slots=True, kw_only=True)
class NewLine:
    """One line as the request names it."""

    sku_id: str
    quantity: int
    unit_price: RequestedAmount  # as the buyer saw it; empty when the request names none


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderLine:
    """One line of an order: a product as it was when it was ordered. One per SKU."""

    sku_id: str
    name: str
    unit_price: Money
    quantity: int
    stock_source: StockSource = StockSource.CATALOG
    activity_id: str = ""  # the flash sale whose unit it is

    @property
    def amount(self) -> Money:
        """Price of the whole line."""
        return self.unit_price.times(self.quantity)

    def with_units(self, quantity: int) -> OrderLine:
        """This line with another number of units."""
        return replace(self, quantity=quantity)


def price_lines(items: Iterable[NewLine], products: Mapping[str, Product]) -> tuple[OrderLine, ...]:
    """The lines of an order at the prices of the catalogue: the same SKU twice is added up, SKUs
    ascend.

    Args:
        items: at least one line.
        products: the products of the merchant by SKU; those that do not exist are absent.

    Raises:
        ProductNotFound, ProductNotOnSale, CurrencyMixed, PriceChanged: the first line that is
            refused. OutOfStock: the first SKU.
    """
    quantities: dict[str, int] = {}
    currency = ""
    for position, item in enumerate(items):
        product = products.get(item.sku_id)
        if product is None:
            field = f"items[{position}].sku_id"
            raise ProductNotFound(
                f"there is no product {item.sku_id}",
                fields={field: "no such product"},
                sku_id=item.sku_id,
            )
        product.require_on_sale(field=f"items[{position}].sku_id")
        currency = currency or product.price.currency
        if product.price.currency != currency:
            problem = f"is sold in {product.price.currency}, the lines before in {currency}"
            raise CurrencyMixed(fields={f"items[{position}].sku_id": problem}, sku_id=item.sku_id)
        product.require_price(item.unit_price, field=f"items[{position}].unit_price")
        quantities[item.sku_id] = quantities.get(item.sku_id, 0) + item.quantity
    lines = []
    for sku_id in sorted(quantities):
        product = products[sku_id]
        product.require_available(quantities[sku_id])
        lines.append(
            OrderLine(
                sku_id=sku_id,
                name=product.name,
                unit_price=product.price,
                quantity=quantities[sku_id],
            )
        )
    return tuple(lines)

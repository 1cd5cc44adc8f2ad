"""Merchants' own orders: their number, their prices, and what they say of their customer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType

from mesh.customers import customer_email, is_order_id
from mesh.errors import InvalidArgument
from mesh.money import DIGITS_MAX, Money
from order_rpc.domain.errors import ProductNotFound, TotalTooLarge
from order_rpc.domain.order_line import OrderLine, StockSource
from order_rpc.domain.product import Product

LIFE_MAX = timedelta(days=7)
QUANTITY_MAX = 10_000
_MINOR_MAX = 10**DIGITS_MAX - 1


class OrderKind(StrEnum):
    """Whose prices an order has."""

    CATALOG = "CATALOG"  # the catalogue's, or those of a flash sale
    EXTERNAL = "EXTERNAL"  # the merchant's own


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalDetails:
    """What only an external order has. What it says of people is not shown in logs."""

    order_no: str  # "" leaves it to our id
    customer_email: str = field(default="", repr=False)
    customer_name: str = field(default="", repr=False)
    description: str = field(default="", repr=False)
    metadata: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    notify_url: str = ""
    # of the lines that have some, by SKU
    attributes: Mapping[str, Mapping[str, str]] = field(
        default_factory=lambda: MappingProxyType({}), repr=False
    )
    erased_at: datetime | None = None  # when what it said of its customer was removed

    def __post_init__(self) -> None:
        if self.order_no and is_order_id(self.order_no):
            raise InvalidArgument.of("order_no", "has the form of our own ids")
        customer_email(self.customer_email)

    def erased(self, *, at: datetime) -> ExternalDetails:
        """These details without anything about people; the merchant's number stays."""
        return ExternalDetails(
            order_no=self.order_no, notify_url=self.notify_url, erased_at=self.erased_at or at
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalLine:
    """One line as a merchant names it."""

    sku_id: str
    name: str  # "" means the SKU
    unit_price: Money
    quantity: int


def merchant_lines(
    items: Iterable[ExternalLine], products: Mapping[str, Product] | None
) -> tuple[OrderLine, ...]:
    """The lines of an order at the prices of its merchant: the same SKU twice is added up, SKUs
    ascend.

    Args:
        items: at least one line, all of one currency.
        products: where units are taken from our stock, the products of the merchant by SKU; None
            takes no units.

    Raises:
        InvalidArgument: a SKU has two prices or names, or too many units. ProductNotFound,
            ProductNotOnSale, OutOfStock: our stock cannot give the units.
        TotalTooLarge: a line costs more than an amount may be.
    """
    lines: dict[str, OrderLine] = {}
    for position, item in enumerate(items):
        line = OrderLine(
            sku_id=item.sku_id,
            name=item.name or item.sku_id,
            unit_price=item.unit_price,
            quantity=item.quantity,
            stock_source=StockSource.MERCHANT if products is None else StockSource.CATALOG,
        )
        before = lines.get(item.sku_id)
        if before is not None:
            if (before.name, before.unit_price) != (line.name, line.unit_price):
                raise InvalidArgument.of(
                    f"items[{position}]", "differs from the line before with this product"
                )
            line = before.with_units(before.quantity + item.quantity)
        if line.quantity > QUANTITY_MAX:
            raise InvalidArgument.of(
                f"items[{position}].quantity", f"must be between 1 and {QUANTITY_MAX}"
            )
        if line.amount.minor > _MINOR_MAX:
            raise TotalTooLarge(fields={"items": f"their total has more than {DIGITS_MAX} digits"})
        if products is not None:
            _require_units(products, line, position)
        lines[item.sku_id] = line
    return tuple(lines[sku_id] for sku_id in sorted(lines))


def whole_order_line(*, order_no: str, amount: Money) -> OrderLine:
    """The line of an order of which a merchant says only what it costs."""
    return OrderLine(
        sku_id=order_no,
        name=order_no,
        unit_price=amount,
        quantity=1,
        stock_source=StockSource.MERCHANT,
    )


def require_total(
    lines: Iterable[OrderLine], *, shipping: Money, discount: Money, sent: Money | None
) -> None:
    """Whether what is taken off and what the merchant added up fit the lines.

    Raises:
        InvalidArgument: more is taken off than the order costs, or the sum is another one.
    """
    total = shipping
    for line in lines:
        total += line.amount
    if discount > total:
        raise InvalidArgument.of("discount", f"the order costs {total}")
    if sent is not None and sent != total - discount:
        raise InvalidArgument.of(
            "amount", f"the lines, shipping and discount make {total - discount}"
        )


def deadline(expires_at: datetime | None, *, now: datetime, window: timedelta) -> datetime:
    """Until when an external order must be paid.

    Raises:
        InvalidArgument: the moment is over, or further away than LIFE_MAX.
    """
    if expires_at is None:
        return now + window
    if not now < expires_at <= now + LIFE_MAX:
        raise InvalidArgument.of("expires_at", "must be in the future, at most 7 days away")
    return expires_at


def _require_units(products: Mapping[str, Product], line: OrderLine, position: int) -> None:
    product = products.get(line.sku_id)
    field = f"items[{position}].sku_id"
    if product is None:
        raise ProductNotFound(
            f"there is no product {line.sku_id}",
            fields={field: "no such product"},
            sku_id=line.sku_id,
        )
    product.require_on_sale(field=field)
    product.require_available(line.quantity)

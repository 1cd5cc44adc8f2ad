"""The refusals of order_rpc. Each `reason` is a value of `paymesh.order.v1.ErrorReason`, which says what it means on the wire."""

from __future__ import annotations

from mesh.errors import InvalidArgument, MeshError, NotFound


class OrderNotFound(NotFound):
    """There is no such order, or it is not the caller's."""

    reason = "ORDER_NOT_FOUND"


class ProductNotFound(NotFound):
    """There is no such product, or it is not the caller's."""

    reason = "PRODUCT_NOT_FOUND"


class ProductAlreadyExists(MeshError):
    """A product with this SKU exists with other content. `fields` names what differs."""

    reason = "PRODUCT_ALREADY_EXISTS"


class OutOfStock(MeshError):
    """Fewer units are left than asked for. `metadata` has sku_id and available."""

    reason = "OUT_OF_STOCK"


class CurrencyMixed(InvalidArgument):
    """The products of one order must share a currency."""

    reason = "CURRENCY_MIXED"


class PriceChanged(MeshError):
    """The price that the client saw is not the price now. `metadata` has sku_id, price and currency."""

    reason = "PRICE_CHANGED"


class OrderStateInvalid(MeshError):
    """The order's state does not allow this step. `metadata` has state and verb."""

    reason = "ORDER_STATE_INVALID"


class TotalTooLarge(InvalidArgument):
    """The total of the order is larger than an amount may be."""

    reason = "TOTAL_TOO_LARGE"

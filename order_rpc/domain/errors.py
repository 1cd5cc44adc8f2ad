"""The refusals of order_rpc. Each `reason` is a value of `paymesh.order.v1.ErrorReason`, which says
what it means on the wire.
"""

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
    """Fewer units are left than asked for.

    `metadata` has sku_id and available.
    """

    reason = "OUT_OF_STOCK"


class CurrencyMixed(InvalidArgument):
    """The products of one order must share a currency."""

    reason = "CURRENCY_MIXED"


class PriceChanged(MeshError):
    """The price that the client saw is not the price now.

    `metadata` has sku_id, price and currency.
    """

    reason = "PRICE_CHANGED"


class OrderStateInvalid(MeshError):
    """The order's state does not allow this step.

    `metadata` has state and verb.
    """

    reason = "ORDER_STATE_INVALID"


class TotalTooLarge(InvalidArgument):
    """The total of the order is larger than an amount may be."""

    reason = "TOTAL_TOO_LARGE"


class OrderAlreadyPaid(MeshError):
    """The order is paid.

    `metadata` has payment_id.
    """

    reason = "ORDER_ALREADY_PAID"


class MoneyHeld(MeshError):
    """The money of the order is held for its shop, and only the shop lets it go.

    `metadata` has payment_id.
    """

    reason = "MONEY_HELD"


class CaptureFirst(MeshError):
    """The money of the order is held, and its shop ships what is captured only.

    `metadata` has payment_id.
    """

    reason = "CAPTURE_FIRST"


class CaptureInProgress(MeshError):
    """The held money is being captured, with an outcome that is not known yet.
    `retry_after_seconds` says when to call again.
    """

    reason = "CAPTURE_IN_PROGRESS"


class CaptureRefused(MeshError):
    """The held money could not be captured: this call moved nothing.

    `metadata` has payment_id and refusal, the reason of payment_rpc.
    """

    reason = "CAPTURE_REFUSED"


class OrderExistsDifferent(MeshError):
    """An order with this number of the merchant exists with other content. `fields` names what
    differs.
    """

    reason = "ORDER_EXISTS_DIFFERENT"


class OrderExpired(MeshError):
    """The time to pay is over."""

    reason = "ORDER_EXPIRED"


class ProductNotOnSale(MeshError):
    """The shop does not sell it at present.

    `metadata` has sku_id.
    """

    reason = "PRODUCT_NOT_ON_SALE"


class StockStateInvalid(MeshError):
    """Fewer units are available than are to be taken away.

    `metadata` has sku_id and available.
    """

    reason = "STOCK_STATE_INVALID"


class RefundNotAllowed(MeshError):
    """The order has no money that could go back."""

    reason = "REFUND_NOT_ALLOWED"


class RefundExceedsRefundable(MeshError):
    """More money or more units than are left.

    `metadata` has what is left.
    """

    reason = "REFUND_EXCEEDS_REFUNDABLE"


class RefundLimitReached(MeshError):
    """The order has as many refunds as an order can have.

    `metadata` has the limit.
    """

    reason = "REFUND_LIMIT_REACHED"


class RefundNotFound(NotFound):
    """The order has no such refund."""

    reason = "REFUND_NOT_FOUND"


class RefundStateInvalid(MeshError):
    """The refund is decided already.

    `metadata` has state.
    """

    reason = "REFUND_STATE_INVALID"


class FullRefundOpen(MeshError):
    """All money of the order is on its way back: it is not shipped any more."""

    reason = "FULL_REFUND_OPEN"


class AllocationMismatch(MeshError):
    """The id of this step was used for other content.

    `metadata` has op_id.
    """

    reason = "ALLOCATION_MISMATCH"


class AllocationExceeded(MeshError):
    """More units come back than the activity holds.

    `metadata` has held.
    """

    reason = "ALLOCATION_EXCEEDED"


class OrderCreating(MeshError):
    """The order was won in a flash sale and is still on its way here. `retry_after_seconds` says
    when to ask again.
    """

    reason = "ORDER_CREATING"


class MerchantSuspended(MeshError):
    """The shop takes no new orders and payments."""

    reason = "MERCHANT_SUSPENDED"


class MerchantNotLive(MeshError):
    """The shop does not take real money yet."""

    reason = "MERCHANT_NOT_LIVE"

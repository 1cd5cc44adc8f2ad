"""The refusals of payment_rpc. Reasons are values of `paymesh.payment.v1.ErrorReason` without their
prefix.
"""

from __future__ import annotations

from mesh.errors import MoneyError, Outcome


class CardInvalid(MoneyError):
    """Card details are invalid."""

    reason = "CARD_INVALID"


class OrderAlreadyPaid(MoneyError):
    """The order is already paid."""

    reason = "ORDER_ALREADY_PAID"
    default_safe_to_retry = False


class TransactionIdFailed(MoneyError):
    """交易 ID 生成失败: no transaction id could be made; nothing was sent."""

    reason = "TRANSACTION_ID_FAILED"


class PaymentNotFound(MoneyError):
    """There is no such payment."""

    reason = "PAYMENT_NOT_FOUND"


class OrderNotFound(MoneyError):
    """There is no such order."""

    reason = "ORDER_NOT_FOUND"


class OrderCreating(MoneyError):
    """The order was won in a flash sale and is still being written; charge again in a moment."""

    reason = "ORDER_CREATING"


class OrderExistsDifferent(MoneyError):
    """The merchant's number names an order of another amount or currency. `fields` names what
    differs.
    """

    reason = "ORDER_EXISTS_DIFFERENT"


class PaymentInProgress(MoneyError):
    """Another payment of this order is in progress."""

    reason = "PAYMENT_IN_PROGRESS"


class AmountMismatch(MoneyError):
    """The amount differs from the order's."""

    reason = "AMOUNT_MISMATCH"


class CurrencyMismatch(MoneyError):
    """The currency differs from the order's."""

    reason = "CURRENCY_MISMATCH"


class OrderNotPayable(MoneyError):
    """The order cannot be paid."""

    reason = "ORDER_NOT_PAYABLE"
    default_safe_to_retry = False


class CardDeclined(MoneyError):
    """The card was declined."""

    reason = "CARD_DECLINED"
    default_outcome = Outcome.DECLINED


class InsufficientFunds(MoneyError):
    """The card has insufficient funds."""

    reason = "INSUFFICIENT_FUNDS"
    default_outcome = Outcome.DECLINED


class ChannelFailed(MoneyError):
    """The payment channel could not process the payment."""

    reason = "CHANNEL_FAILED"
    default_outcome = Outcome.TECH_FAILED


class ChannelUnavailable(MoneyError):
    """The payment channel is unavailable; nothing was sent."""

    reason = "CHANNEL_UNAVAILABLE"


class PaymentClosed(MoneyError):
    """The payment was closed before money moved."""

    reason = "PAYMENT_CLOSED"


class ChannelNotSupported(MoneyError):
    """There is no such payment channel."""

    reason = "CHANNEL_NOT_SUPPORTED"


class PaymentMethodNotSupported(MoneyError):
    """There is no such payment method."""

    reason = "PAYMENT_METHOD_NOT_SUPPORTED"


class ReturnUrlNotAllowed(MoneyError):
    """The return_url is not on the merchant's allow-list."""

    reason = "RETURN_URL_NOT_ALLOWED"


class SignatureInvalid(MoneyError):
    """签名验证失败: the signature cannot be verified."""

    reason = "SIGNATURE_INVALID"
    default_safe_to_retry = False


class PaymentStateInvalid(MoneyError):
    """The payment's state does not allow this."""

    reason = "PAYMENT_STATE_INVALID"
    default_outcome = Outcome.UNKNOWN
    default_safe_to_retry = False


class PaymentConflicted(MoneyError):
    """The channel reports an amount that is not ours; a person is looking at it."""

    reason = "PAYMENT_CONFLICTED"
    default_outcome = Outcome.CAPTURED
    default_safe_to_retry = False


class RefundNotFound(MoneyError):
    """There is no such refund."""

    reason = "REFUND_NOT_FOUND"


class RefundNotAllowed(MoneyError):
    """This payment has nothing to refund."""

    reason = "REFUND_NOT_ALLOWED"
    default_safe_to_retry = False


class RefundExceedsRefundable(MoneyError):
    """More than can be refunded."""

    reason = "REFUND_EXCEEDS_REFUNDABLE"


class RefundLimitReached(MoneyError):
    """The payment has as many refunds as a payment can have.

    `metadata` has the limit.
    """

    reason = "REFUND_LIMIT_REACHED"
    default_safe_to_retry = False


class RefundFailed(MoneyError):
    """The channel refused the refund."""

    reason = "REFUND_FAILED"
    default_outcome = Outcome.DECLINED


class ReconciliationNotFound(MoneyError):
    """There is no such statement import or difference."""

    reason = "RECONCILIATION_NOT_FOUND"


class DifferenceStateInvalid(MoneyError):
    """The difference is resolved already, or the action does not fit its kind."""

    reason = "DIFFERENCE_STATE_INVALID"
    default_safe_to_retry = False


class InsufficientBalance(MoneyError):
    """余额不足: the wallet has not enough money."""

    reason = "INSUFFICIENT_BALANCE"


class MerchantSuspended(MoneyError):
    """The shop takes no new orders and payments."""

    reason = "MERCHANT_SUSPENDED"


class MerchantNotLive(MoneyError):
    """The shop does not take real money yet."""

    reason = "MERCHANT_NOT_LIVE"


class ChannelAccountNotFound(MoneyError):
    """There is no such channel account."""

    reason = "CHANNEL_ACCOUNT_NOT_FOUND"


class ChannelAccountChanged(MoneyError):
    """Somebody changed the channel account meanwhile.

    `metadata` has its version.
    """

    reason = "CHANNEL_ACCOUNT_CHANGED"

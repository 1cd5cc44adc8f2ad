"""Clients of payment_rpc, seckill_rpc and merchant_rpc. Protobuf ends here, except for the payment
that PayOrder passes to the buyer as it came.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from paymesh.merchant.v1 import merchant_pb2
from paymesh.payment.v1 import payment_pb2, payment_pb2_grpc, refund_pb2, refund_pb2_grpc
from paymesh.seckill.v1 import seckill_pb2, seckill_pb2_grpc

from mesh.call import IDEMPOTENCY_KEY
from mesh.merchant_directory import merchant_status_of
from mesh.money import Money
from mesh.times import moment_of
from order_rpc.domain.merchant_terms import MerchantTerms
from order_rpc.domain.order import Order
from order_rpc.domain.payment import CloseAnswer, CloseResult, PaymentSnapshot
from order_rpc.domain.policy import MerchantPolicy, PriceRule
from order_rpc.domain.ticket import TicketOrder

_RESULTS = {
    payment_pb2.CloseResult.Value(f"CLOSE_RESULT_{result}"): result for result in CloseResult
}


class Payments:
    """payment_rpc as order_rpc sees it."""

    def __init__(self, channel: Any) -> None:
        self._payments: Any = payment_pb2_grpc.PaymentServiceStub(channel)
        self._refunds: Any = refund_pb2_grpc.RefundServiceStub(channel)

    async def close_payment(
        self, *, merchant_id: str, order_id: str, op_id: str, by_buyer: bool, lets_go: bool
    ) -> CloseAnswer:
        """Closes every payment of an order; held money only when the shop `lets_go` of it.

        Raises:
            RemoteError: not answered. An result that this version does not know counts as not
                answered: CLOSING.
        """
        answer = await self._payments.ClosePayment(
            payment_pb2.ClosePaymentRequest(
                merchant_id=merchant_id,
                order_id=order_id,
                op_id=op_id,
                by_buyer=by_buyer,
                lets_go=lets_go,
            )
        )
        payment = _snapshot(answer.payment) if answer.HasField("payment") else None
        return CloseAnswer(
            result=_RESULTS.get(answer.result, CloseResult.CLOSING),
            payment=payment,
            retry_after_seconds=answer.retry_after_ms / 1000,
        )

    async def capture_payment(self, *, payment_id: str, key: str) -> PaymentSnapshot:
        """Captures all that is held for an order; the same key captures once.

        Raises:
            RemoteError: refused, or not answered.
        """
        answer = await self._payments.CapturePayment(
            payment_pb2.CapturePaymentRequest(payment_id=payment_id),
            metadata=((IDEMPOTENCY_KEY, key),),
        )
        return _snapshot(answer.payment)

    async def erase_customer(self, *, merchant_id: str, order_id: str) -> None:
        """Makes the payments of an order forget its customer.

        Raises:
            RemoteError: not answered.
        """
        await self._payments.EraseCustomer(
            payment_pb2.EraseCustomerRequest(merchant_id=merchant_id, order_id=order_id)
        )

    async def create_payment(
        self, order: Order, *, channel: str, return_url: str
    ) -> payment_pb2.Payment:
        """Starts a payment of an order and returns it as the buyer gets it.

        Raises:
            RemoteError: refused, or not answered.
        """
        expires_at = Timestamp()
        expires_at.FromDatetime(order.expires_at)
        answer = await self._payments.CreatePayment(
            payment_pb2.CreatePaymentRequest(
                order_id=order.order_id,
                merchant_id=order.merchant_id,
                user_id=order.user_id,
                channel=channel,
                return_url=return_url,
                order=payment_pb2.OrderData(
                    user_id=order.user_id,
                    amount=order.amount.format(),
                    currency=order.amount.currency,
                    expires_at=expires_at,
                    order_no=order.order_no,
                    customer_email="" if order.external is None else order.external.customer_email,
                ),
            )
        )
        payment: payment_pb2.Payment = answer.payment
        return payment

    async def create_refund(
        self, *, payment_id: str, amount: str, currency: str, reason: str, request_id: str
    ) -> str:
        """Refunds a payment; returns payment_rpc's id of the refund. The same request_id is the
        same refund.

        Raises:
            RemoteError: refused, or not answered.
        """
        answer = await self._refunds.CreateRefund(
            refund_pb2.CreateRefundRequest(
                payment_id=payment_id,
                amount=amount,
                currency=currency,
                reason=reason,
                request_id=request_id,
            )
        )
        return str(answer.refund.refund_id)


def terms_of(
    answer: merchant_pb2.GetMerchantSettingsResponse, defaults: MerchantTerms
) -> MerchantTerms:
    """What merchant_rpc says of a merchant. Raises InvalidArgument for what is no amount."""
    said, policy = answer.settings, defaults.policy
    window = said.payment_window_minutes
    return MerchantTerms(
        payment_window=timedelta(minutes=window) if window else defaults.payment_window,
        policy=MerchantPolicy(
            revives_if_stock=policy.revives_if_stock
            if said.late_money == merchant_pb2.LATE_MONEY_UNSPECIFIED
            else said.late_money == merchant_pb2.LATE_MONEY_REVIVE_IF_STOCK,
            ships_on_authorized=said.ship_on_authorized or policy.ships_on_authorized,
            shipping=_rules(said.shipping, "shipping") or policy.shipping,
            discount=_rules(said.discount, "discount") or policy.discount,
        ),
        status=merchant_status_of(answer),
    )


def _rules(rules: Iterable[merchant_pb2.AmountRule], name: str) -> dict[str, PriceRule]:
    return {
        rule.currency: PriceRule(
            amount=Money.parse(rule.amount, rule.currency, field=name, allow_zero=True),
            threshold=Money.parse(rule.threshold, rule.currency, field=name, allow_zero=True)
            if rule.threshold
            else None,
        )
        for rule in rules
    }


class Seckill:
    """seckill_rpc as order_rpc sees it."""

    def __init__(self, channel: Any) -> None:
        self._stub: Any = seckill_pb2_grpc.SeckillServiceStub(channel)

    async def return_stock(self, *, merchant_id: str, activity_id: str, order_id: str) -> None:
        """Gives the unit of an order back to its activity.

        Raises:
            RemoteError: refused, or not answered.
        """
        await self._stub.ReturnStock(
            seckill_pb2.ReturnStockRequest(
                merchant_id=merchant_id, activity_id=activity_id, order_id=order_id
            )
        )

    async def ticket_order(self, ticket: str) -> TicketOrder:
        """The order of a ticket, and whether it may still come.

        Raises:
            RemoteError: not a ticket, or not answered.
        """
        answer = await self._stub.GetTicketOrder(seckill_pb2.GetTicketOrderRequest(ticket=ticket))
        return TicketOrder(
            merchant_id=answer.merchant_id,
            order_id=answer.order_id,
            user_id=answer.user_id,
            is_coming=answer.is_coming,
        )


def _snapshot(payment: payment_pb2.Payment) -> PaymentSnapshot:
    return PaymentSnapshot.parse(
        payment_id=payment.payment_id,
        version=payment.version,
        state=payment_pb2.PaymentState.Name(payment.state).removeprefix("PAYMENT_STATE_"),
        captured=payment.captured,
        refunded=payment.refunded,
        refund_reserved=payment.refund_reserved,
        currency=payment.currency,
        # payment_rpc lets a payment succeed with less than its amount only where the shop chose it
        captured_in_part=payment.captured != payment.amount,
        held_amount=payment.amount,
        held_until=moment_of(payment, "expires_at"),
    )

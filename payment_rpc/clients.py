"""Clients of order_rpc and merchant_rpc. Protobuf ends here."""

from __future__ import annotations

from datetime import UTC
from typing import Any

from paymesh.merchant.v1 import merchant_pb2
from paymesh.order.v1 import order_pb2, order_pb2_grpc

from mesh.call import without_effects
from mesh.customers import email_digest
from mesh.errors import InvalidArgument, RemoteError
from mesh.merchant_directory import merchant_status_of
from mesh.money import Money
from mesh.times import timestamp
from payment_rpc.domain.errors import OrderCreating, OrderExistsDifferent, OrderNotFound
from payment_rpc.domain.merchant_terms import MerchantTerms
from payment_rpc.domain.order import NewExternalOrder, OrderToPay
from payment_rpc.domain.payment import Disposition

DISPOSITIONS = {
    order_pb2.DISPOSITION_APPLIED: Disposition.APPLIED,
    order_pb2.DISPOSITION_ALREADY: Disposition.ALREADY,
    order_pb2.DISPOSITION_REVIVED: Disposition.REVIVED,
    order_pb2.DISPOSITION_REFUSED_CANCELLED: Disposition.REFUSED_CANCELLED,
    order_pb2.DISPOSITION_REFUSED_PAID_BY_OTHER: Disposition.REFUSED_PAID_BY_OTHER,
}


class Orders:
    """order_rpc as payment_rpc sees it."""

    def __init__(self, channel: Any) -> None:
        self._stub: Any = order_pb2_grpc.OrderServiceStub(channel)

    async def get(self, *, merchant_id: str, order_id: str, seckill_ticket: str = "") -> OrderToPay:
        """An order.

        Raises:
            OrderNotFound: there is none. OrderCreating: the ticket is of this order, and order_rpc
                is still writing it.
            UpstreamUnavailable: order_rpc does not answer; nothing was done.
        """
        try:
            answer = await self._stub.GetOrder(
                order_pb2.GetOrderRequest(
                    merchant_id=merchant_id, order_id=order_id, seckill_ticket=seckill_ticket
                )
            )
        except RemoteError as error:
            if error.reason == "ORDER_NOT_FOUND":
                raise OrderNotFound from error
            if error.reason == "ORDER_CREATING":
                raise OrderCreating(retry_after_seconds=error.retry_after_seconds) from error
            raise
        return order_to_pay(answer.order)

    async def register(self, new: NewExternalOrder) -> OrderToPay:
        """A merchant's own order, new or as it is now.

        Raises:
            OrderExistsDifferent: its number names another order. InvalidArgument: order_rpc takes
                no such order.
            UpstreamUnavailable: order_rpc does not answer. An order that it made expires by itself.
        """
        request = order_pb2.RegisterExternalOrderRequest(
            merchant_id=new.merchant_id,
            order_no=new.order_no,
            amount_minor=new.amount.minor,
            currency=new.amount.currency,
            customer_email=new.customer_email,
            customer_name=new.customer_name,
            description=new.description,
            metadata=dict(new.metadata),
            notify_url=new.notify_url,
            expires_at=timestamp(new.expires_at),
            operator=new.operator,
        )
        try:
            with without_effects():  # an order without a payment expires by itself
                answer = await self._stub.RegisterExternalOrder(request)
        except RemoteError as error:
            if error.reason == "ORDER_EXISTS_DIFFERENT":
                raise OrderExistsDifferent(fields=error.fields) from error
            if error.reason == "INVALID_ARGUMENT":
                raise InvalidArgument(error.message, fields=error.fields) from error
            raise
        return order_to_pay(answer.order)

    async def update_status(self, snapshot: dict[str, Any], *, event_id: str) -> Disposition | None:
        """Tells an order what became of its payment; None when the snapshot decided nothing.

        Args:
            snapshot: `merchant_id`, `order_id`, `wants_paid` and the fields of PaymentSnapshot with
                its refunds.
            event_id: id of the outbox row.

        Raises:
            RemoteError: no answer, or refused.
        """
        payment = order_pb2.PaymentSnapshot(
            **{
                name: snapshot[name]
                for name in (
                    "payment_id",
                    "version",
                    "state",
                    "captured",
                    "refunded",
                    "refund_reserved",
                    "currency",
                )
            },
            refunds=[order_pb2.RefundSnapshot(**refund) for refund in snapshot.get("refunds", ())],
            captured_in_part=snapshot.get("captured_in_part", False),
            held_amount=snapshot.get("held_amount", ""),
        )
        if until := snapshot.get("held_until"):
            payment.held_until.FromJsonString(until)
        request = order_pb2.UpdateOrderStatusRequest(
            merchant_id=snapshot["merchant_id"],
            order_id=snapshot["order_id"],
            event_id=event_id,
            payment=payment,
            status=order_pb2.ORDER_STATE_PAID
            if snapshot["wants_paid"]
            else order_pb2.ORDER_STATE_UNSPECIFIED,
        )
        answer = await self._stub.UpdateOrderStatus(request)
        return DISPOSITIONS.get(answer.disposition)


def terms_of(
    answer: merchant_pb2.GetMerchantSettingsResponse, defaults: MerchantTerms
) -> MerchantTerms:
    """What merchant_rpc says of a merchant."""
    return MerchantTerms(
        name=answer.name,
        return_urls=tuple(answer.settings.return_urls) or defaults.return_urls,
        channels=frozenset(answer.settings.channels),
        is_test=answer.is_test,
        buyers_may_hold=answer.settings.buyers_may_hold or defaults.buyers_may_hold,
        status=merchant_status_of(answer),
    )


def order_to_pay(order: order_pb2.Order) -> OrderToPay:
    """An order as payment_rpc needs it."""
    return OrderToPay(
        order_id=order.order_id,
        merchant_id=order.merchant_id,
        user_id=order.user_id,
        amount=Money.parse(order.amount, order.currency, allow_zero=True),
        state=order_pb2.OrderState.Name(order.state).removeprefix("ORDER_STATE_"),
        expires_at=order.expires_at.ToDatetime(tzinfo=UTC),
        order_no=order.order_no,
        customer_digest=email_digest(order.merchant_id, order.customer_email),
        is_of_activity=any(
            item.stock_source == order_pb2.STOCK_SOURCE_ACTIVITY for item in order.items
        ),
    )

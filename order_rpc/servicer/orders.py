"""OrderService: messages to use cases and back."""

from __future__ import annotations

from typing import Any

from paymesh.order.v1 import order_pb2, order_pb2_grpc

from mesh.call import current_caller, current_idempotency_key
from mesh.money import RequestedAmount
from mesh.times import moment_of
from order_rpc.servicer import messages
from order_rpc.servicer.external_orders import (
    external_order,
    is_of_merchant,
    refuse_merchant_fields,
    registered_order,
    require_own,
)
from order_rpc.servicer.messages import (
    DISPOSITIONS,
    STATES,
    STATES_OF_MESSAGES,
    order_message,
    refund_message,
    step_message,
)
from order_rpc.usecases.cancellations import Cancellations
from order_rpc.usecases.external_orders import ExternalOrders
from order_rpc.usecases.orders import CreateOrder, ListOrders, Orders
from order_rpc.usecases.payments import Payments, UpdateOrderStatus
from order_rpc.usecases.refunds import RefundOrder, Refunds
from order_rpc.usecases.shipments import Shipments


class OrderServicer(order_pb2_grpc.OrderServiceServicer):
    """The whole life of an order."""

    def __init__(
        self,
        *,
        orders: Orders,
        payments: Payments,
        cancellations: Cancellations,
        refunds: Refunds,
        shipments: Shipments,
        external: ExternalOrders,
    ) -> None:
        self._orders = orders
        self._payments = payments
        self._cancellations = cancellations
        self._refunds = refunds
        self._shipments = shipments
        self._external = external

    async def CreateOrder(
        self, request: order_pb2.CreateOrderRequest, context: Any
    ) -> order_pb2.CreateOrderResponse:
        """Creates an order: a buyer's at our prices, or a merchant's at its own."""
        caller = current_caller()
        if is_of_merchant(request, caller):
            external = await self._external.create(external_order(request), caller)
            return order_pb2.CreateOrderResponse(order=order_message(external, caller))
        refuse_merchant_fields(request)
        caller = caller.as_buyer()
        order = await self._orders.create(
            CreateOrder(
                merchant_id=request.merchant_id,
                user_id=require_own(request.user_id, caller),
                items=messages.new_lines(request),
                idempotency_key=current_idempotency_key(),
                fingerprint=messages.order_fingerprint(request),
                client_request_id=request.client_request_id,
                address=messages.address_of(request.shipping_address)
                if request.HasField("shipping_address")
                else None,
            ),
            caller,
        )
        return order_pb2.CreateOrderResponse(order=order_message(order, caller))

    async def RegisterExternalOrder(
        self, request: order_pb2.RegisterExternalOrderRequest, context: Any
    ) -> order_pb2.RegisterExternalOrderResponse:
        """Registers the order of a payment that is about to begin."""
        order, existed = await self._external.register(registered_order(request))
        return order_pb2.RegisterExternalOrderResponse(
            order=order_message(order, current_caller()), existed=existed
        )

    async def ErasePersonalData(
        self, request: order_pb2.ErasePersonalDataRequest, context: Any
    ) -> order_pb2.ErasePersonalDataResponse:
        """Removes what an external order says of people."""
        caller = current_caller()
        order = await self._external.erase_personal_data(
            merchant_id=request.merchant_id,
            order_id=request.order_id,
            reason=request.reason,
            caller=caller,
        )
        return order_pb2.ErasePersonalDataResponse(order=order_message(order, caller))

    async def GetOrder(
        self, request: order_pb2.GetOrderRequest, context: Any
    ) -> order_pb2.GetOrderResponse:
        """Shows one order."""
        order = await self._orders.get(
            merchant_id=request.merchant_id,
            order_id=request.order_id,
            caller=current_caller(),
            seckill_ticket=request.seckill_ticket,
        )
        return order_pb2.GetOrderResponse(order=order_message(order, current_caller()))

    async def ListOrders(
        self, request: order_pb2.ListOrdersRequest, context: Any
    ) -> order_pb2.ListOrdersResponse:
        """Lists orders, newest first."""
        orders, next_page_token = await self._orders.list(
            ListOrders(
                merchant_id=request.merchant_id,
                user_id=request.user_id,
                state=STATES_OF_MESSAGES.get(request.state),
                page_size=request.page_size,
                page_token=request.page_token,
                created_from=moment_of(request, "created_from"),
                created_before=moment_of(request, "created_before"),
                order_no=request.order_no,
                customer_email=request.customer_email,
            ),
            current_caller(),
        )
        return order_pb2.ListOrdersResponse(
            orders=[order_message(order, current_caller()) for order in orders],
            next_page_token=next_page_token,
        )

    async def CancelOrder(
        self, request: order_pb2.CancelOrderRequest, context: Any
    ) -> order_pb2.CancelOrderResponse:
        """Cancels an order that nobody paid."""
        order = await self._cancellations.cancel(
            merchant_id=request.merchant_id,
            order_id=request.order_id,
            reason=request.reason,
            caller=current_caller(),
        )
        return order_pb2.CancelOrderResponse(order=order_message(order, current_caller()))

    async def PayOrder(
        self, request: order_pb2.PayOrderRequest, context: Any
    ) -> order_pb2.PayOrderResponse:
        """Starts the payment of an order."""
        payment = await self._payments.pay(
            merchant_id=request.merchant_id,
            order_id=request.order_id,
            channel=request.channel,
            return_url=request.return_url,
            caller=current_caller(),
        )
        return order_pb2.PayOrderResponse(payment=payment)

    async def RefundOrder(
        self, request: order_pb2.RefundOrderRequest, context: Any
    ) -> order_pb2.RefundOrderResponse:
        """Refunds an order, or asks its shop for approval."""
        refund = await self._refunds.refund(
            RefundOrder(
                merchant_id=request.merchant_id,
                order_id=request.order_id,
                lines=messages.refund_lines(request),
                amount=RequestedAmount.sent(
                    request.amount,
                    request.amount_minor if request.HasField("amount_minor") else None,
                ),
                reason=request.reason,
                idempotency_key=current_idempotency_key(),
                fingerprint=messages.refund_fingerprint(request),
            ),
            current_caller(),
        )
        return order_pb2.RefundOrderResponse(refund=refund_message(refund))

    async def ApproveRefund(
        self, request: order_pb2.ApproveRefundRequest, context: Any
    ) -> order_pb2.ApproveRefundResponse:
        """Approves a refund."""
        key = messages.refund_key(request)
        refund = await self._refunds.approve(key, remark=request.remark, caller=current_caller())
        return order_pb2.ApproveRefundResponse(refund=refund_message(refund))

    async def RejectRefund(
        self, request: order_pb2.RejectRefundRequest, context: Any
    ) -> order_pb2.RejectRefundResponse:
        """Rejects a refund."""
        key = messages.refund_key(request)
        refund = await self._refunds.reject(key, reason=request.reason, caller=current_caller())
        return order_pb2.RejectRefundResponse(refund=refund_message(refund))

    async def ListOrderRefunds(
        self, request: order_pb2.ListOrderRefundsRequest, context: Any
    ) -> order_pb2.ListOrderRefundsResponse:
        """Lists the refunds of an order."""
        refunds, next_page_token = await self._refunds.list_order_refunds(
            merchant_id=request.merchant_id,
            order_id=request.order_id,
            requested_size=request.page_size,
            page_token=request.page_token,
            caller=current_caller(),
        )
        return order_pb2.ListOrderRefundsResponse(
            refunds=[refund_message(refund) for refund in refunds], next_page_token=next_page_token
        )

    async def ShipOrder(
        self, request: order_pb2.ShipOrderRequest, context: Any
    ) -> order_pb2.ShipOrderResponse:
        """Marks an order as handed to a carrier."""
        order = await self._shipments.ship(
            merchant_id=request.merchant_id,
            order_id=request.order_id,
            carrier=request.carrier,
            tracking_number=request.tracking_number,
            caller=current_caller(),
        )
        return order_pb2.ShipOrderResponse(order=order_message(order, current_caller()))

    async def CompleteOrder(
        self, request: order_pb2.CompleteOrderRequest, context: Any
    ) -> order_pb2.CompleteOrderResponse:
        """Marks an order as arrived."""
        order = await self._shipments.complete(
            merchant_id=request.merchant_id, order_id=request.order_id, caller=current_caller()
        )
        return order_pb2.CompleteOrderResponse(order=order_message(order, current_caller()))

    async def SetShippingAddress(
        self, request: order_pb2.SetShippingAddressRequest, context: Any
    ) -> order_pb2.SetShippingAddressResponse:
        """Sets where an order goes."""
        order = await self._shipments.set_shipping_address(
            merchant_id=request.merchant_id,
            order_id=request.order_id,
            address=messages.address_of(request.address),
            caller=current_caller(),
        )
        return order_pb2.SetShippingAddressResponse(order=order_message(order, current_caller()))

    async def GetOrderTimeline(
        self, request: order_pb2.GetOrderTimelineRequest, context: Any
    ) -> order_pb2.GetOrderTimelineResponse:
        """Shows what happened to an order."""
        caller = current_caller()
        steps, next_page_token = await self._shipments.get_timeline(
            merchant_id=request.merchant_id,
            order_id=request.order_id,
            requested_size=request.page_size,
            page_token=request.page_token,
            caller=caller,
        )
        return order_pb2.GetOrderTimelineResponse(
            entries=[step_message(step, caller) for step in steps], next_page_token=next_page_token
        )

    async def UpdateOrderStatus(
        self, request: order_pb2.UpdateOrderStatusRequest, context: Any
    ) -> order_pb2.UpdateOrderStatusResponse:
        """Applies what payment_rpc reports of a payment."""
        answer = await self._payments.update_order_status(
            UpdateOrderStatus(
                merchant_id=request.merchant_id,
                order_id=request.order_id,
                wanted=STATES_OF_MESSAGES.get(request.status),
                event_id=request.event_id,
                payment=messages.snapshot(request.payment),
            ),
            current_caller(),
        )
        return order_pb2.UpdateOrderStatusResponse(
            disposition=DISPOSITIONS[answer.disposition], state=STATES[answer.state]
        )

"""OrderService: messages to use cases and back."""

from __future__ import annotations

from typing import Any

from paymesh.order.v1 import order_pb2, order_pb2_grpc

from mesh.call import current_caller, current_idempotency_key
from order_rpc.servicer.messages import DISPOSITIONS, STATES, STATES_OF_MESSAGES, new_lines, order_fingerprint, order_message, snapshot
from order_rpc.usecases.orders import CreateOrder, ListOrders, Orders
from order_rpc.usecases.payments import Payments, UpdateOrderStatus


class OrderServicer(order_pb2_grpc.OrderServiceServicer):
    """Takes and shows orders, and hears of their payments."""

    def __init__(self, *, orders: Orders, payments: Payments) -> None:
        self._orders = orders
        self._payments = payments

    async def CreateOrder(self, request: order_pb2.CreateOrderRequest, context: Any) -> order_pb2.CreateOrderResponse:
        """Creates an order."""
        order = await self._orders.create(CreateOrder(
            merchant_id=request.merchant_id, user_id=request.user_id, items=new_lines(request), idempotency_key=current_idempotency_key(),
            fingerprint=order_fingerprint(request)), current_caller())
        return order_pb2.CreateOrderResponse(order=order_message(order))

    async def GetOrder(self, request: order_pb2.GetOrderRequest, context: Any) -> order_pb2.GetOrderResponse:
        """Shows one order."""
        order = await self._orders.get(merchant_id=request.merchant_id, order_id=request.order_id, caller=current_caller())
        return order_pb2.GetOrderResponse(order=order_message(order))

    async def ListOrders(self, request: order_pb2.ListOrdersRequest, context: Any) -> order_pb2.ListOrdersResponse:
        """Lists orders, newest first."""
        orders, next_page_token = await self._orders.list(ListOrders(
            merchant_id=request.merchant_id, user_id=request.user_id, state=STATES_OF_MESSAGES.get(request.state), page_size=request.page_size,
            page_token=request.page_token), current_caller())
        return order_pb2.ListOrdersResponse(orders=[order_message(order) for order in orders], next_page_token=next_page_token)

    async def UpdateOrderStatus(self, request: order_pb2.UpdateOrderStatusRequest, context: Any) -> order_pb2.UpdateOrderStatusResponse:
        """Hears what became of a payment."""
        answer = await self._payments.update_status(UpdateOrderStatus(
            merchant_id=request.merchant_id, order_id=request.order_id, wanted=STATES_OF_MESSAGES.get(request.status), event_id=request.event_id,
            payment=snapshot(request.payment)), current_caller())
        return order_pb2.UpdateOrderStatusResponse(disposition=DISPOSITIONS[answer.disposition], state=STATES[answer.state])

"""AllocationService: messages to use cases and back."""

from __future__ import annotations

from typing import Any

from paymesh.order.v1 import allocation_pb2, allocation_pb2_grpc

from mesh.call import current_caller
from mesh.money import Money
from order_rpc.usecases.allocating import Allocate, Allocating, GiveBack, SeckillOrder


class AllocationServicer(allocation_pb2_grpc.AllocationServiceServicer):
    """Units and orders of flash sales, for seckill_rpc."""

    def __init__(self, allocating: Allocating) -> None:
        self._allocating = allocating

    async def AllocateStock(
        self, request: allocation_pb2.AllocateStockRequest, context: Any
    ) -> allocation_pb2.AllocateStockResponse:
        """Takes units off the shelf."""
        allocated = await self._allocating.allocate(
            Allocate(
                op_id=request.op_id,
                merchant_id=request.merchant_id,
                activity_id=request.activity_id,
                sku_id=request.sku_id,
                quantity=request.quantity,
            ),
            current_caller(),
        )
        return allocation_pb2.AllocateStockResponse(allocated=allocated)

    async def ReturnAllocation(
        self, request: allocation_pb2.ReturnAllocationRequest, context: Any
    ) -> allocation_pb2.ReturnAllocationResponse:
        """Puts units back on the shelf."""
        returned = await self._allocating.give_back(
            GiveBack(
                op_id=request.op_id,
                merchant_id=request.merchant_id,
                activity_id=request.activity_id,
                quantity=request.quantity,
            ),
            current_caller(),
        )
        return allocation_pb2.ReturnAllocationResponse(returned=returned)

    async def CreateSeckillOrders(
        self, request: allocation_pb2.CreateSeckillOrdersRequest, context: Any
    ) -> allocation_pb2.CreateSeckillOrdersResponse:
        """Writes orders of activities."""
        reasons = await self._allocating.create_orders(
            [
                SeckillOrder(
                    order_id=order.order_id,
                    merchant_id=order.merchant_id,
                    user_id=order.user_id,
                    activity_id=order.activity_id,
                    sku_id=order.sku_id,
                    price=Money.parse(
                        order.price,
                        order.currency,
                        field=f"orders[{position}].price",
                        currency_field=f"orders[{position}].currency",
                        allow_zero=True,
                    ),
                )
                for position, order in enumerate(request.orders)
            ],
            current_caller(),
        )
        return allocation_pb2.CreateSeckillOrdersResponse(
            answers=[
                allocation_pb2.SeckillOrderAnswer(
                    order_id=order.order_id,
                    reason=reason,
                    result=allocation_pb2.SECKILL_ORDER_RESULT_REFUSED
                    if reason
                    else allocation_pb2.SECKILL_ORDER_RESULT_CREATED,
                )
                for order, reason in zip(request.orders, reasons, strict=True)
            ]
        )

"""AllocationService: messages to use cases and back."""

from __future__ import annotations

from typing import Any

from paymesh.order.v1 import allocation_pb2, allocation_pb2_grpc

from mesh.call import current_caller
from mesh.money import Money
from order_rpc.usecases.allocations import (
    AllocateStock,
    Allocations,
    ReturnAllocation,
    SeckillOrder,
)


class AllocationServicer(allocation_pb2_grpc.AllocationServiceServicer):
    """Units and orders of flash sales, for seckill_rpc."""

    def __init__(self, allocations: Allocations) -> None:
        self._allocations = allocations

    async def AllocateStock(
        self, request: allocation_pb2.AllocateStockRequest, context: Any
    ) -> allocation_pb2.AllocateStockResponse:
        """Takes units from the catalogue stock."""
        allocated = await self._allocations.allocate_stock(
            AllocateStock(
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
        """Gives units back to the catalogue stock."""
        returned = await self._allocations.return_allocation(
            ReturnAllocation(
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
        reasons = await self._allocations.create_seckill_orders(
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

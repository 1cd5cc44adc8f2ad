"""The services that seckill_rpc calls: order_rpc has the catalog stock and writes the orders,
merchant_rpc knows who may sell. Protobuf ends here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from paymesh.order.v1 import allocation_pb2, allocation_pb2_grpc, catalog_pb2, catalog_pb2_grpc

from mesh.merchant_directory import MerchantDirectory, merchant_status_of
from mesh.merchant_status import MerchantStatus
from seckill_rpc.domain.activity import Activity


class Allocations:
    """order_rpc, as far as seckill_rpc uses it."""

    def __init__(self, channel: Any) -> None:
        self._allocations: Any = allocation_pb2_grpc.AllocationServiceStub(channel)
        self._catalog: Any = catalog_pb2_grpc.CatalogServiceStub(channel)

    async def currency_of(self, activity: Activity) -> str:
        """The currency in which the product of an activity is sold.

        Raises:
            RemoteError: there is no such product, or no answer.
        """
        answer = await self._catalog.GetProduct(
            catalog_pb2.GetProductRequest(merchant_id=activity.merchant_id, sku_id=activity.sku_id)
        )
        return str(answer.product.currency)

    async def allocate(self, activity: Activity, *, op_id: str) -> int:
        """Moves all units of an activity out of the catalog stock; returns how many were moved in
        all. The same op_id is the same step.

        Raises:
            RemoteError: refused (OUT_OF_STOCK, PRODUCT_NOT_FOUND …), or not answered.
        """
        answer = await self._allocations.AllocateStock(
            allocation_pb2.AllocateStockRequest(
                op_id=op_id,
                merchant_id=activity.merchant_id,
                activity_id=activity.activity_id,
                sku_id=activity.sku_id,
                quantity=activity.offered,
            )
        )
        return int(answer.allocated)

    async def give_back(
        self, *, op_id: str, merchant_id: str, activity_id: str, quantity: int
    ) -> int:
        """Puts units of an activity back into the catalog stock; returns how many were put back in
        all. The same op_id is the same step.

        Raises:
            RemoteError: refused, or not answered.
        """
        answer = await self._allocations.ReturnAllocation(
            allocation_pb2.ReturnAllocationRequest(
                op_id=op_id, merchant_id=merchant_id, activity_id=activity_id, quantity=quantity
            )
        )
        return int(answer.returned)

    async def create_orders(
        self, activity: Activity, orders: Sequence[tuple[str, str]]
    ) -> dict[str, str]:
        """Writes orders (order_id, user_id) of an activity, one unit each.

        Returns, for each order that was decided, "" if it is written, now or by an earlier call, or
        the reason why it can never be. An order that is missing in the answer was not decided.

        Raises:
            RemoteError: refused as a whole, or not answered.
        """
        price = activity.price.format()
        answer = await self._allocations.CreateSeckillOrders(
            allocation_pb2.CreateSeckillOrdersRequest(
                orders=[
                    allocation_pb2.SeckillOrder(
                        order_id=order_id,
                        merchant_id=activity.merchant_id,
                        user_id=user_id,
                        activity_id=activity.activity_id,
                        sku_id=activity.sku_id,
                        price=price,
                        currency=activity.price.currency,
                    )
                    for order_id, user_id in orders
                ]
            )
        )
        decided = {}
        for each in answer.answers:
            if each.result == allocation_pb2.SECKILL_ORDER_RESULT_CREATED:
                decided[each.order_id] = ""
            elif each.result == allocation_pb2.SECKILL_ORDER_RESULT_REFUSED:
                decided[each.order_id] = each.reason or "REFUSED"
        return decided


def statuses(channel: Any) -> MerchantDirectory[MerchantStatus]:
    """Whether merchants may sell, by merchant_rpc. One that it does not know may."""
    return MerchantDirectory(
        channel,
        terms_of=lambda answer, _default: merchant_status_of(answer),
        defaults=lambda _merchant_id: MerchantStatus.OPEN,
    )

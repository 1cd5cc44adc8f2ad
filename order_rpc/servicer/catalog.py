"""CatalogService: messages to use cases and back."""

from __future__ import annotations

from typing import Any

from paymesh.order.v1 import catalog_pb2, catalog_pb2_grpc

from mesh.call import current_caller, current_idempotency_key
from mesh.money import DEFAULT_CURRENCY, Money
from mesh.policies import DEFAULT_MERCHANT
from order_rpc.servicer.messages import product_fingerprint, product_message
from order_rpc.usecases.catalog import Catalog, CreateProduct, ListProducts


class CatalogServicer(catalog_pb2_grpc.CatalogServiceServicer):
    """What a shop sells, and how much of it is there."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def CreateProduct(self, request: catalog_pb2.CreateProductRequest, context: Any) -> catalog_pb2.CreateProductResponse:
        """Adds a product."""
        price = Money.parse(request.price, request.currency or DEFAULT_CURRENCY, field="price", allow_zero=True)
        product = await self._catalog.create_product(CreateProduct(
            merchant_id=request.merchant_id, sku_id=request.sku_id, name=request.name, price=price, available=request.available,
            idempotency_key=current_idempotency_key(), fingerprint=product_fingerprint(request, price)), current_caller())
        return catalog_pb2.CreateProductResponse(product=product_message(product))

    async def ListProducts(self, request: catalog_pb2.ListProductsRequest, context: Any) -> catalog_pb2.ListProductsResponse:
        """Lists products by SKU."""
        products, next_page_token = await self._catalog.list_products(ListProducts(
            merchant_id=request.merchant_id or DEFAULT_MERCHANT, page_size=request.page_size, page_token=request.page_token))
        return catalog_pb2.ListProductsResponse(products=[product_message(product) for product in products], next_page_token=next_page_token)

    async def GetProduct(self, request: catalog_pb2.GetProductRequest, context: Any) -> catalog_pb2.GetProductResponse:
        """Shows one product."""
        product = await self._catalog.get_product(merchant_id=request.merchant_id or DEFAULT_MERCHANT, sku_id=request.sku_id)
        return catalog_pb2.GetProductResponse(product=product_message(product))

    async def SetStock(self, request: catalog_pb2.SetStockRequest, context: Any) -> catalog_pb2.SetStockResponse:
        """Sets the units available."""
        product = await self._catalog.set_stock(merchant_id=request.merchant_id, sku_id=request.sku_id, available=request.available,
                                                caller=current_caller())
        return catalog_pb2.SetStockResponse(product=product_message(product))

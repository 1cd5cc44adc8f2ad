"""CatalogService: messages to use cases and back."""

from __future__ import annotations

from typing import Any

from paymesh.order.v1 import catalog_pb2, catalog_pb2_grpc

from mesh.call import Role, current_caller, current_idempotency_key
from mesh.fingerprints import fingerprint
from mesh.money import DEFAULT_CURRENCY, RequestedAmount, required_amount
from mesh.policies import DEFAULT_MERCHANT
from order_rpc.servicer.messages import (
    movement_message,
    product_fingerprint,
    product_message,
    stock_message,
)
from order_rpc.usecases.catalog import Catalog, CreateProduct, ListProducts, UpdateProduct
from order_rpc.usecases.catalog_stock import AdjustStock, CatalogStock


class CatalogServicer(catalog_pb2_grpc.CatalogServiceServicer):
    """What a shop sells, and how much of it is there."""

    def __init__(self, catalog: Catalog, catalog_stock: CatalogStock) -> None:
        self._catalog = catalog
        self._catalog_stock = catalog_stock

    async def CreateProduct(
        self, request: catalog_pb2.CreateProductRequest, context: Any
    ) -> catalog_pb2.CreateProductResponse:
        """Adds a product."""
        price = required_amount(
            request.price,
            request.price_minor if request.HasField("price_minor") else None,
            request.currency or DEFAULT_CURRENCY,
            field="price",
            allow_zero=True,
        )
        product = await self._catalog.create_product(
            CreateProduct(
                merchant_id=request.merchant_id,
                sku_id=request.sku_id,
                name=request.name,
                price=price,
                available=request.available,
                on_sale=request.on_sale if request.HasField("on_sale") else True,
                idempotency_key=current_idempotency_key(),
                fingerprint=product_fingerprint(request, price),
            ),
            current_caller(),
        )
        return catalog_pb2.CreateProductResponse(product=product_message(product))

    async def UpdateProduct(
        self, request: catalog_pb2.UpdateProductRequest, context: Any
    ) -> catalog_pb2.UpdateProductResponse:
        """Changes a product."""
        product = await self._catalog.update_product(
            UpdateProduct(
                merchant_id=request.merchant_id,
                sku_id=request.sku_id,
                name=request.name if request.HasField("name") else None,
                price=_new_price(request),
                on_sale=request.on_sale if request.HasField("on_sale") else None,
            ),
            current_caller(),
        )
        return catalog_pb2.UpdateProductResponse(product=product_message(product))

    async def ListProducts(
        self, request: catalog_pb2.ListProductsRequest, context: Any
    ) -> catalog_pb2.ListProductsResponse:
        """Lists products by SKU."""
        merchant_id, is_shop = _reader(request.merchant_id)
        products, next_page_token = await self._catalog.list_products(
            ListProducts(
                merchant_id=merchant_id,
                page_size=request.page_size,
                page_token=request.page_token,
                with_hidden=is_shop,
            )
        )
        return catalog_pb2.ListProductsResponse(
            products=[product_message(product, with_figures=is_shop) for product in products],
            next_page_token=next_page_token,
        )

    async def GetProduct(
        self, request: catalog_pb2.GetProductRequest, context: Any
    ) -> catalog_pb2.GetProductResponse:
        """Shows one product."""
        merchant_id, is_shop = _reader(request.merchant_id)
        product = await self._catalog.get_product(
            merchant_id=merchant_id, sku_id=request.sku_id, with_hidden=is_shop
        )
        return catalog_pb2.GetProductResponse(
            product=product_message(product, with_figures=is_shop)
        )

    async def GetStock(
        self, request: catalog_pb2.GetStockRequest, context: Any
    ) -> catalog_pb2.GetStockResponse:
        """Shows the units of a product."""
        merchant_id, is_shop = _reader(request.merchant_id)
        product = await self._catalog.get_product(
            merchant_id=merchant_id, sku_id=request.sku_id, with_hidden=is_shop
        )
        return catalog_pb2.GetStockResponse(
            stock=stock_message(product.stock, with_figures=is_shop)
        )

    async def SetStock(
        self, request: catalog_pb2.SetStockRequest, context: Any
    ) -> catalog_pb2.SetStockResponse:
        """Sets the units available."""
        product = await self._catalog_stock.set_stock(
            merchant_id=request.merchant_id,
            sku_id=request.sku_id,
            available=request.available,
            caller=current_caller(),
        )
        return catalog_pb2.SetStockResponse(product=product_message(product))

    async def AdjustStock(
        self, request: catalog_pb2.AdjustStockRequest, context: Any
    ) -> catalog_pb2.AdjustStockResponse:
        """Adds units or takes some away."""
        movement = await self._catalog_stock.adjust_stock(
            AdjustStock(
                merchant_id=request.merchant_id,
                sku_id=request.sku_id,
                quantity=request.quantity,
                reason=request.reason,
                idempotency_key=current_idempotency_key(),
                fingerprint=fingerprint(request),
            ),
            current_caller(),
        )
        return catalog_pb2.AdjustStockResponse(movement=movement_message(movement))

    async def ListStockMovements(
        self, request: catalog_pb2.ListStockMovementsRequest, context: Any
    ) -> catalog_pb2.ListStockMovementsResponse:
        """Lists movements, newest first."""
        movements, next_page_token = await self._catalog_stock.list_stock_movements(
            merchant_id=request.merchant_id,
            sku_id=request.sku_id,
            requested_size=request.page_size,
            page_token=request.page_token,
        )
        return catalog_pb2.ListStockMovementsResponse(
            movements=[movement_message(movement) for movement in movements],
            next_page_token=next_page_token,
        )


def _new_price(request: catalog_pb2.UpdateProductRequest) -> RequestedAmount | None:
    minor = request.price_minor if request.HasField("price_minor") else None
    if minor is None and not request.HasField("price"):
        return None
    return RequestedAmount.sent(request.price, minor, field="price")


def _reader(merchant_id: str) -> tuple[str, bool]:
    """The shop whose products are asked for (that of the token when the request names none), and
    whether the caller works for it: only then it sees what is not on sale, and how much is
    reserved, sold and allocated.
    """
    caller = current_caller()
    wanted = merchant_id or caller.merchant_id or DEFAULT_MERCHANT
    is_staff = (
        caller.role is Role.SERVICE
        or Role.ADMIN in caller.roles
        or (Role.MERCHANT in caller.roles and caller.merchant_id == wanted)
    )
    return wanted, is_staff

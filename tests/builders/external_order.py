"""Merchants' own orders for tests."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from mesh.call import Caller
from mesh.money import Money
from order_rpc.domain.address import Address
from order_rpc.domain.external_order import ExternalDetails, ExternalLine
from order_rpc.domain.order import Order
from order_rpc.usecases.external_orders import CreateExternalOrder, RegisterExternalOrder
from tests.builders.order import OrderApp, merchant


def money(text: str, currency: str = "USD") -> Money:
    return Money.parse(text, currency, allow_zero=True)


def line(
    sku_id: str = "A-BIKE", price: str = "100.00", quantity: int = 1, *, name: str = "A bike"
) -> ExternalLine:
    return ExternalLine(sku_id=sku_id, name=name, unit_price=money(price), quantity=quantity)


def details(order_no: str = "A-1", **said: Any) -> ExternalDetails:
    values = {
        "customer_email": "li@example.com",
        "customer_name": "Li",
        "description": "A bike",
        "metadata": {"cart": "7"},
        "notify_url": "https://shop.example/notify",
        **said,
    }
    return ExternalDetails(order_no=order_no, **values)


async def create(
    app: OrderApp,
    *items: ExternalLine,
    order_no: str = "A-1",
    caller: Caller | None = None,
    shipping: str = "0",
    discount: str = "0",
    amount: str | None = None,
    reserve_stock: bool = False,
    expires_at: datetime | None = None,
    key: str = "",
    address: Address | None = None,
    **said: Any,
) -> Order:
    """CreateOrder of a merchant: one bike of 100.00 USD when nothing is said."""
    caller = caller or merchant()
    command = CreateExternalOrder(
        merchant_id=caller.merchant_id,
        details=details(order_no, **said),
        items=items or (line(),),
        shipping=money(shipping),
        discount=money(discount),
        amount=None if amount is None else money(amount),
        reserve_stock=reserve_stock,
        expires_at=expires_at,
        address=address,
        idempotency_key=key,
        fingerprint={"order_no": order_no, "items": str(items)},
    )
    return await app.real.external_orders.create(command, caller)


async def register(
    app: OrderApp,
    *,
    order_no: str = "A-1",
    merchant_id: str = "mall",
    amount: Money | None = None,
    expires_at: datetime | None = None,
    **said: Any,
) -> tuple[Order, bool]:
    """RegisterExternalOrder, as payment_rpc calls it."""
    command = RegisterExternalOrder(
        merchant_id=merchant_id,
        details=details(order_no, **said),
        amount=amount or money("100.00"),
        expires_at=expires_at,
        operator="merchant:key:AK1",
    )
    return await app.real.external_orders.register(command)

"""Orders and products as messages of the contract."""

from __future__ import annotations

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp
from paymesh.order.v1 import catalog_pb2, order_pb2

from mesh.money import Money
from mesh.policies import fingerprint
from order_rpc.domain.order import NewLine, Order, OrderLine, OrderState, canonical_amount
from order_rpc.domain.payment import Disposition, PaymentSnapshot
from order_rpc.domain.product import Product

STATES = {state: order_pb2.OrderState.Value(f"ORDER_STATE_{state}") for state in OrderState}
STATES_OF_MESSAGES = {value: state for state, value in STATES.items()}
DISPOSITIONS = {disposition: order_pb2.Disposition.Value(f"DISPOSITION_{disposition}") for disposition in Disposition}


def order_message(order: Order) -> order_pb2.Order:
    """An order as callers see it."""
    return order_pb2.Order(
        order_id=order.order_id, merchant_id=order.merchant_id, user_id=order.user_id, state=STATES[order.state], amount=order.amount.format(),
        currency=order.amount.currency, items=[_item_message(line) for line in order.lines], paid_payment_id=order.paid_payment_id,
        version=order.version, created_at=_timestamp(order.created_at), expires_at=_timestamp(order.expires_at),
        paid_at=None if order.paid_at is None else _timestamp(order.paid_at), updated_at=_timestamp(order.updated_at))


def product_message(product: Product) -> catalog_pb2.Product:
    """A product as callers see it."""
    stock = catalog_pb2.Stock(available=product.stock.available, reserved=product.stock.reserved, sold=product.stock.sold)
    return catalog_pb2.Product(
        sku_id=product.sku_id, merchant_id=product.merchant_id, name=product.name, price=product.price.format(), currency=product.price.currency,
        stock=stock, created_at=_timestamp(product.created_at), updated_at=_timestamp(product.updated_at))


def new_lines(request: order_pb2.CreateOrderRequest) -> tuple[NewLine, ...]:
    """What a buyer wants."""
    return tuple(NewLine(sku_id=item.sku_id, quantity=item.quantity, unit_price=item.unit_price) for item in request.items)


def order_fingerprint(request: order_pb2.CreateOrderRequest) -> dict[str, str]:
    """The meaning of the request: "9.9" and "9.90" are one price."""
    prices = {f"items[{position}].unit_price": canonical_amount(item.unit_price) for position, item in enumerate(request.items) if item.unit_price}
    return fingerprint(request) | prices


def product_fingerprint(request: catalog_pb2.CreateProductRequest, price: Money) -> dict[str, str]:
    """The meaning of the request: "9.9" and "9.90" are one price, no currency is the default one."""
    return fingerprint(request) | {"price": price.format(), "currency": price.currency}


def snapshot(payment: order_pb2.PaymentSnapshot) -> PaymentSnapshot:
    """What payment_rpc says of a payment.

    Raises:
        InvalidArgument: an amount is none of its currency; names the field.
    """
    return PaymentSnapshot.parse(
        payment_id=payment.payment_id, version=payment.version, state=payment.state, captured=payment.captured, refunded=payment.refunded,
        refund_reserved=payment.refund_reserved, currency=payment.currency)


def _item_message(line: OrderLine) -> order_pb2.OrderItem:
    return order_pb2.OrderItem(sku_id=line.sku_id, name=line.name, unit_price=line.unit_price.format(), quantity=line.quantity,
                               amount=line.amount.format())


def _timestamp(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp

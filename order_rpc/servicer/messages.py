"""Orders, refunds and products as messages of the contract."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, TypeVar

from paymesh.order.v1 import catalog_pb2, order_pb2

from mesh.call import Caller, Role
from mesh.fingerprints import fingerprint
from mesh.money import Money, RequestedAmount
from mesh.times import moment_of, timestamp
from order_rpc.domain.address import Address
from order_rpc.domain.external_order import OrderKind
from order_rpc.domain.order import Order, OrderState, PayStatus, ShippingStatus
from order_rpc.domain.order_line import NewLine, OrderLine, StockSource
from order_rpc.domain.payment import Disposition, PaymentSnapshot
from order_rpc.domain.product import Movement, MovementKind, Product, Stock
from order_rpc.domain.refund import RefundLine, RefundRequest, RefundState, RefundStatus
from order_rpc.store.audit import PastStep
from order_rpc.usecases.journal import operator
from order_rpc.usecases.refunds import RefundKey

if TYPE_CHECKING:
    from google.protobuf.internal.enum_type_wrapper import _EnumTypeWrapper as EnumTypeWrapper

_KEY = TypeVar("_KEY", bound=str)
_NUMBER = TypeVar("_NUMBER", bound=int)


def _numbers(
    values: Iterable[_KEY], contract: EnumTypeWrapper[_NUMBER], prefix: str
) -> dict[_KEY, _NUMBER]:
    """The number of each of our values in an enum of the contract."""
    return {value: contract.Value(f"{prefix}_{value}") for value in values}


STATES = _numbers(OrderState, order_pb2.OrderState, "ORDER_STATE")
STATES_OF_MESSAGES = {value: state for state, value in STATES.items()}
DISPOSITIONS = _numbers(Disposition, order_pb2.Disposition, "DISPOSITION")
_PAY_STATUSES = _numbers(PayStatus, order_pb2.PayStatus, "PAY_STATUS")
_SHIPPING_STATUSES = _numbers(ShippingStatus, order_pb2.ShippingStatus, "SHIPPING_STATUS")
_REFUND_STATUSES = _numbers(RefundStatus, order_pb2.RefundStatus, "REFUND_STATUS")
_REFUND_STATES = _numbers(RefundState, order_pb2.RefundRequestState, "REFUND_REQUEST_STATE")
_KINDS = _numbers(OrderKind, order_pb2.OrderKind, "ORDER_KIND")
_SOURCES = _numbers(StockSource, order_pb2.StockSource, "STOCK_SOURCE")
_MOVEMENTS = _numbers(MovementKind, catalog_pb2.StockMovementKind, "STOCK_MOVEMENT_KIND")


def order_message(order: Order, caller: Caller) -> order_pb2.Order:
    """An order as callers see it. What a merchant says of its customer and its own notes are not
    for buyers: whoever has the link of a checkout page is one.
    """
    message = order_pb2.Order(
        order_id=order.order_id,
        merchant_id=order.merchant_id,
        user_id=order.user_id,
        client_request_id=order.client_request_id,
        state=STATES[order.state],
        amount=order.amount.format(),
        currency=order.amount.currency,
        items_amount=order.items_amount.format(),
        shipping_amount=order.shipping.format(),
        discount_amount=order.discount.format(),
        items=[_item_message(line) for line in order.lines],
        paid_payment_id=order.paid_payment_id,
        pay_status=_PAY_STATUSES[order.pay_status],
        shipping_status=_SHIPPING_STATUSES[order.shipping_status],
        refund_status=_REFUND_STATUSES[order.refund_status],
        refunded_amount=order.refunded.format(),
        shipping_address=None
        if order.address is None
        else order_pb2.Address(**asdict(order.address)),
        carrier=order.carrier,
        tracking_number=order.tracking_number,
        version=order.version,
        created_at=timestamp(order.created_at),
        expires_at=timestamp(order.expires_at),
        paid_at=timestamp(order.paid_at),
        shipped_at=timestamp(order.shipped_at),
        completed_at=timestamp(order.completed_at),
        cancelled_at=timestamp(order.cancelled_at),
        updated_at=timestamp(order.updated_at),
        kind=_KINDS[order.kind],
        order_no=order.order_no,
        amount_minor=order.amount.minor,
    )
    if order.held is not None:
        message.held_payment_id = order.held.payment_id
        message.held_amount = order.held.money.amount.format()
        message.held_until.FromDatetime(order.held.money.until)
    if order.external is not None:
        message.description = order.external.description
        if caller.role is not Role.USER:
            message.customer_email = order.external.customer_email
            message.customer_name = order.external.customer_name
            message.metadata.update(order.external.metadata)
            message.notify_url = order.external.notify_url
        for item in message.items:
            item.attributes.update(order.external.attributes.get(item.sku_id, {}))
    return message


def refund_message(refund: RefundRequest) -> order_pb2.RefundRequest:
    """A refund as callers see it."""
    return order_pb2.RefundRequest(
        request_id=refund.request_id,
        order_id=refund.order_id,
        merchant_id=refund.merchant_id,
        payment_id=refund.payment_id,
        state=_REFUND_STATES[refund.state],
        amount=refund.amount.format(),
        currency=refund.amount.currency,
        items=[
            order_pb2.RefundItem(sku_id=line.sku_id, quantity=line.quantity)
            for line in refund.lines
        ],
        reason=refund.reason,
        refund_id=refund.refund_id,
        failure=refund.failure,
        created_at=timestamp(refund.created_at),
        updated_at=timestamp(refund.updated_at),
    )


def step_message(step: PastStep, caller: Caller) -> order_pb2.TimelineEntry:
    """A step as callers see it. A buyer does not learn the names of those who work for a shop."""
    row = step.row
    is_others = caller.role is Role.USER and row.operator != operator(caller)
    return order_pb2.TimelineEntry(
        from_state=STATES[OrderState(row.from_state)]
        if row.from_state
        else order_pb2.ORDER_STATE_UNSPECIFIED,
        to_state=STATES[row.to_state],
        event=row.event,
        event_id=row.event_id,
        operator=row.operator.partition(":")[0] if is_others else row.operator,
        remark=row.remark,
        trace_id=row.trace_id,
        created_at=timestamp(step.at),
    )


def product_message(product: Product, *, with_figures: bool = True) -> catalog_pb2.Product:
    """A product as callers see it."""
    return catalog_pb2.Product(
        sku_id=product.sku_id,
        merchant_id=product.merchant_id,
        name=product.name,
        price=product.price.format(),
        currency=product.price.currency,
        on_sale=product.on_sale,
        stock=stock_message(product.stock, with_figures=with_figures),
        created_at=timestamp(product.created_at),
        updated_at=timestamp(product.updated_at),
    )


def stock_message(stock: Stock, *, with_figures: bool = True) -> catalog_pb2.Stock:
    """Units as callers see them. `with_figures`: also those that are not for sale any more, which
    only the shop sees.
    """
    if not with_figures:
        return catalog_pb2.Stock(available=stock.available)
    return catalog_pb2.Stock(
        available=stock.available,
        reserved=stock.reserved,
        sold=stock.sold,
        allocated=stock.allocated,
    )


def movement_message(movement: Movement) -> catalog_pb2.StockMovement:
    """A movement as callers see it."""
    return catalog_pb2.StockMovement(
        movement_id=movement.movement_id,
        sku_id=movement.sku_id,
        merchant_id=movement.merchant_id,
        kind=_MOVEMENTS[movement.kind],
        quantity=movement.quantity,
        available_after=movement.available_after,
        reason=movement.reason,
        operator=movement.operator,
        reference=movement.reference,
        created_at=timestamp(movement.created_at),
    )


def new_lines(request: order_pb2.CreateOrderRequest) -> tuple[NewLine, ...]:
    """What a buyer wants."""
    return tuple(
        NewLine(
            sku_id=item.sku_id, quantity=item.quantity, unit_price=RequestedAmount(item.unit_price)
        )
        for item in request.items
    )


def refund_lines(request: order_pb2.RefundOrderRequest) -> tuple[RefundLine, ...]:
    """What goes back."""
    return tuple(RefundLine(sku_id=item.sku_id, quantity=item.quantity) for item in request.items)


def refund_key(
    request: order_pb2.ApproveRefundRequest | order_pb2.RejectRefundRequest,
) -> RefundKey:
    """Which refund the shop decides."""
    return RefundKey(
        merchant_id=request.merchant_id, order_id=request.order_id, request_id=request.request_id
    )


def address_of(message: order_pb2.Address) -> Address:
    """Where goods go."""
    return Address(
        recipient=message.recipient,
        phone=message.phone,
        country=message.country,
        region=message.region,
        city=message.city,
        street=message.street,
        postal_code=message.postal_code,
    )


def order_fingerprint(request: order_pb2.CreateOrderRequest) -> dict[str, str]:
    """The meaning of the request: "9.9" and "9.90" are one price."""
    prices = {
        f"items[{position}].unit_price": RequestedAmount(item.unit_price).canonical
        for position, item in enumerate(request.items)
        if item.unit_price
    }
    return fingerprint(request) | prices


def refund_fingerprint(request: order_pb2.RefundOrderRequest) -> dict[str, str]:
    """The meaning of the request without its amount, which has a meaning only in the currency of
    the order.
    """
    return {name: value for name, value in fingerprint(request).items() if name != "amount"}


def product_fingerprint(request: catalog_pb2.CreateProductRequest, price: Money) -> dict[str, str]:
    """The meaning of the request: "9.9" and "9.90" are one price, no currency is the default
    one.
    """
    return fingerprint(request) | {"price": price.format(), "currency": price.currency}


def snapshot(payment: order_pb2.PaymentSnapshot) -> PaymentSnapshot:
    """What payment_rpc says of a payment.

    Raises:
        InvalidArgument: an amount is none of its currency; names the field.
    """
    return PaymentSnapshot.parse(
        payment_id=payment.payment_id,
        version=payment.version,
        state=payment.state,
        captured=payment.captured,
        refunded=payment.refunded,
        refund_reserved=payment.refund_reserved,
        currency=payment.currency,
        refunds=[
            (refund.refund_id, refund.request_id, refund.state, refund.amount, refund.reason)
            for refund in payment.refunds
        ],
        captured_in_part=payment.captured_in_part,
        held_amount=payment.held_amount,
        held_until=moment_of(payment, "held_until"),
    )


def _item_message(line: OrderLine) -> order_pb2.OrderItem:
    return order_pb2.OrderItem(
        sku_id=line.sku_id,
        name=line.name,
        unit_price=line.unit_price.format(),
        quantity=line.quantity,
        amount=line.amount.format(),
        stock_source=_SOURCES[line.stock_source],
    )

"""Merchants' own orders: messages to commands. Their currency is in the request, so amounts become
money here.
"""

from __future__ import annotations

from google.protobuf.message import Message
from paymesh.order.v1 import order_pb2

from mesh.call import Caller, Role, current_idempotency_key
from mesh.errors import InvalidArgument, PermissionDenied
from mesh.money import Money, RequestedAmount, amount_sent, currency_exponent, required_amount
from mesh.times import moment_of
from order_rpc.domain.external_order import ExternalDetails, ExternalLine
from order_rpc.servicer.messages import address_of, order_fingerprint
from order_rpc.usecases.external_orders import CreateExternalOrder, RegisterExternalOrder

USER_LINES_MAX = 100
_OF_MERCHANTS = (
    "order_no",
    "currency",
    "shipping_fee",
    "shipping_fee_minor",
    "discount",
    "discount_minor",
    "amount",
    "amount_minor",
    "customer_email",
    "customer_name",
    "description",
    "metadata",
    "notify_url",
    "expires_at",
    "reserve_stock",
)
_OF_MERCHANTS_LINES = ("unit_price_minor", "product_name", "attributes")
_OF_BUYERS = ("user_id", "client_request_id")


def is_of_merchant(request: order_pb2.CreateOrderRequest, caller: Caller) -> bool:
    """Whether a call makes a merchant's own order. Somebody who is a buyer too makes one when the
    request says what only a merchant may say.
    """
    if caller.role is not Role.MERCHANT:
        return False
    return Role.USER not in caller.roles or bool(_merchant_fields(request))


def refuse_merchant_fields(request: order_pb2.CreateOrderRequest) -> None:
    """Whether a buyer's order leaves prices and customers to the shop.

    Raises:
        PermissionDenied: it sends what only a merchant may say; names every such field.
        InvalidArgument: it has more lines than a buyer may order.
    """
    fields = _merchant_fields(request)
    if fields:
        problem = "only a merchant may send it"
        raise PermissionDenied(f"{fields[0]}: {problem}", fields=dict.fromkeys(fields, problem))
    if len(request.items) > USER_LINES_MAX:
        raise InvalidArgument.of("items", f"must have at most {USER_LINES_MAX} items")


def external_order(request: order_pb2.CreateOrderRequest) -> CreateExternalOrder:
    """The order that a merchant makes at its own prices.

    Raises:
        InvalidArgument: a field is missing, is a buyer's, or is no amount of the currency.
    """
    for name in _sent(request, _OF_BUYERS):
        raise InvalidArgument.of(name, "only a buyer may send it")
    currency = required_currency(request.currency)
    zero = Money.zero(currency)

    def amount(name: str) -> Money | None:
        return amount_sent(
            getattr(request, name),
            _optional(request, f"{name}_minor"),
            currency,
            field=name,
            allow_zero=True,
        )

    return CreateExternalOrder(
        merchant_id=request.merchant_id,
        details=_details(
            request,
            {item.sku_id: dict(item.attributes) for item in request.items if item.attributes},
        ),
        items=tuple(_line(item, position, currency) for position, item in enumerate(request.items)),
        shipping=amount("shipping_fee") or zero,
        discount=amount("discount") or zero,
        amount=amount("amount"),
        reserve_stock=request.reserve_stock,
        expires_at=moment_of(request, "expires_at"),
        idempotency_key=current_idempotency_key(),
        fingerprint=_fingerprint(request),
        address=address_of(request.shipping_address)
        if request.HasField("shipping_address")
        else None,
    )


def registered_order(request: order_pb2.RegisterExternalOrderRequest) -> RegisterExternalOrder:
    """The order that payment_rpc registers.

    Raises:
        InvalidArgument: a field breaks a rule.
    """
    currency_exponent(request.currency)
    return RegisterExternalOrder(
        merchant_id=request.merchant_id,
        details=_details(request, {}),
        amount=Money(request.amount_minor, request.currency),
        expires_at=moment_of(request, "expires_at"),
        operator=request.operator,
    )


def required_currency(currency: str) -> str:
    """The currency of an order that no catalogue prices.

    Raises:
        InvalidArgument: there is none, or it is unknown.
    """
    if not currency:
        raise InvalidArgument.of("currency", "is required")
    currency_exponent(currency)
    return currency


def _details(
    request: order_pb2.CreateOrderRequest | order_pb2.RegisterExternalOrderRequest,
    attributes: dict[str, dict[str, str]],
) -> ExternalDetails:
    return ExternalDetails(
        order_no=request.order_no,
        customer_email=request.customer_email.strip(),
        customer_name=request.customer_name,
        description=request.description,
        metadata=dict(request.metadata),
        notify_url=request.notify_url,
        attributes=attributes,
    )


def _line(item: order_pb2.NewOrderItem, position: int, currency: str) -> ExternalLine:
    field = f"items[{position}].unit_price"
    price = required_amount(
        item.unit_price,
        _optional(item, "unit_price_minor"),
        currency,
        field=field,
        allow_zero=True,
    )
    return ExternalLine(
        sku_id=item.sku_id, name=item.product_name, unit_price=price, quantity=item.quantity
    )


def _fingerprint(request: order_pb2.CreateOrderRequest) -> dict[str, str]:
    """The meaning of the request: "9.9" and "9.90" are one amount."""
    return order_fingerprint(request) | {
        name: RequestedAmount(getattr(request, name)).canonical
        for name in ("shipping_fee", "discount", "amount")
        if getattr(request, name)
    }


def _merchant_fields(request: order_pb2.CreateOrderRequest) -> list[str]:
    fields = _sent(request, _OF_MERCHANTS)
    for position, item in enumerate(request.items):
        fields += [f"items[{position}].{name}" for name in _sent(item, _OF_MERCHANTS_LINES)]
    return fields


def require_own(user_id: str, caller: Caller) -> str:
    """The buyer of a request: the caller.

    Raises:
        PermissionDenied: the request names somebody else.
    """
    if caller.role is Role.USER and user_id not in ("", caller.subject):
        problem = "is not the caller's"
        raise PermissionDenied(f"user_id: {problem}", fields={"user_id": problem})
    return user_id or caller.subject


def _optional(message: Message, name: str) -> int | None:
    return getattr(message, name) if message.HasField(name) else None


def _sent(message: Message, names: tuple[str, ...]) -> list[str]:
    present = {field.name for field, _ in message.ListFields()}
    return [name for name in names if name in present]

"""CreatePayment of merchants: their own orders begin to exist with their payments."""

from __future__ import annotations

from datetime import datetime, timedelta

from paymesh.payment.v1 import payment_pb2

from mesh.call import Caller, Role, current_idempotency_key
from mesh.customers import customer_email, is_order_id
from mesh.errors import InvalidArgument, PermissionDenied
from mesh.money import RequestedAmount, required_amount
from mesh.times import moment_of
from payment_rpc.domain.order import NewExternalOrder
from payment_rpc.servicer.messages import CAPTURE_MODES
from payment_rpc.usecases.payment_requests import CreatePayment

LIFE_MAX = timedelta(days=7)
_OF_THE_ORDER = (
    "customer_email",
    "customer_name",
    "description",
    "metadata",
    "notify_url",
    "expires_at",
)


def is_of_merchant(request: payment_pb2.CreatePaymentRequest, caller: Caller) -> bool:
    """Whether a call is a merchant's. Somebody who is a buyer too calls as one for an order that is
    there, unless the request says what only a merchant may say.
    """
    if caller.role is not Role.MERCHANT:
        return False
    return (
        Role.USER not in caller.roles
        or not is_order_id(request.order_id)
        or bool(_sent(request, ("amount_minor", *_OF_THE_ORDER)))
    )


def require_own(user_id: str, caller: Caller) -> str:
    """The buyer of a request: the caller, unless order_rpc names him.

    Raises:
        PermissionDenied: a buyer names somebody else.
    """
    if caller.role is not Role.USER:
        return user_id
    if user_id not in ("", caller.subject):
        problem = "is not the caller's"
        raise PermissionDenied(f"user_id: {problem}", fields={"user_id": problem})
    return caller.subject


def refuse_merchant_fields(request: payment_pb2.CreatePaymentRequest) -> None:
    """Whether a buyer or order_rpc leaves the order to its merchant.

    Raises:
        PermissionDenied: it sends what only a merchant may say; names every such field.
    """
    fields = _sent(request, ("amount_minor", *_OF_THE_ORDER))
    if fields:
        problem = "only a merchant may send it"
        raise PermissionDenied(f"{fields[0]}: {problem}", fields=dict.fromkeys(fields, problem))


def payment_of_merchant(
    request: payment_pb2.CreatePaymentRequest, caller: Caller, *, now: datetime
) -> CreatePayment:
    """The payment that a merchant asks for. Everything is judged before an order is made.

    Raises:
        InvalidArgument: a field is missing, is a buyer's, or breaks a rule.
    """
    for name in _sent(request, ("user_id", "order")):
        raise InvalidArgument.of(name, "only a buyer may send it")
    if not request.currency:
        raise InvalidArgument.of("currency", "is required")
    amount = required_amount(
        request.amount,
        request.amount_minor if request.HasField("amount_minor") else None,
        request.currency,
        field="amount",
    )
    new_order = None
    if is_order_id(request.order_id):
        for name in _sent(request, _OF_THE_ORDER):
            raise InvalidArgument.of(name, "is said when the order is made")
    else:
        new_order = NewExternalOrder(
            merchant_id=request.merchant_id,
            order_no=request.order_id,
            amount=amount,
            customer_email=customer_email(request.customer_email),
            customer_name=request.customer_name,
            description=request.description,
            metadata=dict(request.metadata),
            notify_url=request.notify_url,
            expires_at=_deadline(request, now),
            operator=f"{Role.MERCHANT}:{caller.subject}",
        )
    return CreatePayment(
        merchant_id=request.merchant_id,
        order_id=request.order_id,
        user_id="",
        amount=RequestedAmount(amount.format(), amount.currency),
        channel=request.channel,
        return_url=request.return_url,
        key=current_idempotency_key(),
        new_order=new_order,
        capture=CAPTURE_MODES[request.capture],
    )


def _deadline(request: payment_pb2.CreatePaymentRequest, now: datetime) -> datetime | None:
    """When the order must be paid. One that is over is refused only where the order is new: a
    repetition of an old request finds what it made.
    """
    expires_at = moment_of(request, "expires_at")
    if expires_at is not None and expires_at > now + LIFE_MAX:
        raise InvalidArgument.of("expires_at", "must be in the future, at most 7 days away")
    return expires_at


def _sent(request: payment_pb2.CreatePaymentRequest, names: tuple[str, ...]) -> list[str]:
    present = {field.name for field, _ in request.ListFields()}
    return [name for name in names if name in present]

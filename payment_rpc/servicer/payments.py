"""PaymentService: messages to use cases and back."""

from __future__ import annotations

from datetime import UTC
from typing import Any, Final

from paymesh.payment.v1 import payment_pb2, payment_pb2_grpc

from mesh.call import Caller, Role, current_caller, current_idempotency_key
from mesh.clock import Clock
from mesh.customers import email_digest
from mesh.errors import InvalidArgument
from mesh.money import Money, RequestedAmount
from mesh.times import moment_of
from payment_rpc.domain.order import OrderToPay
from payment_rpc.servicer.external_orders import (
    is_of_merchant,
    payment_of_merchant,
    refuse_merchant_fields,
    require_own,
)
from payment_rpc.servicer.messages import CAPTURE_MODES, STATES, STATES_OF_MESSAGES, payment_message
from payment_rpc.usecases.cancel import Cancellation, CloseResult
from payment_rpc.usecases.captures import CapturePayment, Captures
from payment_rpc.usecases.checkouts import CheckoutTokens
from payment_rpc.usecases.conflicts import Conflicts
from payment_rpc.usecases.customers import Customers
from payment_rpc.usecases.payment_requests import Charge, CreatePayment
from payment_rpc.usecases.payments import Payments
from payment_rpc.usecases.queries import ListPayments, PaymentQueries

CLOSING_RETRY_MS = 2000  # a channel answers within a second or two


# a next action that is a page of the channel
REDIRECT_URL: Final = "REDIRECT_URL"


class PaymentServicer(payment_pb2_grpc.PaymentServiceServicer):
    """Takes and shows payments."""

    def __init__(
        self,
        *,
        payments: Payments,
        cancellation: Cancellation,
        captures: Captures,
        conflicts: Conflicts,
        queries: PaymentQueries,
        checkout_tokens: CheckoutTokens,
        customers: Customers,
        clock: Clock,
    ) -> None:
        self._payments = payments
        self._customers = customers
        self._cancellation = cancellation
        self._captures = captures
        self._conflicts = conflicts
        self._queries = queries
        self._checkout_tokens = checkout_tokens
        self._clock = clock

    async def Charge(
        self, request: payment_pb2.ChargeRequest, context: Any
    ) -> payment_pb2.ChargeResponse:
        """Charges a card, a payment method at a provider, or a wallet."""
        card = request.credit_card
        payment = await self._payments.charge(
            Charge(
                merchant_id=request.merchant_id,
                order_id=request.order_id,
                user_id=request.user_id,
                amount=RequestedAmount(request.amount, request.currency),
                payment_method=request.payment_method,
                number=card.credit_card_number,
                cvv=card.credit_card_cvv,
                expiration_year=card.credit_card_expiration_year,
                expiration_month=card.credit_card_expiration_month,
                key=current_idempotency_key(),
                seckill_ticket=request.seckill_ticket,
                capture=CAPTURE_MODES[request.capture],
                channel=request.channel,
                payment_token=request.payment_token,
                return_url=request.return_url,
            ),
            current_caller(),
        )
        return payment_pb2.ChargeResponse(
            transaction_id=payment.payment_id, payment=payment_message(payment)
        )

    async def CreatePayment(
        self, request: payment_pb2.CreatePaymentRequest, context: Any
    ) -> payment_pb2.CreatePaymentResponse:
        """Opens a cashier; for a merchant, together with an order of its own."""
        caller = current_caller()
        if is_of_merchant(request, caller):
            return await self._create_for_merchant(request, caller)
        refuse_merchant_fields(request)
        if caller.role is Role.MERCHANT:
            caller = caller.as_buyer()
        payment = await self._payments.create_payment(
            CreatePayment(
                merchant_id=request.merchant_id,
                order_id=request.order_id,
                user_id=require_own(request.user_id or request.order.user_id, caller),
                amount=RequestedAmount(request.amount, request.currency),
                channel=request.channel,
                return_url=request.return_url,
                key=current_idempotency_key(),
                order=_order_data(request),
                capture=CAPTURE_MODES[request.capture],
            ),
            caller,
        )
        return payment_pb2.CreatePaymentResponse(payment=payment_message(payment))

    async def _create_for_merchant(
        self, request: payment_pb2.CreatePaymentRequest, caller: Caller
    ) -> payment_pb2.CreatePaymentResponse:
        command = payment_of_merchant(request, caller, now=self._clock.now())
        payment = await self._payments.create_payment(command, caller)
        message = payment_message(payment)
        if payment.next_action is not None and payment.next_action.kind == REDIRECT_URL:
            message.checkout_url = payment.next_action.value
        message.checkout_token = self._checkout_tokens.of(payment)
        message.customer_email = request.customer_email
        return payment_pb2.CreatePaymentResponse(payment=message)

    async def CancelPayment(
        self, request: payment_pb2.CancelPaymentRequest, context: Any
    ) -> payment_pb2.CancelPaymentResponse:
        """Closes one payment of the caller's."""
        return payment_pb2.CancelPaymentResponse(
            payment=payment_message(
                await self._cancellation.cancel_payment(request.payment_id, current_caller())
            )
        )

    async def CapturePayment(
        self, request: payment_pb2.CapturePaymentRequest, context: Any
    ) -> payment_pb2.CapturePaymentResponse:
        """Captures held money."""
        if request.keep_rest:
            raise InvalidArgument.of("keep_rest", "is not offered yet")
        minor = request.amount_minor if request.HasField("amount_minor") else None
        payment = await self._captures.capture_payment(
            CapturePayment(
                payment_id=request.payment_id,
                amount=RequestedAmount.sent(request.amount, minor, request.currency),
                key=current_idempotency_key(),
            ),
            current_caller(),
        )
        return payment_pb2.CapturePaymentResponse(payment=payment_message(payment))

    async def VoidPayment(
        self, request: payment_pb2.VoidPaymentRequest, context: Any
    ) -> payment_pb2.VoidPaymentResponse:
        """Lets held money go."""
        payment = await self._captures.void_payment(
            request.payment_id, current_caller(), reason=request.reason
        )
        return payment_pb2.VoidPaymentResponse(payment=payment_message(payment))

    async def ClosePayment(
        self, request: payment_pb2.ClosePaymentRequest, context: Any
    ) -> payment_pb2.ClosePaymentResponse:
        """Closes an order's gate and its live payments."""
        closed = await self._cancellation.close_payment(
            merchant_id=request.merchant_id,
            order_id=request.order_id,
            by_buyer=request.by_buyer,
            lets_go=request.lets_go,
        )
        return payment_pb2.ClosePaymentResponse(
            result=payment_pb2.CloseResult.Value(f"CLOSE_RESULT_{closed.result}"),
            payment=None if closed.payment is None else payment_message(closed.payment),
            retry_after_ms=CLOSING_RETRY_MS if closed.result is CloseResult.CLOSING else 0,
        )

    async def EraseCustomer(
        self, request: payment_pb2.EraseCustomerRequest, context: Any
    ) -> payment_pb2.EraseCustomerResponse:
        """Forgets the customer of an order."""
        await self._customers.erase(merchant_id=request.merchant_id, order_id=request.order_id)
        return payment_pb2.EraseCustomerResponse()

    async def CancelByIdempotencyKey(
        self, request: payment_pb2.CancelByIdempotencyKeyRequest, context: Any
    ) -> payment_pb2.CancelByIdempotencyKeyResponse:
        """Takes back a call whose answer was lost."""
        payment = await self._cancellation.cancel_by_idempotency_key(
            method=request.method,
            key=request.idempotency_key,
            merchant_id=request.merchant_id,
            caller=current_caller(),
        )
        return payment_pb2.CancelByIdempotencyKeyResponse(
            payment=None if payment is None else payment_message(payment)
        )

    async def ResolveConflict(
        self, request: payment_pb2.ResolveConflictRequest, context: Any
    ) -> payment_pb2.ResolveConflictResponse:
        """Decides a CONFLICTED payment."""
        state = next(state for state, number in STATES.items() if number == request.state)
        payment = await self._conflicts.resolve_conflict(
            request.payment_id, state=state, reason=request.reason, caller=current_caller()
        )
        return payment_pb2.ResolveConflictResponse(payment=payment_message(payment))

    async def GetPayment(
        self, request: payment_pb2.GetPaymentRequest, context: Any
    ) -> payment_pb2.GetPaymentResponse:
        """Shows one payment."""
        payment = await self._queries.get_payment(request.payment_id, current_caller())
        return payment_pb2.GetPaymentResponse(payment=payment_message(payment))

    async def GetPaymentByOrderId(
        self, request: payment_pb2.GetPaymentByOrderIdRequest, context: Any
    ) -> payment_pb2.GetPaymentByOrderIdResponse:
        """Shows the payment of an order."""
        payment = await self._queries.get_payment_by_order_id(
            merchant_id=request.merchant_id, order_id=request.order_id, caller=current_caller()
        )
        return payment_pb2.GetPaymentByOrderIdResponse(payment=payment_message(payment))

    async def ListPayments(
        self, request: payment_pb2.ListPaymentsRequest, context: Any
    ) -> payment_pb2.ListPaymentsResponse:
        """Lists the payments of an order, or those of a merchant, newest first."""
        page, token = await self._queries.list_payments(
            ListPayments(
                merchant_id=request.merchant_id,
                order=request.order_id,
                customer_email=request.customer_email,
                state=STATES_OF_MESSAGES.get(request.state),
                created_from=moment_of(request, "created_from"),
                created_before=moment_of(request, "created_before"),
                page_size=request.page_size,
                page_token=request.page_token,
            ),
            current_caller(),
        )
        return payment_pb2.ListPaymentsResponse(
            payments=[payment_message(payment) for payment in page], next_page_token=token
        )


def _order_data(request: payment_pb2.CreatePaymentRequest) -> OrderToPay | None:
    """The order that order_rpc sends along. From any other caller it would be a price of its own
    choice.
    """
    if not request.HasField("order"):
        return None
    if current_caller().role is not Role.SERVICE:
        raise InvalidArgument.of("order", "only order_rpc sends it")
    order = request.order
    return OrderToPay(
        order_id=request.order_id,
        merchant_id=request.merchant_id,
        user_id=order.user_id,
        amount=Money.parse(order.amount, order.currency, field="order.amount"),
        state="PENDING_PAYMENT",
        expires_at=order.expires_at.ToDatetime(tzinfo=UTC),
        order_no=order.order_no,
        customer_digest=email_digest(request.merchant_id, order.customer_email),
    )

"""PaymentService: messages to use cases and back."""

from __future__ import annotations

from typing import Any

from paymesh.payment.v1 import payment_pb2, payment_pb2_grpc

from mesh.call import current_caller, current_idempotency_key
from mesh.paging import PageTokens, page_size
from payment_rpc.servicer.messages import payment_message
from payment_rpc.usecases.charging import Charge, Charging, CreatePayment
from payment_rpc.usecases.reading import Reading


class PaymentServicer(payment_pb2_grpc.PaymentServiceServicer):
    """Takes and shows payments."""

    def __init__(self, *, charging: Charging, reading: Reading, page_tokens: PageTokens) -> None:
        self._charging = charging
        self._reading = reading
        self._page_tokens = page_tokens

    async def Charge(self, request: payment_pb2.ChargeRequest, context: Any) -> payment_pb2.ChargeResponse:
        """Charges a card."""
        card = request.credit_card
        payment = await self._charging.charge(Charge(
            merchant_id=request.merchant_id, order_id=request.order_id, user_id=request.user_id, amount=request.amount, currency=request.currency,
            payment_method=request.payment_method, number=card.credit_card_number, cvv=card.credit_card_cvv,
            expiration_year=card.credit_card_expiration_year, expiration_month=card.credit_card_expiration_month, key=current_idempotency_key(),
        ), current_caller())
        return payment_pb2.ChargeResponse(transaction_id=payment.payment_id, payment=payment_message(payment))

    async def CreatePayment(self, request: payment_pb2.CreatePaymentRequest, context: Any) -> payment_pb2.CreatePaymentResponse:
        """Opens a cashier."""
        payment = await self._charging.create_payment(CreatePayment(
            merchant_id=request.merchant_id, order_id=request.order_id, user_id=request.user_id, amount=request.amount, currency=request.currency,
            channel=request.channel, return_url=request.return_url, key=current_idempotency_key()), current_caller())
        return payment_pb2.CreatePaymentResponse(payment=payment_message(payment))

    async def GetPayment(self, request: payment_pb2.GetPaymentRequest, context: Any) -> payment_pb2.GetPaymentResponse:
        """Shows one payment."""
        payment = await self._reading.get(request.payment_id, current_caller())
        return payment_pb2.GetPaymentResponse(payment=payment_message(payment))

    async def GetPaymentByOrderId(self, request: payment_pb2.GetPaymentByOrderIdRequest, context: Any) -> payment_pb2.GetPaymentByOrderIdResponse:
        """Shows the payment of an order."""
        payment = await self._reading.get_of_order(merchant_id=request.merchant_id, order_id=request.order_id, caller=current_caller())
        return payment_pb2.GetPaymentByOrderIdResponse(payment=payment_message(payment))

    async def ListPayments(self, request: payment_pb2.ListPaymentsRequest, context: Any) -> payment_pb2.ListPaymentsResponse:
        """Lists the payments of an order, newest first."""
        scope = {"merchant_id": request.merchant_id, "order_id": request.order_id}
        size = page_size(request.page_size)
        start = self._page_tokens.decode(request.page_token, list_name="ListPayments", filter=scope, types=(str,))
        found = await self._reading.list_of_order(merchant_id=request.merchant_id, order_id=request.order_id, caller=current_caller(),
                                                  before=str(start[0]) if start else None, limit=size + 1)
        page, more = found[:size], len(found) > size
        token = self._page_tokens.encode(list_name="ListPayments", filter=scope, key=[page[-1].payment_id]) if more else ""
        return payment_pb2.ListPaymentsResponse(payments=[payment_message(payment) for payment in page], next_page_token=token)

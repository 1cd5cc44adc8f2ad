"""RefundService: messages to use cases and back."""

from __future__ import annotations

from typing import Any

from paymesh.payment.v1 import refund_pb2, refund_pb2_grpc

from mesh.call import current_caller, current_idempotency_key
from mesh.money import RequestedAmount
from mesh.paging import PageTokens
from mesh.times import timestamp
from payment_rpc.domain.refund import Refund, RefundState
from payment_rpc.servicer.failure_texts import failure_message
from payment_rpc.usecases.refund_start import CreateRefund
from payment_rpc.usecases.refunds import Refunds

STATES = {state: refund_pb2.RefundState.Value(f"REFUND_STATE_{state}") for state in RefundState}


class RefundServicer(refund_pb2_grpc.RefundServiceServicer):
    """Refunds payments."""

    def __init__(self, *, refunds: Refunds, page_tokens: PageTokens) -> None:
        self._refunds = refunds
        self._page_tokens = page_tokens

    async def CreateRefund(
        self, request: refund_pb2.CreateRefundRequest, context: Any
    ) -> refund_pb2.CreateRefundResponse:
        """Reserves and submits a refund."""
        refund = await self._refunds.create_refund(
            CreateRefund(
                payment_id=request.payment_id,
                amount=_amount_sent(request, request.currency),
                reason=request.reason,
                request_id=request.request_id,
                key=current_idempotency_key(),
            ),
            current_caller(),
        )
        return refund_pb2.CreateRefundResponse(refund=refund_message(refund))

    async def PreviewRefund(
        self, request: refund_pb2.PreviewRefundRequest, context: Any
    ) -> refund_pb2.PreviewRefundResponse:
        """Says what a refund would do."""
        preview = await self._refunds.preview_refund(
            payment_id=request.payment_id,
            amount=_amount_sent(request),
            caller=current_caller(),
        )
        return refund_pb2.PreviewRefundResponse(
            amount=preview.amount.format(),
            currency=preview.amount.currency,
            refundable=preview.refundable.format(),
            refundable_after=preview.refundable_after.format(),
            fee_returned=preview.fee_returned.format(),
            postings=[
                refund_pb2.Posting(
                    account=posting.account,
                    side=posting.side,
                    amount=posting.amount.format(),
                    currency=posting.amount.currency,
                )
                for posting in preview.postings
            ],
        )

    async def GetRefund(
        self, request: refund_pb2.GetRefundRequest, context: Any
    ) -> refund_pb2.GetRefundResponse:
        """Shows one refund."""
        return refund_pb2.GetRefundResponse(
            refund=refund_message(
                await self._refunds.get_refund(request.refund_id, current_caller())
            )
        )

    async def ListRefunds(
        self, request: refund_pb2.ListRefundsRequest, context: Any
    ) -> refund_pb2.ListRefundsResponse:
        """Lists refunds, newest first."""
        scope = {
            "payment_id": request.payment_id,
            "merchant_id": request.merchant_id,
            "order_id": request.order_id,
        }
        page, token = await self._page_tokens.page(
            lambda start, limit: self._refunds.list_refunds(
                **scope,
                before=str(start[0]) if start else None,
                limit=limit,
                caller=current_caller(),
            ),
            list_name="ListRefunds",
            filter=scope,
            types=(str,),
            size=request.page_size,
            token=request.page_token,
            key=lambda refund: (refund.refund_id,),
        )
        return refund_pb2.ListRefundsResponse(
            refunds=[refund_message(refund) for refund in page], next_page_token=token
        )


def _amount_sent(
    request: refund_pb2.CreateRefundRequest | refund_pb2.PreviewRefundRequest, currency: str = ""
) -> RequestedAmount:
    minor = request.amount_minor if request.HasField("amount_minor") else None
    return RequestedAmount.sent(request.amount, minor, currency)


def refund_message(refund: Refund) -> refund_pb2.Refund:
    """A refund as callers see it."""
    message = refund_pb2.Refund(
        refund_id=refund.refund_id,
        payment_id=refund.payment_id,
        order_id=refund.order_id,
        merchant_id=refund.merchant_id,
        user_id=refund.user_id,
        amount=refund.amount.format(),
        currency=refund.amount.currency,
        state=STATES[refund.state],
        reason=refund.reason,
        request_id=refund.request_id,
        automatic=refund.automatic,
        needs_attention=refund.needs_attention,
        channel_refund_no=refund.channel_refund_no,
        version=refund.version,
        refunded_at=timestamp(refund.refunded_at),
        created_at=timestamp(refund.created_at),
        updated_at=timestamp(refund.updated_at),
    )
    if refund.failure is not None:
        message.failure.CopyFrom(failure_message(refund.failure))
    return message

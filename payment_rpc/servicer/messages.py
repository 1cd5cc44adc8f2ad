"""Payments as messages of the contract."""

from __future__ import annotations

from paymesh.common.v1 import errors_pb2
from paymesh.payment.v1 import payment_pb2

from mesh.money import Money
from mesh.times import timestamp
from payment_rpc.domain.channel_account import provider_of
from payment_rpc.domain.hold import CaptureMode
from payment_rpc.domain.payment import UNDECIDED, Payment, PaymentState
from payment_rpc.servicer.failure_texts import failure_message

STATES = {state: payment_pb2.PaymentState.Value(f"PAYMENT_STATE_{state}") for state in PaymentState}

CAPTURE_MODES = {
    payment_pb2.CAPTURE_MODE_UNSPECIFIED: CaptureMode.AUTOMATIC,
    payment_pb2.CAPTURE_MODE_AUTOMATIC: CaptureMode.AUTOMATIC,
    payment_pb2.CAPTURE_MODE_MANUAL: CaptureMode.MANUAL,
}

STATES_OF_MESSAGES = {number: state for state, number in STATES.items()}


def payment_message(payment: Payment) -> payment_pb2.Payment:
    """A payment as callers see it."""
    is_held = payment.state is PaymentState.AUTHORIZED
    capturable = (
        payment.amount - payment.captured if is_held else Money.zero(payment.amount.currency)
    )
    message = payment_pb2.Payment(
        payment_id=payment.payment_id,
        order_id=payment.order_id,
        merchant_id=payment.merchant_id,
        user_id=payment.user_id,
        amount=payment.amount.format(),
        currency=payment.amount.currency,
        state=STATES[payment.state],
        payment_method=payment.payment_method,
        channel=payment.channel,
        provider=provider_of(payment.channel),
        channel_trade_no=payment.channel_trade_no,
        captured=payment.captured.format(),
        refunded=payment.refunded.format(),
        refund_reserved=payment.refund_reserved.format(),
        outcome=errors_pb2.Outcome.Value(f"OUTCOME_{payment.outcome}"),
        version=payment.version,
        paid_at=timestamp(payment.paid_at),
        expires_at=timestamp(payment.expires_at),
        created_at=timestamp(payment.created_at),
        updated_at=timestamp(payment.updated_at),
        order_no=payment.order_no,
        amount_minor=payment.amount.minor,
        capture_mode=payment_pb2.CaptureMode.Value(f"CAPTURE_MODE_{payment.capture_mode}"),
        capturable=capturable.format(),
    )
    if payment.next_action is not None:
        message.next_action.kind = payment_pb2.NextActionKind.Value(
            f"NEXT_ACTION_KIND_{payment.next_action.kind}"
        )
        message.next_action.value = payment.next_action.value
    if payment.card is not None:
        message.card.brand = payment.card.brand
        message.card.last_four = payment.card.last_four
        message.card.expiration_year = payment.card.expiration_year
        message.card.expiration_month = payment.card.expiration_month
    if payment.failure is not None and payment.state not in UNDECIDED:
        message.failure.CopyFrom(failure_message(payment.failure))
    return message

"""What Charge, TopUp and CreatePayment send to the channel of a payment that `PaymentStart` wrote.

Whether the money is only held is read from the payment, so that a repeated sending asks for the
same as the first.
"""

from __future__ import annotations

from functools import partial

from mesh.call import current_call
from payment_rpc.channels.registry import Channels
from payment_rpc.channels.requests import CardDetails, Checkout, PaymentToken
from payment_rpc.domain.attempt import Attempt
from payment_rpc.domain.facts import ChannelFact
from payment_rpc.domain.hold import CaptureMode
from payment_rpc.domain.payment import Payment
from payment_rpc.usecases.channel_steps import ChannelSteps
from payment_rpc.usecases.merchant_terms import TermsOfMerchants, name_for_buyers
from payment_rpc.usecases.payment_completion import ChargingLimits, Send

# of the caller's deadline, kept for applying the channel's answer and informing the order
APPLY_SECONDS = 1.0


class PaymentSending:
    """Makes the calls to channels."""

    def __init__(
        self,
        *,
        channels: Channels,
        steps: ChannelSteps,
        limits: ChargingLimits,
        terms: TermsOfMerchants,
    ) -> None:
        self._channels = channels
        self._steps = steps
        self._limits = limits
        self._terms = terms

    def instrument(self, instrument: CardDetails | PaymentToken) -> Send:
        """Charges what the buyer gave."""

        async def send(payment: Payment, attempt: Attempt) -> ChannelFact:
            channel = await self._channels.get(attempt.channel)
            return await channel.charge(
                attempt_id=attempt.attempt_id,
                amount=payment.amount,
                instrument=instrument,
                expires_at=payment.expires_at,
                remember=partial(self._steps.remember, attempt),
                timeout_seconds=self._channel_seconds(),
                capture=payment.capture_mode is CaptureMode.AUTOMATIC,
            )

        return send

    def cashier(self, *, return_url: str, description: str) -> Send:
        """Opens what the buyer pays with."""

        async def send(payment: Payment, attempt: Attempt) -> ChannelFact:
            # First: what merchant_rpc takes is no longer the channel's.
            merchant_name = await name_for_buyers(self._terms, payment.merchant_id)
            channel = await self._channels.get(attempt.channel)
            return await channel.checkout(
                attempt_id=attempt.attempt_id,
                amount=payment.amount,
                order=Checkout(
                    subject=f"Order {payment.order_no or payment.order_id}",
                    return_url=return_url,
                    merchant_name=merchant_name,
                    description=description,
                ),
                expires_at=payment.expires_at,
                remember=partial(self._steps.remember, attempt),
                timeout_seconds=self._channel_seconds(),
                capture=payment.capture_mode is CaptureMode.AUTOMATIC,
            )

        return send

    def _channel_seconds(self) -> float:
        """How long the channel may take: the setting, or less when the caller's deadline is near.
        At zero or below nothing is sent.
        """
        call, longest = current_call(), self._limits.channel_timeout_seconds
        return longest if call is None else min(longest, call.remaining_seconds() - APPLY_SECONDS)

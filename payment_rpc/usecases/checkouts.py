"""Tokens that can pay exactly one order of a merchant's own, for the buyer of that order."""

from __future__ import annotations

from math import ceil

from mesh.call import Role
from mesh.clock import Clock
from mesh.customers import buyer_of
from mesh.token_issuers import CHECKOUT, OwnTokenSigner
from payment_rpc.domain.payment import Payment


class CheckoutTokens:
    """Makes checkout tokens."""

    def __init__(self, *, clock: Clock, signer: OwnTokenSigner | None) -> None:
        """`signer`: None without a caller key of our own."""
        self._clock = clock
        self._signer = signer

    def of(self, payment: Payment) -> str:
        """The token of a payment of an external order, "" for any other and without a key. It ends
        with the time to pay, and there is none afterwards.
        """
        seconds = ceil((payment.expires_at - self._clock.now()).total_seconds())
        if self._signer is None or seconds <= 0 or payment.user_id != buyer_of(payment.order_id):
            return ""
        return self._signer.sign(
            payment.user_id,
            merchant_id=payment.merchant_id,
            roles=[Role.USER],
            lifetime_seconds=min(seconds, CHECKOUT.lifetime_seconds_max),
            order_id=payment.order_id,
        )

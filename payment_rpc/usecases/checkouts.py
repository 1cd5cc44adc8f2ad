"""What a merchant gives the buyer of its own order: a page that takes the money, and a token that
can pay exactly this order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil

from mesh.call import Role
from mesh.clock import Clock
from mesh.customers import buyer_of
from mesh.token_issuers import CHECKOUT, OwnTokenSigner
from payment_rpc.domain.payment import Payment


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkout:
    """The way of one buyer to one payment; both are "" when there is none."""

    url: str = field(default="", repr=False)
    token: str = field(default="", repr=False)


class Checkouts:
    """Makes checkout pages and tokens."""

    def __init__(self, *, clock: Clock, signer: OwnTokenSigner | None, url: str) -> None:
        """`signer`: None without a caller key of our own. `url`: what the address of a page begins
        with; the token follows.
        """
        self._clock = clock
        self._signer = signer
        self._url = url

    def of(self, payment: Payment) -> Checkout:
        """The checkout of a payment of an external order. It ends with the time to pay, and there
        is none afterwards.
        """
        seconds = ceil((payment.expires_at - self._clock.now()).total_seconds())
        if self._signer is None or seconds <= 0 or payment.user_id != buyer_of(payment.order_id):
            return Checkout()
        token = self._signer.sign(
            payment.user_id,
            merchant_id=payment.merchant_id,
            roles=[Role.USER],
            lifetime_seconds=min(seconds, CHECKOUT.lifetime_seconds_max),
            order_id=payment.order_id,
        )
        return Checkout(url=f"{self._url}{token}", token=token)

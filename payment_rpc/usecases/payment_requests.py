"""What callers ask of `Payments`: the requests of Charge, TopUp and CreatePayment."""

from __future__ import annotations

from dataclasses import dataclass, field

from mesh.money import RequestedAmount
from payment_rpc.domain.card import Card
from payment_rpc.domain.hold import CaptureMode
from payment_rpc.domain.order import NewExternalOrder, OrderToPay


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """A Charge request, with a card or a `payment_token`. `key` is the idempotency key, "" without
    one. `return_url` goes with a token.
    """

    merchant_id: str
    order_id: str
    user_id: str
    amount: RequestedAmount
    payment_method: str
    number: str = field(repr=False)
    cvv: str = field(repr=False)
    expiration_year: int
    expiration_month: int
    key: str
    seckill_ticket: str = ""  # of an order of a flash sale that order_rpc may not have yet
    capture: CaptureMode = CaptureMode.AUTOMATIC
    channel: str = ""
    payment_token: str = field(default="", repr=False)
    return_url: str = ""

    @property
    def has_card(self) -> bool:
        """True when anything of a card is given."""
        return bool(self.number or self.cvv or self.expiration_year or self.expiration_month)


@dataclass(frozen=True, slots=True, kw_only=True)
class TopUp:
    """A TopUp request. No currency means CNY; `key` is the idempotency key."""

    merchant_id: str
    user_id: str
    amount: RequestedAmount
    card: Card
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatePayment:
    """A CreatePayment request. `amount` may be empty. `order` is set when order_rpc itself calls;
    it is not read again then. `user_id` is empty when a merchant calls, for the buyer of its order.
    """

    merchant_id: str
    order_id: str
    user_id: str
    amount: RequestedAmount
    channel: str
    return_url: str
    key: str
    order: OrderToPay | None = None
    new_order: NewExternalOrder | None = None  # a merchant's own, which begins to exist with this
    capture: CaptureMode = CaptureMode.AUTOMATIC

"""What payment_rpc needs to know of an order before it takes money for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from mesh.errors import InvalidArgument
from mesh.money import Money, RequestedAmount, currency_exponent
from payment_rpc.domain.errors import (
    AmountMismatch,
    CurrencyMismatch,
    OrderAlreadyPaid,
    OrderNotFound,
    OrderNotPayable,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewExternalOrder:
    """A merchant's own order that begins to exist with its payment."""

    merchant_id: str
    order_no: str
    amount: Money
    customer_email: str = field(default="", repr=False)
    customer_name: str = field(default="", repr=False)
    description: str = field(default="", repr=False)
    metadata: Mapping[str, str] = field(default_factory=dict, repr=False)
    notify_url: str = ""
    expires_at: datetime | None = None  # None means after the merchant's payment window
    operator: str = ""  # who asked


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderToPay:
    """An order as order_rpc answered it. `state` is the name of its state without prefix."""

    order_id: str
    merchant_id: str
    user_id: str
    amount: Money
    state: str
    expires_at: datetime
    order_no: str = ""  # the merchant's own number, "" for an order of the catalogue
    customer_digest: str = ""  # of the address of the merchant's customer
    is_of_activity: bool = False  # won in a flash sale

    def require_wait(self) -> None:
        """Whether the order may wait for the capture of money that is held for it. Held money keeps
        its units for days, after a flash sale has ended: nobody else could buy them then.

        Raises:
            InvalidArgument: it may not.
        """
        if self.is_of_activity:
            raise InvalidArgument.of("capture", "an order of a flash sale is paid at once")

    def check(self, *, user_id: str, amount: RequestedAmount, now: datetime) -> None:
        """Whether this buyer may pay this amount for it now. An empty amount or currency is not
        compared.

        Raises:
            OrderNotFound, InvalidArgument, CurrencyMismatch, AmountMismatch, OrderAlreadyPaid,
                OrderNotPayable: named refusals.
        """
        if self.user_id != user_id:
            raise OrderNotFound
        if amount.currency:
            currency_exponent(amount.currency)
            if amount.currency != self.amount.currency:
                problem = f"the order is in {self.amount.currency}"
                raise CurrencyMismatch(f"currency: {problem}", fields={"currency": problem})
        if not amount.matches(self.amount):
            problem = f"the order costs {self.amount}"
            raise AmountMismatch(f"amount: {problem}", fields={"amount": problem})
        match self.state:
            case "PENDING_PAYMENT":
                if self.expires_at <= now:
                    raise OrderNotPayable(
                        "The time to pay this order is over.", order_state="EXPIRED"
                    )
            case "PAID" | "SHIPPED" | "COMPLETED" | "REFUNDED":
                raise OrderAlreadyPaid
            case _:
                raise OrderNotPayable(
                    f"An order in state {self.state} cannot be paid.", order_state=self.state
                )

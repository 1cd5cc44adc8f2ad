"""What payment_rpc needs to know of an order before it takes money for it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from mesh.errors import InvalidArgument
from mesh.money import Money, currency_exponent
from payment_rpc.domain.errors import (
    AmountMismatch,
    CurrencyMismatch,
    OrderAlreadyPaid,
    OrderNotFound,
    OrderNotPayable,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderToPay:
    """An order as order_rpc answered it. `state` is the name of its state without prefix."""

    order_id: str
    merchant_id: str
    user_id: str
    amount: Money
    state: str
    expires_at: datetime

    def check(self, *, user_id: str, amount: str, currency: str, now: datetime) -> None:
        """Whether this buyer may pay this amount for it now. An empty amount or currency is not
        compared.

        Raises:
            OrderNotFound, InvalidArgument, CurrencyMismatch, AmountMismatch, OrderAlreadyPaid,
                OrderNotPayable: named refusals.
        """
        if self.user_id != user_id:
            raise OrderNotFound
        if currency:
            currency_exponent(currency)
            if currency != self.amount.currency:
                problem = f"the order is in {self.amount.currency}"
                raise CurrencyMismatch(f"currency: {problem}", fields={"currency": problem})
        if amount and Money.parse(amount, self.amount.currency) != self.amount:
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


def canonical_amount(text: str) -> str:
    """One spelling for every spelling of an amount ("100", "100.0", "100.00"), so that a repeated
    request is recognised.

    Raises:
        InvalidArgument: zero.
    """
    whole, _, fraction = text.partition(".")
    whole, fraction = whole.lstrip("0") or "0", fraction.rstrip("0")
    if text and whole == "0" and not fraction:
        raise InvalidArgument.of("amount", "must be greater than zero")
    return f"{whole}.{fraction}" if fraction else whole

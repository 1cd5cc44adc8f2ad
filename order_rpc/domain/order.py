"""An order: what a buyer wants, at the prices of the moment, and the steps that it may take. The transition table below is the only one; the store
writes nothing that it does not allow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType

from mesh.money import DIGITS_MAX, Money
from order_rpc.domain.errors import CurrencyMixed, OrderStateInvalid, ProductNotFound, TotalTooLarge
from order_rpc.domain.product import Product

_MINOR_MAX = 10**DIGITS_MAX - 1


class OrderState(StrEnum):
    """Where an order stands."""

    PENDING_PAYMENT = "PENDING_PAYMENT"  # waiting for money; stock is reserved
    PAID = "PAID"                        # stock is sold
    CANCELLING = "CANCELLING"            # a cancel was decided; its payments are being closed
    CANCELLED = "CANCELLED"              # nobody will pay; stock is released
    SHIPPED = "SHIPPED"                  # on its way to the buyer
    COMPLETED = "COMPLETED"              # done
    REFUNDED = "REFUNDED"                # all money went back


class Verb(StrEnum):
    """What can happen to an order."""

    PAY = "PAY"                    # a payment succeeded, or there is nothing to pay
    BEGIN_CANCEL = "BEGIN_CANCEL"  # by the buyer, an admin or the deadline
    CANCEL = "CANCEL"              # payment_rpc says that no payment can succeed any more
    REVIVE = "REVIVE"              # late money on a cancelled order, and there is stock again
    SHIP = "SHIP"                  # handed to a carrier
    COMPLETE = "COMPLETE"          # arrived
    REFUND = "REFUND"              # the whole amount of the payment that paid it went back


TRANSITIONS: Mapping[tuple[OrderState, Verb], OrderState] = MappingProxyType({
    (OrderState.PENDING_PAYMENT, Verb.PAY): OrderState.PAID,
    (OrderState.PENDING_PAYMENT, Verb.BEGIN_CANCEL): OrderState.CANCELLING,
    (OrderState.CANCELLING, Verb.PAY): OrderState.PAID,
    (OrderState.CANCELLING, Verb.CANCEL): OrderState.CANCELLED,
    (OrderState.CANCELLED, Verb.REVIVE): OrderState.PAID,
    (OrderState.PAID, Verb.SHIP): OrderState.SHIPPED,
    (OrderState.PAID, Verb.REFUND): OrderState.REFUNDED,
    (OrderState.SHIPPED, Verb.COMPLETE): OrderState.COMPLETED,
    (OrderState.SHIPPED, Verb.REFUND): OrderState.REFUNDED,
    (OrderState.COMPLETED, Verb.REFUND): OrderState.REFUNDED,
})


def next_state(state: OrderState, verb: Verb) -> OrderState:
    """The state after a step.

    Raises:
        OrderStateInvalid: the table has no such step.
    """
    try:
        return TRANSITIONS[state, verb]
    except KeyError:
        raise OrderStateInvalid(f"{verb} is not possible in state {state}", state=state, verb=verb) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewLine:
    """One line as the client asks for it."""

    sku_id: str
    quantity: int
    unit_price: str  # major units, as the client saw it; "" when it does not say


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderLine:
    """One line of an order: a product as it was when it was ordered. One per SKU."""

    sku_id: str
    name: str
    unit_price: Money
    quantity: int

    @property
    def amount(self) -> Money:
        """Price of the whole line."""
        return self.unit_price.times(self.quantity)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a buyer wants, identified by (merchant_id, order_id)."""

    merchant_id: str
    order_id: str
    user_id: str
    state: OrderState
    amount: Money                # sum of the lines, computed once
    lines: tuple[OrderLine, ...]  # by SKU, ascending
    paid_payment_id: str         # "" before, and when there was nothing to pay
    version: int                 # raised by every change
    created_at: datetime
    expires_at: datetime         # must be paid until then
    paid_at: datetime | None
    updated_at: datetime

    @classmethod
    def place(cls, *, merchant_id: str, order_id: str, user_id: str, lines: tuple[OrderLine, ...], at: datetime, expires_at: datetime) -> Order:
        """A new order that waits for its money.

        Raises:
            TotalTooLarge: its total has more digits than an amount may have.
        """
        total = sum((line.amount for line in lines), Money.zero(lines[0].unit_price.currency))
        if total.minor > _MINOR_MAX:
            raise TotalTooLarge(fields={"items": f"their total has more than {DIGITS_MAX} digits"})
        return cls(merchant_id=merchant_id, order_id=order_id, user_id=user_id, state=OrderState.PENDING_PAYMENT, amount=total, lines=lines,
                   paid_payment_id="", version=1, created_at=at, expires_at=expires_at, paid_at=None, updated_at=at)

    def pay(self, *, payment_id: str, at: datetime) -> Order:
        """This order, paid by a payment; `payment_id` is "" when there was nothing to pay.

        Raises:
            OrderStateInvalid: it waits for no money.
        """
        return replace(self, state=next_state(self.state, Verb.PAY), paid_payment_id=payment_id, paid_at=at, updated_at=at, version=self.version + 1)


def price_lines(items: Iterable[NewLine], products: Mapping[str, Product]) -> tuple[OrderLine, ...]:
    """The lines of an order at the prices of the catalogue: the same SKU twice is added up, SKUs ascend.

    Args:
        items: at least one line.
        products: the products of the merchant by SKU; those that do not exist are absent.

    Raises:
        ProductNotFound, CurrencyMixed, PriceChanged: the first line that is refused. OutOfStock: the first SKU.
    """
    quantities: dict[str, int] = {}
    currency = ""
    for position, item in enumerate(items):
        product = products.get(item.sku_id)
        if product is None:
            field = f"items[{position}].sku_id"
            raise ProductNotFound(f"there is no product {item.sku_id}", fields={field: "no such product"}, sku_id=item.sku_id)
        currency = currency or product.price.currency
        if product.price.currency != currency:
            problem = f"is sold in {product.price.currency}, the lines before in {currency}"
            raise CurrencyMixed(fields={f"items[{position}].sku_id": problem}, sku_id=item.sku_id)
        product.require_price(item.unit_price, field=f"items[{position}].unit_price")
        quantities[item.sku_id] = quantities.get(item.sku_id, 0) + item.quantity
    lines = []
    for sku_id in sorted(quantities):
        product = products[sku_id]
        product.require_available(quantities[sku_id])
        lines.append(OrderLine(sku_id=sku_id, name=product.name, unit_price=product.price, quantity=quantities[sku_id]))
    return tuple(lines)


def canonical_amount(text: str) -> str:
    """The one spelling of an amount whose currency is not known yet: "09.90", "9.900" and "9.9" are the same."""
    whole, _, fraction = text.partition(".")
    fraction = fraction.rstrip("0")
    return (whole.lstrip("0") or "0") + (f".{fraction}" if fraction else "")

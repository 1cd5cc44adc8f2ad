"""An order: what a buyer wants, at the prices of the moment, and the steps that it may take.
ORDER_STATES declares every step; the store writes nothing else."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from mesh.money import DIGITS_MAX, Money
from mesh.state_machine import Described, StateMachine
from order_rpc.domain.address import Address
from order_rpc.domain.errors import OrderStateInvalid, TotalTooLarge
from order_rpc.domain.external_order import ExternalDetails, OrderKind
from order_rpc.domain.hold import HeldMoney, Hold
from order_rpc.domain.order_line import OrderLine, StockSource
from order_rpc.domain.policy import DEFAULT_POLICY, MerchantPolicy
from order_rpc.domain.refund import RefundStatus

ERASE = "ERASE_PERSONAL_DATA"  # event of the history; no step of the state machine
_MINOR_MAX = 10**DIGITS_MAX - 1


class OrderState(Described):
    """Where an order stands."""

    PENDING_PAYMENT = "PENDING_PAYMENT", "waiting for money; stock is reserved"
    PAID = "PAID", "stock is sold"
    CANCELLING = "CANCELLING", "a cancel was decided; its payments are being closed"
    CANCELLED = "CANCELLED", "nobody will pay; stock is released"
    SHIPPED = "SHIPPED", "on its way to the buyer"
    COMPLETED = "COMPLETED", "done"
    REFUNDED = "REFUNDED", "all money went back"


class Verb(Described):
    """What can happen to an order."""

    PAY = "PAY", "a payment succeeded, or there is nothing to pay"
    BEGIN_CANCEL = "BEGIN_CANCEL", "by the buyer, an admin or the deadline"
    CANCEL = "CANCEL", "payment_rpc says that no payment can succeed any more"
    CANCEL_FREE = (
        "CANCEL_FREE",
        "by the buyer or the shop, of an order that cost nothing and is not shipped",
    )
    HOLD = "HOLD", "payment_rpc says that the money is held: the shop decides, and not the buyer"
    REVIVE = "REVIVE", "late money on a cancelled order, and there is stock again"
    SHIP = "SHIP", "handed to a carrier"
    COMPLETE = "COMPLETE", "arrived"
    REFUND = "REFUND", "the whole amount of the payment that paid it went back"


ORDER_STATES = StateMachine(
    "Order",
    OrderState,
    (
        (OrderState.PENDING_PAYMENT, Verb.PAY, OrderState.PAID),
        (OrderState.PENDING_PAYMENT, Verb.BEGIN_CANCEL, OrderState.CANCELLING),
        (OrderState.CANCELLING, Verb.PAY, OrderState.PAID),
        (OrderState.CANCELLING, Verb.CANCEL, OrderState.CANCELLED),
        (OrderState.CANCELLING, Verb.HOLD, OrderState.PENDING_PAYMENT),
        (OrderState.CANCELLED, Verb.REVIVE, OrderState.PAID),
        (OrderState.PAID, Verb.CANCEL_FREE, OrderState.CANCELLED),
        (OrderState.PAID, Verb.SHIP, OrderState.SHIPPED),
        (OrderState.PAID, Verb.REFUND, OrderState.REFUNDED),
        (OrderState.SHIPPED, Verb.COMPLETE, OrderState.COMPLETED),
        (OrderState.SHIPPED, Verb.REFUND, OrderState.REFUNDED),
        (OrderState.COMPLETED, Verb.REFUND, OrderState.REFUNDED),
    ),
    introduction="What a buyer wants. Partial refunds never change its state, and neither does "
    "money that is held for it while it waits for its money.",
)


def next_state(state: OrderState, verb: Verb) -> OrderState:
    """The state after a step.

    Raises:
        OrderStateInvalid: the table has no such step.
    """
    target = ORDER_STATES.after(state, verb)
    if target is None:
        raise OrderStateInvalid(f"{verb} is not possible in state {state}", state=state, verb=verb)
    return target


class PayStatus(StrEnum):
    """Whether an order has its money."""

    UNPAID = "UNPAID"
    PAID = "PAID"
    PARTIALLY_REFUNDED = "PARTIALLY_REFUNDED"
    REFUNDED = "REFUNDED"


class ShippingStatus(StrEnum):
    """Where the goods of an order are."""

    PENDING = "PENDING"  # nothing to ship yet, or any more
    PREPARING = "PREPARING"  # the shop packs it
    SHIPPED = "SHIPPED"
    DELIVERED = "DELIVERED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a buyer wants, identified by (merchant_id, order_id)."""

    merchant_id: str
    order_id: str
    user_id: str
    client_request_id: str  # the client's own id of it, "" without one
    state: OrderState
    amount: Money  # lines + shipping − discount, computed once
    shipping: Money
    discount: Money
    lines: tuple[OrderLine, ...]  # by SKU, ascending
    address: Address | None
    paid_payment_id: str  # "" before, and when there was nothing to pay
    captured: Money  # by that payment
    refunded: Money  # of that payment
    refund_status: RefundStatus  # derived from all refunds of that payment
    carrier: str  # "" before it is shipped
    tracking_number: str
    # of the cancel that is under way or done; "" again once it is paid after all
    cancel_reason: str
    version: int  # raised by every change
    created_at: datetime
    expires_at: datetime  # must be paid until then; while money is held, until the hold ends
    paid_at: datetime | None
    shipped_at: datetime | None
    completed_at: datetime | None
    cancelled_at: datetime | None
    updated_at: datetime
    external: ExternalDetails | None = None  # None: the prices are those of the catalogue
    held: Hold | None = None  # money that its shop may capture; None for none

    @classmethod
    def place(
        cls,
        *,
        merchant_id: str,
        order_id: str,
        user_id: str,
        lines: tuple[OrderLine, ...],
        at: datetime,
        expires_at: datetime,
        policy: MerchantPolicy = DEFAULT_POLICY,
        address: Address | None = None,
        client_request_id: str = "",
        external: ExternalDetails | None = None,
        own_terms: tuple[Money, Money] | None = None,
    ) -> Order:
        """A new order that waits for its money. `own_terms`: shipping and discount as a merchant
        says them of an external order, instead of those of the policy.

        Raises:
            TotalTooLarge: its total has more digits than an amount may have.
        """
        items = sum((line.amount for line in lines), Money.zero(lines[0].unit_price.currency))
        shipping, discount = own_terms or (policy.shipping_for(items), policy.discount_for(items))
        zero = Money.zero(items.currency)
        if (items + shipping).minor > _MINOR_MAX:
            raise TotalTooLarge(fields={"items": f"their total has more than {DIGITS_MAX} digits"})
        return cls(
            merchant_id=merchant_id,
            order_id=order_id,
            user_id=user_id,
            client_request_id=client_request_id,
            state=OrderState.PENDING_PAYMENT,
            amount=items + shipping - discount,
            shipping=shipping,
            discount=discount,
            lines=lines,
            address=address,
            paid_payment_id="",
            captured=zero,
            refunded=zero,
            refund_status=RefundStatus.NONE,
            carrier="",
            tracking_number="",
            cancel_reason="",
            version=1,
            created_at=at,
            expires_at=expires_at,
            paid_at=None,
            shipped_at=None,
            completed_at=None,
            cancelled_at=None,
            updated_at=at,
            external=external,
        )

    @property
    def kind(self) -> OrderKind:
        """Whose prices it has."""
        return OrderKind.CATALOG if self.external is None else OrderKind.EXTERNAL

    @property
    def order_no(self) -> str:
        """The merchant's own number of it, "" without one."""
        return "" if self.external is None else self.external.order_no

    @property
    def items_amount(self) -> Money:
        """Sum of the lines."""
        return self.amount - self.shipping + self.discount

    @property
    def is_of_activity(self) -> bool:
        """True for an order of a flash sale."""
        return any(line.stock_source is StockSource.ACTIVITY for line in self.lines)

    @property
    def is_free(self) -> bool:
        """True for an order that nobody had to pay."""
        return self.amount.minor == 0

    @property
    def catalog_lines(self) -> tuple[OrderLine, ...]:
        """The lines whose units come from the catalogue stock."""
        return tuple(line for line in self.lines if line.stock_source is StockSource.CATALOG)

    @property
    def pay_status(self) -> PayStatus:
        """Whether it has its money."""
        if self.paid_at is None:
            return PayStatus.UNPAID
        if self.state is OrderState.REFUNDED:
            return PayStatus.REFUNDED
        return PayStatus.PARTIALLY_REFUNDED if self.refunded.minor > 0 else PayStatus.PAID

    @property
    def shipping_status(self) -> ShippingStatus:
        """Where its goods are."""
        if self.completed_at is not None:
            return ShippingStatus.DELIVERED
        if self.shipped_at is not None:
            return ShippingStatus.SHIPPED
        return ShippingStatus.PREPARING if self.state is OrderState.PAID else ShippingStatus.PENDING

    def pay(self, *, payment_id: str, at: datetime, captured: Money | None = None) -> Order:
        """This order, paid by a payment; `payment_id` is "" when there was nothing to pay.

        Raises:
            OrderStateInvalid: it waits for no money.
        """
        paid = self._without_hold(self._step(Verb.PAY, at))
        return replace(
            paid,
            paid_payment_id=payment_id,
            captured=captured or self.captured,
            paid_at=at,
            cancel_reason="",
        )

    def revive(self, *, payment_id: str, at: datetime, captured: Money) -> Order:
        """This cancelled order, paid by late money after all.

        Raises:
            OrderStateInvalid: it is not cancelled.
        """
        revived = self._step(Verb.REVIVE, at)
        return replace(
            revived, paid_payment_id=payment_id, captured=captured, paid_at=at, cancel_reason=""
        )

    def begin_cancel(self, *, reason: str, at: datetime) -> Order:
        """This order, whose payments are to be closed.

        Raises:
            OrderStateInvalid: it is paid or cancelled.
        """
        return replace(self._step(Verb.BEGIN_CANCEL, at), cancel_reason=reason)

    def cancel(self, *, at: datetime) -> Order:
        """This order after payment_rpc said that nobody can pay it any more.

        Raises:
            OrderStateInvalid: no cancel was begun, or it was paid.
        """
        return replace(self._without_hold(self._step(Verb.CANCEL, at)), cancelled_at=at)

    def hold(self, payment_id: str, money: HeldMoney, *, at: datetime) -> Order:
        """This order, which waits for its shop as long as its money is held; itself when it waits
        for that. It comes back from a cancel: its payments are closed to new ones, so its time to
        pay is over with that hold.

        Raises:
            OrderStateInvalid: it waits for no money.
        """
        if self.state is OrderState.PENDING_PAYMENT:
            known = self.held
            if known is not None and (known.payment_id, known.money) == (payment_id, money):
                return self
            waiting, due = self._changed(at), self.held.pay_until if self.held else self.expires_at
        else:
            waiting, due = self._step(Verb.HOLD, at), at
        held = Hold(payment_id=payment_id, money=money, pay_until=due)
        return replace(waiting, held=held, expires_at=money.until, cancel_reason="")

    def end_hold(self, *, at: datetime) -> Order:
        """This order, whose held money was let go: the buyer's deadline counts again."""
        return self._without_hold(self._changed(at))

    def cancel_free(self, *, reason: str, at: datetime) -> Order:
        """This order that cost nothing, cancelled: there is no payment to close.

        Raises:
            OrderStateInvalid: it cost something, or it is not PAID.
        """
        if not self.is_free:
            raise OrderStateInvalid(
                "an order with money is refunded", state=self.state, verb=Verb.CANCEL_FREE
            )
        return replace(
            self._step(Verb.CANCEL_FREE, at), cancel_reason=reason, paid_at=None, cancelled_at=at
        )

    def ship(self, *, carrier: str, tracking_number: str, at: datetime) -> Order:
        """This order on its way.

        Raises:
            OrderStateInvalid: it is not PAID.
        """
        return replace(
            self._step(Verb.SHIP, at),
            carrier=carrier,
            tracking_number=tracking_number,
            shipped_at=at,
        )

    def complete(self, *, at: datetime) -> Order:
        """This order, arrived.

        Raises:
            OrderStateInvalid: it is not on its way.
        """
        return replace(self._step(Verb.COMPLETE, at), completed_at=at)

    def refund(self, *, at: datetime) -> Order:
        """This order after all of its money went back.

        Raises:
            OrderStateInvalid: it has no money.
        """
        return self._step(Verb.REFUND, at)

    def send_to(self, address: Address, *, at: datetime) -> Order:
        """This order with another address.

        Raises:
            OrderStateInvalid: it does not wait for money any more.
        """
        if self.state is not OrderState.PENDING_PAYMENT:
            raise OrderStateInvalid(
                f"the address is fixed in state {self.state}",
                state=self.state,
                verb="SET_SHIPPING_ADDRESS",
            )
        return self if address == self.address else replace(self._changed(at), address=address)

    def with_refunds(self, *, refunded: Money, status: RefundStatus, at: datetime) -> Order:
        """This order with what is known of its refunds now; itself when that is nothing new."""
        if (refunded, status) == (self.refunded, self.refund_status):
            return self
        return replace(self._changed(at), refunded=refunded, refund_status=status)

    def erase(self, *, at: datetime) -> Order:
        """This order without what it says of people: its customer, its address, the merchant's
        notes. Itself when that was done before.

        Raises:
            OrderStateInvalid: it is an order of the catalogue.
        """
        if self.external is None:
            raise OrderStateInvalid(
                "only an external order has a customer of its merchant",
                state=self.state,
                verb=ERASE,
            )
        if self.external.erased_at is not None and self.address is None:
            return self
        return replace(self._changed(at), external=self.external.erased(at=at), address=None)

    def _without_hold(self, order: Order) -> Order:
        due = self.expires_at if self.held is None else self.held.pay_until
        return replace(order, held=None, expires_at=due)

    def _step(self, verb: Verb, at: datetime) -> Order:
        return replace(self._changed(at), state=next_state(self.state, verb))

    def _changed(self, at: datetime) -> Order:
        return replace(self, version=self.version + 1, updated_at=at)

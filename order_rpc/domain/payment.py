"""What an order makes of a payment. payment_rpc sends snapshots, in any order and any number of
times; the first one with money decides, once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import assert_never

from mesh.errors import InvalidArgument
from mesh.money import Money
from order_rpc.domain.hold import HeldMoney
from order_rpc.domain.order import Order, OrderState
from order_rpc.domain.refund import RefundSnapshot, RefundState

# States of a payment in which its money is here; the other states are payment_rpc's own affair, so
# they are no enum of ours.
_MONEY_STATES = frozenset({"SUCCESS", "LATE_SUCCESS"})
_HELD = "AUTHORIZED"
# What a refund of payment_rpc is to an order; whatever else it may become is still on its way.
_REFUND_STATES = {
    "SUCCESS": RefundState.SUCCEEDED,
    "FAILED": RefundState.FAILED,
    "CANCELED": RefundState.FAILED,
    "REVERSED": RefundState.BOUNCED,
}
_STATE_NAME = re.compile(r"[A-Z_]{1,32}", re.ASCII)


class Disposition(StrEnum):
    """What an order did with a payment."""

    APPLIED = "APPLIED"  # the order took it and is PAID by it
    ALREADY = "ALREADY"  # it was PAID by this payment before
    REVIVED = "REVIVED"  # a cancelled order took it and is PAID again
    REFUSED_CANCELLED = "REFUSED_CANCELLED"  # the order is cancelled; the money goes back
    # another payment paid the order; the money goes back
    REFUSED_PAID_BY_OTHER = "REFUSED_PAID_BY_OTHER"
    NOTED = "NOTED"  # a snapshot that decides nothing; never stored


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentSnapshot:
    """What payment_rpc knows of a payment at one version of it. `captured_in_part`: the shop
    captured less than was held for it, on purpose.
    """

    payment_id: str
    version: int
    state: str
    captured: Money
    refunded: Money
    refund_reserved: Money
    refunds: tuple[RefundSnapshot, ...] = ()
    captured_in_part: bool = False
    held: HeldMoney | None = None  # while the channel holds the money and nothing has moved

    @classmethod
    def parse(
        cls,
        *,
        payment_id: str,
        version: int,
        state: str,
        captured: str,
        refunded: str,
        refund_reserved: str,
        currency: str,
        refunds: Iterable[tuple[str, str, str, str, str]] = (),
        captured_in_part: bool = False,
        held_amount: str = "",
        held_until: datetime | None = None,
    ) -> PaymentSnapshot:
        """Reads a snapshot as it comes over the wire, amounts in major units.

        Args:
            refunds: refund_id, request_id, state, amount and reason of each.
            held_amount, held_until: of held money; "" and None for none.

        Raises:
            InvalidArgument: an amount is none of that currency, more went back than came, or the
                state is no name; names the field.
        """
        if _STATE_NAME.fullmatch(state) is None:
            raise InvalidArgument.of(
                "payment.state", "expected the name of a state such as SUCCESS"
            )

        def money(field: str, amount: str) -> Money:
            return Money.parse(
                amount,
                currency,
                field=f"payment.{field}",
                currency_field="payment.currency",
                allow_zero=True,
            )

        came, back = money("captured", captured), money("refunded", refunded)
        # a defect of payment_rpc: refused here by name, instead of by the table at every repetition
        if back > came:
            raise InvalidArgument.of("payment.refunded", "is more than was captured")
        return cls(
            payment_id=payment_id,
            version=version,
            state=state,
            captured=came,
            refunded=back,
            refund_reserved=money("refund_reserved", refund_reserved),
            captured_in_part=captured_in_part,
            held=HeldMoney(amount=money("held_amount", held_amount), until=held_until)
            if state == _HELD and held_amount and held_until is not None
            else None,
            refunds=tuple(
                _refund_of(refund, money(f"refunds[{position}].amount", refund[3]))
                for position, refund in enumerate(refunds)
            ),
        )

    @property
    def has_money(self) -> bool:
        """True when this snapshot is one that decides."""
        return self.state in _MONEY_STATES

    def can_revive(self, order: Order) -> bool:
        """True when what is left of this payment pays a cancelled order. Orders of flash sales stay
        cancelled: their unit is sold again.
        """
        if self.captured.currency != order.amount.currency or order.is_of_activity:
            return False
        return self.captured - self.refunded - self.refund_reserved >= order.amount


def _refund_of(refund: tuple[str, str, str, str, str], amount: Money) -> RefundSnapshot:
    refund_id, request_id, name, _, reason = refund
    return RefundSnapshot(
        refund_id=refund_id,
        request_id=request_id,
        state=_REFUND_STATES.get(name, RefundState.APPROVED),
        amount=amount,
        reason=reason,
    )


class CloseResult(StrEnum):
    """What payment_rpc says of the payments of an order. Names equal
    `paymesh.payment.v1.CloseResult`.
    """

    ALREADY_PAID = "ALREADY_PAID"  # one of them succeeded
    CLOSING = "CLOSING"  # a channel has not answered: ask again
    CONFLICTED = "CONFLICTED"  # money that is not ours; it blocks nothing
    CLOSED = "CLOSED"  # nobody paid and nobody will
    HELD = "HELD"  # money is held for the shop, which did not let it go


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseAnswer:
    """The answer to ClosePayment. `payment` comes with ALREADY_PAID and HELD."""

    result: CloseResult
    payment: PaymentSnapshot | None
    retry_after_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownPayment:
    """The last known state of a payment of an order, and what the order did with it."""

    payment_id: str
    version: int
    state: str
    disposition: Disposition | None  # None until it is decided, then for ever the same
    created_at: datetime
    updated_at: datetime

    @classmethod
    def first_seen(cls, snapshot: PaymentSnapshot, *, at: datetime) -> KnownPayment:
        """A payment that was unknown before."""
        return cls(
            payment_id=snapshot.payment_id,
            version=snapshot.version,
            state=snapshot.state,
            disposition=None,
            created_at=at,
            updated_at=at,
        )

    def seen_again(self, snapshot: PaymentSnapshot, *, at: datetime) -> KnownPayment:
        """This payment after a newer snapshot; its disposition stays."""
        return replace(self, version=snapshot.version, state=snapshot.state, updated_at=at)

    @property
    def answer(self) -> Disposition:
        """The disposition that payment_rpc gets."""
        return self.disposition or Disposition.NOTED


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What becomes of an order by a snapshot with money."""

    order: Order
    # None: undecided, because the money is not what the order costs
    disposition: Disposition | None
    shortfall: str = ""  # why it needs a manual review


def decide(
    order: Order, snapshot: PaymentSnapshot, *, at: datetime, revives: bool = False
) -> Decision:
    """What an order does with a payment whose money is here. `revives`: the merchant wants a
    cancelled order back, and its units are there.

    Money that is less than the order costs, or of another currency, never pays it: the order stays
    as it is, for a manual review. Only a shop that captured a part on purpose is content with that.
    """
    match order.state:
        case OrderState.PENDING_PAYMENT | OrderState.CANCELLING:
            is_in_part = snapshot.captured_in_part and snapshot.captured.minor > 0
            if snapshot.captured.currency != order.amount.currency or (
                snapshot.captured < order.amount and not is_in_part
            ):
                shortfall = f"captured {snapshot.captured} for an order of {order.amount}"
                return Decision(order=order, disposition=None, shortfall=shortfall)
            return Decision(
                order=order.pay(payment_id=snapshot.payment_id, at=at, captured=snapshot.captured),
                disposition=Disposition.APPLIED,
            )
        case OrderState.PAID | OrderState.SHIPPED | OrderState.COMPLETED | OrderState.REFUNDED:
            is_ours = order.paid_payment_id == snapshot.payment_id
            return Decision(
                order=order,
                disposition=Disposition.ALREADY if is_ours else Disposition.REFUSED_PAID_BY_OTHER,
            )
        case OrderState.CANCELLED if revives and snapshot.can_revive(order):
            return Decision(
                order=order.revive(
                    payment_id=snapshot.payment_id, at=at, captured=snapshot.captured
                ),
                disposition=Disposition.REVIVED,
            )
        case OrderState.CANCELLED:
            return Decision(order=order, disposition=Disposition.REFUSED_CANCELLED)
        case _:
            assert_never(order.state)


def held_after(order: Order, snapshot: PaymentSnapshot, *, at: datetime) -> Order:
    """An order after a snapshot without money: what is held for it, or is not any more. The hold of
    a newer payment is not replaced by news of an older one. An order that is being cancelled hears
    of a hold by the answer to ClosePayment alone.
    """
    known = order.held
    if snapshot.held is None:
        is_over = known is not None and known.payment_id == snapshot.payment_id
        return order.end_hold(at=at) if is_over else order
    if (
        order.state is not OrderState.PENDING_PAYMENT
        or snapshot.held.amount != order.amount
        or (known is not None and known.payment_id > snapshot.payment_id)
    ):
        return order
    return order.hold(snapshot.payment_id, snapshot.held, at=at)

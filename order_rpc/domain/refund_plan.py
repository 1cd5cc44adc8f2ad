"""How much a refund of lines, of an amount or of everything is: exact to the minor unit, whatever
was refunded before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from mesh.errors import InvalidArgument
from mesh.money import Money, RequestedAmount
from order_rpc.domain.errors import RefundExceedsRefundable, RefundNotAllowed
from order_rpc.domain.order import Order, OrderState
from order_rpc.domain.refund import (
    HOLDS_MONEY,
    HOLDS_UNITS,
    RefundLine,
    RefundRequest,
    RefundState,
    total,
)

REFUNDABLE = frozenset({OrderState.PAID, OrderState.SHIPPED, OrderState.COMPLETED})


def sale_refunds(order: Order, known: Sequence[RefundRequest]) -> list[RefundRequest]:
    """Those refunds of an order that are of the payment that paid it."""
    return [refund for refund in known if refund.payment_id == order.paid_payment_id]


def require_refundable(order: Order) -> None:
    """Checks that an order holds money of a payment, or units that cost nothing.

    Raises:
        RefundNotAllowed: it does not.
    """
    if order.state not in REFUNDABLE or not (order.paid_payment_id or order.is_free):
        raise RefundNotAllowed(
            f"an order in state {order.state} has no payment to refund", state=order.state
        )


def money_left(order: Order, refunds: Sequence[RefundRequest], *, with_requested: bool) -> Money:
    """What may still be refunded. `with_requested`: what waits for the shop counts as refunded, so
    that a buyer never asks for more than there is.
    """
    held = total(
        refunds,
        HOLDS_MONEY | ({RefundState.REQUESTED} if with_requested else frozenset()),
        currency=order.amount.currency,
    )
    # of a sender that lists no refunds
    others = order.refunded - total(
        refunds, frozenset({RefundState.SUCCEEDED}), currency=order.amount.currency
    )
    return max(
        order.captured - held - max(others, Money.zero(order.amount.currency)),
        Money.zero(order.amount.currency),
    )


def is_full_refund_open(order: Order, refunds: Sequence[RefundRequest]) -> bool:
    """True while everything that is left is on its way back."""
    is_open = any(refund.state is RefundState.APPROVED for refund in refunds)
    return is_open and money_left(order, refunds, with_requested=False).minor == 0


def plan_refund(
    order: Order,
    refunds: Sequence[RefundRequest],
    *,
    lines: Sequence[RefundLine],
    amount: RequestedAmount,
    with_requested: bool,
) -> tuple[Money, tuple[RefundLine, ...]]:
    """The money and the units of a new refund; neither lines nor an amount means everything that is
    left.

    Args:
        refunds: those of the payment that paid the order.
        with_requested: count what waits for the shop as gone.

    Raises:
        RefundNotAllowed: the order holds no money. RefundExceedsRefundable: more units or money
            than are left. InvalidArgument: a SKU that is not in
        the order, or no amount of its currency.
    """
    require_refundable(order)
    left = money_left(order, refunds, with_requested=with_requested)
    units = _units_left(order, refunds, with_requested=with_requested)
    returned: tuple[RefundLine, ...] = ()
    if amount.text:
        wanted = amount.in_currency(order.amount.currency)
    elif lines:
        returned = _checked(order, units, lines)
        wanted = _worth(order, units, returned)
    else:
        wanted, returned = (
            left,
            tuple(
                RefundLine(sku_id=sku_id, quantity=count)
                for sku_id, count in sorted(units.items())
                if count
            ),
        )
    # nothing to pay back: only the goods return
    if wanted.minor == 0 and returned and (lines or order.is_free):
        return wanted, returned
    if wanted > left or left.minor == 0:
        raise RefundExceedsRefundable(
            f"{left} can be refunded",
            fields={"amount": f"{left.format()} is left"},
            refundable=left.format(),
            currency=left.currency,
        )
    return wanted, returned


def is_all_back(order: Order, refunds: Sequence[RefundRequest]) -> bool:
    """True when no unit of an order is left to come back."""
    return not any(_units_left(order, refunds, with_requested=False).values())


def _units_left(
    order: Order, refunds: Sequence[RefundRequest], *, with_requested: bool
) -> Counter[str]:
    left = Counter({line.sku_id: line.quantity for line in order.lines})
    for refund in refunds:
        if refund.state in HOLDS_UNITS or (
            with_requested and refund.state is RefundState.REQUESTED
        ):
            left.subtract({line.sku_id: line.quantity for line in refund.lines})
    return left


def _checked(
    order: Order, left: Counter[str], lines: Sequence[RefundLine]
) -> tuple[RefundLine, ...]:
    wanted: Counter[str] = Counter()
    known = {line.sku_id for line in order.lines}
    for position, line in enumerate(lines):
        if line.sku_id not in known:
            raise InvalidArgument.of(f"items[{position}].sku_id", "is not in the order")
        wanted[line.sku_id] += line.quantity
        if wanted[line.sku_id] > left[line.sku_id]:
            raise RefundExceedsRefundable(
                f"{left[line.sku_id]} units of {line.sku_id} are left to refund",
                fields={f"items[{position}].quantity": f"{left[line.sku_id]} are left"},
                sku_id=line.sku_id,
                quantity=left[line.sku_id],
            )
    return tuple(
        RefundLine(sku_id=sku_id, quantity=count) for sku_id, count in sorted(wanted.items())
    )


def _worth(order: Order, left: Counter[str], returned: Sequence[RefundLine]) -> Money:
    """What these units cost after the discount. All units together, in whatever portions, are worth
    exactly lines − discount.
    """
    before = {line.sku_id: line.quantity - left[line.sku_id] for line in order.lines}
    after = dict(before)
    for line in returned:
        after[line.sku_id] += line.quantity
    return _net(order, after) - _net(order, before)


def _net(order: Order, units: dict[str, int]) -> Money:
    gross = sum(line.unit_price.minor * units[line.sku_id] for line in order.lines)
    items = order.items_amount.minor
    discount = order.discount.minor * gross // items if items else 0
    return Money(gross - discount, order.amount.currency)

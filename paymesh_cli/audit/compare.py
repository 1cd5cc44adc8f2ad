"""What must hold between services: the facts that each tells about itself, compared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from mesh.audit import TenantKey, Violation
from order_rpc.audit.facts import OrderFacts
from order_rpc.audit.sales import SaleOrderFacts
from payment_rpc.audit.facts import PaymentFacts
from seckill_rpc.audit.facts import UnitFacts


def compare(
    orders: Mapping[TenantKey, OrderFacts],
    payments: Iterable[PaymentFacts],
    gates: Mapping[TenantKey, str],
) -> Iterator[tuple[TenantKey, Violation]]:
    """Orders against all payments and gates of these orders: PAID exactly when its payment is a
    SUCCESS, of the same amounts, buyer and refunds; paid by nobody any more once it is
    CANCELLED."""
    of_order: dict[TenantKey, list[PaymentFacts]] = {key: [] for key in orders}
    for payment in payments:
        of_order.setdefault(payment.key, []).append(payment)
    for key, order in orders.items():
        for violation in _compare_gate(order, gates.get(key)):
            yield key, violation
    for key, own in of_order.items():
        if any(payment.is_settling for payment in own):
            continue
        found = orders.get(key)
        if found is None:
            for payment in own:
                yield (
                    key,
                    Violation(
                        check="payment_has_order",
                        subject=payment.payment_id,
                        detail=f"there is no order {key[1]}",
                    ),
                )
        else:
            for violation in (
                *_compare_one(found, own),
                *_compare_held(found, own),
                *_compare_refunds(found, own),
            ):
                yield key, violation


def _compare_gate(order: OrderFacts, gate: str | None) -> Iterator[Violation]:
    """What keeps new payments of an order from being made, once it is decided that nobody may pay
    it any more.
    """
    if order.state == "CANCELLED" and gate != "CLOSED":
        yield Violation(
            check="gate_closed",
            subject=order.order_id,
            detail=f"it is CANCELLED, and its gate at payment_rpc is {gate or 'not there'}",
        )
    # an order that came back because its money is held is paid by that money or by none
    if order.state == "PENDING_PAYMENT" and gate == "CLOSED" and not order.held_payment_id:
        yield Violation(
            check="gate_open",
            subject=order.order_id,
            detail="it waits for money, and its gate at payment_rpc is CLOSED",
        )


def _compare_refunds(order: OrderFacts, payments: Sequence[PaymentFacts]) -> Iterator[Violation]:
    """Each refund on both sides, of one state and amount."""
    theirs = {refund.refund_id: refund for payment in payments for refund in payment.refunds}
    named = {refund.request_id: refund for refund in theirs.values() if refund.request_id}
    known = set()
    for ours in order.refunds:
        subject = ours.refund_id or ours.request_id
        other = theirs.get(ours.refund_id) or named.get(ours.request_id)
        if other is None:
            if ours.refund_id:
                yield Violation(
                    check="refund_at_payment",
                    subject=subject,
                    detail=f"order {order.order_id} has it as {ours.state}, payment_rpc not at all",
                )
            continue
        known.add(other.refund_id)
        for what, is_, should in (
            ("state", ours.state, other.state),
            ("amount", (ours.amount_minor, ours.currency), (other.amount_minor, other.currency)),
            ("payment", ours.payment_id, other.payment_id),
        ):
            if is_ != should:
                yield Violation(
                    check=f"same_refund_{what}",
                    subject=subject,
                    detail=f"{what} is {is_} at order {order.order_id} and {should} at payment_rpc",
                )
    for refund_id in theirs.keys() - known:
        yield Violation(
            check="refund_at_order",
            subject=refund_id,
            detail=f"payment_rpc has it as {theirs[refund_id].state}, order {order.order_id} not "
            f"at all",
        )


def _compare_one(order: OrderFacts, payments: Sequence[PaymentFacts]) -> Iterator[Violation]:
    paying = next(
        (payment for payment in payments if payment.payment_id == order.paid_payment_id), None
    )
    for payment in payments:
        if payment.user_id != order.user_id:
            yield Violation(
                check="same_buyer",
                subject=payment.payment_id,
                detail=f"it is {payment.user_id}'s, and order {order.order_id} is "
                f"{order.user_id}'s",
            )
        heard = order.heard.get((payment.payment_id, payment.version), payment.state)
        if heard != payment.state:
            yield Violation(
                check="same_payment_state",
                subject=payment.payment_id,
                detail=f"it is {payment.state}, and order {order.order_id} heard in the same "
                f"version that it is {heard}",
            )
        if payment.state == "SUCCESS" and payment is not paying:
            yield Violation(
                check="paid_once",
                subject=payment.payment_id,
                detail=f"it is a SUCCESS, and order {order.order_id} is {order.state}, paid by "
                f"{order.paid_payment_id or 'nobody'}",
            )
    if order.is_paid and (order.amount_minor or order.paid_payment_id):
        yield from _compare_paying(order, paying)


def _compare_held(order: OrderFacts, payments: Sequence[PaymentFacts]) -> Iterator[Violation]:
    """What is held for an order is held at payment_rpc, and the other way round. A payment that is
    being closed is held until its channel has let the money go.
    """
    held = {
        payment.payment_id: payment.amount_minor
        for payment in payments
        if payment.state in ("AUTHORIZED", "CLOSING")
    }
    if order.held_payment_id and held.get(order.held_payment_id) != order.held_minor:
        yield Violation(
            check="order_held",
            subject=order.order_id,
            detail=f"{order.held_minor} of {order.held_payment_id} are held for it, and "
            f"{held.get(order.held_payment_id, 0)} by that payment, in minor units",
        )
    if order.state != "CANCELLING":  # its answer to ClosePayment says what is held
        for payment in payments:
            if payment.state == "AUTHORIZED" and payment.payment_id != order.held_payment_id:
                yield Violation(
                    check="hold_at_order",
                    subject=payment.payment_id,
                    detail=f"its money is held, and order {order.order_id} does not know",
                )


def _compare_paying(order: OrderFacts, paying: PaymentFacts | None) -> Iterator[Violation]:
    """An order that was paid against the payment that it names."""
    if paying is None:
        yield Violation(
            check="order_paid_by_success",
            subject=order.order_id,
            detail=f"it is {order.state}, and there is no payment "
            f"{order.paid_payment_id or '(none)'} of it",
        )
        return
    if paying.state != "SUCCESS":
        yield Violation(
            check="order_paid_by_success",
            subject=order.order_id,
            detail=f"it is {order.state}, and its payment {paying.payment_id} is {paying.state}",
        )
    for name, ours, theirs in (
        ("amount", order.amount_minor, paying.amount_minor),
        ("captured", order.captured_minor, paying.captured_minor),
        ("refunded", order.refunded_minor, paying.refunded_minor),
        ("currency", order.currency, paying.currency),
    ):
        if ours != theirs:
            yield Violation(
                check=f"same_{name}",
                subject=order.order_id,
                detail=f"{name} is {ours} at the order and {theirs} at {paying.payment_id}",
            )
    if order.state == "REFUNDED" and paying.refunded_minor != paying.captured_minor:
        yield Violation(
            check="order_refunded",
            subject=order.order_id,
            detail=f"it is REFUNDED, and {paying.payment_id} still has money of it",
        )


def compare_sale(
    units: Mapping[TenantKey, UnitFacts],
    orders: Mapping[TenantKey, SaleOrderFacts],
    keys: Iterable[TenantKey],
) -> Iterator[tuple[TenantKey, Violation]]:
    """Orders of flash sales on both sides: each was decided before it was written, of the same
    buyer and price; a unit that came back has a cancelled order, and no cancelled order keeps
    one."""
    for key in keys:
        unit, order = units.get(key), orders.get(key)
        for check_name, detail in _compare_unit(unit, order):
            yield key, Violation(check=check_name, subject=key[1], detail=detail)


def _compare_unit(
    unit: UnitFacts | None, order: SaleOrderFacts | None
) -> Iterator[tuple[str, str]]:
    if order is None:
        if unit is not None and unit.state == "LIVE" and not unit.is_settling:
            yield "unit_has_order", "order_rpc does not have it"
        return
    if unit is None or unit.state == "REFUSED":
        yield (
            "order_has_unit",
            (
                f"order_rpc has it as {order.state}, and the flash sale "
                f"{'never decided it' if unit is None else 'refused it'}"
            ),
        )
        return
    ours = (unit.activity_id, unit.user_id, unit.price_minor, unit.currency, 1)
    theirs = (order.activity_id, order.user_id, order.price_minor, order.currency, order.quantity)
    if ours != theirs:
        yield "same_sale", f"it is {ours} in the flash sale and {theirs} in order_rpc"
    if unit.state == "RETURNED" and order.state != "CANCELLED":
        yield "unit_returned", f"its unit came back, and the order is {order.state}"
    if unit.state == "LIVE" and order.state == "CANCELLED" and not order.is_settling:
        yield (
            "unit_returned",
            "the order is CANCELLED, and the flash sale does not have its unit back",
        )

"""PayPal's orders, captures, authorizations and refunds as facts. The word of an order alone says
nothing about money: its captures do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Final

from mesh.money import Money
from payment_rpc.channels.doubt import Unclear, message_of
from payment_rpc.channels.paypal.objects import Authorization, Capture, Order, Refund, Unit
from payment_rpc.domain.facts import ChannelFact, ChannelStatus
from payment_rpc.domain.payment import NextAction
from payment_rpc.domain.refund_facts import RefundChannelStatus, RefundFact
from payment_rpc.domain.statement import first_plausible

CAPTURED, AUTHORIZED = ChannelStatus.CAPTURED, ChannelStatus.AUTHORIZED
PENDING, DECLINED = ChannelStatus.PENDING, ChannelStatus.DECLINED
FAILED, CLOSED = ChannelStatus.FAILED, ChannelStatus.CLOSED

APPROVED: Final = "APPROVED"
# of orders in which nothing was captured or authorized
ORDERS: Final[Mapping[str, ChannelStatus]] = {
    "CREATED": PENDING,
    "SAVED": PENDING,
    "PAYER_ACTION_REQUIRED": PENDING,
    APPROVED: PENDING,
    "VOIDED": CLOSED,
}
CAPTURES: Final[Mapping[str, ChannelStatus]] = {
    "COMPLETED": CAPTURED,
    "PENDING": PENDING,
    "DECLINED": DECLINED,
    "FAILED": FAILED,
    # it was paid; what went back is told by refunds
    "REFUNDED": CAPTURED,
    "PARTIALLY_REFUNDED": CAPTURED,
}
AUTHORIZATIONS: Final[Mapping[str, ChannelStatus]] = {
    "CREATED": AUTHORIZED,
    "PENDING": PENDING,
    "DENIED": DECLINED,
    "VOIDED": CLOSED,
    # their captures decide
    "CAPTURED": CAPTURED,
    "PARTIALLY_CAPTURED": CAPTURED,
}
REFUNDS: Final[Mapping[str, RefundChannelStatus]] = {
    "COMPLETED": RefundChannelStatus.SUCCESS,
    "PENDING": RefundChannelStatus.PENDING,
    "FAILED": RefundChannelStatus.FAILED,
    "CANCELLED": RefundChannelStatus.FAILED,
}
# What PayPal answers to a capture or authorization that it did not make. All are final for us: the
# order is captured by nobody else, and we try no second time.
NOT_CHARGED: Final[Mapping[str, ChannelStatus]] = {
    "INSTRUMENT_DECLINED": DECLINED,
    "PAYER_CANNOT_PAY": DECLINED,
    "TRANSACTION_REFUSED": DECLINED,
    "PAYER_ACCOUNT_RESTRICTED": DECLINED,
    "PAYER_ACCOUNT_LOCKED_OR_CLOSED": DECLINED,
    "COMPLIANCE_VIOLATION": DECLINED,
    "REDIRECT_PAYER_FOR_ALTERNATE_FUNDING": DECLINED,
    "MAX_NUMBER_OF_PAYMENT_ATTEMPTS_EXCEEDED": DECLINED,
    "PAYEE_BLOCKED_TRANSACTION": FAILED,
    "PAYEE_ACCOUNT_RESTRICTED": FAILED,
    "PAYEE_ACCOUNT_LOCKED_OR_CLOSED": FAILED,
    "PAYEE_ACCOUNT_INVALID": FAILED,
    "PAYEE_ACCOUNT_NOT_VERIFIED": FAILED,
    "PAYEE_ACCOUNT_NOT_SUPPORTED": FAILED,
    "ORDER_EXPIRED": CLOSED,
}
# the first call did it
DONE_BEFORE: Final = frozenset(
    {
        "ORDER_ALREADY_CAPTURED",
        "ORDER_ALREADY_AUTHORIZED",
        "AUTHORIZATION_ALREADY_CAPTURED",
        "PREVIOUSLY_CAPTURED",
        "PREVIOUSLY_VOIDED",
        "AUTHORIZATION_VOIDED",
        "AUTHORIZATION_EXPIRED",
    }
)
REFUND_REFUSED: Final[Mapping[str, str]] = {
    "CAPTURE_FULLY_REFUNDED": "REFUND_EXCEEDS_REFUNDABLE",
    "REFUND_AMOUNT_EXCEEDED": "REFUND_EXCEEDS_REFUNDABLE",
    "REFUND_TIME_LIMIT_EXCEEDED": "REFUND_NOT_ALLOWED",
    "PARTIAL_REFUND_NOT_ALLOWED": "REFUND_NOT_ALLOWED",
    "MAX_NUMBER_OF_REFUNDS_EXCEEDED": "REFUND_NOT_ALLOWED",
    "PENDING_CAPTURE": "REFUND_NOT_ALLOWED",
    "TRANSACTION_DISPUTED": "REFUND_NOT_ALLOWED",
    "REFUND_NOT_PERMITTED_DUE_TO_CHARGEBACK": "REFUND_NOT_ALLOWED",
    "REFUND_FAILED_INSUFFICIENT_FUNDS": "REFUND_FAILED",
    "CURRENCY_MISMATCH": "CURRENCY_MISMATCH",
}
# a repeated call is answered with them too where the first one was carried out
REFUSED_AGAIN: Final = frozenset({"CAPTURE_FULLY_REFUNDED", "REFUND_AMOUNT_EXCEEDED"})
# PayPal executes nothing that it answers with them
NOT_EXECUTED: Final = frozenset({400, 401, 403, 429})

_REASONS: Final = {
    DECLINED: "CARD_DECLINED",
    FAILED: "CHANNEL_FAILED",
    CLOSED: "PAYMENT_CLOSED",
}
_PAYER_LINKS: Final = ("payer-action", "approve")
_PAYER_URL: Final = re.compile(r"https?://[!-~]{1,2040}")


def moment(text: str) -> datetime | None:
    """A time of PayPal's; None where it cannot be read."""
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        return None
    return first_plausible(read) if read.tzinfo is not None else None


def payer_action(order: Order) -> NextAction | None:
    """Where the buyer approves."""
    found = next((link.href for link in order.links if link.rel in _PAYER_LINKS), None)
    if found is None:
        return None
    if not _PAYER_URL.fullmatch(found):  # it is shown to the buyer's browser
        raise Unclear("the buyer's address is not one")
    return NextAction(kind="REDIRECT_URL", value=found)


def read_order(order: Order, *, attempt_id: str) -> ChannelFact:
    """The fact in an order.

    Raises:
        Unclear: it is of another attempt, or says nothing certain.
    """
    unit = order.unit
    payments = unit.payments
    named = {unit.custom_id, *(one.custom_id for one in payments.captures)} - {""}
    if named - {attempt_id}:
        raise Unclear("the order is of another attempt")
    if len(payments.authorizations) > 1:
        raise Unclear("the order has several authorizations")
    held = payments.authorizations[0] if payments.authorizations else None
    fact = read_captures(payments.captures, attempt_id=attempt_id, ref=order.id, held=held)
    if fact is None:
        fact = _read_hold(held, unit, attempt_id) if held else _read_waiting(order, attempt_id)
    return replace(fact, ref=order.id)


def read_captures(
    captures: tuple[Capture, ...],
    *,
    attempt_id: str,
    ref: str = "",
    held: Authorization | None = None,
) -> ChannelFact | None:
    """The fact in the captures of one attempt: what was paid, else what waits, else how the last
    one ended. None where they say nothing: there is none, or money is held beside refused ones.

    Raises:
        Unclear: a status that nobody knows, or a paid capture without an amount.
    """
    read = [(_status(CAPTURES, one.status), one) for one in captures]
    paid = [one for status, one in read if status is CAPTURED]
    if paid:
        return _paid(paid, attempt_id=attempt_id, ref=ref, held=held)
    if not read or (
        held is not None and held.status == "CREATED" and all(s is not PENDING for s, _ in read)
    ):
        return None
    status, last = next((each for each in read if each[0] is PENDING), read[-1])
    reason = last.status_details.reason
    return ChannelFact(
        attempt_id=attempt_id,
        status=status,
        amount=None if last.amount is None else last.amount.money(),
        trade_no=last.id,
        reason=_REASONS.get(status, ""),
        message=message_of(f"PayPal says {last.status} {reason}".rstrip()),
        occurred_at=moment(last.create_time),
        ref=ref,
    )


def _paid(
    paid: list[Capture], *, attempt_id: str, ref: str, held: Authorization | None
) -> ChannelFact:
    amounts = [one.amount.money() for one in paid if one.amount is not None]
    if len(amounts) != len(paid) or len({each.currency for each in amounts}) != 1:
        raise Unclear("a capture has no usable amount")
    total = Money(sum(each.minor for each in amounts), amounts[0].currency)
    rest = None
    if held is not None and held.status == "PARTIALLY_CAPTURED" and held.amount is not None:
        left = held.amount.money() - total
        if left.minor > 0 and not any(one.final_capture for one in paid):
            rest = left
    return ChannelFact(
        attempt_id=attempt_id,
        status=CAPTURED,
        amount=total,
        trade_no=paid[0].id,
        occurred_at=moment(paid[0].create_time),
        fee=_fee(paid, total.currency),
        capturable=rest,
        ref=ref,
    )


def _fee(paid: list[Capture], currency: str) -> Money | None:
    """What PayPal keeps; None while one capture does not say, or in another currency."""
    fees = [one.seller_receivable_breakdown.paypal_fee for one in paid]
    if any(fee is None or fee.currency_code != currency for fee in fees):
        return None
    try:
        return Money(sum(fee.money().minor for fee in fees if fee is not None), currency)
    except Unclear:  # the rest of the answer is still valid
        return None


def _read_hold(held: Authorization, unit: Unit, attempt_id: str) -> ChannelFact:
    status = _status(AUTHORIZATIONS, held.status)
    if status is CAPTURED:
        raise Unclear("the authorization was captured, and there is no capture")
    told = held.amount or unit.amount
    if told is None:
        raise Unclear("the authorization has no amount")
    amount = told.money()
    return ChannelFact(
        attempt_id=attempt_id,
        status=status,
        amount=amount,
        reason=_REASONS.get(status, ""),
        message=message_of(f"PayPal says {held.status}"),
        held_until=moment(held.expiration_time) if status is AUTHORIZED else None,
        capturable=amount if status is AUTHORIZED else None,
    )


def _read_waiting(order: Order, attempt_id: str) -> ChannelFact:
    status = _status(ORDERS, order.status)
    told = order.unit.amount
    if told is None:
        raise Unclear("the order has no amount")
    return ChannelFact(
        attempt_id=attempt_id,
        status=status,
        amount=told.money(),
        reason=_REASONS.get(status, ""),
        next_action=payer_action(order) if status is PENDING else None,
        is_our_turn=order.status == APPROVED,
    )


def not_charged(
    issue: str, *, attempt_id: str, ref: str, amount: Money | None
) -> ChannelFact | None:
    """The fact in a refusal of a capture or an authorization; None where it proves nothing."""
    status = NOT_CHARGED.get(issue)
    if status is None:
        return None
    return ChannelFact(
        attempt_id=attempt_id,
        status=status,
        amount=amount,
        reason=_REASONS[status],
        # a buyer is not told what PayPal suspects of him
        message="PayPal declined the payment" if status is DECLINED else message_of(issue),
        ref=ref,
    )


def read_refund(refund: Refund, *, refund_id: str, amount: Money | None = None) -> RefundFact:
    """The fact in a refund.

    Args:
        amount: the expected one; None when not known.

    Raises:
        Unclear: it is another refund, or has a status that nobody knows.
    """
    if refund.custom_id not in ("", refund_id):
        raise Unclear("the answer is about another refund")
    if amount is not None and refund.amount is not None and refund.amount.money() != amount:
        raise Unclear("the answer is about another amount")
    status = REFUNDS.get(refund.status)
    if status is None:
        raise Unclear("the refund has an unknown status")
    return RefundFact(
        refund_id=refund_id,
        status=status,
        channel_refund_no=refund.id,
        reason="REFUND_FAILED" if status is RefundChannelStatus.FAILED else "",
        occurred_at=moment(refund.update_time) or moment(refund.create_time),
        fee_returned=_fee_returned(refund),
    )


def refund_refused(issue: str, *, refund_id: str) -> RefundFact:
    """The fact in a refusal of `REFUND_REFUSED`."""
    return RefundFact(
        refund_id=refund_id,
        status=RefundChannelStatus.FAILED,
        reason=REFUND_REFUSED[issue],
        message=f"PayPal refused: {issue}",
    )


def refund_in(order: Order, refund_id: str) -> Refund | None:
    """Our refund in an order."""
    refunds = order.unit.payments.refunds
    return next((one for one in refunds if refund_id in (one.custom_id, one.invoice_id)), None)


def _fee_returned(refund: Refund) -> Money | None:
    fee = refund.seller_payable_breakdown.paypal_fee
    if fee is None or refund.amount is None or fee.currency_code != refund.amount.currency_code:
        return None
    try:
        return fee.money()
    except Unclear:
        return None


def _status(table: Mapping[str, ChannelStatus], word: str) -> ChannelStatus:
    status = table.get(word)
    if status is None:
        raise Unclear(f"PayPal says {message_of(word)[:40]!r}, which nobody knows")
    return status

"""Amounts that make simulated WeChat Pay behave in a special way: the last four digits in fen
choose. WeChat Pay itself has no sandbox and publishes no such amounts.

| amount.total ends in | what happens |
|---|---|
| 7701 | a coupon of 1.00 pays a part: `payer_total` is less than `total` |
| 7702 | after the payment `trade_state` is a word that nobody knows |
| 7703 | after the payment `trade_state` is USERPAYING for 30 s, then SUCCESS and the money moves |
| 7704 | the payment ends in PAYERROR, no money moves |
| 7705 | the payment is taken back at once: REVOKED, the money goes out again |
| 7706 | the first query answers 202 USERPAYING |
| 7707 | the first query answers 500 SYSTEM_ERROR |
| 7708 | close answers 403 RULE_LIMIT, the order stays payable |
| 7709 | the first close answers 500 SYSTEM_ERROR and closes |
| 7710 | the notice of the payment is not sent |
| 7711 | after the payment `trade_state` is ACCEPT for 30 s, then SUCCESS and the money moves |
| 7712 | the first prepay answers 500 SYSTEM_ERROR, and the order was made |

| amount.refund ends in | what happens |
|---|---|
| 7741 | PROCESSING for an hour, then SUCCESS |
| 7742 | ends in CLOSED: the money stays with the shop, a new number is needed |
| 7743 | ends in ABNORMAL: the buyer's bank refused, the money waits |
| 7744 | the first try answers 403 NOT_ENOUGH, the same number is accepted later |
| 7745 | always 403 USER_ACCOUNT_ABNORMAL |
| 7746 | the first try answers 429 FREQUENCY_LIMITED, and the refund was accepted |
| 7747 | the first try answers 500 SYSTEM_ERROR, and the refund was accepted |
| 7748 | `status` is a word that nobody knows |
"""

from __future__ import annotations

from enum import Enum


class PaymentTrigger(Enum):
    """What the amount of a payment provokes; the value is the last four digits in fen."""

    NONE = -1
    COUPON = 7701
    UNKNOWN_WORD = 7702
    USERPAYING = 7703
    PAYERROR = 7704
    REVOKED = 7705
    QUERY_PAYING = 7706
    QUERY_SYSTEM_ERROR = 7707
    CLOSE_REFUSED = 7708
    CLOSE_SYSTEM_ERROR = 7709
    NO_NOTICE = 7710
    ACCEPT = 7711
    PREPAY_SYSTEM_ERROR = 7712


class RefundTrigger(Enum):
    """What the amount of a refund provokes; the value is the last four digits in fen."""

    NONE = -1
    SLOW = 7741
    CLOSED = 7742
    ABNORMAL = 7743
    NO_BALANCE_FIRST = 7744
    ACCOUNT_ABNORMAL = 7745
    LIMITED_DONE = 7746
    SYSTEM_ERROR_DONE = 7747
    UNKNOWN_WORD = 7748


_PAYMENTS = {one.value: one for one in PaymentTrigger}
_REFUNDS = {one.value: one for one in RefundTrigger}


def of_payment(fen: int) -> PaymentTrigger:
    """The trigger of a payment of this amount."""
    return _PAYMENTS.get(fen % 10_000, PaymentTrigger.NONE)


def of_refund(fen: int) -> RefundTrigger:
    """The trigger of a refund of this amount."""
    return _REFUNDS.get(fen % 10_000, RefundTrigger.NONE)

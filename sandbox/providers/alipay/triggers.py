"""Amounts that make simulated Alipay behave in a special way: the last four digits in fen choose.
Alipay itself publishes no such amounts.

| total_amount ends in | what happens |
|---|---|
| 77.01 | paid by a pay-later product without money yet: `credit_pay_mode=creditAdvanceV2` |
| 77.02 | ends in TRADE_FINISHED at once: no refunds |
| 77.03 | after the payment `trade_status` is a word that nobody knows |
| 77.04 | closed by its deadline or by the shop, the buyer's payment succeeds 60 s later |
| 77.05 | a query of the waiting trade answers 10003 |
| 77.06 | the first query answers 20000 |
| 77.07 | the first query answers ACQ.SYSTEM_ERROR |
| 77.08 | queries carry no signature |
| 77.09 | the first close answers ACQ.SYSTEM_ERROR and closes |
| 77.10 | the notice of the payment is not sent |
| 77.11 | the first precreate answers ACQ.SYSTEM_ERROR and does nothing |

| refund_amount ends in | what happens |
|---|---|
| 77.41 | `fund_change=N`, the query knows nothing; succeeds 60 s later |
| 77.42 | succeeds; the buyer's bank sends it back an hour later |
| 77.43 | the first try answers ACQ.SELLER_BALANCE_NOT_ENOUGH, the same number succeeds later |
| 77.44 | always ACQ.TRADE_NOT_ALLOW_REFUND |
| 77.45 | the first try answers ACQ.SYSTEM_ERROR, and the money moved |
| 77.46 | the first try answers ACQ.SYSTEM_ERROR, and nothing moved |
| 77.47 | the first try answers 20000, and the money moved |
| 77.48 | 10000 with `fund_change=N` and nothing moves; the same number again moves it |
"""

from __future__ import annotations

from enum import Enum


class PaymentTrigger(Enum):
    """What the amount of a payment provokes; the value is the last four digits in fen."""

    NONE = -1
    PAY_LATER = 7701
    FINISHED_AT_ONCE = 7702
    UNKNOWN_WORD = 7703
    PAID_AFTER_CLOSE = 7704
    PAYING = 7705
    QUERY_UNAVAILABLE = 7706
    QUERY_SYSTEM_ERROR = 7707
    QUERY_UNSIGNED = 7708
    CLOSE_SYSTEM_ERROR = 7709
    NO_NOTICE = 7710
    PRECREATE_SYSTEM_ERROR = 7711


class RefundTrigger(Enum):
    """What the amount of a refund provokes; the value is the last four digits in fen."""

    NONE = -1
    LATER = 7741
    FLOWS_BACK = 7742
    NO_BALANCE_FIRST = 7743
    NOT_ALLOWED = 7744
    SYSTEM_ERROR_DONE = 7745
    SYSTEM_ERROR_NOT_DONE = 7746
    UNAVAILABLE_DONE = 7747
    NOTHING_MOVED = 7748


_PAYMENTS = {one.value: one for one in PaymentTrigger}
_REFUNDS = {one.value: one for one in RefundTrigger}


def of_payment(fen: int) -> PaymentTrigger:
    """The trigger of a payment of this amount."""
    return _PAYMENTS.get(fen % 10_000, PaymentTrigger.NONE)


def of_refund(fen: int) -> RefundTrigger:
    """The trigger of a refund of this amount."""
    return _REFUNDS.get(fen % 10_000, RefundTrigger.NONE)

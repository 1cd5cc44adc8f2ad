"""What an amount asks for: its last two digits as PayPal writes it ("12.33" and "1233" ask for 33).
Any other ending means a payment that goes well.

Captures of an order or of an authorization, by the amount that is captured:

| digits | what happens |
|---|---|
| 11 | PENDING, PENDING_REVIEW; COMPLETED after a minute |
| 12 | PENDING, ECHECK; DECLINED after a minute |
| 13 | PENDING, RECEIVING_PREFERENCE_MANDATES_MANUAL_ACTION, until somebody settles or denies it |
| 14 | the same with VERIFICATION_REQUIRED |
| 15 | the same with UNILATERAL |
| 16 | the same with BUYER_COMPLAINT |
| 17 | the same with CHARGEBACK |
| 18 | the same with INTERNATIONAL_WITHDRAWAL |
| 19 | the same with OTHER |
| 21 | the same with REFUNDED |
| 22 | the same with TRANSACTION_APPROVED_AWAITING_FUNDING |
| 23 | the same with DECLINED_BY_RISK_FRAUD_FILTERS |
| 31 | DECLINED, though HTTP says 201 |
| 32 | FAILED, though HTTP says 201 |
| 33 | 422 INSTRUMENT_DECLINED until the buyer has approved again; the order stays APPROVED |
| 34 | 422 PAYER_CANNOT_PAY |
| 35 | 422 TRANSACTION_REFUSED |
| 36 | 422 PAYER_ACCOUNT_RESTRICTED |
| 37 | 422 PAYER_ACCOUNT_LOCKED_OR_CLOSED |
| 38 | 422 COMPLIANCE_VIOLATION |
| 39 | 422 PAYEE_ACCOUNT_RESTRICTED |
| 41 | 422 PAYEE_BLOCKED_TRANSACTION |
| 42 | 422 REDIRECT_PAYER_FOR_ALTERNATE_FUNDING |
| 43 | 422 MAX_NUMBER_OF_PAYMENT_ATTEMPTS_EXCEEDED |
| 44 | 422 ORDER_EXPIRED |
| 46 | COMPLETED two seconds after the call; until then the next call is told to wait |
| 81 | COMPLETED; a minute later a chargeback takes it back |
| 82 | COMPLETED; a minute later a dispute, which the buyer wins after another minute |
| 83 | COMPLETED; a minute later a dispute, which the seller wins after another minute |

Authorizations, by the amount of the order:

| digits | what happens |
|---|---|
| 47 | PENDING, PENDING_REVIEW; CREATED after a minute |
| 48 | DENIED, though HTTP says 201 |

Refunds, by the amount that is refunded:

| digits | what happens |
|---|---|
| 61 | PENDING, ECHECK; COMPLETED after a minute |
| 62 | PENDING, ECHECK; FAILED after a minute |
| 63 | PENDING, ECHECK; CANCELLED after a minute |
| 64 | COMPLETED; FAILED after a minute |
| 65 | 422 REFUND_FAILED_INSUFFICIENT_FUNDS |
| 66 | 422 TRANSACTION_DISPUTED |
| 67 | 422 REFUND_NOT_PERMITTED_DUE_TO_CHARGEBACK |
| 68 | 422 PARTIAL_REFUND_NOT_ALLOWED, for a part |
| 69 | 422 REFUND_TIME_LIMIT_EXCEEDED |
| 71 | 422 MAX_NUMBER_OF_REFUNDS_EXCEEDED |
| 72 | COMPLETED two seconds after the call; until then the next call is told to wait |

The header `PayPal-Mock-Response: {"mock_application_codes":"X"}` makes a call of Orders v2 or
Payments v2 fail with the issue X and do nothing.
"""

from __future__ import annotations

from typing import NamedTuple

from mesh.money import Money
from sandbox.providers.paypal.amounts import last_two_digits
from sandbox.providers.paypal.objects import CaptureStatus, RefundStatus

LATER_SECONDS = 60
SLOW_SECONDS = 2.0


class CaptureCourse(NamedTuple):
    """How a capture goes on.

    Attributes:
        then: its status after LATER_SECONDS; None: it stays.
    """

    status: CaptureStatus
    reason: str = ""
    then: CaptureStatus | None = None


class RefundCourse(NamedTuple):
    """How a refund goes on.

    Attributes:
        then: its status after LATER_SECONDS; None: it stays.
    """

    status: RefundStatus
    reason: str = ""
    then: RefundStatus | None = None


def _stays_pending(reason: str) -> CaptureCourse:
    return CaptureCourse(CaptureStatus.PENDING, reason)


CAPTURES = {
    11: CaptureCourse(CaptureStatus.PENDING, "PENDING_REVIEW", CaptureStatus.COMPLETED),
    12: CaptureCourse(CaptureStatus.PENDING, "ECHECK", CaptureStatus.DECLINED),
    13: _stays_pending("RECEIVING_PREFERENCE_MANDATES_MANUAL_ACTION"),
    14: _stays_pending("VERIFICATION_REQUIRED"),
    15: _stays_pending("UNILATERAL"),
    16: _stays_pending("BUYER_COMPLAINT"),
    17: _stays_pending("CHARGEBACK"),
    18: _stays_pending("INTERNATIONAL_WITHDRAWAL"),
    19: _stays_pending("OTHER"),
    21: _stays_pending("REFUNDED"),
    22: _stays_pending("TRANSACTION_APPROVED_AWAITING_FUNDING"),
    23: _stays_pending("DECLINED_BY_RISK_FRAUD_FILTERS"),
    31: CaptureCourse(CaptureStatus.DECLINED),
    32: CaptureCourse(CaptureStatus.FAILED),
}
FUNDING_DECLINED = 33
CAPTURES_REFUSED = {
    34: "PAYER_CANNOT_PAY",
    35: "TRANSACTION_REFUSED",
    36: "PAYER_ACCOUNT_RESTRICTED",
    37: "PAYER_ACCOUNT_LOCKED_OR_CLOSED",
    38: "COMPLIANCE_VIOLATION",
    39: "PAYEE_ACCOUNT_RESTRICTED",
    41: "PAYEE_BLOCKED_TRANSACTION",
    42: "REDIRECT_PAYER_FOR_ALTERNATE_FUNDING",
    43: "MAX_NUMBER_OF_PAYMENT_ATTEMPTS_EXCEEDED",
    44: "ORDER_EXPIRED",
}
SLOW = frozenset({46, 72})
CHARGED_BACK = 81
DISPUTED = {82: "RESOLVED_BUYER_FAVOUR", 83: "RESOLVED_SELLER_FAVOUR"}

AUTHORIZATION_PENDING = 47
AUTHORIZATION_DENIED = 48

REFUNDS = {
    61: RefundCourse(RefundStatus.PENDING, "ECHECK", RefundStatus.COMPLETED),
    62: RefundCourse(RefundStatus.PENDING, "ECHECK", RefundStatus.FAILED),
    63: RefundCourse(RefundStatus.PENDING, "ECHECK", RefundStatus.CANCELLED),
    64: RefundCourse(RefundStatus.COMPLETED, "", RefundStatus.FAILED),
}
REFUNDS_REFUSED = {
    65: "REFUND_FAILED_INSUFFICIENT_FUNDS",
    66: "TRANSACTION_DISPUTED",
    67: "REFUND_NOT_PERMITTED_DUE_TO_CHARGEBACK",
    69: "REFUND_TIME_LIMIT_EXCEEDED",
    71: "MAX_NUMBER_OF_REFUNDS_EXCEEDED",
}
PART_REFUSED = 68


def course_of_capture(amount: Money) -> CaptureCourse:
    """How a capture of an amount goes on."""
    return CAPTURES.get(last_two_digits(amount), CaptureCourse(CaptureStatus.COMPLETED))


def course_of_refund(amount: Money) -> RefundCourse:
    """How a refund of an amount goes on."""
    return REFUNDS.get(last_two_digits(amount), RefundCourse(RefundStatus.COMPLETED))


def slow_seconds(amount: Money) -> float:
    """How long a call about an amount works before it does anything."""
    return SLOW_SECONDS if last_two_digits(amount) in SLOW else 0

"""What PayPal keeps: orders, authorizations, captures, refunds and disputes. Each is replaced by a
changed copy, never changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from mesh.money import Money


class Intent(StrEnum):
    """What a shop means to do with an approved order."""

    CAPTURE = "CAPTURE"
    AUTHORIZE = "AUTHORIZE"


class OrderStatus(StrEnum):
    """Of an order. COMPLETED says that the shop made its call, not that money moved."""

    CREATED = "CREATED"
    PAYER_ACTION_REQUIRED = "PAYER_ACTION_REQUIRED"
    APPROVED = "APPROVED"
    COMPLETED = "COMPLETED"
    VOIDED = "VOIDED"


class CaptureStatus(StrEnum):
    """Of a capture."""

    PENDING = "PENDING"
    COMPLETED = "COMPLETED"
    DECLINED = "DECLINED"
    FAILED = "FAILED"
    PARTIALLY_REFUNDED = "PARTIALLY_REFUNDED"
    REFUNDED = "REFUNDED"


PAID = frozenset(
    {CaptureStatus.COMPLETED, CaptureStatus.PARTIALLY_REFUNDED, CaptureStatus.REFUNDED}
)
# captures that use up their authorization, and the invoice id of their order
COUNTED = PAID | {CaptureStatus.PENDING}


class AuthorizationStatus(StrEnum):
    """Of an authorization."""

    PENDING = "PENDING"
    CREATED = "CREATED"
    DENIED = "DENIED"
    PARTIALLY_CAPTURED = "PARTIALLY_CAPTURED"
    CAPTURED = "CAPTURED"
    VOIDED = "VOIDED"


LET_GO = frozenset({AuthorizationStatus.DENIED, AuthorizationStatus.VOIDED})


class RefundStatus(StrEnum):
    """Of a refund."""

    PENDING = "PENDING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """An order of one purchase unit.

    Attributes:
        unit: the purchase unit as it was sent, for answers.
        has_source: it was made with a payment source, which decides the first status and the
            relation of the link for the buyer.
        funding_refused: the buyer's means of payment was declined and he has not chosen another.
        funding_changed: he has.
        approval_reversed: it was told that the approval lapsed.
    """

    id: str
    intent: Intent
    status: OrderStatus
    amount: Money
    unit: dict[str, Any]
    reference_id: str
    custom_id: str
    invoice_id: str
    return_url: str
    cancel_url: str
    has_source: bool
    capture_on_approval: bool
    created_at: datetime
    updated_at: datetime
    expires_at: datetime
    payer_id: str = ""
    funding_refused: bool = False
    funding_changed: bool = False
    approval_reversed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorization:
    """Money that is held.

    Attributes:
        honored_until: the end of the days in which funds are certain.
        replaced: a later authorization took its place.
        original: the amount of the first authorization of a chain.
    """

    id: str
    order_id: str
    status: AuthorizationStatus
    reason: str
    amount: Money
    original: Money
    custom_id: str
    invoice_id: str
    created_at: datetime
    updated_at: datetime
    honored_until: datetime
    expires_at: datetime
    is_second: bool = False
    replaced: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """A payment.

    Attributes:
        reason: why it is pending or declined.
        reversed: a chargeback took it back.
        disputed: a dispute about it is open.
    """

    id: str
    order_id: str
    authorization_id: str
    status: CaptureStatus
    reason: str
    amount: Money
    custom_id: str
    invoice_id: str
    is_final: bool
    created_at: datetime
    updated_at: datetime
    reversed: bool = False
    disputed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Refund:
    """A refund of one capture.

    Attributes:
        total: what of the capture is refunded with it.
        was_completed: it had success; one that is not COMPLETED any more was taken back.
    """

    id: str
    capture_id: str
    status: RefundStatus
    reason: str
    amount: Money
    total: Money
    custom_id: str
    invoice_id: str
    note: str
    created_at: datetime
    updated_at: datetime
    was_completed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispute:
    """A buyer's dispute about a capture.

    Attributes:
        outcome: empty while it is open.
    """

    id: str
    capture_id: str
    amount: Money
    outcome: str
    created_at: datetime
    updated_at: datetime

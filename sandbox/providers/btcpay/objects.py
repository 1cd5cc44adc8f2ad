"""What BTCPay Server keeps: invoices with their payments, pull payments with their payouts. Each is
replaced by a changed copy, never changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from mesh.money import Money

SATOSHI = 100_000_000  # in a coin


class Status(StrEnum):
    """Of an invoice."""

    NEW = "New"
    PROCESSING = "Processing"
    SETTLED = "Settled"
    EXPIRED = "Expired"
    INVALID = "Invalid"


class Additional(StrEnum):
    """What the status leaves out."""

    NONE = "None"
    PAID_PARTIAL = "PaidPartial"
    PAID_OVER = "PaidOver"
    PAID_LATE = "PaidLate"
    MARKED = "Marked"


class PayoutState(StrEnum):
    """Of a payout."""

    AWAITING_APPROVAL = "AwaitingApproval"
    AWAITING_PAYMENT = "AwaitingPayment"
    IN_PROGRESS = "InProgress"
    COMPLETED = "Completed"
    CANCELLED = "Cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """Coins that were sent to an invoice's address.

    Attributes:
        is_seen: the invoice was still watched.
    """

    id: str
    satoshi: int
    at: datetime
    is_late: bool
    is_seen: bool = True
    is_settled: bool = False
    is_invalid: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Invoice:
    """An invoice.

    Attributes:
        amount: None for one that takes any amount.
        checkout: the settings as they are answered.
        due_satoshi: what is to be paid; 0 for one that takes any amount.
    """

    id: str
    amount: Money | None
    currency: str
    metadata: dict[str, Any]
    checkout: dict[str, Any]
    due_satoshi: int
    status: Status
    additional: Additional
    created_at: datetime
    expires_at: datetime
    monitored_until: datetime
    payments: tuple[Payment, ...] = ()
    is_archived: bool = False

    @property
    def order_id(self) -> str:
        """The shop's id; "" without one."""
        return str(self.metadata.get("orderId") or "")

    @property
    def paid_satoshi(self) -> int:
        """What was seen, settled or not."""
        return sum(one.satoshi for one in self.payments if one.is_seen and not one.is_invalid)


@dataclass(frozen=True, slots=True, kw_only=True)
class PullPayment:
    """A claim for whoever has its link.

    Attributes:
        in_coins: the amount is written in coins.
    """

    id: str
    invoice_id: str
    name: str
    description: str
    amount: Money
    in_coins: bool
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Payout:
    """A claim that was made."""

    id: str
    pull_payment_id: str
    state: PayoutState
    destination: str
    created_at: datetime

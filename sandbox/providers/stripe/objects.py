"""The objects of the simulated Stripe, and where they are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from mesh.times import milliseconds
from sandbox.providers.stripe.errors import missing
from sandbox.providers.stripe.triggers import Method

T = TypeVar("T")


def seconds(moment: datetime) -> int:
    """Whole seconds since 1970."""
    return milliseconds(moment) // 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentIntent:
    """A payment. Amounts are in Stripe's smallest unit, moments in seconds since 1970.

    Attributes:
        method: what the buyer pays with. payment_method: its id.
        session: the Checkout Session that made it, or "".
    """

    id: str
    client_secret: str
    created: int
    amount: int
    currency: str
    capture_method: str
    metadata: Mapping[str, str]
    status: str = "requires_payment_method"
    amount_capturable: int = 0
    amount_received: int = 0
    automatic: str | None = None  # `allow_redirects` of automatic payment methods
    payment_method_types: tuple[str, ...] = ("card",)
    payment_method: str | None = None
    method: Method | None = None
    latest_charge: str | None = None
    next_action: Mapping[str, Any] | None = None
    return_url: str | None = None
    last_payment_error: Mapping[str, Any] | None = None
    canceled_at: int | None = None
    cancellation_reason: str | None = None
    off_session: bool = False
    session: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)  # shown as they were sent

    @property
    def own_id(self) -> str:
        """The shop's id."""
        return self.metadata.get("attempt_id", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """One try of a payment."""

    id: str
    created: int
    payment_intent: str
    payment_method: str
    method: Method
    amount: int
    currency: str
    metadata: Mapping[str, str]
    status: str  # succeeded, pending, failed
    captured: bool = False
    amount_captured: int = 0
    amount_refunded: int = 0
    capture_before: int | None = None
    balance_transaction: str | None = None
    failure_code: str | None = None
    failure_message: str | None = None
    dispute: str | None = None
    released: bool = False  # the authorization, or its rest, was given back

    @property
    def rest_released(self) -> int:
        """The part of the authorization that was given back without having been captured."""
        return self.amount - self.amount_captured if self.released else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Refund:
    """A refund."""

    id: str
    created: int
    charge: str
    payment_intent: str
    amount: int
    currency: str
    reason: str | None
    metadata: Mapping[str, str]
    status: str
    pending_reason: str | None = None
    failure_reason: str | None = None
    balance_transaction: str | None = None
    failure_balance_transaction: str | None = None

    @property
    def is_moved(self) -> bool:
        """True when the money has left."""
        return self.status not in {"pending", "requires_action", "failed", "canceled"}


@dataclass(frozen=True, slots=True, kw_only=True)
class BalanceTransaction:
    """A row of the balance, in the settlement currency."""

    id: str
    created: int
    amount: int
    fee: int
    currency: str
    kind: str
    reporting_category: str
    source: str
    exchange_rate: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispute:
    """A dispute. An inquiry takes no money."""

    id: str
    created: int
    charge: str
    payment_intent: str
    amount: int
    currency: str
    reason: str
    status: str
    balance_transactions: tuple[str, ...] = ()

    @property
    def is_inquiry(self) -> bool:
        """True while no money was taken."""
        return self.status.startswith("warning_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A Checkout Session. Its PaymentIntent is made when the buyer first tries to pay."""

    id: str
    created: int
    amount: int
    currency: str
    expires_at: int
    success_url: str
    cancel_url: str | None
    client_reference_id: str | None
    metadata: Mapping[str, str]
    payment: Mapping[str, Any]  # `payment_intent_data`
    payment_method_types: tuple[str, ...]
    items: tuple[str, ...]  # what is bought, for the page
    status: str = "open"
    payment_intent: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What was told. `data` is the object as it was then."""

    id: str
    created: int
    kind: str
    data: Mapping[str, Any]
    request: str | None
    idempotency_key: str | None


class Table(dict[str, T]):
    """Objects of one kind by id, oldest first."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def need(self, ref: str, *, param: str = "id") -> T:
        """The object.

        Raises:
            StripeError: there is none; 404 for one that a path names, else 400.
        """
        found = self.get(ref)
        if found is None:
            raise missing(self.kind, ref, param=param)
        return found


class Store:
    """All objects of the account."""

    def __init__(self) -> None:
        self.payment_intents: Table[PaymentIntent] = Table("payment_intent")
        self.charges: Table[Charge] = Table("charge")
        self.refunds: Table[Refund] = Table("refund")
        self.balance: Table[BalanceTransaction] = Table("balance_transaction")
        self.disputes: Table[Dispute] = Table("dispute")
        self.sessions: Table[Session] = Table("checkout.session")
        self.events: Table[Event] = Table("event")

    def refunds_of(self, charge: str) -> list[Refund]:
        """The refunds of a charge, oldest first."""
        return [refund for refund in self.refunds.values() if refund.charge == charge]

"""What the channel keeps true: a transaction leaves PENDING once, and money moves only on the way to CAPTURED.

    PENDING -> CAPTURED | DECLINED | FAILED | CLOSED

An attempt id that was closed before the channel knew it is CLOSED from its first moment (a tombstone): it can never capture.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from mesh.money import Money


class Status(StrEnum):
    """Where a transaction stands."""

    PENDING = "PENDING"    # waits for the payer
    CAPTURED = "CAPTURED"  # money moved
    DECLINED = "DECLINED"  # the issuer or the payer said no; nothing moved
    FAILED = "FAILED"      # the channel failed; nothing moved
    CLOSED = "CLOSED"      # closed by the shop or by its deadline; nothing moved, nothing ever will


class Kind(StrEnum):
    """What a transaction is."""

    CHARGE = "CHARGE"        # a card, decided at once
    CHECKOUT = "CHECKOUT"    # a cashier page, decided by a person
    TOMBSTONE = "TOMBSTONE"  # an attempt id that was closed before anything else came


NEXT: dict[Status, frozenset[Status]] = {
    Status.PENDING: frozenset({Status.CAPTURED, Status.DECLINED, Status.FAILED, Status.CLOSED}),
    Status.CAPTURED: frozenset(),
    Status.DECLINED: frozenset(),
    Status.FAILED: frozenset(),
    Status.CLOSED: frozenset(),
}


class Refusal(Exception):
    """The channel refuses a request. Nothing was recorded.

    Attributes:
        code: stable, lower_snake_case; `error.code` on the wire.
        http_status: of the answer.
    """

    code = "invalid_request"
    http_status = 400


class InvalidRequest(Refusal):
    """The request breaks a rule of the API."""


class Unauthorized(Refusal):
    """The API key is missing or wrong."""

    code = "unauthorized"
    http_status = 401


class TransactionNotFound(Refusal):
    """The channel does not know this attempt id."""

    code = "not_found"
    http_status = 404


class AttemptReused(Refusal):
    """The attempt id was used for something else: another amount, currency or kind of payment."""

    code = "conflict"
    http_status = 409


class OutcomeDiffers(Refusal):
    """The transaction ended otherwise; another outcome is not signed."""

    code = "conflict"
    http_status = 409


class SignatureDisabled(Refusal):
    """Outcomes by signature are for development."""

    code = "disabled"
    http_status = 403


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a transaction ends.

    Attributes:
        decline_code: why no money moved, lower_snake_case; "" when captured.
        message: for people.
    """

    status: Status
    decline_code: str = ""
    message: str = ""


CAPTURED = Outcome(status=Status.CAPTURED, message="captured")
CLOSED_BY_SHOP = Outcome(status=Status.CLOSED, decline_code="closed", message="closed by the shop")
EXPIRED = Outcome(status=Status.CLOSED, decline_code="expired", message="the deadline passed before anybody paid")
REFUSED_BY_PAYER = Outcome(status=Status.DECLINED, decline_code="refused_by_payer", message="the payer refused at the cashier")
REFUSED_BY_SIGNATURE = Outcome(status=Status.DECLINED, decline_code="card_declined", message="declined on request of a signature")


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """What became of one attempt id.

    Attributes:
        attempt_id: the shop's id, our idempotency key.
        trade_no: our own number.
        amount: None for a tombstone only.
        finished_at: when it left PENDING.
        cashier_token: unguessable; whoever has it may press the buttons.
    """

    attempt_id: str
    kind: Kind
    trade_no: str
    status: Status
    amount: Money | None
    created_at: datetime
    finished_at: datetime | None = None
    expires_at: datetime | None = None
    decline_code: str = ""
    message: str = ""
    card_brand: str = ""
    card_last4: str = ""
    subject: str = ""
    return_url: str = ""
    cashier_token: str = ""

    @property
    def is_final(self) -> bool:
        """True when nothing can change any more."""
        return not NEXT[self.status]

    def is_due(self, now: datetime) -> bool:
        """True when it waits for a payer whose time is over."""
        return not self.is_final and self.expires_at is not None and now >= self.expires_at

    def finish(self, outcome: Outcome, *, at: datetime) -> Transaction:
        """The transaction after its end.

        Raises:
            OutcomeDiffers: it ended before.
        """
        if outcome.status not in NEXT[self.status]:
            raise OutcomeDiffers(f"the transaction is {self.status}, not open")
        return replace(self, status=outcome.status, decline_code=outcome.decline_code, message=outcome.message, finished_at=at)

    def must_match(self, *, kind: Kind, amount: Money) -> None:
        """Checks a repetition. A tombstone matches everything: that is its use.

        Raises:
            AttemptReused: the repetition is not the same request.
        """
        if self.kind is Kind.TOMBSTONE:
            return
        if self.kind is not kind or self.amount != amount:
            raise AttemptReused(f"attempt_id {self.attempt_id} was used for a {self.kind.lower()} of {self.amount}")

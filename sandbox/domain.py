"""Defines the invariants of the channel: a transaction leaves PENDING once, and money moves only by
a step to CAPTURED and by a refund.

    PENDING -> CAPTURED | DECLINED | FAILED | CLOSED
    CLOSED, DECLINED -> CAPTURED as a misbehaviour only
    refund PENDING -> SUCCESS | FAILED                      SUCCESS -> REVERSED (it bounced)

An attempt id that was closed before the channel knew it is CLOSED from the start (a tombstone): it
can never capture. Refunds never exceed the captured amount.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from mesh.money import Money


class Status(StrEnum):
    """The state of a transaction."""

    PENDING = "PENDING"  # waits for the payer
    CAPTURED = "CAPTURED"  # money moved
    DECLINED = "DECLINED"  # the issuer or the payer said no; nothing moved
    FAILED = "FAILED"  # the channel failed; nothing moved
    CLOSED = "CLOSED"  # closed by the shop or by its deadline; nothing moved, nothing ever will


class Kind(StrEnum):
    """The kind of a transaction."""

    CHARGE = "CHARGE"  # a card, decided at once
    CHECKOUT = "CHECKOUT"  # a cashier page, decided by a person
    TOMBSTONE = "TOMBSTONE"  # an attempt id that was closed before anything else came


class PayMethod(StrEnum):
    """What a person may choose on the cashier page. All of them do the same."""

    CARD = "card"
    WALLET = "wallet"
    BANK_TRANSFER = "bank_transfer"


NEXT: dict[Status, frozenset[Status]] = {
    Status.PENDING: frozenset({Status.CAPTURED, Status.DECLINED, Status.FAILED, Status.CLOSED}),
    Status.CAPTURED: frozenset(),
    Status.DECLINED: frozenset(),
    Status.FAILED: frozenset(),
    Status.CLOSED: frozenset(),
}


class RefundStatus(StrEnum):
    """The state of a refund."""

    PENDING = "PENDING"  # accepted; decided later
    SUCCESS = "SUCCESS"  # the money left
    FAILED = "FAILED"  # refused; nothing left
    REVERSED = "REVERSED"  # it left and came back


NEXT_REFUND: dict[RefundStatus, frozenset[RefundStatus]] = {
    RefundStatus.PENDING: frozenset({RefundStatus.SUCCESS, RefundStatus.FAILED}),
    RefundStatus.SUCCESS: frozenset({RefundStatus.REVERSED}),
    RefundStatus.FAILED: frozenset(),
    RefundStatus.REVERSED: frozenset(),
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


class Conflict(Refusal):
    """The request contradicts what is recorded."""

    code = "conflict"
    http_status = 409


class AttemptReused(Conflict):
    """The attempt id was used for something else: another amount, currency or kind of payment."""


class RefundNotFound(Refusal):
    """The channel does not know this refund id."""

    code = "not_found"
    http_status = 404


class RefundReused(Conflict):
    """The refund id was used for another amount or attempt."""


class NotClosable(Refusal):
    """This payment cannot be closed: it may still be paid."""

    code = "not_closable"
    http_status = 409


class OutcomeDiffers(Conflict):
    """The transaction ended otherwise; another outcome is not signed."""


class Disabled(Refusal):
    """This is for development."""

    code = "disabled"
    http_status = 403


class SignatureDisabled(Disabled):
    """Outcomes by signature are for development."""


class StatementNotReady(Refusal):
    """The day is not over."""

    code = "not_ready"
    http_status = 409


class AlreadyPlanted(Conflict):
    """The statement is spoiled already, and stays as it is."""


class Breakdown(Refusal):
    """The channel broke down, on demand."""

    code = "internal"
    http_status = 500


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a transaction ends.

    Attributes:
        decline_code: why no money moved, lower_snake_case; "" when captured.
        message: for people.
    """

    status: Status
    decline_code: str = ""
    message: str = ""


CAPTURED = Outcome(Status.CAPTURED, message="captured")
CLOSED_BY_SHOP = Outcome(Status.CLOSED, "closed", "cancelled before it was paid")
EXPIRED = Outcome(Status.CLOSED, "expired", "the deadline passed before anybody paid")
REFUSED_BY_PAYER = Outcome(Status.DECLINED, "refused_by_payer", "the payer refused at the cashier")
REFUSED_BY_BANK = Outcome(Status.DECLINED, "card_declined", "declined by the bank, later")
DECLINED_FIRST = Outcome(Status.DECLINED, "card_declined", "declined, it seems")
REFUSED_BY_SIGNATURE = Outcome(
    Status.DECLINED, "card_declined", "declined on request of a signature"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """The transaction of one attempt id.

    Attributes:
        attempt_id: the shop's id, our idempotency key.
        trade_no: our own number.
        amount: the requested amount; None only for a tombstone.
        captured: the captured amount, once captured.
        fee: the channel's fee.
        finished_at: when it left PENDING, or was paid late.
        cashier_token: unguessable; it authorizes the buttons of the page.
        refund_card: the name of the behaviour of its card's refunds, or "".
        duplicate_of: the attempt id under which the same buyer was charged first, or "".
        merchant_name, description: for the payer, as the shop wrote them, or "".
        pay_method: what the payer chose on the cashier page; None before, and without a page.
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
    captured: Money | None = None
    fee: Money | None = None
    refund_card: str = ""
    duplicate_of: str = ""
    merchant_name: str = ""
    description: str = ""
    pay_method: PayMethod | None = None

    @property
    def is_final(self) -> bool:
        """True when it has left PENDING."""
        return not NEXT[self.status]

    @property
    def shown_amount(self) -> Money | None:
        """The amount that was or will be captured."""
        return self.captured or self.amount

    def is_due(self, now: datetime) -> bool:
        """True when it waits for a payer past its deadline."""
        return not self.is_final and self.expires_at is not None and now >= self.expires_at

    def finish(
        self,
        outcome: Outcome,
        *,
        at: datetime,
        captured: Money | None = None,
        fee: Money | None = None,
    ) -> Transaction:
        """The transaction after its end.

        Args:
            captured: the captured amount if it differs from the requested one.
            fee: of a capture; None: nothing.

        Raises:
            OutcomeDiffers: it ended before.
        """
        if outcome.status not in NEXT[self.status]:
            raise OutcomeDiffers(f"the transaction is {self.status}, not open")
        ended = replace(
            self,
            status=outcome.status,
            decline_code=outcome.decline_code,
            message=outcome.message,
            finished_at=at,
        )
        return _taken(ended, captured, fee) if outcome.status is Status.CAPTURED else ended

    def pay_after_all(
        self, *, at: datetime, captured: Money | None = None, fee: Money | None = None
    ) -> Transaction:
        """Captures after a final outcome without money movement was reported.

        Raises:
            OutcomeDiffers: it is open, or captured.
        """
        if self.status not in (Status.CLOSED, Status.DECLINED) or self.amount is None:
            raise OutcomeDiffers(f"the transaction is {self.status}")
        paid = replace(
            self,
            status=Status.CAPTURED,
            decline_code="",
            message="captured after all",
            finished_at=at,
        )
        return _taken(paid, captured, fee)

    def must_match(self, *, kind: Kind, amount: Money) -> None:
        """Checks a repetition. A tombstone matches every request by design.

        Raises:
            AttemptReused: the repetition is not the same request.
        """
        if self.kind is Kind.TOMBSTONE:
            return
        if self.kind is not kind or self.amount != amount:
            raise AttemptReused(
                f"attempt_id {self.attempt_id} was used for a {self.kind.lower()} of {self.amount}"
            )


def _taken(transaction: Transaction, captured: Money | None, fee: Money | None) -> Transaction:
    taken = captured or transaction.amount
    if taken is None:
        raise OutcomeDiffers("a tombstone never captures")
    return replace(transaction, captured=taken, fee=fee or Money.zero(taken.currency))


@dataclass(frozen=True, slots=True, kw_only=True)
class Refund:
    """One return of money, under the shop's id.

    Attributes:
        refund_no: our own number.
        reason: the shop's words.
        code: why no money left, or why it came back, lower_snake_case; "" otherwise.
        fee_returned: the part of the fee that went back with it; None until it was a SUCCESS.
        finished_at: when it left PENDING.
    """

    refund_id: str
    refund_no: str
    attempt_id: str
    amount: Money
    reason: str
    status: RefundStatus
    created_at: datetime
    code: str = ""
    message: str = ""
    fee_returned: Money | None = None
    finished_at: datetime | None = None
    reversed_at: datetime | None = None

    @property
    def occurred_at(self) -> datetime:
        """The time of the present state."""
        return self.reversed_at or self.finished_at or self.created_at

    def to(
        self,
        status: RefundStatus,
        *,
        at: datetime,
        code: str = "",
        message: str = "",
        fee_returned: Money | None = None,
    ) -> Refund:
        """The refund after a step.

        Raises:
            OutcomeDiffers: there is no such step.
        """
        if status not in NEXT_REFUND[self.status]:
            raise OutcomeDiffers(f"the refund is {self.status}")
        changed = replace(self, status=status, code=code, message=message)
        if status is RefundStatus.REVERSED:
            return replace(changed, reversed_at=at)  # the returned part of the fee stays returned
        return replace(changed, finished_at=at, fee_returned=fee_returned)

    def must_match(self, *, attempt_id: str, amount: Money) -> None:
        """Checks a repetition.

        Raises:
            RefundReused: it is not the same request.
        """
        if (self.attempt_id, self.amount) != (attempt_id, amount):
            raise RefundReused(
                f"refund_id {self.refund_id} was used for {self.amount} of {self.attempt_id}"
            )


def fee_of(captured: Money, *, basis_points: int) -> Money:
    """The channel's fee for a capture; rounded half up."""
    return Money((captured.minor * basis_points + 5_000) // 10_000, captured.currency)


def fee_share(fee: Money, *, captured: Money, refunded: Money, returned: Money) -> Money:
    """The part of a fee that goes back when `refunded` is out in all and `returned` of the fee went
    back before. Cumulative: the parts of a whole refund add up to the fee exactly, also when a
    refund on the way bounced; its part stays returned."""
    return Money(
        max(0, fee.minor * refunded.minor // captured.minor - returned.minor), fee.currency
    )

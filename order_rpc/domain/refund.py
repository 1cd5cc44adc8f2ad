"""A refund of an order as order_rpc sees it: asked for here or directly at payment_rpc, carried out
there, and reported by snapshots of the payment.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from mesh.money import Money
from mesh.state_machine import Described, StateMachine
from order_rpc.domain.errors import RefundStateInvalid


class RefundState(Described):
    """Where a refund stands."""

    REQUESTED = "REQUESTED", "waits for the shop"
    APPROVED = "APPROVED", "payment_rpc carries it out"
    REJECTED = "REJECTED", "the shop said no"
    SUCCEEDED = "SUCCEEDED", "the money went back"
    FAILED = "FAILED", "refused"
    BOUNCED = "BOUNCED", "it went back and came back again"


R = RefundState
REFUND_STATES = StateMachine(
    "Refund of an order",
    RefundState,
    (
        (R.REQUESTED, "the shop (or a rule) allowed it; payment_rpc is asked", R.APPROVED),
        (R.REQUESTED, "the shop said no", R.REJECTED),
        (R.APPROVED, "payment_rpc says that the money went back", R.SUCCEEDED),
        (R.APPROVED, "payment_rpc or its channel refused it", R.FAILED),
        (R.APPROVED, "it went back and came back; the news in between was overtaken", R.BOUNCED),
        (R.FAILED, "evidence that the money left after all", R.SUCCEEDED),
        (R.FAILED, "evidence that it left, and it came back", R.BOUNCED),
        (R.SUCCEEDED, "it came back from the buyer's bank", R.BOUNCED),
    ),
    introduction="A refund as order_rpc sees it: asked for there or straight at payment_rpc, told "
    "by snapshots, of which the newest may skip steps.",
)
# of an order, not counting those that the shop rejected: as many as payment_rpc makes of a payment
REFUNDS_MAX = 100
HOLDS_MONEY = frozenset({R.APPROVED, R.SUCCEEDED})
HOLDS_UNITS = frozenset({R.APPROVED, R.SUCCEEDED, R.BOUNCED})  # a bounce sends money, not goods
MONEY_LEFT = frozenset({R.SUCCEEDED, R.BOUNCED})


class RefundStatus(StrEnum):
    """Where the refunds of an order stand, all together."""

    NONE = "NONE"  # nobody asked for one, or none came to anything
    REQUESTED = "REQUESTED"  # one waits for the shop
    PENDING = "PENDING"  # money is on its way back
    PARTIAL = "PARTIAL"  # a part went back
    REFUNDED = "REFUNDED"  # everything went back
    FAILED = "FAILED"  # one failed and nothing went back
    BOUNCED = "BOUNCED"  # money came back again: a person looks at it


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundLine:
    """Units of a product that go back."""

    sku_id: str
    quantity: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundSnapshot:
    """What payment_rpc knows of one refund."""

    refund_id: str
    request_id: str  # "" when nobody here asked
    state: RefundState
    amount: Money
    reason: str  # why it failed or bounced


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundRequest:
    """One refund of an order, identified by (merchant_id, order_id, request_id)."""

    merchant_id: str
    order_id: str
    request_id: str
    payment_id: str
    state: RefundState
    amount: Money
    lines: tuple[RefundLine, ...]  # by SKU; empty for a refund of an amount
    reason: str
    refund_id: str  # payment_rpc's id; "" before
    failure: str  # why it failed, was rejected or bounced
    # it is of the payment that paid the order: it counts in the statistics and brings goods back
    of_sale: bool
    version: int
    succeeded_at: datetime | None
    bounced_at: datetime | None
    created_at: datetime
    updated_at: datetime

    @classmethod
    def create(
        cls,
        *,
        merchant_id: str,
        order_id: str,
        request_id: str,
        payment_id: str,
        state: RefundState,
        amount: Money,
        at: datetime,
        lines: tuple[RefundLine, ...] = (),
        reason: str = "",
        refund_id: str = "",
    ) -> RefundRequest:
        """A new refund, whose money has not moved."""
        return cls(
            merchant_id=merchant_id,
            order_id=order_id,
            request_id=request_id,
            payment_id=payment_id,
            state=state,
            amount=amount,
            lines=lines,
            reason=reason,
            refund_id=refund_id,
            failure="",
            of_sale=False,
            version=1,
            succeeded_at=None,
            bounced_at=None,
            created_at=at,
            updated_at=at,
        )

    def to(
        self,
        state: RefundState,
        *,
        at: datetime,
        failure: str = "",
        refund_id: str = "",
        of_sale: bool = False,
    ) -> RefundRequest:
        """This refund after a step.

        Raises:
            RefundStateInvalid: the table has no such step.
        """
        if not REFUND_STATES.allows(self.state, state):
            raise RefundStateInvalid(
                f"a refund in state {self.state} does not become {state}", state=self.state
            )
        left_now = state in MONEY_LEFT and self.succeeded_at is None
        return replace(
            self,
            state=state,
            failure=failure,
            refund_id=refund_id or self.refund_id,
            of_sale=self.of_sale or (left_now and of_sale),
            version=self.version + 1,
            succeeded_at=at if left_now else self.succeeded_at,
            bounced_at=at if state is R.BOUNCED else self.bounced_at,
            updated_at=at,
        )

    def named(self, refund_id: str, *, at: datetime) -> RefundRequest:
        """This refund under its id at payment_rpc; itself when that is known."""
        return (
            self
            if refund_id == self.refund_id
            else replace(self, refund_id=refund_id, version=self.version + 1, updated_at=at)
        )

    def apply(self, reported: RefundSnapshot, *, of_sale: bool, at: datetime) -> RefundRequest:
        """This refund after a report of payment_rpc; itself when that is old or changes nothing."""
        if REFUND_STATES.allows(self.state, reported.state) and self.state is not R.REQUESTED:
            return self.to(
                reported.state,
                at=at,
                failure=reported.reason,
                refund_id=reported.refund_id,
                of_sale=of_sale,
            )
        return self.named(reported.refund_id, at=at) if self.state is R.APPROVED else self


def unknown_refund(
    reported: RefundSnapshot, *, merchant_id: str, order_id: str, payment_id: str, at: datetime
) -> RefundRequest:
    """A refund that somebody asked payment_rpc for directly: APPROVED, and more when the same
    snapshot says so.
    """
    return RefundRequest.create(
        merchant_id=merchant_id,
        order_id=order_id,
        request_id=reported.refund_id,
        payment_id=payment_id,
        state=R.APPROVED,
        amount=reported.amount,
        at=at,
        refund_id=reported.refund_id,
    )


def total(
    requests: Iterable[RefundRequest], states: frozenset[RefundState], *, currency: str
) -> Money:
    """Sum of the refunds in some states."""
    return sum(
        (request.amount for request in requests if request.state in states), Money.zero(currency)
    )


def status_of(
    requests: Sequence[RefundRequest], *, captured: Money, refunded: Money
) -> RefundStatus:
    """What all refunds of the payment that paid the order mean together."""
    states = {request.state for request in requests}
    if captured.minor > 0 and refunded >= captured:
        return RefundStatus.REFUNDED
    for state, status in (
        (R.BOUNCED, RefundStatus.BOUNCED),
        (R.APPROVED, RefundStatus.PENDING),
        (R.REQUESTED, RefundStatus.REQUESTED),
    ):
        if state in states:
            return status
    if refunded.minor > 0:
        return RefundStatus.PARTIAL
    return RefundStatus.FAILED if R.FAILED in states else RefundStatus.NONE
